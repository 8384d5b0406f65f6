//! Adding pages to a map, beside others that carry something else.

use alloc::boxed::Box;
use core::ops::Range;

use super::{Region, RegionMap};
use crate::avl::Node;
use crate::error::OutOfMemory;

/// A part of a range that is not in the map, with the elements on either side that it becomes one with.
struct Gap {
    range: Range<u64>,
    /// Where the element before it begins.
    before: Option<u64>,
    behind: Option<Range<u64>>,
}

impl<T: Clone + Eq + Default> RegionMap<T> {
    /// The first part of `from..to` that is not in the map, and what it becomes one with if it carries this.
    fn first_gap(&self, from: u64, to: u64, carried: &T) -> Option<Gap> {
        let mut start = from;
        let before = loop {
            match self.regions.at_or_below(start) {
                Some(region) if start < region.range.end => start = region.range.end,
                before => break before,
            }
        };
        let behind = self.regions.above(start);
        let end = behind.map_or(to, |region| region.range.start.min(to));
        let before = before.filter(|region| region.range.end == start && region.carried == *carried);
        let behind = behind.filter(|region| region.range.start == end && region.carried == *carried);
        (start < end).then(|| Gap {
            range: start..end,
            before: before.map(|region| region.range.start),
            behind: behind.map(|region| region.range.clone()),
        })
    }

    /// How many more elements [`add_with`](Self::add_with) needs at most: one for each part of `from..to` that is not in the
    /// map and that becomes one with no range beside it.
    pub fn elements_for(&self, from: u64, to: u64, carried: &T) -> usize {
        if size_of::<T>() == 0 {
            return usize::from(from < to);
        }
        let (mut at, mut elements) = (from, 0);
        while let Some(gap) = self.first_gap(at, to, carried) {
            elements += usize::from(gap.before.is_none() && gap.behind.is_none());
            at = gap.range.end;
        }
        elements
    }

    /// Adds the pages of `from..to` that are not in the map, which carry this value then, and returns how many those are. The
    /// others keep their value.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if there was no room for the [elements](Self::elements_for) that were needed; the map is as before.
    ///
    /// Linux: `region_add()` in mm/hugetlb.c.
    pub fn add_with(&mut self, from: u64, to: u64, carried: &T) -> Result<u64, OutOfMemory> {
        // Without different values one more element is enough, and then nothing has changed before it is made.
        if size_of::<T>() > 0 {
            self.prepare(self.elements_for(from, to, carried))?;
        }
        let (mut at, mut added) = (from, 0);
        while at < to
            && let Some(Gap { range, before, behind }) = self.first_gap(at, to, carried)
        {
            (at, added) = (range.end, added + (range.end - range.start));
            match (before, behind) {
                (Some(before), Some(behind)) => {
                    self.remove(behind.start);
                    self.change(before, before..behind.end);
                }
                (Some(before), None) => self.change(before, before..range.end),
                (None, Some(behind)) => self.change(behind.start, range.start..behind.end),
                (None, None) => {
                    let room = self.spares.pop().map_or_else(|| self.allocate(), Ok)?;
                    self.insert(room, range, carried.clone());
                }
            }
        }
        Ok(added)
    }

    /// Puts a range in, which becomes one with none, in this room.
    pub(super) fn insert(&mut self, mut room: Box<Node<Region<T>>>, range: Range<u64>, carried: T) {
        *room.element_mut() = Region { range, carried };
        self.regions.insert(room);
    }
}
