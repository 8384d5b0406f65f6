//! A mount's share of a pool.

use core::fmt;

use thiserror::Error;

use super::SubPoolAccount;
use crate::addr::{HugeFrame, HugeSize};
use crate::arch::Paging;
use crate::error::{Errno, NoPage, OutOfMemory, PoolEmpty, SubPoolFull, WrongSystem};
use crate::hugetlb::{Hugetlb, Inside};
use crate::platform::Platform;
use crate::pool::{Short, Supply};
use crate::sync::{Arc, SpinLock};

/// Why a mount could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SubPoolError {
    /// The minimum is larger than the maximum.
    #[error("a minimum of {min} huge pages exceeds the maximum of {max}")]
    MinAboveMax {
        /// The minimum asked for.
        min: u64,
        /// The maximum asked for.
        max: u64,
    },
    /// Pages of a size that the processors do not have.
    #[error("the processors have no pages of {size:?}")]
    NoSuchSize {
        /// The size.
        size: HugeSize,
    },
    /// The pool has too few pages to reserve the minimum.
    #[error(transparent)]
    PoolEmpty(#[from] PoolEmpty),
    /// No memory for the record.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

impl SubPoolError {
    /// The number that Linux's `mount(2)` returns.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::MinAboveMax { .. } | Self::NoSuchSize { .. } => Errno::EINVAL,
            Self::PoolEmpty(_) | Self::OutOfMemory(_) => Errno::ENOMEM,
        }
    }
}

/// A mount's share of a pool: its `size` and `min_size`. Linux: `struct hugepage_subpool`.
///
/// The pool's pages that make up the minimum stay reserved as long as the sub-pool exists. Every file of the mount keeps a
/// reference. Dropping the last one gives the minimum back to the pool, and takes spinning locks only.
pub struct SubPool<P: Platform> {
    hugetlb: Inside<P>,
    size: HugeSize,
    account: SpinLock<P, SubPoolAccount>,
}

impl<P: Platform> SubPool<P> {
    /// A share of at most `max` and at least `min` pages.
    ///
    /// # Errors
    ///
    /// [`SubPoolError`]; nothing is reserved then.
    pub fn new(
        hugetlb: &Arc<Hugetlb<P>>,
        size: HugeSize,
        max: Option<u64>,
        min: Option<u64>,
    ) -> Result<Arc<Self>, SubPoolError> {
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            return Err(SubPoolError::MinAboveMax { min, max });
        }
        if !hugetlb.paging().has(size) {
            return Err(SubPoolError::NoSuchSize { size });
        }
        Supply::retry(hugetlb, size, |supply| hugetlb.pool(size).reserve(supply, min.unwrap_or(0)))?;
        let account = SpinLock::<P, _>::new(SubPoolAccount::new(max, min));
        // On failure the value is dropped, and with it the reservation.
        Ok(Arc::try_new(Self { hugetlb: Inside::new(hugetlb), size, account })?)
    }

    /// Does the mount belong to this system?
    pub(crate) fn check(&self, hugetlb: &Hugetlb<P>) -> Result<(), WrongSystem> {
        if core::ptr::eq::<Hugetlb<P>>(&raw const *self.hugetlb, hugetlb) { Ok(()) } else { Err(WrongSystem) }
    }

    pub(crate) fn hugetlb(&self) -> &Hugetlb<P> {
        &self.hugetlb
    }

    /// The size of its pages.
    #[must_use]
    pub fn size(&self) -> HugeSize {
        self.size
    }

    /// Pages counted as used, and pages reserved for the minimum, at this moment.
    #[must_use]
    pub fn usage(&self) -> (u64, u64) {
        let account = self.account.lock();
        (account.used(), account.reserved())
    }

    /// Pages that the mount may still use, if it has a maximum: `f_bfree` of `statfs(2)`.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        let account = self.account.lock();
        account.max().map(|max| max.saturating_sub(account.used()))
    }

    /// Counts `pages` as used, and reserves from the pool those that the minimum does not cover.
    pub(super) fn reserve(&self, supply: &mut Supply<'_, P>, pages: u64) -> Result<(), Short<NoPage>> {
        let mut account = self.account.lock();
        let asked = account.take(pages)?;
        self.hugetlb.pool(self.size).reserve(supply, asked).map_err(|error| {
            // The account has been locked since `take`, so there is nothing to drop.
            let _ = account.cancel(pages, asked);
            error.into()
        })
    }

    /// Counts `pages` as no longer used: they were reserved and never taken.
    pub(super) fn unreserve(&self, pages: u64) {
        let droppable = self.account.lock().give_back(pages);
        self.hugetlb.pool(self.size).unreserve(&self.hugetlb, droppable);
    }

    /// Counts one page as used and takes it: a reserved one if the minimum covers it.
    pub(super) fn take_page(&self, supply: &mut Supply<'_, P>) -> Result<HugeFrame, Short<NoPage>> {
        let mut account = self.account.lock();
        let asked = account.take(1)?;
        self.hugetlb.pool(self.size).take(supply, asked == 0).map_err(|error| {
            let _ = account.cancel(1, asked);
            error.into()
        })
    }

    /// Counts a page as no longer used, and frees it to the pool. The minimum keeps a reservation
    /// for it if it needs one.
    pub(crate) fn free_page(&self, frame: HugeFrame) {
        let mut account = self.account.lock();
        let keep = account.give_back(1) == 0;
        // Both happen under the account's lock. Otherwise a caller could use the minimum's
        // reservation before the pool has it, and take a page that is reserved for somebody else.
        self.hugetlb.pool(self.size).free(&self.hugetlb, frame, keep);
    }
}

impl<P: Platform> Drop for SubPool<P> {
    fn drop(&mut self) {
        // Every page and every reservation holds the sub-pool, directly or through its file. So
        // none is left, and the minimum is whole.
        let reserved = self.account.lock().reserved();
        self.hugetlb.pool(self.size).unreserve(&self.hugetlb, reserved);
    }
}

impl<P: Platform> fmt::Debug for SubPool<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubPool").field("size", &self.size).finish_non_exhaustive()
    }
}

impl From<SubPoolFull> for NoPage {
    fn from(error: SubPoolFull) -> Self {
        Self::SubPoolFull(error)
    }
}
