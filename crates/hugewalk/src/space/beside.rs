//! Pages of the engine's that are smaller than what a table of base pages translates, such as groups of 64 KiB.
//!
//! They lie in tables of the level at which base pages do, and such a table is the engine's or the host's, never both. So what a
//! table translates belongs to one of the two, whole.

use core::ops::Range;

use super::VmaSet;
use crate::addr::{HugeSize, VirtAddr};
use crate::arch::Geometry;
use crate::platform::Platform;

/// The level of tables of base pages.
const LOWEST: u8 = Geometry::ABOVE_BASE_PAGES - 1;

fn is_small(size: HugeSize) -> bool {
    size.level() == LOWEST
}

impl<P: Platform> VmaSet<P> {
    /// The first address beside a range, in a table that it needs, that keeps the range from being mapped: of the other of the two,
    /// engine and host. `size` is that of its pages; those of the host are base pages. The range is not empty.
    pub(crate) fn beside(
        &self,
        geometry: Geometry,
        range: &Range<VirtAddr>,
        size: Option<HugeSize>,
    ) -> Option<VirtAddr> {
        if size.is_some_and(|size| !is_small(size)) {
            return None;
        }
        let last = VirtAddr::new(range.end.as_u64() - 1);
        let before = geometry.base_block(range.start).start..range.start;
        let behind = range.end..geometry.base_block(last).end;
        [before, behind].into_iter().filter(|part| part.start < part.end).find_map(|part| match size {
            Some(_) => self.claims.first_in(&part),
            None => self.first_small(&part),
        })
    }

    /// The highest free range of `length` bytes that lies between `lowest` and `top`, at a multiple of the size, as `length` is, and
    /// has nothing [beside](Self::beside) it. Never one at address 0.
    pub(crate) fn gap_below(
        &self,
        geometry: Geometry,
        (top, lowest): (VirtAddr, VirtAddr),
        length: u64,
        size: Option<HugeSize>,
    ) -> Option<VirtAddr> {
        let block = 1 << geometry.shift(Geometry::ABOVE_BASE_PAGES);
        self.highest_hole(lowest..top, length, &|hole| match size {
            Some(size) if is_small(size) => self.claims.gap_within(&hole, length, size.bytes(), block),
            Some(size) => self.claims.gap_within(&hole, length, size.bytes(), 1),
            None => {
                self.claims.gap_within(&self.without_small(geometry, &hole), length, geometry.base_bytes(), 1)
            }
        })
    }

    /// A hole between mappings, less the parts whose tables have small pages of the engine's.
    fn without_small(&self, geometry: Geometry, hole: &Range<VirtAddr>) -> Range<VirtAddr> {
        let (first, last) = (geometry.base_block(hole.start), geometry.base_block(hole.end));
        let start = match self.first_small(&(first.start..hole.start)) {
            Some(_) => first.end,
            None => hole.start,
        };
        // A hole that ends where a block begins needs nothing of that block.
        let end = match self.first_small(&(hole.end..last.end)) {
            Some(_) => last.start,
            None => hole.end,
        };
        start..end.max(start)
    }

    /// The first address of a range that is mapped with small pages.
    fn first_small(&self, range: &Range<VirtAddr>) -> Option<VirtAddr> {
        self.overlapping(range).find(|vma| is_small(vma.size())).map(|vma| vma.start().max(range.start))
    }
}
