//! Cutting VMAs in two.

use core::ops::Range;

use super::{MmapWriteGuard, align_error};
use crate::addr::{HugeSize, VirtAddr};
use crate::error::MapError;
use crate::file::{IMmapWriteGuard, Room};
use crate::gather::Gather;
use crate::platform::{Platform, Protocol, Step};
use crate::share::huge_pmd_unshare;
use crate::sync::Arc;
use crate::task::Task;
use crate::vma::{Shape, Vma, VmaWriteGuard};

/// A VMA, and up to three VMAs that replace it.
struct Cut<P: Platform> {
    old: Arc<Vma<P>>,
    parts: [Option<Arc<Vma<P>>>; 3],
    /// Room in the file's tree for all parts except the first.
    room: Room<P>,
}

/// The splits after which no VMA reaches across either end of a range. All memory for them is allocated.
pub(crate) struct Split<P: Platform> {
    cuts: [Option<Cut<P>>; 2],
}

impl<P: Platform> Split<P> {
    /// Prepares the split at both ends of `range`. Changes nothing.
    ///
    /// Linux: `hugetlb_vm_op_split()` in mm/hugetlb.c for what is refused.
    pub(crate) fn at_ends(
        mmap: &mut MmapWriteGuard<'_, P>,
        range: &Range<VirtAddr>,
        task: &mut Task<P>,
    ) -> Result<Self, MapError> {
        let first = Self::cut(mmap, range.start, range, task)?;
        let last = match &first {
            Some(cut) if cut.old.contains(range.end) => None,
            _ => Self::cut(mmap, range.end, range, task)?,
        };
        mmap.vmas.prepare(4)?;
        Ok(Self { cuts: [first, last] })
    }

    /// The cut of the VMA that reaches across `point`, at whichever ends of `range` lie inside it.
    fn cut(
        mmap: &MmapWriteGuard<'_, P>,
        point: VirtAddr,
        range: &Range<VirtAddr>,
        task: &mut Task<P>,
    ) -> Result<Option<Cut<P>>, MapError> {
        let inside = |vma: &Vma<P>, point: VirtAddr| vma.start() < point && point < vma.end();
        let Some(old) = mmap.vmas.find(point).filter(|vma| inside(vma, point)) else {
            return Ok(None);
        };
        let mut parts = [None, None, None];
        let mut start = old.start();
        let points = [range.start, range.end].into_iter().filter(|&point| inside(old, point));
        for (part, end) in parts.iter_mut().zip(points.chain([old.end()])) {
            align_error(old.size(), end.as_u64())?;
            let shape = Shape { start, end, offset: old.offset_of(start), ..old.shape() };
            *part = Some(old.successor(shape)?);
            start = end;
        }
        let room = Room::new(old.file(), parts.iter().flatten().count() - 1, task)?;
        Ok(Some(Cut { old: old.clone(), parts, room }))
    }

    /// Carries the split out.
    pub(crate) fn apply(self, mmap: &mut MmapWriteGuard<'_, P>, task: &mut Task<P>) {
        for mut cut in self.cuts.into_iter().flatten() {
            if !P::Protocol::keeps(Step::ExchangeUnderIMmap)
                && let Some(mut locked) = VmaWriteGuard::lock(mmap, &cut.old, task)
            {
                let mut i_mmap = cut.old.file().i_mmap_write(task);
                unshare_at_cuts(&mut locked, &mut i_mmap, &cut, task);
            }
            if let Some(mut locked) = VmaWriteGuard::lock(mmap, &cut.old, task) {
                let mut i_mmap = cut.old.file().i_mmap_write(task);
                if P::Protocol::keeps(Step::ExchangeUnderIMmap) {
                    unshare_at_cuts(&mut locked, &mut i_mmap, &cut, task);
                }
                // The parts are in the tree before `i_mmap` is released, so no other mapping can share with
                // the whole VMA any more (CVE-2025-38084).
                let parts = cut.parts.iter().flatten().cloned().inspect(|part| part.take_over_from(&cut.old));
                i_mmap.exchange(&cut.old, parts, &mut cut.room);
            }
            mmap.vmas.remove(&cut.old);
            for part in cut.parts.into_iter().flatten() {
                mmap.vmas.put(part);
            }
        }
    }
}

/// A part of a 1 GiB range cannot share its table. Linux: `hugetlb_split()` in mm/hugetlb.c.
fn unshare_at_cuts<P: Platform>(
    locked: &mut VmaWriteGuard<'_, P>,
    i_mmap: &mut IMmapWriteGuard<'_, P>,
    cut: &Cut<P>,
    task: &Task<P>,
) {
    if cut.old.size() != HugeSize::Size2M {
        return;
    }
    let mut gather = Gather::new(cut.old.mm(), i_mmap);
    for part in cut.parts.iter().flatten().skip(1) {
        let boundary = part.start();
        if boundary != boundary.pud_floor() {
            // The locks belong to this VMA and its file, so this cannot be refused.
            let _ = huge_pmd_unshare(locked, boundary, &mut gather, task);
        }
    }
}
