//! What the threads of a program, and what they share, ask of the machine they run on.

use std::any::Any;
use std::cell::Cell;
use std::panic::Location;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};

use corosensei::Yielder;

use super::{Mode, Vm};
use crate::explorer::arena;
use crate::explorer::clock::MAX_THREADS;
use crate::explorer::op::{Object, Op, Wait};

thread_local! {
    pub(super) static VM: Cell<*mut Vm> = const { Cell::new(null_mut()) };
    pub(super) static MOVING: Cell<bool> = const { Cell::new(false) };
    pub(super) static TRACING: Cell<bool> = const { Cell::new(false) };
}

/// Are the threads of a program moving, rather than being set up or done?
#[inline]
pub fn is_moving() -> bool {
    MOVING.get()
}

/// Runs `work` on the machine of this OS thread, if there is one. `work` does not switch.
pub(super) fn with<R>(work: impl FnOnce(&mut Vm) -> R) -> Option<R> {
    // SAFETY: the pointer was set by `Vm::execute`, which keeps the machine alive meanwhile and touches it only while no
    // coroutine is inside `with`; `work` neither switches nor calls back, so this is the only reference.
    unsafe { VM.get().as_mut() }.map(|vm| arena::outside(|| work(vm)))
}

/// Announces an operation, and returns when it is this thread's turn to carry it out.
#[inline]
pub fn access(op: &Op) {
    let vm = VM.get();
    if vm.is_null() {
        return;
    }
    // SAFETY: as in `with`.
    let switch = arena::outside(|| unsafe { (*vm).arrive(op) });
    if let Some(yielder) = switch {
        suspend(yielder);
    }
}

/// More than suspending takes of the stack.
const MARGIN: usize = 1024;

#[inline(never)]
fn suspend(yielder: *const Yielder<(), ()>) {
    let here = 0_u8;
    let low = (&raw const here).addr() - MARGIN;
    with(|vm| vm.threads[vm.suspending].low = low);
    // What others allocate meanwhile is not this thread's.
    let _asks_again = arena::not_asking();
    // SAFETY: the yielder lives on the stack of this very coroutine.
    unsafe { (*yielder).suspend(()) };
}

/// A word is about to be written that is wiped, or set back, by writing what was in it.
#[inline]
pub fn journal(word: &'static AtomicU64) {
    with(|vm| vm.journal.push((word, word.load(Ordering::Relaxed))));
}

/// Is this code run by a thread of a program that is being explored?
#[inline]
#[must_use]
pub fn in_thread() -> Option<usize> {
    with(|vm| (vm.mode != Mode::Quiet).then_some(vm.current)).flatten()
}

/// Is the run that is set up, or under way, one that is traced?
#[inline]
pub fn is_tracing() -> bool {
    with(|vm| vm.tracing).unwrap_or(false)
}

/// Looks at what the threads share without being one of them: nothing in `work` is a step, and nothing is noted. `work` takes
/// no lock that is held.
pub fn quietly<R>(work: impl FnOnce() -> R) -> R {
    let (vm, moving) = (VM.replace(null_mut()), MOVING.replace(false));
    let result = work();
    VM.set(vm);
    MOVING.set(moving);
    result
}

/// Begins a thread, and returns its number. It runs up to its first scheduling point before this returns. Without a name it goes
/// by its letter.
///
/// # Panics
///
/// If the caller is not a thread of a program that is explored, or if there are [`MAX_THREADS`] already.
pub fn begin_thread(name: &str, body: Box<dyn FnOnce()>) -> usize {
    let vm = VM.get();
    let moving = with(|vm| (vm.mode != Mode::Quiet).then_some(vm.threads.len())).flatten();
    let count = moving.expect("a thread is begun outside of an exploration");
    assert!(count < MAX_THREADS, "a run has more than {MAX_THREADS} threads");
    // Threads are numbered in this order, so two beginnings do not commute.
    access(&Op::write(Object::at(vm.cast_const())).begins());
    let letter = char::from(b'A' + with(|vm| vm.threads.len()).unwrap_or_default() as u8);
    let name = arena::outside(|| if name.is_empty() { letter.to_string() } else { name.to_owned() });
    // SAFETY: the pointer was set by `Vm::execute`, whose loop has no reference while this thread runs.
    unsafe { Vm::begin_thread(vm, name, body) }
}

/// Waits until a thread has ended, and has seen all that it did. `wait` asks whether it has.
pub fn join_thread(thread: usize, object: Object, wait: Wait) {
    access(&Op::read(object).joins(thread as u8, wait));
}

/// Something that a thread did, for who reads the trace.
#[derive(Clone, Debug)]
pub struct Note {
    /// Whose turn it was.
    pub thread: usize,
    /// What was done.
    pub text: String,
    /// The object that it was done to: its address.
    pub object: Option<usize>,
    /// Where in the program.
    pub place: Option<&'static Location<'static>>,
    /// Whether it concerns an object that threads race on, or the reader must know of it anyway.
    pub contended: bool,
}

/// Notes what the thread does now to an object, or what the reader must know whatever it is done to, if somebody wants to read it, and the run is not decided yet.
#[inline]
pub fn note(object: Option<Object>, text: impl FnOnce() -> String) {
    note_at(None, object, text);
}

/// The same, with the place in the program where it is done.
#[inline]
pub fn note_at(
    place: Option<&'static Location<'static>>,
    object: Option<Object>,
    text: impl FnOnce() -> String,
) {
    if TRACING.get() {
        let wanted = with(|vm| vm.mode == Mode::Running && !vm.starting).unwrap_or(false);
        if wanted {
            let text = text();
            with(|vm| {
                let contended = object.is_none_or(|object| vm.objects.is_contended(object));
                let object = object.map(|object| object.address);
                vm.notes.push(Note { thread: vm.current, text, object, place, contended });
            });
        }
    }
}

/// Is the run still being judged? Not while it is set up, nor once something was found.
#[inline]
#[must_use]
pub fn is_judged() -> bool {
    with(|vm| vm.mode == Mode::Running || vm.mode == Mode::Quiet).unwrap_or(false)
}

/// Has something gone wrong in the run? Then nothing that the threads share can be relied upon.
#[must_use]
pub fn has_found() -> bool {
    with(|vm| vm.found.is_some()).unwrap_or(false)
}

/// Reports that something went wrong; the first report of a run counts.
///
/// What comes with it is `Copy`: it outlives the run, and must not refer to what the run has allocated.
///
/// # Panics
///
/// If no exploration is under way.
pub fn violation<V: Any + Copy>(text: impl Into<String>, what: V) {
    let text = text.into();
    with(move |vm| vm.report(&text, Box::new(what))).expect("a violation outside of an exploration");
}

/// Notes that the thread is about to wait for a lock.
#[inline]
pub fn lock_wanted(address: usize) {
    let cycle = with(|vm| (vm.mode == Mode::Running).then(|| vm.locks.wanted(vm.current, address))).flatten();
    if let Some(Some(cycle)) = cycle {
        violation(format!("lock order: {cycle}"), cycle);
    }
}

/// Notes that the thread holds a lock from now on.
#[inline]
pub fn lock_taken(address: usize) {
    with(|vm| (vm.mode == Mode::Running).then(|| vm.locks.taken(vm.current, address)));
}

/// Notes that the thread has let a lock go.
#[inline]
pub fn lock_released(address: usize) {
    with(|vm| (vm.mode == Mode::Running).then(|| vm.locks.released(vm.current, address)));
}

/// Locks that are waited for in a circle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockCycle {
    /// A thread waits for what it holds.
    #[error("a thread waits for a lock that it holds itself")]
    Own,
    /// Locks are taken in an order and in its reverse.
    #[error("two locks are taken in both orders")]
    Orders,
}

/// Threads that wait for each other.
#[derive(Clone, Copy, Debug)]
pub struct Deadlock;

/// A thread that runs on without end.
#[derive(Clone, Copy, Debug)]
pub struct Livelock;
