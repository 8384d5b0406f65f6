//! arm64 page-table entries, stage 1, VMSAv8-64: Arm ARM (DDI 0487), "VMSAv8-64 descriptor formats", "Hardware management of
//! the Access flag", "Hardware management of the dirty state".
//!
//! | state | bit 0 | bits |
//! |---|---|---|
//! | none | 0 | all zero |
//! | table | 1 | 1; the table's address |
//! | table of the host's | 1 | as a table, and 55, which processors ignore |
//! | leaf | 1 | 1 at level 0; 2-4 memory type; 6 = user; 7 = read-only; 8-9 inner shareable; 10 = accessed; 11 = not global; 51 = may be written (DBM); 52 = contiguous; 53, 54 = execute never, for the kernel and for user space; 55 = dirty, 56 = soft-dirty, 58 = uffd-wp; the page's address |
//! | leaf without access (`PROT_NONE`) | 0 | as a leaf: 11 tells it from the next row |
//! | migration, hwpoison, marker, poison | 0 | 11 clear; type in 59-62; frame in 12-51; 2 = uffd-wp, 3 = soft-dirty, 5 = accessed, 6 = dirty |
//!
//! Levels are counted from the bottom here; Arm's level 3 is level 0.
//!
//! # Dirty state
//!
//! The processor has no dirty bit. With FEAT_HAFDBS and TCR_EL1.HD set, a store to a leaf that is read-only and has DBM
//! clears *read-only*. So a leaf with DBM is clean while it is read-only, and dirty when it is not. Without that, the same
//! bits do: the store faults, and the fault clears *read-only*. A leaf that loses the right to write keeps its dirtiness in
//! bit 55, which processors ignore. Linux does the same (`PTE_DBM` is `PTE_WRITE`, `PTE_DIRTY`).
//!
//! The accessed flag (AF) is set by the processor if FEAT_HAFDBS is there and TCR_EL1.HA is set; otherwise the access faults.
//!
//! # Contiguous groups
//!
//! Each member has the address of its own part of the page, and bit 52. All attributes but the accessed flag and the dirty
//! state are the same in all members ("The Contiguous bit"). So other rights need a break, in all members.
//!
//! Not supported: 52-bit physical addresses with 4 KiB and 16 KiB granules (FEAT_LPA2), permission indirection (FEAT_S1PIE),
//! stage 2. With the 64 KiB granule, bits 48 to 51 of an address lie in bits 12 to 15 (FEAT_LPA).

use core::ops::RangeInclusive;

use super::paging::sealed::Sealed;
use super::{Barrier, Entry, Geometry, Hooks, Leaf, LeafFlags, Migration, Paging};
use crate::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};

const VALID: u64 = 1 << 0;
/// A table above level 0, a page at level 0.
const TABLE_OR_PAGE: u64 = 1 << 1;
const MEMORY_TYPE: u64 = 7 << 2;
const USER: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 3 << 8;
const ACCESSED: u64 = 1 << 10;
/// In an entry that is not valid, it marks a leaf without access.
const NOT_GLOBAL: u64 = 1 << 11;
const GUARDED: u64 = 1 << 50;
const DBM: u64 = 1 << 51;
const CONTIGUOUS: u64 = 1 << 52;
const KERNEL_EXECUTE_NEVER: u64 = 1 << 53;
const USER_EXECUTE_NEVER: u64 = 1 << 54;
const DIRTY: u64 = 1 << 55;
/// In an entry that points to a table: it is the host's.
const HOST: u64 = 1 << 55;
const SOFT_DIRTY: u64 = 1 << 56;
const UFFD_WP: u64 = 1 << 58;
const CARRIED: u64 = MEMORY_TYPE | GUARDED;

const ADDRESS: u64 = ((1 << 48) - 1) & !0xfff;

const SPECIAL_UFFD_WP: u64 = 1 << 2;
const SPECIAL_SOFT_DIRTY: u64 = 1 << 3;
const SPECIAL_ACCESSED: u64 = 1 << 5;
const SPECIAL_DIRTY: u64 = 1 << 6;
const SPECIAL_FRAME: u64 = ((1 << 52) - 1) & !0xfff;
const TYPE_SHIFT: u32 = 59;
const TYPE: u64 = 0xf << TYPE_SHIFT;
const MIGRATION_READ: u64 = 1;
const MIGRATION_WRITE: u64 = 2;
const HWPOISON: u64 = 3;
const MARKER: u64 = 4;
const POISON: u64 = 5;

/// The size of base pages and tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granule {
    /// 4 KiB.
    K4,
    /// 16 KiB.
    K16,
    /// 64 KiB.
    K64,
}

impl Granule {
    const fn shift(self) -> u32 {
        match self {
            Self::K4 => 12,
            Self::K16 => 14,
            Self::K64 => 16,
        }
    }
}

const fn leaf(index: u8, shift: u8, level: u8, group_shift: u8) -> HugeSize {
    HugeSize::new(index, shift, level, group_shift, false)
}

const fn shared(index: u8, shift: u8, level: u8) -> HugeSize {
    HugeSize::new(index, shift, level, 0, true)
}

// Linux: `hugetlbpage_init()` in arch/arm64/mm/hugetlbpage.c, and ARCH_WANT_HUGE_PMD_SHARE in arch/arm64/Kconfig.
const LEAVES_4K: [HugeSize; 4] = [leaf(0, 16, 0, 4), shared(1, 21, 1), leaf(2, 25, 1, 4), leaf(3, 30, 2, 0)];
const LEAVES_16K: [HugeSize; 3] = [leaf(0, 21, 0, 7), shared(1, 25, 1), leaf(2, 30, 1, 5)];
/// The tables of 32 MiB leaves are roots: each address space has its own.
const LEAVES_16K_36: [HugeSize; 3] = [leaf(0, 21, 0, 7), leaf(1, 25, 1, 0), leaf(2, 30, 1, 5)];
const LEAVES_64K: [HugeSize; 3] = [leaf(0, 21, 0, 5), leaf(1, 29, 1, 0), leaf(2, 34, 1, 5)];

/// arm64, stage 1: the tree of user addresses, that of TTBR0_EL1.
///
/// `GRANULE` is the base-2 logarithm of the granule for a program that knows it when it is compiled ([`of`](Self::of)); the
/// shifts of its walks are constants. 0 leaves the granule to the value ([`new`](Aarch64::new)).
///
/// # Invariants
///
/// `granule` is that of `GRANULE`, unless it is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Aarch64<const GRANULE: u32 = 0> {
    granule: Granule,
    levels: u8,
    address_bits: u32,
    ordinary: u64,
}

impl Aarch64 {
    /// Tables of this granule that translate addresses of so many bits: 39 or 48 with 4 KiB, 36, 47 or 48 with 16 KiB, 42, 48
    /// or 52 with 64 KiB. `None` for any other number.
    ///
    /// Ordinary memory is that of attribute 0 in MAIR_EL1; see [`with_memory_type`](Self::with_memory_type).
    #[must_use]
    pub const fn new(granule: Granule, address_bits: u32) -> Option<Self> {
        Self::with_granule(granule, address_bits)
    }
}

impl Aarch64<12> {
    /// The sizes of pages with the 4 KiB granule: 64 KiB, 2 MiB, 32 MiB, 1 GiB.
    pub const SIZES: [HugeSize; 4] = LEAVES_4K;
}

impl<const GRANULE: u32> Aarch64<GRANULE> {
    /// As [`new`](Aarch64::new), with the granule that the type says: 12, 14 or 16. `None` also for any other.
    #[must_use]
    pub const fn of(address_bits: u32) -> Option<Self> {
        match GRANULE {
            12 => Self::with_granule(Granule::K4, address_bits),
            14 => Self::with_granule(Granule::K16, address_bits),
            16 => Self::with_granule(Granule::K64, address_bits),
            _ => None,
        }
    }

    const fn with_granule(granule: Granule, address_bits: u32) -> Option<Self> {
        match (granule, address_bits) {
            (Granule::K4, 39 | 48) | (Granule::K16, 36 | 47 | 48) | (Granule::K64, 42 | 48 | 52) => {
                let index_bits = granule.shift() - 3;
                let levels = (address_bits - granule.shift()).div_ceil(index_bits) as u8;
                // INVARIANT: the granule is that of `GRANULE`, by the two callers.
                Some(Self { granule, levels, address_bits, ordinary: 0 })
            }
            _ => None,
        }
    }

    /// The same where only the value says the granule.
    pub(super) const fn of_value(self) -> Aarch64 {
        let Self { granule, levels, address_bits, ordinary } = self;
        Aarch64 { granule, levels, address_bits, ordinary }
    }

    /// Ordinary memory is that of attribute `index` in MAIR_EL1, of which the lower three bits count.
    #[must_use]
    pub const fn with_memory_type(self, index: u8) -> Self {
        Self { ordinary: (index as u64) << 2 & MEMORY_TYPE, ..self }
    }

    const fn granule(self) -> Granule {
        match GRANULE {
            12 => Granule::K4,
            14 => Granule::K16,
            16 => Granule::K64,
            _ => self.granule,
        }
    }

    /// Where an entry has the physical address of a frame.
    const fn address(self, frame: u64) -> u64 {
        let address = frame << 12;
        match self.granule() {
            Granule::K64 => address & ADDRESS & !0xffff | (address >> 48 & 0xf) << 12,
            Granule::K4 | Granule::K16 => address & ADDRESS,
        }
    }

    const fn frame(self, bits: u64) -> u64 {
        let address = match self.granule() {
            Granule::K64 => bits & ADDRESS & !0xffff | (bits >> 12 & 0xf) << 48,
            Granule::K4 | Granule::K16 => bits & ADDRESS,
        };
        address >> 12 & !(self.base_frames() - 1)
    }

    /// Frames of a base page.
    const fn base_frames(self) -> u64 {
        1 << (self.granule().shift() - 12)
    }

    const fn is_leaf(self, bits: u64, level: u8) -> bool {
        match bits & (VALID | TABLE_OR_PAGE) {
            VALID => level > 0,
            0 | TABLE_OR_PAGE => is_leaf_without_access(bits),
            _ => level == 0,
        }
    }

    /// What an entry says that is neither a leaf nor points to a table of the engine's: no walk that finds a page comes here.
    #[inline(never)]
    fn decode_other(self, bits: u64, level: u8) -> Entry {
        let has = |bit| bits & bit != 0;
        if level > 0 && has(VALID) && has(TABLE_OR_PAGE) {
            return Entry::HostTable(TableFrame(self.frame(bits)));
        }
        let frame = HugeFrame((bits & SPECIAL_FRAME) >> 12);
        match (bits & TYPE) >> TYPE_SHIFT {
            // A block at level 0: reserved, and so not valid to the processor.
            _ if has(VALID) => Entry::None,
            kind @ (MIGRATION_READ | MIGRATION_WRITE) => Entry::Migration(Migration {
                frame,
                write: kind == MIGRATION_WRITE,
                uffd_wp: has(SPECIAL_UFFD_WP),
                soft_dirty: has(SPECIAL_SOFT_DIRTY),
                accessed: has(SPECIAL_ACCESSED),
                dirty: has(SPECIAL_DIRTY),
            }),
            HWPOISON => Entry::Hwpoison(frame),
            POISON => Entry::Poison,
            _ => Entry::Marker,
        }
    }
}

const fn is_leaf_without_access(bits: u64) -> bool {
    bits & (VALID | NOT_GLOBAL) == NOT_GLOBAL
}

impl<const GRANULE: u32> Sealed for Aarch64<GRANULE> {}
impl<const GRANULE: u32> Paging for Aarch64<GRANULE> {
    const GROUPS: bool = true;
    const LEVELS: RangeInclusive<u8> = match GRANULE {
        12 => 3..=4,
        16 => 2..=3,
        _ => 2..=4,
    };

    #[inline(always)]
    fn geometry(&self) -> Geometry {
        let (base_shift, address_bits) = (self.granule().shift(), self.address_bits);
        let index_bits = base_shift - 3;
        Geometry { base_shift, index_bits, levels: self.levels, address_bits, user_bits: address_bits }
    }

    /// With 52 bits of addresses, those above 48 are for programs that ask for them.
    fn default_window(&self) -> VirtAddr {
        VirtAddr::new(1 << self.address_bits.min(48))
    }

    #[inline]
    fn leaves(&self) -> &'static [HugeSize] {
        match (self.granule(), self.address_bits) {
            (Granule::K4, _) => &LEAVES_4K,
            (Granule::K16, 36) => &LEAVES_16K_36,
            (Granule::K16, _) => &LEAVES_16K,
            (Granule::K64, _) => &LEAVES_64K,
        }
    }

    fn hooks(&self) -> Hooks {
        Hooks { after_valid: Barrier::Store, after_gain: Barrier::LookAgain, instruction_cache: true }
    }

    fn encode(&self, entry: Entry, size: HugeSize, member: u16, carried: u64) -> u64 {
        match entry {
            Entry::None => 0,
            Entry::Table(frame) => self.address(frame.0) | VALID | TABLE_OR_PAGE,
            Entry::HostTable(frame) => self.address(frame.0) | VALID | TABLE_OR_PAGE | HOST,
            Entry::Leaf(Leaf { frame, flags }) => {
                let (written, writable) =
                    (flags.contains(LeafFlags::DIRTY), flags.contains(LeafFlags::WRITE));
                let bits = [
                    (flags.contains(LeafFlags::ACCESS), VALID),
                    (size.level() == 0, TABLE_OR_PAGE),
                    (!(writable && written), READ_ONLY),
                    (writable, DBM),
                    (flags.contains(LeafFlags::ACCESSED), ACCESSED),
                    (written, DIRTY),
                    (flags.contains(LeafFlags::SOFT_DIRTY), SOFT_DIRTY),
                    (flags.contains(LeafFlags::UFFD_WP), UFFD_WP),
                    (flags.contains(LeafFlags::NO_EXECUTE), USER_EXECUTE_NEVER),
                    (size.group() > 1, CONTIGUOUS),
                ];
                let fixed = USER | INNER_SHAREABLE | NOT_GLOBAL | KERNEL_EXECUTE_NEVER;
                let set =
                    bits.into_iter().filter(|(is_set, _)| *is_set).fold(fixed, |bits, (_, bit)| bits | bit);
                self.address(size.part(frame, member).0) | set | carried & CARRIED
            }
            Entry::Migration(migration) => {
                let seen = [
                    (migration.uffd_wp, SPECIAL_UFFD_WP),
                    (migration.soft_dirty, SPECIAL_SOFT_DIRTY),
                    (migration.accessed, SPECIAL_ACCESSED),
                    (migration.dirty, SPECIAL_DIRTY),
                ];
                let kind = if migration.write { MIGRATION_WRITE } else { MIGRATION_READ };
                let bits = kind << TYPE_SHIFT | (migration.frame.0 << 12) & SPECIAL_FRAME;
                seen.into_iter().filter(|(is_set, _)| *is_set).fold(bits, |bits, (_, bit)| bits | bit)
            }
            Entry::Hwpoison(frame) => HWPOISON << TYPE_SHIFT | (frame.0 << 12) & SPECIAL_FRAME,
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
        if self.is_leaf(bits, level) {
            let part = HugeFrame(self.frame(bits));
            let frame = self.leaf_size(bits, level).map_or(part, |size| size.page_around(part));
            let mut flags = LeafFlags::empty();
            flags.set(LeafFlags::ACCESS, has(VALID));
            flags.set(LeafFlags::WRITE, has(DBM));
            flags.set(LeafFlags::ACCESSED, has(ACCESSED));
            flags.set(LeafFlags::DIRTY, has(DIRTY) || has(DBM) && !has(READ_ONLY));
            flags.set(LeafFlags::SOFT_DIRTY, has(SOFT_DIRTY));
            flags.set(LeafFlags::UFFD_WP, has(UFFD_WP));
            flags.set(LeafFlags::NO_EXECUTE, has(USER_EXECUTE_NEVER));
            return Entry::Leaf(Leaf { frame, flags });
        }
        if let Some(frame) = self.next_table(bits, level) {
            return Entry::Table(frame);
        }
        self.decode_other(bits, level)
    }

    #[inline(always)]
    fn next_table(&self, bits: u64, level: u8) -> Option<TableFrame> {
        let both = VALID | TABLE_OR_PAGE;
        (level > 0 && bits & (both | HOST) == both).then(|| TableFrame(self.frame(bits)))
    }

    #[inline]
    fn is_valid(&self, bits: u64) -> bool {
        bits & VALID != 0
    }

    #[inline]
    fn leaf_size(&self, bits: u64, level: u8) -> Option<HugeSize> {
        if !self.is_leaf(bits, level) {
            return None;
        }
        let grouped = bits & CONTIGUOUS != 0;
        let fits = |size: &HugeSize| size.level() == level && (size.group() > 1) == grouped;
        self.leaves().iter().copied().find(fits)
    }

    fn carried(&self, bits: u64, level: u8) -> u64 {
        if self.leaf_size(bits, level).is_some() { bits & CARRIED } else { 0 }
    }

    fn ordinary(&self) -> u64 {
        self.ordinary
    }

    /// "Using break-before-make when updating translation table entries": a break is needed when the size, the contiguous bit, the address, the memory type, the shareability
    /// or *not global* change, and when the rights of a contiguous group do. The accessed flag, the dirty state and
    /// software's bits may always change.
    fn needs_break(&self, old: u64, new: u64, level: u8) -> bool {
        const USE: u64 = ACCESSED | DIRTY | SOFT_DIRTY | UFFD_WP;
        const RIGHTS: u64 = DBM | READ_ONLY | KERNEL_EXECUTE_NEVER | USER_EXECUTE_NEVER;
        if old & new & VALID == 0 {
            return false;
        }
        let grouped = self.leaf_size(old, level).is_some_and(|size| size.group() > 1);
        // With DBM, *read-only* is dirty state.
        let dirty_state = if old & new & DBM != 0 { READ_ONLY } else { 0 };
        let may_change = USE | if grouped { dirty_state } else { RIGHTS };
        (old ^ new) & !may_change != 0
    }
}
