//! What a word of a page says: whose it is, where it belongs, who wrote it, and when.

use core::fmt;

/// Threads that write, at most: each has a word of its own in every page.
pub(crate) const WRITERS: usize = 8;
/// Pages of a mapping that are touched.
pub(crate) const PAGES: usize = 8;

/// The value of a word. Zero is no tag: a page nobody has written to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    /// Written through a private mapping, by the process `owner`; else to the file `owner`.
    pub(crate) private: bool,
    pub(crate) owner: u32,
    pub(crate) page: usize,
    pub(crate) writer: usize,
    /// Counts the stores of the writer, whichever words they went to.
    pub(crate) sequence: u64,
}

impl Tag {
    pub(crate) fn encode(self) -> u64 {
        assert!(self.owner < 1 << 22 && self.sequence < 1 << 32, "run for too long: {self:?}");
        u64::from(self.private) << 63
            | u64::from(self.owner) << 41
            | (self.page as u64) << 36
            | (self.writer as u64) << 32
            | self.sequence
    }

    pub(crate) fn decode(value: u64) -> Option<Self> {
        (value != 0).then_some(Self {
            private: value >> 63 != 0,
            owner: (value >> 41) as u32 & ((1 << 22) - 1),
            page: (value >> 36) as usize & 31,
            writer: (value >> 32) as usize & 15,
            sequence: value & u64::from(u32::MAX),
        })
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, page, writer, sequence, .. } = self;
        let whose = if self.private { "process" } else { "file" };
        write!(f, "{whose} {owner} page {page} writer {writer} sequence {sequence}")
    }
}

/// Random numbers: splitmix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed.wrapping_add(stream.wrapping_mul(0xa076_1d64_78bd_642f)));
        random.next();
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn one_in(&mut self, odds: usize) -> bool {
        self.below(odds) == 0
    }
}
