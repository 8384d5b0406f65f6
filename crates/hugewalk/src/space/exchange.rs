//! Replacing the VMAs of a range by others of the same bounds.

use alloc::vec::Vec;
use core::ops::Range;

use super::MmapWriteGuard;
use super::split::Split;
use crate::addr::VirtAddr;
use crate::error::{MapError, OutOfMemory};
use crate::gather::Gather;
use crate::platform::{Platform, Protocol, Step};
use crate::sync::{Arc, try_push};
use crate::task::Task;
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
    work: impl Fn(&mut VmaWriteGuard<'_, P>, &Vma<P>, &mut Gather<'_, P>, &Task<P>),
    task: &mut Task<P>,
) -> Result<(), MapError> {
    let changes = |vma: &&Arc<Vma<P>>| changes(vma);
    // A VMA that does not change is not split either.
    let Some(first) = mmap.vmas.overlapping(range).find(changes).cloned() else {
        return Ok(());
    };
    let last = mmap.vmas.overlapping(range).filter(changes).last().map_or(first.end(), |vma| vma.end());
    let range = first.start().max(range.start)..last.min(range.end);
    let split = Split::at_ends(mmap, &range, task)?;
    // The new VMAs are made while nothing has changed yet. The parts have the shapes of the split.
    let mut exchange: Vec<Arc<Vma<P>>> = Vec::new();
    for vma in mmap.vmas.overlapping(&range).filter(changes) {
        let (start, end) = (vma.start().max(range.start), vma.end().min(range.end));
        let shape = Shape { start, end, offset: vma.offset_of(start), ..vma.shape() };
        try_push(&mut exchange, successor(vma, shape)?)?;
    }
    split.apply(mmap, task);
    for new in exchange {
        if let Some(old) = mmap.vmas.find(new.start()).cloned() {
            exchange_vma(mmap, &old, new, &work, task);
        }
    }
    Ok(())
}

fn exchange_vma<P: Platform>(
    mmap: &mut MmapWriteGuard<'_, P>,
    old: &Arc<Vma<P>>,
    new: Arc<Vma<P>>,
    work: &impl Fn(&mut VmaWriteGuard<'_, P>, &Vma<P>, &mut Gather<'_, P>, &Task<P>),
    task: &mut Task<P>,
) {
    if let Some(mut locked) = VmaWriteGuard::lock(mmap, old, task) {
        let mut i_mmap = old.file().i_mmap_write(task);
        let mut gather = Gather::new(old.mm(), &mut i_mmap);
        work(&mut locked, &new, &mut gather, task);
        gather.finish();
        if !P::Protocol::keeps(Step::ExchangeUnderIMmap) {
            drop(i_mmap);
            i_mmap = old.file().i_mmap_write(task);
        }
        new.take_over_from(old);
        i_mmap.replace(old, new.clone());
    }
    mmap.vmas.remove(old);
    mmap.vmas.put(new);
}
