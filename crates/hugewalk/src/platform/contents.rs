//! What is in huge pages.

use core::ptr::NonNull;

use super::bytes;
use crate::addr::{HugeFrame, HugeSize};
use crate::error::MemoryError;

/// What is in huge pages: one address, and five ways to use it that have defaults.
///
/// # Memory that fails
///
/// Memory may turn out to be bad while it is read. Whatever reads may say so with a [`MemoryError`], which reaches the caller
/// of the operation; the operation leaves everything as it was. The platform does not take the page out of use meanwhile:
/// locks are held. It notes the frame, and calls [`Hugetlb::memory_failure`](crate::Hugetlb::memory_failure) later, as
/// `copy_mc_user_highpage()` queues it in Linux. The defaults never fail: they read memory as any code does.
///
/// # Safety
///
/// [`huge_bytes`](Self::huge_bytes) returns what its documentation says.
pub unsafe trait Contents {
    /// The address at which all the contents of a huge page are mapped, aligned to 8 bytes at
    /// least. Rust code accesses them by atomics and raw memory only, since processors access them
    /// too.
    ///
    /// The five methods below use it. A platform may also return `None`. Then it keeps no contents:
    /// the five methods ignore what is written, and read zeroes. Or it has its own way to reach the
    /// contents, and overrides all five.
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc_huge`](super::Pages::alloc_huge) and was not given back.
    unsafe fn huge_bytes(&self, frame: HugeFrame) -> Option<NonNull<u8>>;

    /// Fills a huge page with zeroes. May be called with sleeping locks held, never in an atomic section.
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc_huge`](super::Pages::alloc_huge) with this size and was not given back.
    unsafe fn zero_huge(&self, frame: HugeFrame, size: HugeSize) {
        // SAFETY: passed on to the caller; the page is as large as its size says.
        unsafe { self.clear_huge(frame, 0, size.bytes()) };
    }

    /// Copies the contents of a huge page to another one. Processors may read the first meanwhile.
    ///
    /// Linux: `copy_user_large_folio()` in mm/memory.c, `folio_mc_copy()` in mm/util.c.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the memory of the first page failed. The second may hold anything then.
    ///
    /// # Safety
    ///
    /// As for [`zero_huge`](Self::zero_huge), for both pages, which differ.
    unsafe fn copy_huge(&self, from: HugeFrame, to: HugeFrame, size: HugeSize) -> Result<(), MemoryError> {
        // SAFETY: passed on to the caller.
        let from = unsafe { self.huge_bytes(from) };
        // SAFETY: likewise.
        let to = unsafe { self.huge_bytes(to) };
        if let (Some(from), Some(to)) = (from, to) {
            // SAFETY: by the contract of `huge_bytes` both are whole pages, mapped and aligned.
            unsafe { bytes::copy(from, to, size.bytes() as usize) };
        }
        Ok(())
    }

    /// Copies `into.len()` bytes out of a huge page, from `offset` bytes on.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the memory of the page failed. `into` may hold anything then.
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc_huge`](super::Pages::alloc_huge) and was not given back; the range lies inside the page.
    unsafe fn read_huge(&self, frame: HugeFrame, offset: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        // SAFETY: passed on to the caller.
        match unsafe { self.huge_bytes(frame) } {
            // SAFETY: by the contract of `huge_bytes` the page is mapped, and the caller answers for the range.
            Some(start) => unsafe { bytes::read(bytes::at_offset(start, offset as usize), into) },
            None => into.fill(0),
        }
        Ok(())
    }

    /// Copies `from` into a huge page, from `offset` bytes on.
    ///
    /// # Safety
    ///
    /// As for [`read_huge`](Self::read_huge).
    unsafe fn write_huge(&self, frame: HugeFrame, offset: u64, from: &[u8]) {
        // SAFETY: passed on to the caller.
        if let Some(start) = unsafe { self.huge_bytes(frame) } {
            // SAFETY: by the contract of `huge_bytes` the page is mapped, and the caller answers for the range.
            unsafe { bytes::write(bytes::at_offset(start, offset as usize), from) };
        }
    }

    /// Fills `length` bytes of a huge page with zeroes, from `offset` on.
    ///
    /// # Safety
    ///
    /// As for [`read_huge`](Self::read_huge).
    unsafe fn clear_huge(&self, frame: HugeFrame, offset: u64, length: u64) {
        // SAFETY: passed on to the caller.
        if let Some(start) = unsafe { self.huge_bytes(frame) } {
            // SAFETY: by the contract of `huge_bytes` the page is mapped, and the caller answers for the range.
            unsafe { bytes::zero(bytes::at_offset(start, offset as usize), length as usize) };
        }
    }
}
