//! Handlers of faults (userfaultfd) that fill, wake, unregister, leave and die while faults queue.

use std::rc::Rc;

use hugewalk::arch::{PMD_SIZE, PUD_SIZE};
use hugewalk::fault::{Access, FaultError};
use hugewalk::uffd::{
    ContinueMode, CopyMode, Features, Message, Modes, ProtectMode, Userfault, UserfaultError,
};

use super::Scenario;
use super::bench::{BASE, Bench, File, LabTask, Process, page};
use super::expected::{EVERY_MISTAKE, MISTAKE, NONE, Row};
use super::stores::{PAGES, row};
use crate::explore::violation;
use crate::lab::{Cpu, Flaw, Lab};

pub(super) const ROWS: &[Row] = &[
    row!("S45", "a fault queues; the handler brings the page", fill),
    row!("S45:late-fill", "S45, and the page is filled after it is mapped", fill, on Flaw::LateFill),
    row!("S45:look-first", "S45, and the fault looks first and queues then", fill, without "queue-then-look"),
    row!(
        "S45/private",
        "the handler brings a page of a private mapping while the file is truncated",
        fill_private,
        by super::reservations::RESERVED
    ),
    row!(
        "S45/punch",
        "a fault queues, or not yet; the handler brings the page, punches it out again, and leaves",
        fill_and_punch
    ),
    row!(
        "S45/wake",
        "a fault queues; the handler wakes it, and unregisters for the fault that comes back",
        wake_and_unregister
    ),
    row!("S45/unregister", "a fault queues, or not yet, while the handler unregisters", unregister),
    row!("S45/dies", "a fault queues, or not yet, while the handler's handle is dropped", die),
    row!("S45/dies:look-first", "S45/dies, and the fault looks first and queues then", die, without "queue-then-look"),
    row!("S45/close", "a fault queues, or not yet, while the handler closes", close),
    row!("S45/exit", "a fault queues, or not yet, while the address space exits", exit),
    row!(
        "S45/exit-read",
        "the handler waits for a message, or not yet, while the address space exits",
        exit_and_read
    ),
    row!(
        "S45/exit-two",
        "two threads of the handler wait for a message, or not yet, while the address space exits",
        exit_and_read_twice
    ),
    row!("S45/munmap", "a fault queues, or not yet, while the mapping goes", unmap),
    row!("S45/protect", "a store meets the handler's protection; the handler takes it away", protect),
    row!(
        "S45/protect-again",
        "a processor stores while the handler protects the page, and takes that back",
        protect_again
    ),
    row!(
        "S45/protect-again:no-flush",
        "S45/protect-again, and the handler does not flush",
        protect_again,
        on Flaw::NoFlush
    ),
    row!("S45/minor", "a fault finds the file's page, and the handler maps it", minor),
    row!(
        "S45/minor-punch",
        "the handler maps the file's page, which is punched out; a processor loads",
        minor_and_punch
    ),
    row!(
        "S45/migrate",
        "a store meets the handler's protection; the page moves; the handler takes the protection away",
        protect_and_migrate
    ),
];

/// What the handler brings. Nobody looks at the bytes.
pub(super) static PAGE: [u8; PMD_SIZE as usize] = [0; PMD_SIZE as usize];

/// A fault, as a thread takes it that loads: until it can, or is not allowed to.
fn load(task: &mut LabTask, process: &Process, index: u64) {
    let mut cpu = Cpu::new(process);
    while cpu.load(page(index)).is_none() && resolve(task, process, index, Access::Read) {}
}

fn store(task: &mut LabTask, process: &Process, index: u64) {
    let mut cpu = Cpu::new(process);
    while cpu.store(page(index)).is_none() && resolve(task, process, index, Access::Write) {}
}

/// One fault. False if there is nothing to come to.
pub(super) fn resolve(task: &mut LabTask, process: &Process, index: u64, access: Access) -> bool {
    match process.fault(task, page(index), access) {
        Ok(_) => true,
        Err(FaultError::NotMapped { .. } | FaultError::BeyondEof { .. }) => false,
        Err(error) => {
            violation(format!("a fault fails: {error}"), error);
            false
        }
    }
}

/// Brings page 0 to whoever waits for it. Somebody else may have been faster, or the place may be gone.
pub(super) fn bring(task: &mut LabTask, handler: &Userfault<Lab>) {
    match handler.copy(task, page(0), &PAGE, CopyMode::empty()) {
        Ok(()) => {}
        Err(_) => handler.wake(page(0), PMD_SIZE).expect("a range"),
    }
}

/// Waits for a fault. False if there will be none.
fn asked(task: &mut LabTask, handler: &Userfault<Lab>) -> bool {
    match handler.read_event(task) {
        Ok(Message::Pagefault(_)) => true,
        Ok(_) | Err(UserfaultError::Exited) => false,
        Err(error) => {
            violation(format!("no message: {error}"), error);
            false
        }
    }
}

fn handler(bench: &mut Bench<'_>, process: &Process, modes: Modes) -> Userfault<Lab> {
    let handler = Userfault::new(process, Features::empty()).expect("memory");
    handler.register(bench.task(), BASE, PUD_SIZE, modes).expect("mapped");
    handler
}

/// A process with nothing in it yet, and its handler.
pub(super) fn handled(bench: &mut Bench<'_>) -> (Process, Userfault<Lab>) {
    let file = bench.file();
    let process = bench.process(&file, &[]);
    let handler = handler(bench, &process, Modes::MISSING);
    (process, handler)
}

/// A processor that faults, and keeps the handle meanwhile: the end of the handler's thread is not the end of the handler, which
/// would wake whoever waits.
pub(super) fn faults(bench: &mut Bench<'_>, process: &Process, handler: &Rc<Userfault<Lab>>, access: Access) {
    let (process, kept) = (process.clone(), handler.clone());
    bench.cpu(if access == Access::Write { "store" } else { "load" }, move |task| {
        let come = if access == Access::Write { store } else { load };
        come(task, &process, 0);
        drop(kept);
    });
}

fn fill(bench: &mut Bench<'_>) {
    let (process, handler) = handled(bench);
    let handler = Rc::new(handler);
    faults(bench, &process, &handler, Access::Read);
    bench.cpu("handler", move |task| {
        asked(task, &handler);
        bring(task, &handler);
    });
}

fn fill_private(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private(&file, 2);
    let handler = Userfault::new(&process, Features::empty()).expect("memory");
    handler.register(bench.task(), BASE, 2 * PMD_SIZE, Modes::MISSING).expect("mapped");
    bench.cpu("handler", move |task| {
        // What lies beyond the end of the file may be refused.
        let _ = handler.copy(task, page(1), &PAGE, CopyMode::empty());
    });
    bench.cpu("truncate", move |task| file.truncate(task, PMD_SIZE).expect("aligned"));
    bench.cpu("load", move |_| _ = Cpu::new(&process).load(page(1)));
}

fn fill_and_punch(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[]);
    let handler = handler(bench, &process, Modes::MISSING);
    bench.cpu("fault", move |task| _ = resolve(task, &process, 0, Access::Read));
    bench.cpu("handler", move |task| {
        bring(task, &handler);
        file.punch_hole(task, 0, PMD_SIZE).expect("aligned");
        drop(handler);
    });
}

fn wake_and_unregister(bench: &mut Bench<'_>) {
    let (process, handler) = handled(bench);
    let handler = Rc::new(handler);
    faults(bench, &process, &handler, Access::Read);
    bench.cpu("handler", move |task| {
        asked(task, &handler);
        handler.wake(page(0), PMD_SIZE).expect("a range");
        handler.unregister(task, BASE, PUD_SIZE).expect("registered");
    });
}

fn unregister(bench: &mut Bench<'_>) {
    let (process, handler) = handled(bench);
    let handler = Rc::new(handler);
    faults(bench, &process, &handler, Access::Read);
    bench.cpu("unregister", move |task| handler.unregister(task, BASE, PUD_SIZE).expect("registered"));
}

fn die(bench: &mut Bench<'_>) {
    let (process, handler) = handled(bench);
    bench.cpu("load", move |task| load(task, &process, 0));
    bench.cpu("drop", move |_| drop(handler));
}

fn close(bench: &mut Bench<'_>) {
    let (process, handler) = handled(bench);
    bench.cpu("load", move |task| load(task, &process, 0));
    bench.cpu("close", move |task| drop(handler.close(task)));
}

fn exit(bench: &mut Bench<'_>) {
    let (process, handler) = handled(bench);
    let (same, handler) = (process.clone(), Rc::new(handler));
    let kept = handler.clone();
    bench.cpu("fault", move |task| {
        resolve(task, &process, 0, Access::Read);
        drop(kept);
    });
    bench.cpu("exit", move |task| {
        same.exit(task).expect("its own task");
        drop(handler);
    });
}

fn exit_and_read(bench: &mut Bench<'_>) {
    let (process, handler) = handled(bench);
    bench.cpu("handler", move |task| while asked(task, &handler) {});
    bench.cpu("exit", move |task| process.exit(task).expect("its own task"));
}

fn exit_and_read_twice(bench: &mut Bench<'_>) {
    let (process, handler) = handled(bench);
    let handler = Rc::new(handler);
    for _ in 0..2 {
        let handler = handler.clone();
        bench.cpu("handler", move |task| while asked(task, &handler) {});
    }
    bench.cpu("exit", move |task| process.exit(task).expect("its own task"));
}

fn unmap(bench: &mut Bench<'_>) {
    let (process, handler) = handled(bench);
    let handler = Rc::new(handler);
    faults(bench, &process, &handler, Access::Read);
    bench.cpu("munmap", move |task| process.munmap(task, BASE, PUD_SIZE).expect("aligned"));
}

/// A process whose page 0 the handler has protected.
fn protected(bench: &mut Bench<'_>) -> (Process, Userfault<Lab>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let handler = handler(bench, &process, Modes::WP);
    handler.write_protect(bench.task(), BASE, PMD_SIZE, ProtectMode::WP).expect("registered");
    (process, handler)
}

fn unprotect(task: &mut LabTask, handler: &Userfault<Lab>) {
    handler.write_protect(task, BASE, PMD_SIZE, ProtectMode::empty()).expect("registered");
}

fn protect(bench: &mut Bench<'_>) {
    let (process, handler) = protected(bench);
    let handler = Rc::new(handler);
    faults(bench, &process, &handler, Access::Write);
    bench.cpu("handler", move |task| {
        asked(task, &handler);
        unprotect(task, &handler);
    });
}

fn protect_again(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.process(&file, &[0]);
    let handler = Rc::new(handler(bench, &process, Modes::WP));
    faults(bench, &process, &handler, Access::Write);
    bench.cpu("handler", move |task| {
        handler.write_protect(task, BASE, PMD_SIZE, ProtectMode::WP).expect("registered");
        unprotect(task, &handler);
    });
}

fn minor(bench: &mut Bench<'_>) {
    let (_file, process, handler) = unmapped(bench);
    let handler = Rc::new(handler);
    faults(bench, &process, &handler, Access::Read);
    bench.cpu("handler", move |task| {
        asked(task, &handler);
        handler.continue_range(task, page(0), PMD_SIZE, ContinueMode::empty()).expect("in the file");
    });
}

/// A process that does not map the file's page 0 yet, and its handler.
fn unmapped(bench: &mut Bench<'_>) -> (File, Process, Userfault<Lab>) {
    let file = bench.file();
    let _other = bench.process(&file, &[0]);
    let process = bench.process(&file, &[]);
    let handler = handler(bench, &process, Modes::MINOR);
    (file, process, handler)
}

fn minor_and_punch(bench: &mut Bench<'_>) {
    let (file, process, handler) = unmapped(bench);
    bench.cpu("handler", move |task| {
        // The page may be gone.
        let _ = handler.continue_range(task, page(0), PMD_SIZE, ContinueMode::empty());
    });
    bench.cpu("fallocate", move |task| file.punch_hole(task, 0, PMD_SIZE).expect("aligned"));
    bench.cpu("load, load", move |_| {
        let mut cpu = Cpu::new(&process);
        cpu.load(page(0));
        cpu.load(page(0));
    });
}

fn protect_and_migrate(bench: &mut Bench<'_>) {
    let (process, handler) = protected(bench);
    let frame = bench.frame(&process, 0);
    let handler = Rc::new(handler);
    faults(bench, &process, &handler, Access::Write);
    bench.cpu("migrate, handler", move |task| {
        let hugetlb = task.hugetlb().clone();
        // Somebody may hold it.
        let _ = hugetlb.migrate(task, frame);
        unprotect(task, &handler);
    });
}
