//! Replacing a VMA by another of the same bounds.

use super::{enter, stale};
use crate::entries::each_own_entry;
use crate::error::MapError;
use crate::gather::Gather;
use crate::platform::{Invalidation, Platform};
use crate::protocol::{Step, keeps};
use crate::sync::Arc;
use crate::task::Task;
use crate::vma::{MmapLockedForWrite, Protection, Shape, Vma, VmaWriteGuard};

/// Gives a VMA new rights, and returns the VMA that replaces it. Shared tables of it are unshared. Sleeps.
///
/// Holds: the mmap lock in write. Takes the VMA lock and `i_mmap`, both in write.
///
/// Linux: `hugetlb_change_protection()` in mm/hugetlb.c.
///
/// # Errors
///
/// [`MapError::NotMapped`] if the VMA was replaced or unmapped, [`MapError::UnknownRights`], [`MapError::OutOfMemory`],
/// [`MapError::WrongSystem`]. Nothing was changed then.
pub fn protect<P: Platform>(
    mmap: &mut MmapLockedForWrite<'_, P>,
    vma: &Vma<P>,
    protection: Protection,
    task: &mut Task<P>,
) -> Result<Arc<Vma<P>>, MapError> {
    enter(mmap, vma, task)?;
    if !Protection::all().contains(protection) {
        return Err(MapError::UnknownRights);
    }
    let new = vma.successor(Shape { protection, ..vma.shape() })?;
    if exchange(mmap, vma, &new, &change_entries, task) { Ok(new) } else { Err(stale(vma)) }
}

/// Linux: `hugetlb_change_protection()` in mm/hugetlb.c.
pub(crate) fn change_entries<P: Platform>(
    locked: &mut VmaWriteGuard<'_, P>,
    new: &Vma<P>,
    gather: &mut Gather<'_, P>,
    task: &mut Task<P>,
) {
    let vma = locked.vma();
    gather.announce(vma, &(vma.start()..vma.end()), Invalidation::ProtectionVma, task);
    each_own_entry(locked, vma.start()..vma.end(), gather, task, |at, gather| at.reprotect(new, gather));
}

/// Replaces `old` by `new`, which has the same bounds, in the file's tree. `work` brings the entries in line, with the VMA lock
/// and `i_mmap` held in write. False if `old` was replaced or unmapped.
pub(crate) fn exchange<P: Platform>(
    mmap: &MmapLockedForWrite<'_, P>,
    old: &Vma<P>,
    new: &Arc<Vma<P>>,
    work: &impl Fn(&mut VmaWriteGuard<'_, P>, &Vma<P>, &mut Gather<'_, P>, &mut Task<P>),
    task: &mut Task<P>,
) -> bool {
    let Some(mut locked) = VmaWriteGuard::lock(mmap, old, task) else { return false };
    let mut i_mmap = old.file().i_mmap_write_within(task);
    let mut gather = Gather::new(old.mm(), &mut i_mmap);
    work(&mut locked, new, &mut gather, task);
    gather.finish();
    if !keeps::<P>(Step::ExchangeUnderIMmap) {
        drop(i_mmap);
        i_mmap = old.file().i_mmap_write_within(task);
    }
    new.take_over_from(old);
    i_mmap.replace(old, new.clone());
    true
}
