//! The record of a huge page: references, mappings, flags. What Linux keeps in `struct folio`.
//!
//! The memory of a record is never used for anything else, so that a lockless lookup may try to take a reference to a
//! page it read out of an entry, and only then find out whether the entry still says so.

use core::cell::UnsafeCell;
use core::sync::atomic::Ordering;

use crate::addr::{HugeFrame, HugeSize};
use crate::hugetlb::Hugetlb;
use crate::platform::{Barriers, Platform};
use crate::reserve::SubPool;
use crate::sync::{Arc, Word};

/// Allocating the page used a reservation up, and freeing it unused brings the reservation back.
/// Linux: `HPageRestoreReserve`.
const RESTORE_RESERVE: u64 = 1 << 0;
/// The page belongs to private mappings, not to a file's page cache. Linux: `PageAnon`.
const ANON: u64 = 1 << 1;
/// Memory failure hit the page.
const HWPOISON: u64 = 1 << 2;

/// The record of a huge page.
///
/// # Invariants
///
/// - While `refs` is 0 the page is free, and its pool alone touches `subpool`; the one who takes the page out of the
///   pool, or drops the last reference, has it to itself as well.
/// - `mapcount` is the number of leaf entries that map the page, or did and have not been flushed from every processor;
///   each of them holds one of `refs`. A table shared by many counts once.
#[repr(C, align(64))]
pub struct Page<P: Platform> {
    refs: P::Word,
    mapcount: P::Word,
    flags: P::Word,
    subpool: UnsafeCell<Option<Arc<SubPool<P>>>>,
}

// SAFETY: the atomics are made to be shared; `subpool` has one user at a time by the type invariants.
unsafe impl<P: Platform> Sync for Page<P> {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl<P: Platform> Send for Page<P> {}

impl<P: Platform> Page<P> {
    /// The page has just come from the platform into a pool.
    pub(crate) fn reset(&self) {
        self.refs.store(0, Ordering::Relaxed);
        self.mapcount.store(0, Ordering::Relaxed);
        self.flags.store(0, Ordering::Relaxed);
    }

    /// Leaf entries that map the page.
    #[must_use]
    pub fn mapcount(&self) -> u64 {
        self.mapcount.load(Ordering::Acquire)
    }

    /// References: mappings, the page cache, pins.
    #[must_use]
    pub fn references(&self) -> u64 {
        self.refs.load(Ordering::Acquire)
    }

    /// Does it belong to private mappings, rather than to a file?
    #[must_use]
    pub fn is_anon(&self) -> bool {
        self.flags.load(Ordering::Acquire) & ANON != 0
    }

    /// Has memory failure hit it?
    #[must_use]
    pub fn is_hwpoison(&self) -> bool {
        self.flags.load(Ordering::Acquire) & HWPOISON != 0
    }

    pub(crate) fn set_anon(&self) {
        self.flags.fetch_or(ANON, Ordering::AcqRel);
    }

    /// One leaf entry more maps the page; the caller, who has a reference, adds one for the entry.
    pub(crate) fn add_mapping(&self) {
        self.refs.fetch_add(1, Ordering::Relaxed);
        self.mapcount.fetch_add(1, Ordering::AcqRel);
    }

    /// One leaf entry less; its reference passes to the caller.
    pub(crate) fn remove_mapping(&self) {
        self.mapcount.fetch_sub(1, Ordering::AcqRel);
    }

    /// A reference more, by one who has one.
    pub(crate) fn hold(&self) {
        self.refs.fetch_add(1, Ordering::Relaxed);
    }

    /// The page goes from the pool to its first holder, for whom it has one reference.
    ///
    /// # Safety
    ///
    /// The caller took the page out of the pool and has it to itself.
    pub(crate) unsafe fn hand_out(&self, subpool: Option<Arc<SubPool<P>>>, restore_reserve: bool) {
        // SAFETY: by the type invariants nobody else touches it while the page has no reference.
        unsafe { *self.subpool.get() = subpool };
        self.flags.store(if restore_reserve { RESTORE_RESERVE } else { 0 }, Ordering::Relaxed);
        // Release: who takes a reference after this sees the fields above.
        self.refs.store(1, Ordering::Release);
    }

    /// Freeing the page makes a reservation of it.
    pub(crate) fn restore_reserve(&self) {
        self.flags.fetch_or(RESTORE_RESERVE, Ordering::AcqRel);
    }

    /// The page is in use: freeing it later does not bring its reservation back.
    pub(crate) fn forget_reserve(&self) {
        self.flags.fetch_and(!RESTORE_RESERVE, Ordering::AcqRel);
    }

    /// Takes from a page without references what goes back to the pool with it.
    ///
    /// # Safety
    ///
    /// The caller dropped the last reference.
    unsafe fn strip(&self) -> (Option<Arc<SubPool<P>>>, bool) {
        // SAFETY: by the type invariants nobody else touches it while the page has no reference.
        let subpool = unsafe { (*self.subpool.get()).take() };
        let flags = self.flags.swap(0, Ordering::AcqRel);
        (subpool, flags & RESTORE_RESERVE != 0)
    }
}

impl<P: Platform> Hugetlb<P> {
    /// The record of a page.
    pub(crate) fn page(&self, frame: HugeFrame) -> &Page<P> {
        // SAFETY: by the contract of `Platform` the record's memory is a record for ever, all-zero (which is a free
        // page) before its first use.
        unsafe { self.platform().page_record(frame).as_ref() }
    }

    /// Gives one reference up. The last one puts the page back into its pool. Does not sleep.
    pub(crate) fn put_page(&self, frame: HugeFrame, size: HugeSize) {
        let page = self.page(frame);
        // AcqRel: the uses of all holders come before the page's next life.
        if page.refs.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        // SAFETY: that was the last reference.
        let (subpool, restore) = unsafe { page.strip() };
        // Linux: free_huge_page() in mm/hugetlb.c. A page that used a reservation up and was never used brings it back
        // as it is; else the sub-pool may want it to keep its minimum.
        match &subpool {
            Some(subpool) if !restore => subpool.free_page(frame),
            _ => self.pool(size).free(self, frame, restore),
        }
    }
}

/// A page on the way from the pool to its first use, or one that somebody looks at: one reference.
///
/// # Invariants
///
/// The page has a reference that this value owns.
pub(crate) struct PageRef<'h, P: Platform> {
    hugetlb: &'h Hugetlb<P>,
    frame: HugeFrame,
    size: HugeSize,
}

impl<'h, P: Platform> PageRef<'h, P> {
    /// # Safety
    ///
    /// The caller owns a reference to the page, and hands it over.
    pub(crate) unsafe fn from_raw(hugetlb: &'h Hugetlb<P>, frame: HugeFrame, size: HugeSize) -> Self {
        Self { hugetlb, frame, size }
    }

    pub(crate) fn frame(&self) -> HugeFrame {
        self.frame
    }

    pub(crate) fn page(&self) -> &'h Page<P> {
        self.hugetlb.page(self.frame)
    }

    /// A second reference.
    pub(crate) fn another(&self) -> Self {
        self.page().hold();
        Self { hugetlb: self.hugetlb, frame: self.frame, size: self.size }
    }
}

impl<P: Platform> Drop for PageRef<'_, P> {
    fn drop(&mut self) {
        self.hugetlb.put_page(self.frame, self.size);
    }
}

impl<P: Platform> Default for Page<P> {
    /// A record of a free page, for hosts that do not get zeroed memory.
    fn default() -> Self {
        Self {
            refs: <P as Barriers>::Word::new(0),
            mapcount: <P as Barriers>::Word::new(0),
            flags: <P as Barriers>::Word::new(0),
            subpool: UnsafeCell::new(None),
        }
    }
}
