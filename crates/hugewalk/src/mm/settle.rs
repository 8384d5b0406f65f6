//! Waiting for the changes of entries that are under way.

use crate::error::WrongSystem;
use crate::platform::Platform;
use crate::space::AddressSpace;
use crate::task::Task;
use crate::vm_ops::wait_for_changes;

impl<P: Platform> AddressSpace<P> {
    /// Waits until no change of its entries is under way that began before. Sleeps.
    ///
    /// For a host that begins to keep translations of the address space: see
    /// [`Notify`](crate::platform::Notify#secondary-mmus). No change is under way then that it was not told of.
    ///
    /// Takes the mmap lock in write, and for each VMA `i_mmap` in write.
    ///
    /// Linux: `mm_take_all_locks()` in mm/mmap.c, as `mmu_notifier_register()` calls it.
    ///
    /// # Errors
    ///
    /// [`WrongSystem`] if the task belongs to another system.
    pub fn settle(&self, task: &mut Task<P>) -> Result<(), WrongSystem> {
        task.enter(self.mm().hugetlb())?;
        let mmap = self.mmap_write(task);
        mmap.vmas.iter().for_each(|vma| wait_for_changes(vma, task));
        Ok(())
    }
}
