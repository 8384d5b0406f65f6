//! Processors that load and store while what they do it through changes.

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{PMD_SIZE, PUD_SIZE};
use hugewalk::fault::Access;
use hugewalk::mm::{Advice, RemapTo};
use hugewalk::uffd::{Features, Modes, ProtectMode, Userfault};
use hugewalk::vma::Protection;

use super::Scenario;
use super::bench::{BASE, Bench, LabTask, Process, page};
use super::expected::{EVERY_MISTAKE, NONE, Row};
use crate::lab::{Cpu, Flaw, Property};

/// What pages are judged by.
pub(super) const PAGES: &[Property] =
    &[Property::I1, Property::I3, Property::I6, Property::I11, Property::I12, Property::I13, Property::I14];

/// A row judged by [`PAGES`], or by others; and rows with mistakes: the machine that shows each, or the step that is left out.
macro_rules! row {
    ($id:literal, $what:expr, $build:expr) => { row!($id, $what, $build, by PAGES) };
    ($id:literal, $what:expr, $build:expr, on $flaw:expr) => { row!($id, $what, $build, by PAGES, on $flaw) };
    ($id:literal, $what:expr, $build:expr, without $step:literal) => {
        row!($id, $what, $build, by PAGES, without $step)
    };
    ($id:literal, $what:expr, $build:expr, by $judged:expr) => { row!($id, $what, $build, by $judged, is NONE) };
    ($id:literal, $what:expr, $build:expr, by $judged:expr, is $verdicts:expr) => {
        Row { scenario: Scenario { id: $id, what: $what, judged: $judged, build: $build }, verdicts: $verdicts }
    };
    ($id:literal, $what:expr, $build:expr, by $judged:expr, on $flaw:expr) => {
        Row {
            scenario: Scenario {
                id: $id,
                what: $what,
                judged: $judged,
                build: |bench| {
                    bench.flawed($flaw);
                    $build(bench);
                },
            },
            verdicts: EVERY_MISTAKE,
        }
    };
    ($id:literal, $what:expr, $build:expr, by $judged:expr, without $step:literal) => {
        Row {
            scenario: Scenario {
                id: $id,
                what: $what,
                judged: $judged,
                build: |bench| {
                    bench.without($step);
                    $build(bench);
                },
            },
            verdicts: MISTAKE,
        }
    };
}
pub(super) use row;

pub(super) const ROWS: &[Row] = &[
    row!(
        "S34",
        "A stores to a page for the first time; B takes the right to write away (mprotect)",
        store_and_protect
    ),
    row!(
        "S34:read-then-write",
        "S34, and B reads the entry and writes it later, so that a dirty bit is lost that A sets in between",
        store_and_protect,
        on Flaw::TornExchange
    ),
    row!("S34:no-flush", "S34, and B does not flush", store_and_protect, on Flaw::NoFlush),
    row!(
        "S34/soft-dirty",
        "A stores to a page; B clears soft-dirty, and the right to write with it",
        store_and_clear
    ),
    row!(
        "S34/soft-dirty:read-then-write",
        "S34/soft-dirty, and B reads the entry and writes it later",
        store_and_clear,
        on Flaw::TornExchange
    ),
    row!("S34/soft-dirty:no-flush", "S34/soft-dirty, and B does not flush", store_and_clear, on Flaw::NoFlush),
    row!("S34/fork", "A stores to a private page; B forks", store_and_fork),
    row!("S34/fork:no-flush", "S34/fork, and B does not flush", store_and_fork, on Flaw::NoFlush),
    row!("S34/migrate", "A stores to a page, and loads; B moves the page elsewhere", store_and_migrate),
    row!(
        "S34/migrate:read-then-write",
        "S34/migrate, and B reads the entry and writes it later",
        store_and_migrate,
        on Flaw::TornExchange
    ),
    row!("S34/migrate:no-flush", "S34/migrate, and B does not flush", store_and_migrate, on Flaw::NoFlush),
    row!("S34/mremap", "A stores to a page; B moves that part of the mapping", store_and_move),
    row!("S34/mremap:no-flush", "S34/mremap, and B does not flush", store_and_move, on Flaw::NoFlush),
    row!(
        "S34/uffd-wp",
        "A stores to a page for the first time; B, the handler of its faults, write-protects it",
        store_and_handle
    ),
    row!(
        "S34/uffd-wp:read-then-write",
        "S34/uffd-wp, and B reads the entry and writes it later",
        store_and_handle,
        on Flaw::TornExchange
    ),
    row!("S34/uffd-wp:no-flush", "S34/uffd-wp, and B does not flush", store_and_handle, on Flaw::NoFlush),
    row!(
        "S34/referenced",
        "A stores to a page for the first time; B asks whether it was accessed, and clears that",
        store_and_ask
    ),
    row!(
        "S34/referenced:read-then-write",
        "S34/referenced, and B reads the entry and writes it later",
        store_and_ask,
        on Flaw::TornExchange
    ),
    row!(
        "S34/present",
        "A stores to a page for the first time; a load of B faults, and finds that the page is mapped",
        store_and_fault
    ),
    row!(
        "S34/present:read-then-write",
        "S34/present, and B reads the entry and writes it later",
        store_and_fault,
        on Flaw::TornExchange
    ),
    row!(
        "S35",
        "a page is shared since a fork: A loads from it, B stores in the same process and gets a copy, C in the child and may keep it",
        copy_and_reuse
    ),
    row!(
        "S35:late-flush",
        "S35, and B flushes after the copy is mapped and the old page has a mapping less",
        copy_and_reuse,
        on Flaw::LateFlush
    ),
    row!("S35:no-flush", "S35, and B does not flush", copy_and_reuse, on Flaw::NoFlush),
    row!(
        "S35:late-copy",
        "S35, and the page is copied after the copy is mapped",
        copy_and_reuse,
        on Flaw::LateFill
    ),
    row!(
        "S35/zap",
        "a page is shared since a fork: A loads from it, B drops it in the same process, C stores in the child and may keep it",
        drop_and_reuse
    ),
    row!(
        "S35/zap:late-flush",
        "S35/zap, and B flushes after the page has a mapping less",
        drop_and_reuse,
        on Flaw::LateFlush
    ),
];

/// A store of a processor, with the faults that it takes.
pub(super) fn store(task: &mut LabTask, process: &Process, index: u64) {
    let mut cpu = Cpu::new(process);
    while cpu.store(page(index)).is_none() {
        if process.fault(task, page(index), Access::Write).is_err() {
            return;
        }
    }
}

/// A process whose page 0 is mapped and has not been stored to.
fn clean(bench: &mut Bench<'_>) -> Process {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    process.madvise(bench.task(), BASE, PUD_SIZE, Advice::DontNeed).expect("mapped");
    process.fault(bench.task(), BASE, Access::Read).expect("a page");
    process
}

fn store_and_protect(bench: &mut Bench<'_>) {
    let process = clean(bench);
    let same = process.clone();
    bench.cpu("store", move |_| _ = Cpu::new(&process).store(page(0)));
    bench.cpu("mprotect", move |task| {
        same.mprotect(task, BASE, PMD_SIZE, Protection::READ).expect("mapped");
    });
}

fn store_and_clear(bench: &mut Bench<'_>) {
    let process = clean(bench);
    let same = process.clone();
    bench.cpu("store", move |_| _ = Cpu::new(&process).store(page(0)));
    bench.cpu("clear_refs", move |task| same.clear_soft_dirty(task).expect("its own"));
}

fn store_and_fork(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    let (same, nursery) = (process.clone(), bench.nursery());
    bench.cpu("store", move |task| store(task, &process, 0));
    bench.cpu("fork", move |task| nursery.keep(same.fork(task).expect("memory")));
}

fn store_and_migrate(bench: &mut Bench<'_>) {
    let process = clean(bench);
    let frame = bench.frame(&process, 0);
    bench.cpu("store, load", move |task| {
        store(task, &process, 0);
        Cpu::new(&process).load(page(0));
    });
    bench.cpu("migrate", move |task| {
        let hugetlb = task.hugetlb().clone();
        // Somebody may hold it.
        let _ = hugetlb.migrate(task, frame);
    });
}

fn store_and_move(bench: &mut Bench<'_>) {
    let process = clean(bench);
    let same = process.clone();
    bench.cpu("store", move |_| _ = Cpu::new(&process).store(page(0)));
    bench.cpu("mremap", move |task| {
        // The table stays, for the pages that stay.
        let to = RemapTo::Fixed(VirtAddr::new(8 * PUD_SIZE));
        same.mremap(task, BASE, PMD_SIZE, PMD_SIZE, to).expect("room");
    });
}

fn store_and_handle(bench: &mut Bench<'_>) {
    let process = clean(bench);
    let handler = Userfault::new(&process, Features::empty()).expect("memory");
    handler.register(bench.task(), BASE, PUD_SIZE, Modes::WP).expect("mapped");
    // The first store after that gives the right to write back, and leaves the page dirty. So it is taken out and brought
    // in once more.
    process.madvise(bench.task(), BASE, PUD_SIZE, Advice::DontNeed).expect("mapped");
    process.fault(bench.task(), BASE, Access::Read).expect("a page");
    bench.cpu("store", move |_| _ = Cpu::new(&process).store(page(0)));
    bench.cpu("UFFDIO_WRITEPROTECT", move |task| {
        handler.write_protect(task, page(0), PMD_SIZE, ProtectMode::WP).expect("registered");
    });
}

fn store_and_ask(bench: &mut Bench<'_>) {
    let process = clean(bench);
    let frame = bench.frame(&process, 0);
    bench.cpu("store", move |_| _ = Cpu::new(&process).store(page(0)));
    bench.cpu("referenced", move |task| {
        let hugetlb = task.hugetlb().clone();
        hugetlb.referenced(task, frame).expect("in use");
    });
}

fn store_and_fault(bench: &mut Bench<'_>) {
    let process = clean(bench);
    // Where the access is noted already, a fault stores nothing.
    bench.make_old(&process, 0);
    let same = process.clone();
    bench.cpu("store", move |_| _ = Cpu::new(&process).store(page(0)));
    bench.cpu("fault", move |task| _ = same.fault(task, page(0), Access::Read).expect("mapped"));
}

fn drop_and_reuse(bench: &mut Bench<'_>) {
    let file = bench.file();
    let parent = bench.private_written(&file, 1);
    let child = bench.fork(&parent);
    let same = parent.clone();
    bench.cpu("load, load", move |_| {
        let mut cpu = Cpu::new(&parent);
        cpu.load(page(0));
        cpu.load(page(0));
    });
    bench.cpu("madvise", move |task| {
        same.madvise(task, BASE, PMD_SIZE, Advice::DontNeed).expect("mapped");
    });
    bench.cpu("child stores", move |task| store(task, &child, 0));
}

fn copy_and_reuse(bench: &mut Bench<'_>) {
    let file = bench.file();
    let parent = bench.private_written(&file, 1);
    let child = bench.fork(&parent);
    let same = parent.clone();
    bench.cpu("load, load", move |_| {
        let mut cpu = Cpu::new(&parent);
        cpu.load(page(0));
        cpu.load(page(0));
    });
    bench.cpu("store", move |task| store(task, &same, 0));
    bench.cpu("child stores", move |task| store(task, &child, 0));
}
