//! The end of an address space.

use super::unmap::{empty_vma, give_promises_back};
use super::{AddressSpace, free_tables};
use crate::platform::Platform;
use crate::task::Task;

impl<P: Platform> AddressSpace<P> {
    /// Unmaps everything. No mapping can be made afterwards. Allocates nothing. Sleeps.
    ///
    /// Takes the mmap lock in write, and for each VMA its lock and `i_mmap`, both in write.
    ///
    /// Linux: `exit_mmap()` in mm/mmap.c.
    pub fn exit(&self, task: &mut Task<P>) {
        let mut mmap = self.mmap_write(task);
        mmap.vmas.exited = true;
        for vma in mmap.vmas.iter() {
            empty_vma(&mmap, vma, task);
        }
        mmap.vmas.iter().for_each(|vma| give_promises_back(vma));
        // From the last one, so that the list does not move.
        while let Some(vma) = mmap.vmas.last() {
            mmap.vmas.remove(&vma);
            free_tables(&mmap, vma.start()..vma.end(), task);
        }
        drop(mmap);
        self.mm.set_exited();
    }

    /// Has [`exit`](Self::exit) been called?
    #[must_use]
    pub fn has_exited(&self, task: &mut Task<P>) -> bool {
        self.vmas.read(task).exited
    }
}

impl<P: Platform> Drop for AddressSpace<P> {
    fn drop(&mut self) {
        if self.vmas.inner_mut().iter().next().is_none() {
            return;
        }
        // Without memory for even a reader of RCU the mappings stay for ever: better than pulling them from under the
        // file's other users. Who cannot have that calls `exit`.
        // SAFETY: the other task that the thread may have is not used before this one is dropped.
        if let Ok(mut task) = unsafe { Task::new(self.mm.hugetlb()) } {
            self.exit(&mut task);
        }
    }
}
