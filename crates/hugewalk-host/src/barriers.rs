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

    /// A word of the litmus test.
    trait Place: Default + Sync {
        fn store(&self, value: u64);
        fn load(&self) -> u64;
    }

    /// On a cache line of its own, so that one side's store waits for it while its load goes ahead.
    #[derive(Default)]
    #[repr(align(128))]
    struct Line(AtomicU64);

    impl Place for Line {
        fn store(&self, value: u64) {
            self.0.store(value, Ordering::Relaxed);
        }
        fn load(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// As a processor keeps a store in its buffer if no barrier drains it: the others see it with the next one.
    #[derive(Default)]
    struct Buffered {
        seen: AtomicU64,
        buffer: AtomicU64,
    }

    impl Place for Buffered {
        fn store(&self, value: u64) {
            self.seen.store(self.buffer.swap(value, Ordering::Relaxed), Ordering::Relaxed);
        }
        fn load(&self) -> u64 {
            self.seen.load(Ordering::Relaxed)
        }
    }

    /// Store buffering, the litmus test of the contract: each side writes its word, passes its barrier, and reads the
    /// other's. Returns how often neither saw the other.
    fn store_buffering<W: Place>(rounds: u64, light: impl Fn() + Sync, heavy: impl Fn()) -> u64 {
        let [reader, waiter] = [W::default(), W::default()];
        let [met, saw] = [const { AtomicU64::new(0) }; 2];
        // Neither sleeps at the meeting place, or they would never write at the same time.
        let meet = |count| {
            met.fetch_add(1, Ordering::AcqRel);
            let mut spins = 0;
            while met.load(Ordering::Acquire) < count {
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
                    reader.store(round);
                    light();
                    saw.store(waiter.load(), Ordering::Relaxed);
                    meet(4 * round);
                }
            });
            for round in 1..=rounds {
                meet(4 * round - 2);
                waiter.store(round);
                heavy();
                let seen = reader.load();
                meet(4 * round);
                missed += u64::from(seen < round && saw.load(Ordering::Relaxed) < round);
            }
        });
        missed
    }

    #[test]
    fn one_side_of_the_pair_always_sees_the_other() {
        for allow_membarrier in [true, false] {
            let pair = BarrierPair::new(allow_membarrier);
            assert!(allow_membarrier || !pair.is_expedited());
            assert_eq!(store_buffering::<Line>(20_000, || pair.light(), || pair.heavy()), 0);
        }
    }

    /// That the test above can fail: a store that stays in a buffer is counted in each round.
    #[test]
    fn the_litmus_test_finds_a_missing_fence() {
        assert_eq!(store_buffering::<Buffered>(100, || (), || ()), 100);
    }

    /// The same on the processor itself. Whether it exchanges a store and a load depends on where the two threads sit.
    #[test]
    #[ignore = "not certain: the processor need not exchange a store and a load"]
    fn this_processor_exchanges_a_store_and_a_load() {
        let compiler = || compiler_fence(Ordering::SeqCst);
        let tries = || store_buffering::<Line>(100_000, compiler, || fence(Ordering::SeqCst)) != 0;
        assert!((0..60).any(|_| tries()));
    }
}
