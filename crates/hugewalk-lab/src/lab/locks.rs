//! The locks of the lab: those of the explorer, with the checks that a kernel would make.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use hugewalk::sync::Parker;
use lock_api::{GuardNoSend, RawMutex, RawRwLock};

use super::ground::{Flaw, Outer, Place, access, settle, world};
use super::trace::{self, Mode};
use super::word::Word;
use super::{cpu, judge, memory};
use crate::explore::{
    Deadlock, Kind, Lock, Object, Op, RwLock, Wait, in_thread, lock_released, lock_taken, lock_wanted,
    violation,
};

/// A spinning lock; that of a table dies with it, or before. Outside of an exploration nobody can wait for it.
#[derive(Debug)]
#[repr(C, align(8))]
pub struct SpinLock {
    held: AtomicBool,
}

impl SpinLock {
    fn address(&self) -> usize {
        std::ptr::from_ref(self).expose_provenance()
    }

    fn is_free(this: *const ()) -> bool {
        // SAFETY: asked while the thread waits in `lock`, with a reference to it.
        !unsafe { (*this.cast::<Self>()).held.load(Relaxed) }
    }

    /// Does the lock keep nobody out? It is that of a table, whose entries are atomics.
    fn is_open(place: Place) -> bool {
        matches!(place, Place::Record(..)) && in_thread().is_some() && world().flaws.has(Flaw::OpenTableLock)
    }

    /// On a machine where a thread holds one spinning lock at a time: what it has taken first is released, or noted.
    fn keep_one(&self, place: Place) {
        let Some(thread) = in_thread().filter(|_| world().flaws.has(Flaw::OneSpinLock)) else { return };
        if place != Place::Elsewhere {
            return;
        }
        match world().flaws.outer(thread) {
            Outer::None => world().flaws.set_outer(thread, Outer::Held(self.address())),
            Outer::Held(address) => {
                let outer = std::ptr::with_exposed_provenance::<Self>(address);
                // SAFETY: the thread has it locked, and lets it live until its guard goes.
                unsafe { (*outer).open(place) };
                world().flaws.set_outer(thread, Outer::Released(address));
            }
            Outer::Released(_) => {}
        }
    }

    /// Was it released early? If it is what the thread has taken first, the thread has nothing any more.
    fn was_released(&self, place: Place) -> bool {
        let Some(thread) = in_thread().filter(|_| place == Place::Elsewhere) else { return false };
        match world().flaws.outer(thread) {
            Outer::Released(address) if address == self.address() => {
                world().flaws.set_outer(thread, Outer::None);
                true
            }
            Outer::Held(address) if address == self.address() => {
                world().flaws.set_outer(thread, Outer::None);
                false
            }
            _ => false,
        }
    }

    /// Releases it.
    fn open(&self, place: Place) {
        let (world, address) = (world(), self.address());
        let op = world.op(place, address, Kind::Write, true).releases();
        access(&op);
        trace::lock_released(op.object(), address);
        judge::spins(place, "unlocks");
        self.held.store(false, Release);
        lock_released(address);
        judge::let_spin_go(place, address);
    }

    fn atomic(change: i32) {
        if let Some(thread) = in_thread() {
            let mut atomic = world().atomic.borrow_mut();
            atomic[thread] = atomic[thread].wrapping_add_signed(change);
            drop(atomic);
            world().flaws.spins(thread, change);
        }
    }
}

// SAFETY: `held` goes from false to true for one owner, by an atomic exchange.
unsafe impl RawMutex for SpinLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self { held: AtomicBool::new(false) };
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        let _lab = world().at_work();
        let (world, address) = (world(), self.address());
        let place = world.place(address);
        if Self::is_open(place) {
            return Self::atomic(1);
        }
        self.keep_one(place);
        trace::lock_wanted(address, place, Mode::Alone);
        lock_wanted(address);
        let wait = Wait::until(Self::is_free, std::ptr::from_ref(self).cast());
        let op = world.op(place, address, Kind::Write, true).waits(wait);
        access(&op);
        trace::lock_taken(op.object(), address, place, Mode::Alone, false);
        judge::spins(place, "locks");
        assert!(!self.held.swap(true, Acquire), "the lock is held, and nobody explores");
        lock_taken(address);
        judge::took_spin(place, address);
        Self::atomic(1);
    }

    fn try_lock(&self) -> bool {
        let _lab = world().at_work();
        let (world, address) = (world(), self.address());
        let place = world.place(address);
        let op = world.op(place, address, Kind::Write, true);
        access(&op);
        if !self.held.load(Relaxed) {
            trace::lock_taken(op.object(), address, place, Mode::Alone, true);
        } else {
            trace::lock_refused(op.object(), address, place, Mode::Alone);
        }
        judge::spins(place, "tries");
        let free = !self.held.swap(true, Acquire);
        if free {
            lock_taken(address);
            judge::took_spin(place, address);
            Self::atomic(1);
        }
        free
    }

    unsafe fn unlock(&self) {
        let _lab = world().at_work();
        let place = world().place(self.address());
        if Self::is_open(place) {
            return Self::atomic(-1);
        }
        if !self.was_released(place) {
            self.open(place);
        }
        Self::atomic(-1);
        Word::catch_up();
    }
}

fn wanted<L>(lock: &L, mode: Mode) {
    trace::lock_wanted(std::ptr::from_ref(lock).addr(), Place::Elsewhere, mode);
}

fn taken<L>(lock: &L, mode: Mode, tried: bool) {
    let address = std::ptr::from_ref(lock).addr();
    trace::lock_taken(Object::at(lock), address, Place::Elsewhere, mode, tried);
    judge::took(address);
}

fn tried<L>(lock: &L, mode: Mode, free: bool) -> bool {
    if free {
        taken(lock, mode, true);
    } else {
        let address = std::ptr::from_ref(lock).addr();
        trace::lock_refused(Object::at(lock), address, Place::Elsewhere, mode);
        judge::was_refused(address);
    }
    free
}

fn released<L>(lock: &L) {
    let address = std::ptr::from_ref(lock).addr();
    trace::lock_released(Object::at(lock), address);
    judge::let_go(address);
    memory::catch_up();
    cpu::catch_up();
}

/// A sleeping lock.
#[derive(Debug)]
pub struct SleepMutex(Lock);

// SAFETY: that of the explorer.
unsafe impl RawMutex for SleepMutex {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self(Lock::INIT);
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        let _lab = world().at_work();
        settle();
        wanted(&self.0, Mode::Alone);
        judge::may_sleep();
        self.0.lock();
        taken(&self.0, Mode::Alone, false);
    }
    fn try_lock(&self) -> bool {
        let _lab = world().at_work();
        settle();
        tried(&self.0, Mode::Alone, self.0.try_lock())
    }
    unsafe fn unlock(&self) {
        let _lab = world().at_work();
        settle();
        // SAFETY: passed on to the caller.
        unsafe { self.0.unlock() };
        released(&self.0);
    }
}

/// The place where a task sleeps until it is woken.
#[derive(Debug)]
pub struct Token {
    put: AtomicBool,
    signal: Signal,
}

/// What a task is told.
#[derive(Debug)]
struct Signal {
    /// Somebody may kill it in this scenario: only there it is a step to ask.
    may_come: AtomicBool,
    killed: AtomicBool,
}

impl Token {
    /// From now on the task may be killed.
    pub(crate) fn may_be_killed(&self) {
        self.signal.may_come.store(true, Relaxed);
    }

    /// Kills the task: says so, and wakes it then.
    pub(crate) fn kill(&self) {
        {
            let _lab = world().at_work();
            access(&self.op_of_signal(Kind::Write));
            self.signal.killed.store(true, Relaxed);
        }
        self.unpark();
    }

    fn op_of_signal(&self, kind: Kind) -> Op {
        let (world, address) = (world(), std::ptr::from_ref(&self.signal.killed).addr());
        world.op(world.place(address), address, kind, false)
    }
}

impl Token {
    fn is_put(this: *const ()) -> bool {
        // SAFETY: asked while the thread waits in `park`, with a reference to it.
        unsafe { (*this.cast::<Self>()).put.load(Relaxed) }
    }
}

// SAFETY: the explorer runs one thread at a time: what came before `unpark` has happened when `park` returns.
unsafe impl Parker for Token {
    fn new() -> Self {
        let signal = Signal { may_come: AtomicBool::new(false), killed: AtomicBool::new(false) };
        Self { put: AtomicBool::new(false), signal }
    }

    fn park(&self) {
        let _lab = world().at_work();
        if in_thread().is_none() && !self.put.load(Relaxed) {
            violation("deadlock: somebody sleeps when all threads have ended", Deadlock);
            // Out of here: the sleep would last for ever.
            std::panic::resume_unwind(Box::new(Deadlock));
        }
        trace::sleeps(true);
        judge::may_sleep();
        // What it has read makes it sleep.
        judge::acts();
        let (world, address) = (world(), std::ptr::from_ref(self).addr());
        let wait = Wait::until(Self::is_put, std::ptr::from_ref(self).cast());
        access(&world.op(world.place(address), address, Kind::Write, true).waits(wait));
        trace::sleeps(false);
        self.put.store(false, Relaxed);
    }

    fn unpark(&self) {
        let _lab = world().at_work();
        let (world, address) = (world(), std::ptr::from_ref(self).addr());
        access(&world.op(world.place(address), address, Kind::Write, true));
        self.put.store(true, Relaxed);
    }

    fn is_killed(&self) -> bool {
        if !self.signal.may_come.load(Relaxed) {
            return false;
        }
        let _lab = world().at_work();
        access(&self.op_of_signal(Kind::Read));
        self.signal.killed.load(Relaxed)
    }
}

/// A sleeping reader/writer lock in which writers queue.
#[derive(Debug)]
pub struct SleepRwLock(RwLock);

impl SleepRwLock {
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// What is done to the lock now is done to what it lies in: if that is a VMA, it must not be gone.
    fn used(&self) {
        judge::uses(self.address());
    }

    /// If it is the `i_mmap` of a file, there are things that hold whenever it is free.
    fn audit(&self) {
        if self.0.is_free() {
            judge::is_free(self.address());
        }
    }
}

// SAFETY: that of the explorer.
unsafe impl RawRwLock for SleepRwLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self(RwLock::INIT);
    type GuardMarker = GuardNoSend;

    fn lock_shared(&self) {
        let _lab = world().at_work();
        self.used();
        wanted(&self.0, Mode::Read);
        judge::may_sleep();
        self.0.lock_shared();
        taken(&self.0, Mode::Read, false);
        self.used();
    }
    fn try_lock_shared(&self) -> bool {
        let _lab = world().at_work();
        self.used();
        tried(&self.0, Mode::Read, self.0.try_lock_shared())
    }
    unsafe fn unlock_shared(&self) {
        let _lab = world().at_work();
        self.used();
        // SAFETY: passed on to the caller.
        unsafe { self.0.unlock_shared() };
        released(&self.0);
        self.audit();
    }
    fn lock_exclusive(&self) {
        let _lab = world().at_work();
        self.used();
        wanted(&self.0, Mode::Write);
        judge::may_sleep();
        self.0.lock_exclusive();
        taken(&self.0, Mode::Write, false);
        self.used();
        judge::took_in_write(self.address());
    }
    fn try_lock_exclusive(&self) -> bool {
        let _lab = world().at_work();
        self.used();
        tried(&self.0, Mode::Write, self.0.try_lock_exclusive())
    }
    unsafe fn unlock_exclusive(&self) {
        let _lab = world().at_work();
        self.used();
        // SAFETY: passed on to the caller.
        unsafe { self.0.unlock_exclusive() };
        released(&self.0);
        self.audit();
    }
}
