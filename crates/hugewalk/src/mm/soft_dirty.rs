//! Soft-dirty: forgetting which pages were written, to learn which are written from now on.

use crate::entries::each_own_entry;
use crate::error::WrongSystem;
use crate::gather::Gather;
use crate::platform::{Invalidation, Platform};
use crate::space::AddressSpace;
use crate::task::Task;
use crate::vma::VmaWriteGuard;

impl<P: Platform> AddressSpace<P> {
    /// Clears soft-dirty of every page, and the right to write with it: the next store to a page faults,
    /// and sets both again. Sleeps.
    ///
    /// A shared table is unshared, since its bits belong to all its users. If it is shared again later, it
    /// brings the other users' bits along. So a page that another process wrote may be reported as written,
    /// but no written page is missed.
    ///
    /// Takes the mmap lock in read, and for each VMA its lock and `i_mmap`, both in write.
    ///
    /// Linux: `clear_refs_write()` in fs/proc/task_mmu.c, which leaves huge-page mappings out.
    ///
    /// # Errors
    ///
    /// [`WrongSystem`] if the task belongs to another system.
    pub fn clear_soft_dirty(&self, task: &mut Task<P>) -> Result<(), WrongSystem> {
        task.enter(self.mm().hugetlb())?;
        let mmap = self.mmap_read(task);
        for vma in mmap.vmas() {
            let Some(mut locked) = mmap.lock_vma_write(vma, task) else { continue };
            let mut i_mmap = vma.file().i_mmap_write_within(task);
            let mut gather = Gather::new(vma.mm(), &mut i_mmap);
            gather.announce(vma, &(vma.start()..vma.end()), Invalidation::SoftDirty, task);
            clear_vma(&mut locked, &mut gather, task);
            gather.finish();
        }
        Ok(())
    }
}

fn clear_vma<P: Platform>(locked: &mut VmaWriteGuard<'_, P>, gather: &mut Gather<'_, P>, task: &Task<P>) {
    let vma = locked.vma();
    each_own_entry(locked, vma.start()..vma.end(), gather, task, |at, gather| at.clear_soft_dirty(gather));
}
