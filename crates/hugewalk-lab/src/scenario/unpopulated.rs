//! Handlers that protect places where nothing is mapped (`UFFD_FEATURE_WP_UNPOPULATED`): what comes there is protected, and whoever stores
//! to it waits for the handler.

use std::rc::Rc;

use hugewalk::arch::{PMD_SIZE, PUD_SIZE};
use hugewalk::fault::{Access, Fault};
use hugewalk::uffd::{Features, Message, Modes, ProtectMode, Userfault};

use super::Scenario;
use super::bench::{BASE, Bench, File, LabTask, Process, page};
use super::expected::{EVERY_MISTAKE, MISTAKE, NONE, OWN, Row};
use super::handlers::{bring, faults, resolve};
use super::stores::{PAGES, row};
use crate::lab::{Cpu, Flaw, Lab, Property};

const FREED: &[Property] = &[Property::I1];

pub(super) const ROWS: &[Row] = &[
    row!(
        "S76",
        "nothing is mapped; a processor stores while the handler protects the place, and takes that back",
        protect_again
    ),
    row!("S76:no-flush", "S76, and the handler does not flush", protect_again, on Flaw::NoFlush),
    row!("S76/load", "nothing is mapped; A loads while B, the handler, protects the place", protect_and_load),
    row!(
        "S76/asked",
        "a store meets a protection where nothing is mapped; the handler takes it away",
        asked_where_empty
    ),
    row!(
        "S76/asked:look-first",
        "S76/asked, and the fault looks first and queues then",
        asked_where_empty,
        without "queue-then-look"
    ),
    row!("S76/punch", "a store meets the handler's protection, which stays when B punches the page out", punched_out, by FREED),
    row!("S76/fork", "a store meets the handler's protection of a private page; B forks", forked, by PAGES, is OWN),
    row!(
        "S76/unshare",
        "A stores through a table that is shared; B registers the mapping, which unshares, and protects the place",
        unshared
    ),
    row!(
        "S76/unshare:leaves-only",
        "S76/unshare, and the flush is one for leaves alone",
        unshared,
        without "flush-tables"
    ),
    row!(
        "S76/bring",
        "a fault queues, or not yet; one thread of the handler brings the page, another protects it",
        brought_and_protected,
        by FREED,
        is OWN
    ),
    row!(
        "S76/bring:empty-first",
        "S76/bring, on a machine where an entry is emptied before it is changed",
        |bench| {
            bench.flawed(Flaw::EmptyFirst);
            brought_and_protected(bench);
        },
        by FREED,
        is MISTAKE
    ),
];

fn handler(bench: &mut Bench<'_>, process: &Process, length: u64, modes: Modes) -> Rc<Userfault<Lab>> {
    let handler = Userfault::new(process, Features::WP_UNPOPULATED).expect("memory");
    handler.register(bench.task(), BASE, length, modes).expect("mapped");
    Rc::new(handler)
}

fn protect(task: &mut LabTask, handler: &Userfault<Lab>, mode: ProtectMode) {
    handler.write_protect(task, BASE, PMD_SIZE, mode).expect("registered");
}

/// Waits for a fault, and takes the protection away that it met.
fn resolve_one(task: &mut LabTask, handler: &Userfault<Lab>) {
    if let Ok(Message::Pagefault(_)) = handler.read_event(task) {
        protect(task, handler, ProtectMode::empty());
    }
}

/// A process that has touched page 1, so that there is a table, and the handler of its faults.
fn with_a_hole(bench: &mut Bench<'_>) -> (File, Process, Rc<Userfault<Lab>>) {
    let file = bench.file();
    let process = bench.process(&file, &[1]);
    let handler = handler(bench, &process, PUD_SIZE, Modes::WP);
    (file, process, handler)
}

fn protect_again(bench: &mut Bench<'_>) {
    let (_file, process, handler) = with_a_hole(bench);
    let same = process.clone();
    let kept = handler.clone();
    bench.cpu("store, store", move |task| {
        super::stores::store(task, &same, 0);
        super::stores::store(task, &same, 0);
        drop(kept);
    });
    bench.cpu("handler", move |task| {
        protect(task, &handler, ProtectMode::WP);
        protect(task, &handler, ProtectMode::empty());
    });
}

fn protect_and_load(bench: &mut Bench<'_>) {
    let (_file, process, handler) = with_a_hole(bench);
    let kept = handler.clone();
    bench.cpu("load", move |task| {
        let mut cpu = Cpu::new(&process);
        while cpu.load(page(0)).is_none() {
            process.fault(task, page(0), Access::Read).expect("a page");
        }
        drop(kept);
    });
    bench.cpu("handler", move |task| protect(task, &handler, ProtectMode::WP));
}

fn asked_where_empty(bench: &mut Bench<'_>) {
    let (_file, process, handler) = with_a_hole(bench);
    protect(bench.task(), &handler, ProtectMode::WP);
    faults(bench, &process, &handler, Access::Write);
    bench.cpu("handler", move |task| resolve_one(task, &handler));
}

fn punched_out(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let handler = handler(bench, &process, PUD_SIZE, Modes::WP);
    protect(bench.task(), &handler, ProtectMode::WP);
    let kept = handler.clone();
    bench.cpu("fault", move |task| {
        // A page that is brought where a protection was is protected: the store is tried again.
        let again = |fault| matches!(fault, Ok(Fault::Raced | Fault::Fresh | Fault::Mapped));
        while again(process.fault(task, page(0), Access::Write)) {}
        drop(kept);
    });
    bench.cpu("fallocate, handler", move |task| {
        file.punch_hole(task, 0, PMD_SIZE).expect("aligned");
        resolve_one(task, &handler);
    });
}

fn forked(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    let handler = handler(bench, &process, PMD_SIZE, Modes::WP);
    protect(bench.task(), &handler, ProtectMode::WP);
    faults(bench, &process, &handler, Access::Write);
    bench.cpu("handler", move |task| resolve_one(task, &handler));
    let nursery = bench.nursery();
    bench.cpu("fork", move |task| nursery.keep(process.fork(task).expect("memory")));
}

fn unshared(bench: &mut Bench<'_>) {
    let file = bench.file();
    let _other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[0]);
    let handler = Rc::new(Userfault::new(&process, Features::WP_UNPOPULATED).expect("memory"));
    bench.keep_handler(&handler);
    bench.cpu("store, store", move |_| {
        let mut cpu = Cpu::new(&process);
        cpu.store(page(0));
        cpu.store(page(0));
    });
    bench.cpu("register, UFFDIO_WRITEPROTECT", move |task| {
        handler.register(task, BASE, PUD_SIZE, Modes::WP).expect("mapped");
        protect(task, &handler, ProtectMode::WP);
    });
}

/// Nobody reads what the fault asks: there is a page, or will be in a moment, and who brings it wakes.
fn brought_and_protected(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[]);
    let handler = handler(bench, &process, PUD_SIZE, Modes::MISSING | Modes::WP);
    let (same, kept) = (process.clone(), handler.clone());
    bench.cpu("fault", move |task| {
        resolve(task, &same, 0, Access::Read);
        drop(kept);
    });
    let same = handler.clone();
    bench.cpu("handler", move |task| bring(task, &same));
    bench.cpu("handler, too", move |task| protect(task, &handler, ProtectMode::WP));
}
