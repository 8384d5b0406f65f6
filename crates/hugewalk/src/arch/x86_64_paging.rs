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

use core::ops::RangeInclusive;

use super::paging::sealed::Sealed;
use super::x86_64::{FRAME, HOST, LARGE, NO_ACCESS, PRESENT, RawEntry};
use super::{Barrier, Entry, Geometry, Hooks, Paging};
use crate::addr::{HugeSize, TableFrame, VirtAddr};

const TYPE: u64 = 1 << 3 | 1 << 4 | PAT;
const PAT: u64 = 1 << 12;
const KEY: u64 = 0xf << 59;

/// Bytes of x86-64's smaller huge page, which an entry of a PMD table maps.
pub const PMD_SIZE: u64 = X86_64::SIZE_2M.bytes();
/// Bytes of x86-64's larger huge page, and of what a PMD table covers.
pub const PUD_SIZE: u64 = X86_64::SIZE_1G.bytes();

/// x86-64, stage 1.
///
/// # Invariants
///
/// `table` and `page` lie inside the bits of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct X86_64 {
    levels: u8,
    /// The address of a table in an entry that is present.
    table: u64,
    /// That of a page: PAT is not part of it.
    page: u64,
}

impl X86_64 {
    /// Pages of 2 MiB. Their tables can be shared.
    pub const SIZE_2M: HugeSize = HugeSize::new(0, 21, 1, 0, true);
    /// Pages of 1 GiB, whose tables are never shared.
    pub const SIZE_1G: HugeSize = HugeSize::new(1, 30, 2, 0, false);
    /// The sizes of huge page, smallest first.
    pub const SIZES: [HugeSize; 2] = [Self::SIZE_2M, Self::SIZE_1G];

    /// Four levels: 47 bits of user addresses.
    // INVARIANT: masks of `FRAME`.
    pub const FOUR_LEVELS: Self = Self { levels: 4, table: FRAME, page: FRAME & !PAT };
    /// Five levels: 56 bits.
    pub const FIVE_LEVELS: Self = Self { levels: 5, ..Self::FOUR_LEVELS };

    /// Entries of a table.
    pub const ENTRIES: usize = 512;

    /// With memory encryption. `bit` is the position of the encryption bit, which CPUID leaf 8000001Fh tells, in EBX. It
    /// lies above all frames in use. `None` if it is not between 32 and 51.
    #[must_use]
    pub const fn encrypted(self, bit: u32) -> Option<Self> {
        if bit < 32 || bit > 51 {
            return None;
        }
        // INVARIANT: as above.
        Some(Self { table: FRAME & !(1 << bit), page: FRAME & !PAT & !(1 << bit), levels: self.levels })
    }

    const fn encryption(self) -> u64 {
        FRAME & !self.table
    }

    /// What an entry says that is not present: no walk that finds a page comes here.
    #[inline(never)]
    fn decode_absent(bits: u64) -> Entry {
        let carries = is_leaf_without_access(bits);
        RawEntry::from_bits(if carries { bits & !(TYPE | KEY) | PAT } else { bits }).decode()
    }
}

const fn is_leaf_without_access(bits: u64) -> bool {
    bits & (PRESENT | NO_ACCESS | LARGE) == NO_ACCESS | LARGE
}

impl Sealed for X86_64 {}
impl Paging for X86_64 {
    const GROUPS: bool = false;
    const LEVELS: RangeInclusive<u8> = 4..=5;

    #[inline(always)]
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

    /// The last page is kept free: a system call there would return to an address that is not canonical.
    #[inline]
    fn task_size(&self) -> VirtAddr {
        VirtAddr::new((1 << self.geometry().user_bits) - 4096)
    }

    fn default_window(&self) -> VirtAddr {
        Self::FOUR_LEVELS.task_size()
    }

    #[inline(always)]
    fn has(&self, size: HugeSize) -> bool {
        size == Self::SIZE_2M || size == Self::SIZE_1G
    }

    #[inline]
    fn leaves(&self) -> &'static [HugeSize] {
        &Self::SIZES
    }

    #[inline(always)]
    fn hooks(&self) -> Hooks {
        Hooks { after_valid: Barrier::Nothing, after_gain: Barrier::Nothing, instruction_cache: false }
    }

    #[inline]
    fn encode(&self, entry: Entry, _: HugeSize, _: u16, carried: u64) -> u64 {
        let bits = RawEntry::from(entry).bits();
        match entry {
            Entry::Leaf(leaf) if leaf.is_accessible() => bits | carried & (TYPE | KEY) | self.encryption(),
            Entry::Leaf(_) => bits & !PAT | carried & (TYPE | KEY),
            Entry::Table(_) | Entry::HostTable(_) => bits | self.encryption(),
            Entry::None | Entry::Migration(_) | Entry::Hwpoison(_) | Entry::Marker | Entry::Poison => bits,
        }
    }

    #[inline]
    fn decode(&self, bits: u64, level: u8) -> Entry {
        match bits & PRESENT {
            0 if bits == 0 => Entry::None,
            0 => Self::decode_absent(bits),
            // In an entry of a base page, bit 7 is PAT and not the size. They are none of the engine's.
            _ if bits & LARGE != 0 || level == 0 => RawEntry::leaf((bits & self.page) >> 12, bits),
            _ => RawEntry::table_of((bits & self.table) >> 12, bits),
        }
    }

    #[inline(always)]
    fn next_table(&self, bits: u64, level: u8) -> Option<TableFrame> {
        // A walk waits for the address. It is the masked entry: that no lower bit is left spares it a second mask.
        // SAFETY: by the type invariants.
        unsafe { core::hint::assert_unchecked(self.table & !FRAME == 0) };
        let is_table = level > 0 && bits & (PRESENT | LARGE | HOST) == PRESENT;
        if is_table { Some(TableFrame((bits & self.table) >> 12)) } else { None }
    }

    #[inline]
    fn is_valid(&self, bits: u64) -> bool {
        bits & PRESENT != 0
    }

    fn leaf_size(&self, bits: u64, level: u8) -> Option<HugeSize> {
        let is_leaf = bits & (PRESENT | LARGE) == PRESENT | LARGE || is_leaf_without_access(bits);
        Self::SIZES.into_iter().find(|size| is_leaf && size.level() == level)
    }

    fn carried(&self, bits: u64, level: u8) -> u64 {
        if self.leaf_size(bits, level).is_some() { bits & (TYPE | KEY) } else { 0 }
    }

    #[inline(always)]
    fn ordinary(&self) -> u64 {
        0
    }

    /// Only if it translates to another place, or accesses it in another way. The processor itself asks for no break; two
    /// translations in use at a time are what the engine rules out on every processor.
    #[inline]
    fn needs_break(&self, old: u64, new: u64, level: u8) -> bool {
        let place = |bits: u64| {
            let is_leaf = self.leaf_size(bits, level).is_some();
            bits & if is_leaf { FRAME | LARGE | TYPE } else { FRAME | LARGE }
        };
        old & new & PRESENT != 0 && place(old) != place(new)
    }
}
