//! Pages that move elsewhere, and pages that stay where they are after all.

use hugewalk::arch::PMD_SIZE;
use hugewalk::fault::Access;
use hugewalk::gup::GupFlags;

use super::Scenario;
use super::bench::{Bench, LabTask, Process, page};
use super::expected::{EVERY_MISTAKE, NONE, Row};
use super::failures::{loads, migrate};
use super::rmap::{pin_and_store, store_to_pinned};
use super::stores::{PAGES, row, store};
use crate::lab::{Cpu, Flaw};

pub(super) const ROWS: &[Row] = &[
    row!("S50", "A pins a page, and stores to it; B tries to move it, and puts it back", put_back),
    row!(
        "S50/private",
        "S50 with a private page, which has no VMA lock: a fault that looks in between does not fail",
        put_back_private
    ),
    row!("S50/read", "a page moves elsewhere while somebody reads it by the file", move_and_read),
    row!(
        "S50/read:late-reference",
        "S50/read, and the reader takes its reference after the lock of the cache",
        move_and_read,
        on Flaw::LateReference
    ),
    row!(
        "S50/write",
        "a page moves elsewhere while somebody writes it by the file, and a processor loads",
        move_and_write
    ),
    row!(
        "S50/zero",
        "a page moves elsewhere while a hole is punched into a part of it, which becomes zeroes, and a processor loads",
        move_and_zero
    ),
    row!(
        "S50/pin-write",
        "a page moves elsewhere while somebody pins it, writes to it by the pin, and lets go",
        move_and_write_by_pin
    ),
    row!(
        "S50/fork",
        "a private page moves elsewhere while its process forks; the child stores",
        move_and_fork
    ),
    row!(
        "S50/fork-store",
        "a private page moves elsewhere while its process forks; the child loads, the parent stores, the child loads again",
        move_fork_and_store
    ),
    row!(
        "S50/pin-fork",
        "A pins a private page without locks, forks, and stores to it; B tries to move it, and puts it back",
        pin_fork_and_move
    ),
    row!(
        "S50/shared",
        "a private page that a fork shares moves elsewhere; A pins it without locks if it has it to itself, and stores",
        move_shared_and_pin
    ),
    row!(
        "S50/twice",
        "a page moves elsewhere, and on from there, while a fault waits for it",
        move_twice_and_fault
    ),
    row!(
        "S50/let-go",
        "somebody holds a page, punches it out, and lets go of it; B tries to move it",
        punch_and_let_go
    ),
];

/// A page is pinned, stored to, and moved.
fn pin_and_move(bench: &mut Bench<'_>, process: &Process) {
    let frame = bench.frame(process, 0);
    migrate(bench, frame);
    let same = process.clone();
    bench.cpu("GUP-fast, store", move |task| {
        let pin = same.pin_page_fast(task, page(0), GupFlags::PIN).map(|pin| pin.into_owned());
        store(task, &same, 0);
        drop(pin);
    });
}

fn put_back(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    pin_and_move(bench, &process);
}

fn put_back_private(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    pin_and_move(bench, &process);
}

fn move_and_read(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    migrate(bench, frame);
    bench.cpu("read", move |_| _ = file.read_at(0, &mut [0; 8]));
}

fn move_and_write(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    migrate(bench, frame);
    bench.cpu("write", move |task| file.write_at(task, 0, &[1; 8]).expect("a page"));
    loads(bench, &process);
}

fn move_and_zero(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    migrate(bench, frame);
    bench.cpu("fallocate", move |task| file.punch_hole(task, 0, PMD_SIZE / 2).expect("in the file"));
    loads(bench, &process);
}

fn move_and_write_by_pin(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    migrate(bench, frame);
    bench.cpu("GUP-fast, write", move |task| {
        if let Some(pin) = process.pin_page_fast(task, page(0), GupFlags::PIN | GupFlags::WRITE) {
            pin.write(0, &[1; 8]).expect("pinned for that");
        }
    });
}

fn move_and_fork(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    let frame = bench.frame(&process, 0);
    migrate(bench, frame);
    let nursery = bench.nursery();
    bench.cpu("fork, child stores", move |task| {
        let child = process.fork(task).expect("memory");
        store(task, &child, 0);
        nursery.keep(child);
    });
}

/// A load of this processor, with the faults that it takes.
fn load(task: &mut LabTask, process: &Process, cpu: &mut Cpu<'_>) {
    while cpu.load(page(0)).is_none() {
        if process.fault(task, page(0), Access::Read).is_err() {
            return;
        }
    }
}

fn move_fork_and_store(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    let frame = bench.frame(&process, 0);
    migrate(bench, frame);
    let nursery = bench.nursery();
    bench.cpu("fork, child loads, store, child loads", move |task| {
        let child = process.fork(task).expect("memory");
        let mut cpu = Cpu::new(&child);
        load(task, &child, &mut cpu);
        store(task, &process, 0);
        load(task, &child, &mut cpu);
        nursery.keep(child);
    });
}

fn pin_fork_and_move(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    let frame = bench.frame(&process, 0);
    migrate(bench, frame);
    let nursery = bench.nursery();
    bench.cpu("GUP-fast, fork, store", move |task| {
        let flags = GupFlags::PIN | GupFlags::WRITE;
        let pin = process.pin_page_fast(task, page(0), flags).map(|pin| pin.into_owned());
        let Some(pin) = pin else { return };
        nursery.keep(process.fork(task).expect("memory"));
        store_to_pinned(task, &process, &pin);
    });
}

fn move_shared_and_pin(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    bench.fork(&process);
    let frame = bench.frame(&process, 0);
    migrate(bench, frame);
    pin_and_store(bench, &process, GupFlags::PIN);
}

fn punch_and_let_go(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    let held = process.follow_page(bench.task(), page(0), GupFlags::empty()).expect("no failure");
    migrate(bench, frame);
    bench.cpu("fallocate, put_page", move |task| {
        file.punch_hole(task, 0, PMD_SIZE).expect("aligned");
        drop(held);
    });
}

fn move_twice_and_fault(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    bench.cpu("migrate, migrate", move |task| {
        let hugetlb = task.hugetlb().clone();
        // Somebody may hold it.
        if let Ok(next) = hugetlb.migrate(task, frame) {
            let _ = hugetlb.migrate(task, next);
        }
    });
    bench.cpu("fault", move |task| store(task, &process, 0));
}
