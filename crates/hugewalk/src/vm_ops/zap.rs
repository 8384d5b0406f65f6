//! Dropping the pages of a range.

use core::ops::Range;

use super::{align_error, enter, stale};
use crate::addr::VirtAddr;
use crate::entries::{Zap, zap_range};
use crate::error::MapError;
use crate::gather::Gather;
use crate::platform::{Invalidation, Platform};
use crate::task::Task;
use crate::vma::{MmapLocked, Vma, VmaWriteGuard};

/// Drops the pages of a range that lies in a VMA: private ones are lost, shared ones stay in the file. The VMA stays, and so
/// do its tables, except shared ones, which are unshared. Sleeps.
///
/// Holds: the mmap lock in read. Takes the VMA lock and `i_mmap`, both in write.
///
/// Linux: `zap_page_range_single()` in mm/memory.c, `__unmap_hugepage_range()` in mm/hugetlb.c.
///
/// # Errors
///
/// [`MapError::Unaligned`], [`MapError::NotMapped`] if the range does not lie in the VMA, or the VMA was replaced or unmapped;
/// [`MapError::WrongSystem`]. Nothing was dropped then.
pub fn zap<P: Platform>(
    mmap: &MmapLocked<'_, P>,
    vma: &Vma<P>,
    range: Range<VirtAddr>,
    task: &mut Task<P>,
) -> Result<(), MapError> {
    enter(mmap, vma, task)?;
    align_error(vma.size(), range.start.as_u64())?;
    align_error(vma.size(), range.end.as_u64())?;
    if range.is_empty() {
        return Ok(());
    }
    if range.start < vma.start() || vma.end() < range.end {
        return Err(MapError::NotMapped { address: range.start });
    }
    if zap_pages(mmap, vma, range, task) { Ok(()) } else { Err(stale(vma)) }
}

/// As [`zap`], of whole pages of the VMA. False if the VMA was replaced or unmapped.
pub(crate) fn zap_pages<P: Platform>(
    mmap: &MmapLocked<'_, P>,
    vma: &Vma<P>,
    range: Range<VirtAddr>,
    task: &mut Task<P>,
) -> bool {
    let Some(mut locked) = VmaWriteGuard::lock(mmap, vma, task) else { return false };
    let mut i_mmap = vma.file().i_mmap_write_within(task);
    let mut gather = Gather::new(vma.mm(), &mut i_mmap);
    gather.announce(vma, &range, Invalidation::Clear, task);
    zap_range(&mut locked, range, Zap::Pages, &mut gather, task);
    gather.finish();
    true
}
