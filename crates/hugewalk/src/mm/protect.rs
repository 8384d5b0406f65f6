//! mprotect: new rights for a range.

use core::ops::Range;

use super::unmap::page_range;
use crate::addr::VirtAddr;
use crate::error::MapError;
use crate::platform::Platform;
use crate::space::{AddressSpace, MmapWriteGuard, exchange_range};
use crate::task::Task;
use crate::vm_ops::change_entries;
use crate::vma::{Protection, Shape};

impl<P: Platform> AddressSpace<P> {
    /// Gives a range new rights. Shared tables in it are unshared. Sleeps.
    ///
    /// Takes the mmap lock in write, and for each VMA its lock and `i_mmap`, both in write.
    ///
    /// Linux: `mprotect(2)`, `hugetlb_change_protection()` in mm/hugetlb.c.
    ///
    /// # Errors
    ///
    /// - [`MapError::UnknownRights`], [`MapError::UnalignedAddress`], [`MapError::Overflow`];
    ///   [`MapError::Unaligned`] if the range would cut a huge page in two; [`MapError::OutOfMemory`].
    ///   Nothing was changed then.
    /// - [`MapError::NotMapped`] if there is a hole in the range, [`MapError::Sealed`] if there is a sealed
    ///   mapping in it. What lies before it has the new rights then.
    pub fn mprotect(
        &self,
        task: &mut Task<P>,
        address: VirtAddr,
        length: u64,
        protection: Protection,
    ) -> Result<(), MapError> {
        task.enter(self.mm().hugetlb())?;
        // Linux: arch_validate_prot(). mmap is older than that check, and ignores unknown bits.
        if !Protection::all().contains(protection) {
            return Err(MapError::UnknownRights);
        }
        if length == 0 && self.mm().geometry().is_aligned(address.as_u64()) {
            return Ok(());
        }
        let range = page_range(self.mm(), address, length)?;
        let mut mmap = self.mmap_write_killable(task)?;
        let mut mapped = range.start..mmap.vmas.mapped_until(&range);
        let sealed = mmap.vmas.first_sealed(&mapped);
        mapped.end = sealed.unwrap_or(mapped.end);
        if !mapped.is_empty() {
            protect_range(&mut mmap, &mapped, protection, task)?;
        }
        if let Some(address) = sealed {
            return Err(MapError::Sealed { address });
        }
        if mapped.end < range.end { Err(MapError::NotMapped { address: mapped.end }) } else { Ok(()) }
    }
}

fn protect_range<P: Platform>(
    mmap: &mut MmapWriteGuard<'_, P>,
    range: &Range<VirtAddr>,
    protection: Protection,
    task: &mut Task<P>,
) -> Result<(), MapError> {
    exchange_range(
        mmap,
        range,
        |vma| vma.protection() != protection,
        |vma, shape| vma.successor(Shape { protection, ..shape }),
        change_entries,
        task,
    )
}
