//! Address spaces that are dropped while others walk their tables.
//!
//! The head of the queue that a drop leaves its work in is a scheduling point. Reference counts are none: each scenario says which
//! thread has the last one.

use hugewalk::arch::{PUD_SIZE, X86_64};
use hugewalk::fault::Access;
use hugewalk::file::HugeFile;
use hugewalk::mm::{Advice, MapFlags, MapRequest, Mm};
use hugewalk::walk::huge_pte_offset;
use hugewalk::{AddressSpace, Task};

use super::Scenario;
use super::bench::{BASE, Bench, File, Process, page};
use super::expected::{MISTAKE, NONE, Row};
use super::stores::row;
use crate::lab::{Lab, Property};

const FREED: &[Property] = &[Property::I1];

pub(super) const ROWS: &[Row] = &[
    row!(
        "S52",
        "a process was dropped; B maps something, and takes it down; A walks in its tables",
        taken_down,
        by FREED
    ),
    row!(
        "S52:freed-at-once",
        "S52, and tables are freed right after the flush",
        taken_down,
        by FREED,
        without "rcu-free"
    ),
    row!(
        "S52/shared",
        "a process that shared a table was dropped; B gives up the table, and before that takes the other down; A walks in both",
        shared_taken_down,
        by FREED
    ),
    row!(
        "S52/shared:freed-at-once",
        "S52/shared, and tables are freed right after the flush",
        shared_taken_down,
        by FREED,
        without "rcu-free"
    ),
    row!(
        "S52/locked",
        "A drops a process with a table locked that it shares; B gives the table up; C walks in it",
        dropped_under_lock,
        by FREED
    ),
    row!("S52/two", "two processes are dropped at the same time, and a third maps something, which takes them down", drop_two, by FREED),
    row!("S52/files", "two files are dropped at the same time, and the system ends after them", drop_files, by FREED),
];

/// A process that nobody has but the caller: it shares the file's table, and has faulted in page 0.
fn lonely(bench: &mut Bench<'_>, file: &File) -> Process {
    let space = AddressSpace::new(bench.hugetlb()).expect("memory");
    let request = MapRequest::file(file, 0, PUD_SIZE).shared().with(MapFlags::NORESERVE).at(BASE);
    space.mmap(bench.task(), &request).expect("room");
    space.fault(bench.task(), page(0), Access::Write).expect("a page");
    space
}

/// Reads what a process has at page 0, twice, in one section. The table may be another's by the second time.
fn walk(mm: &Mm<Lab>, task: &Task<Lab>) {
    let section = task.rcu_read_lock();
    let slot = huge_pte_offset(&section, mm, page(0), X86_64::SIZE_2M).expect("its own");
    if let Some(slot) = slot {
        let _ = slot.read();
        let _ = slot.read();
    }
}

fn taken_down(bench: &mut Bench<'_>) {
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
}

fn shared_taken_down(bench: &mut Bench<'_>) {
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
        same.munmap(task, BASE, PUD_SIZE).expect("aligned");
        task.rcu_barrier();
    });
}

fn dropped_under_lock(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let dropped = lonely(bench, &file);
    let mm = dropped.mm().clone();
    let same = process.clone();
    bench.cpu("lock, drop", move |task| {
        let section = task.rcu_read_lock();
        let slot = huge_pte_offset(&section, process.mm(), page(0), X86_64::SIZE_2M).expect("its own");
        let locked = slot.as_ref().and_then(|slot| slot.lock().ok());
        drop(dropped);
        drop(locked);
        drop(section);
    });
    bench.cpu("madvise", move |task| {
        same.madvise(task, BASE, PUD_SIZE, Advice::DontNeed).expect("mapped");
    });
    bench.cpu("walk", move |task| walk(&mm, task));
}

fn drop_files(bench: &mut Bench<'_>) {
    for _ in 0..2 {
        let file = HugeFile::new(bench.hugetlb(), X86_64::SIZE_2M, None).expect("memory");
        bench.cpu("drop", move |_| drop(file));
    }
}

fn drop_two(bench: &mut Bench<'_>) {
    for _ in 0..2 {
        // Each has a table of its own: what is counted of one that was dropped, and not taken down, is not asked for.
        let file = bench.file();
        let dropped = lonely(bench, &file);
        bench.cpu("drop", move |_| drop(dropped));
    }
    let file = bench.file();
    let other = bench.process(&file, &[]);
    bench.cpu("fault", move |task| _ = other.fault(task, page(0), Access::Write).expect("a page"));
}
