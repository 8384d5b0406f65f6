//! What the explored program's own types share, for the run that is under way on this OS thread.
//!
//! All of it is words in one place, so that it can be set back with the rest of a run.

use std::cell::Cell;
use std::panic::Location;
use std::ptr::null;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::explorer::{Kind, MAX_THREADS, Machine, Object, in_thread, note_at};
use crate::thread::Inner;

/// The runs that this process has made.
static RUNS: AtomicU64 = AtomicU64::new(1);

/// What one thread has looked at since it last waited in a loop.
struct Spin {
    /// Objects that it has touched; zero: none.
    seen: [Cell<u64>; 2],
    /// It has touched others, too.
    more: Cell<u64>,
    /// Another thread has changed one of `seen` since this one touched it first.
    changed: Cell<u64>,
}

/// # Invariants
///
/// A pointer in `threads` is null or points to what that thread of the run keeps until it ends.
struct State {
    run: Cell<u64>,
    /// Objects that have a number in this run.
    objects: Cell<u64>,
    spins: [Spin; MAX_THREADS],
    threads: [Cell<*const Inner>; MAX_THREADS],
}

thread_local! {
    static STATE: State = const {
        State {
            run: Cell::new(0),
            objects: Cell::new(0),
            spins: [const {
                Spin { seen: [Cell::new(0), Cell::new(0)], more: Cell::new(0), changed: Cell::new(0) }
            }; MAX_THREADS],
            threads: [const { Cell::new(null()) }; MAX_THREADS],
        }
    };
}

/// For runs that are set back.
pub(crate) const MACHINE: Machine = Machine {
    wipe: begin_run,
    pieces: |each| STATE.with(|state| each(std::ptr::from_ref(state).cast_mut().cast(), size_of::<State>())),
};

/// A new run begins on this OS thread.
pub(crate) fn begin_run() {
    STATE.with(|state| {
        state.run.set(RUNS.fetch_add(1, Relaxed));
        state.objects.set(0);
        for spin in &state.spins {
            spin.begin();
        }
        for thread in &state.threads {
            thread.set(null());
        }
    });
}

/// What tells objects of a run apart. An address would not: memory that was freed is handed out again, and not in all runs alike.
#[derive(Debug)]
pub(crate) struct Id(AtomicU64);

/// Bits of the number of an object in its run.
const NUMBER: u32 = 24;

impl Id {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The object of this number, which it gets when it is first touched in a run.
    pub(crate) fn object(&self) -> Object {
        let number = STATE.with(|state| {
            let (run, id) = (state.run.get(), self.0.load(Relaxed));
            if id >> NUMBER == run {
                return id & ((1 << NUMBER) - 1);
            }
            let number = state.objects.get() + 1;
            state.objects.set(number);
            self.0.store(run << NUMBER | number, Relaxed);
            number
        });
        Object { address: number as usize * 16, name: None }
    }
}

impl Spin {
    fn begin(&self) {
        self.seen.iter().chain([&self.more, &self.changed]).for_each(|word| word.set(0));
    }

    fn touches(&self, object: u64) -> bool {
        self.seen.iter().any(|seen| seen.get() & !BY_READERS == object)
    }
}

/// A bit of an object in `seen`: operations that commute with each other may change it.
const BY_READERS: u64 = 1;

/// The thread that moves has touched an object, and noted what it found.
pub(crate) fn seen(object: Object) {
    see(object.address as u64);
}

/// The same of an object that may be changed by operations which commute with each other.
pub(crate) fn seen_changed_by_readers(object: Object) {
    see(object.address as u64 | BY_READERS);
}

fn see(object: u64) {
    let Some(thread) = in_thread() else { return };
    STATE.with(|state| {
        let spin = &state.spins[thread];
        if !spin.touches(object & !BY_READERS) {
            match spin.seen.iter().find(|seen| seen.get() == 0) {
                Some(free) => free.set(object),
                None => spin.more.set(1),
            }
        }
    });
}

/// The thread that moves has changed an object.
pub(crate) fn changed(object: Object) {
    let Some(thread) = in_thread() else { return };
    STATE.with(|state| {
        for (other, spin) in state.spins.iter().enumerate() {
            if other != thread && spin.touches(object.address as u64) {
                spin.changed.set(1);
            }
        }
    });
}

/// What a thread that waits in a loop waits for: one of these objects to change. `None` if it has touched none, or so many that
/// nobody keeps account of them.
pub(crate) fn waits_for(thread: usize) -> Option<((Object, Kind), Option<(Object, Kind)>)> {
    STATE.with(|state| {
        let spin = &state.spins[thread];
        let object = |word: u64| {
            let kind = if word & BY_READERS == 0 { Kind::Read } else { Kind::Write };
            let object = Object { address: (word & !BY_READERS) as usize, name: None };
            (word != 0).then_some((object, kind))
        };
        let [first, second] = spin.seen.each_ref().map(|seen| object(seen.get()));
        let found = first.filter(|_| spin.more.get() == 0).map(|first| (first, second));
        if found.is_none() {
            spin.begin();
        }
        found
    })
}

/// Has any of what this thread waits for changed?
pub(crate) fn has_changed(thread: usize) -> bool {
    STATE.with(|state| state.spins[thread].changed.get() != 0)
}

/// The thread goes on, and touches everything anew.
pub(crate) fn goes_on(thread: usize) {
    STATE.with(|state| state.spins[thread].begin());
}

/// Says who the thread that moves is, until it ends.
pub(crate) fn set_thread(thread: usize, inner: *const Inner) {
    STATE.with(|state| state.threads[thread].set(inner));
}

/// The thread that moves; null if none does.
pub(crate) fn current() -> *const Inner {
    in_thread().map_or(null(), |thread| STATE.with(|state| state.threads[thread].get()))
}

/// Tells what was done to an object, if somebody reads it. A `#` in the text stands for the object.
#[track_caller]
pub(crate) fn tell(object: Object, text: impl FnOnce() -> String) {
    note_at(Some(Location::caller()), Some(object), text);
}

/// The same of what a drop does: nobody knows where that stands in the program.
pub(crate) fn tell_of_drop(object: Object, text: impl FnOnce() -> String) {
    note_at(None, Some(object), text);
}

/// Does this OS thread run a program of this crate's own types, rather than one of the explorer's?
pub(crate) fn is_explored() -> bool {
    !current().is_null()
}
