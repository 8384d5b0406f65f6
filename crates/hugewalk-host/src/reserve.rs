//! Ranges of address space that use memory only where they are touched.

use core::ptr::{self, NonNull};
use std::io;
use std::os::fd::BorrowedFd;

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// A mapped range, all zero where nothing was written yet. It uses memory page by page, as it is
/// touched.
///
/// # Invariants
///
/// `start` to `start + bytes` is a readable and writable mapping of its own until the value is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the value owns an address range. The memory there is accessed through raw pointers only,
// and their users answer for the threads they are on.
unsafe impl Send for Reservation {}
// SAFETY: as for `Send`; every method only reads the two numbers.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Private memory. A range of no bytes is rounded up to one.
    pub(crate) fn anonymous(bytes: u64) -> io::Result<Self> {
        let bytes = usize::try_from(bytes.max(1)).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), bytes, Self::protection(), flags) }?;
        Self::new(start.cast(), bytes)
    }

    /// The first `bytes` of a file, shared with all other mappings of the file.
    pub(crate) fn of_file(file: BorrowedFd<'_>, bytes: u64) -> io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: as above.
        let start = unsafe { mmap(ptr::null_mut(), bytes, Self::protection(), flags, file, 0) }?;
        Self::new(start.cast(), bytes)
    }

    fn protection() -> ProtFlags {
        ProtFlags::READ | ProtFlags::WRITE
    }

    fn new(start: *mut u8, bytes: usize) -> io::Result<Self> {
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        // INVARIANT: the caller has mapped it and keeps no other handle.
        Ok(Self { start, bytes })
    }

    /// The address `offset` bytes into the range. A walk uses this at every level, and waits for
    /// the addition.
    ///
    /// # Safety
    ///
    /// The offset lies inside the range, or at its end.
    #[inline]
    pub(crate) unsafe fn at(&self, offset: usize) -> NonNull<u8> {
        debug_assert!(offset <= self.bytes, "{offset:#x} lies outside of {:#x} bytes", self.bytes);
        // SAFETY: by the type invariants the range is one mapping, and by the contract of this
        // function the offset lies inside.
        unsafe { self.start.add(offset) }
    }

    /// The address `offset` bytes into the range, with `length` bytes from there on inside it.
    ///
    /// # Panics
    ///
    /// If they are not.
    #[inline]
    pub(crate) fn span(&self, offset: u64, length: u64) -> NonNull<u8> {
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.bytes as u64);
        assert!(inside, "{length} bytes at {offset:#x} leave the arena of {:#x} bytes", self.bytes);
        // SAFETY: just seen.
        unsafe { self.at(offset as usize) }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: by the type invariants the range belongs to this value; pointers into it are not
        // used after the host is gone.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "munmap: {unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terabyte_is_reserved_without_using_memory() {
        let range = Reservation::anonymous(1 << 40).unwrap();
        let last = range.span((1 << 40) - 1, 1);
        // SAFETY: the byte lies in the mapping, and nothing else knows it.
        assert_eq!(unsafe { last.read() }, 0);
    }

    #[test]
    #[should_panic = "leave the arena"]
    fn a_span_that_ends_outside_is_refused() {
        let range = Reservation::anonymous(4096).unwrap();
        let _ = range.span(4090, 7);
    }
}
