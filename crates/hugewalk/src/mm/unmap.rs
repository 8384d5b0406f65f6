//! Taking mappings away: entries, VMAs, tables.

use core::ops::Range;

use crate::addr::VirtAddr;
use crate::error::MapError;
use crate::platform::Platform;
use crate::root::Mm;
use crate::space::Split;
use crate::space::{AddressSpace, MmapWriteGuard, Places};
use crate::task::Task;
use crate::uffd::Announcements;
use crate::vm_ops::{empty, free_tables_unless, return_reservation, try_empty};
use crate::vma::Vma;

impl<P: Platform> AddressSpace<P> {
    /// Unmaps a range: every mapping in it, or the part of it that lies in the range. Sleeps.
    ///
    /// Takes the mmap lock in write, and for each VMA its lock and `i_mmap`, both in write.
    ///
    /// # Errors
    ///
    /// [`MapError::Unaligned`] if the range would cut a huge page in two, [`MapError::Sealed`] if there is a sealed mapping
    /// in it, [`MapError::OutOfMemory`]; [`MapError::UnalignedAddress`], [`MapError::ZeroLength`], [`MapError::Overflow`].
    /// Nothing is unmapped then.
    pub fn munmap(&self, task: &mut Task<P>, address: VirtAddr, length: u64) -> Result<(), MapError> {
        task.enter(self.mm().hugetlb())?;
        let range = page_range(self.mm(), address, length)?;
        if range.end > self.mm().task_size() {
            return Err(MapError::Overflow);
        }
        let mut events = Announcements::new();
        let mut mmap = self.mmap_write_killable(task)?;
        unmap_range(&mut mmap, &range, &mut events, task)?;
        drop(mmap);
        events.tell(task);
        Ok(())
    }
}

/// The range that a length in bytes means, rounded up to base pages.
pub(super) fn page_range<P: Platform>(
    mm: &Mm<P>,
    address: VirtAddr,
    length: u64,
) -> Result<Range<VirtAddr>, MapError> {
    let geometry = mm.geometry();
    if !geometry.is_aligned(address.as_u64()) {
        return Err(MapError::UnalignedAddress { address });
    }
    if length == 0 {
        return Err(MapError::ZeroLength);
    }
    let length = geometry.round_up(length).ok_or(MapError::Overflow)?;
    let end = address.checked_add(length).ok_or(MapError::Overflow)?;
    Ok(address..end)
}

/// Unmaps a range with the mmap lock held in write. The caller tells the handlers of `events` once it has
/// released the lock.
pub(super) fn unmap_range<P: Platform>(
    mmap: &mut MmapWriteGuard<'_, P>,
    range: &Range<VirtAddr>,
    events: &mut Announcements<P>,
    task: &mut Task<P>,
) -> Result<(), MapError> {
    events.unmap(mmap.vmas.overlapping(range), range, task)?;
    Unmap::prepare(mmap, range)?.apply(mmap, task);
    events.done();
    Ok(())
}

/// An unmapping for which all memory is there.
pub(super) struct Unmap<P: Platform> {
    range: Range<VirtAddr>,
    split: Split<P>,
}

impl<P: Platform> Unmap<P> {
    /// Prepares to unmap a range. Changes nothing; refuses what would cut a huge page in two.
    pub(super) fn prepare(
        mmap: &mut MmapWriteGuard<'_, P>,
        range: &Range<VirtAddr>,
    ) -> Result<Self, MapError> {
        let split = match mmap.vmas.first_sealed(range) {
            // Linux checks each mapping in turn, so a mapping before it that cannot be cut is reported
            // first.
            Some(address) if !cuts_a_page(mmap, range.start, address) => {
                return Err(MapError::Sealed { address });
            }
            _ => Split::at_ends(mmap, range)?,
        };
        Ok(Self { range: range.clone(), split })
    }

    /// Unmaps, and returns the VMAs that are gone: they keep their files.
    pub(super) fn apply(self, mmap: &mut MmapWriteGuard<'_, P>, task: &mut Task<P>) -> Places<P> {
        self.split.apply(mmap, task);
        let mut gone = Places::new();
        while let Some(vma) = mmap.vmas.first_in(&self.range).cloned() {
            empty_vma(mmap, &vma, task);
            let Some(place) = mmap.vmas.remove(&vma) else { break };
            gone.put(place);
            free_tables(mmap, vma.start()..vma.end(), task);
        }
        gone.vmas().for_each(|vma| return_reservation(vma));
        gone
    }
}

/// Would a cut at `point` go through a page of a mapping that ends before `sealed`?
fn cuts_a_page<P: Platform>(mmap: &MmapWriteGuard<'_, P>, point: VirtAddr, sealed: VirtAddr) -> bool {
    let vma = mmap.vmas.find(point).filter(|vma| vma.end() <= sealed);
    vma.is_some_and(|vma| !vma.size().is_aligned(point.as_u64()))
}

/// Clears a VMA's entries and removes it from the file's tree: [`empty`].
pub(super) fn empty_vma<P: Platform>(mmap: &MmapWriteGuard<'_, P>, vma: &Vma<P>, task: &mut Task<P>) {
    empty(&mmap.held, vma, task);
    wake_faults(vma);
}

/// As [`empty_vma`], if the VMA lock and `i_mmap` can be taken without waiting. If not, returns false and
/// changes nothing.
pub(super) fn try_empty_vma<P: Platform>(
    mmap: &MmapWriteGuard<'_, P>,
    vma: &Vma<P>,
    task: &mut Task<P>,
) -> bool {
    let emptied = try_empty(&mmap.held, vma, task);
    if emptied {
        wake_faults(vma);
    }
    emptied
}

fn wake_faults<P: Platform>(vma: &Vma<P>) {
    if let Some(context) = vma.userfault() {
        // The woken faults see that nothing is mapped any more once the mmap lock is free.
        context.wake(&(vma.start()..vma.end()));
    }
}

/// Frees the tables around a range that nothing needs any more. Their entries were cleared, and their VMAs
/// are in no file's tree, so no other mapping can come to share them.
///
/// Holds: the mmap lock in write. Takes table locks. Does not sleep.
///
/// Linux: `hugetlb_free_pgd_range()`, which is `free_pgd_range()` in mm/memory.c.
pub(crate) fn free_tables<P: Platform>(mmap: &MmapWriteGuard<'_, P>, range: Range<VirtAddr>, task: &Task<P>) {
    let is_mapped = |range: &Range<VirtAddr>| mmap.vmas.first_in(range).is_some();
    // SAFETY: the mmap lock is held in write. VMAs leave the files' trees before they leave the set.
    unsafe { free_tables_unless(&mmap.held, range, is_mapped, task) };
}
