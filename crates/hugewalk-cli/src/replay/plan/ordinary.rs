//! The ordinary mappings of a process: they take no part, but they take up room. A huge mapping may be put where one was,
//! and one may be put where a huge mapping was.

use std::ops::Range;

use rangemap::RangeSet;

const PAGE: u64 = 4096;

/// Which addresses ordinary mappings occupy.
#[derive(Clone, Debug, Default)]
pub struct Ordinary(RangeSet<u64>);

impl Ordinary {
    /// `range` is mapped; what was there is gone.
    pub fn map(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.0.insert(range);
        }
    }

    /// `range` is free.
    pub fn unmap(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.0.remove(range);
        }
    }

    /// Whether an ordinary mapping has a part in `range`.
    #[must_use]
    pub fn touches(&self, range: &Range<u64>) -> bool {
        !range.is_empty() && self.0.overlaps(range)
    }

    /// The parts of `range` in which there are none.
    #[must_use]
    pub fn gaps(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        self.0.gaps(range).collect()
    }
}

/// The pages of `length` bytes at `address`; an end past the last address is cut off.
#[must_use]
pub fn pages(address: u64, length: u64) -> Range<u64> {
    let end = address.saturating_add(length).checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
    address - address % PAGE..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_and_unmapped_is_known_by_the_page() {
        let mut ordinary = Ordinary::default();
        ordinary.map(pages(0x1000, 5000));
        assert!(ordinary.touches(&(0x2000..0x2001)));
        ordinary.unmap(pages(0x1000, 1));
        assert_eq!(ordinary.gaps(&(0..0x4000)), [0..0x2000, 0x3000..0x4000]);
        assert!(!ordinary.touches(&(0x2000..0x2000)));
        assert_eq!(pages(u64::MAX - 1, 100).end, u64::MAX);
    }
}
