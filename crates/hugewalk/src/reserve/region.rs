//! The map behind reservations: which page offsets have a reservation, or have used it.
//!
//! A file has one map for all its shared mappings. An offset in it has a reservation or a page. A
//! private mapping has a map of its own with the reverse meaning: an offset in it has used its
//! reservation.
//!
//! Ranges are half open, in huge pages, sorted and disjoint. Two ranges that meet become one, unless they carry different
//! values. So a file that is reserved whole costs one element for each group that pays, however many mappings reserved it
//! piece by piece.
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

mod add;

use alloc::boxed::Box;
use core::fmt;
use core::ops::Range;

use crate::avl::{Node, Sorted, Spares, Tree};
use crate::error::OutOfMemory;

/// A range of a map, and what it carries.
pub(crate) struct Region<T> {
    range: Range<u64>,
    carried: T,
}

impl<T> Sorted for Region<T> {
    type Key = u64;
    /// How many pages there are.
    type Summary = u64;

    fn key(&self) -> u64 {
        self.range.start
    }

    fn summary(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn join(first: u64, second: u64) -> u64 {
        first + second
    }
}

/// A set of page offsets, kept as sorted ranges.
///
/// All offsets and counts are in huge pages. A range `from..to` with `from >= to` is empty: asking
/// about it, adding it and deleting it answer 0. The offset `u64::MAX` itself is never in the map,
/// since no half-open range reaches it.
///
/// Each range carries a value, and the value belongs to each page of it. The map of a file notes there who has paid for the
/// reservations. Most maps carry nothing. Values without a size count as equal.
///
/// A query costs time in proportion to the logarithm of the number of ranges. So does a change, for each range that it
/// overlaps.
///
/// # Invariants
///
/// For each element `start < end`, and `end` is at most the next element's `start`. Two elements that meet carry values
/// that are not equal.
///
/// Linux: `struct resv_map`, its list of `struct file_region`, in mm/hugetlb.c. `has_same_uncharge_info()` says which
/// neighbours merge.
pub struct RegionMap<T = ()> {
    regions: Tree<Region<T>>,
    /// Room: for ranges that are to come, and of those that are gone. It carries default values.
    spares: Spares<Region<T>>,
    /// Refuses all growth beyond the room there is.
    #[cfg(test)]
    starved: bool,
}

impl RegionMap {
    /// An empty map whose ranges carry nothing. Does not allocate. ([`Default`] makes one of any kind.)
    pub const fn new() -> Self {
        Self::empty()
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
        self.add_with(from, to, &())
    }
}

impl<T> RegionMap<T> {
    const fn empty() -> Self {
        Self {
            regions: Tree::new(),
            spares: Spares::new(),
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
        if from < to { self.below(to) - self.below(from) } else { 0 }
    }

    /// How many pages below this one are in the map.
    fn below(&self, page: u64) -> u64 {
        let (mut found, mut next) = (0, self.regions.root());
        while let Some(node) = next {
            let region = &node.element().range;
            next = if region.start < page {
                found += node.left().map_or(0, Node::summary) + (region.end.min(page) - region.start);
                node.right()
            } else {
                node.left()
            };
        }
        found
    }

    /// Whether `page` is in the map.
    pub fn contains(&self, page: u64) -> bool {
        self.regions.at_or_below(page).is_some_and(|region| page < region.range.end)
    }

    /// Whether no page is in the map.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// The ranges of the map in ascending order: none empty. Between two that carry equal values there is at least one absent
    /// page.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.iter_with().map(|(range, _)| range)
    }

    /// As [`iter`](Self::iter), with what each range carries.
    pub fn iter_with(&self) -> impl Iterator<Item = (Range<u64>, &T)> + '_ {
        self.regions.iter().map(|region| (region.range.clone(), &region.carried))
    }

    /// The first range that has a page of `from..to`.
    pub(crate) fn first_overlapping(&self, from: u64, to: u64) -> Option<Range<u64>> {
        self.overlapping(from, to).map(|region| region.range.clone())
    }

    fn overlapping(&self, from: u64, to: u64) -> Option<&Region<T>> {
        let before = self.regions.at_or_below(from).filter(|region| from < region.range.end);
        before.or_else(|| self.regions.above(from)).filter(|region| region.range.start < to)
    }

    /// The last range that begins below `page`.
    pub(crate) fn last_below(&self, page: u64) -> Option<Range<u64>> {
        self.regions.at_or_below(page.checked_sub(1)?).map(|region| region.range.clone())
    }

    /// Is there room for one change?
    pub(crate) fn has_room(&self) -> bool {
        self.spares.len() > 0
    }

    /// For how many more elements is there room?
    pub(crate) fn room_left(&self) -> usize {
        self.spares.len()
    }

    /// Takes room that was made.
    pub(crate) fn take_rooms(&mut self, mut rooms: Spares<Region<T>>) {
        while let Some(room) = rooms.pop() {
            self.spares.push(room);
        }
    }

    /// Changes the range that begins at `start`, in a way that keeps it apart from the others.
    fn change(&mut self, start: u64, range: Range<u64>) {
        self.regions.rename(&(start..=start), |region| region.range = range.clone());
    }

    /// Would deleting `from..to` split an element in two?
    pub(crate) fn del_splits(&self, from: u64, to: u64) -> bool {
        self.split_by(from, to).is_some()
    }

    /// The element that deleting `from..to` would split in two.
    fn split_by(&self, from: u64, to: u64) -> Option<&Region<T>> {
        self.overlapping(from, to).filter(|r| from < to && r.range.start < from && to < r.range.end)
    }
}

impl<T: Clone + Eq + Default> RegionMap<T> {
    /// Makes room so that the next `n_changes` calls of [`add`](RegionMap::add) and [`del`](Self::del) cannot fail, whatever
    /// their ranges.
    ///
    /// One change needs at most one more element; [`add_with`](Self::add_with) may need [more](Self::elements_for). Room is
    /// not counted per caller: a caller that shares the map with others holds the lock from here to the change.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if the room cannot be had; the map is as before.
    pub fn prepare(&mut self, n_changes: usize) -> Result<(), OutOfMemory> {
        if n_changes > isize::MAX as usize / size_of::<Node<Region<T>>>() {
            return Err(OutOfMemory);
        }
        while self.spares.len() < n_changes {
            let room = self.allocate()?;
            self.spares.push(room);
        }
        Ok(())
    }

    fn allocate(&self) -> Result<Box<Node<Region<T>>>, OutOfMemory> {
        #[cfg(test)]
        if self.starved {
            return Err(OutOfMemory);
        }
        Self::room()
    }

    fn room() -> Result<Box<Node<Region<T>>>, OutOfMemory> {
        Node::new(Region { range: 0..0, carried: T::default() })
    }

    /// Room for so many elements, for an owner that makes it with its lock released.
    pub(crate) fn rooms(elements: usize) -> Result<Spares<Region<T>>, OutOfMemory> {
        let mut rooms = Spares::new();
        for _ in 0..elements {
            rooms.push(Self::room()?);
        }
        Ok(rooms)
    }

    /// Takes the range that begins at `start` out.
    fn remove(&mut self, start: u64) {
        if let Some(mut node) = self.regions.remove(start) {
            node.element_mut().carried = T::default();
            self.spares.push(node);
        }
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
        self.del_with(from, to, |_, _| ())
    }

    /// As [`del`](Self::del). `gone` is told what was carried, and by how many pages, of each range that loses some.
    ///
    /// # Errors
    ///
    /// As for [`del`](Self::del).
    pub fn del_with(
        &mut self,
        from: u64,
        to: u64,
        mut gone: impl FnMut(&T, u64),
    ) -> Result<u64, OutOfMemory> {
        if from >= to {
            return Ok(0);
        }
        if self.del_splits(from, to) {
            let room = self.spares.pop().map_or_else(|| self.allocate(), Ok)?;
            if let Some(Region { range, carried }) = self.split_by(from, to) {
                gone(carried, to - from);
                let (range, carried) = (range.clone(), carried.clone());
                self.change(range.start, range.start..from);
                self.insert(room, to..range.end, carried);
            }
            return Ok(to - from);
        }
        Ok(self.cut(from, to, gone))
    }

    /// As [`del`](Self::del), for an owner that must not allocate. Fails if one more element is
    /// needed and there is no room.
    pub(crate) fn del_in_place(&mut self, from: u64, to: u64) -> Result<u64, OutOfMemory> {
        self.del_in_place_with(from, to, |_, _| ())
    }

    /// As [`del_in_place`](Self::del_in_place). `gone` is told as by [`del_with`](Self::del_with).
    pub(crate) fn del_in_place_with(
        &mut self,
        from: u64,
        to: u64,
        gone: impl FnMut(&T, u64),
    ) -> Result<u64, OutOfMemory> {
        if !self.has_room() && self.del_splits(from, to) {
            Err(OutOfMemory)
        } else {
            self.del_with(from, to, gone)
        }
    }

    /// Deletes everything from `from` on, and returns how many pages that were. Cannot fail:
    /// deleting to the end splits no element.
    ///
    /// Linux: `region_del()` with `LONG_MAX` as its end, in mm/hugetlb.c; this is what truncation and the last unmap
    /// of a private mapping use.
    pub fn del_to_end(&mut self, from: u64) -> u64 {
        self.del_to_end_with(from, |_, _| ())
    }

    /// As [`del_to_end`](Self::del_to_end). `gone` is told as by [`del_with`](Self::del_with).
    pub fn del_to_end_with(&mut self, from: u64, gone: impl FnMut(&T, u64)) -> u64 {
        self.cut(from, u64::MAX, gone)
    }

    /// Deletes `from..to`, which does not split an element.
    fn cut(&mut self, from: u64, to: u64, mut gone: impl FnMut(&T, u64)) -> u64 {
        let mut all = 0;
        while let Some(Region { range, carried }) = self.overlapping(from, to) {
            let (range, pages) = (range.clone(), overlap(range, from, to));
            gone(carried, pages);
            all += pages;
            // The first one may keep its head, the last one its tail.
            if range.start < from {
                self.change(range.start, range.start..from);
            } else if to < range.end {
                self.change(range.start, to..range.end);
            } else {
                self.remove(range.start);
            }
        }
        all
    }
}

impl<T> Default for RegionMap<T> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<T> fmt::Debug for RegionMap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// How many pages `r` and `from..to` have in common.
fn overlap(r: &Range<u64>, from: u64, to: u64) -> u64 {
    r.end.min(to).saturating_sub(r.start.max(from))
}

#[cfg(test)]
mod tests;
