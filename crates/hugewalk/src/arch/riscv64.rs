//! riscv64 page-table entries: RISC-V privileged architecture, "Sv39: Page-Based 39-bit Virtual-Memory System" and those for
//! Sv48 and Sv57; the chapters on Svnapot, Svpbmt, Svade and Svadu.
//!
//! | state | V | bits |
//! |---|---|---|
//! | none | 0 | all zero |
//! | table | 1 | R, W, X, U, A and D clear; the table's number in 10-53 |
//! | table of the host's | 1 | as a table, and 8, which is left to software |
//! | leaf | 1 | R U; W, X, A, D; 8 = uffd-wp, 9 = soft-dirty; 61-62 memory type (PBMT); 63 = a group of 16 (N); the page's number in 10-53 |
//! | leaf without access (`PROT_NONE`) | 0 | G stands for V; R clear; else as a leaf |
//! | migration, hwpoison, marker, poison | 0 | G clear; type in 59-62; frame in 10-53; 1 = uffd-wp, 2 = soft-dirty, 6 = accessed, 7 = dirty |
//!
//! In the number of a group's page, bits 0 to 3 are 1000: that is how the processor knows its size. All members are the same.
//!
//! # Accessed and dirty
//!
//! The processor sets A and D (Svadu), or it faults where it would have to (Svade). The bits are the same either way: in the
//! second case the fault sets them. A leaf may be dirty and not writable. (The encoding of a shadow stack's page is W without
//! R, which no entry here has.)

use core::ops::RangeInclusive;

use super::paging::sealed::Sealed;
use super::{Barrier, Entry, Geometry, Hooks, Leaf, LeafFlags, Migration, Paging};
use crate::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};

const INDEX_BITS: u32 = 9;

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
/// In an entry that points to a table: it is the host's.
const HOST: u64 = 1 << 8;
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
const POISON: u64 = 5;

// Linux: arch/riscv/mm/hugetlbpage.c; ARCH_WANT_HUGE_PMD_SHARE in arch/riscv/Kconfig.
const SVNAPOT: [HugeSize; 3] =
    [HugeSize::new(0, 16, 0, 4, false), HugeSize::new(1, 21, 1, 0, true), HugeSize::new(2, 30, 2, 0, false)];
const LEAVES: [HugeSize; 2] = [HugeSize::new(0, 21, 1, 0, true), HugeSize::new(1, 30, 2, 0, false)];

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

    /// The bits of a leaf's number that number frames within the page.
    #[inline]
    const fn bits_within(self, bits: u64, level: u8) -> u64 {
        match level {
            0 if self.svnapot && bits & (NAPOT | NAPOT_MASK) == NAPOT | NAPOT_64K => {
                NAPOT_MASK >> NUMBER_SHIFT
            }
            1 | 2 if bits & NAPOT == 0 => (1 << (INDEX_BITS * level as u32)) - 1,
            _ => 0,
        }
    }

    /// What an entry says that is neither a leaf nor points to a table of the engine's: no walk that finds a page comes here.
    #[inline(never)]
    fn decode_other(bits: u64, level: u8) -> Entry {
        let has = |bit| bits & bit != 0;
        if level > 0 && has(VALID) {
            return Entry::HostTable(TableFrame((bits & NUMBER) >> NUMBER_SHIFT));
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
            POISON => Entry::Poison,
            _ => Entry::Marker,
        }
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

impl Sealed for Riscv64 {}
impl Paging for Riscv64 {
    const GROUPS: bool = true;
    const LEVELS: RangeInclusive<u8> = 3..=5;

    #[inline(always)]
    fn geometry(&self) -> Geometry {
        let levels = match self.mode {
            Sv::Sv39 => 3,
            Sv::Sv48 => 4,
            Sv::Sv57 => 5,
        };
        let address_bits = 12 + INDEX_BITS * u32::from(levels);
        Geometry { base_shift: 12, index_bits: INDEX_BITS, levels, address_bits, user_bits: address_bits - 1 }
    }

    /// With Sv57, addresses beyond those of Sv48 are for programs that ask for them.
    fn default_window(&self) -> VirtAddr {
        VirtAddr::new(1 << self.geometry().user_bits.min(47))
    }

    #[inline]
    fn leaves(&self) -> &'static [HugeSize] {
        if self.svnapot { &SVNAPOT } else { &LEAVES }
    }

    fn hooks(&self) -> Hooks {
        let after_valid = if self.svvptc { Barrier::Nothing } else { Barrier::LookAgain };
        Hooks { after_valid, after_gain: Barrier::LookAgain, instruction_cache: true }
    }

    fn encode(&self, entry: Entry, size: HugeSize, _: u16, carried: u64) -> u64 {
        match entry {
            Entry::None => 0,
            Entry::Table(frame) => frame.0 << NUMBER_SHIFT & NUMBER | VALID,
            Entry::HostTable(frame) => frame.0 << NUMBER_SHIFT & NUMBER | VALID | HOST,
            Entry::Leaf(Leaf { frame, flags }) => {
                let access = flags.contains(LeafFlags::ACCESS);
                let bits = [
                    (flags.contains(LeafFlags::WRITE), WRITE),
                    (!flags.contains(LeafFlags::NO_EXECUTE), EXECUTE),
                    (flags.contains(LeafFlags::ACCESSED), ACCESSED),
                    (flags.contains(LeafFlags::DIRTY), DIRTY),
                    (flags.contains(LeafFlags::UFFD_WP), UFFD_WP),
                    (flags.contains(LeafFlags::SOFT_DIRTY), SOFT_DIRTY),
                    (size.group() > 1, NAPOT | NAPOT_64K),
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
            Entry::Poison => POISON << TYPE_SHIFT,
        }
    }

    #[inline]
    fn decode(&self, bits: u64, level: u8) -> Entry {
        if bits == 0 {
            return Entry::None;
        }
        let has = |bit| bits & bit != 0;
        if is_leaf(bits) {
            let frame = HugeFrame(frame(bits).0 & !self.bits_within(bits, level));
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
        Self::decode_other(bits, level)
    }

    #[inline(always)]
    fn next_table(&self, bits: u64, level: u8) -> Option<TableFrame> {
        let is_table = level > 0 && bits & (VALID | READ | WRITE | EXECUTE | HOST) == VALID;
        is_table.then_some(TableFrame((bits & NUMBER) >> NUMBER_SHIFT))
    }

    #[inline]
    fn is_valid(&self, bits: u64) -> bool {
        bits & VALID != 0
    }

    #[inline]
    fn leaf_size(&self, bits: u64, level: u8) -> Option<HugeSize> {
        let place = match level {
            0 if self.svnapot && bits & (NAPOT | NAPOT_MASK) == NAPOT | NAPOT_64K => 0,
            1 | 2 if bits & NAPOT == 0 => usize::from(level) - 1 + usize::from(self.svnapot),
            _ => return None,
        };
        if is_leaf(bits) { self.leaves().get(place).copied() } else { None }
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
