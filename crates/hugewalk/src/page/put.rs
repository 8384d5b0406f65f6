//! The end of a reference: where a page goes when its last one is dropped.

use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::{PIN, Page, REFERENCE, size_of_pool};
use crate::addr::{HugeFrame, HugeSize};
use crate::file::HugeFile;
use crate::hugetlb::Hugetlb;
use crate::platform::Platform;
use crate::reserve::SubPool;
use crate::sync::{Arc, Word};

impl<P: Platform> Hugetlb<P> {
    /// Drops one reference. Dropping the last one frees the page to its pool. Does not sleep.
    pub(crate) fn put_page(&self, frame: HugeFrame) {
        self.put(frame, REFERENCE);
    }

    /// Drops a pin together with its reference. Linux: `unpin_user_page()`.
    pub(crate) fn unpin_page(&self, frame: HugeFrame) {
        self.put(frame, PIN + REFERENCE);
    }

    /// Drops a reference to whatever the page is now (P4 in [`walk`](crate::walk)). The caller does
    /// not say which size that is: between a speculative read and this call the page may have come
    /// to another pool.
    fn put(&self, frame: HugeFrame, weight: u64) {
        if let Some(stripped) = self.put_last(frame, weight) {
            self.take_back(frame, stripped);
        }
    }

    /// Drops a reference. If it was the last one, and the page is one of this system, returns what
    /// the page leaves behind.
    #[inline]
    fn put_last(&self, frame: HugeFrame, weight: u64) -> Option<Stripped<P>> {
        // AcqRel: all holders' uses come before the page's next life.
        if self.page(frame).refs.fetch_sub(weight, Ordering::AcqRel) != weight {
            return None;
        }
        // SAFETY: that was the last reference.
        unsafe { self.strip(frame) }
    }

    /// What a page leaves behind, if it is one of this system.
    ///
    /// # Safety
    ///
    /// The caller dropped the last reference.
    #[inline(never)]
    unsafe fn strip(&self, frame: HugeFrame) -> Option<Stripped<P>> {
        let page = self.page(frame);
        if !page.is_of(self) {
            // SAFETY: passed on to the caller.
            unsafe { self.put_foreign(frame) };
            return None;
        }
        // SAFETY: passed on to the caller.
        Some(unsafe { page.strip() })
    }

    /// Gives back a page of another system: a walker of this system held the last, speculative
    /// reference.
    ///
    /// # Safety
    ///
    /// The caller dropped the last reference.
    #[cold]
    unsafe fn put_foreign(&self, frame: HugeFrame) {
        let page = self.page(frame);
        // SAFETY: by the type invariants nobody else touches it while the page has no reference.
        let take_home = unsafe { *page.take_home.get() };
        // SAFETY: the system that the page belongs to stored it, and this caller has exclusive
        // access to the page.
        if take_home.is_some_and(|take_home| unsafe { take_home(NonNull::from(page).cast(), frame) }) {
            return;
        }
        // The page does not show whether its system still exists, so it becomes a page of this
        // system.
        let size = size_of_pool(page.flags.load(Ordering::Acquire));
        self.pool(size).free(self, frame, false);
    }

    /// Gives back what was charged for a page, if anybody has paid.
    #[inline]
    fn uncharge(&self, charges: Charges<P>, size: HugeSize) {
        if let Some(charge) = charges.in_use {
            self.platform().uncharge(charge, size, 1);
        }
        self.uncharge_reserved(charges.reserved, size, 1);
    }

    /// Gives back what was charged for reserved pages, if anybody has paid.
    #[inline]
    pub(crate) fn uncharge_reserved(&self, charge: Option<P::Charge>, size: HugeSize, pages: u64) {
        if let Some(charge) = charge {
            self.platform().uncharge_reserved(charge, size, pages);
        }
    }

    /// Puts a page that has been stripped into its pool.
    fn take_back(&self, frame: HugeFrame, stripped: Stripped<P>) {
        let Stripped { size, subpool, charges, restore, file, .. } = stripped;
        self.uncharge(charges, size);
        // Linux: free_huge_page() in mm/hugetlb.c. A page that used a reservation and was never in
        // use restores it. Otherwise the sub-pool may keep a reservation for its minimum.
        match &subpool {
            Some(subpool) if !restore => subpool.free_page(frame),
            _ => self.pool(size).free(self, frame, restore),
        }
        // This may be the last reference to the file. Dropping the file frees its cached pages in
        // turn, and none of those keeps a file.
        drop(file);
    }
}

/// Takes a page back into the pool of its own system, if the page keeps a mount or a file of that
/// system: then the system still exists. Returns false if it keeps neither.
///
/// # Safety
///
/// `page` is the record of a page in a pool of a system of this very `P`. The caller dropped the last
/// reference.
pub(super) unsafe fn take_home<P: Platform>(page: NonNull<()>, frame: HugeFrame) -> bool {
    // SAFETY: by the contract of this function it is such a record, and records are never freed.
    let page: &Page<P> = unsafe { page.cast().as_ref() };
    // SAFETY: passed on to the caller.
    let stripped = unsafe { page.strip() };
    // Each of them keeps its system alive, so they are dropped last.
    let keeps = (stripped.subpool.clone(), stripped.file.clone());
    let system = match &keeps {
        (Some(subpool), _) => subpool.hugetlb(),
        (None, Some(file)) => file.hugetlb(),
        (None, None) => return false,
    };
    system.take_back(frame, stripped);
    true
}

/// Who has paid for a page: nobody, or one for each limit.
///
/// Linux: `_hugetlb_cgroup` and `_hugetlb_cgroup_rsvd` of `struct folio`.
pub(crate) struct Charges<P: Platform> {
    /// As a page in use.
    pub(crate) in_use: Option<P::Charge>,
    /// As a reserved page, if it was taken without a reservation.
    pub(crate) reserved: Option<P::Charge>,
}

impl<P: Platform> Charges<P> {
    pub(crate) const NONE: Self = Self { in_use: None, reserved: None };
}

/// What a page leaves behind when its last reference is dropped.
pub(super) struct Stripped<P: Platform> {
    /// The size of the pool that the page goes back to.
    pub(super) size: HugeSize,
    pub(super) subpool: Option<Arc<SubPool<P>>>,
    /// Who has paid for the page.
    pub(super) charges: Charges<P>,
    /// The page's reservation is restored: it used one, and was never in use or its mapping wants
    /// it back.
    pub(super) restore: bool,
    /// The offset that a private page was allocated for.
    pub(super) index: Option<u64>,
    pub(super) file: Option<Arc<HugeFile<P>>>,
}

/// Pages on their way to the pool of one size, which is visited once for many of them.
///
/// A batch that is dropped without [`finish`](Self::finish), since a callback unwinds, leaks the
/// pages in it: it calls the platform no more.
#[must_use = "the pages in a batch reach their pool when it is finished"]
pub(crate) struct PutBatch<'h, P: Platform, R: FnMut(Range<u64>) -> bool> {
    hugetlb: &'h Hugetlb<P>,
    size: HugeSize,
    restore: R,
    pages: [Freed; PUT_BATCH],
    /// The offset of each page whose reservation may be restored.
    indices: [Option<u64>; PUT_BATCH],
    len: usize,
}

/// Pages that a batch holds.
const PUT_BATCH: usize = 16;

/// A page without references, for its pool.
#[derive(Clone, Copy)]
pub(crate) struct Freed {
    pub(crate) frame: HugeFrame,
    /// Its reservation is restored.
    pub(crate) restore: bool,
}

impl<'h, P: Platform, R: FnMut(Range<u64>) -> bool> PutBatch<'h, P, R> {
    /// An empty batch. Pages of another size go to their pool one by one.
    ///
    /// `restore` is given offsets that private pages were allocated for, and says whether all of these pages had used a
    /// reservation; then it has restored them. If they had not, nothing has changed.
    pub(crate) fn new(hugetlb: &'h Hugetlb<P>, size: HugeSize, restore: R) -> Self {
        let pages = [Freed { frame: HugeFrame(0), restore: false }; PUT_BATCH];
        Self { hugetlb, size, restore, pages, indices: [None; PUT_BATCH], len: 0 }
    }

    /// Drops one reference. If it was the last one, the page goes to its pool with the batch, or at
    /// once if a mount counts it. Does not sleep.
    ///
    /// If it was the last reference to a private page, and `reserved`, its reservation is restored. It is there
    /// once the batch is finished: until then the caller keeps everybody from using it.
    ///
    /// Linux: `folio_set_hugetlb_restore_reserve()` in `__unmap_hugepage_range()`, which decides
    /// before the last reference is gone.
    pub(crate) fn put(&mut self, frame: HugeFrame, reserved: bool) {
        let Some(mut stripped) = self.hugetlb.put_last(frame, REFERENCE) else { return };
        let index = stripped.index.filter(|_| reserved);
        if stripped.subpool.is_some() || stripped.size != self.size {
            stripped.restore |= index.and_then(|index| offsets(index, index)).is_some_and(&mut self.restore);
            self.hugetlb.take_back(frame, stripped);
            return;
        }
        if self.len == PUT_BATCH {
            self.flush();
        }
        self.hugetlb.uncharge(stripped.charges, self.size);
        if let (Some(page), Some(at)) = (self.pages.get_mut(self.len), self.indices.get_mut(self.len)) {
            *page = Freed { frame, restore: stripped.restore };
            *at = index;
            self.len += 1;
        }
        drop(stripped.file);
    }

    /// Gives the pages to their pool.
    pub(crate) fn finish(mut self) {
        self.flush();
    }

    /// Gives the pages so far to their pool.
    pub(crate) fn flush(&mut self) {
        // Taken out of the batch first: a platform that unwinds while it takes a page back must not
        // get it twice.
        let len = core::mem::take(&mut self.len);
        let (Some(pages), Some(indices)) = (self.pages.get_mut(..len), self.indices.get(..len)) else {
            return;
        };
        restore_reserves(pages, indices, &mut self.restore);
        self.hugetlb.pool(self.size).free_all(self.hugetlb, pages);
    }
}

/// Restores what pages had reserved, for those with offsets in a row at once if it goes.
fn restore_reserves(
    pages: &mut [Freed],
    indices: &[Option<u64>],
    restore: &mut impl FnMut(Range<u64>) -> bool,
) {
    let mut pages = pages.iter_mut();
    for run in indices.chunk_by(|one, next| one.is_some_and(|one| one.checked_add(1) == *next)) {
        let all = match (run.first(), run.last()) {
            (Some(&Some(first)), Some(&Some(last))) => offsets(first, last).is_some_and(&mut *restore),
            _ => false,
        };
        for (page, index) in pages.by_ref().take(run.len()).zip(run) {
            let mut by_itself = || index.and_then(|index| offsets(index, index)).is_some_and(&mut *restore);
            page.restore |= all || run.len() > 1 && by_itself();
        }
    }
}

/// The last number is no page's offset.
fn offsets(first: u64, last: u64) -> Option<Range<u64>> {
    last.checked_add(1).map(|end| first..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;

    /// Which of the pages at these offsets have their reservations restored, if these offsets have used one; and what is
    /// used afterwards.
    fn restored(
        indices: &[Option<u64>],
        used: impl IntoIterator<Item = u64>,
    ) -> (Vec<bool>, Vec<u64>, usize) {
        let mut used: BTreeSet<u64> = used.into_iter().collect();
        let mut pages: Vec<_> =
            indices.iter().map(|_| Freed { frame: HugeFrame(0), restore: false }).collect();
        let mut asked = 0;
        restore_reserves(&mut pages, indices, &mut |range: Range<u64>| {
            asked += 1;
            let all = range.clone().all(|index| used.contains(&index));
            if all {
                used.retain(|index| !range.contains(index));
            }
            all
        });
        (pages.iter().map(|page| page.restore).collect(), used.into_iter().collect(), asked)
    }

    #[test]
    fn pages_in_a_row_are_asked_for_once() {
        let indices = [Some(4), Some(5), Some(6)];
        assert_eq!(restored(&indices, 4..8), (alloc::vec![true; 3], alloc::vec![7], 1));
    }

    #[test]
    fn a_page_between_two_that_go_keeps_what_it_has_used() {
        assert_eq!(restored(&[Some(4), Some(6)], 4..7), (alloc::vec![true; 2], alloc::vec![5], 2));
    }

    #[test]
    fn pages_that_used_none_keep_none_from_those_beside_them() {
        let indices = [Some(4), Some(5), Some(6), None, Some(7), Some(9), Some(u64::MAX)];
        let (restored, left, _) = restored(&indices, [4, 6, 8, 9]);
        assert_eq!(restored, [true, false, true, false, false, true, false]);
        assert_eq!(left, [8]);
    }
}
