//! The formats of tables that the machine's processors can have: x86-64, for the matrix of protocols, and arm64 with contiguous groups.
//!
//! Both have tables of 512 entries, four levels of them, and pages that the tables above the lowest level map: what a place in a table
//! is does not depend on the format. What an entry says does.

use hugewalk::addr::{HugeSize, TableFrame};
use hugewalk::arch::{self, Aarch64, Entry, Granule, Leaf, Paging, X86_64};

use super::world;

/// A format of tables that a machine of the lab can have.
pub trait Format: Paging {
    /// The format.
    const FORMAT: Self;
    /// Base-2 logarithm of the bytes of the pages that scenarios map.
    const PAGE_SHIFT: u32;

    /// The size of these pages.
    #[must_use]
    fn size() -> HugeSize {
        Self::FORMAT.of_shift(Self::PAGE_SHIFT).expect("the format has it")
    }
}

impl Format for X86_64 {
    const FORMAT: Self = Self::FOUR_LEVELS;
    const PAGE_SHIFT: u32 = 21;
}

/// With 4 KiB granules, and pages of 32 MiB: sixteen entries side by side, of 2 MiB each, stand for one.
impl Format for Aarch64 {
    const FORMAT: Self = match Self::new(Granule::K4, 48) {
        Some(paging) => paging,
        None => panic!("4 KiB granules translate 48 bits"),
    };
    const PAGE_SHIFT: u32 = 25;
}

/// The level of the tables whose entries map pages.
const LEAVES: u8 = 1;

/// Base-2 logarithm of the bytes that an entry of these tables translates.
pub(in crate::lab) const MEMBER_SHIFT: u32 = 21;

/// arm64: the access flag.
const ACCESSED: u64 = 1 << 10;
/// arm64: in an entry that may be written by hardware, not dirty.
const READ_ONLY: u64 = 1 << 7;

/// An entry of a table, in the format of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lab) struct RawEntry(u64);

impl RawEntry {
    pub(in crate::lab) const NONE: Self = Self(0);

    pub(in crate::lab) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(in crate::lab) fn bits(self) -> u64 {
        self.0
    }

    /// The entry of a table of leaves, or above.
    pub(in crate::lab) fn decode(self) -> Entry {
        if world().groups() {
            return Aarch64::FORMAT.decode(self.0, LEAVES);
        }
        arch::RawEntry::from_bits(self.0).decode()
    }

    /// The table that it points to.
    pub(in crate::lab) fn table(self) -> Option<TableFrame> {
        if world().groups() {
            return Aarch64::FORMAT.next_table(self.0, LEAVES);
        }
        arch::RawEntry::from_bits(self.0).table()
    }

    /// What a processor makes of a leaf that it uses. It sets accessed and dirty bits by itself: on arm64 it has FEAT_HAFDBS.
    pub(in crate::lab) fn used(self, marked: Leaf, stores: bool) -> Self {
        if world().groups() {
            return Self((self.0 | ACCESSED) & if stores { !READ_ONLY } else { !0 });
        }
        Self(arch::RawEntry::from(Entry::Leaf(marked)).bits() | self.0)
    }

    /// Base-2 logarithm of the bytes that a processor may keep as one translation, if it has read this leaf.
    pub(in crate::lab) fn span(self) -> u32 {
        let size = if world().groups() { Aarch64::FORMAT.leaf_size(self.0, LEAVES) } else { None };
        size.map_or(MEMBER_SHIFT, HugeSize::shift)
    }
}

impl From<Entry> for RawEntry {
    fn from(entry: Entry) -> Self {
        if world().groups() {
            let paging = Aarch64::FORMAT;
            return Self(paging.encode(entry, Aarch64::size(), 0, paging.ordinary()));
        }
        Self(arch::RawEntry::from(entry).bits())
    }
}
