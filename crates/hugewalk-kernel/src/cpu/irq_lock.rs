//! A spinning lock that an interrupt may take: whoever holds it has interrupts off.
//!
//! The engine takes such locks for moments, and waits for nothing meanwhile: no translation is flushed under one, and no
//! barrier is asked for. So no processor waits for the answer of one that cannot give it. Where the lock is taken, interrupts
//! stay on until it is free.
//!
//! A processor counts the locks that it holds, and has interrupts on again after the last, if it had them before the first. So
//! locks may be released in any order.
//!
//! Linux: `spin_lock_irqsave()`.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use lock_api::{GuardNoSend, RawMutex};

use super::this;
use crate::arch::interrupts;

/// How many such locks a processor holds. Written by that processor alone, with interrupts off.
pub struct Held {
    count: AtomicU32,
    were_on: AtomicBool,
}

impl Held {
    pub(super) const fn new() -> Self {
        Self { count: AtomicU32::new(0), were_on: AtomicBool::new(false) }
    }
}

/// The lock.
pub struct IrqLock(AtomicBool);

impl IrqLock {
    /// The caller has interrupts off.
    fn note(were_on: bool) {
        let held = &this().held;
        let count = held.count.load(Ordering::Relaxed);
        if count == 0 {
            held.were_on.store(were_on, Ordering::Relaxed);
        }
        held.count.store(count + 1, Ordering::Relaxed);
    }
}

// SAFETY: `0` goes from false to true for one owner, by an atomic exchange (Acquire), and back by that owner (Release).
unsafe impl RawMutex for IrqLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        while !self.try_lock() {
            while self.0.load(Ordering::Relaxed) {
                core::hint::spin_loop();
            }
        }
    }

    fn try_lock(&self) -> bool {
        let were_on = interrupts::are_enabled();
        interrupts::disable();
        let taken = !self.0.swap(true, Ordering::Acquire);
        if taken {
            Self::note(were_on);
        } else if were_on {
            interrupts::enable();
        }
        taken
    }

    unsafe fn unlock(&self) {
        debug_assert!(!interrupts::are_enabled(), "interrupts came on under a lock that keeps them off");
        self.0.store(false, Ordering::Release);
        let held = &this().held;
        let count = held.count.load(Ordering::Relaxed) - 1;
        held.count.store(count, Ordering::Relaxed);
        if count == 0 && held.were_on.load(Ordering::Relaxed) {
            interrupts::enable();
        }
    }
}
