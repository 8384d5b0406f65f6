//! Where the mappings of a process lie, according to the recorded results.

use std::collections::BTreeMap;
use std::ops::Range;

use rangemap::{RangeMap, RangeSet};

use super::ordinary::Ordinary;
use super::{MappingId, Space};
use crate::trace::flags::Prot;

/// What lies in a range of huge pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) mapping: MappingId,
    pub(super) prot: Prot,
    /// The size of its pages, as a power of two.
    pub(super) shift: u32,
    /// Whether pages of it belong to the process alone.
    pub(super) private: bool,
}

/// The mappings of one address space.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// Its number on the engine, once it holds huge pages.
    pub(super) space: Option<Space>,
    pub(super) ordinary: Ordinary,
    /// Parts that a child does not get.
    pub(super) dont_fork: RangeSet<u64>,
    /// About how many pages it has come to reach by itself.
    pub(super) touched: u64,
    /// New mappings are locked: `mlockall(MCL_FUTURE)`.
    pub(super) locks_future: bool,
    huge: RangeMap<u64, Piece>,
    /// Where huge mappings are or were: a call on such a range that is unmapped now concerns us still.
    once_huge: RangeSet<u64>,
    /// How many bytes of each mapping it holds.
    held: BTreeMap<MappingId, u64>,
    /// Mappings of which it came to hold a part, or has no part any more, since somebody asked.
    changes: Vec<(MappingId, bool)>,
    /// Whether it is counted among those that hold huge pages.
    pub(super) counted: bool,
}

impl Memory {
    pub(super) fn map_huge(&mut self, range: Range<u64>, piece: Piece) {
        if !range.is_empty() {
            self.ordinary.unmap(range.clone());
            self.dont_fork.remove(range.clone());
            self.once_huge.insert(range.clone());
            self.release(&range);
            let bytes = self.held.entry(piece.mapping).or_default();
            if *bytes == 0 {
                self.changes.push((piece.mapping, true));
            }
            *bytes += range.end - range.start;
            self.huge.insert(range, piece);
        }
    }

    /// What lies in the range is about to be replaced, or to go.
    fn release(&mut self, range: &Range<u64>) {
        for (part, piece) in self.huge.overlapping(range) {
            let bytes = part.end.min(range.end) - part.start.max(range.start);
            if let Some(held) = self.held.get_mut(&piece.mapping) {
                *held = held.saturating_sub(bytes);
                if *held == 0 {
                    self.held.remove(&piece.mapping);
                    self.changes.push((piece.mapping, false));
                }
            }
        }
    }

    /// An ordinary mapping was made; true if there were huge pages.
    pub(super) fn map_ordinary(&mut self, range: Range<u64>) -> bool {
        let was_huge = self.touches_huge(&range);
        self.unmap(range.clone());
        self.ordinary.map(range.clone());
        if !range.is_empty() {
            self.once_huge.remove(range);
        }
        was_huge
    }

    pub(super) fn unmap(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.ordinary.unmap(range.clone());
            self.dont_fork.remove(range.clone());
            self.release(&range);
            self.huge.remove(range);
        }
    }

    pub(super) fn protect(&mut self, range: &Range<u64>, prot: Prot) {
        for (part, piece) in self.pieces(range) {
            self.huge.insert(part, Piece { prot, ..piece });
        }
    }

    /// Moves what lies in `from` to `to` and cuts it off at the new length.
    pub(super) fn remap(&mut self, from: &Range<u64>, to: Range<u64>) {
        let pieces = self.pieces(from);
        self.unmap(from.clone());
        self.unmap(to.clone());
        for (part, piece) in pieces {
            let start = to.start.saturating_add(part.start - from.start);
            let end = to.start.saturating_add(part.end - from.start).min(to.end);
            if start < end {
                self.map_huge(start..end, piece);
            }
        }
    }

    pub(super) fn at(&self, address: u64) -> Option<&Piece> {
        self.huge.get(&address)
    }

    pub(super) fn holds_huge(&self) -> bool {
        !self.huge.is_empty()
    }

    pub(super) fn touches_huge(&self, range: &Range<u64>) -> bool {
        !range.is_empty() && self.huge.overlaps(range)
    }

    /// Does a call on this range concern huge pages? Also where they have been unmapped and nothing else is: whether
    /// that gives an error is for the engine to say.
    pub(super) fn concerns(&self, range: &Range<u64>) -> bool {
        self.touches_huge(range)
            || !range.is_empty() && self.once_huge.overlaps(range) && !self.ordinary.touches(range)
    }

    /// The huge parts of a range.
    pub(super) fn pieces(&self, range: &Range<u64>) -> Vec<(Range<u64>, Piece)> {
        if range.is_empty() {
            return Vec::new();
        }
        let inside = |(part, piece): (&Range<u64>, &Piece)| {
            (part.start.max(range.start)..part.end.min(range.end), piece.clone())
        };
        self.huge.overlapping(range).map(inside).collect()
    }

    /// What of a range to put to the engine: the whole of it, or where ordinary mappings lie in it as well, of which the
    /// engine knows nothing, the huge parts.
    pub(super) fn parts(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        if !self.ordinary.touches(range) {
            return vec![range.clone()];
        }
        let mut parts: Vec<Range<u64>> = Vec::new();
        for (part, _) in self.pieces(range) {
            match parts.last_mut() {
                Some(last) if last.end == part.start => last.end = part.end,
                _ => parts.push(part),
            }
        }
        parts
    }

    /// The mapping that begins at `address`, and all of it that is there.
    pub(super) fn mapping_at(&self, address: u64) -> Option<(MappingId, Range<u64>)> {
        let mapping = self.huge.get(&address)?.mapping;
        let end = self
            .huge
            .overlapping(address..u64::MAX)
            .take_while(|(_, piece)| piece.mapping == mapping)
            .map(|(part, _)| part.end)
            .last()?;
        Some((mapping, address..end))
    }

    /// Which mappings it came to hold a part of, and which it has no part of any more, since this was asked last.
    pub(super) fn take_changes(&mut self) -> Vec<(MappingId, bool)> {
        std::mem::take(&mut self.changes)
    }

    /// It is a copy made for a forked child: all that it holds is new to it.
    pub(super) fn begin_anew(&mut self) {
        self.counted = false;
        self.changes = self.held.keys().map(|mapping| (*mapping, true)).collect();
    }

    /// It ends: all that it holds goes.
    pub(super) fn give_up(&mut self) {
        self.changes.extend(self.held.keys().map(|mapping| (*mapping, false)));
        self.held.clear();
        self.huge.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUGE: u64 = 1 << 21;

    fn piece(mapping: u32) -> Piece {
        Piece { mapping: MappingId(mapping), prot: Prot::PROT_READ, shift: 21, private: false }
    }

    fn range(start: u64, end: u64) -> Range<u64> {
        start * HUGE..end * HUGE
    }

    #[test]
    fn a_call_concerns_huge_pages_also_where_they_were() {
        let mut memory = Memory::default();
        memory.map_huge(range(4, 8), piece(0));
        memory.unmap(range(4, 8));
        assert!(!memory.holds_huge() && memory.concerns(&range(4, 5)));
        memory.map_ordinary(range(4, 5));
        assert!(!memory.concerns(&range(4, 5)) && memory.concerns(&range(5, 6)));
    }

    #[test]
    fn beside_ordinary_mappings_only_the_huge_parts_are_put_to_the_engine() {
        let mut memory = Memory::default();
        memory.map_huge(range(1, 3), piece(0));
        memory.map_huge(range(3, 4), piece(1));
        memory.map_huge(range(6, 7), piece(2));
        assert_eq!(memory.parts(&range(2, 8)), [range(2, 8)]);
        memory.map_ordinary(range(4, 5));
        assert_eq!(memory.parts(&range(2, 8)), [range(2, 4), range(6, 7)]);
    }

    #[test]
    fn what_is_moved_and_shrunk_keeps_its_rights() {
        let mut memory = Memory::default();
        memory.map_huge(range(0, 4), piece(0));
        memory.protect(&range(1, 2), Prot::PROT_WRITE);
        memory.remap(&range(0, 4), range(10, 13));
        let rights: Vec<_> = memory
            .pieces(&(0..u64::MAX))
            .into_iter()
            .map(|(part, piece)| (part.start / HUGE, piece.prot))
            .collect();
        assert_eq!(rights, [(10, Prot::PROT_READ), (11, Prot::PROT_WRITE), (12, Prot::PROT_READ)]);
        assert_eq!(memory.mapping_at(10 * HUGE), Some((MappingId(0), range(10, 13))));
        assert_eq!(memory.at(0), None);
    }
}
