//! Cutting a VMA in two.

use super::{align_error, enter, stale};
use crate::addr::VirtAddr;
use crate::error::MapError;
use crate::file::{IMmapWriteGuard, TreePlace};
use crate::gather::Gather;
use crate::platform::{Invalidation, Platform};
use crate::protocol::{Step, keeps};
use crate::share::huge_pmd_unshare;
use crate::sync::Arc;
use crate::task::Task;
use crate::vma::{MmapLockedForWrite, Shape, Vma, VmaWriteGuard};

/// Cuts a VMA in two at an address inside it, and returns the parts that replace it, by address. Tables that would reach
/// across the cut are unshared. Sleeps.
///
/// Holds: the mmap lock in write. Takes the VMA lock and `i_mmap`, both in write.
///
/// Linux: `hugetlb_vm_op_split()` and `hugetlb_split()` in mm/hugetlb.c.
///
/// # Errors
///
/// [`MapError::Unaligned`] if that would cut a huge page in two, [`MapError::NotMapped`] if the address is not inside the VMA,
/// or the VMA was replaced or unmapped; [`MapError::OutOfMemory`], [`MapError::WrongSystem`]. Nothing was changed then.
pub fn split<P: Platform>(
    mmap: &mut MmapLockedForWrite<'_, P>,
    vma: &Arc<Vma<P>>,
    at: VirtAddr,
    task: &mut Task<P>,
) -> Result<[Arc<Vma<P>>; 2], MapError> {
    enter(mmap, vma, task)?;
    if at <= vma.start() || vma.end() <= at {
        return Err(MapError::NotMapped { address: at });
    }
    let mut cut = Cut::new(vma, [at].into_iter())?;
    let [Some(first), Some(second), None] = cut.parts.clone() else { return Err(stale(vma)) };
    if cut.apply(mmap, task) { Ok([first, second]) } else { Err(stale(vma)) }
}

/// A VMA, and up to three VMAs that replace it.
pub(crate) struct Cut<P: Platform> {
    pub(crate) old: Arc<Vma<P>>,
    pub(crate) parts: [Option<Arc<Vma<P>>>; 3],
    /// Their places in the file's tree, until the cut has been made.
    in_tree: [Option<TreePlace<P>>; 3],
}

impl<P: Platform> Cut<P> {
    /// Prepares the cut of `old` at these points inside it, by address, two at most. Changes nothing.
    ///
    /// Linux: `hugetlb_vm_op_split()` in mm/hugetlb.c for what is refused.
    pub(crate) fn new(old: &Arc<Vma<P>>, points: impl Iterator<Item = VirtAddr>) -> Result<Self, MapError> {
        let (mut parts, mut in_tree) = ([None, None, None], [None, None, None]);
        let mut start = old.start();
        for ((part, place), end) in parts.iter_mut().zip(&mut in_tree).zip(points.chain([old.end()])) {
            align_error(old.size(), end.as_u64())?;
            let shape = Shape { start, end, offset: old.offset_of(start), ..old.shape() };
            let new = old.successor(shape)?;
            *place = Some(TreePlace::new(new.clone())?);
            *part = Some(new);
            start = end;
        }
        Ok(Self { old: old.clone(), parts, in_tree })
    }

    /// Puts the parts into the file's tree in place of the VMA. False if it was replaced or unmapped.
    pub(crate) fn apply(&mut self, mmap: &MmapLockedForWrite<'_, P>, task: &mut Task<P>) -> bool {
        if !keeps::<P>(Step::ExchangeUnderIMmap)
            && let Some(mut locked) = VmaWriteGuard::lock(mmap, &self.old, task)
        {
            let mut i_mmap = self.old.file().i_mmap_write_within(task);
            self.unshare_at_cuts(&mut locked, &mut i_mmap, task);
        }
        let Some(mut locked) = VmaWriteGuard::lock(mmap, &self.old, task) else { return false };
        let mut i_mmap = self.old.file().i_mmap_write_within(task);
        if keeps::<P>(Step::ExchangeUnderIMmap) {
            self.unshare_at_cuts(&mut locked, &mut i_mmap, task);
        }
        // The parts are in the tree before `i_mmap` is released, so no other mapping can share with
        // the whole VMA any more (CVE-2025-38084).
        let removed = i_mmap.remove(&self.old);
        for place in self.in_tree.iter_mut().filter_map(Option::take) {
            place.vma().take_over_from(&self.old);
            i_mmap.insert(place);
        }
        drop((i_mmap, removed));
        true
    }

    /// A part of the range of a table cannot share it. Linux: `hugetlb_split()` in mm/hugetlb.c.
    fn unshare_at_cuts(
        &self,
        locked: &mut VmaWriteGuard<'_, P>,
        i_mmap: &mut IMmapWriteGuard<'_, P>,
        task: &mut Task<P>,
    ) {
        if !self.old.size().shares_tables() {
            return;
        }
        let mut gather = Gather::new(self.old.mm(), i_mmap);
        for part in self.parts.iter().flatten().skip(1) {
            let boundary = part.start();
            if boundary != self.old.table_range(boundary).start {
                let page = boundary..boundary.plus(self.old.size().bytes());
                gather.announce(&self.old, &page, Invalidation::Clear, task);
                // The locks belong to this VMA and its file, so this cannot be refused.
                let _ = huge_pmd_unshare(locked, boundary, &mut gather, task);
            }
        }
    }
}
