//! Locks that sleep, places to sleep, read sections.

use lock_api::RawMutex;

use crate::rcu::Rcu;
use crate::sleep::{RawSleepMutex, RawSleepRwLock};
use crate::sync::{Barriers, Parker};

/// What a task waits with, and for: locks that spin and locks that sleep, a place to sleep, read sections and grace periods.
///
/// # Two kinds of spinning lock
///
/// | | [`TableLock`](Self::TableLock) | [`SpinLock`](Barriers::SpinLock) |
/// |---|---|---|
/// | guards | one table page | the counters and lists of a pool, a mount, a region map, a page cache, a queue, RCU |
/// | taken in an interrupt | never | where pages are released or callbacks queued in one: [`PinnedPage`](crate::gup::PinnedPage), [`Rcu::call`] |
/// | under it | [`flush_tlb`](super::Tlb::flush_tlb), a [`SpinLock`](Barriers::SpinLock) | no other [`TableLock`](Self::TableLock), and none of `flush_tlb`, [`heavy`](Barriers::heavy), [`pause`](Barriers::pause) |
/// | interrupts | have to stay on: two processors that flush wait for each other's answer | off, where an interrupt may take one |
///
/// A host whose interrupts come nowhere near the engine uses one lock for both.
///
/// Linux: split page-table locks (`spin_lock(ptl)`), and `hugetlb_lock`, taken with `spin_lock_irq()`, since pages may be freed
/// in interrupt context (`free_huge_folio()` in mm/hugetlb.c).
///
/// # Safety
///
/// The locks exclude as locks do.
pub unsafe trait Locks: Barriers + Sized {
    /// The spinning lock of a table page. At most 64 bytes. In user space it may be a sleeping one, such as
    /// `parking_lot::RawMutex`.
    type TableLock: RawMutex + Send + Sync + 'static;

    /// A sleeping mutual-exclusion lock.
    type SleepMutex: RawSleepMutex<Self::Parker>;

    /// A sleeping reader/writer lock. Any lock of [`lock_api`] will do, for both.
    type SleepRwLock: RawSleepRwLock<Self::Parker>;

    /// Where one task sleeps.
    type Parker: Parker;

    /// Read sections and grace periods: [`EpochRcu<Self>`](crate::rcu::EpochRcu), or the host's own.
    type Rcu: Rcu<Self>;

    /// May readers of the mmap lock and of VMA locks mark them in a line of their task's own, and leave the
    /// [`SleepRwLock`](Self::SleepRwLock) alone? A constant: the compiler removes the other way.
    ///
    /// A platform that watches its locks says no, to see all readers.
    #[must_use]
    #[inline(always)]
    fn reader_bias() -> bool {
        true
    }
}
