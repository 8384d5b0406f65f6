//! The system: a platform, its RCU, the pools and the fault mutexes. There is no global state; a host may run several.

mod inside;
mod mutexes;

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::Ordering;

pub(crate) use self::inside::{Inside, leave};
pub(crate) use self::mutexes::{FaultMutexes, RUN};
use crate::addr::{HugeFrame, HugeSize};
use crate::arch::Paging;
use crate::error::OutOfMemory;
use crate::platform::{Barriers, Platform};
use crate::pool::HugePool;
use crate::rcu::Rcu;
use crate::sleep::{Lines, SleepLock, SleepLockGuard, WaitQueue};
use crate::space::AddressSpace;
use crate::sync::{Apart, Arc, Orphan, Orphans, Parker, SpinLock, Word};
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
    /// Read by every walk, so apart from the count of handles, which lies before this value.
    platform: Apart<P>,
    rcu: P::Rcu,
    paging: P::Paging,
    /// One for each size of the format, and one for all sizes that it lacks, which stays empty.
    pools: Vec<HugePool<P>>,
    fault_mutexes: Vec<Apart<SleepLock<P>>>,
    /// Guard the owners of pages. Frames are hashed to them: see [`rmap`](crate::rmap).
    owner_locks: [Apart<SpinLock<P, ()>>; OWNER_LOCKS],
    /// Faults that wait for a page that is being moved. Frames are hashed to them.
    migrations: [WaitQueue<P>; MIGRATION_QUEUES],
    next_id: Apart<P::Word>,
    /// Where tasks mark the locks that they hold in read.
    lines: Lines<P>,
    /// How often a writer took the bias of a lock away.
    revocations: P::Word,
    /// Address spaces that were dropped and still have mappings: see [`end`](crate::end).
    dropped: Orphans<AddressSpace<P>, P::Word>,
    /// The number of [`Inside`] references, plus one for all handles together.
    inside: P::Word,
    /// For the task that unmaps what is left at the end, when there may be no memory for a new one.
    parker: Arc<P::Parker>,
}

impl<P: Platform> Hugetlb<P> {
    /// A system on this platform, with empty pools. `last` is called when its last handle is gone.
    pub(crate) fn with_last(platform: P, last: fn(Orphan<Self>)) -> Result<Arc<Self>, OutOfMemory> {
        let rcu = P::Rcu::new(&platform)?;
        let paging = platform.paging();
        let sizes = paging.leaves();
        let mut pools = Vec::new();
        pools.try_reserve_exact(sizes.len() + 1)?;
        pools.extend(sizes.iter().copied().chain([HugeSize::NONE]).map(HugePool::new));
        let mut fault_mutexes = Vec::new();
        fault_mutexes.try_reserve_exact(FAULT_MUTEXES)?;
        fault_mutexes.extend((0..FAULT_MUTEXES).map(|_| Apart(SleepLock::new())));
        // Registering a reader makes room for the one that the end needs.
        let reader = rcu.register(&platform)?;
        // SAFETY: the reader came from this domain and was never used.
        unsafe { rcu.unregister(&platform, reader) };
        let parker = Arc::try_new(<P::Parker as Parker>::new())?;
        let system = Self {
            platform: Apart(platform),
            rcu,
            paging,
            pools,
            fault_mutexes,
            owner_locks: core::array::from_fn(|_| Apart(SpinLock::<P, ()>::new(()))),
            migrations: core::array::from_fn(|_| WaitQueue::new()),
            next_id: Apart(<P as Barriers>::Word::new(1)),
            lines: Lines::new(),
            revocations: <P as Barriers>::Word::new(0),
            dropped: Orphans::new(),
            inside: <P as Barriers>::Word::new(1),
            parker,
        };
        Arc::try_new_with_last(system, last)
    }

    /// The platform.
    #[must_use]
    #[inline]
    pub fn platform(&self) -> &P {
        &self.platform.0
    }

    /// The RCU domain.
    #[must_use]
    #[inline]
    pub fn rcu(&self) -> &P::Rcu {
        &self.rcu
    }

    /// The format of its tables.
    #[must_use]
    #[inline]
    pub fn paging(&self) -> &P::Paging {
        &self.paging
    }

    /// The sizes of huge page that its processors map, smallest first.
    pub fn sizes(&self) -> impl DoubleEndedIterator<Item = HugeSize> + ExactSizeIterator + use<P> {
        self.paging.leaves().iter().copied()
    }

    /// The pool of the huge pages of this size. Of a size that the processors do not have there is a pool too, which is empty
    /// and stays so.
    #[must_use]
    #[inline]
    pub fn pool(&self, size: HugeSize) -> &HugePool<P> {
        let place = if self.paging.has(size) { size.index() } else { self.pools.len() - 1 };
        &self.pools[place]
    }

    /// Makes a pool `pages` large, surplus pages not counted, and returns the size reached. Sleeps where the host does to get a page.
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
        &self.owner_locks[spread(frame, OWNER_LOCKS)].0
    }

    /// Address spaces that were dropped and still have mappings.
    #[inline]
    pub(crate) fn dropped(&self) -> &Orphans<AddressSpace<P>, P::Word> {
        &self.dropped
    }

    /// Where tasks mark the locks that they hold in read.
    #[inline]
    pub(crate) fn lines(&self) -> &Lines<P> {
        &self.lines
    }

    /// How often a writer has taken the bias of an mmap lock, a VMA lock or a [`BiasedRwLock`](crate::sleep::BiasedRwLock) away.
    /// Each time costs a [heavy barrier](Barriers::heavy).
    #[must_use]
    pub fn revocations(&self) -> u64 {
        // Relaxed: a statistic.
        self.revocations.load(Ordering::Relaxed)
    }

    pub(crate) fn count_revocation(&self) {
        // Relaxed: a statistic.
        self.revocations.fetch_add(1, Ordering::Relaxed);
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
            drop(mutex.0.lock(task));
        }
    }

    /// Takes the fault mutex of page `index` of file `file`. It lets one task at a time instantiate
    /// the page. Sleeps.
    ///
    /// Linux: `hugetlb_fault_mutex_table` in mm/hugetlb.c.
    pub(crate) fn fault_mutex(&self, task: &mut Task<P>, file: u64, index: u64) -> SleepLockGuard<'_, P> {
        self.fault_mutexes[mutex_of(file, index)].0.lock(task)
    }
}

/// Which fault mutex is that of page `index` of file `file`.
fn mutex_of(file: u64, index: u64) -> usize {
    // Fibonacci hashing: neighbouring pages of a file land far apart.
    let mixed = (file.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as usize & (FAULT_MUTEXES - 1)
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
