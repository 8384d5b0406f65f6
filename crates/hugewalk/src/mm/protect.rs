//! mprotect: new rights for a range.

use alloc::vec::Vec;
use core::ops::Range;

use super::split::Split;
use super::unmap::{by_table, page_range};
use super::{AddressSpace, MapError, MmapWriteGuard};
use crate::addr::VirtAddr;
use crate::arch::{Entry, Leaf, LeafFlags, Level};
use crate::fault::leaf_flags;
use crate::file::IMmapWriteGuard;
use crate::gather::Gather;
use crate::platform::Platform;
use crate::share::unshare_locked;
use crate::sync::{Arc, try_push};
use crate::table::index_of;
use crate::task::Task;
use crate::vma::{Protection, Shape, Vma, VmaWriteGuard};
use crate::walk::huge_pte_offset;

impl<P: Platform> AddressSpace<P> {
    /// Gives a range new rights. Shared tables in it are unshared. Sleeps.
    ///
    /// Takes the mmap lock in write, and for each VMA its lock and `i_mmap`, both in write.
    ///
    /// Linux: `mprotect(2)`, `hugetlb_change_protection()` in mm/hugetlb.c.
    ///
    /// # Errors
    ///
    /// [`MapError::Unaligned`] if the range would cut a huge page in two, [`MapError::NotMapped`] if there is a hole in
    /// it: what lies before the hole has the new rights then.
    pub fn mprotect(
        &self,
        task: &mut Task<P>,
        address: VirtAddr,
        length: u64,
        protection: Protection,
    ) -> Result<(), MapError> {
        if length == 0 && address.as_u64().is_multiple_of(crate::addr::PAGE_SIZE) {
            return Ok(());
        }
        let range = page_range(address, length)?;
        let mut mmap = self.mmap_write(task);
        let mapped = range.start..mapped_until(&mmap, &range);
        if !mapped.is_empty() {
            protect_range(&mut mmap, &mapped, protection, task)?;
        }
        if mapped.end < range.end { Err(MapError::NotMapped { address: mapped.end }) } else { Ok(()) }
    }
}

/// The end of the run of mappings that begins at the start of the range.
fn mapped_until<P: Platform>(mmap: &MmapWriteGuard<'_, P>, range: &Range<VirtAddr>) -> VirtAddr {
    let mut end = range.start;
    for vma in mmap.vmas.overlapping(range) {
        if vma.start() > end {
            break;
        }
        end = vma.end();
    }
    end.min(range.end)
}

fn protect_range<P: Platform>(
    mmap: &mut MmapWriteGuard<'_, P>,
    range: &Range<VirtAddr>,
    protection: Protection,
    task: &mut Task<P>,
) -> Result<(), MapError> {
    let changes = |vma: &&Arc<Vma<P>>| vma.protection() != protection;
    // What has these rights already is not even split.
    let Some(first) = mmap.vmas.overlapping(range).find(changes).cloned() else {
        return Ok(());
    };
    let last = mmap.vmas.overlapping(range).filter(changes).last().map_or(first.end(), |vma| vma.end());
    let range = first.start().max(range.start)..last.min(range.end);
    let split = Split::at_ends(mmap, &range, task)?;
    // Successors for the parts, made while nothing has changed yet; the parts have the shapes of the split.
    let mut exchange: Vec<Arc<Vma<P>>> = Vec::new();
    for vma in mmap.vmas.overlapping(&range).filter(changes) {
        let (start, end) = (vma.start().max(range.start), vma.end().min(range.end));
        let shape = Shape { start, end, offset: vma.offset_of(start), protection, ..vma.shape() };
        try_push(&mut exchange, vma.successor(shape)?)?;
    }
    split.apply(mmap, task)?;
    for new in exchange {
        if let Some(old) = mmap.vmas.find(new.start()).cloned() {
            change_protection(mmap, &old, new, task)?;
        }
    }
    Ok(())
}

/// Exchanges a VMA for one of the same range with other rights, and brings its entries in line.
fn change_protection<P: Platform>(
    mmap: &mut MmapWriteGuard<'_, P>,
    old: &Arc<Vma<P>>,
    new: Arc<Vma<P>>,
    task: &mut Task<P>,
) -> Result<(), MapError> {
    if let Some(locked) = VmaWriteGuard::lock(mmap, old, task) {
        let mut i_mmap = old.file().i_mmap_write(task);
        let mut gather = Gather::new(old.mm(), &i_mmap);
        change_entries(&locked, &i_mmap, &new, &mut gather, task);
        gather.finish();
        new.succeed(old);
        // Here and below: what is taken out leaves the room that the other needs, so the exchange does not fail.
        i_mmap.remove(old);
        i_mmap.insert(new.clone())?;
    }
    mmap.vmas.remove(old);
    mmap.vmas.insert(new)?;
    Ok(())
}

/// Linux: `hugetlb_change_protection()` in mm/hugetlb.c.
fn change_entries<P: Platform>(
    locked: &VmaWriteGuard<'_, P>,
    i_mmap: &IMmapWriteGuard<'_, P>,
    new: &Vma<P>,
    gather: &mut Gather<'_, P>,
    task: &Task<P>,
) {
    let vma = locked.vma();
    let (mm, size) = (vma.mm(), vma.size());
    let shift = Level::of_leaf(size).shift();
    for part in by_table(vma.start()..vma.end(), size) {
        let Ok(Some(slot)) = huge_pte_offset(locked, mm, part.start, size) else {
            continue;
        };
        let mut table = match unshare_locked(locked, i_mmap, slot.lock(task), part.start, gather) {
            Ok(()) => continue,
            Err(alone) => alone,
        };
        let mut address = part.start;
        while address < part.end {
            table.move_to(index_of(address, shift));
            if let Entry::Leaf(_) = table.read() {
                // Taken out and put back: the processor cannot set its bits in between.
                if let Entry::Leaf(leaf) = table.take() {
                    table.set(Entry::Leaf(reprotected(leaf, new)));
                    gather.changed(address..address.plus(size.bytes()));
                }
            }
            address = address.plus(size.bytes());
        }
    }
}

/// A leaf with the rights of another VMA. A page that may be shared with other processes stays write-protected: the
/// next write decides.
fn reprotected<P: Platform>(leaf: Leaf, vma: &Vma<P>) -> Leaf {
    let rights = LeafFlags::ACCESS | LeafFlags::WRITE | LeafFlags::NO_EXECUTE;
    let writable = vma.is_shared() && !leaf.flags.contains(LeafFlags::UFFD_WP);
    Leaf { frame: leaf.frame, flags: (leaf.flags - rights) | leaf_flags(vma, writable) }
}
