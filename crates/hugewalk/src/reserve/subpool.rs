//! The account of a mount: its maximum `size` and its guaranteed `min_size`.
//!
//! A mount with a minimum takes that many reservations from the global pool when it is mounted and keeps them, so
//! that its files find pages even if everybody else has reserved the rest. Each page charged to the mount is covered
//! by one of those as long as there are any; only what goes beyond has to be reserved globally. What comes back
//! refills the mount's own reservations first.
//!
//! This room counts and decides nothing else: it takes no lock (its owner does) and does not touch the global pool
//! (its answers say what the owner has to reserve or drop there).
//!
//! # What is conserved
//!
//! Let *global* be what the pool holds on the mount's behalf: the minimum, plus all that [`SubPoolAccount::take`]
//! asked for, less all that [`SubPoolAccount::give_back`] let go. Then always `global = used + reserved`, and never
//! less than the minimum; and once everything is given back, `reserved` and *global* are the minimum again. It may
//! be more than it had to be for a while, see [`SubPoolAccount::give_back`].

/// The pages a mount has left do not cover the request: its `size` is reached.
///
/// Linux: `-ENOMEM` of `hugepage_subpool_get_pages()` in mm/hugetlb.c, which becomes ENOMEM in mmap and ENOSPC or
/// SIGBUS at a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{asked} huge pages asked of a mount that has {left} left")]
pub struct SubPoolFull {
    /// Huge pages the caller wanted to charge.
    pub asked: u64,
    /// Huge pages that could still have been charged.
    pub left: u64,
}

/// What a mount has in use and in reserve, against its maximum and its minimum.
///
/// All numbers are huge pages of the mount's page size.
///
/// # Invariants
///
/// - `used` is at most the maximum, and `reserved` at most the minimum (0 without one);
/// - `used + reserved` is at least the minimum, so an account with nothing in use has its minimum in reserve (as long
///   as no change comes between a charge and its [`cancel`](Self::cancel)).
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
    /// The account of a new mount, with its whole minimum in reserve.
    ///
    /// The caller reserves those `min` pages in the global pool before, and drops them when the mount is gone and
    /// nothing is in use. It also refuses a minimum above the maximum, as mount does (EINVAL): the account would
    /// count correctly, but the pages between the two could never be used.
    ///
    /// Linux: `hugepage_new_subpool()` in mm/hugetlb.c.
    pub const fn new(max: Option<u64>, min: Option<u64>) -> Self {
        let reserved = match min {
            Some(min) => min,
            None => 0,
        };
        Self { max, min, used: 0, reserved }
    }

    /// Charges `pages`, and returns how many of them the caller must still reserve in the global pool
    /// (`0..=pages`); the mount's own reservations cover the others.
    ///
    /// If the global pool then refuses those, the caller undoes the charge with [`cancel`](Self::cancel).
    ///
    /// # Errors
    ///
    /// [`SubPoolFull`] if the maximum would be exceeded; nothing is charged then, not even a part.
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

    /// Takes back the charge of `pages`, and returns how many reservations the caller must drop in the global pool
    /// (`0..=pages`); the mount keeps the others as its own.
    ///
    /// A mount keeps what it needs to be back at its minimum, and when it does so depends on its limits:
    ///
    /// - with a maximum, it keeps nothing as long as what remains in use is at least the minimum; the return that
    ///   takes the use below the minimum fills the reserve up, all the way if the return is large enough, even
    ///   though the pages still in use count towards the minimum as well. So for a while the mount may hold more
    ///   than it must;
    /// - without a maximum, Linux does not know what is in use and takes it for nothing: the very first pages that
    ///   come back fill the reserve up.
    ///
    /// Either way the sum is right when the last page is back. A return of more than is in use is a mistake of the
    /// caller; what was never charged is not given back twice.
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

    /// Undoes a [`take`](Self::take) of `pages` whose answer was `asked`, after the global pool had no `asked` pages
    /// to reserve. Returns how many reservations the caller must drop in the global pool all the same.
    ///
    /// [`give_back`](Self::give_back) would not do: it lets go of reservations that were never made, or keeps them.
    ///
    /// If nothing happened to the account since the `take`, it is then as it was before, and the answer is 0. So an
    /// owner that holds its lock from the `take` to the answer of the global pool has nothing to drop. One that does
    /// not may have to drop what others returned in between; and what they dropped in between because this charge
    /// seemed to need no keeping, the mount's minimum lacks.
    ///
    /// Linux: 6.1 has no such step and uses `hugepage_subpool_put_pages()`, in `hugetlb_reserve_pages()` and
    /// `alloc_huge_page()`, without looking at the answer; the counts are then off for mounts with a minimum.
    #[must_use = "the reservations that the mount does not keep must be dropped in the global pool"]
    pub fn cancel(&mut self, pages: u64, asked: u64) -> u64 {
        let pages = pages.min(self.used);
        self.used -= pages;
        let covered = pages.saturating_sub(asked);
        let kept = covered.min(self.min.unwrap_or(0) - self.reserved);
        self.reserved += kept;
        covered - kept
    }

    /// Pages charged to the mount: reserved by its files, or in them without a reservation.
    pub const fn used(&self) -> u64 {
        self.used
    }

    /// Reservations of the minimum that no charge has taken yet.
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
