//! Notices: secondary MMUs are told before translations change, and when the change is over.
//!
//! # Protocol
//!
//! A change of entries that takes a right away, or replaces a page, has a [`Notice`] around it: started before the first table is
//! locked, dropped after the flush. Dropping it tells of the end, so every way out of an operation does.
//!
//! - Changes that owe their flush to a [gather](crate::gather) leave the notice to it: [`Gather::announce`](crate::gather::Gather::announce).
//!   A gather asserts that what it owes a flush for was announced.
//! - Copy-on-write and fork flush by themselves, and have a notice of their own.
//! - An entry that changes in a table which stays shared is announced to each of its users. They are as many as there are
//!   mappings, so each mapping notes whether it was told: [`Vma::tell`](crate::vma::Vma::tell).
//!
//! A notice belongs to one address space. Whether it has secondary MMUs is asked once, at the start; the end is told to whom the
//! start was told.
//!
//! Linux: `struct mmu_notifier_range`; `adjust_range_if_pmd_sharing_possible()` in mm/hugetlb.c.

use core::ops::Range;

use crate::addr::VirtAddr;
use crate::platform::{Invalidation, Platform};
use crate::protocol::{Step, keeps};
use crate::root::Mm;
use crate::task::Task;

/// A change of translations that was told of. Dropping it tells that the change is over. That does not sleep.
#[must_use = "dropping it says that the change is over"]
pub(crate) struct Notice<'m, P: Platform> {
    mm: &'m Mm<P>,
    range: Range<VirtAddr>,
    why: Invalidation,
    told: bool,
}

impl<'m, P: Platform> Notice<'m, P> {
    /// Tells that translations of a range of `mm` are about to change. May sleep.
    #[inline]
    pub(crate) fn start(mm: &'m Mm<P>, range: Range<VirtAddr>, why: Invalidation, _: &mut Task<P>) -> Self {
        Self::with(mm, range, why, true)
    }

    /// As [`start`](Self::start), without sleeping.
    #[inline]
    pub(crate) fn start_at_once(mm: &'m Mm<P>, range: Range<VirtAddr>, why: Invalidation) -> Self {
        Self::with(mm, range, why, false)
    }

    #[inline]
    fn with(mm: &'m Mm<P>, range: Range<VirtAddr>, why: Invalidation, may_block: bool) -> Self {
        let platform = mm.hugetlb().platform();
        let told = !range.is_empty() && platform.has_secondary_mmus(mm.context());
        if told && keeps::<P>(Step::NotifyStart) {
            platform.invalidate_range_start(mm.context(), &range, why, may_block);
        }
        Self { mm, range, why, told }
    }

    /// Is the whole of a range announced?
    pub(crate) fn covers(&self, range: &Range<VirtAddr>) -> bool {
        self.range.start <= range.start && range.end <= self.range.end
    }

    /// Goes without telling of the end. True if that has to be told: see [`end`](Self::end).
    pub(crate) fn leave_open(mut self) -> bool {
        core::mem::take(&mut self.told)
    }

    /// A notice that was left open. Dropping it tells of the end, if there is an end to be told.
    pub(crate) fn left_open(mm: &'m Mm<P>, range: Range<VirtAddr>, why: Invalidation, told: bool) -> Self {
        Self { mm, range, why, told }
    }
}

impl<P: Platform> Drop for Notice<'_, P> {
    #[inline]
    fn drop(&mut self) {
        if self.told {
            self.mm.hugetlb().platform().invalidate_range_end(self.mm.context(), &self.range, self.why);
        }
    }
}
