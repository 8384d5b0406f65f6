//! mseal: ranges whose mappings cannot be changed until the address space ends.

use core::ops::Range;

use super::unmap::page_range;
use crate::addr::VirtAddr;
use crate::error::MapError;
use crate::platform::Platform;
use crate::space::{AddressSpace, VmaSet};
use crate::task::Task;
use crate::vma::VmaFlags;

impl<P: Platform> AddressSpace<P> {
    /// Seals a range: its mappings can no longer be unmapped, replaced, moved, shrunk, or given other rights. Only the exit
    /// of the address space ends them; a forked child inherits the seal. Sleeps.
    ///
    /// Pages may still be dropped, as for every mapping of a file. A seal is a flag of the mapping, and
    /// only mappings with equal flags share tables. A table that is shared already stays shared, unless an
    /// end of the range cuts it.
    ///
    /// Takes the mmap lock in write, and for each VMA its lock and `i_mmap`, both in write.
    ///
    /// Linux: `mseal(2)` from 6.10 on, mm/mseal.c.
    ///
    /// # Errors
    ///
    /// [`MapError::NotMapped`] if there is a hole in the range; [`MapError::UnalignedAddress`], [`MapError::Overflow`];
    /// [`MapError::Unaligned`] if the range would cut a huge page in two; [`MapError::OutOfMemory`]. Nothing was sealed then.
    pub fn mseal(&self, task: &mut Task<P>, address: VirtAddr, length: u64) -> Result<(), MapError> {
        task.enter(self.mm().hugetlb())?;
        if length == 0 && self.mm().geometry().is_aligned(address.as_u64()) {
            return Ok(());
        }
        let range = page_range(self.mm(), address, length)?;
        let mut mmap = self.mmap_write_killable(task)?;
        let mapped = mmap.vmas.mapped_until(&range);
        if mapped < range.end {
            return Err(MapError::NotMapped { address: mapped });
        }
        Self::set_flags(&mut mmap, task, &range, VmaFlags::SEALED, VmaFlags::empty())
    }
}

impl<P: Platform> VmaSet<P> {
    /// Where the first sealed mapping of the range begins, or the range if that begins inside one.
    pub(super) fn first_sealed(&self, range: &Range<VirtAddr>) -> Option<VirtAddr> {
        let sealed = self.overlapping(range).find(|vma| vma.flags().contains(VmaFlags::SEALED))?;
        Some(sealed.start().max(range.start))
    }
}
