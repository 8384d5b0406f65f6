//! The system: a platform, its RCU, the pools and the fault mutexes. There is no global state; a host may run several.

mod inside;

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

pub(crate) use self::inside::{Inside, leave};
use crate::addr::{HugeFrame, HugeSize};
use crate::error::OutOfMemory;
use crate::platform::{Barriers, Platform};
use crate::pool::HugePool;
use crate::rcu::Rcu;
use crate::sleep::{SleepLock, SleepLockGuard, WaitQueue};
use crate::space::AddressSpace;
use crate::sync::{Arc, Orphan, Orphans, Parker, SpinLock, Word};
use crate::task::Task;

/// How many mutexes stand for the fault mutexes of all pages of all files. A power of two. Linux
/// takes eight for each processor.
const FAULT_MUTEXES: usize = 64;
/// How many spinning locks guard the owners of pages. Held for moments.
const OWNER_LOCKS: usize = 64;
/// How many queues there are for faults that wait for a page to arrive. Linux: `folio_wait_table`.
const MIGRATION_QUEUES: usize = 32;

/// One instance of the engine: what the address spaces and files that share pages and tables have in common.
///
/// An `Arc` of it is a *handle*. Tasks, address spaces and pins have handles of their own.
///
/// Dropping the last handle finishes what dropped address spaces left to be done. No task is left
/// then, so no read section is open. The dropping thread takes sleeping locks that nobody else
/// holds, and waits for callbacks of RCU. So the last handle is not to be dropped in a read section
/// of another system, nor with a table of another system locked.
///
/// Files, mounts and `Mm`s may outlive the last handle. They keep the memory of the system, and its
/// huge pages go back to the platform with the last of them.
pub struct Hugetlb<P: Platform> {
    platform: P,
    rcu: P::Rcu,
    pools: [HugePool<P>; HugeSize::ALL.len()],
    fault_mutexes: Vec<SleepLock<P>>,
    /// Guard the owners of pages. Frames are hashed to them: see [`rmap`](crate::rmap).
    owner_locks: [SpinLock<P, ()>; OWNER_LOCKS],
    /// Faults that wait for a page that is being moved. Frames are hashed to them.
    migrations: [WaitQueue<P>; MIGRATION_QUEUES],
    next_id: P::Word,
    /// Address spaces that were dropped and still have mappings: see [`end`](crate::end).
    dropped: Orphans<AddressSpace<P>>,
    /// The number of [`Inside`] references, plus one for all handles together.
    inside: AtomicUsize,
    /// For the task that unmaps what is left at the end, when there may be no memory for a new one.
    parker: Arc<P::Parker>,
}

impl<P: Platform> Hugetlb<P> {
    /// A system on this platform, with empty pools. `last` is called when its last handle is gone.
    pub(crate) fn with_last(platform: P, last: fn(Orphan<Self>)) -> Result<Arc<Self>, OutOfMemory> {
        let rcu = P::Rcu::new(&platform)?;
        let mut fault_mutexes = Vec::new();
        fault_mutexes.try_reserve_exact(FAULT_MUTEXES)?;
        fault_mutexes.extend((0..FAULT_MUTEXES).map(|_| SleepLock::new()));
        // Registering a reader makes room for the one that the end needs.
        let reader = rcu.register(&platform)?;
        // SAFETY: the reader came from this domain and was never used.
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
        Arc::try_new_with_last(system, last)
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
    /// It grows as long as the host has pages. When it shrinks, pages that are free and not
    /// reserved go back to the host at once. The others stay and become surplus pages, which go
    /// back when they are freed.
    ///
    /// For example, with four pages in use `resize_pool(size, 0)` returns 0, and
    /// [`PoolCounters`](crate::pool::PoolCounters) say `total: 4, surplus: 4`.
    pub fn resize_pool(&self, size: HugeSize, pages: u64) -> u64 {
        self.pool(size).resize(self, pages)
    }

    /// The queue of faults that met a migration entry for this frame. It is woken when migration
    /// has replaced the entries. A few other frames share the queue; a fault that is woken for one
    /// of those waits on.
    pub(crate) fn migrations(&self, frame: HugeFrame) -> &WaitQueue<P> {
        &self.migrations[spread(frame, MIGRATION_QUEUES)]
    }

    /// The lock that guards the owner of this frame's page. No lock is taken under it.
    pub(crate) fn owner_lock(&self, frame: HugeFrame) -> &SpinLock<P, ()> {
        &self.owner_locks[spread(frame, OWNER_LOCKS)]
    }

    /// Address spaces that were dropped and still have mappings.
    #[inline]
    pub(crate) fn dropped(&self) -> &Orphans<AddressSpace<P>> {
        &self.dropped
    }

    /// The parker of the task that unmaps what is left at the end.
    pub(crate) fn last_parker(&self) -> &Arc<P::Parker> {
        &self.parker
    }

    /// A number that nothing else in this system has.
    pub(crate) fn fresh_id(&self) -> u64 {
        // Relaxed: this is the only access, and each read-modify-write returns a different number.
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits until every fault has ended that holds a fault mutex now. Sleeps.
    ///
    /// The caller holds none.
    pub(crate) fn wait_for_faults(&self, task: &mut Task<P>) {
        for mutex in &self.fault_mutexes {
            drop(mutex.lock(task));
        }
    }

    /// Takes the fault mutex of page `index` of file `file`. It lets one task at a time instantiate
    /// the page. Sleeps.
    ///
    /// Linux: `hugetlb_fault_mutex_table` in mm/hugetlb.c.
    pub(crate) fn fault_mutex(&self, task: &mut Task<P>, file: u64, index: u64) -> SleepLockGuard<'_, P> {
        // Fibonacci hashing: neighbouring pages of a file land far apart.
        let mixed = (file.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let slot = (mixed >> 32) as usize & (FAULT_MUTEXES - 1);
        self.fault_mutexes[slot].lock(task)
    }
}

/// Maps a frame to one of `places`, a power of two. Fibonacci hashing: neighbouring frames land far
/// apart.
fn spread(frame: HugeFrame, places: usize) -> usize {
    (frame.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & (places - 1)
}

impl<P: Platform> fmt::Debug for Hugetlb<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hugetlb").finish_non_exhaustive()
    }
}
