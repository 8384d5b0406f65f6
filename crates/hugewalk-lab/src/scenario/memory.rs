//! What runs out, and what is counted.

use hugewalk::addr::{HugeSize, PMD_SIZE, PUD_SIZE, VirtAddr};
use hugewalk::fault::{Access, FaultError};
use hugewalk::gup::GupFlags;
use hugewalk::mm::{MapError, RemapTo};

use super::Scenario;
use super::bench::{BASE, Bench, dont_need, page};
use super::expected::{MISTAKE, NONE, Row};
use super::other::{USUAL, fault};
use crate::lab::{Lab, Property, Speculator, Walker};

pub(super) const ROWS: &[Row] = &[
    Row {
        scenario: Scenario {
            id: "S16",
            what: "somebody takes a reference to the page that holds a table, for a moment, not knowing what it is; its only user unmaps (CVE-2024-57883)",
            judged: USUAL,
            build: speculate,
        },
        verdicts: NONE,
    },
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
    Row {
        scenario: Scenario {
            id: "S29",
            what: "a fault, and for a while there is no memory for tables",
            judged: USUAL,
            build: no_tables,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S29/mremap",
            what: "a mapping moves, another process shares, and for a while there is no memory for tables",
            judged: USUAL,
            build: no_tables_to_move_to,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S29/fork",
            what: "a private mapping is copied by fork, its file is truncated, and for a while there is no memory for tables",
            judged: USUAL,
            build: no_tables_for_a_child,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S29/no-pages",
            what: "a fault, and for a while the pool is empty",
            judged: USUAL,
            build: no_pages,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S31",
            what: "A is in GUP-fast; B takes the page away from the file, and another file gets it",
            judged: &[Property::I1, Property::I3],
            build: page_goes,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S31:entry-not-confirmed",
            what: "S31, and A does not look at the entry again",
            judged: &[Property::I1, Property::I3],
            build: |bench| {
                bench.without("confirm-entry");
                page_goes(bench);
            },
        },
        verdicts: MISTAKE,
    },
    Row {
        scenario: Scenario {
            id: "S32",
            what: "a fault of a private mapping finds its page within the file, which is truncated",
            judged: USUAL,
            build: fill_and_truncate,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S32:no-wait",
            what: "S32, and truncation does not wait for the faults that are under way",
            judged: USUAL,
            build: |bench| {
                bench.without("wait-for-faults");
                fill_and_truncate(bench);
            },
        },
        verdicts: MISTAKE,
    },
    Row {
        scenario: Scenario {
            id: "S33",
            what: "a hole is punched in a mapping in which one fault comes after the other",
            judged: USUAL,
            build: punch_among_faults,
        },
        verdicts: NONE,
    },
    Row {
        scenario: Scenario {
            id: "S33:lock-let-go",
            what: "S33, and who punches lets the VMA lock go that it has waited for, and tries it anew",
            judged: USUAL,
            build: |bench| {
                bench.without("keep-lock");
                punch_among_faults(bench);
            },
        },
        verdicts: MISTAKE,
    },
];

fn speculate(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let same = process.clone();
    bench.cpu("get_page, put_page", move |task| Speculator::new(&process, page(0)).hold(task));
    bench.cpu("munmap", move |task| same.munmap(task, BASE, 512 * PMD_SIZE).expect("aligned"));
}

fn may_fail(task: &mut super::LabTask, process: &super::Process) {
    match process.fault(task, page(0), Access::Write) {
        Ok(_) | Err(FaultError::OutOfMemory(_) | FaultError::PoolEmpty { .. }) => {}
        Err(error) => crate::explore::violation(format!("a fault fails: {error}"), error),
    }
}

fn no_tables(bench: &mut Bench<'_>) {
    let file = bench.file();
    let other = bench.untouched(&file);
    let process = bench.untouched(&file);
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

fn no_tables_to_move_to(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let other = bench.untouched(&file);
    bench.cpu("mremap", move |task| {
        let (whole, to) = (512 * PMD_SIZE, RemapTo::Fixed(VirtAddr::new(8 * PUD_SIZE)));
        match process.mremap(task, BASE, whole, whole, to) {
            Ok(_) | Err(MapError::OutOfMemory(_)) => {}
            Err(error) => crate::explore::violation(format!("a move fails: {error}"), error),
        }
    });
    bench.cpu("fault", move |task| may_fail(task, &other));
    for_a_while_there_is_no_memory(bench);
}

fn no_tables_for_a_child(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private(&file, 2);
    let nursery = bench.nursery();
    bench.cpu("fork, exit", move |task| match process.fork(task) {
        Ok(child) => {
            child.exit(task);
            nursery.keep(child);
        }
        Err(MapError::OutOfMemory(_)) => {}
        Err(error) => crate::explore::violation(format!("a fork fails: {error}"), error),
    });
    bench.cpu("truncate", move |task| file.truncate(task, 0).expect("aligned"));
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
        hugetlb.resize_pool(HugeSize::Size2M, 0);
        hugetlb.resize_pool(HugeSize::Size2M, 4);
    });
}

fn page_goes(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    let other_file = bench.file();
    let other = bench.process(&other_file, &[]);
    // There is no other page.
    bench.hugetlb().resize_pool(HugeSize::Size2M, 1);
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
    let process = bench.process(&file, &[0, 1]);
    bench.cpu("fault, fault", move |task| {
        fault(task, &process, 1);
        fault(task, &process, 1);
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
