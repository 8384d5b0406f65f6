//! Replacing the VMAs of a range by others of the same bounds.

use core::ops::Range;

use super::split::Split;
use super::{MmapWriteGuard, Places, SetPlace};
use crate::addr::VirtAddr;
use crate::error::{MapError, OutOfMemory};
use crate::gather::Gather;
use crate::platform::Platform;
use crate::sync::Arc;
use crate::task::Task;
use crate::vm_ops::exchange;
use crate::vma::{Shape, Vma, VmaWriteGuard};

/// Replaces the VMAs of a range that `changes` picks, cut to the range, by what `successor` makes for a
/// shape.
///
/// `work` brings the entries of each in line, with the VMA lock and `i_mmap` held in write. It is given the
/// guard of the old VMA, and the new VMA. The new VMA is in the file's tree before `i_mmap` is released.
///
/// Takes, for each VMA, its lock and `i_mmap`, both in write. Sleeps.
///
/// # Errors
///
/// [`MapError::Unaligned`] if the range would cut a huge page in two, [`MapError::OutOfMemory`]; nothing was changed then.
pub(crate) fn exchange_range<P: Platform>(
    mmap: &mut MmapWriteGuard<'_, P>,
    range: &Range<VirtAddr>,
    changes: impl Fn(&Vma<P>) -> bool,
    successor: impl Fn(&Vma<P>, Shape) -> Result<Arc<Vma<P>>, OutOfMemory>,
    work: impl Fn(&mut VmaWriteGuard<'_, P>, &Vma<P>, &mut Gather<'_, P>, &mut Task<P>),
    task: &mut Task<P>,
) -> Result<(), MapError> {
    let changes = |vma: &&Arc<Vma<P>>| changes(vma);
    // A VMA that does not change is not split either.
    let Some(first) = mmap.vmas.overlapping(range).find(changes).cloned() else {
        return Ok(());
    };
    let last = mmap.vmas.overlapping(range).filter(changes).last().map_or(first.end(), |vma| vma.end());
    let range = first.start().max(range.start)..last.min(range.end);
    let split = Split::at_ends(mmap, &range)?;
    // The new VMAs are made while nothing has changed yet. The parts have the shapes of the split.
    let mut exchanges = Places::new();
    for vma in mmap.vmas.overlapping(&range).filter(changes) {
        let (start, end) = (vma.start().max(range.start), vma.end().min(range.end));
        let shape = Shape { start, end, offset: vma.offset_of(start), ..vma.shape() };
        exchanges.put(SetPlace::new(successor(vma, shape)?)?);
    }
    split.apply(mmap, task);
    while let Some(new) = exchanges.pop_first() {
        if let Some(old) = mmap.vmas.find(new.vma().start()).cloned() {
            exchange(&mmap.held, &old, new.vma(), &work, task);
            drop(mmap.vmas.replace(new));
        }
    }
    Ok(())
}
