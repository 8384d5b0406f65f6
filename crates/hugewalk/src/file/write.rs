//! Writing what a source has, which may fault.

use super::HugeFile;
use super::io::range_end;
use crate::error::{FileError, WriteStopped};
use crate::platform::Platform;
use crate::sleep::Signals;
use crate::source::{Room, Source};
use crate::task::Task;

/// Bytes that are copied with no lock held, before the rest of a page is tried under locks.
const AHEAD: usize = 256;

impl<P: Platform> HugeFile<P> {
    /// Writes `length` bytes that a source has from `offset` on, which may have to be faulted in. Allocates pages where there are
    /// none, and makes the file long enough for what is written. Sleeps.
    ///
    /// Bytes of one page are written together as far as the source has them; others may write in between. A page is allocated
    /// only when there is a byte for it.
    ///
    /// Takes the inode lock, and the fault mutex of each page; none of them while the source may fault.
    ///
    /// Linux: `generic_perform_write()` in mm/filemap.c, for the order: the source is faulted in before the locks are taken, and
    /// copied from under them without faults.
    ///
    /// # Errors
    ///
    /// [`FileError`]: [`FileError::BadSource`] if the source fails, [`FileError::Interrupted`] if the task is killed. What was written
    /// before it stays written, and the file is long enough for that.
    pub fn write_from(
        &self,
        task: &mut Task<P>,
        offset: u64,
        length: u64,
        source: &mut dyn Source<P>,
    ) -> Result<(), WriteStopped> {
        task.enter(self.hugetlb())?;
        if length == 0 {
            return Ok(());
        }
        range_end(offset, length)?;
        let mut done = 0;
        while done < length {
            let written = self.write_some(task, offset, done..length, source);
            done += written.map_err(|error| WriteStopped { done, error })?;
        }
        Ok(())
    }

    /// Writes what the source has in `part`, to where it belongs in the file, and not beyond a page: at least one byte, unless it fails.
    /// Returns how many bytes.
    fn write_some(
        &self,
        task: &mut Task<P>,
        offset: u64,
        part: core::ops::Range<u64>,
        source: &mut dyn Source<P>,
    ) -> Result<u64, FileError> {
        Signals::Fatal.check(&**task.parker())?;
        let at = offset + part.start;
        let left = usize::try_from(part.end - part.start).unwrap_or(usize::MAX);
        let (index, within, here) = self.piece(at, left);
        let mut ahead = [0; AHEAD];
        let ahead = &mut ahead[..here.min(AHEAD)];
        let mut room = Room::of_bytes(ahead);
        source.copy(part.start, &mut room, task)?;
        room.full()?;
        let inode_lock = self.lock_inode(task);
        // Written under the fault mutex, which migration holds too.
        let mutex = self.hugetlb().fault_mutex(task, self.id(), index);
        let page = self.find_or_allocate(index)?;
        if page.page().is_hwpoison() {
            return Err(FileError::Hwpoison { index });
        }
        // SAFETY: the page is held as long as there is room to fill, and `here` bytes stay inside it.
        let mut room = unsafe { Room::of_page(self.hugetlb().platform(), page.frame(), within, here as u64) };
        room.write(ahead);
        if room.left() > 0 {
            source.copy_nofault(part.start + room.filled() as u64, &mut room);
        }
        let written = room.filled() as u64;
        drop(page);
        drop(mutex);
        self.grow_to(at + written);
        drop(inode_lock);
        Ok(written)
    }
}
