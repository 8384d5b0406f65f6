//! Reading, writing and preallocating a file's pages.

use thiserror::Error;

use super::HugeFile;
use crate::error::{Errno, OutOfMemory, WrongSystem};
use crate::page::PageRef;
use crate::platform::Platform;
use crate::pool::PoolEmpty;
use crate::reserve::{NewPage, NoPage, Promises, SubPoolFull};
use crate::task::Task;

/// Why an operation on a file failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FileError {
    /// A size that is not a multiple of the page size.
    #[error("{size:#x} is not a multiple of the page size")]
    Unaligned {
        /// The size asked for.
        size: u64,
    },
    /// A length of 0.
    #[error("the length is 0")]
    ZeroLength,
    /// An offset past what a file can have.
    #[error("the range ends past the largest file")]
    TooLarge,
    /// The pool has no page left. Pages allocated before stay.
    #[error(transparent)]
    PoolEmpty(#[from] PoolEmpty),
    /// The mount's limit is reached. Pages allocated before stay.
    #[error(transparent)]
    SubPoolFull(SubPoolFull),
    /// Memory failure has hit the page, and its contents are lost. Pages written before it stay so.
    #[error("page {index} has a hardware error")]
    Hwpoison {
        /// Offset of the page in the file, in huge pages.
        index: u64,
    },
    /// No memory for records.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// The mount has pages of another size.
    #[error("the mount has pages of another size")]
    WrongMount,
    /// The task, or the mount, belongs to another system.
    #[error(transparent)]
    WrongSystem(#[from] WrongSystem),
}

impl FileError {
    /// The number that Linux returns.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Unaligned { .. }
            | Self::ZeroLength
            | Self::TooLarge
            | Self::WrongMount
            | Self::WrongSystem(_) => Errno::EINVAL,
            Self::PoolEmpty(_) | Self::SubPoolFull(_) => Errno::ENOSPC,
            Self::Hwpoison { .. } => Errno::EHWPOISON,
            Self::OutOfMemory(_) => Errno::ENOMEM,
        }
    }
}

impl From<NoPage> for FileError {
    fn from(error: NoPage) -> Self {
        match error {
            NoPage::OutOfMemory(error) => Self::OutOfMemory(error),
            NoPage::PoolEmpty(error) => Self::PoolEmpty(error),
            NoPage::SubPoolFull(error) => Self::SubPoolFull(error),
        }
    }
}

/// The end of a byte range of a file, if a file can have it.
pub(super) fn range_end(offset: u64, length: u64) -> Result<u64, FileError> {
    if length == 0 {
        return Err(FileError::ZeroLength);
    }
    offset.checked_add(length).filter(|&end| end <= i64::MAX as u64).ok_or(FileError::TooLarge)
}

impl<P: Platform> HugeFile<P> {
    /// Gives the file pages of zeroes in a byte range where it has none, and makes it long enough for the range unless
    /// `keep_size`. Sleeps.
    ///
    /// Takes the inode lock, and the fault mutex of each page.
    ///
    /// Linux: `hugetlbfs_fallocate()` in fs/hugetlbfs/inode.c.
    ///
    /// # Errors
    ///
    /// [`FileError`]; the pages allocated before it stay, the size is as it was.
    pub fn allocate(
        &self,
        task: &mut Task<P>,
        offset: u64,
        length: u64,
        keep_size: bool,
    ) -> Result<(), FileError> {
        task.check(self.hugetlb())?;
        let end = range_end(offset, length)?;
        let shift = self.size_class().shift();
        let inode_lock = self.lock_inode(task);
        for index in offset >> shift..end.div_ceil(self.size_class().bytes()) {
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

    /// Reads bytes from `offset` on, up to the end of the file or a page that memory failure has hit; what has no page
    /// reads as zeroes. Returns how many.
    ///
    /// Takes no sleeping lock. Linux: `hugetlbfs_read_iter()` in fs/hugetlbfs/inode.c.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> usize {
        let left = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = into.len().min(left);
        let Some(into) = into.get_mut(..count) else {
            return 0;
        };
        let mut at = offset;
        let mut rest = into;
        while !rest.is_empty() {
            let (index, within, here) = self.piece(at, rest.len());
            let (piece, later) = rest.split_at_mut(here);
            match self.find_page(index) {
                Some(page) if page.page().is_hwpoison() => return (at - offset) as usize,
                Some(page) => self.hugetlb().platform().read_huge(page.frame(), within, piece),
                None => piece.fill(0),
            }
            at += here as u64;
            rest = later;
        }
        count
    }

    /// Writes bytes from `offset` on, with pages where there are none, and makes the file long enough. Sleeps.
    ///
    /// Takes the inode lock, and the fault mutex of each page. (Linux has no `write(2)` for these files; a kernel that
    /// loads a guest's memory wants it.)
    ///
    /// # Errors
    ///
    /// [`FileError`]; what was written before it stays.
    pub fn write_at(&self, task: &mut Task<P>, offset: u64, from: &[u8]) -> Result<(), FileError> {
        task.check(self.hugetlb())?;
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
            // Written under the fault mutex: who moves the page has it too.
            let mutex = self.hugetlb().fault_mutex(task, self.id(), index);
            let page = self.find_or_allocate(index)?;
            if page.page().is_hwpoison() {
                return Err(FileError::Hwpoison { index });
            }
            self.hugetlb().platform().write_huge(page.frame(), within, piece);
            drop(page);
            drop(mutex);
            at += here as u64;
            rest = later;
        }
        self.grow_to(end);
        drop(inode_lock);
        Ok(())
    }

    /// The page of an offset, the place in it, and how many of `length` bytes lie in that page.
    fn piece(&self, offset: u64, length: usize) -> (u64, u64, usize) {
        let size = self.size_class();
        let within = offset & (size.bytes() - 1);
        let here = usize::try_from(size.bytes() - within).map_or(length, |left| left.min(length));
        (offset >> size.shift(), within, here)
    }

    /// The page at `index`, allocated and zeroed if there was none. The caller holds the inode lock and the fault mutex of
    /// `index`.
    fn find_or_allocate(&self, index: u64) -> Result<PageRef<'_, P>, FileError> {
        let hugetlb = self.hugetlb();
        if let Some(page) = self.find_page(index) {
            return Ok(page);
        }
        let promises = Promises::File(self.promises());
        let page = NewPage::take(hugetlb, self.size_class(), &promises, self.subpool(), index, false)?;
        hugetlb.platform().zero_huge(page.frame(), self.size_class());
        // The inode lock keeps the size, and the file is made longer afterwards.
        self.insert_beyond_eof(index, page.frame())?;
        Ok(page.commit())
    }
}
