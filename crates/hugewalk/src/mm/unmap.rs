//! Taking mappings away: entries, VMAs, tables.

use alloc::vec::Vec;
use core::ops::Range;

use crate::addr::{HugeSize, PAGE_SIZE, VirtAddr};
use crate::arch::Level;
use crate::entries::{Zap, zap_range};
use crate::error::MapError;
use crate::error::OutOfMemory;
use crate::file::IMmapWriteGuard;
use crate::gather::Gather;
use crate::platform::{Platform, Protocol, Step};
use crate::reserve::release_range;
use crate::root::Mm;
use crate::space::Split;
use crate::space::{AddressSpace, MmapWriteGuard, VmaSet};
use crate::sync::Arc;
use crate::task::Task;
use crate::uffd::Announcements;
use crate::vma::{Vma, VmaWriteGuard};
use crate::walk::descend;

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
        let range = page_range(address, length)?;
        if range.end > self.mm().levels().task_size() {
            return Err(MapError::Overflow);
        }
        let mut events = Announcements::new();
        let mut mmap = self.mmap_write(task);
        unmap_range(&mut mmap, &range, &mut events, task)?;
        drop(mmap);
        events.tell(task);
        Ok(())
    }
}

/// The range that a length in bytes means, rounded up to 4 KiB pages.
pub(super) fn page_range(address: VirtAddr, length: u64) -> Result<Range<VirtAddr>, MapError> {
    if !address.as_u64().is_multiple_of(PAGE_SIZE) {
        return Err(MapError::UnalignedAddress { address });
    }
    if length == 0 {
        return Err(MapError::ZeroLength);
    }
    let length = length.checked_next_multiple_of(PAGE_SIZE).ok_or(MapError::Overflow)?;
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
    Unmap::prepare(mmap, range, task)?.apply(mmap, task);
    events.done();
    Ok(())
}

/// An unmapping for which all memory is there.
pub(super) struct Unmap<P: Platform> {
    range: Range<VirtAddr>,
    split: Split<P>,
    /// Room for the VMAs that go, after the split.
    doomed: Vec<Arc<Vma<P>>>,
}

impl<P: Platform> Unmap<P> {
    /// Prepares to unmap a range. Changes nothing; refuses what would cut a huge page in two.
    pub(super) fn prepare(
        mmap: &mut MmapWriteGuard<'_, P>,
        range: &Range<VirtAddr>,
        task: &mut Task<P>,
    ) -> Result<Self, MapError> {
        let split = match mmap.vmas.first_sealed(range) {
            // Linux checks each mapping in turn, so a mapping before it that cannot be cut is reported
            // first.
            Some(address) if !cuts_a_page(mmap, range.start, address) => {
                return Err(MapError::Sealed { address });
            }
            _ => Split::at_ends(mmap, range, task)?,
        };
        let mut doomed = Vec::new();
        // A split adds VMAs, but inside the range their number stays the same.
        doomed.try_reserve(mmap.vmas.overlapping(range).count()).map_err(OutOfMemory::from)?;
        Ok(Self { range: range.clone(), split, doomed })
    }

    /// Unmaps, and returns the VMAs that are gone: they keep their files.
    pub(super) fn apply(mut self, mmap: &mut MmapWriteGuard<'_, P>, task: &mut Task<P>) -> Vec<Arc<Vma<P>>> {
        self.split.apply(mmap, task);
        self.doomed.extend(mmap.vmas.overlapping(&self.range).cloned());
        for vma in &self.doomed {
            empty_vma(mmap, vma, task);
            mmap.vmas.remove(vma);
            free_tables(mmap, vma.start()..vma.end(), task);
        }
        self.doomed.iter().for_each(|vma| return_reservation(vma));
        self.doomed
    }
}

/// Would a cut at `point` go through a page of a mapping that ends before `sealed`?
fn cuts_a_page<P: Platform>(mmap: &MmapWriteGuard<'_, P>, point: VirtAddr, sealed: VirtAddr) -> bool {
    let vma = mmap.vmas.find(point).filter(|vma| vma.end() <= sealed);
    vma.is_some_and(|vma| !vma.size().is_aligned(point.as_u64()))
}

/// Clears a VMA's entries and removes it from the file's tree.
///
/// Its reservation is returned once this has been done to all VMAs that go: how much of it the pool gets,
/// and how much a mount keeps, depends on the order.
///
/// Linux: `__unmap_hugepage_range_final()` in mm/hugetlb.c.
pub(super) fn empty_vma<P: Platform>(mmap: &MmapWriteGuard<'_, P>, vma: &Arc<Vma<P>>, task: &mut Task<P>) {
    if let Some(mut locked) = VmaWriteGuard::lock(mmap, vma, task) {
        let mut i_mmap = vma.file().i_mmap_write(task);
        empty_locked(&mut locked, &mut i_mmap, task);
        // Still under `i_mmap`: no other mapping can start to share with a VMA that is on its way out.
        if !P::Protocol::keeps(Step::LeaveUnderIMmap) {
            drop(i_mmap);
            i_mmap = vma.file().i_mmap_write(task);
        }
        i_mmap.remove(vma);
    }
    wake_faults(vma);
}

/// As [`empty_vma`], if the VMA lock and `i_mmap` can be taken without waiting. If not, returns false and
/// changes nothing.
pub(super) fn try_empty_vma<P: Platform>(
    mmap: &MmapWriteGuard<'_, P>,
    vma: &Arc<Vma<P>>,
    task: &Task<P>,
) -> bool {
    let Some(mut locked) = VmaWriteGuard::try_lock(mmap, vma) else { return false };
    let Some(mut i_mmap) = vma.file().i_mmap_try_write() else { return false };
    empty_locked(&mut locked, &mut i_mmap, task);
    i_mmap.remove(vma);
    drop(i_mmap);
    drop(locked);
    wake_faults(vma);
    true
}

fn empty_locked<P: Platform>(
    locked: &mut VmaWriteGuard<'_, P>,
    i_mmap: &mut IMmapWriteGuard<'_, P>,
    task: &Task<P>,
) {
    let vma = locked.vma();
    let mut gather = Gather::new(vma.mm(), i_mmap);
    zap_range(locked, vma.start()..vma.end(), Zap::All, &mut gather, task);
    gather.finish();
}

fn wake_faults<P: Platform>(vma: &Vma<P>) {
    if let Some(context) = vma.userfault() {
        // The woken faults see that nothing is mapped any more once the mmap lock is free.
        context.wake(&(vma.start()..vma.end()));
    }
}

/// Returns the part of its reservation that a private mapping leaves unused when it goes.
///
/// Linux: `hugetlb_vm_op_close()` in mm/hugetlb.c.
pub(super) fn return_reservation<P: Platform>(vma: &Vma<P>) {
    if let Some(reserve) = vma.reserve() {
        let offsets = vma.offsets();
        let unused = reserve.used.lock().missing(offsets.start, offsets.end);
        let file = vma.file();
        release_range(file.hugetlb(), file.size_class(), file.subpool(), unused);
    }
}

/// Frees the tables around a range that no VMA needs any more, level by level, lowest first. Their entries
/// were cleared, and their VMAs are in no file's tree, so no other mapping can come to share them.
///
/// Holds: the mmap lock in write. Takes table locks. Does not sleep.
///
/// Linux: `hugetlb_free_pgd_range()`, which is `free_pgd_range()` in mm/memory.c.
pub(crate) fn free_tables<P: Platform>(mmap: &MmapWriteGuard<'_, P>, range: Range<VirtAddr>, task: &Task<P>) {
    let mm: &Mm<P> = mmap.mm;
    let mut gather = Gather::without_i_mmap(mm, HugeSize::Size2M);
    let from_below = Level::FROM_THE_TOP.into_iter().rev();
    let tables = from_below
        .filter(|&above| above <= mm.levels().top())
        .filter_map(|above| Some((above.below()?, above)));
    for (level, above) in tables {
        let span = above.entry_size();
        let mut start = VirtAddr::new(range.start.as_u64() & !(span - 1));
        while start < range.end {
            let covered = start..VirtAddr::new(start.as_u64().saturating_add(span));
            start = covered.end;
            if is_unused(&mmap.vmas, &covered) {
                free_table(mmap, level, covered, &mut gather, task);
            }
        }
    }
}

fn is_unused<P: Platform>(vmas: &VmaSet<P>, covered: &Range<VirtAddr>) -> bool {
    vmas.overlapping(covered).next().is_none()
}

/// Detaches and retires the table of `level` that covers a range, if there is one. No VMA is left in the
/// range.
///
/// Linux: `pud_clear()` and `pmd_free_tlb()` in `free_pmd_range()`, and their like for the upper levels.
///
/// Holds: the mmap lock in write. Takes the table lock. Does not sleep.
fn free_table<P: Platform>(
    mmap: &MmapWriteGuard<'_, P>,
    level: Level,
    covered: Range<VirtAddr>,
    gather: &mut Gather<'_, P>,
    task: &Task<P>,
) {
    // SAFETY: the mmap lock is held in write and no VMA is left in the range, so no other task detaches
    // tables here.
    let Some(place) = (unsafe { descend(mmap.mm, covered.start, level) }) else {
        return;
    };
    let locked = place.lock(task);
    place.detach();
    if locked.sharers() > 0 {
        // Not reached, since unmapping has unshared it. If it were, the others would keep the table.
        let users = place.table.remove_user();
        gather.unshared(covered.start, users);
        return;
    }
    drop(locked);
    // SAFETY: detached above by its only user; no VMA of the range is in a file's tree, so it cannot be
    // shared again.
    unsafe { gather.retire(covered, place.table) };
}
