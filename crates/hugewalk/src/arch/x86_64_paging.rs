//! x86-64 as a [`Paging`]: the entries of [`x86_64`](super::x86_64), with what they carry.
//!
//! | bits | |
//! |---|---|
//! | 3, 4, 12 | PWT, PCD, PAT of a large leaf: the memory type; carried |
//! | 59-62 | the protection key; carried. It has no meaning in entries that are not present |
//! | one of 32-51 | the encryption bit of AMD SME and SEV, in every table and leaf that is present |
//!
//! An entry that is not present has its frame inverted. The carried bits of a leaf without access are as in a present one.
//!
//! Intel SDM volume 3A, chapter "Paging": "4-Level Paging and 5-Level Paging", "Protection Keys"; AMD APM volume 2, "Secure
//! Memory Encryption".

use super::x86_64::{FRAME, LARGE, NO_ACCESS, PRESENT, RawEntry};
use super::{Barrier, Entry, Geometry, Hooks, LeafSize, Paging};
use crate::addr::TableFrame;

const TYPE: u64 = 1 << 3 | 1 << 4 | PAT;
const PAT: u64 = 1 << 12;
const KEY: u64 = 0xf << 59;

const LEAVES: [LeafSize; 2] = [
    LeafSize { shift: 21, level: 1, group: 1, shares_tables: true },
    LeafSize { shift: 30, level: 2, group: 1, shares_tables: false },
];

/// x86-64, stage 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct X86_64 {
    levels: u8,
    encryption: u64,
}

impl X86_64 {
    /// Four levels: 47 bits of user addresses.
    pub const FOUR_LEVELS: Self = Self { levels: 4, encryption: 0 };
    /// Five levels: 56 bits.
    pub const FIVE_LEVELS: Self = Self { levels: 5, encryption: 0 };

    /// With memory encryption. `bit` is the position of the encryption bit, which CPUID leaf 8000001Fh tells, in EBX. It
    /// lies above all frames in use. `None` if it is not between 32 and 51.
    #[must_use]
    pub const fn encrypted(self, bit: u32) -> Option<Self> {
        if bit < 32 || bit > 51 { None } else { Some(Self { levels: self.levels, encryption: 1 << bit }) }
    }

    /// The entry without what it carries, and without the encryption bit.
    fn plain(self, bits: u64, level: u8) -> RawEntry {
        let carried = self.carried(bits, level);
        RawEntry::from_bits(match bits & PRESENT {
            0 if is_leaf_without_access(bits) => bits & !(TYPE | KEY) | PAT,
            0 => bits,
            // In an entry of a base page, bit 7 is PAT and not the size. They are none of the engine's.
            _ if level == 0 => (bits | LARGE) & !self.encryption,
            _ => bits & !(carried | self.encryption),
        })
    }
}

const fn is_leaf_without_access(bits: u64) -> bool {
    bits & (PRESENT | NO_ACCESS | LARGE) == NO_ACCESS | LARGE
}

impl Paging for X86_64 {
    fn geometry(&self) -> Geometry {
        let address_bits = 12 + 9 * u32::from(self.levels);
        Geometry {
            base_shift: 12,
            index_bits: 9,
            levels: self.levels,
            address_bits,
            user_bits: address_bits - 1,
        }
    }

    fn leaves(&self) -> &'static [LeafSize] {
        &LEAVES
    }

    fn hooks(&self) -> Hooks {
        Hooks { after_valid: Barrier::Nothing, after_gain: Barrier::Nothing, instruction_cache: false }
    }

    fn encode(&self, entry: Entry, _: LeafSize, _: u16, carried: u64) -> u64 {
        let bits = RawEntry::from(entry).bits();
        match entry {
            Entry::Leaf(leaf) if leaf.is_accessible() => bits | carried & (TYPE | KEY) | self.encryption,
            Entry::Leaf(_) => bits & !PAT | carried & (TYPE | KEY),
            Entry::Table(_) => bits | self.encryption,
            Entry::None | Entry::Migration(_) | Entry::Hwpoison(_) | Entry::Marker => bits,
        }
    }

    fn decode(&self, bits: u64, level: u8) -> Entry {
        self.plain(bits, level).decode()
    }

    #[inline]
    fn next_table(&self, bits: u64, level: u8) -> Option<TableFrame> {
        if level == 0 { None } else { RawEntry::from_bits(bits & !self.encryption).table() }
    }

    fn is_valid(&self, bits: u64) -> bool {
        bits & PRESENT != 0
    }

    fn leaf_size(&self, bits: u64, level: u8) -> Option<LeafSize> {
        let is_leaf = bits & (PRESENT | LARGE) == PRESENT | LARGE || is_leaf_without_access(bits);
        LEAVES.into_iter().find(|size| is_leaf && size.level == level)
    }

    fn carried(&self, bits: u64, level: u8) -> u64 {
        if self.leaf_size(bits, level).is_some() { bits & (TYPE | KEY) } else { 0 }
    }

    fn ordinary(&self) -> u64 {
        0
    }

    /// Only if it translates to another place, or accesses it in another way. The processor itself asks for no break; two
    /// translations in use at a time are what the engine rules out on every processor.
    fn needs_break(&self, old: u64, new: u64, level: u8) -> bool {
        let place = |bits: u64| {
            let is_leaf = self.leaf_size(bits, level).is_some();
            bits & if is_leaf { FRAME | LARGE | TYPE } else { FRAME | LARGE }
        };
        old & new & PRESENT != 0 && place(old) != place(new)
    }
}
