//! Things to share in a program that is explored: cells and locks whose every use is a scheduling point.
//!
//! A lock is its own state and nothing more: who waits is known to the explorer, which asks the lock.

use std::cell::Cell;

use lock_api::{GuardNoSend, RawMutex, RawRwLock};

use super::op::{Object, Op, Wait};
use super::vm::{access, lock_released, lock_taken, lock_wanted};

/// A lock with one owner.
///
/// # Invariants
///
/// `held` is read and written by one OS thread at a time: that of the exploration.
#[derive(Debug)]
#[repr(C, align(8))]
pub struct Lock {
    held: Cell<bool>,
}

// SAFETY: one OS thread at a time uses it, by the type invariant, which whoever starts an exploration keeps: the threads
// of a program are coroutines of one OS thread.
unsafe impl Sync for Lock {}

impl Lock {
    fn op(&self) -> Op {
        Op::write(Object::at(self))
    }

    fn is_free(this: *const ()) -> bool {
        // SAFETY: asked while the thread waits in `lock`, with a reference to it.
        !unsafe { (*this.cast::<Self>()).held.get() }
    }
}

// SAFETY: `held` goes from false to true for one owner: nothing can come between the end of the wait and the store,
// since coroutines switch in `access` only.
unsafe impl RawMutex for Lock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self { held: Cell::new(false) };
    type GuardMarker = GuardNoSend;

    #[track_caller]
    fn lock(&self) {
        lock_wanted(self.address());
        access(&self.op().waits(Wait::until(Self::is_free, std::ptr::from_ref(self).cast())));
        self.held.set(true);
        lock_taken(self.address());
    }

    fn try_lock(&self) -> bool {
        access(&self.op());
        let free = !self.held.replace(true);
        if free {
            lock_taken(self.address());
        }
        free
    }

    unsafe fn unlock(&self) {
        access(&self.op().releases());
        self.held.set(false);
        lock_released(self.address());
    }
}

impl Lock {
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

/// A reader/writer lock in which a writer that waits holds up later readers, as those of Linux do.
///
/// # Invariants
///
/// As for [`Lock`].
#[derive(Debug)]
#[repr(C, align(8))]
pub struct RwLock {
    readers: Cell<u16>,
    writer: Cell<bool>,
    queued: Cell<u16>,
}

// SAFETY: as for `Lock`.
unsafe impl Sync for RwLock {}

impl RwLock {
    fn may_read(this: *const ()) -> bool {
        // SAFETY: asked while the thread waits in `lock_shared`, with a reference to it.
        let this = unsafe { &*this.cast::<Self>() };
        !this.writer.get() && this.queued.get() == 0
    }

    fn may_write(this: *const ()) -> bool {
        // SAFETY: asked while the thread waits in `lock_exclusive`, with a reference to it.
        let this = unsafe { &*this.cast::<Self>() };
        !this.writer.get() && this.readers.get() == 0
    }

    fn pointer(&self) -> *const () {
        std::ptr::from_ref(self).cast()
    }

    fn address(&self) -> usize {
        self.pointer().addr()
    }

    fn object(&self) -> Object {
        Object::at(self)
    }
}

// SAFETY: `readers` counts those who hold it shared, `writer` says that somebody holds it alone; neither becomes true
// while the other is, and nothing can come between a question and the store that follows from its answer.
unsafe impl RawRwLock for RwLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self { readers: Cell::new(0), writer: Cell::new(false), queued: Cell::new(0) };
    type GuardMarker = GuardNoSend;

    fn lock_shared(&self) {
        lock_wanted(self.address());
        // Two readers commute. With one who leaves they do too: a reader cannot come while a writer is queued.
        access(&Op::read(self.object()).waits(Wait::until(Self::may_read, self.pointer())));
        self.readers.set(self.readers.get() + 1);
        lock_taken(self.address());
    }

    fn try_lock_shared(&self) -> bool {
        access(&Op::read(self.object()));
        let free = Self::may_read(self.pointer());
        if free {
            self.readers.set(self.readers.get() + 1);
            lock_taken(self.address());
        }
        free
    }

    unsafe fn unlock_shared(&self) {
        access(&Op::read(self.object()).releases());
        self.readers.set(self.readers.get() - 1);
        lock_released(self.address());
    }

    fn lock_exclusive(&self) {
        lock_wanted(self.address());
        access(&Op::write(self.object()));
        if !Self::may_write(self.pointer()) {
            // In the queue: from here on no reader comes in.
            self.queued.set(self.queued.get() + 1);
            access(&Op::write(self.object()).waits(Wait::until(Self::may_write, self.pointer())));
            self.queued.set(self.queued.get() - 1);
        }
        self.writer.set(true);
        lock_taken(self.address());
    }

    fn try_lock_exclusive(&self) -> bool {
        access(&Op::write(self.object()));
        let free = Self::may_write(self.pointer());
        if free {
            self.writer.set(true);
            lock_taken(self.address());
        }
        free
    }

    unsafe fn unlock_exclusive(&self) {
        access(&Op::write(self.object()).releases());
        self.writer.set(false);
        lock_released(self.address());
    }
}

/// A number that threads share.
#[derive(Debug, Default)]
#[repr(align(8))]
pub struct Shared(Cell<u64>);

impl Shared {
    /// A shared number.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(Cell::new(value))
    }

    /// Loads it.
    pub fn load(&self) -> u64 {
        access(&Op::read(Object::at(self)));
        self.0.get()
    }

    /// Stores into it.
    pub fn store(&self, value: u64) {
        access(&Op::write(Object::at(self)));
        self.0.set(value);
    }

    /// Replaces it by what `work` makes of it, in one step; returns what was there.
    pub fn update(&self, work: impl FnOnce(u64) -> u64) -> u64 {
        access(&Op::write(Object::at(self)));
        let before = self.0.get();
        self.0.set(work(before));
        before
    }

    /// What is there, without a scheduling point: for when the threads have ended.
    #[must_use]
    pub fn peek(&self) -> u64 {
        self.0.get()
    }
}
