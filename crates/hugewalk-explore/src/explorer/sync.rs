//! Things to share in a program that is explored: cells and locks whose every use is a scheduling point.
//!
//! A lock is its own state and nothing more: who waits is known to the explorer, which asks the lock.

use std::cell::Cell;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32};

use lock_api::{GuardNoSend, RawMutex, RawRwLock};

use super::op::{Object, Op, Wait};
use super::vm::{access, lock_released, lock_taken, lock_wanted};

/// A lock with one owner. Outside of an exploration nobody can wait for it: who finds it held panics.
#[derive(Debug)]
#[repr(C, align(8))]
pub struct Lock {
    held: AtomicBool,
}

impl Lock {
    fn is_free(this: *const ()) -> bool {
        // SAFETY: asked while the thread waits in `lock`, with a reference to it.
        !unsafe { (*this.cast::<Self>()).held.load(Relaxed) }
    }

    /// `lock`, of a lock that goes by this object.
    ///
    /// # Panics
    ///
    /// Outside of an exploration, if it is held.
    #[track_caller]
    pub(crate) fn lock_as(&self, object: Object) {
        lock_wanted(object.address);
        access(&Op::write(object).waits(Wait::until(Self::is_free, std::ptr::from_ref(self).cast())));
        assert!(!self.held.swap(true, Acquire), "the lock is held, and nobody explores");
        lock_taken(object.address);
    }

    pub(crate) fn try_lock_as(&self, object: Object) -> bool {
        access(&Op::write(object));
        let free = !self.held.swap(true, Acquire);
        if free {
            lock_taken(object.address);
        }
        free
    }

    /// # Safety
    ///
    /// The caller holds the lock.
    pub(crate) unsafe fn unlock_as(&self, object: Object) {
        access(&Op::write(object).releases());
        self.held.store(false, Release);
        lock_released(object.address);
    }
}

// SAFETY: `held` goes from false to true for one owner, by an atomic exchange.
unsafe impl RawMutex for Lock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self { held: AtomicBool::new(false) };
    type GuardMarker = GuardNoSend;

    #[track_caller]
    fn lock(&self) {
        self.lock_as(Object::at(self));
    }

    fn try_lock(&self) -> bool {
        self.try_lock_as(Object::at(self))
    }

    unsafe fn unlock(&self) {
        // SAFETY: by this function's contract.
        unsafe { self.unlock_as(Object::at(self)) }
    }
}

/// A reader/writer lock in which a writer that waits holds up later readers, as those of Linux do. Outside of an exploration
/// nobody can wait for it: who would have to panics.
///
/// # Invariants
///
/// `state` is `WRITER` or the number of readers; it changes by atomic exchanges.
#[derive(Debug)]
#[repr(C, align(8))]
pub struct RwLock {
    state: AtomicU32,
    queued: AtomicU32,
}

const WRITER: u32 = u32::MAX;

impl RwLock {
    fn may_read(this: *const ()) -> bool {
        // SAFETY: asked while the thread waits in `lock_shared`, with a reference to it.
        let this = unsafe { &*this.cast::<Self>() };
        this.state.load(Relaxed) != WRITER && this.queued.load(Relaxed) == 0
    }

    /// Does nobody have it?
    #[must_use]
    pub fn is_free(&self) -> bool {
        Self::may_write(self.pointer())
    }

    fn may_write(this: *const ()) -> bool {
        // SAFETY: asked while the thread waits in `lock_exclusive`, with a reference to it.
        unsafe { (*this.cast::<Self>()).state.load(Relaxed) == 0 }
    }

    fn take_shared(&self) -> bool {
        let more = |readers: u32| readers.checked_add(1);
        Self::may_read(self.pointer()) && self.state.fetch_update(Acquire, Relaxed, more).is_ok()
    }

    fn take_exclusive(&self) -> bool {
        self.state.compare_exchange(0, WRITER, Acquire, Relaxed).is_ok()
    }

    fn pointer(&self) -> *const () {
        std::ptr::from_ref(self).cast()
    }

    /// `lock_shared`, of a lock that goes by this object.
    pub(crate) fn lock_shared_as(&self, object: Object) {
        lock_wanted(object.address);
        // Two readers commute. With one who leaves they do too: a reader cannot come while a writer is queued.
        access(&Op::read(object).waits(Wait::until(Self::may_read, self.pointer())));
        assert!(self.take_shared(), "the lock is held, and nobody explores");
        lock_taken(object.address);
    }

    pub(crate) fn try_lock_shared_as(&self, object: Object) -> bool {
        access(&Op::read(object));
        let free = self.take_shared();
        if free {
            lock_taken(object.address);
        }
        free
    }

    /// # Safety
    ///
    /// The caller holds the lock in read.
    pub(crate) unsafe fn unlock_shared_as(&self, object: Object) {
        access(&Op::read(object).releases());
        self.state.fetch_sub(1, Release);
        lock_released(object.address);
    }

    pub(crate) fn lock_exclusive_as(&self, object: Object) {
        lock_wanted(object.address);
        access(&Op::write(object));
        if !Self::may_write(self.pointer()) {
            // In the queue: from here on no reader comes in.
            self.queued.fetch_add(1, Relaxed);
            access(&Op::write(object).waits(Wait::until(Self::may_write, self.pointer())));
            self.queued.fetch_sub(1, Relaxed);
        }
        assert!(self.take_exclusive(), "the lock is held, and nobody explores");
        lock_taken(object.address);
    }

    pub(crate) fn try_lock_exclusive_as(&self, object: Object) -> bool {
        access(&Op::write(object));
        let free = self.take_exclusive();
        if free {
            lock_taken(object.address);
        }
        free
    }

    /// # Safety
    ///
    /// The caller holds the lock in write.
    pub(crate) unsafe fn unlock_exclusive_as(&self, object: Object) {
        access(&Op::write(object).releases());
        self.state.store(0, Release);
        lock_released(object.address);
    }
}

// SAFETY: by the type invariant there is a writer or there are readers.
unsafe impl RawRwLock for RwLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self { state: AtomicU32::new(0), queued: AtomicU32::new(0) };
    type GuardMarker = GuardNoSend;

    fn lock_shared(&self) {
        self.lock_shared_as(Object::at(self));
    }

    fn try_lock_shared(&self) -> bool {
        self.try_lock_shared_as(Object::at(self))
    }

    unsafe fn unlock_shared(&self) {
        // SAFETY: by this function's contract.
        unsafe { self.unlock_shared_as(Object::at(self)) }
    }

    fn lock_exclusive(&self) {
        self.lock_exclusive_as(Object::at(self));
    }

    fn try_lock_exclusive(&self) -> bool {
        self.try_lock_exclusive_as(Object::at(self))
    }

    unsafe fn unlock_exclusive(&self) {
        // SAFETY: by this function's contract.
        unsafe { self.unlock_exclusive_as(Object::at(self)) }
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
