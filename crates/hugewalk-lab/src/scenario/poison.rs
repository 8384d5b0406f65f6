//! Handlers that say that a page is lost (`UFFDIO_POISON`): whoever comes to it gets an error, until something takes its place.

use std::rc::Rc;

use hugewalk::arch::{PMD_SIZE, PUD_SIZE};
use hugewalk::fault::{Access, FaultError};
use hugewalk::mm::Advice;
use hugewalk::uffd::{CopyMode, Features, Message, Modes, PoisonMode, Userfault, UserfaultError};

use super::Scenario;
use super::bench::{BASE, Bench, LabTask, Process, page};
use super::expected::{MISTAKE, NONE, OWN, Row};
use super::handlers::{PAGE, handled};
use super::stores::{PAGES, row};
use crate::explore::violation;
use crate::lab::{Cpu, Lab, Property};

/// As [`PAGES`], where a page may go with what was stored to it.
const GOES: &[Property] =
    &[Property::I1, Property::I3, Property::I6, Property::I11, Property::I12, Property::I14];

pub(super) const ROWS: &[Row] = &[
    row!("S77", "a fault queues, or not yet; the handler says that the page is lost", queued),
    row!("S77:look-first", "S77, and the fault looks first and queues then", queued, without "queue-then-look"),
    row!("S77/asked", "a fault queues; the handler reads that, and says that the page is lost", asked),
    row!(
        "S77/copy",
        "a page is lost; a load meets that while the handler brings the page all the same",
        copied
    ),
    row!("S77/store", "a store brings a page in while the handler says that it is lost", stored),
    row!("S77/punch", "a load meets a page that is lost; B makes a hole there, and the handler leaves", punched_out, by GOES, is OWN),
    row!(
        "S77/fork",
        "a private page is lost, or not yet, while its process forks; a processor loads",
        forked,
        by PAGES,
        is OWN
    ),
    row!(
        "S77/unshare",
        "a page is lost in a table that is shared; B gives the table up; C loads through it",
        unshared
    ),
    row!(
        "S77/migrate",
        "the handler says that a page is lost that is moved elsewhere, and which a store finds",
        migrated,
        by PAGES,
        is OWN
    ),
];

/// A processor that comes to a page until it can, or hears that the page is lost.
fn comes(bench: &mut Bench<'_>, process: &Process, index: u64, access: Access, kept: &Rc<Userfault<Lab>>) {
    let (process, kept) = (process.clone(), kept.clone());
    bench.cpu(if access == Access::Write { "store" } else { "load" }, move |task| {
        let mut cpu = Cpu::new(&process);
        let mut tries =
            || if access == Access::Write { cpu.store(page(index)) } else { cpu.load(page(index)) };
        while tries().is_none() {
            match process.fault(task, page(index), access) {
                Ok(_) => {}
                Err(FaultError::Hwpoison { .. } | FaultError::NotMapped { .. }) => break,
                Err(error) => violation(format!("a fault fails: {error}"), error),
            }
        }
        drop(kept);
    });
}

/// Says that page 0 is lost. There may be a page.
fn lose(task: &mut LabTask, handler: &Userfault<Lab>, index: u64) {
    match handler.poison(task, page(index), PMD_SIZE, PoisonMode::empty()) {
        Ok(()) => {}
        Err(stopped) if matches!(stopped.error, UserfaultError::Exists { .. }) => {}
        Err(error) => violation(format!("nothing is lost: {error}"), error),
    }
}

fn queued(bench: &mut Bench<'_>) {
    let (process, handler) = handled(bench);
    let handler = Rc::new(handler);
    comes(bench, &process, 0, Access::Read, &handler);
    bench.cpu("handler", move |task| lose(task, &handler, 0));
}

fn asked(bench: &mut Bench<'_>) {
    let (process, handler) = handled(bench);
    let handler = Rc::new(handler);
    comes(bench, &process, 0, Access::Write, &handler);
    bench.cpu("handler", move |task| {
        if let Ok(Message::Pagefault(_)) = handler.read_event(task) {
            lose(task, &handler, 0);
        }
    });
}

fn copied(bench: &mut Bench<'_>) {
    let (process, handler) = handled(bench);
    let handler = Rc::new(handler);
    lose(bench.task(), &handler, 0);
    comes(bench, &process, 0, Access::Write, &handler);
    bench.cpu("handler", move |task| {
        handler.copy(task, page(0), &PAGE, CopyMode::empty()).expect("what is lost may be brought");
    });
}

/// A handler that is not asked for what is missing.
fn not_asked(bench: &mut Bench<'_>, process: &Process, length: u64) -> Rc<Userfault<Lab>> {
    let handler = Userfault::new(process, Features::empty()).expect("memory");
    handler.register(bench.task(), BASE, length, Modes::WP).expect("mapped");
    Rc::new(handler)
}

fn stored(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[1]);
    let handler = not_asked(bench, &process, PUD_SIZE);
    comes(bench, &process, 0, Access::Write, &handler);
    bench.cpu("handler", move |task| lose(task, &handler, 0));
}

fn punched_out(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[1]);
    let handler = not_asked(bench, &process, PUD_SIZE);
    comes(bench, &process, 0, Access::Write, &handler);
    let same = handler.clone();
    bench.cpu("handler", move |task| {
        lose(task, &same, 0);
        drop(same);
    });
    bench.cpu("fallocate", move |task| {
        file.punch_hole(task, 0, PMD_SIZE).expect("aligned");
        drop(handler);
    });
}

fn forked(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    process.madvise(bench.task(), BASE, PMD_SIZE, Advice::DontNeed).expect("mapped");
    let handler = not_asked(bench, &process, PMD_SIZE);
    comes(bench, &process, 0, Access::Write, &handler);
    bench.cpu("handler", move |task| lose(task, &handler, 0));
    let nursery = bench.nursery();
    bench.cpu("fork", move |task| nursery.keep(process.fork(task).expect("memory")));
}

fn unshared(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let handler = Userfault::new(&process, Features::empty()).expect("memory");
    // A mapping that is registered for this alone may share its tables.
    handler.register(bench.task(), BASE, PUD_SIZE, Modes::MISSING).expect("mapped");
    let handler = Rc::new(handler);
    let other = bench.process(&file, &[0]);
    comes(bench, &other, 1, Access::Write, &handler);
    bench.cpu("handler", move |task| lose(task, &handler, 1));
    bench.cpu("madvise", move |task| super::dont_need(task, &other));
}

fn migrated(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let frame = bench.frame(&process, 0);
    let handler = not_asked(bench, &process, PUD_SIZE);
    comes(bench, &process, 0, Access::Write, &handler);
    bench.cpu("handler", move |task| lose(task, &handler, 0));
    bench.cpu("migrate", move |task| {
        let hugetlb = task.hugetlb().clone();
        // Somebody may hold it.
        let _ = hugetlb.migrate(task, frame);
    });
}
