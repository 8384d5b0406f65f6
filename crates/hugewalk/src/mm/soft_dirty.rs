//! Forgetting what was written, so as to learn what is written from now on.

use super::AddressSpace;
use super::unmap::by_table;
use crate::arch::{Entry, LeafFlags, Level};
use crate::file::IMmapWriteGuard;
use crate::gather::Gather;
use crate::platform::Platform;
use crate::share::unshare_locked;
use crate::sync::Arc;
use crate::table::index_of;
use crate::task::Task;
use crate::vma::{Vma, VmaWriteGuard};
use crate::walk::huge_pte_offset;

impl<P: Platform> AddressSpace<P> {
    /// Clears soft-dirty of every page, and the right to write with it: the next store to a page faults and sets it again.
    /// A shared table is unshared, for its bits are everybody's; taken up again it brings the others' bits along, so a page
    /// may be said to be written that another process wrote, but never the other way round. Sleeps.
    ///
    /// Takes the mmap lock in read, and for each VMA its lock and `i_mmap`, both in write.
    ///
    /// Linux: `clear_refs_write()` in fs/proc/task_mmu.c, which leaves huge-page mappings out.
    pub fn clear_soft_dirty(&self, task: &mut Task<P>) {
        let mmap = self.mmap_read(task);
        for vma in mmap.vmas() {
            let Some(locked) = mmap.lock_vma_write(vma, task) else { continue };
            let i_mmap = vma.file().i_mmap_write(task);
            let mut gather = Gather::new(vma.mm(), &i_mmap);
            clear_vma(vma, &locked, &i_mmap, &mut gather, task);
            gather.finish();
        }
    }
}

fn clear_vma<P: Platform>(
    vma: &Arc<Vma<P>>,
    locked: &VmaWriteGuard<'_, P>,
    i_mmap: &IMmapWriteGuard<'_, P>,
    gather: &mut Gather<'_, P>,
    task: &Task<P>,
) {
    let size = vma.size();
    for part in by_table(vma.start()..vma.end(), size) {
        let Ok(Some(slot)) = huge_pte_offset(locked, vma.mm(), part.start, size) else { continue };
        let Err(mut table) = unshare_locked(locked, i_mmap, slot.lock(task), part.start, gather) else {
            continue;
        };
        let mut address = part.start;
        while address < part.end {
            table.move_to(index_of(address, Level::of_leaf(size).shift()));
            if matches!(table.read(), Entry::Leaf(leaf) if leaf.flags.contains(LeafFlags::SOFT_DIRTY))
                && let Entry::Leaf(leaf) = table.take()
            {
                table.set(Entry::Leaf(leaf.without(LeafFlags::SOFT_DIRTY | LeafFlags::WRITE)));
                gather.changed(address..address.plus(size.bytes()));
            }
            address = address.plus(size.bytes());
        }
    }
}
