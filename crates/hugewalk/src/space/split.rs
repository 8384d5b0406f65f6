//! Cutting the VMAs at the ends of a range.

use core::ops::Range;

use super::{MmapWriteGuard, Places, SetPlace};
use crate::addr::VirtAddr;
use crate::error::MapError;
use crate::platform::Platform;
use crate::task::Task;
use crate::vm_ops::Cut;
use crate::vma::Vma;

/// The splits after which no VMA reaches across either end of a range. All memory for them is allocated.
pub(crate) struct Split<P: Platform> {
    /// With the places of the parts in the set.
    cuts: [Option<(Cut<P>, Places<P>)>; 2],
}

impl<P: Platform> Split<P> {
    /// Prepares the split at both ends of `range`. Changes nothing.
    pub(crate) fn at_ends(
        mmap: &mut MmapWriteGuard<'_, P>,
        range: &Range<VirtAddr>,
    ) -> Result<Self, MapError> {
        let first = Self::cut(mmap, range.start, range)?;
        let last = match &first {
            Some((cut, _)) if cut.old.contains(range.end) => None,
            _ => Self::cut(mmap, range.end, range)?,
        };
        Ok(Self { cuts: [first, last] })
    }

    /// The cut of the VMA that reaches across `point`, at whichever ends of `range` lie inside it.
    fn cut(
        mmap: &MmapWriteGuard<'_, P>,
        point: VirtAddr,
        range: &Range<VirtAddr>,
    ) -> Result<Option<(Cut<P>, Places<P>)>, MapError> {
        let inside = |vma: &Vma<P>, point: VirtAddr| vma.start() < point && point < vma.end();
        let Some(old) = mmap.vmas.find(point).filter(|vma| inside(vma, point)) else {
            return Ok(None);
        };
        let points = [range.start, range.end].into_iter().filter(|&point| inside(old, point));
        let (cut, mut places) = (Cut::new(old, points)?, Places::new());
        for part in cut.parts.iter().flatten() {
            places.put(SetPlace::new(part.clone())?);
        }
        Ok(Some((cut, places)))
    }

    /// Carries the split out.
    pub(crate) fn apply(self, mmap: &mut MmapWriteGuard<'_, P>, task: &mut Task<P>) {
        for (mut cut, mut places) in self.cuts.into_iter().flatten() {
            cut.apply(&mmap.held, task);
            mmap.vmas.remove(&cut.old);
            while let Some(place) = places.pop_first() {
                mmap.vmas.put(place);
            }
        }
    }
}
