//! Visiting the entries of a mapping, one by one.

use core::ops::Range;

use super::At;
use crate::addr::{HugeSize, VirtAddr};
use crate::arch::Geometry;
use crate::gather::Gather;
use crate::platform::Platform;
use crate::share::{OwnTable, lock_own_table};
use crate::task::Task;
use crate::vma::VmaWriteGuard;

/// Calls `work` for each entry of a range of a VMA, also for empty ones, with its table locked. A table
/// that others use too is unshared instead; its entries belong to the others and stay as they are. Where
/// there is no table, nothing happens.
///
/// Linux: the loops of `__unmap_hugepage_range()` and `hugetlb_change_protection()` in mm/hugetlb.c.
///
/// Holds: the VMA lock in write, and `i_mmap` in write (by `gather`). Takes table locks. Does not sleep.
///
/// Flushes are left to `gather`, to which the caller has announced what changes.
pub(crate) fn each_own_entry<P: Platform>(
    vma_lock: &mut VmaWriteGuard<'_, P>,
    range: Range<VirtAddr>,
    gather: &mut Gather<'_, P>,
    task: &Task<P>,
    mut work: impl FnMut(&At<'_, '_, P>, &mut Gather<'_, P>),
) {
    let vma = vma_lock.vma();
    let size = vma.size();
    for part in by_table(vma.mm().geometry(), range, size) {
        let mut address = part.start;
        while address < part.end {
            // Done with the table unlocked: see `Gather::make_room`.
            gather.make_room();
            let Ok(OwnTable::Locked(mut locked)) = lock_own_table(vma_lock, address, gather, task) else {
                break;
            };
            while address < part.end && gather.has_room() {
                locked.move_to(address);
                work(&At::new(&locked, vma, address), gather);
                address = address.plus(size.bytes());
            }
        }
    }
}

/// A range cut at the boundaries of the tables that hold its leaves.
pub(crate) fn by_table(
    geometry: Geometry,
    range: Range<VirtAddr>,
    size: HugeSize,
) -> impl Iterator<Item = Range<VirtAddr>> {
    let mut next = range.start;
    core::iter::from_fn(move || {
        let start = next;
        if start >= range.end {
            return None;
        }
        next = geometry.table_range(start, size.level()).end.min(range.end);
        Some(start..next)
    })
}
