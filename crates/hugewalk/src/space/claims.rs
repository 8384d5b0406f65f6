//! The ranges of an address space that the host has claimed for mappings of its own.

use core::ops::Range;

use crate::addr::VirtAddr;
use crate::error::OutOfMemory;
use crate::reserve::RegionMap;

/// Ranges that the host has claimed, by address: a map as of reserved pages, whose offsets are addresses.
pub(crate) struct Claims {
    ranges: RegionMap,
}

impl Claims {
    pub(crate) const fn new() -> Self {
        Self { ranges: RegionMap::new() }
    }

    /// The claimed parts of a range, by address.
    pub(crate) fn within(&self, range: &Range<VirtAddr>) -> impl Iterator<Item = Range<VirtAddr>> {
        let (start, end) = (range.start.as_u64(), range.end.as_u64());
        let next = move |before: &Range<u64>| self.ranges.first_overlapping(before.end, end);
        core::iter::successors(self.ranges.first_overlapping(start, end), next)
            .map(move |claimed| addresses(claimed.start.max(start)..claimed.end.min(end)))
    }

    /// The first claimed address of a range.
    pub(crate) fn first_in(&self, range: &Range<VirtAddr>) -> Option<VirtAddr> {
        let claimed = self.ranges.first_overlapping(range.start.as_u64(), range.end.as_u64())?;
        Some(VirtAddr::new(claimed.start).max(range.start))
    }

    /// The highest address, a multiple of `unit`, from which `length` bytes of the range are not claimed, nor anything else of the
    /// blocks that they lie in. A block has so many bytes; `unit` is a multiple of that, or the other way round.
    pub(crate) fn gap_within(
        &self,
        range: &Range<VirtAddr>,
        length: u64,
        unit: u64,
        block: u64,
    ) -> Option<VirtAddr> {
        let (start, mut ceiling) = (range.start.as_u64(), range.end.as_u64() / unit * unit);
        loop {
            let gap = ceiling.checked_sub(length).filter(|&gap| gap >= start)?;
            let blocks = gap / block * block..ceiling.checked_next_multiple_of(block)?;
            // What is claimed below the ceiling ends before the gap, or the gap lies before that.
            match self.ranges.last_below(blocks.end).filter(|claimed| claimed.end > blocks.start) {
                None => return Some(VirtAddr::new(gap)),
                Some(claimed) => ceiling = claimed.start / unit.max(block) * unit.max(block),
            }
        }
    }

    /// Makes room for one more range, so that the next change cannot fail.
    pub(crate) fn prepare(&mut self) -> Result<(), OutOfMemory> {
        self.ranges.prepare(1)
    }

    /// Adds a range, parts of which may be claimed already. Room was made.
    pub(crate) fn add(&mut self, added: &Range<VirtAddr>) {
        let added = self.ranges.add(added.start.as_u64(), added.end.as_u64());
        debug_assert!(added.is_ok(), "no room was made");
    }

    /// Takes a range out, parts of which may be free already. Room was made: what is left of a range may be two.
    pub(crate) fn remove(&mut self, removed: &Range<VirtAddr>) {
        let removed = self.ranges.del(removed.start.as_u64(), removed.end.as_u64());
        debug_assert!(removed.is_ok(), "no room was made");
    }

    /// A copy, for a forked child.
    pub(crate) fn try_clone(&self) -> Result<Self, OutOfMemory> {
        let mut ranges = RegionMap::new();
        for claimed in self.ranges.iter() {
            ranges.add(claimed.start, claimed.end)?;
        }
        Ok(Self { ranges })
    }
}

fn addresses(range: Range<u64>) -> Range<VirtAddr> {
    VirtAddr::new(range.start)..VirtAddr::new(range.end)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use proptest::prelude::*;

    use super::*;

    const ADDRESSES: u64 = 48;

    fn range() -> impl Strategy<Value = Range<VirtAddr>> {
        (0..ADDRESSES, 1..12_u64)
            .prop_map(|(start, length)| VirtAddr::new(start)..VirtAddr::new((start + length).min(ADDRESSES)))
    }

    proptest! {
        #[test]
        fn what_is_claimed_is_what_was_added_and_not_taken_out(
            steps in prop::collection::vec((any::<bool>(), range()), 0..40),
            asked in range(),
        ) {
            let mut claims = Claims::new();
            let mut model = [false; ADDRESSES as usize];
            for (adds, range) in steps {
                claims.prepare().unwrap();
                if adds { claims.add(&range) } else { claims.remove(&range) }
                model[range.start.as_u64() as usize..range.end.as_u64() as usize].fill(adds);
            }
            let is_claimed = |address: &u64| model[*address as usize];
            let addresses = asked.start.as_u64()..asked.end.as_u64();
            let found: Vec<u64> = claims
                .try_clone()
                .unwrap()
                .within(&asked)
                .flat_map(|range| range.start.as_u64()..range.end.as_u64())
                .collect();
            let expected: Vec<u64> = addresses.filter(is_claimed).collect();
            prop_assert_eq!(&found, &expected);
            for (length, unit, block) in [(1, 1, 1), (4, 2, 1), (6, 3, 1), (1, 1, 4), (4, 2, 8), (6, 6, 3)] {
                let starts = (asked.start.as_u64()..asked.end.as_u64()).rev().filter(|start| start % unit == 0);
                let free = |start: &u64| {
                    let blocks = start / block * block..(start + length).next_multiple_of(block).min(ADDRESSES);
                    start + length <= asked.end.as_u64() && !blocks.into_iter().any(|it| is_claimed(&it))
                };
                let highest = claims.gap_within(&asked, length, unit, block).map(VirtAddr::as_u64);
                prop_assert_eq!(highest, { starts }.find(free));
            }
            prop_assert_eq!(claims.first_in(&asked).map(VirtAddr::as_u64), expected.first().copied());
        }
    }
}
