//! fork: a second address space with the same mappings.

use core::ops::Range;

use super::unmap::by_table;
use super::{AddressSpace, MapError, MmapWriteGuard};
use crate::addr::VirtAddr;
use crate::arch::{Entry, LeafFlags, Level};
use crate::error::OutOfMemory;
use crate::platform::Platform;
use crate::share::huge_pte_alloc;
use crate::sync::Arc;
use crate::table::{LockedSlot, index_of};
use crate::task::Task;
use crate::vma::{Vma, VmaFlags, VmaReadGuard};
use crate::walk::huge_pte_offset;

impl<P: Platform> AddressSpace<P> {
    /// A copy of the address space. Shared mappings are mapped but not filled: the copy takes tables up, or pages, as it
    /// touches them. Private ones are copied entry by entry, and both sides lose the right to write until one of them
    /// copies the page. Reservations stay with the parent. Sleeps.
    ///
    /// Takes the mmap locks of both in write, for each VMA `i_mmap` in write, and for private ones the VMA lock in read.
    ///
    /// Linux: `dup_mmap()` in kernel/fork.c, `copy_hugetlb_page_range()` in mm/hugetlb.c.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfMemory`], [`MapError::Exited`]; there is no copy then.
    pub fn fork(&self, task: &mut Task<P>) -> Result<Arc<Self>, MapError> {
        let child = Self::new(self.mm().hugetlb())?;
        let mut parent = self.mmap_write(task);
        if parent.vmas.exited {
            return Err(MapError::Exited);
        }
        let copied = copy_vmas(&mut parent, &child, task);
        if let Err(error) = copied {
            child.exit(task);
            return Err(error.into());
        }
        Ok(child)
    }
}

fn copy_vmas<P: Platform>(
    parent: &mut MmapWriteGuard<'_, P>,
    child: &AddressSpace<P>,
    task: &mut Task<P>,
) -> Result<(), OutOfMemory> {
    // Nobody else knows the child yet; its lock is taken as the proof that the walks below ask for.
    let mut into = child.mmap_write(task);
    for old in parent.vmas.iter() {
        let mut shape = old.shape();
        shape.flags -= VmaFlags::LOCKED | VmaFlags::UFFD_MISSING | VmaFlags::UFFD_MINOR | VmaFlags::UFFD_WP;
        let new = Vma::new(child.mm(), old.file(), shape, None)?;
        into.vmas.prepare(1)?;
        // In the tree before the entries are copied: truncation then finds the original or the copy of each.
        old.file().i_mmap_write(task).insert(new.clone())?;
        into.vmas.insert(new.clone())?;
        if !old.is_shared() {
            copy_entries(parent, old, &into, &new, task)?;
            // After the entries: a page that was taken away from the parent before it was copied is missed by the child as
            // well, which must not find zeroes in its place. (Linux forgets it here, and the child does.)
            new.succeed(old);
        }
    }
    Ok(())
}

fn copy_entries<P: Platform>(
    parent: &MmapWriteGuard<'_, P>,
    old: &Vma<P>,
    child: &MmapWriteGuard<'_, P>,
    new: &Vma<P>,
    task: &mut Task<P>,
) -> Result<(), OutOfMemory> {
    let locks = (VmaReadGuard::lock(parent, old, task), VmaReadGuard::lock(child, new, task));
    let (Some(from), Some(to)) = locks else {
        return Ok(());
    };
    let size = old.size();
    let mut result = Ok(());
    for part in by_table(old.start()..old.end(), size) {
        let Ok(Some(source)) = huge_pte_offset(&from, old.mm(), part.start, size) else {
            continue;
        };
        let target = match huge_pte_alloc(&to, new, part.start, None, task) {
            Ok(slot) => slot,
            Err(error) => {
                result = Err(error);
                break;
            }
        };
        // The parent's table first; the child's is known to nobody who would lock them the other way round.
        let mut source = source.lock(task);
        let mut target = target.lock(task);
        copy_table(&mut source, &mut target, new, part);
    }
    // The parent's processors may still have the pages writable; also where the copying stopped half way.
    old.mm().hugetlb().platform().flush_tlb(old.mm().context(), old.start()..old.end());
    result
}

fn copy_table<P: Platform>(
    source: &mut LockedSlot<'_, P>,
    target: &mut LockedSlot<'_, P>,
    new: &Vma<P>,
    range: Range<VirtAddr>,
) {
    let (mm, size) = (new.mm(), new.size());
    let shift = Level::of_leaf(size).shift();
    let mut address = range.start;
    while address < range.end {
        let index = index_of(address, shift);
        source.move_to(index);
        target.move_to(index);
        match source.read() {
            Entry::Leaf(leaf) => {
                if leaf.flags.contains(LeafFlags::WRITE) {
                    source.write_protect();
                }
                mm.hugetlb().page(leaf.frame).add_mapping();
                mm.add_resident(1);
                target.set(Entry::Leaf(leaf.without(LeafFlags::WRITE | LeafFlags::UFFD_WP)));
            }
            Entry::Hwpoison(frame) => target.set(Entry::Hwpoison(frame)),
            Entry::None | Entry::Marker | Entry::Migration(_) | Entry::Table(_) => {}
        }
        address = address.plus(size.bytes());
    }
}
