//! Tables that went, and processors that remember the way to them: a flush says whether tables went, and not leaves alone.
//!
//! Linux's own port to arm64 forgot that for unsharing, which was flushed for the last level alone, until c2ff4764e03e (May 2026): a processor went on
//! to use the table that it had cached.

use hugewalk::arch::{PMD_SIZE, PUD_SIZE};
use hugewalk::fault::Access;
use hugewalk::mm::Advice;

use super::Scenario;
use super::bench::{BASE, Bench, Process, dont_need, map, page};
use super::expected::{EVERY_MISTAKE, NONE, Row};
use super::stores::row;
use crate::lab::{Cpu, Property};

const FREED: &[Property] = &[Property::I1];

/// Also of processors that store.
const CACHED: &[Property] = &[Property::I6];

/// A row, and the same without a word of tables in the flush. Whatever walkers hold, a processor that walks holds nothing.
macro_rules! rows {
    ($($id:literal, $mistake:literal, $what:literal, $build:expr, by $judged:expr;)*) => {
        &[$(
            row!($id, $what, $build, by $judged),
            row!(
                $mistake,
                concat!($id, ", and the flush is one for leaves alone"),
                |bench| {
                    bench.without("flush-tables");
                    $build(bench);
                },
                by $judged,
                is EVERY_MISTAKE
            ),
        )*]
    };
}

pub(super) const ROWS: &[Row] = rows! {
    "S74",
    "S74:leaves-only",
    "A loads, and loads again; B, another thread of it, gives the table up; C, its last user, unmaps, and the table is given back",
    unshared_and_freed,
    by FREED;

    "S74/munmap",
    "S74/munmap:leaves-only",
    "A loads, and loads again; B, another thread of it, unmaps, and the table is given back",
    unmapped,
    by FREED;

    "S74/two",
    "S74/two:leaves-only",
    "A loads, and loads again; B, another thread of it, drops two tables at once: one is shared, and of the other a page goes",
    unshared_beside_a_page,
    by CACHED;

    "S74/mremap",
    "S74/mremap:leaves-only",
    "A loads, and loads again; B, another thread of it, moves the mapping out of a table that is shared",
    moved,
    by CACHED;

    "S74/reuse",
    "S74/reuse:leaves-only",
    "A loads, and loads again; B gives the table up; C has it for itself then, and maps something else there",
    unshared_and_reused,
    by CACHED;
};

fn loads(bench: &mut Bench<'_>, process: &Process) {
    let process = process.clone();
    bench.cpu("load, load", move |_| {
        let mut cpu = Cpu::new(&process);
        cpu.load(page(0));
        cpu.load(page(0));
    });
}

fn unshared_and_freed(bench: &mut Bench<'_>) {
    let file = bench.file();
    let other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    loads(bench, &process);
    bench.cpu("madvise", move |task| dont_need(task, &process));
    bench.cpu("munmap", move |task| other.munmap(task, BASE, PUD_SIZE).expect("aligned"));
}

fn unmapped(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    loads(bench, &process);
    bench.cpu("munmap", move |task| process.munmap(task, BASE, PUD_SIZE).expect("aligned"));
}

fn unshared_beside_a_page(bench: &mut Bench<'_>) {
    let file = bench.file();
    file.truncate(bench.task(), PUD_SIZE + PMD_SIZE).expect("aligned");
    let _other = bench.process(&file, &[0]);
    let process = bench.empty();
    map(bench.task(), &process, &file, 0, 513);
    for index in [0, 512] {
        process.fault(bench.task(), page(index), Access::Write).expect("a page");
    }
    loads(bench, &process);
    bench.cpu("madvise", move |task| {
        process.madvise(task, BASE, PUD_SIZE + PMD_SIZE, Advice::DontNeed).expect("mapped");
    });
}

fn moved(bench: &mut Bench<'_>) {
    let file = bench.file();
    let _other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    loads(bench, &process);
    bench.cpu("mremap", move |task| {
        let to = hugewalk::mm::RemapTo::Fixed(hugewalk::addr::VirtAddr::new(8 * PUD_SIZE));
        process.mremap(task, BASE, PUD_SIZE, PUD_SIZE, to).expect("room");
    });
}

fn unshared_and_reused(bench: &mut Bench<'_>) {
    let file = bench.file();
    let other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    let foreign = bench.file();
    loads(bench, &process);
    bench.cpu("madvise", move |task| dont_need(task, &process));
    bench.cpu("mmap", move |task| {
        map(task, &other, &foreign, 0, 1);
        other.fault(task, page(0), Access::Read).expect("a page");
    });
}
