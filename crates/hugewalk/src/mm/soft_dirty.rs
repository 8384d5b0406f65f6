//! Forgetting what was written, so as to learn what is written from now on.

use super::AddressSpace;
use super::entries::each_own_entry;
use crate::arch::{Entry, LeafFlags};
use crate::gather::Gather;
use crate::platform::Platform;
use crate::task::Task;
use crate::vma::VmaWriteGuard;

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
            let Some(mut locked) = mmap.lock_vma_write(vma, task) else { continue };
            let mut i_mmap = vma.file().i_mmap_write(task);
            let mut gather = Gather::new(vma.mm(), &mut i_mmap);
            clear_vma(&mut locked, &mut gather, task);
            gather.finish();
        }
    }
}

/// Every leaf that can be written is soft-dirty (see [`leaf_flags`](crate::fault::leaf_flags)), so these are all there are.
fn clear_vma<P: Platform>(locked: &mut VmaWriteGuard<'_, P>, gather: &mut Gather<'_, P>, task: &Task<P>) {
    let vma = locked.vma();
    let size = vma.size();
    each_own_entry(locked, vma.start()..vma.end(), gather, task, |table, address, gather| {
        let now = table.read();
        if matches!(now, Entry::Leaf(leaf) if leaf.flags.contains(LeafFlags::SOFT_DIRTY)) {
            table.replace_seen(now, |entry| entry.without(LeafFlags::SOFT_DIRTY | LeafFlags::WRITE));
            gather.changed(address..address.plus(size.bytes()));
        }
    });
}
