//! Locks for one thread: whoever would have to wait would wait for itself, and panics.

use core::sync::atomic::{AtomicI64, Ordering};

use lock_api::{GuardNoSend, RawMutex, RawRwLock};

const WRITER: i64 = -1;

/// A lock that is free, or held by one writer or some readers.
pub(crate) struct Alone(AtomicI64);

impl Alone {
    fn step(&self, from: i64, to: i64) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn holders(&self) -> i64 {
        self.0.load(Ordering::Acquire)
    }
}

// SAFETY: a lock is taken by the exchange that makes its word other than 0 (or adds a reader to readers), which one
// thread at a time succeeds in.
unsafe impl RawMutex for Alone {
    const INIT: Self = Self(AtomicI64::new(0));
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        assert!(RawMutex::try_lock(self), "a mutex is taken that this thread holds");
    }
    fn try_lock(&self) -> bool {
        self.step(0, WRITER)
    }
    unsafe fn unlock(&self) {
        assert!(self.step(WRITER, 0), "a mutex is released that nobody holds");
    }
}

// SAFETY: as for `RawMutex`.
unsafe impl RawRwLock for Alone {
    const INIT: Self = Self(AtomicI64::new(0));
    type GuardMarker = GuardNoSend;

    fn lock_shared(&self) {
        // With a writer queued between the two, a second reader of the same thread would wait for ever.
        assert!(self.step(0, 1), "a lock is taken in read that this thread holds");
    }
    fn try_lock_shared(&self) -> bool {
        self.step(0, 1)
    }
    unsafe fn unlock_shared(&self) {
        assert!(self.holders() > 0, "a lock is released that nobody holds in read");
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
    fn lock_exclusive(&self) {
        assert!(self.try_lock_exclusive(), "a lock is taken in write that this thread holds");
    }
    fn try_lock_exclusive(&self) -> bool {
        self.step(0, WRITER)
    }
    unsafe fn unlock_exclusive(&self) {
        assert!(self.step(WRITER, 0), "a lock is released that nobody holds in write");
    }
}
