//! Huge pages, and the records of them.

use core::ptr::NonNull;

use super::PageRecord;
use crate::addr::{HugeFrame, HugeSize};

/// Huge pages. Linux: `alloc_fresh_hugetlb_folio()`, `struct folio`.
///
/// # Safety
///
/// - A page that [`alloc_huge`](Self::alloc_huge) returned belongs to the caller alone until
///   [`free_huge`](Self::free_huge).
/// - Its frame fits into an entry: its number is below [`FRAMES`](crate::addr::FRAMES), and a multiple of the page's size
///   ([`HugeFrame::fits`]). Frame 0 is a valid frame.
/// - For a frame of this memory, [`page_record`](Self::page_record) always returns the same pointer. The memory there overlaps
///   nothing else, and stays mapped as long as the platform exists. It is never used for anything else, whether the page is
///   allocated or not, because lockless lookups take references speculatively. Until the first allocation it is all-zero
///   bytes. [`has_page_record`](Self::has_page_record) is true of such frames only.
pub unsafe trait Pages {
    /// Allocates a huge page with any contents. `None` if there is none.
    ///
    /// May sleep, to reclaim or to compact memory for example. Called with sleeping locks held: the mmap lock, an inode lock, a
    /// fault mutex, a VMA lock in read. What it waits for must not need one of them. Never called with a spinning lock held or in
    /// a read section.
    ///
    /// Linux: `alloc_fresh_hugetlb_folio()`, with `htlb_alloc_mask()`: `GFP_HIGHUSER`, and the pool's lock released.
    fn alloc_huge(&self, size: HugeSize) -> Option<HugeFrame>;

    /// Takes a huge page back. Does not sleep.
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc_huge`](Self::alloc_huge) with this size, and nothing reaches its contents any more.
    unsafe fn free_huge(&self, frame: HugeFrame, size: HugeSize);

    /// Room for the record of a huge page: a [`Page`](crate::page::Page).
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc_huge`](Self::alloc_huge), and may have been given back since; or
    /// [`has_page_record`](Self::has_page_record) is true of it.
    unsafe fn page_record(&self, frame: HugeFrame) -> NonNull<PageRecord>;

    /// Does the frame lie in the memory that huge pages are taken from, whether or not it was ever
    /// allocated? If so, [`page_record`](Self::page_record) may be called for it.
    ///
    /// `frame` may be any number: memory failure and migration begin with a frame that the caller
    /// names, and refuse it if the answer is no.
    ///
    /// Linux: `pfn_valid()`.
    fn has_page_record(&self, frame: HugeFrame) -> bool;
}
