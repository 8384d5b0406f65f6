//! Address spaces that are dropped while others walk their tables: in every interleaving.
//!
//! The queue that a drop leaves its work in is no scheduling point: the explorer does not look for orders in which it alone
//! makes a difference. Each scenario says in which order things are put there; what the operation that takes them out does
//! consists of scheduling points.

use hugewalk::addr::{HugeSize, PMD_SIZE};
use hugewalk::fault::Access;
use hugewalk::mm::{MapFlags, MapRequest};
use hugewalk::sync::Arc;
use hugewalk::walk::huge_pte_offset;
use hugewalk::{AddressSpace, Task};
use hugewalk_lab::check;
use hugewalk_lab::explore::{Coverage, Options};
use hugewalk_lab::lab::{Lab, Property, Settings};
use hugewalk_lab::scenario::{BASE, Bench, File, Scenario, page};

// SAFETY: the scenarios keep to themselves.
#[global_allocator]
static ALLOCATOR: hugewalk_lab::Allocator = unsafe { hugewalk_lab::Allocator::new() };

/// A process that nobody has but the caller: it shares the file's table, and has faulted in page 0.
fn lonely(bench: &mut Bench<'_>, file: &File) -> Arc<AddressSpace<Lab>> {
    let space = AddressSpace::new(bench.hugetlb()).expect("memory");
    let request = MapRequest::file(file, 0, 512 * PMD_SIZE).shared().with(MapFlags::NORESERVE).at(BASE);
    space.mmap(bench.task(), &request).expect("room");
    space.fault(bench.task(), page(0), Access::Write).expect("a page");
    space
}

/// Reads what a process has at page 0, twice, in one section. The table may be another's by the second time.
fn walk(mm: &hugewalk::mm::Mm<Lab>, task: &Task<Lab>) {
    let section = task.rcu_read_lock();
    let slot = huge_pte_offset(&section, mm, page(0), HugeSize::Size2M).expect("its own");
    if let Some(slot) = slot {
        let _ = slot.read();
        let _ = slot.read();
    }
}

/// A process was dropped; the operation of another takes it down; a third thread walks in the table of the one that was
/// dropped, which is the last to use it.
const TAKEN_DOWN: Scenario = Scenario {
    id: "a process is taken down",
    what: "A walks in the tables of a process that was dropped; B maps something, and takes it down",
    judged: &[Property::I1],
    build: |bench| {
        let file = bench.file();
        let dropped = lonely(bench, &file);
        let mm = dropped.mm().clone();
        let other_file = bench.file();
        let other = bench.process(&other_file, &[]);
        drop(dropped);
        bench.cpu("walk", move |task| walk(&mm, task));
        bench.cpu("fault", move |task| {
            other.fault(task, page(0), Access::Write).expect("a page");
            task.rcu_barrier();
        });
    },
};

/// The same with a table that a living process shares: the process that was dropped leaves it; then the living one unmaps.
const SHARED: Scenario = Scenario {
    id: "a process that shares a table is taken down",
    what: "A walks in a shared table; B gives it up, and before that takes down a process that shared it and was dropped",
    judged: &[Property::I1],
    build: |bench| {
        let file = bench.file();
        let process = bench.process(&file, &[0]);
        let dropped = lonely(bench, &file);
        let mm = dropped.mm().clone();
        let same = process.clone();
        drop(dropped);
        bench.cpu("walk, walk", move |task| {
            walk(process.mm(), task);
            walk(&mm, task);
        });
        bench.cpu("munmap", move |task| {
            same.munmap(task, BASE, 512 * PMD_SIZE).expect("aligned");
            task.rcu_barrier();
        });
    },
};

/// A drops a process in a section, with the table locked that it shares. Whoever comes next takes it down.
const DROPPED: Scenario = Scenario {
    id: "a process is dropped under a table lock",
    what: "A locks a shared table and drops a process that shares it; B gives the table up; C walks in it",
    judged: &[Property::I1],
    build: |bench| {
        let file = bench.file();
        let process = bench.process(&file, &[0]);
        let dropped = lonely(bench, &file);
        let mm = dropped.mm().clone();
        let same = process.clone();
        bench.cpu("lock, drop", move |task| {
            let section = task.rcu_read_lock();
            let slot = huge_pte_offset(&section, process.mm(), page(0), HugeSize::Size2M).expect("its own");
            let locked = slot.as_ref().and_then(|slot| slot.lock().ok());
            drop(dropped);
            drop(locked);
            drop(section);
        });
        bench.cpu("madvise", move |task| {
            let whole = 512 * PMD_SIZE;
            same.madvise(task, BASE, whole, hugewalk::mm::Advice::DontNeed).expect("mapped");
        });
        bench.cpu("walk", move |task| walk(&mm, task));
    },
};

#[test]
fn a_dropped_process_is_taken_down_beside_walks_in_its_tables() {
    let options = Options { shortening: 0, ..Options::default() };
    for scenario in [TAKEN_DOWN, SHARED, DROPPED] {
        let verdict = check(&scenario, Settings::HUGEWALK, &options);
        println!("{verdict}");
        assert!(verdict.is_safe(), "{verdict}");
        assert_eq!(verdict.report.coverage, Coverage::Everything, "{verdict}");
        assert!(verdict.report.executions > 1, "{verdict}");
    }
    // The walks do meet it: where tables are freed right after the flush, each of the first two is a use after free.
    for scenario in [TAKEN_DOWN, SHARED] {
        let settings = Settings::HUGEWALK.without("rcu-free").expect("a step");
        let verdict = check(&scenario, settings, &options);
        let found = verdict.report.counterexample.as_ref().map_or("nothing", |found| &found.text);
        assert!(found.contains("use after free"), "{verdict}");
    }
}
