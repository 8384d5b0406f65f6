//! Faults of private mappings without reservations, which have no VMA lock: the entry changes under them.

use hugewalk::arch::PMD_SIZE;
use hugewalk::fault::Access;
use hugewalk::mm::Advice;
use hugewalk::uffd::{Features, Modes, ProtectMode, Userfault};

use super::Scenario;
use super::bench::{BASE, Bench, Process, page};
use super::expected::{NONE, Row};
use super::other::fault;
use super::reservations::{RESERVED, may_get, pool_of};
use super::stores::{row, store};
use crate::explore::violation;
use crate::lab::{Cpu, Property};

pub(super) const ROWS: &[Row] = &[
    row!(
        "S35/drop",
        "A stores to a page that is its own again since the child has exited; B drops it",
        store_and_drop,
        by RESERVED
    ),
    row!(
        "S35/no-page",
        "A stores to a page that a child shares; the child exits, B drops the page and takes the last free one: at no moment was there none for A",
        copy_and_drop,
        by RESERVED
    ),
    row!(
        "S35/protect",
        "A stores to a page that a child shares, and copies it; B, the handler of its faults, write-protects it meanwhile",
        copy_and_protect,
        by RESERVED
    ),
];

fn drops(task: &mut super::LabTask, process: &Process) {
    process.madvise(task, BASE, PMD_SIZE, Advice::DontNeed).expect("mapped");
}

fn store_and_drop(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    let child = bench.fork(&process);
    child.exit(bench.task()).expect("its own task");
    let same = process.clone();
    bench.cpu("store", move |task| store(task, &process, 0));
    bench.cpu("madvise", move |task| drops(task, &same));
}

fn copy_and_drop(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    let child = bench.fork(&process);
    let other_file = bench.file();
    let other = bench.process(&other_file, &[]);
    pool_of(bench, 2);
    let same = process.clone();
    bench.cpu("fault", move |task| fault(task, &process, 0));
    bench.cpu("child exits, madvise, fault elsewhere", move |task| {
        child.exit(task).expect("its own task");
        drops(task, &same);
        may_get(task, &other, 0);
    });
}

fn copy_and_protect(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    bench.fork(&process);
    let handler = Userfault::new(&process, Features::empty()).expect("memory");
    handler.register(bench.task(), BASE, PMD_SIZE, Modes::WP).expect("mapped");
    let same = process.clone();
    // It may be asked of the handler, which leaves.
    bench.cpu("fault", move |task| _ = process.fault(task, page(0), Access::Write));
    bench.cpu("UFFDIO_WRITEPROTECT, store, close", move |task| {
        handler.write_protect(task, page(0), PMD_SIZE, ProtectMode::WP).expect("registered");
        if Cpu::new(&same).store(page(0)).is_some() {
            let text = "I11: a store goes to a page that its handler has write-protected".to_owned();
            violation(text, Property::I11);
        }
        drop(handler);
    });
}
