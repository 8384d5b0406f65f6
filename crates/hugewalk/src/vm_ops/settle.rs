//! Waiting for the changes of entries that are under way.

use super::enter;
use crate::error::MapError;
use crate::platform::Platform;
use crate::task::Task;
use crate::vma::{MmapLockedForWrite, Vma};

/// Waits until no change of the VMA's entries is under way that began before. Sleeps.
///
/// For a host that begins to keep translations of an address space: see
/// [`Notify`](crate::platform::Notify#secondary-mmus). It calls this for each VMA, under one hold of its mmap lock.
///
/// Holds: the mmap lock in write. Takes `i_mmap` in write.
///
/// Linux: `mm_take_all_locks()` in mm/mmap.c, as `mmu_notifier_register()` calls it.
///
/// # Errors
///
/// [`MapError::NotMapped`] if the VMA was replaced or unmapped, [`MapError::WrongSystem`].
pub fn settle<P: Platform>(
    mmap: &mut MmapLockedForWrite<'_, P>,
    vma: &Vma<P>,
    task: &mut Task<P>,
) -> Result<(), MapError> {
    enter(mmap, vma, task)?;
    wait_for_changes(vma, task);
    Ok(())
}

/// Waits for the changes of a VMA's entries that are under way. The caller holds the mmap lock in write.
///
/// A change holds the mmap lock, or `i_mmap` of the file in write, from before it asks whether anybody is to be told until it
/// has told of the end. The first are over. The others are over when `i_mmap` has been free once; those that come later ask
/// after that.
pub(crate) fn wait_for_changes<P: Platform>(vma: &Vma<P>, task: &mut Task<P>) {
    drop(vma.file().i_mmap_write_within(task));
}
