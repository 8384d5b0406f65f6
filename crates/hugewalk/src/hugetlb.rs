//! The system: a platform, its RCU, the pools and the fault mutexes. There is no global state; a host may run several.

mod end;

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

pub(crate) use self::end::Inside;
use crate::addr::{HugeFrame, HugeSize};
use crate::error::OutOfMemory;
use crate::mm::AddressSpace;
use crate::platform::{Barriers, Platform};
use crate::pool::HugePool;
use crate::rcu::Rcu;
use crate::sync::{Arc, Orphans, Parker, SleepLock, SleepLockGuard, SpinLock, WaitQueue, Word};
use crate::task::Task;

/// Mutexes that the fault mutexes of all pages of all files are spread over. A power of two. Linux takes eight for each
/// processor.
const FAULT_MUTEXES: usize = 64;
/// Likewise, for the locks that guard what pages belong to. Held for moments.
const OWNER_LOCKS: usize = 64;
/// Likewise, for the queues of those who wait for a page to arrive. Linux: `folio_wait_table`.
const MIGRATION_QUEUES: usize = 32;

/// One instance of the engine: what the address spaces and files that share pages and tables have in common.
///
/// An `Arc` of it is a *handle*. Tasks, address spaces and pins have handles of their own. Whoever drops the last handle
/// finishes what dropped address spaces have left to be done. Then no task is left, so no read section is open; it takes
/// sleeping locks that nobody else has, and waits for callbacks of RCU. Files, mounts and `Mm`s may outlive the last handle:
/// they keep the memory of the system, and its huge pages go back to the platform with the last of them.
pub struct Hugetlb<P: Platform> {
    platform: P,
    rcu: P::Rcu,
    pools: [HugePool<P>; HugeSize::ALL.len()],
    fault_mutexes: Vec<SleepLock<P>>,
    /// Guard the notes of what pages belong to, spread over by frame: see [`rmap`](crate::rmap).
    owner_locks: [SpinLock<P, ()>; OWNER_LOCKS],
    /// Faults that wait for a page on its way, spread over by frame.
    migrations: [WaitQueue<P>; MIGRATION_QUEUES],
    next_id: P::Word,
    /// Address spaces that were dropped, and still have mappings: see [`end`].
    dropped: Orphans<AddressSpace<P>>,
    /// References to the system by what belongs to it, and one for all handles together.
    inside: AtomicUsize,
    /// For the task that takes down what is left at the end, when there may be no memory.
    parker: Arc<P::Parker>,
}

impl<P: Platform> Hugetlb<P> {
    /// A system on this platform, with empty pools.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn new(platform: P) -> Result<Arc<Self>, OutOfMemory> {
        let rcu = P::Rcu::new(&platform)?;
        let mut fault_mutexes = Vec::new();
        fault_mutexes.try_reserve_exact(FAULT_MUTEXES)?;
        fault_mutexes.extend((0..FAULT_MUTEXES).map(|_| SleepLock::new()));
        // The first reader makes room for the one at the end.
        let reader = rcu.register(&platform)?;
        // SAFETY: it came from this domain and was never used.
        unsafe { rcu.unregister(&platform, reader) };
        let parker = Arc::try_new(<P::Parker as Parker>::new())?;
        let system = Self {
            platform,
            rcu,
            pools: HugeSize::ALL.map(HugePool::new),
            fault_mutexes,
            owner_locks: core::array::from_fn(|_| SpinLock::<P, ()>::new(())),
            migrations: core::array::from_fn(|_| WaitQueue::new()),
            next_id: <P as Barriers>::Word::new(1),
            dropped: Orphans::new(),
            inside: AtomicUsize::new(1),
            parker,
        };
        Arc::try_new_with_last(system, end::last_handle)
    }

    /// The platform.
    #[must_use]
    #[inline]
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// The RCU domain.
    #[must_use]
    #[inline]
    pub fn rcu(&self) -> &P::Rcu {
        &self.rcu
    }

    /// The pool of the huge pages of this size.
    #[must_use]
    pub fn pool(&self, size: HugeSize) -> &HugePool<P> {
        &self.pools[size.index()]
    }

    /// Makes a pool `pages` large, surplus pages not counted, and returns the size reached. Does not sleep.
    ///
    /// It grows as long as the host has pages. When it shrinks, pages that are free and not reserved go back to the host at
    /// once. The others stay, and become surplus pages, which go back when they are freed: with four pages in use,
    /// `resize_pool(size, 0)` returns 0, and [`PoolCounters`](crate::pool::PoolCounters) say `total: 4, surplus: 4`.
    pub fn resize_pool(&self, size: HugeSize, pages: u64) -> u64 {
        self.pool(size).resize(self, pages)
    }

    /// The queue of faults that met a migration entry which names this frame: woken when the entries of that page have been
    /// put back. Few other pages have the same queue, and a fault that is woken for one of those waits on.
    pub(crate) fn migrations(&self, frame: HugeFrame) -> &WaitQueue<P> {
        &self.migrations[spread(frame, MIGRATION_QUEUES)]
    }

    /// Guards the note of what the page belongs to. A leaf among the locks.
    pub(crate) fn owner_lock(&self, frame: HugeFrame) -> &SpinLock<P, ()> {
        &self.owner_locks[spread(frame, OWNER_LOCKS)]
    }

    /// Address spaces that were dropped, and still have mappings.
    #[inline]
    pub(crate) fn dropped(&self) -> &Orphans<AddressSpace<P>> {
        &self.dropped
    }

    /// The parker of the task that takes down what is left at the end.
    pub(crate) fn last_parker(&self) -> &Arc<P::Parker> {
        &self.parker
    }

    /// A number nothing else in this system has.
    pub(crate) fn fresh_id(&self) -> u64 {
        // Relaxed: it is the only access, so all that counts is that it is one read-modify-write.
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes the fault mutex of page `index` of file `file`: one task at a time instantiates a page. Sleeps.
    ///
    /// Linux: `hugetlb_fault_mutex_table` in mm/hugetlb.c.
    pub(crate) fn fault_mutex(&self, task: &mut Task<P>, file: u64, index: u64) -> SleepLockGuard<'_, P> {
        // Fibonacci hashing: neighbouring pages of a file land far apart.
        let mixed = (file.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let slot = (mixed >> 32) as usize & (FAULT_MUTEXES - 1);
        self.fault_mutexes[slot].lock(task)
    }
}

/// One of so many places, a power of two, for a frame. Fibonacci hashing: neighbouring frames land far apart.
fn spread(frame: HugeFrame, places: usize) -> usize {
    (frame.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & (places - 1)
}

impl<P: Platform> fmt::Debug for Hugetlb<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hugetlb").finish_non_exhaustive()
    }
}
