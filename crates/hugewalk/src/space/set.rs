//! The VMAs of an address space, by address.

use alloc::vec::Vec;
use core::ops::Range;

use crate::addr::{HugeSize, PAGE_SIZE, VirtAddr};
use crate::error::OutOfMemory;
use crate::platform::Platform;
use crate::sync::Arc;
use crate::vma::Vma;

/// The VMAs of an address space: a sorted list of pointers, found by bisection. Linux: the maple tree `mm_mt`.
///
/// # Invariants
///
/// Sorted by start; no two overlap.
pub(crate) struct VmaSet<P: Platform> {
    vmas: Vec<Arc<Vma<P>>>,
    /// The address space has exited: no mapping can be made any more.
    pub(crate) exited: bool,
    /// New mappings are faulted in at once. Linux: `VM_LOCKED` in `def_flags`.
    pub(crate) locks_new: bool,
}

impl<P: Platform> VmaSet<P> {
    pub(crate) const fn new() -> Self {
        Self { vmas: Vec::new(), exited: false, locks_new: false }
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Vma<P>>> {
        self.vmas.iter()
    }

    /// Index of the first VMA that ends after the address.
    fn first_after(&self, address: VirtAddr) -> usize {
        self.vmas.partition_point(|vma| vma.end() <= address)
    }

    /// The VMA that contains the address.
    pub(crate) fn find(&self, address: VirtAddr) -> Option<&Arc<Vma<P>>> {
        self.vmas.get(self.first_after(address)).filter(|vma| vma.start() <= address)
    }

    /// The last VMA.
    pub(crate) fn last(&self) -> Option<Arc<Vma<P>>> {
        self.vmas.last().cloned()
    }

    /// The VMAs that overlap the range, by address.
    pub(crate) fn overlapping(&self, range: &Range<VirtAddr>) -> impl Iterator<Item = &Arc<Vma<P>>> {
        let end = range.end;
        let rest = self.vmas.get(self.first_after(range.start)..).unwrap_or_default();
        rest.iter().take_while(move |vma| vma.start() < end)
    }

    /// The end of the run of VMAs that begins at the start of the range, or the end of the range if it reaches that.
    pub(crate) fn mapped_until(&self, range: &Range<VirtAddr>) -> VirtAddr {
        let mut end = range.start;
        for vma in self.overlapping(range) {
            if vma.start() > end {
                break;
            }
            end = vma.end();
        }
        end.min(range.end)
    }

    /// Makes room for `more` VMAs, so that putting them in cannot fail.
    pub(crate) fn prepare(&mut self, more: usize) -> Result<(), OutOfMemory> {
        self.vmas.try_reserve(more)?;
        Ok(())
    }

    /// Puts in a VMA whose range is free, in room that was made for it or that a removed VMA has left.
    pub(crate) fn put(&mut self, vma: Arc<Vma<P>>) {
        debug_assert!(self.vmas.len() < self.vmas.capacity(), "no room was made");
        let at = self.first_after(vma.start());
        self.vmas.insert(at, vma);
    }

    /// Takes a VMA out.
    pub(crate) fn remove(&mut self, vma: &Vma<P>) {
        let at = self.first_after(vma.start());
        if self.vmas.get(at).is_some_and(|found| core::ptr::eq::<Vma<P>>(&**found, vma)) {
            self.vmas.remove(at);
        }
    }

    /// The highest free range of `length` bytes, a multiple of the page size, that lies between `lowest` and `top`. Never one at
    /// address 0.
    ///
    /// Linux: `hugetlb_get_unmapped_area_topdown()` in fs/hugetlbfs/inode.c.
    pub(crate) fn gap_below(
        &self,
        top: VirtAddr,
        lowest: VirtAddr,
        length: u64,
        size: HugeSize,
    ) -> Option<VirtAddr> {
        let mut ceiling = size.round_down(top.as_u64());
        for vma in self.vmas.iter().rev() {
            if vma.start().as_u64() >= ceiling {
                continue;
            }
            let floor = size.round_up(vma.end().as_u64())?;
            if ceiling.checked_sub(length).is_some_and(|start| start >= floor) {
                break;
            }
            ceiling = size.round_down(vma.start().as_u64());
        }
        let start = ceiling.checked_sub(length)?;
        (start >= lowest.as_u64().max(PAGE_SIZE)).then(|| VirtAddr::new(start))
    }
}
