//! What runs out, and what is counted.

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{PMD_SIZE, PUD_SIZE, X86_64};
use hugewalk::fault::{Access, FaultError};
use hugewalk::file::FileError;
use hugewalk::gup::GupFlags;
use hugewalk::mm::{Backing, MapError, MapFlags, MapRequest, Placement, RemapTo};
use hugewalk::vma::Protection;

use super::Scenario;
use super::bench::{BASE, Bench, dont_need, page};
use super::expected::{MISTAKE, NONE, Row};
use super::other::{USUAL, fault};
use super::reservations::may_get;
use super::stores::row;
use crate::lab::{Lab, Property, Speculator, Walker};

/// What walkers are told.
const WALKED: &[Property] = &[Property::I1, Property::I3];

pub(super) const ROWS: &[Row] = &[
    row!(
        "S16",
        "somebody takes a reference to the page that holds a table, for a moment, not knowing what it is; its only user unmaps (CVE-2024-57883)",
        speculate,
        by USUAL
    ),
    Row {
        scenario: Scenario {
            id: "S16:page-reference",
            what: "S16, and users of a table are counted by references to its page",
            judged: USUAL,
            build: |bench| {
                bench.protocol(|settings| Some(settings.counting_references()));
                speculate(bench);
            },
        },
        verdicts: MISTAKE,
    },
    row!("S29", "a fault, and for a while there is no memory", no_tables, by USUAL),
    row!(
        "S29/mremap",
        "a mapping moves, another process shares, and for a while there is no memory",
        no_memory_to_move,
        by USUAL
    ),
    row!(
        "S29/fork",
        "a private mapping is copied by fork, its file is truncated, and for a while there is no memory",
        no_memory_for_a_child,
        by USUAL
    ),
    row!(
        "S29/munmap",
        "a part is unmapped, another process faults, and for a while there is no memory",
        no_memory_to_unmap,
        by USUAL
    ),
    row!(
        "S29/mmap",
        "a mapping takes the place of a part of another, another process faults, and for a while there is no memory",
        no_memory_to_map,
        by USUAL
    ),
    row!(
        "S29/fallocate",
        "a page is preallocated, another processor faults and punches, and for a while there is no memory",
        no_memory_to_allocate,
        by USUAL
    ),
    row!("S29/no-pages", "a fault, and for a while the pool is empty", no_pages, by USUAL),
    row!(
        "S31",
        "A is in GUP-fast; B takes the page away from the file, and another file gets it",
        page_goes,
        by WALKED
    ),
    row!(
        "S31:entry-not-confirmed",
        "S31, and A does not look at the entry again",
        page_goes,
        by WALKED,
        without "confirm-entry"
    ),
    row!(
        "S32",
        "a fault of a private mapping finds its page within the file, which is truncated",
        fill_and_truncate,
        by USUAL
    ),
    row!(
        "S32:size-once",
        "S32, and the fault does not look at the size again with the table locked",
        fill_and_truncate,
        by USUAL,
        without "recheck-size"
    ),
    row!(
        "S32/copy",
        "a store to a private mapping copies the file's page, which is truncated",
        copy_and_truncate,
        by USUAL
    ),
    row!(
        "S33",
        "a hole is punched in a mapping in which one fault comes after the other",
        punch_among_faults,
        by USUAL
    ),
    row!(
        "S33:lock-let-go",
        "S33, and who punches lets the VMA lock go that it has waited for, and tries it anew",
        punch_among_faults,
        by USUAL,
        without "keep-lock"
    ),
];

fn speculate(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let same = process.clone();
    bench.cpu("get_page, put_page", move |task| Speculator::new(&process, page(0)).hold(task));
    bench.cpu("munmap", move |task| same.munmap(task, BASE, 512 * PMD_SIZE).expect("aligned"));
}

/// Does something that may find no memory, and must not fail otherwise.
fn unless_there_is_none<T, E: std::fmt::Display + Copy + 'static>(
    ran_out: fn(&E) -> bool,
    work: impl FnOnce() -> Result<T, E>,
) -> Option<T> {
    match Lab::with_failing_heap(work) {
        Ok(done) => Some(done),
        Err(error) if ran_out(&error) => None,
        Err(error) => {
            crate::explore::violation(format!("a call fails: {error}"), error);
            None
        }
    }
}

fn may_fail(task: &mut super::LabTask, process: &super::Process) {
    let ran_out = |error: &_| matches!(error, FaultError::OutOfMemory(_) | FaultError::PoolEmpty { .. });
    unless_there_is_none(ran_out, || process.fault(task, page(0), Access::Write));
}

fn is_out_of_memory(error: &MapError) -> bool {
    matches!(error, MapError::OutOfMemory(_))
}

fn no_tables(bench: &mut Bench<'_>) {
    let file = bench.file();
    let first = bench.process(&file, &[0]);
    let other = bench.untouched(&file);
    let process = bench.untouched(&file);
    // With nobody to share with, one of them has to make a table.
    first.exit(bench.task()).expect("its own task");
    bench.cpu("fault, munmap", move |task| {
        may_fail(task, &process);
        process.munmap(task, BASE, 512 * PMD_SIZE).expect("aligned");
    });
    bench.cpu("fault", move |task| may_fail(task, &other));
    for_a_while_there_is_no_memory(bench);
}

fn for_a_while_there_is_no_memory(bench: &mut Bench<'_>) {
    bench.cpu("no memory", move |_| {
        Lab::set_memory(false);
        Lab::set_memory(true);
    });
}

fn no_memory_to_move(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let other = bench.untouched(&file);
    bench.cpu("mremap", move |task| {
        let (whole, to) = (512 * PMD_SIZE, RemapTo::Fixed(VirtAddr::new(8 * PUD_SIZE)));
        unless_there_is_none(is_out_of_memory, || process.mremap(task, BASE, whole, whole, to));
    });
    bench.cpu("fault", move |task| may_fail(task, &other));
    for_a_while_there_is_no_memory(bench);
}

fn no_memory_for_a_child(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private(&file, 2);
    let nursery = bench.nursery();
    bench.cpu("fork, exit", move |task| {
        if let Some(child) = unless_there_is_none(is_out_of_memory, || process.fork(task)) {
            child.exit(task).expect("its own task");
            nursery.keep(child);
        }
    });
    // It frees memory, and needs none.
    bench.cpu("truncate", move |task| {
        Lab::with_failing_heap(|| file.truncate(task, 0)).expect("aligned, and nothing to be had");
    });
    for_a_while_there_is_no_memory(bench);
}

fn no_memory_to_unmap(bench: &mut Bench<'_>) {
    let file = bench.file();
    let other = bench.untouched(&file);
    let process = bench.process(&file, &[0]);
    bench.cpu("munmap", move |task| {
        unless_there_is_none(is_out_of_memory, || process.munmap(task, BASE, PMD_SIZE));
    });
    bench.cpu("fault", move |task| may_fail(task, &other));
    for_a_while_there_is_no_memory(bench);
}

fn no_memory_to_map(bench: &mut Bench<'_>) {
    let file = bench.file();
    let other = bench.untouched(&file);
    let process = bench.process(&file, &[0]);
    bench.cpu("mmap", move |task| {
        let request = MapRequest {
            placement: Placement::Fixed(page(1)),
            length: PMD_SIZE,
            protection: Protection::READ,
            flags: MapFlags::SHARED,
            backing: Backing::File { file: &file, offset: 0 },
        };
        unless_there_is_none(is_out_of_memory, || process.mmap(task, &request));
    });
    bench.cpu("fault", move |task| may_fail(task, &other));
    for_a_while_there_is_no_memory(bench);
}

fn no_memory_to_allocate(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[]);
    let same = file.clone();
    bench.cpu("fallocate", move |task| {
        let ran_out = |error: &_| matches!(error, FileError::OutOfMemory(_));
        unless_there_is_none(ran_out, || same.allocate(task, 0, PMD_SIZE, false));
    });
    bench.cpu("fault, punch", move |task| {
        may_fail(task, &process);
        let ran_out = |error: &_| matches!(error, FileError::OutOfMemory(_));
        unless_there_is_none(ran_out, || file.punch_hole(task, 0, PMD_SIZE));
    });
    for_a_while_there_is_no_memory(bench);
}

fn no_pages(bench: &mut Bench<'_>) {
    let file = bench.file();
    let other = bench.process(&file, &[]);
    let process = bench.process(&file, &[]);
    bench.cpu("fault, madvise", move |task| {
        may_fail(task, &process);
        dont_need(task, &process);
    });
    bench.cpu("fault", move |task| may_fail(task, &other));
    bench.cpu("nr_hugepages", move |task| {
        let hugetlb = task.hugetlb().clone();
        hugetlb.resize_pool(X86_64::SIZE_2M, 0);
        hugetlb.resize_pool(X86_64::SIZE_2M, 4);
    });
}

fn page_goes(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    let other_file = bench.file();
    let other = bench.process(&other_file, &[]);
    // There is no other page.
    bench.hugetlb().resize_pool(X86_64::SIZE_2M, 1);
    bench.cpu("GUP-fast", move |task| {
        let walker = Walker::new(&process, page(0));
        walker.watch_fast(|| {
            let pinned = process.pin_page_fast(task, page(0), GupFlags::empty());
            walker.told_fast(pinned.as_ref().map(|pinned| pinned.frame()));
        });
    });
    bench.cpu("fallocate, fault", move |task| {
        file.punch_hole(task, 0, PMD_SIZE).expect("aligned");
        if other.fault(task, page(0), Access::Write).is_ok() {
            Walker::foreign(frame);
        }
    });
}

fn punch_among_faults(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0, 1, 2]);
    // Where the access is noted already, a fault takes no lock of the VMA.
    bench.make_old(&process, 1);
    bench.make_old(&process, 2);
    bench.cpu("fault, fault", move |task| {
        fault(task, &process, 1);
        fault(task, &process, 2);
    });
    bench.cpu("fallocate", move |task| file.punch_hole(task, 0, PMD_SIZE).expect("aligned"));
}

fn fill_and_truncate(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private(&file, 2);
    // Who maps nothing is not looked at twice.
    dont_need(bench.task(), &process);
    bench.cpu("fault", move |task| fault(task, &process, 1));
    bench.cpu("truncate", move |task| file.truncate(task, 0).expect("aligned"));
}

fn copy_and_truncate(bench: &mut Bench<'_>) {
    let file = bench.file();
    let _process = bench.process(&file, &[0]);
    let private = bench.private(&file, 1);
    // It finds the page, or that the file is too short.
    bench.cpu("store", move |task| _ = may_get(task, &private, 0));
    bench.cpu("truncate", move |task| file.truncate(task, 0).expect("aligned"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Settings;
    use crate::{check, replay};

    /// Whoever finds nothing wrong with it must have seen it.
    #[test]
    fn each_call_that_may_be_refused_memory_is() {
        for id in ["S29", "S29/mremap", "S29/fork", "S29/munmap", "S29/mmap", "S29/fallocate"] {
            let scenario = super::super::named(id).expect("a scenario");
            // C says that there is no memory; A goes on from there.
            let story = replay(scenario, Settings::HUGEWALK, &"C1A1".parse().expect("a schedule"));
            let story = story.expect("it fits");
            let refused = |cpu: usize| {
                story.steps.iter().any(|step| step.cpu == cpu && step.text == "is refused memory")
            };
            assert!(refused(0), "{id}");
            assert!(story.report.is_none(), "{id}: {:?}", story.report);
        }
    }

    #[test]
    fn a_call_that_is_refused_memory_and_must_not_be_is_found() {
        let scenario = Scenario {
            id: "refused",
            what: "an unmapping is not to be refused memory",
            judged: USUAL,
            build: |bench| {
                let file = bench.file();
                let process = bench.process(&file, &[0]);
                bench.cpu("munmap", move |task| {
                    unless_there_is_none(|_| false, || process.munmap(task, BASE, PMD_SIZE));
                });
                for_a_while_there_is_no_memory(bench);
            },
        };
        let verdict = check(&scenario, Settings::HUGEWALK, &Default::default());
        let found = verdict.report.counterexample.as_ref().map_or("nothing", |found| &found.text);
        assert!(found.starts_with("a call fails: "), "{verdict}");
    }
}
