//! mremap: moving and shrinking.

use core::ops::Range;

use super::free_tables;
use super::map::check_lowest;
use super::unmap::{page_range, unmap_range};
use crate::addr::VirtAddr;
use crate::error::MapError;
use crate::platform::Platform;
use crate::root::Mm;
use crate::space::Split;
use crate::space::{AddressSpace, MmapWriteGuard, SetPlace};
use crate::sync::Arc;
use crate::task::Task;
use crate::uffd::{Announcements, Features};
use crate::vm_ops::{align_error, make_tables, take_place};
use crate::vma::{Shape, Vma, VmaFlags};

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
    /// Moves or shrinks a mapping, and returns its address. Sleeps.
    ///
    /// A move to a fixed place that keeps the length may cover several mappings, and holes after the first:
    /// each mapping keeps its distance from the start. Shared tables are not moved but unshared; the range
    /// shares them again at its new place as it is touched.
    ///
    /// Lengths are rounded up to 4 KiB, and to whole pages of the mapping once it has been found. Whether a
    /// move keeps the length is decided before that.
    ///
    /// Takes the mmap lock in write, and the VMA lock and `i_mmap` of what it moves or unmaps, both in write.
    ///
    /// Linux: `mremap(2)` from 6.17 on, `move_hugetlb_page_tables()` in mm/hugetlb.c.
    ///
    /// # Errors
    ///
    /// - [`MapError::BadAddress`] if nothing is mapped at `old`, if the range to be moved reaches past its
    ///   mapping (and the length changes), or if one of several mappings has a userfaultfd handler.
    /// - [`MapError::Sealed`] if a mapping to be moved or replaced is sealed.
    /// - [`MapError::Claimed`] if the host has claimed something at the new place, [`MapError::SameTable`] beside it.
    /// - [`MapError::Grows`], [`MapError::Overlaps`], [`MapError::ZeroLength`], [`MapError::Unaligned`],
    ///   [`MapError::UnalignedAddress`], [`MapError::Overflow`], [`MapError::TooLow`],
    ///   [`MapError::OutOfMemory`].
    ///
    /// Nothing was changed then, with three exceptions: what lay at a fixed new place may be gone, the tail
    /// that was to be cut off may be gone, and the first of several mappings may have moved.
    pub fn mremap(
        &self,
        task: &mut Task<P>,
        old: VirtAddr,
        old_length: u64,
        new_length: u64,
        to: RemapTo,
    ) -> Result<VirtAddr, MapError> {
        task.enter(self.mm().hugetlb())?;
        let request = Request::new(old, old_length, new_length, to, self.mm())?;
        let mut events = RemapEvents::new();
        let mut mmap = self.mmap_write_killable(task)?;
        let remapped = match to {
            RemapTo::Fixed(new) if request.old_length == request.new_length => {
                move_each(&mut mmap, &request, new, &mut events, task)
            }
            _ => match mmap.vmas.find(old).cloned() {
                Some(vma) => remap(&mut mmap, request, &vma, &mut events, task),
                None => Err(MapError::BadAddress { address: old }),
            },
        };
        drop(mmap);
        events.target.tell(task);
        events.moved.tell(task);
        events.source.tell(task);
        remapped
    }
}

/// The request, with lengths in whole pages: of 4 KiB at first, then of the mapping.
#[derive(Clone, Copy)]
struct Request {
    old: VirtAddr,
    old_length: u64,
    new_length: u64,
    to: RemapTo,
}

impl Request {
    /// Refuses requests that are wrong whatever is mapped. A length that wraps when it is rounded counts as
    /// 0; an end that wraps lies before everything.
    ///
    /// Linux: `check_mremap_params()` in mm/mremap.c.
    fn new<P: Platform>(
        old: VirtAddr,
        old_length: u64,
        new_length: u64,
        to: RemapTo,
        mm: &Mm<P>,
    ) -> Result<Self, MapError> {
        let (geometry, top) = (mm.geometry(), mm.task_size());
        let whole = |length: u64| geometry.round_up(length).unwrap_or(0);
        let (old_length, new_length) = (whole(old_length), whole(new_length));
        if !geometry.is_aligned(old.as_u64()) {
            return Err(MapError::UnalignedAddress { address: old });
        }
        if new_length == 0 {
            return Err(MapError::ZeroLength);
        }
        let last = top.as_u64().checked_sub(new_length).ok_or(MapError::Overflow)?;
        if let RemapTo::Fixed(new) = to {
            if new.as_u64() > last {
                return Err(MapError::Overflow);
            }
            if !geometry.is_aligned(new.as_u64()) {
                return Err(MapError::UnalignedAddress { address: new });
            }
            // This applies to an old length of 0 too: then the old place must not lie inside the new range.
            let old_end = old.as_u64().wrapping_add(old_length);
            if new.as_u64() < old_end && old.as_u64() < new.as_u64() + new_length {
                return Err(MapError::Overlaps);
            }
        }
        Ok(Self { old, old_length, new_length, to })
    }

    /// The request with its lengths in pages of the mapping that holds its start. Only the part that moves
    /// has to lie in that mapping.
    ///
    /// Linux: `check_prep_vma()` in mm/mremap.c.
    fn of<P: Platform>(self, vma: &Vma<P>) -> Result<Self, MapError> {
        if vma.flags().contains(VmaFlags::SEALED) {
            return Err(MapError::Sealed { address: self.old });
        }
        let size = vma.size();
        let whole = |length: u64| size.round_up(length).unwrap_or(0);
        let (old_length, new_length) = (whole(self.old_length), whole(self.new_length));
        align_error(size, self.old.as_u64())?;
        if let RemapTo::Fixed(new) = self.to {
            align_error(size, new.as_u64())?;
        }
        if new_length > old_length {
            return Err(MapError::Grows);
        }
        if matches!(self.to, RemapTo::Fixed(_)) && new_length > vma.end().offset_from(self.old) {
            return Err(MapError::BadAddress { address: self.old });
        }
        Ok(Self { old_length, new_length, ..self })
    }
}

/// Moves what is mapped in a range, mapping by mapping. Handlers are not told of a move of several
/// mappings, so a mapping with a handler moves only by itself.
///
/// Linux: `remap_move()` in mm/mremap.c.
fn move_each<P: Platform>(
    mmap: &mut MmapWriteGuard<'_, P>,
    request: &Request,
    new: VirtAddr,
    events: &mut RemapEvents<P>,
    task: &mut Task<P>,
) -> Result<VirtAddr, MapError> {
    let refused = MapError::BadAddress { address: request.old };
    let (start, end) = (request.old, request.old.checked_add(request.old_length).ok_or(refused)?);
    if mmap.vmas.find(start).is_none() {
        return Err(refused);
    }
    let mut next = start;
    loop {
        let Some(vma) = mmap.vmas.first_in(&(next..end)).cloned() else {
            return Ok(new);
        };
        if vma.flags().intersects(VmaFlags::UFFD) && (next > start || vma.end() < end) {
            return Err(refused);
        }
        let old = vma.start().max(start);
        let length = vma.end().min(end).offset_from(old);
        let to = RemapTo::Fixed(new.plus(old.offset_from(start)));
        remap(mmap, Request { old, old_length: length, new_length: length, to }, &vma, events, task)?;
        next = vma.end();
    }
}

/// Moves or shrinks one mapping.
///
/// Linux: `mremap_to()` and `mremap_at()` in mm/mremap.c.
fn remap<P: Platform>(
    mmap: &mut MmapWriteGuard<'_, P>,
    request: Request,
    vma: &Vma<P>,
    events: &mut RemapEvents<P>,
    task: &mut Task<P>,
) -> Result<VirtAddr, MapError> {
    let Request { old, old_length, new_length, to } = request.of(vma)?;
    let top = mmap.mm().task_size();
    if let RemapTo::Fixed(new) = to {
        // What lies there is unmapped before the tail is checked.
        let target = page_range(mmap.mm(), new, new_length)?;
        if target.end > top {
            return Err(MapError::Overflow);
        }
        if let Some(address) = mmap.vmas.claims.first_in(&target) {
            return Err(MapError::Claimed { address });
        }
        if let Some(address) = mmap.vmas.beside(mmap.mm().geometry(), &target, Some(vma.size())) {
            return Err(MapError::SameTable { address });
        }
        unmap_range(mmap, &target, &mut events.target, task)?;
    }
    let source = old..old.checked_add(old_length).unwrap_or(VirtAddr::new(u64::MAX));
    let kept = old..old.checked_add(new_length).ok_or(MapError::Overflow)?;
    if new_length < old_length {
        // The tail is unmapped whatever it belongs to. It is not checked that the part that stays is one
        // mapping.
        if source.end > top {
            return Err(MapError::Overflow);
        }
        unmap_range(mmap, &(kept.end..source.end), &mut events.source, task)?;
    }
    if let RemapTo::Fixed(new) = to {
        // As late as in Linux, which checks the place once there is room at it.
        check_lowest(mmap.mm(), new)?;
        move_range(mmap, &source, &kept, new, events, task)?;
        return Ok(new);
    }
    Ok(old)
}

/// The events of a move, in the order in which handlers get them. Linux: `uf_unmap_early`, `uf` and
/// `uf_unmap`.
struct RemapEvents<P: Platform> {
    /// What lay at the new place was unmapped.
    target: Announcements<P>,
    moved: Announcements<P>,
    /// Nothing is mapped at the old place any more: neither the part that was cut off nor the part that
    /// moved.
    source: Announcements<P>,
}

impl<P: Platform> RemapEvents<P> {
    const fn new() -> Self {
        Self { target: Announcements::new(), moved: Announcements::new(), source: Announcements::new() }
    }
}

/// Moves `kept`, the part that is left of `source`, to a free place. `kept` lies in one mapping.
fn move_range<P: Platform>(
    mmap: &mut MmapWriteGuard<'_, P>,
    source: &Range<VirtAddr>,
    kept: &Range<VirtAddr>,
    to: VirtAddr,
    events: &mut RemapEvents<P>,
    task: &mut Task<P>,
) -> Result<(), MapError> {
    let target = to..to.plus(kept.end.offset_from(kept.start));
    let split = Split::at_ends(mmap, kept)?;
    let Some(whole) = mmap.vmas.find(kept.start).cloned() else {
        return Err(MapError::BadAddress { address: kept.start });
    };
    events.moved.remap(&whole, source, target.start, task)?;
    events.source.unmap(mmap.vmas.overlapping(kept), kept, task)?;
    let mut shape =
        Shape { start: target.start, end: target.end, offset: whole.offset_of(kept.start), ..whole.shape() };
    if !whole.userfault().is_some_and(|context| context.wants(Features::EVENT_REMAP)) {
        // A handler that is not told of the move could not make sense of faults at the new place.
        shape.flags -= VmaFlags::UFFD;
    }
    let new = whole.successor(shape)?;
    let in_set = SetPlace::new(new.clone())?;
    // The new VMA is put into the set before it is put into the file's tree: walkers from the file find
    // nothing in it yet.
    mmap.vmas.put(in_set);
    let moved = make_tables(&mmap.held, &whole, kept, &new, task).map_err(MapError::from).and_then(|()| {
        split.apply(mmap, task);
        move_vma(mmap, kept.start, &new, task)
    });
    if moved.is_err() {
        mmap.vmas.remove(&new);
        free_tables(mmap, target, task);
    } else {
        events.moved.done();
        events.source.done();
        free_tables(mmap, kept.clone(), task);
    }
    moved
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
    take_place(&mmap.held, &old, new, task)?;
    mmap.vmas.remove(&old);
    if let Some(context) = old.userfault() {
        // The woken faults see that nothing is mapped here any more once the mmap lock is free.
        context.wake(&(old.start()..old.end()));
    }
    Ok(())
}
