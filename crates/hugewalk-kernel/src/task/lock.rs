//! Sleeping locks: a mutex and a reader/writer lock, for the kernel and for the engine.
//!
//! A lock that is released with waiters is handed to the first of them: it belongs to the waiter before that runs. So a waiter
//! that wakes up has the lock, and nobody overtakes. Waiters form a list through their own stacks: waiting allocates nothing.

use alloc::sync::Arc;
use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

use lock_api::GuardSend;

use super::{Thread, current, park};

/// A sleeping mutex around data.
pub type SleepMutex<T> = lock_api::Mutex<RawMutex, T>;
/// A sleeping reader/writer lock around data.
pub type SleepRwLock<T> = lock_api::RwLock<RawRwLock, T>;

/// A thread that waits, on its own stack.
struct Waiter {
    thread: Arc<Thread>,
    writes: bool,
    granted: AtomicBool,
    next: UnsafeCell<*const Waiter>,
}

/// Waiters, first come first served.
struct Waiters {
    first: *const Waiter,
    last: *const Waiter,
}

// SAFETY: the waiters lie on the stacks of threads that sleep until they are granted the lock, and are reached under the
// spinning lock only.
unsafe impl Send for Waiters {}

impl Waiters {
    const fn new() -> Self {
        Self { first: ptr::null(), last: ptr::null() }
    }

    fn push(&mut self, waiter: &Waiter) {
        if self.last.is_null() {
            self.first = waiter;
        } else {
            // SAFETY: in the list, so on the stack of a thread that sleeps.
            let last = unsafe { &*self.last };
            // SAFETY: under the spinning lock.
            unsafe { *last.next.get() = waiter };
        }
        self.last = waiter;
    }

    /// Does the first waiter want to write?
    fn first_writes(&self) -> Option<bool> {
        // SAFETY: in the list, so on the stack of a thread that sleeps.
        (!self.first.is_null()).then(|| unsafe { (*self.first).writes })
    }

    /// Gives the lock to the first waiter, which the caller has already made its owner.
    fn grant_first(&mut self) {
        // SAFETY: in the list, so on the stack of a thread that sleeps.
        let waiter = unsafe { &*self.first };
        // SAFETY: as above, under the spinning lock.
        self.first = unsafe { *waiter.next.get() };
        if self.first.is_null() {
            self.last = ptr::null();
        }
        // The waiter may be gone as soon as it sees that it was granted the lock.
        let thread = waiter.thread.clone();
        // Release: pairs with the Acquire in `wait`. What was done under the lock comes before.
        waiter.granted.store(true, Ordering::Release);
        thread.unpark();
    }
}

/// Queues the running thread, releases the spinning lock, and sleeps until it has the lock.
fn wait<S>(mut state: spin::MutexGuard<'_, S>, waiters: impl Fn(&mut S) -> &mut Waiters, writes: bool) {
    let waiter = Waiter {
        thread: current().handle(),
        writes,
        granted: AtomicBool::new(false),
        next: UnsafeCell::new(ptr::null()),
    };
    waiters(&mut state).push(&waiter);
    drop(state);
    while !waiter.granted.load(Ordering::Acquire) {
        park();
    }
}

struct MutexState {
    locked: bool,
    waiters: Waiters,
}

/// A sleeping mutex.
pub struct RawMutex(spin::Mutex<MutexState>);

// SAFETY: `locked` says whether there is an owner; it changes under the spinning lock only, and passes from owner to owner.
unsafe impl lock_api::RawMutex for RawMutex {
    #[allow(clippy::declare_interior_mutable_const, reason = "the trait wants it")]
    const INIT: Self = Self(spin::Mutex::new(MutexState { locked: false, waiters: Waiters::new() }));
    type GuardMarker = GuardSend;

    fn lock(&self) {
        let mut state = self.0.lock();
        if state.locked {
            wait(state, |state| &mut state.waiters, true);
        } else {
            state.locked = true;
        }
    }

    fn try_lock(&self) -> bool {
        let mut state = self.0.lock();
        !core::mem::replace(&mut state.locked, true)
    }

    unsafe fn unlock(&self) {
        let mut state = self.0.lock();
        if state.waiters.first_writes().is_some() {
            state.waiters.grant_first();
        } else {
            state.locked = false;
        }
    }
}

struct RwState {
    readers: usize,
    writer: bool,
    waiters: Waiters,
}

impl RwState {
    fn grant(&mut self) {
        if self.writer {
            return;
        }
        if self.waiters.first_writes() == Some(true) {
            if self.readers == 0 {
                self.writer = true;
                self.waiters.grant_first();
            }
            return;
        }
        while self.waiters.first_writes() == Some(false) {
            self.readers += 1;
            self.waiters.grant_first();
        }
    }
}

/// A sleeping reader/writer lock. A writer that waits holds up later readers.
pub struct RawRwLock(spin::Mutex<RwState>);

// SAFETY: `readers` and `writer` say who has the lock; they change under the spinning lock only, and one of them is 0 or false.
unsafe impl lock_api::RawRwLock for RawRwLock {
    #[allow(clippy::declare_interior_mutable_const, reason = "the trait wants it")]
    const INIT: Self = Self(spin::Mutex::new(RwState { readers: 0, writer: false, waiters: Waiters::new() }));
    type GuardMarker = GuardSend;

    fn lock_shared(&self) {
        let mut state = self.0.lock();
        if state.writer || state.waiters.first_writes().is_some() {
            wait(state, |state| &mut state.waiters, false);
        } else {
            state.readers += 1;
        }
    }

    fn try_lock_shared(&self) -> bool {
        let mut state = self.0.lock();
        let free = !state.writer && state.waiters.first_writes().is_none();
        state.readers += usize::from(free);
        free
    }

    unsafe fn unlock_shared(&self) {
        let mut state = self.0.lock();
        state.readers -= 1;
        state.grant();
    }

    fn lock_exclusive(&self) {
        let mut state = self.0.lock();
        if state.writer || state.readers > 0 || state.waiters.first_writes().is_some() {
            wait(state, |state| &mut state.waiters, true);
        } else {
            state.writer = true;
        }
    }

    fn try_lock_exclusive(&self) -> bool {
        let mut state = self.0.lock();
        let free = !state.writer && state.readers == 0 && state.waiters.first_writes().is_none();
        state.writer |= free;
        free
    }

    unsafe fn unlock_exclusive(&self) {
        let mut state = self.0.lock();
        state.writer = false;
        state.grant();
    }
}
