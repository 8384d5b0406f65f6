//! What the design aims for, each figure beside its goal: DESIGN's table of numbers, as ratios where there is something to refer
//! to on the same machine.
//!
//! Two rows need a peer, which this command does not bring along: independent walks beside `x86_64`, and a verdict beside `loom`
//! and `shuttle`. `crates/hugewalk-bench` and `hugewalk-lab`'s example `speed` print those.

use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{PUD_SIZE, X86_64};
use hugewalk::mm::{Backing, MapFlags, MapRequest, Placement};
use hugewalk::vma::Protection;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Host, HostConfig};
use hugewalk_lab::explore::{Explorer, Options, Setup, Shared};

use super::crowd::together;
use super::sample::{Case, Effort, Goal, Measured, measure};
use super::walkers::{self, Operations, PINNED};
use super::walks::{self, Order, Way};
use super::{BenchError, Group, faults};

/// Groups that [`groups`] measures.
pub(super) const GROUPS: u64 = 9;

/// Gigabytes of which tables and their records lie in no cache close to the processor.
const TERABYTE: u64 = 1024;
const PAGES: u64 = 512;

pub(super) fn groups(effort: &Effort) -> Result<Vec<Group>, BenchError> {
    let mut groups = Vec::new();
    {
        let setting = walks::Setting::new(walks::GIGABYTES)?;
        groups.push(walk(effort, &setting, "16 GiB", Order::Dependent, Some(Goal::Ratio(1.3)))?);
        groups.push(walk(effort, &setting, "16 GiB", Order::Ahead, None)?);
        groups.push(vma_lock(effort, &setting));
    }
    let setting = walks::Setting::new(TERABYTE)?;
    groups.insert(2, walk(effort, &setting, "1 TiB", Order::Dependent, Some(Goal::Ratio(1.2)))?);
    drop(setting);
    let operations = Operations::new(2)?;
    groups.push(mapped_fault(effort, &operations));
    groups.push(populate(effort)?);
    groups.push(pins(effort, &operations));
    groups.push(unshare(effort)?);
    groups.push(verdict(effort));
    Ok(groups)
}

fn walk(
    effort: &Effort,
    setting: &walks::Setting,
    size: &str,
    order: Order,
    goal: Option<Goal>,
) -> Result<Group, BenchError> {
    let task = RefCell::new(hugewalk_host::task(&setting.hugetlb)?);
    let task = &task;
    let case = |way: Way| Case::new(way.name(), move |n| setting.run(way, order, &mut task.borrow_mut(), n));
    let under_rcu = case(Way::Rcu);
    let under_rcu = match goal {
        Some(goal) => under_rcu.goal(goal),
        None => under_rcu,
    };
    let cases = measure(effort, vec![case(Way::Bare), under_rcu]);
    let (which, note) = match order {
        Order::Dependent => ("each depends on the one before", None),
        Order::Ahead => (
            "addresses known ahead",
            Some("the goal is at most 0.85 of what x86_64 takes: crates/hugewalk-bench measures that"),
        ),
    };
    Ok(group(&format!("Walk of {size} to 2 MiB entries, {which}"), note, cases))
}

fn vma_lock(effort: &Effort, setting: &walks::Setting) -> Group {
    let case = |threads, name| {
        Case::timed(name, move |n| {
            together(&setting.hugetlb, threads, |task, _| setting.timed(Way::VmaLock, task, n))
        })
    };
    let cases = measure(effort, vec![case(1, "1 thread"), case(2, "2 threads").goal(Goal::Ratio(1.1))]);
    group("Walk under the VMA lock, taken each time", None, cases)
}

fn mapped_fault(effort: &Effort, operations: &Operations) -> Group {
    let case = |threads, name| {
        Case::timed(name, move |n| {
            let way = walkers::Way::FaultMapped;
            together(&operations.ground.hugetlb, threads, |task, thread| operations.run(way, task, thread, n))
        })
    };
    let cases = measure(effort, vec![case(1, "1 thread"), case(2, "2 threads").goal(Goal::Ratio(1.3))]);
    group("Fault of a mapped page, each thread with pages of its own", None, cases)
}

/// What the goals in nanoseconds can be referred to where the machine is another: nobody else has the cache line.
fn exchange<'a>() -> Case<'a> {
    let word = AtomicU64::new(0);
    Case::new("an atomic exchange", move |n| {
        for n in 0..n {
            black_box(word.swap(n, Ordering::AcqRel));
        }
    })
}

/// Pages that `mmap(MAP_POPULATE)` brings and `munmap` takes away, without contents.
fn populate(effort: &Effort) -> Result<Group, BenchError> {
    let config = HostConfig::new().huge_bytes(PUD_SIZE).contents(Contents::Nothing);
    let hugetlb = Hugetlb::new(Host::new(&config)?)?;
    if hugetlb.resize_pool(X86_64::SIZE_2M, PAGES) < PAGES {
        return Err(BenchError::Pages(PAGES));
    }
    let space = AddressSpace::new(&hugetlb)?;
    let task = RefCell::new(hugewalk_host::task(&hugetlb)?);
    let round = |task: &mut Task<Host>, flags| -> Result<(), BenchError> {
        let request = MapRequest {
            placement: Placement::Fixed(VirtAddr::new(4 * PUD_SIZE)),
            length: PUD_SIZE,
            protection: Protection::READ | Protection::WRITE,
            flags: flags | MapFlags::POPULATE,
            backing: Backing::Anonymous(X86_64::SIZE_2M),
        };
        let start = space.mmap(task, &request)?;
        Ok(space.munmap(task, start, PUD_SIZE)?)
    };
    let (round, task) = (&round, &task);
    // Once before, so that what cannot work is said and not measured.
    round(&mut task.borrow_mut(), MapFlags::SHARED)?;
    let case = |name, flags| {
        Case::new(name, move |n| {
            for _ in 0..n {
                let _ = round(&mut task.borrow_mut(), flags);
            }
        })
        .parts(PAGES)
        .goal(Goal::Nanoseconds(100.0))
    };
    let cases = vec![exchange(), case("shared", MapFlags::SHARED), case("private", MapFlags::empty())];
    let title = "Populate and munmap, without contents: a page of 512 of 2 MiB";
    Ok(group(title, None, measure(effort, cases)))
}

fn pins(effort: &Effort, operations: &Operations) -> Group {
    let pin = Case::timed("pin and unpin", |n| {
        let one = |task: &mut Task<Host>, thread| operations.run(walkers::Way::PinPages, task, thread, n);
        together(&operations.ground.hugetlb, 1, one)
    });
    let pin = pin.parts(PINNED);
    let cases = measure(effort, vec![exchange(), pin.goal(Goal::Nanoseconds(15.0))]);
    group("Pins of 64 pages in a row: a page", None, cases)
}

fn unshare(effort: &Effort) -> Result<Group, BenchError> {
    let giving_up = faults::GivingUp::new(1)?;
    let mut cases = vec![exchange()];
    cases.extend(giving_up.cases());
    let note = "the goal is at most 1.2 of what it took before: --baseline compares with a report of then";
    Ok(group("Unshare a table", Some(note), measure(effort, cases)))
}

/// Three threads that load and store twice.
fn small(setup: &mut Setup) {
    let cell = Rc::new(Shared::new(0));
    for thread in 0..3 {
        let cell = cell.clone();
        setup.thread(thread.to_string(), move || {
            for _ in 0..2 {
                let value = cell.load();
                cell.store(value + 1);
            }
        });
    }
}

/// A full verdict beside all interleavings, each run.
fn verdict(effort: &Effort) -> Group {
    let all = Case::new("all interleavings", |n| {
        for _ in 0..n {
            black_box(Explorer::new(&small).count_all());
        }
    });
    let verdict = Case::new("until the verdict is complete", |n| {
        for _ in 0..n {
            black_box(Explorer::new(&small).check(&Options::default()));
        }
    });
    let cases = measure(effort, vec![all, verdict.goal(Goal::Nanoseconds(35e6))]);
    let note = "loom and shuttle do not finish in 27 and 40 seconds: the lab's example speed runs them";
    group("Checker: 3 threads that load and store twice", Some(note), cases)
}

/// The first case is the baseline.
fn group(title: &str, note: Option<&str>, cases: Vec<Measured>) -> Group {
    Group {
        title: title.to_owned(),
        note: note.map(str::to_owned),
        baseline: cases.first().map(|case| case.name.clone()).unwrap_or_default(),
        cases,
    }
}

#[cfg(test)]
mod tests {
    use hugewalk_lab::explore::Coverage;

    use super::*;

    #[test]
    fn the_small_program_has_as_many_interleavings_as_can_be_counted() {
        // (3 × 4)! / (4!)³: four accesses of each of three threads.
        assert_eq!(Explorer::new(&small).count_all(), 34_650);
    }

    #[test]
    fn its_verdict_is_complete_after_fewer() {
        let report = Explorer::new(&small).check(&Options::default());
        assert!(report.counterexample.is_none());
        assert_eq!(report.coverage, Coverage::Everything);
        assert!(report.executions < 34_650, "{}", report.executions);
    }
}
