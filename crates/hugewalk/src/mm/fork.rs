//! fork: a second address space with the same mappings.

use crate::error::MapError;
use crate::platform::Platform;
use crate::space::{AddressSpace, MmapWriteGuard, SetPlace};
use crate::sync::Arc;
use crate::task::Task;
use crate::uffd::ForkedContexts;
use crate::vm_ops::{copy_if_needed, link_copy};
use crate::vma::{Vma, VmaFlags};

impl<P: Platform> AddressSpace<P> {
    /// Returns a copy of the address space. Sleeps.
    ///
    /// - A shared mapping is mapped in the copy but not filled: the copy shares tables, or maps pages, as
    ///   it touches them. The same holds for a private mapping that never had a page of its own.
    /// - Other private mappings are copied entry by entry. Parent and copy lose the right to write to a
    ///   page until one of them copies it.
    /// - A page that is pinned (see [`gup`](crate::gup)) stays the parent's as it is, and the copy gets a
    ///   page of its own at once.
    /// - Reservations stay with the parent.
    /// - What the host has [claimed](Self::claim) is claimed in the copy too. The host copies what it has there.
    ///
    /// Takes the mmap locks of both in write, for each VMA `i_mmap` in write, and for private ones the VMA lock in read.
    ///
    /// Linux: `dup_mmap()` in kernel/fork.c, `copy_hugetlb_page_range()` in mm/hugetlb.c.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfMemory`], [`MapError::NoPage`] if there is no page to copy a pinned one to, [`MapError::Exited`];
    /// there is no copy then.
    pub fn fork(&self, task: &mut Task<P>) -> Result<Arc<Self>, MapError> {
        task.enter(self.mm().hugetlb())?;
        let child = Self::new(task.hugetlb())?;
        let mut parent = self.mmap_write_killable(task)?;
        if parent.vmas.exited {
            return Err(MapError::Exited);
        }
        let mut contexts = ForkedContexts::new();
        let copied = copy_vmas(&mut parent, &child, &mut contexts, task);
        if let Err(error) = copied {
            child.unmap_all(task);
            return Err(error);
        }
        drop(parent);
        contexts.tell(task);
        Ok(child)
    }
}

fn copy_vmas<P: Platform>(
    parent: &mut MmapWriteGuard<'_, P>,
    child: &Arc<AddressSpace<P>>,
    contexts: &mut ForkedContexts<P>,
    task: &mut Task<P>,
) -> Result<(), MapError> {
    // No other thread can reach the child yet. Its lock is taken because the walks below need it as their
    // proof.
    let mut into = child.mmap_write(task);
    into.vmas.claims = parent.vmas.claims.try_clone()?;
    for old in parent.vmas.iter() {
        if old.flags().contains(VmaFlags::DONTFORK) {
            continue;
        }
        let shape = old.shape();
        let userfault = contexts.of_copy(old, child, task)?;
        let new = Vma::with_handler(child.mm(), old.file(), shape, None, userfault.as_ref())?;
        let in_set = SetPlace::new(new.clone())?;
        link_copy(old, &new, task)?;
        into.vmas.put(in_set);
        copy_if_needed(&parent.held, old, &into.held, &new, task)?;
    }
    Ok(())
}
