//! mlock: huge pages are never reclaimed, so locking them means faulting them in.

use core::ops::Range;

use bitflags::bitflags;

use crate::addr::VirtAddr;
use crate::error::MapError;
use crate::fault::{Access, Ahead, FaultError};
use crate::platform::Platform;
use crate::space::AddressSpace;
use crate::task::Task;
use crate::vma::{Protection, Vma};

bitflags! {
    /// What [`mlockall`](AddressSpace::mlockall) locks. Linux: `MCL_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct LockAll: u32 {
        /// What is mapped (`MCL_CURRENT`).
        const CURRENT = 1 << 0;
        /// What will be mapped (`MCL_FUTURE`).
        const FUTURE = 1 << 1;
        /// Each page when it is touched (`MCL_ONFAULT`). This makes no difference: huge-page mappings are
        /// not marked as locked.
        const ONFAULT = 1 << 2;
    }
}

impl<P: Platform> AddressSpace<P> {
    /// Locks the pages of a range in memory: faults in the missing ones, for writing where a store would
    /// make a copy. Sleeps.
    ///
    /// Nothing else changes: the mappings are neither marked nor split, so they keep the tables that they
    /// share.
    ///
    /// The host decides how much a process may lock; Linux does not count huge pages. Locking on fault
    /// (`mlock2(2)` with `MLOCK_ONFAULT`) has the same effect.
    ///
    /// Takes the mmap lock in read, and what faults take.
    ///
    /// Linux: `mlock(2)`, `mlock_fixup()` in mm/mlock.c, `populate_vma_page_range()` in mm/gup.c.
    ///
    /// # Errors
    ///
    /// [`MapError::Overflow`]; [`MapError::NotMapped`] if there is a hole in the range; [`MapError::Lock`] where a fault failed,
    /// or the mapping allows nothing.
    pub fn mlock(&self, task: &mut Task<P>, address: VirtAddr, length: u64) -> Result<(), MapError> {
        let range = self.lockable(task, address, length)?;
        self.populate(task, range).map_err(MapError::Lock)
    }

    /// Unlocks the pages of a range. They stay in memory all the same. Sleeps.
    ///
    /// Takes the mmap lock in read.
    ///
    /// Linux: `munlock(2)`.
    ///
    /// # Errors
    ///
    /// [`MapError::Overflow`]; [`MapError::NotMapped`] if there is a hole in the range.
    pub fn munlock(&self, task: &mut Task<P>, address: VirtAddr, length: u64) -> Result<(), MapError> {
        self.lockable(task, address, length).map(drop)
    }

    /// Locks all that is mapped, as far as it can be faulted in, or all that will be mapped from now on, or
    /// both. Without [`LockAll::FUTURE`], it no longer locks later mappings. A forked child starts without.
    /// Sleeps.
    ///
    /// Takes the mmap lock in write, and what faults take.
    ///
    /// Linux: `mlockall(2)`.
    ///
    /// # Errors
    ///
    /// [`MapError::NotAllowed`] if neither is named, or an unknown flag; [`MapError::Exited`].
    pub fn mlockall(&self, task: &mut Task<P>, what: LockAll) -> Result<(), MapError> {
        task.enter(self.mm().hugetlb())?;
        if !LockAll::all().contains(what) || !what.intersects(LockAll::CURRENT | LockAll::FUTURE) {
            return Err(MapError::NotAllowed);
        }
        let mut mmap = self.mmap_write_killable(task)?;
        if mmap.vmas.exited {
            return Err(MapError::Exited);
        }
        mmap.vmas.locks_new = what.contains(LockAll::FUTURE);
        let mut next = mmap.vmas.iter().next().map(|vma| vma.start()..vma.end());
        drop(mmap);
        while let Some(range) = next.filter(|_| what.contains(LockAll::CURRENT)) {
            let end = range.end;
            // A mapping that cannot be populated completely is populated up to there.
            let _ = self.populate(task, range);
            let mmap = self.mmap_read(task);
            let behind = end..self.mm().task_size();
            next = mmap.vmas.first_in(&behind).map(|vma| vma.start().max(end)..vma.end());
        }
        Ok(())
    }

    /// Unlocks everything, and locks no mapping that is made from now on. Sleeps.
    ///
    /// Takes the mmap lock in write.
    ///
    /// Linux: `munlockall(2)`.
    ///
    /// # Errors
    ///
    /// The task belongs to another system.
    pub fn munlockall(&self, task: &mut Task<P>) -> Result<(), MapError> {
        task.enter(self.mm().hugetlb())?;
        self.mmap_write_killable(task)?.vmas.locks_new = false;
        Ok(())
    }

    /// The range to be locked or unlocked, in whole small pages. All of it is mapped.
    ///
    /// Linux: `do_mlock()` and `apply_vma_lock_flags()` in mm/mlock.c.
    fn lockable(
        &self,
        task: &mut Task<P>,
        address: VirtAddr,
        length: u64,
    ) -> Result<Range<VirtAddr>, MapError> {
        task.enter(self.mm().hugetlb())?;
        let geometry = self.mm().geometry();
        let inside = address.as_u64() & (geometry.base_bytes() - 1);
        let start = VirtAddr::new(address.as_u64() - inside);
        let length = length.checked_add(inside).and_then(|length| geometry.round_up(length));
        let end = length.and_then(|length| start.checked_add(length)).ok_or(MapError::Overflow)?;
        let mapped = self.mmap_read(task).vmas.mapped_until(&(start..end));
        if mapped < end { Err(MapError::NotMapped { address: mapped }) } else { Ok(start..end) }
    }

    /// Faults in what is mapped in a range, until a fault fails. Takes what faults take.
    ///
    /// Linux: `__mm_populate()` and `populate_vma_page_range()` in mm/gup.c.
    pub(super) fn populate(&self, task: &mut Task<P>, range: Range<VirtAddr>) -> Result<(), FaultError> {
        let mut next = range.start;
        while next < range.end {
            let (part, size, access) = {
                let mmap = self.mmap_read(task);
                let Some(vma) = mmap.overlapping(&(next..range.end)).next() else { break };
                let address = vma.start().max(next);
                (address..vma.end().min(range.end), vma.size(), populating(vma))
            };
            next = part.start;
            // How many of the next pages are for faults.
            let mut faults = 0;
            while next < part.end {
                if faults == 0 {
                    match self.fault_in_run(task, next.huge_page(size)..part.end, access) {
                        Ahead::Mapped(pages) => {
                            next = next.huge_page(size).plus(pages * size.bytes());
                            continue;
                        }
                        Ahead::Faults(pages) => faults = pages,
                    }
                }
                faults -= 1;
                match self.fault_in(task, next, access) {
                    Ok(_) => next = next.huge_page(size).plus(size.bytes()),
                    // The mmap lock is free between two pages. The rest of the mapping is not what it was: look again.
                    Err(FaultError::NotMapped { .. } | FaultError::Protection { .. })
                        if next > part.start =>
                    {
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// The access that pages of a mapping are faulted in for before they are touched. If the mapping allows nothing, the fault is
/// refused.
fn populating<P: Platform>(vma: &Vma<P>) -> Access {
    if vma.protection().contains(Protection::WRITE) && !vma.is_shared() {
        // A private page is copied now, rather than at the first store.
        Access::Write
    } else {
        // A mapping that allows anything is populated for loads: Linux asks for the page by force here.
        Access::Read
    }
}
