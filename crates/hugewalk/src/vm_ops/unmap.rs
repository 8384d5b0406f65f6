//! Taking a VMA away: its entries, its place in the file's tree, its reservation, its tables.

use core::ops::Range;

use super::{enter, stale};
use crate::addr::VirtAddr;
use crate::entries::{Zap, zap_range};
use crate::error::{MapError, WrongSystem};
use crate::file::IMmapWriteGuard;
use crate::gather::Gather;
use crate::platform::{Invalidation, Platform};
use crate::protocol::{Step, keeps};
use crate::sync::Arc;
use crate::task::Task;
use crate::tree::free_unneeded;
use crate::vma::{MmapLockedForWrite, Vma, VmaWriteGuard};

/// Unmaps a VMA: clears its entries, flushes, and takes it out of the tree of its file. Sleeps.
///
/// The host takes it out of its own set, and calls [`free_tables`] for the range before it releases the mmap lock. The rest of
/// a reservation goes back when the result is dropped. Where one call unmaps several VMAs, Linux does that after the last one.
///
/// Holds: the mmap lock in write. Takes the VMA lock and `i_mmap`, both in write. Allocates nothing.
///
/// Linux: `__unmap_hugepage_range_final()` in mm/hugetlb.c.
///
/// # Errors
///
/// [`MapError::NotMapped`] if the VMA was replaced or unmapped, [`MapError::WrongSystem`]. Nothing was changed then.
pub fn unmap<P: Platform>(
    mmap: &mut MmapLockedForWrite<'_, P>,
    vma: &Arc<Vma<P>>,
    task: &mut Task<P>,
) -> Result<Unmapped<P>, MapError> {
    enter(mmap, vma, task)?;
    // INVARIANT: it was not gone before, and is now.
    if empty(mmap, vma, task) { Ok(Unmapped { vma: vma.clone() }) } else { Err(stale(vma)) }
}

/// A VMA that was unmapped. Dropping it gives back what the mapping has left of its reservation, and the reference to its file.
/// It takes spinning locks, and does not sleep.
///
/// Linux: `hugetlb_vm_op_close()` in mm/hugetlb.c.
///
/// # Invariants
///
/// This is the only such value of the VMA, and its reservation has not been returned.
#[must_use = "dropping it gives the reservation back"]
#[derive(Debug)]
pub struct Unmapped<P: Platform> {
    vma: Arc<Vma<P>>,
}

impl<P: Platform> Drop for Unmapped<P> {
    fn drop(&mut self) {
        return_reservation(&self.vma);
    }
}

/// Frees the tables around a range that nothing needs any more, after VMAs there were unmapped or moved. Does not sleep.
///
/// `free` is a range around it that nothing of the engine's is mapped in: from the end of the VMA before to the start of the
/// VMA behind. A table goes if it has no entry and covers nothing beyond `free`. A table left behind would keep its range from
/// being shared.
///
/// Holds: the mmap lock in write. Takes table locks.
///
/// Linux: `hugetlb_free_pgd_range()`, which is `free_pgd_range()` in mm/memory.c, with `free` as its floor and ceiling.
///
/// # Errors
///
/// [`WrongSystem`]: nothing was changed.
///
/// # Safety
///
/// No VMA of the address space that was not unmapped overlaps `free`.
pub unsafe fn free_tables<P: Platform>(
    mmap: &mut MmapLockedForWrite<'_, P>,
    range: Range<VirtAddr>,
    free: Range<VirtAddr>,
    task: &Task<P>,
) -> Result<(), WrongSystem> {
    task.check(mmap.mm().hugetlb())?;
    let range = range.start..range.end.min(mmap.mm().task_size());
    let is_mapped = |table: &Range<VirtAddr>| table.start < free.start || free.end < table.end;
    // SAFETY: nothing is mapped in `free`, by the contract of this function. VMAs that were unmapped are in no tree.
    unsafe { free_tables_unless(mmap, range, is_mapped, task) };
    Ok(())
}

/// Frees the tables around a range that nothing needs any more. `is_mapped` says whether anything is mapped in a range.
///
/// Holds: the mmap lock in write. Takes table locks. Does not sleep.
///
/// # Safety
///
/// `is_mapped` denies no range that a VMA overlaps which is in a file's tree.
pub(crate) unsafe fn free_tables_unless<P: Platform>(
    mmap: &MmapLockedForWrite<'_, P>,
    range: Range<VirtAddr>,
    is_mapped: impl Fn(&Range<VirtAddr>) -> bool,
    task: &Task<P>,
) {
    let mm = mmap.mm();
    let mut gather = Gather::without_i_mmap(mm, mm.smallest());
    // SAFETY: the mmap lock is held in write; the rest is the caller's.
    unsafe { free_unneeded(mm, range, is_mapped, &mut gather, task) };
}

/// Clears a VMA's entries and removes it from the file's tree. False if it was replaced or unmapped.
///
/// Its reservation is returned once this has been done to all VMAs that go: how much of it the pool gets,
/// and how much a mount keeps, depends on the order.
///
/// Linux: `__unmap_hugepage_range_final()` in mm/hugetlb.c.
pub(crate) fn empty<P: Platform>(mmap: &MmapLockedForWrite<'_, P>, vma: &Vma<P>, task: &mut Task<P>) -> bool {
    let Some(mut locked) = VmaWriteGuard::lock(mmap, vma, task) else { return false };
    let mut i_mmap = vma.file().i_mmap_write_within(task);
    zap_all(&mut locked, &mut i_mmap, task);
    // Still under `i_mmap`: no other mapping can start to share with a VMA that is on its way out.
    if !keeps::<P>(Step::LeaveUnderIMmap) {
        drop(i_mmap);
        i_mmap = vma.file().i_mmap_write_within(task);
    }
    let removed = i_mmap.remove(vma);
    drop((i_mmap, removed));
    true
}

/// As [`empty`], if the VMA lock and `i_mmap` can be taken without waiting. If not, returns false and
/// changes nothing.
pub(crate) fn try_empty<P: Platform>(
    mmap: &MmapLockedForWrite<'_, P>,
    vma: &Vma<P>,
    task: &mut Task<P>,
) -> bool {
    let Some(mut locked) = VmaWriteGuard::try_lock(mmap, vma) else { return false };
    let Some(mut i_mmap) = vma.file().i_mmap_try_write() else { return false };
    zap_all(&mut locked, &mut i_mmap, task);
    let removed = i_mmap.remove(vma);
    drop((i_mmap, removed));
    true
}

fn zap_all<P: Platform>(
    locked: &mut VmaWriteGuard<'_, P>,
    i_mmap: &mut IMmapWriteGuard<'_, P>,
    task: &mut Task<P>,
) {
    let vma = locked.vma();
    let mut gather = Gather::new(vma.mm(), i_mmap);
    let range = vma.start()..vma.end();
    gather.announce(vma, &range, Invalidation::Unmap, task);
    zap_range(locked, range, Zap::All, &mut gather, task);
    gather.finish();
}

/// Returns the part of its reservation that a private mapping leaves unused when it goes, and what was paid for all of it.
///
/// Linux: `hugetlb_vm_op_close()` in mm/hugetlb.c.
pub(crate) fn return_reservation<P: Platform>(vma: &Vma<P>) {
    if let Some(reserve) = vma.reserve() {
        let file = vma.file();
        reserve.give_back(file.hugetlb(), file.size_class(), file.subpool(), vma.offsets());
    }
}
