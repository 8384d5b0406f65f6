//! Moving a VMA.

use core::ops::Range;

use super::unlisted::Unlisted;
use super::{align_error, enter};
use crate::addr::VirtAddr;
use crate::entries::{by_table, each_own_entry};
use crate::error::{MapError, OutOfMemory};
use crate::gather::Gather;
use crate::platform::{Invalidation, Platform};
use crate::protocol::{Step, keeps};
use crate::share::huge_pte_alloc;
use crate::sync::Arc;
use crate::task::Task;
use crate::vma::{MmapLockedForWrite, Shape, Vma, VmaFlags, VmaReadGuard, VmaWriteGuard};
use crate::walk::huge_pte_offset;

/// Moves a VMA with its pages to another place, and returns the VMA that replaces it. Shared tables are not moved but
/// unshared; the range shares them again at its new place as it is touched. Sleeps.
///
/// The host moves it in its own set, and calls [`free_tables`](super::free_tables) for the old range before it releases the mmap
/// lock. After an error it calls that for the new range: some tables may have been made there.
///
/// Holds: the mmap lock in write. Takes the VMA lock and `i_mmap`, both in write.
///
/// Linux: `move_hugetlb_page_tables()` in mm/hugetlb.c.
///
/// # Errors
///
/// [`MapError::Unaligned`], [`MapError::Overflow`] if the new range does not lie below the end of user addresses,
/// [`MapError::NotMapped`] if the VMA was replaced or unmapped, [`MapError::OutOfMemory`], [`MapError::WrongSystem`]. Nothing was
/// moved then.
///
/// # Safety
///
/// The range of the VMA's length from `to` on is free, as for [`map`](super::map()).
pub unsafe fn remap<P: Platform>(
    mmap: &mut MmapLockedForWrite<'_, P>,
    vma: &Vma<P>,
    to: VirtAddr,
    task: &mut Task<P>,
) -> Result<Arc<Vma<P>>, MapError> {
    enter(mmap, vma, task)?;
    align_error(vma.size(), to.as_u64())?;
    let source = vma.start()..vma.end();
    let end = to.checked_add(source.end.offset_from(source.start)).ok_or(MapError::Overflow)?;
    if end > mmap.mm().task_size() {
        return Err(MapError::Overflow);
    }
    let new = vma.successor(Shape { start: to, end, ..vma.shape() })?;
    make_tables(mmap, vma, &source, &new, task)?;
    take_place(mmap, vma, &new, task)?;
    Ok(new)
}

/// Makes the tables that the entries of `source` will need at their new place, so that moving them cannot
/// fail. The tables are not shared: when they are filled, `i_mmap` is held in write, and the search for a
/// partner would take it.
///
/// Linux: `huge_pte_alloc()` in `move_hugetlb_page_tables()`, where it can fail half way.
pub(crate) fn make_tables<P: Platform>(
    mmap: &MmapLockedForWrite<'_, P>,
    old: &Vma<P>,
    source: &Range<VirtAddr>,
    new: &Vma<P>,
    task: &mut Task<P>,
) -> Result<(), OutOfMemory> {
    let Some(from) = VmaReadGuard::lock(mmap, old, task) else {
        return Ok(());
    };
    // The lock of the new VMA is not taken: for a private VMA it is its reservation's, which is held
    // already.
    let Some(to) = Unlisted::new(mmap, new) else {
        return Ok(());
    };
    let geometry = old.mm().geometry();
    for part in by_table(geometry, source.clone(), old.size()) {
        let Ok(Some(slot)) = huge_pte_offset(&from, old.mm(), part.start, old.size()) else {
            continue;
        };
        // A shared table will be unshared. No table is made in its place, so that one can be shared there.
        if slot.sharers() > 0 {
            continue;
        }
        // Only for entries that are there, as in Linux: mincore distinguishes an empty table from no table.
        // No entry is filled meanwhile, since the mmap lock keeps faults out. The part may straddle a
        // table's boundary at its new place.
        let (mut address, mut made) = (part.start, None);
        while address < part.end {
            let target = moved(address, source, new);
            let table = Some(geometry.table_range(target, old.size().level()).start);
            if made != table && !slot.read_beside(address).is_none() {
                huge_pte_alloc(&to, new, target, None, task)?;
                made = table;
            }
            address = address.plus(old.size().bytes());
        }
    }
    Ok(())
}

/// The new place of an address of the source range.
fn moved<P: Platform>(address: VirtAddr, source: &Range<VirtAddr>, new: &Vma<P>) -> VirtAddr {
    new.start().plus(address.offset_from(source.start))
}

/// Puts `new` into the file's tree in place of `old`, and moves the entries over.
pub(crate) fn take_place<P: Platform>(
    mmap: &MmapLockedForWrite<'_, P>,
    old: &Vma<P>,
    new: &Arc<Vma<P>>,
    task: &mut Task<P>,
) -> Result<(), OutOfMemory> {
    let Some(mut locked) = VmaWriteGuard::lock(mmap, old, task) else {
        return Ok(());
    };
    let mut i_mmap = old.file().i_mmap_write_within(task);
    if !keeps::<P>(Step::ShareWithoutIMmap)
        && let Some(to) = VmaReadGuard::lock(mmap, new, task)
    {
        huge_pte_alloc(&to, new, new.start(), Some(&to), task)?;
    }
    let mut gather = Gather::new(old.mm(), &mut i_mmap);
    gather.announce(old, &(old.start()..old.end()), Invalidation::Clear, task);
    move_entries(mmap, &mut locked, new, &mut gather, task);
    gather.finish();
    new.take_over_from(old);
    i_mmap.change(old, new.clone());
    Ok(())
}

fn move_entries<P: Platform>(
    mmap: &MmapLockedForWrite<'_, P>,
    locked: &mut VmaWriteGuard<'_, P>,
    new: &Vma<P>,
    gather: &mut Gather<'_, P>,
    task: &Task<P>,
) {
    let old = locked.vma();
    let (mm, size) = (old.mm(), old.size());
    let source = old.start()..old.end();
    let Some(target) = Unlisted::new(mmap, new) else {
        return;
    };
    let protected = new.flags().contains(VmaFlags::UFFD_WP);
    each_own_entry(locked, source.clone(), gather, task, |from, gather| {
        if !from.is_empty() {
            let address = moved(from.address(), &source, new);
            let to = huge_pte_offset(&target, mm, address, size).ok().flatten();
            from.move_to(to.map(|slot| (slot, address)), protected, gather, task);
        }
    });
}
