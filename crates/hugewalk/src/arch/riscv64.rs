//! riscv64 page-table entries: RISC-V privileged architecture, "Sv39: Page-Based 39-bit Virtual-Memory System" and those for
//! Sv48 and Sv57; the chapters on Svnapot, Svpbmt, Svade and Svadu.
//!
//! | state | V | bits |
//! |---|---|---|
//! | none | 0 | all zero |
//! | table | 1 | R, W, X, U, A and D clear; the table's number in 10-53 |
//! | leaf | 1 | R U; W, X, A, D; 8 = uffd-wp, 9 = soft-dirty; 61-62 memory type (PBMT); 63 = a group of 16 (N); the page's number in 10-53 |
//! | leaf without access (`PROT_NONE`) | 0 | G stands for V; R clear; else as a leaf |
//! | migration, hwpoison, marker | 0 | G clear; type in 59-62; frame in 10-53; 1 = uffd-wp, 2 = soft-dirty, 6 = accessed, 7 = dirty |
//!
//! In the number of a group's page, bits 0 to 3 are 1000: that is how the processor knows its size. All members are the same.
//!
//! # Accessed and dirty
//!
//! The processor sets A and D (Svadu), or it faults where it would have to (Svade). The bits are the same either way: in the
//! second case the fault sets them. A leaf may be dirty and not writable. (The encoding of a shadow stack's page is W without
//! R, which no entry here has.)

use super::{Barrier, Entry, Geometry, Hooks, Leaf, LeafFlags, LeafSize, Migration, Paging};
use crate::addr::{HugeFrame, TableFrame};

const VALID: u64 = 1 << 0;
const READ: u64 = 1 << 1;
const WRITE: u64 = 1 << 2;
const EXECUTE: u64 = 1 << 3;
const USER: u64 = 1 << 4;
/// In an entry with V = 0, it marks a leaf without access.
const GLOBAL: u64 = 1 << 5;
const ACCESSED: u64 = 1 << 6;
const DIRTY: u64 = 1 << 7;
const UFFD_WP: u64 = 1 << 8;
const SOFT_DIRTY: u64 = 1 << 9;
const NUMBER_SHIFT: u32 = 10;
const NUMBER: u64 = ((1 << 54) - 1) & !0x3ff;
const MEMORY_TYPE: u64 = 3 << 61;
const NAPOT: u64 = 1 << 63;
/// The lower bits of the number of a group's page.
const NAPOT_MASK: u64 = 0xf << NUMBER_SHIFT;
const NAPOT_64K: u64 = 0x8 << NUMBER_SHIFT;

const SPECIAL_UFFD_WP: u64 = 1 << 1;
const SPECIAL_SOFT_DIRTY: u64 = 1 << 2;
const TYPE_SHIFT: u32 = 59;
const TYPE: u64 = 0xf << TYPE_SHIFT;
const MIGRATION_READ: u64 = 1;
const MIGRATION_WRITE: u64 = 2;
const HWPOISON: u64 = 3;
const MARKER: u64 = 4;

// Linux: arch/riscv/mm/hugetlbpage.c; ARCH_WANT_HUGE_PMD_SHARE in arch/riscv/Kconfig.
const LEAVES: [LeafSize; 3] = [
    LeafSize { shift: 16, level: 0, group: 16, shares_tables: false },
    LeafSize { shift: 21, level: 1, group: 1, shares_tables: true },
    LeafSize { shift: 30, level: 2, group: 1, shares_tables: false },
];

/// The tree of satp's mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sv {
    /// Three levels: 38 bits of user addresses.
    Sv39,
    /// Four levels: 47 bits.
    Sv48,
    /// Five levels: 56 bits.
    Sv57,
}

/// riscv64, stage 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Riscv64 {
    mode: Sv,
    svnapot: bool,
    svvptc: bool,
}

impl Riscv64 {
    /// Tables of this mode, for a processor without optional parts.
    #[must_use]
    pub const fn new(mode: Sv) -> Self {
        Self { mode, svnapot: false, svvptc: false }
    }

    /// The processor has Svnapot: pages of 64 KiB.
    #[must_use]
    pub const fn with_svnapot(self) -> Self {
        Self { svnapot: true, ..self }
    }

    /// The processor has Svvptc: it sees entries that became valid in bounded time, without a fence.
    #[must_use]
    pub const fn with_svvptc(self) -> Self {
        Self { svvptc: true, ..self }
    }
}

const fn is_leaf(bits: u64) -> bool {
    match bits & VALID {
        0 => bits & GLOBAL != 0,
        _ => bits & (READ | WRITE | EXECUTE) != 0,
    }
}

const fn frame(bits: u64) -> HugeFrame {
    HugeFrame((bits & NUMBER) >> NUMBER_SHIFT)
}

impl Paging for Riscv64 {
    fn geometry(&self) -> Geometry {
        let levels = match self.mode {
            Sv::Sv39 => 3,
            Sv::Sv48 => 4,
            Sv::Sv57 => 5,
        };
        let address_bits = 12 + 9 * u32::from(levels);
        Geometry { base_shift: 12, index_bits: 9, levels, address_bits, user_bits: address_bits - 1 }
    }

    fn leaves(&self) -> &'static [LeafSize] {
        if self.svnapot { &LEAVES } else { LEAVES.get(1..).unwrap_or(&[]) }
    }

    fn hooks(&self) -> Hooks {
        let after_valid = if self.svvptc { Barrier::Nothing } else { Barrier::LookAgain };
        Hooks { after_valid, after_gain: Barrier::LookAgain, instruction_cache: true }
    }

    fn encode(&self, entry: Entry, size: LeafSize, _: u16, carried: u64) -> u64 {
        match entry {
            Entry::None => 0,
            Entry::Table(frame) => frame.0 << NUMBER_SHIFT & NUMBER | VALID,
            Entry::Leaf(Leaf { frame, flags }) => {
                let access = flags.contains(LeafFlags::ACCESS);
                let bits = [
                    (flags.contains(LeafFlags::WRITE), WRITE),
                    (!flags.contains(LeafFlags::NO_EXECUTE), EXECUTE),
                    (flags.contains(LeafFlags::ACCESSED), ACCESSED),
                    (flags.contains(LeafFlags::DIRTY), DIRTY),
                    (flags.contains(LeafFlags::UFFD_WP), UFFD_WP),
                    (flags.contains(LeafFlags::SOFT_DIRTY), SOFT_DIRTY),
                    (size.group > 1, NAPOT | NAPOT_64K),
                ];
                let fixed = USER | if access { VALID | READ } else { GLOBAL };
                let set =
                    bits.into_iter().filter(|(is_set, _)| *is_set).fold(fixed, |bits, (_, bit)| bits | bit);
                frame.0 << NUMBER_SHIFT & NUMBER | set | carried & MEMORY_TYPE
            }
            Entry::Migration(migration) => {
                let seen = [
                    (migration.uffd_wp, SPECIAL_UFFD_WP),
                    (migration.soft_dirty, SPECIAL_SOFT_DIRTY),
                    (migration.accessed, ACCESSED),
                    (migration.dirty, DIRTY),
                ];
                let kind = if migration.write { MIGRATION_WRITE } else { MIGRATION_READ };
                let bits = kind << TYPE_SHIFT | migration.frame.0 << NUMBER_SHIFT & NUMBER;
                seen.into_iter().filter(|(is_set, _)| *is_set).fold(bits, |bits, (_, bit)| bits | bit)
            }
            Entry::Hwpoison(frame) => HWPOISON << TYPE_SHIFT | frame.0 << NUMBER_SHIFT & NUMBER,
            Entry::Marker => MARKER << TYPE_SHIFT | SPECIAL_UFFD_WP,
        }
    }

    fn decode(&self, bits: u64, level: u8) -> Entry {
        if bits == 0 {
            return Entry::None;
        }
        let has = |bit| bits & bit != 0;
        if is_leaf(bits) {
            let size = self.leaf_size(bits, level);
            let frame = size.map_or(frame(bits), |size| size.page_around(frame(bits)));
            let mut flags = LeafFlags::empty();
            flags.set(LeafFlags::ACCESS, has(VALID));
            flags.set(LeafFlags::WRITE, has(WRITE));
            flags.set(LeafFlags::NO_EXECUTE, !has(EXECUTE));
            flags.set(LeafFlags::ACCESSED, has(ACCESSED));
            flags.set(LeafFlags::DIRTY, has(DIRTY));
            flags.set(LeafFlags::UFFD_WP, has(UFFD_WP));
            flags.set(LeafFlags::SOFT_DIRTY, has(SOFT_DIRTY));
            return Entry::Leaf(Leaf { frame, flags });
        }
        if let Some(frame) = self.next_table(bits, level) {
            return Entry::Table(frame);
        }
        match (bits & TYPE) >> TYPE_SHIFT {
            // A table at level 0: the processor faults.
            _ if has(VALID) => Entry::None,
            kind @ (MIGRATION_READ | MIGRATION_WRITE) => Entry::Migration(Migration {
                frame: frame(bits),
                write: kind == MIGRATION_WRITE,
                uffd_wp: has(SPECIAL_UFFD_WP),
                soft_dirty: has(SPECIAL_SOFT_DIRTY),
                accessed: has(ACCESSED),
                dirty: has(DIRTY),
            }),
            HWPOISON => Entry::Hwpoison(frame(bits)),
            _ => Entry::Marker,
        }
    }

    #[inline]
    fn next_table(&self, bits: u64, level: u8) -> Option<TableFrame> {
        let is_table = level > 0 && bits & (VALID | READ | WRITE | EXECUTE) == VALID;
        is_table.then_some(TableFrame((bits & NUMBER) >> NUMBER_SHIFT))
    }

    fn is_valid(&self, bits: u64) -> bool {
        bits & VALID != 0
    }

    fn leaf_size(&self, bits: u64, level: u8) -> Option<LeafSize> {
        let grouped = bits & NAPOT != 0;
        let known = !grouped || bits & NAPOT_MASK == NAPOT_64K;
        let fits = |size: &LeafSize| size.level == level && (size.group > 1) == grouped;
        self.leaves().iter().copied().find(|size| is_leaf(bits) && known && fits(size))
    }

    fn carried(&self, bits: u64, level: u8) -> u64 {
        if self.leaf_size(bits, level).is_some() { bits & MEMORY_TYPE } else { 0 }
    }

    fn ordinary(&self) -> u64 {
        0
    }

    /// If it translates to another place or accesses it in another way. The processor itself asks for no break: until the
    /// fence it uses the old entry or the new one.
    fn needs_break(&self, old: u64, new: u64, _: u8) -> bool {
        const PLACE: u64 = NUMBER | MEMORY_TYPE | NAPOT;
        let is_table = |bits: u64| bits & (READ | WRITE | EXECUTE) == 0;
        old & new & VALID != 0 && ((old ^ new) & PLACE != 0 || is_table(old) != is_table(new))
    }
}
