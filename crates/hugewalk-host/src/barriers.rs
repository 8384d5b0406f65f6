//! The two barriers of RCU and of the TLB flush, on `membarrier(2)`.
//!
//! # Ordering
//!
//! A private expedited `membarrier` returns after every running thread of the process has executed
//! a full barrier, and it is one for the caller itself. Threads that are not running pass one when
//! they are scheduled.
//!
//! So let a reader write its mark, pass a compiler fence and read. The barrier falls in one of two
//! places:
//!
//! - after the reader's write, so the caller of `membarrier` sees the mark;
//! - before the reader's read, so the reader sees what was written before the call.
//!
//! This is the pair that [`Barriers`](hugewalk::platform::Barriers) asks for. Where the kernel has
//! no `membarrier`, both sides are full fences.

use core::sync::atomic::{Ordering, compiler_fence, fence};

use rustix::thread::{MembarrierCommand, membarrier};

/// Which pair of barriers is in use.
///
/// # Invariants
///
/// If `expedited`, the process is registered for private expedited membarriers.
#[derive(Debug)]
pub(crate) struct BarrierPair {
    expedited: bool,
}

impl BarrierPair {
    /// The best pair this machine has; plain fences if `membarrier(2)` may not be used.
    pub(crate) fn new(allow_membarrier: bool) -> Self {
        // INVARIANT: registered here. A registration lasts as long as the process, and repeating it
        // is harmless.
        Self {
            expedited: allow_membarrier && membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok(),
        }
    }

    pub(crate) fn is_expedited(&self) -> bool {
        self.expedited
    }

    #[inline(always)]
    pub(crate) fn light(&self) {
        if self.expedited {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    pub(crate) fn heavy(&self) {
        // `membarrier` alone would do; with the fence, two heavy barriers are plainly a pair.
        fence(Ordering::SeqCst);
        if self.expedited {
            // There is no way to go on without it, since readers rely on this side. Once registered
            // it cannot fail, except in a sandbox that was entered later.
            membarrier(MembarrierCommand::PrivateExpedited)
                .expect("membarrier(2) is gone after it was registered");
            fence(Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;
    use std::thread;

    /// On a cache line of its own, so that one side's store waits for it while its load goes ahead.
    #[repr(align(128))]
    struct Line(AtomicU64);

    /// Store buffering, the litmus test of the contract: each side writes its word, passes its barrier, and reads the
    /// other's. Returns how often neither saw the other.
    fn store_buffering(rounds: u64, light: impl Fn() + Sync, heavy: impl Fn()) -> u64 {
        let [reader, waiter, met, saw] = [const { Line(AtomicU64::new(0)) }; 4];
        // Neither sleeps at the meeting place, or they would never write at the same time.
        let meet = |count| {
            met.0.fetch_add(1, Ordering::AcqRel);
            let mut spins = 0;
            while met.0.load(Ordering::Acquire) < count {
                spins += 1;
                if spins % 1000 == 0 {
                    thread::yield_now();
                }
            }
        };
        let mut missed = 0;
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=rounds {
                    meet(4 * round - 2);
                    reader.0.store(round, Ordering::Relaxed);
                    light();
                    saw.0.store(waiter.0.load(Ordering::Relaxed), Ordering::Relaxed);
                    meet(4 * round);
                }
            });
            for round in 1..=rounds {
                meet(4 * round - 2);
                waiter.0.store(round, Ordering::Relaxed);
                heavy();
                let seen = reader.0.load(Ordering::Relaxed);
                meet(4 * round);
                missed += u64::from(seen < round && saw.0.load(Ordering::Relaxed) < round);
            }
        });
        missed
    }

    #[test]
    fn one_side_of_the_pair_always_sees_the_other() {
        for allow_membarrier in [true, false] {
            let pair = BarrierPair::new(allow_membarrier);
            assert!(allow_membarrier || !pair.is_expedited());
            assert_eq!(store_buffering(20_000, || pair.light(), || pair.heavy()), 0);
        }
    }

    /// That the test above can fail. `ci/release.sh` runs it.
    #[test]
    #[cfg_attr(debug_assertions, ignore = "a store and a load that lie far apart are seldom exchanged")]
    fn the_litmus_test_finds_a_missing_fence() {
        if thread::available_parallelism().is_ok_and(|processors| processors.get() < 2) {
            return eprintln!("one processor sees its own stores in order: nothing to find");
        }
        // The two must be running at the same time. Beside other work that may take a few tries; one is enough where there
        // is none.
        let compiler = || compiler_fence(Ordering::SeqCst);
        assert!((0..60).any(|_| store_buffering(100_000, compiler, || fence(Ordering::SeqCst)) != 0));
    }
}
