//! The map behind reservations: which page offsets have a reservation, or have used it.
//!
//! A file has one map for all its shared mappings. An offset in it has a reservation or a page. A
//! private mapping has a map of its own with the reverse meaning: an offset in it has used its
//! reservation.
//!
//! Ranges are half open, in huge pages, sorted and disjoint. Two ranges that meet become one. So a
//! file that is reserved whole costs one element, however many mappings reserved it piece by piece.
//!
//! # Protocol
//!
//! The map has no lock of its own. Its owner holds one over all of *prepare, ask, reserve, add*:
//!
//! 1. [`RegionMap::prepare`] makes room, and is the only step that can run out of memory; an owner with a spinning lock
//!    makes the room before it takes the lock (`lock_regions`);
//! 2. [`RegionMap::missing`] says how many pages must be reserved;
//! 3. the owner reserves them from the sub-pool and the pool; if that fails, there is nothing to
//!    undo here;
//! 4. [`RegionMap::add`] cannot fail any more.
//!
//! Linux drops its lock between asking and adding, because reserving may sleep. So it counts the
//! additions in progress, keeps spare elements for them, and copes with an answer that has become
//! stale (`region_abort()` and the cache of regions). An owner that releases the lock in step 3
//! must ask again before it adds, and reserve or give back the difference.

use alloc::vec::Vec;
use core::ops::Range;

use crate::error::OutOfMemory;

/// A set of page offsets, kept as sorted ranges.
///
/// All offsets and counts are in huge pages. A range `from..to` with `from >= to` is empty: asking
/// about it, adding it and deleting it answer 0. The offset `u64::MAX` itself is never in the map,
/// since no half-open range reaches it.
///
/// A query costs a binary search and the ranges it overlaps. A change also costs moving the
/// elements behind it, if their number changes.
///
/// # Invariants
///
/// For each element `start < end`, and `end` is less than the next element's `start`.
///
/// Linux: `struct resv_map`, its list of `struct file_region`, in mm/hugetlb.c. Linux keeps ranges charged to
/// different control groups apart; there are no control groups here, so neighbours always merge.
#[derive(Debug, Default)]
pub struct RegionMap {
    ranges: Vec<Range<u64>>,
    /// Refuses all growth beyond the room there is.
    #[cfg(test)]
    starved: bool,
}

impl RegionMap {
    /// An empty map. Does not allocate.
    pub const fn new() -> Self {
        Self {
            ranges: Vec::new(),
            #[cfg(test)]
            starved: false,
        }
    }

    /// How many pages of `from..to` are not in the map, thus how many [`add`](Self::add) would add.
    ///
    /// Linux: `region_chg()` in mm/hugetlb.c, of which [`prepare`](Self::prepare) is the other half.
    pub fn missing(&self, from: u64, to: u64) -> u64 {
        to.saturating_sub(from) - self.count(from, to)
    }

    /// How many pages of `from..to` are in the map.
    ///
    /// Linux: `region_count()` in mm/hugetlb.c.
    pub fn count(&self, from: u64, to: u64) -> u64 {
        let first = self.ranges.partition_point(|r| r.end <= from);
        self.ranges.iter().skip(first).take_while(|r| r.start < to).map(|r| overlap(r, from, to)).sum()
    }

    /// Whether `page` is in the map.
    pub fn contains(&self, page: u64) -> bool {
        let first = self.ranges.partition_point(|r| r.end <= page);
        self.ranges.get(first).is_some_and(|r| r.contains(&page))
    }

    /// Whether no page is in the map.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges of the map in ascending order: none empty, with at least one absent page between any two.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + ExactSizeIterator + '_ {
        self.ranges.iter().cloned()
    }

    /// Makes room so that the next `n_changes` calls of [`add`](Self::add) and [`del`](Self::del) cannot fail,
    /// whatever their ranges.
    ///
    /// One change needs at most one more element. Room is not counted per caller: a caller that
    /// shares the map with others holds the lock from here to the change.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if the room cannot be had; the map is as before.
    pub fn prepare(&mut self, n_changes: usize) -> Result<(), OutOfMemory> {
        #[cfg(test)]
        if self.starved && n_changes > self.ranges.capacity() - self.ranges.len() {
            return Err(OutOfMemory);
        }
        self.ranges.try_reserve(n_changes).map_err(|_| OutOfMemory)
    }

    /// The list of ranges, for an owner that makes room with its lock released.
    pub(crate) fn ranges_mut(&mut self) -> &mut Vec<Range<u64>> {
        &mut self.ranges
    }

    /// Adds `from..to`, and returns how many of its pages were not in the map before.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if one more element was needed and there was no room for it; the map is as before. Cannot
    /// fail after [`prepare`](Self::prepare), nor if the range overlaps or touches one that is in the map.
    ///
    /// Linux: `region_add()` in mm/hugetlb.c.
    pub fn add(&mut self, from: u64, to: u64) -> Result<u64, OutOfMemory> {
        if from >= to {
            return Ok(0);
        }
        // All elements that overlap or touch the range: together with it they become one.
        let first = self.ranges.partition_point(|r| r.end < from);
        let mut merged = from..to;
        let mut present = 0;
        let mut last = first;
        for r in self.ranges.iter().skip(first).take_while(|r| r.start <= to) {
            present += overlap(r, from, to);
            merged = merged.start.min(r.start)..merged.end.max(r.end);
            last += 1;
        }
        if first == last {
            self.prepare(1)?;
            self.ranges.insert(first, merged);
        } else {
            self.ranges[first] = merged;
            self.ranges.drain(first + 1..last);
        }
        Ok(to - from - present)
    }

    /// Deletes `from..to`, and returns how many of its pages were in the map.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if the range lies strictly inside an element, which would become two, and there was no room
    /// for the second; the map is as before. Cannot fail after [`prepare`](Self::prepare).
    ///
    /// Linux: `region_del()` in mm/hugetlb.c.
    pub fn del(&mut self, from: u64, to: u64) -> Result<u64, OutOfMemory> {
        if from >= to {
            return Ok(0);
        }
        let first = self.ranges.partition_point(|r| r.end <= from);
        if let Some(r) = self.ranges.get(first)
            && r.start < from
            && to < r.end
        {
            let behind = to..r.end;
            self.prepare(1)?;
            self.ranges[first].end = from;
            self.ranges.insert(first + 1, behind);
            return Ok(to - from);
        }
        Ok(self.cut(first, from, to))
    }

    /// As [`del`](Self::del), for an owner that must not allocate. Fails if one more element is
    /// needed and there is no room.
    pub(crate) fn del_in_place(&mut self, from: u64, to: u64) -> Result<u64, OutOfMemory> {
        let full = self.ranges.len() == self.ranges.capacity();
        if full && self.del_splits(from, to) { Err(OutOfMemory) } else { self.del(from, to) }
    }

    /// Would deleting `from..to` split an element in two?
    pub(crate) fn del_splits(&self, from: u64, to: u64) -> bool {
        let first = self.ranges.partition_point(|r| r.end <= from);
        from < to && self.ranges.get(first).is_some_and(|r| r.start < from && to < r.end)
    }

    /// Deletes everything from `from` on, and returns how many pages that were. Cannot fail:
    /// deleting to the end splits no element.
    ///
    /// Linux: `region_del()` with `LONG_MAX` as its end, in mm/hugetlb.c; this is what truncation and the last unmap
    /// of a private mapping use.
    pub fn del_to_end(&mut self, from: u64) -> u64 {
        let first = self.ranges.partition_point(|r| r.end <= from);
        self.cut(first, from, u64::MAX)
    }

    /// Deletes `from..to`, which does not split an element. `first` is the first element that ends
    /// behind `from`.
    fn cut(&mut self, first: usize, from: u64, to: u64) -> u64 {
        let mut gone = 0;
        // The elements to drop whole: the first one may keep its head, the last one its tail.
        let (mut keep, mut end) = (first, first);
        for r in self.ranges.iter_mut().skip(first).take_while(|r| r.start < to) {
            gone += overlap(r, from, to);
            if r.start < from {
                r.end = from;
                keep += 1;
                end += 1;
            } else if to < r.end {
                r.start = to;
            } else {
                end += 1;
            }
        }
        self.ranges.drain(keep..end);
        gone
    }
}

/// How many pages `r` and `from..to` have in common.
fn overlap(r: &Range<u64>, from: u64, to: u64) -> u64 {
    r.end.min(to).saturating_sub(r.start.max(from))
}

#[cfg(test)]
mod tests;
