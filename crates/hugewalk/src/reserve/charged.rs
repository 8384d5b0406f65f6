//! Charges for pages that are about to be taken.

use crate::addr::HugeSize;
use crate::error::LimitReached;
use crate::hugetlb::Hugetlb;
use crate::platform::Platform;

/// Pages that a group has paid for, and that have not been taken yet. Dropping it gives back what was not
/// [spent](Self::spend).
pub(super) struct Charged<'h, P: Platform> {
    hugetlb: &'h Hugetlb<P>,
    size: HugeSize,
    pages: u64,
    charge: Option<P::Charge>,
}

impl<'h, P: Platform> Charged<'h, P> {
    /// Charges pages to the group of the calling thread. May sleep.
    #[inline]
    pub(super) fn try_new(hugetlb: &'h Hugetlb<P>, size: HugeSize, pages: u64) -> Result<Self, LimitReached> {
        let charge = hugetlb.platform().try_charge(size, pages)?;
        Ok(Self { hugetlb, size, pages, charge })
    }

    /// So many of the pages were taken. Returns what to note in each; the rest is given back.
    #[inline]
    pub(super) fn spend(mut self, pages: u64) -> Option<P::Charge> {
        self.pages -= pages.min(self.pages);
        self.charge.clone()
    }
}

impl<P: Platform> Drop for Charged<'_, P> {
    #[inline]
    fn drop(&mut self) {
        if self.pages > 0 {
            self.hugetlb.uncharge(self.charge.take(), self.size, self.pages);
        }
    }
}
