//! Handlers of faults (userfaultfd) that are told of changes of the mappings, or leave before they are; and faults that find their
//! reason gone.

use std::rc::Rc;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{Entry, Leaf, PMD_SIZE, PUD_SIZE, X86_64};
use hugewalk::error::BadSource;
use hugewalk::fault::Access;
use hugewalk::mm::{Advice, RemapTo};
use hugewalk::source::{Room, Source};
use hugewalk::uffd::{CopyMode, Features, Message, Modes, ProtectMode, Userfault};
use hugewalk::walk::huge_pte_offset;

use super::Scenario;
use super::bench::{BASE, Bench, LabTask, Process, page};
use super::expected::{MISTAKE, NONE, Row};
use super::handlers::{PAGE, bring, faults, handled, resolve};
use super::stores::{PAGES, row};
use crate::explore::violation;
use crate::lab::{Lab, Property};

pub(super) const ROWS: &[Row] = &[
    row!(
        "S45/ahead",
        "the handler brings a page ahead of the fault, which queues, or not yet, or not at all",
        fill_ahead
    ),
    row!("S45/mremap", "a fault queues, or not yet, while its mapping moves away", move_away),
    row!(
        "S45/event",
        "pages are unmapped, and the handler, which asked for that, reads of it",
        told_of_unmapping,
        by TOLD
    ),
    row!(
        "S45/event-move",
        "a mapping moves; the handler reads of the move, and that its old place is free",
        told_of_move,
        by TOLD
    ),
    row!(
        "S45/event-dies",
        "a thread drops pages and waits until the handler has read of it, while the handler's handle is dropped",
        told_of_none
    ),
    row!(
        "S45/event-remove",
        "pages are about to be removed from the file; the handler, which asked for that, unmaps something else, and reads of it",
        told_of_removal,
        by TOLD
    ),
    row!(
        "S45/event-fork",
        "a process forks while its handler brings a page: what it brought before it reads of the fork, the child has too",
        told_of_fork
    ),
    row!(
        "S45/copy-fork",
        "S45/event-fork, and what the handler brings is copied from a source that faults, with no lock held",
        told_of_fork_while_copying
    ),
    row!(
        "S45/copy-fork:looks-once",
        "S45/copy-fork, and the handler does not look again after the copy whether the mappings are changing",
        told_of_fork_while_copying,
        without "look-after-copy"
    ),
    row!(
        "S45/protect-fork",
        "a process forks while its handler protects a page: what it protected before it reads of the fork is so in the child",
        told_of_fork_while_protecting
    ),
    row!(
        "S45/copy-munmap",
        "a handler brings a page from a source that faults, while its mapping goes",
        unmap_while_copying
    ),
];

/// Events are reports.
const TOLD: &[Property] = &[Property::I1, Property::I6, Property::I11, Property::I14, Property::I16];

const ELSEWHERE: VirtAddr = VirtAddr::new(8 * PUD_SIZE);

fn fill_ahead(bench: &mut Bench<'_>) {
    let (process, handler) = handled(bench);
    let handler = Rc::new(handler);
    bench.keep_handler(&handler);
    bench.cpu("fault", move |task| _ = resolve(task, &process, 0, Access::Read));
    bench.cpu("handler", move |task| bring(task, &handler));
}

fn move_away(bench: &mut Bench<'_>) {
    let (process, handler) = handled(bench);
    let handler = Rc::new(handler);
    bench.keep_handler(&handler);
    faults(bench, &process, &handler, Access::Read);
    bench.cpu("mremap", move |task| {
        process.mremap(task, BASE, PMD_SIZE, PMD_SIZE, RemapTo::Fixed(ELSEWHERE)).expect("room");
    });
}

/// A process that maps a file, and a handler that is told of such changes.
fn told(bench: &mut Bench<'_>, of: Features) -> (Process, Rc<Userfault<Lab>>) {
    let file = bench.file();
    let process = bench.process(&file, &[]);
    let handler = Userfault::new(&process, of).expect("memory");
    handler.register(bench.task(), BASE, PUD_SIZE, Modes::MISSING).expect("mapped");
    (process, Rc::new(handler))
}

fn told_of_unmapping(bench: &mut Bench<'_>) {
    let (process, handler) = told(bench, Features::EVENT_UNMAP);
    bench.keep_handler(&handler);
    let same = process.clone();
    bench.cpu("munmap", move |task| same.munmap(task, BASE, PUD_SIZE).expect("aligned"));
    bench.cpu("handler", move |task| {
        let message = handler.read_event(task);
        // An operation that is over holds no lock.
        let is_done = process.mmap_try_read(task).is_some_and(|mmap| mmap.find(BASE).is_none());
        if !matches!(message, Ok(Message::Unmap { .. })) || !is_done {
            let text = format!("I16: a handler reads {message:?}, and nothing is unmapped yet");
            violation(text, Property::I16);
        }
    });
}

fn drops(bench: &mut Bench<'_>, process: &Process, index: u64) {
    let process = process.clone();
    bench.cpu("madvise", move |task| {
        process.madvise(task, page(index), PMD_SIZE, Advice::DontNeed).expect("mapped");
    });
}

fn told_of_move(bench: &mut Bench<'_>) {
    let (process, handler) = told(bench, Features::EVENT_UNMAP | Features::EVENT_REMAP);
    bench.keep_handler(&handler);
    bench.cpu("mremap", move |task| {
        process.mremap(task, BASE, PMD_SIZE, PMD_SIZE, RemapTo::Fixed(ELSEWHERE)).expect("room");
    });
    bench.cpu("handler", move |task| {
        let told = [(); 2].map(|()| handler.read_event(task));
        if !matches!(told, [Ok(Message::Remap { .. }), Ok(Message::Unmap { .. })]) {
            violation(format!("I16: a handler reads of a move: {told:?}"), Property::I16);
        }
    });
}

fn told_of_removal(bench: &mut Bench<'_>) {
    let (process, handler) = told(bench, Features::EVENT_REMOVE);
    bench.keep_handler(&handler);
    let same = process.clone();
    bench.cpu("madvise", move |task| {
        same.madvise(task, BASE, PMD_SIZE, Advice::Remove).expect("mapped");
    });
    bench.cpu("munmap, handler", move |task| {
        // Who waits until the event is read holds no lock meanwhile: this does not wait for that.
        process.munmap(task, ELSEWHERE, PMD_SIZE).expect("aligned");
        let message = handler.read_event(task);
        if !matches!(message, Ok(Message::Remove { .. })) {
            violation(format!("I16: a handler reads {message:?} of a removal"), Property::I16);
        }
    });
}

fn told_of_none(bench: &mut Bench<'_>) {
    let (process, handler) = told(bench, Features::EVENT_REMOVE);
    drops(bench, &process, 0);
    bench.cpu("drop", move |_| drop(handler));
}

/// A source of which nothing is there. It takes the lock that each fault of the process takes first.
struct Absent(Process);

impl Source<Lab> for Absent {
    fn copy(&mut self, _: u64, room: &mut Room<'_, Lab>, task: &mut LabTask) -> Result<(), BadSource> {
        drop(self.0.mmap_read(task));
        room.write(&PAGE);
        Ok(())
    }
}

fn told_of_fork(bench: &mut Bench<'_>) {
    fork_while_bringing(bench, |task, handler, _| {
        handler.copy(task, page(0), &PAGE, CopyMode::empty()).is_ok()
    });
}

fn told_of_fork_while_copying(bench: &mut Bench<'_>) {
    fork_while_bringing(bench, |task, handler, process| {
        handler.copy_from(task, page(0), PMD_SIZE, &mut Absent(process), CopyMode::empty()).is_ok()
    });
}

fn fork_while_bringing(
    bench: &mut Bench<'_>,
    bring: impl FnOnce(&mut LabTask, &Userfault<Lab>, Process) -> bool + 'static,
) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    process.madvise(bench.task(), BASE, PMD_SIZE, Advice::DontNeed).expect("mapped");
    fork_while(bench, &process, Modes::MISSING, bring, |_| true);
}

fn told_of_fork_while_protecting(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    let protect = |task: &mut LabTask, handler: &Userfault<Lab>, _| {
        handler.write_protect(task, BASE, PMD_SIZE, ProtectMode::WP).is_ok()
    };
    fork_while(bench, &process, Modes::WP, protect, Leaf::is_protected);
}

/// A fork, and a handler that changes page 0 in a way that shows in its entry, and says whether it could.
fn fork_while(
    bench: &mut Bench<'_>,
    process: &Process,
    modes: Modes,
    change: impl FnOnce(&mut LabTask, &Userfault<Lab>, Process) -> bool + 'static,
    shows: impl FnOnce(Leaf) -> bool + 'static,
) {
    let handler = Userfault::new(process, Features::EVENT_FORK).expect("memory");
    handler.register(bench.task(), BASE, PMD_SIZE, modes).expect("mapped");
    let nursery = bench.nursery();
    let (process, same) = (process.clone(), process.clone());
    bench.cpu("fork", move |task| nursery.keep(process.fork(task).expect("memory")));
    bench.cpu("handler", move |task| {
        // It is refused as long as there is something to read.
        let has_changed = change(task, &handler, same);
        if let Ok(Message::Fork(child)) = handler.read_event(task)
            && has_changed
            && !leaf(task, child.address_space()).is_some_and(shows)
        {
            let text = "I13: a child has not what its parent's handler did before it read of the fork";
            violation(text.to_owned(), Property::I13);
        }
    });
}

fn unmap_while_copying(bench: &mut Bench<'_>) {
    let file = bench.file();
    let process = bench.private_written(&file, 1);
    process.madvise(bench.task(), BASE, PMD_SIZE, Advice::DontNeed).expect("mapped");
    let handler = Userfault::new(&process, Features::empty()).expect("memory");
    handler.register(bench.task(), BASE, PMD_SIZE, Modes::MISSING).expect("mapped");
    let same = process.clone();
    bench.cpu("handler", move |task| {
        // The mapping may be gone.
        let _ = handler.copy_from(task, page(0), PMD_SIZE, &mut Absent(same), CopyMode::empty());
    });
    bench.cpu("munmap", move |task| process.munmap(task, BASE, PMD_SIZE).expect("aligned"));
}

/// What a process has at page 0.
fn leaf(task: &mut LabTask, process: &Process) -> Option<Leaf> {
    let mmap = process.mmap_read(task);
    let locked = mmap.find(BASE).and_then(|vma| mmap.lock_vma(vma, task))?;
    let slot = huge_pte_offset(&locked, process.mm(), BASE, X86_64::SIZE_2M).ok().flatten()?;
    if let Entry::Leaf(leaf) = slot.read() { Some(leaf) } else { None }
}
