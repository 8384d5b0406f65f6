//! Ranges that are the host's.

use core::ops::Range;

use super::Placement;
use super::map::place;
use super::unmap::unmap_range;
use crate::addr::VirtAddr;
use crate::base::{block_around, visit_all};
use crate::error::MapError;
use crate::platform::Platform;
use crate::space::AddressSpace;
use crate::task::Task;
use crate::uffd::Announcements;

impl<P: Platform> AddressSpace<P> {
    /// Claims a range for mappings of the host's own, and returns its start. Nothing of the engine's is mapped there until it
    /// is [released](Self::release). Sleeps.
    ///
    /// Length and address are multiples of a base page. [`Placement::Fixed`] unmaps huge pages that lie in the range. Parts of it
    /// that are claimed already stay claimed. For other placements a range that is claimed is taken.
    ///
    /// Takes the mmap lock in write, and what [`munmap`](Self::munmap) takes.
    ///
    /// # Errors
    ///
    /// Those of [`munmap`](Self::munmap) and of the placement; [`MapError::SameTable`], [`MapError::UnalignedAddress`], [`MapError::ZeroLength`],
    /// [`MapError::Exited`]. Nothing was changed then.
    pub fn claim(&self, task: &mut Task<P>, placement: Placement, length: u64) -> Result<VirtAddr, MapError> {
        task.enter(self.mm().hugetlb())?;
        if length == 0 {
            return Err(MapError::ZeroLength);
        }
        let length = self.mm().geometry().round_up(length).ok_or(MapError::Overflow)?;
        if length > self.mm().task_size().as_u64() {
            return Err(MapError::NoRoom { length });
        }
        let mut events = Announcements::new();
        let mut mmap = self.mmap_write(task);
        if mmap.vmas.exited {
            return Err(MapError::Exited);
        }
        let start = place(&mmap, placement, length, None)?;
        let range = start..start.plus(length);
        mmap.vmas.claims.prepare()?;
        unmap_range(&mut mmap, &range, &mut events, task)?;
        mmap.vmas.claims.add(&range);
        drop(mmap);
        events.tell(task);
        Ok(start)
    }

    /// Gives a range back that was claimed, or parts of it. The host has nothing mapped there any more. Sleeps.
    ///
    /// Takes the mmap lock in write.
    ///
    /// # Errors
    ///
    /// [`MapError::HostTable`] if a table of the host's is in place that translates nothing but this range and what is free;
    /// [`MapError::UnalignedAddress`], [`MapError::OutOfMemory`]. Nothing was changed then.
    pub fn release(&self, task: &mut Task<P>, range: Range<VirtAddr>) -> Result<(), MapError> {
        task.enter(self.mm().hugetlb())?;
        let unaligned = |address: &&VirtAddr| !self.mm().geometry().is_aligned(address.as_u64());
        if let Some(&address) = [&range.start, &range.end].into_iter().find(unaligned) {
            return Err(MapError::UnalignedAddress { address });
        }
        let mut mmap = self.mmap_write(task);
        mmap.vmas.claims.prepare()?;
        let mut left = None;
        visit_all(mmap.mm(), &mmap.vmas, task, &range, |slot| {
            // Is there another claim that needs the table?
            let outside = |claimed: Range<VirtAddr>| claimed.start < range.start || range.end < claimed.end;
            if !mmap.vmas.claims.within(&block_around(mmap.mm().geometry(), slot.address())).any(outside) {
                left = left.or(Some(slot.address()));
            }
        });
        if let Some(address) = left {
            return Err(MapError::HostTable { address });
        }
        mmap.vmas.claims.remove(&range);
        Ok(())
    }
}
