//! Reading, writing and preallocating a file's pages.

use core::ops::Range;

use super::HugeFile;
use crate::error::{FileError, MapError, MemoryError};
use crate::page::PageRef;
use crate::platform::Platform;
use crate::reserve::{NewPage, Reservations, release_range, reserve_range, unlist};
use crate::sleep::Signals;
use crate::task::Task;

/// The end of the largest file.
pub(crate) const LARGEST: u64 = i64::MAX as u64;

/// The end of a byte range of a file, if a file can have it.
///
/// Linux: `vfs_fallocate()` in fs/open.c.
pub(crate) fn range_end(offset: u64, length: u64) -> Result<u64, FileError> {
    if length == 0 {
        return Err(FileError::ZeroLength);
    }
    if let Some(value) = [offset, length].into_iter().find(|&value| value > LARGEST) {
        return Err(FileError::Negative { value });
    }
    Some(offset + length).filter(|&end| end <= LARGEST).ok_or(FileError::TooLarge)
}

impl<P: Platform> HugeFile<P> {
    /// Reserves pages for a byte range of the file, where it has neither a page nor a reservation.
    /// Mapping the range later needs no further reservation, and faults there find pages. The size
    /// stays. Sleeps.
    ///
    /// As with reservations made by a mapping, the reservations belong to the file. They stay until
    /// a page uses them, [`unreserve`](Self::unreserve) gives them back, the range is truncated or
    /// punched out, or the file is dropped.
    ///
    /// Takes the inode lock.
    ///
    /// Linux: `hugetlb_reserve_pages()` in mm/hugetlb.c, as `hugetlb_file_setup()` calls it for
    /// `shmget(SHM_HUGETLB)` and `memfd_create(MFD_HUGETLB)`.
    ///
    /// # Errors
    ///
    /// As for a mapping that reserves: [`MapError::ZeroLength`], [`MapError::Overflow`] past the
    /// largest file, [`MapError::NoPage`], [`MapError::OutOfMemory`], [`MapError::WrongSystem`].
    /// Nothing was reserved then.
    pub fn reserve(&self, task: &mut Task<P>, offset: u64, length: u64) -> Result<(), MapError> {
        task.enter(self.hugetlb())?;
        let pages = self.pages_of(offset, length).map_err(|error| match error {
            FileError::ZeroLength => MapError::ZeroLength,
            _ => MapError::Overflow,
        })?;
        let inode_lock = self.lock_inode(task);
        let map = self.reservations();
        let reserved =
            reserve_range(self.hugetlb(), self.size_class(), map, self.subpool(), pages.start, pages.end);
        drop(inode_lock);
        Ok(reserved?)
    }

    /// Gives back the reservations of a byte range that no page has used, made by
    /// [`reserve`](Self::reserve) or by a mapping. A later fault there takes a page that is free
    /// and not reserved, if there is one. Sleeps.
    ///
    /// Takes the inode lock, and the fault mutex of each page.
    ///
    /// Linux: `hugetlb_unreserve_pages()` in mm/hugetlb.c.
    ///
    /// # Errors
    ///
    /// [`FileError::ZeroLength`], [`FileError::Negative`], [`FileError::TooLarge`].
    /// [`FileError::OutOfMemory`] if there is no memory to note which reservations are left; those
    /// before that place are given back then.
    pub fn unreserve(&self, task: &mut Task<P>, offset: u64, length: u64) -> Result<(), FileError> {
        task.enter(self.hugetlb())?;
        let pages = self.pages_of(offset, length)?;
        let inode_lock = self.lock_inode(task);
        let mut next = pages.start;
        while let Some(index) = self.next_reserved(next..pages.end) {
            // A fault holds this mutex from finding the reservation until it has its page, or has
            // given up.
            let mutex = self.hugetlb().fault_mutex(task, self.id(), index);
            if self.find_page(index).is_none() {
                let given_back = unlist(self.hugetlb(), self.size_class(), self.reservations(), index)?;
                release_range(self.hugetlb(), self.size_class(), self.subpool(), given_back);
            }
            drop(mutex);
            next = index + 1;
        }
        drop(inode_lock);
        Ok(())
    }

    /// The first offset of a range that has a reservation or a page.
    fn next_reserved(&self, pages: Range<u64>) -> Option<u64> {
        let reservations = self.reservations().lock();
        let next = reservations.iter().find(|reserved| reserved.end > pages.start)?.start.max(pages.start);
        (next < pages.end).then_some(next)
    }

    /// The pages that a byte range touches.
    fn pages_of(&self, offset: u64, length: u64) -> Result<Range<u64>, FileError> {
        let end = range_end(offset, length)?;
        Ok(offset >> self.size_class().shift()..end.div_ceil(self.size_class().bytes()))
    }

    /// Allocates zeroed pages in a byte range wherever the file has none. Makes the file long
    /// enough for the range unless `keep_size`. Sleeps.
    ///
    /// Takes the inode lock, and the fault mutex of each page.
    ///
    /// Linux: `hugetlbfs_fallocate()` in fs/hugetlbfs/inode.c.
    ///
    /// # Errors
    ///
    /// [`FileError`]; pages that were allocated before it stay, and the size is unchanged. [`FileError::Interrupted`] if a signal
    /// comes before the last page.
    pub fn allocate(
        &self,
        task: &mut Task<P>,
        offset: u64,
        length: u64,
        keep_size: bool,
    ) -> Result<(), FileError> {
        task.enter(self.hugetlb())?;
        let end = range_end(offset, length)?;
        let shift = self.size_class().shift();
        let inode_lock = self.lock_inode(task);
        for index in offset >> shift..end.div_ceil(self.size_class().bytes()) {
            // Filling a page takes long. Linux: signal_pending() in hugetlbfs_fallocate().
            Signals::Any.check(&**task.parker())?;
            let mutex = self.hugetlb().fault_mutex(task, self.id(), index);
            drop(self.find_or_allocate(index)?);
            drop(mutex);
        }
        if !keep_size {
            self.grow_to(end);
        }
        drop(inode_lock);
        Ok(())
    }

    /// Reads bytes from `offset` on, and returns how many. A range without pages reads as zeroes.
    ///
    /// It returns fewer bytes than asked for at the end of the file, and before a page that memory
    /// failure has hit, or whose memory fails now. The next read tells which of the two it was: it returns 0 bytes, or the
    /// error.
    ///
    /// Takes no sleeping lock. Linux: `hugetlbfs_read_iter()` in fs/hugetlbfs/inode.c.
    ///
    /// # Errors
    ///
    /// [`FileError::Hwpoison`] if memory failure has hit the page of the first byte, or its memory fails now.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, FileError> {
        let left = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = into.len().min(left);
        let Some(into) = into.get_mut(..count) else {
            return Ok(0);
        };
        let mut at = offset;
        let mut rest = into;
        while !rest.is_empty() {
            let (index, within, here) = self.piece(at, rest.len());
            let (piece, later) = rest.split_at_mut(here);
            let read = match self.find_page(index) {
                Some(page) if page.page().is_hwpoison() => Err(MemoryError),
                // SAFETY: the page is held, and `piece` stays inside it.
                Some(page) => unsafe { self.hugetlb().platform().read_huge(page.frame(), within, piece) },
                None => {
                    piece.fill(0);
                    Ok(())
                }
            };
            match read {
                Ok(()) => {}
                Err(MemoryError) if at == offset => return Err(FileError::Hwpoison { index }),
                Err(MemoryError) => return Ok((at - offset) as usize),
            }
            at += here as u64;
            rest = later;
        }
        Ok(count)
    }

    /// Writes bytes from `offset` on. Allocates pages where there are none, and makes the file long
    /// enough. Sleeps.
    ///
    /// Takes the inode lock, and the fault mutex of each page. (Linux has no `write(2)` for these
    /// files. A kernel uses it to load a guest's memory.)
    ///
    /// # Errors
    ///
    /// [`FileError`]; bytes that were written before it stay written.
    pub fn write_at(&self, task: &mut Task<P>, offset: u64, from: &[u8]) -> Result<(), FileError> {
        task.enter(self.hugetlb())?;
        if from.is_empty() {
            return Ok(());
        }
        let end = range_end(offset, from.len() as u64)?;
        let inode_lock = self.lock_inode(task);
        let mut at = offset;
        let mut rest = from;
        while !rest.is_empty() {
            let (index, within, here) = self.piece(at, rest.len());
            let (piece, later) = rest.split_at(here);
            // Written under the fault mutex, which migration holds too.
            let mutex = self.hugetlb().fault_mutex(task, self.id(), index);
            let page = self.find_or_allocate(index)?;
            if page.page().is_hwpoison() {
                return Err(FileError::Hwpoison { index });
            }
            // SAFETY: the page is held, and `piece` stays inside it.
            unsafe { self.hugetlb().platform().write_huge(page.frame(), within, piece) };
            drop(page);
            drop(mutex);
            at += here as u64;
            rest = later;
        }
        self.grow_to(end);
        drop(inode_lock);
        Ok(())
    }

    /// The page of an offset, the offset in that page, and how many of `length` bytes lie in it.
    pub(super) fn piece(&self, offset: u64, length: usize) -> (u64, u64, usize) {
        let size = self.size_class();
        let within = offset & (size.bytes() - 1);
        let here = usize::try_from(size.bytes() - within).map_or(length, |left| left.min(length));
        (offset >> size.shift(), within, here)
    }

    /// The page at `index`, allocated and zeroed if there was none. The caller holds the inode lock and the fault mutex of
    /// `index`.
    pub(super) fn find_or_allocate(&self, index: u64) -> Result<PageRef<'_, P>, FileError> {
        let hugetlb = self.hugetlb();
        if let Some(page) = self.find_page(index) {
            return Ok(page);
        }
        let reservations = Reservations::File(self.reservations());
        let page = NewPage::take(hugetlb, self.size_class(), &reservations, self.subpool(), index, false)?;
        // SAFETY: taken above, with this size.
        unsafe { hugetlb.platform().zero_huge(page.frame(), self.size_class()) };
        // The inode lock keeps the size from shrinking, and the caller makes the file longer
        // afterwards.
        self.insert_beyond_eof(index, page.frame())?;
        Ok(page.commit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_range_ends_where_the_largest_file_does_or_before() {
        assert_eq!(range_end(0, 0), Err(FileError::ZeroLength));
        assert_eq!(range_end(3, 4), Ok(7));
        assert_eq!(range_end(0, LARGEST), Ok(LARGEST));
        assert_eq!(range_end(LARGEST - 1, 1), Ok(LARGEST));
        // Numbers that a file can have, with an end that it cannot.
        assert_eq!(range_end(LARGEST, 1), Err(FileError::TooLarge));
        assert_eq!(range_end(LARGEST, LARGEST), Err(FileError::TooLarge));
        let value = LARGEST + 1;
        assert_eq!(range_end(value, 1), Err(FileError::Negative { value }));
        assert_eq!(range_end(0, value), Err(FileError::Negative { value }));
    }
}
