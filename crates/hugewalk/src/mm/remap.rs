//! mremap: moving and shrinking.

use core::ops::Range;

use super::entries::each_own_entry;
use super::split::Split;
use super::unlisted::Unlisted;
use super::unmap::{by_table, drop_entry, page_range, unmap_range};
use super::{AddressSpace, MapError, Mm, MmapWriteGuard, align_error, free_tables};
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::error::OutOfMemory;
use crate::file::IMmapWriteGuard;
use crate::gather::Gather;
use crate::platform::{Platform, Protocol, Step};
use crate::share::huge_pte_alloc;
use crate::sync::Arc;
use crate::table::{LockedSlot, Slot, Stable};
use crate::task::Task;
use crate::uffd::{Announcements, Features};
use crate::vma::{Shape, Vma, VmaFlags, VmaReadGuard, VmaWriteGuard};
use crate::walk::huge_pte_offset;

/// Where mremap may put the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemapTo {
    /// It stays where it is.
    InPlace,
    /// It may move (`MREMAP_MAYMOVE`), which a huge-page mapping never needs to.
    Anywhere,
    /// It moves here, in place of whatever is mapped (`MREMAP_MAYMOVE | MREMAP_FIXED`).
    Fixed(VirtAddr),
}

impl<P: Platform> AddressSpace<P> {
    /// Moves or shrinks a mapping, and returns its address. Lengths are rounded up to whole pages. Shared tables are not
    /// moved but unshared: the range takes them up again at its new place as it is touched. Sleeps.
    ///
    /// Takes the mmap lock in write, and the VMA lock and `i_mmap` of what it moves or unmaps, both in write.
    ///
    /// Linux: `mremap(2)`, `move_hugetlb_page_tables()` in mm/hugetlb.c.
    ///
    /// # Errors
    ///
    /// [`MapError::BadAddress`] if nothing is mapped at `old`, or no single mapping holds the range to be moved,
    /// [`MapError::Grows`], [`MapError::Overlaps`], [`MapError::Unaligned`], [`MapError::OutOfMemory`]. Nothing was changed then, except that what lay at a fixed new
    /// place may be gone, and so may the tail that was to be cut off.
    pub fn mremap(
        &self,
        task: &mut Task<P>,
        old: VirtAddr,
        old_length: u64,
        new_length: u64,
        to: RemapTo,
    ) -> Result<VirtAddr, MapError> {
        task.check(self.mm().hugetlb())?;
        if !old.as_u64().is_multiple_of(PAGE_SIZE) {
            return Err(MapError::UnalignedAddress { address: old });
        }
        if new_length == 0 {
            return Err(MapError::ZeroLength);
        }
        let mut events = RemapEvents::new();
        let remapped = self.remap(task, old, old_length, new_length, to, &mut events);
        events.target.tell(task);
        events.moved.tell(task);
        events.source.tell(task);
        remapped
    }

    fn remap(
        &self,
        task: &mut Task<P>,
        old: VirtAddr,
        old_length: u64,
        new_length: u64,
        to: RemapTo,
        events: &mut RemapEvents<P>,
    ) -> Result<VirtAddr, MapError> {
        let mut mmap = self.mmap_write(task);
        let vma = mmap.vmas.find(old).cloned().ok_or(MapError::BadAddress { address: old })?;
        let size = vma.size();
        let old_length = size.round_up(old_length).ok_or(MapError::Overflow)?;
        let new_length = size.round_up(new_length).ok_or(MapError::Overflow)?;
        align_error(size, old.as_u64())?;
        if let RemapTo::Fixed(new) = to {
            align_error(size, new.as_u64())?;
        }
        if new_length > old_length {
            return Err(MapError::Grows);
        }
        let source = old..old.checked_add(old_length).ok_or(MapError::Overflow)?;
        let kept = old..old.plus(new_length);
        match to {
            RemapTo::InPlace | RemapTo::Anywhere => {
                // As Linux, the tail is unmapped whatever it belongs to, and nobody asks whether what stays is one
                // mapping.
                if new_length < old_length {
                    if source.end > self.mm().levels().task_size() {
                        return Err(MapError::Overflow);
                    }
                    unmap_range(&mut mmap, &(kept.end..source.end), &mut events.source, task)?;
                }
                Ok(old)
            }
            RemapTo::Fixed(new) => {
                let target = page_range(new, new_length)?;
                if target.end > self.mm().levels().task_size() {
                    return Err(MapError::Overflow);
                }
                if target.start < source.end && source.start < target.end {
                    return Err(MapError::Overlaps);
                }
                if source.end > vma.end() {
                    return Err(MapError::BadAddress { address: old });
                }
                move_range(&mut mmap, &source, &kept, &target, events, task)?;
                Ok(new)
            }
        }
    }
}

/// What handlers are told of a move, in this order. Linux: `uf_unmap_early`, `uf` and `uf_unmap`.
struct RemapEvents<P: Platform> {
    /// That what lay at the new place was unmapped.
    target: Announcements<P>,
    moved: Announcements<P>,
    /// That nothing is mapped at the old place any more: the part that was cut off, and what has moved.
    source: Announcements<P>,
}

impl<P: Platform> RemapEvents<P> {
    const fn new() -> Self {
        Self { target: Announcements::new(), moved: Announcements::new(), source: Announcements::new() }
    }
}

fn move_range<P: Platform>(
    mmap: &mut MmapWriteGuard<'_, P>,
    source: &Range<VirtAddr>,
    kept: &Range<VirtAddr>,
    target: &Range<VirtAddr>,
    events: &mut RemapEvents<P>,
    task: &mut Task<P>,
) -> Result<(), MapError> {
    unmap_range(mmap, target, &mut events.target, task)?;
    if kept.end < source.end {
        unmap_range(mmap, &(kept.end..source.end), &mut events.source, task)?;
    }
    let split = Split::at_ends(mmap, kept, task)?;
    mmap.vmas.prepare(5)?;
    let Some(whole) = mmap.vmas.find(kept.start).cloned() else {
        return Err(MapError::BadAddress { address: kept.start });
    };
    events.moved.remap(&whole, source, target.start, task)?;
    events.source.unmap(mmap.vmas.overlapping(kept), kept, task)?;
    let mut shape =
        Shape { start: target.start, end: target.end, offset: whole.offset_of(kept.start), ..whole.shape() };
    if !whole.userfault().is_some_and(|context| context.wants(Features::EVENT_REMAP)) {
        // A handler that does not know of the move would not know its faults either.
        shape.flags -= VmaFlags::UFFD;
    }
    let new = whole.successor(shape)?;
    // The new VMA stands in the set before it stands in the file's tree: file-side walkers find nothing yet.
    mmap.vmas.insert(new.clone())?;
    let moved = make_tables(mmap, &whole, kept, &new, task)
        .map_err(MapError::from)
        .and_then(|()| split.apply(mmap, task))
        .and_then(|()| move_vma(mmap, kept.start, &new, task));
    if moved.is_err() {
        mmap.vmas.remove(&new);
        free_tables(mmap, target.clone(), task);
    } else {
        events.moved.done();
        events.source.done();
        free_tables(mmap, kept.clone(), task);
    }
    moved
}

/// Makes the tables that the entries of `source` will need at their new place, so that moving cannot fail. They are not
/// shared: `i_mmap` will be held in write when they are filled, and looking for a partner takes it (scenario S23).
fn make_tables<P: Platform>(
    mmap: &MmapWriteGuard<'_, P>,
    old: &Vma<P>,
    source: &Range<VirtAddr>,
    new: &Vma<P>,
    task: &mut Task<P>,
) -> Result<(), OutOfMemory> {
    let Some(from) = VmaReadGuard::lock(mmap, old, task) else {
        return Ok(());
    };
    // Not the lock of the new VMA: a private one has its reservation's, which is held already.
    let Some(to) = Unlisted::new(mmap, new) else {
        return Ok(());
    };
    for part in by_table(source.clone(), old.size()) {
        let Ok(Some(slot)) = huge_pte_offset(&from, old.mm(), part.start, old.size()) else {
            continue;
        };
        // What is shared will be unshared, and the place of its table is left free for another to share.
        if slot.sharers() == 0 {
            // The part may straddle a table's boundary at its new place.
            let last = VirtAddr::new(part.end.as_u64() - old.size().bytes());
            for address in [part.start, last] {
                huge_pte_alloc(&to, new, moved(address, source, new), None, task)?;
            }
        }
    }
    Ok(())
}

/// Where an address of the source range comes to lie.
fn moved<P: Platform>(address: VirtAddr, source: &Range<VirtAddr>, new: &Vma<P>) -> VirtAddr {
    new.start().plus(address.offset_from(source.start))
}

/// Exchanges the VMA at `start` for `new`, and moves the entries over.
fn move_vma<P: Platform>(
    mmap: &mut MmapWriteGuard<'_, P>,
    start: VirtAddr,
    new: &Arc<Vma<P>>,
    task: &mut Task<P>,
) -> Result<(), MapError> {
    let Some(old) = mmap.vmas.find(start).cloned() else {
        return Ok(());
    };
    let Some(locked) = VmaWriteGuard::lock(mmap, &old, task) else {
        return Ok(());
    };
    let mut i_mmap = old.file().i_mmap_write(task);
    if !P::Protocol::keeps(Step::ShareWithoutIMmap)
        && let Some(to) = VmaReadGuard::lock(mmap, new, task)
    {
        huge_pte_alloc(&to, new, new.start(), Some(&to), task)?;
    }
    let mut gather = Gather::new(old.mm(), &i_mmap);
    move_entries(mmap, &locked, &i_mmap, new, &mut gather, task);
    gather.finish();
    new.succeed(&old);
    // The one leaves the room that the other needs, so the exchange does not fail.
    i_mmap.remove(&old);
    i_mmap.insert(new.clone())?;
    drop(i_mmap);
    drop(locked);
    mmap.vmas.remove(&old);
    if let Some(context) = old.userfault() {
        // They find out that nothing is mapped here any more once the mmap lock is free.
        context.wake(&(old.start()..old.end()));
    }
    Ok(())
}

fn move_entries<P: Platform>(
    mmap: &MmapWriteGuard<'_, P>,
    locked: &VmaWriteGuard<'_, P>,
    i_mmap: &IMmapWriteGuard<'_, P>,
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
    each_own_entry(locked, i_mmap, source.clone(), gather, task, |from, address, gather| {
        if !from.raw().is_none() {
            let to = huge_pte_offset(&target, mm, moved(address, &source, new), size);
            move_entry(mm, address, from, to.ok().flatten(), protected, gather, task);
        }
    });
}

/// Moves one entry, or drops it if no table was made for it: the table it lies in was shared when tables were made, so
/// its page is the file's, and a fault finds it there. Write protections of userfaultfd go along if the new place is
/// registered for them (`protected`).
fn move_entry<P: Platform>(
    mm: &Mm<P>,
    address: VirtAddr,
    from: &LockedSlot<'_, P>,
    to: Option<Slot<'_, P, Stable>>,
    protected: bool,
    gather: &mut Gather<'_, P>,
    task: &Task<P>,
) {
    let entry = from.take();
    let entry = if protected { entry } else { entry.without_uffd_wp() };
    match to {
        // Whatever it is, a migration entry or the trace of a page that is gone too.
        Some(to) => {
            gather.changed(address..address.plus(1));
            to.lock_beside(from, task, |to| to.set(entry));
        }
        None => {
            drop_entry(mm, address, entry, gather);
        }
    }
}
