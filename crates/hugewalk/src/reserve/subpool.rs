//! The account of a mount: its maximum `size` and its guaranteed `min_size`.
//!
//! A mount with a minimum takes that many reservations from the global pool when it is mounted, and
//! keeps them. So its files find pages even if all others are reserved. As long as the mount has
//! such reservations, they cover each page that the mount uses. Only pages beyond them are reserved
//! globally. Reservations that come back refill the mount's own first.
//!
//! This module only counts. It takes no lock (its owner does), and does not touch the global pool:
//! its answers say what the owner must reserve or drop there.
//!
//! # What is conserved
//!
//! Let *global* be what the pool holds for the mount: the minimum, plus all that
//! [`SubPoolAccount::take`] asked for, less all that [`SubPoolAccount::give_back`] dropped. Then
//! `global = used + reserved` always holds, and *global* is never less than the minimum. Once
//! everything is given back, `reserved` and *global* are the minimum again. Meanwhile *global* may
//! be more than necessary: see [`SubPoolAccount::give_back`].

use crate::error::SubPoolFull;

/// What a mount uses and has reserved, beside its maximum and minimum.
///
/// All numbers are huge pages of the mount's page size.
///
/// # Invariants
///
/// - `used` is at most the maximum, and `reserved` at most the minimum (0 without one);
/// - `used + reserved` is at least the minimum, so an account with nothing in use has its minimum
///   reserved (unless another change comes between a `take` and its [`cancel`](Self::cancel)).
///
/// Linux: `struct hugepage_subpool` in include/linux/hugetlb.h. Linux counts `used_hpages` only for a mount that has
/// a maximum; here [`used`](Self::used) is right in either case, and the answers are the same.
#[derive(Debug)]
pub struct SubPoolAccount {
    max: Option<u64>,
    min: Option<u64>,
    used: u64,
    reserved: u64,
}

impl SubPoolAccount {
    /// The account of a new mount, with its whole minimum reserved.
    ///
    /// The caller reserves those `min` pages in the global pool before, and drops them when the
    /// mount is gone and nothing is in use.
    ///
    /// The caller also refuses a minimum above the maximum, as mount does (EINVAL). The account
    /// would count correctly, but the pages between the two could never be used.
    ///
    /// Linux: `hugepage_new_subpool()` in mm/hugetlb.c.
    pub const fn new(max: Option<u64>, min: Option<u64>) -> Self {
        let reserved = match min {
            Some(min) => min,
            None => 0,
        };
        Self { max, min, used: 0, reserved }
    }

    /// Counts `pages` as used, and returns how many of them the caller must still reserve in the
    /// global pool (`0..=pages`). The mount's own reservations cover the others.
    ///
    /// If the global pool then refuses those, the caller undoes this with [`cancel`](Self::cancel).
    ///
    /// # Errors
    ///
    /// [`SubPoolFull`] if the maximum would be exceeded. Nothing is counted then, not even a part.
    ///
    /// Linux: `hugepage_subpool_get_pages()` in mm/hugetlb.c.
    pub fn take(&mut self, pages: u64) -> Result<u64, SubPoolFull> {
        // Without a maximum the counter itself is the limit.
        let left = self.max.unwrap_or(u64::MAX).saturating_sub(self.used);
        if pages > left {
            return Err(SubPoolFull { asked: pages, left });
        }
        self.used += pages;
        let covered = pages.min(self.reserved);
        self.reserved -= covered;
        Ok(pages - covered)
    }

    /// Counts `pages` as no longer used, and returns how many reservations the caller must drop in
    /// the global pool (`0..=pages`). The mount keeps the others as its own.
    ///
    /// A mount keeps reservations until it has its minimum again. When it does so depends on its
    /// limits:
    ///
    /// - With a maximum, it keeps nothing as long as the pages that remain in use are at least the
    ///   minimum. The return that takes the use below the minimum refills the reservations. It
    ///   refills them fully if the return is large enough, even though the pages still in use count
    ///   towards the minimum as well. So for a while the mount may hold more than it must.
    /// - Without a maximum, Linux does not know what is in use and assumes nothing is: the first
    ///   pages that come back refill the reservations.
    ///
    /// Either way the sum is right when the last page is back. Returning more than is in use is a
    /// mistake of the caller; the excess is ignored.
    ///
    /// Linux: `hugepage_subpool_put_pages()` in mm/hugetlb.c.
    #[must_use = "the reservations that the mount does not keep must be dropped in the global pool"]
    pub fn give_back(&mut self, pages: u64) -> u64 {
        let pages = pages.min(self.used);
        self.used -= pages;
        let min = self.min.unwrap_or(0);
        let kept = if self.max.is_none() || self.used < min { pages.min(min - self.reserved) } else { 0 };
        self.reserved += kept;
        pages - kept
    }

    /// Undoes a [`take`](Self::take) of `pages` that returned `asked`, after the global pool failed
    /// to reserve those `asked` pages. Returns how many reservations the caller must drop in the
    /// global pool all the same.
    ///
    /// [`give_back`](Self::give_back) would be wrong: it would drop reservations that were never
    /// made, or keep them.
    ///
    /// If the account has not changed since the `take`, it is restored, and the answer is 0. So an
    /// owner that holds its lock from the `take` to the answer of the global pool has nothing to
    /// drop.
    ///
    /// An owner that does not hold it may have to drop what others returned meanwhile. And what
    /// others dropped meanwhile, because the mount seemed not to need it, is missing from the
    /// mount's minimum.
    ///
    /// Linux: 6.1 has no such step. `hugetlb_reserve_pages()` and `alloc_huge_page()` call
    /// `hugepage_subpool_put_pages()` and ignore the answer; the counts are then off for mounts
    /// with a minimum.
    #[must_use = "the reservations that the mount does not keep must be dropped in the global pool"]
    pub fn cancel(&mut self, pages: u64, asked: u64) -> u64 {
        let pages = pages.min(self.used);
        self.used -= pages;
        let covered = pages.saturating_sub(asked);
        let kept = covered.min(self.min.unwrap_or(0) - self.reserved);
        self.reserved += kept;
        covered - kept
    }

    /// Pages that the mount's files have reserved, and pages in them without a reservation.
    pub const fn used(&self) -> u64 {
        self.used
    }

    /// Reservations of the minimum that no page has used yet.
    pub const fn reserved(&self) -> u64 {
        self.reserved
    }

    /// The mount's `size`, if it has one.
    pub const fn max(&self) -> Option<u64> {
        self.max
    }

    /// The mount's `min_size`, if it has one.
    pub const fn min(&self) -> Option<u64> {
        self.min
    }
}

#[cfg(test)]
mod tests;
