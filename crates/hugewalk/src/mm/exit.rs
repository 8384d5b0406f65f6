//! The end of an address space.

use super::free_tables;
use super::unmap::{empty_vma, try_empty_vma};
use crate::error::WrongSystem;
use crate::hugetlb::Hugetlb;
use crate::platform::Platform;
use crate::space::{AddressSpace, MmapWriteGuard};
use crate::sync::{Orphan, Orphans};
use crate::task::Task;
use crate::vm_ops::return_reservation;

impl<P: Platform> AddressSpace<P> {
    /// Unmaps everything. No mapping can be made afterwards. Allocates nothing. Sleeps.
    ///
    /// Takes the mmap lock in write, and for each VMA its lock and `i_mmap`, both in write.
    ///
    /// Linux: `exit_mmap()` in mm/mmap.c.
    ///
    /// # Errors
    ///
    /// [`WrongSystem`] if the task belongs to another system.
    pub fn exit(&self, task: &mut Task<P>) -> Result<(), WrongSystem> {
        task.enter(self.mm().hugetlb())?;
        self.unmap_all(task);
        Ok(())
    }

    /// [`exit`](Self::exit), with a task of this system.
    pub(crate) fn unmap_all(&self, task: &mut Task<P>) {
        let mut mmap = self.mmap_write(task);
        mmap.vmas.exited = true;
        for vma in mmap.vmas.iter() {
            empty_vma(&mmap, vma, task);
        }
        finish(mmap, task);
        self.mm.set_exited();
    }

    /// Has [`exit`](Self::exit) been called? Takes the mmap lock in read. Sleeps.
    ///
    /// # Errors
    ///
    /// [`WrongSystem`] if the task belongs to another system.
    pub fn has_exited(&self, task: &mut Task<P>) -> Result<bool, WrongSystem> {
        task.check(self.mm().hugetlb())?;
        Ok(self.vmas.read(task).exited)
    }

    /// Takes down an address space that was dropped. If a lock that it needs is busy, it goes back into the
    /// queue.
    pub(crate) fn take_down(space: Orphan<Self>, hugetlb: &Hugetlb<P>, task: &mut Task<P>) {
        let mut attempt = Attempt { space: Some(space), queue: hugetlb.dropped() };
        if attempt.space.as_mut().is_some_and(|space| space.try_exit(task)) {
            drop(attempt.space.take());
        }
    }

    /// As [`exit`](Self::exit), without waiting for a lock. Returns false if there is more to be done. No
    /// other reference exists.
    fn try_exit(&mut self, task: &mut Task<P>) -> bool {
        let Self { mm, vmas, emptied, .. } = self;
        // No other task can hold this lock, unless a guard of it was forgotten.
        let Some(vmas) = vmas.try_write() else { return false };
        let mut mmap = MmapWriteGuard::new(mm, vmas);
        mmap.vmas.exited = true;
        // The VMAs are those of the last attempt.
        for vma in mmap.vmas.overlapping(&(*emptied..mm.task_size())) {
            if !try_empty_vma(&mmap, vma, task) {
                return false;
            }
            *emptied = vma.end();
        }
        finish(mmap, task);
        mm.set_exited();
        true
    }
}

/// What follows once all VMAs have been emptied.
fn finish<P: Platform>(mut mmap: MmapWriteGuard<'_, P>, task: &Task<P>) {
    mmap.vmas.iter().for_each(|vma| return_reservation(vma));
    while let Some(place) = mmap.vmas.pop_last() {
        let vma = place.vma();
        free_tables(&mmap, vma.start()..vma.end(), task);
    }
}

/// An address space that goes back into the queue unless it is taken out. It does so too if the platform
/// unwinds meanwhile.
struct Attempt<'q, P: Platform> {
    space: Option<Orphan<AddressSpace<P>>>,
    queue: &'q Orphans<AddressSpace<P>, P::Word>,
}

impl<P: Platform> Drop for Attempt<'_, P> {
    fn drop(&mut self) {
        if let Some(space) = self.space.take() {
            self.queue.push(space);
        }
    }
}

impl<P: Platform> Task<P> {
    /// Unmaps the address spaces that were dropped. The next operation of the system does that by
    /// itself, so this is for callers that want their pages and tables back now. Sleeps.
    ///
    /// It tries the sleeping locks that it needs, and does not wait for them. An address space
    /// whose VMA locks or files are busy is left for later.
    /// [`AddressSpace::exit`](crate::AddressSpace::exit) waits.
    #[cold]
    pub fn finish_drops(&mut self) {
        let hugetlb = self.hugetlb().clone();
        let mut taken = hugetlb.dropped().take();
        while let Some(space) = taken.next() {
            AddressSpace::take_down(space, &hugetlb, self);
        }
    }
}
