//! What the tables of a processor look like: data, and pure functions on the 64 bits of an entry.

use core::fmt;
use core::ops::{Range, RangeInclusive};

use super::{Entry, LeafFlags};
use crate::addr::{HugeSize, TableFrame, VirtAddr};

pub(super) mod sealed {
    pub trait Sealed {}
}

/// The shape of the tree of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Base-2 logarithm of the base page, which is also the size of a table page.
    pub base_shift: u32,
    /// Bits of an address that index a table.
    pub index_bits: u32,
    /// Levels of tables. The root's level is one less.
    pub levels: u8,
    /// Bits of an address that the tree translates. The root's index has what the levels below leave of them.
    pub address_bits: u32,
    /// Bits of the addresses that user space has: it begins at 0. x86-64 and riscv64 keep the upper half of the tree for the
    /// kernel; arm64 has a second tree for that.
    pub user_bits: u32,
}

/// The empty entry, of every format: so a page of zeroes is a table without entries.
pub(crate) const EMPTY: u64 = 0;

/// Repeats a block for each level of the deepest tree of any format, that of the root first. It is a loop that is unrolled here,
/// because the shifts of a walk are to be constants where the format has constants. So what a block does at a level goes by the
/// level's own number, and never by what the tree says of its root.
macro_rules! for_each_level {
    ($at:ident $block:block) => {
        for_each_level!($at $block 4 3 2 1 0);
    };
    ($at:ident $block:block $($level:literal)*) => {
        $({
            let $at: u8 = $level;
            $block
        })*
    };
}
pub(crate) use for_each_level;

// As many levels as are repeated there.
const _: () = assert!(*<super::AnyPaging as Paging>::LEVELS.end() == 5);

impl Geometry {
    /// The level of the tables whose entries may point to a table of base pages: the host's.
    pub(crate) const ABOVE_BASE_PAGES: u8 = 1;

    /// What one table of base pages translates, around an address.
    pub(crate) const fn base_block(self, address: VirtAddr) -> Range<VirtAddr> {
        self.table_range(address, Self::ABOVE_BASE_PAGES - 1)
    }

    /// Base-2 logarithm of the bytes that an entry of a table of this level covers.
    #[must_use]
    #[inline]
    pub const fn shift(self, level: u8) -> u32 {
        self.base_shift + level as u32 * self.index_bits
    }

    /// Entries of a table of this level.
    #[must_use]
    #[inline]
    pub const fn entries(self, level: u8) -> usize {
        let left = self.address_bits - self.shift(level);
        1 << if left < self.index_bits { left } else { self.index_bits }
    }

    /// The index, in a table of this level, of the entry for an address.
    #[must_use]
    #[inline]
    pub const fn index(self, address: u64, level: u8) -> usize {
        (address >> self.shift(level)) as usize & (self.entries(level) - 1)
    }

    /// The level of the root.
    #[must_use]
    #[inline]
    pub const fn root(self) -> u8 {
        self.levels - 1
    }

    /// Bytes of a base page, and of a table.
    #[must_use]
    #[inline]
    pub const fn base_bytes(self) -> u64 {
        1 << self.base_shift
    }

    /// Is an address, or a length, a multiple of a base page?
    #[must_use]
    #[inline]
    pub const fn is_aligned(self, value: u64) -> bool {
        value & (self.base_bytes() - 1) == 0
    }

    /// A length, rounded up to base pages. `None` if that does not fit.
    #[must_use]
    #[inline]
    pub const fn round_up(self, length: u64) -> Option<u64> {
        length.checked_next_multiple_of(self.base_bytes())
    }

    /// Bytes of the range that a table of this level translates. That of a root may end above all addresses.
    #[must_use]
    #[inline]
    pub const fn table_bytes(self, level: u8) -> u64 {
        1 << (self.shift(level) + self.index_bits)
    }

    /// The range that the table of this level around an address translates. The end saturates at the end of the numbers.
    #[must_use]
    #[inline]
    pub const fn table_range(self, address: VirtAddr, level: u8) -> Range<VirtAddr> {
        let start = address.as_u64() & !(self.table_bytes(level) - 1);
        VirtAddr::new(start)..VirtAddr::new(start.saturating_add(self.table_bytes(level)))
    }

    /// The index, in a table of this level, of the entry for an address below [`Paging::task_size`]. In a root it is that of
    /// [`index`](Self::index), though the mask is that of a whole table.
    #[inline]
    pub(crate) const fn index_below(self, address: VirtAddr, level: u8) -> usize {
        (address.as_u64() >> self.shift(level)) as usize & (self.table_entries() - 1)
    }

    /// Entries that a table page has room for.
    #[inline]
    pub(crate) const fn table_entries(self) -> usize {
        1 << self.index_bits
    }
}

/// What a program has to do so that the processors' walks of the tables see a store. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Barrier {
    /// Nothing.
    Nothing,
    /// Order the store before the walks of all processors, and what follows after it: `dsb ishst; isb`.
    Store,
    /// Make this processor look again, for one address: `sfence.vma`; on arm64 `dsb ishst; tlbi; dsb ish; isb`.
    LookAgain,
}

/// What is due after a store to an entry. Flushes for what was taken away are not among it: they are always due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hooks {
    /// After an entry that was not valid became valid.
    pub after_valid: Barrier,
    /// After a valid entry has got more rights.
    pub after_gain: Barrier,
    /// Must the instruction cache be told of a page that can be executed, before it is mapped?
    pub instruction_cache: bool,
}

/// The tables of a processor: their shape, and what their entries mean.
///
/// A value of it describes one system: levels, address width and what is optional in the processor are its fields. All
/// functions are pure, and total: any 64 bits decode to something.
///
/// Entries are 64 bits. The *level* of a table counts from the bottom; tables of level 0 hold the entries of base pages. A
/// physical address is a frame number times [`FRAME_BYTES`](crate::addr::FRAME_BYTES), whatever the base page is.
///
/// Some bits of a leaf mean nothing to the engine and stay with it: protection keys, memory types. They are called *carried*.
/// They go with the leaf when it is copied for a child or its mapping moves, and are gone when it becomes an entry of another kind,
/// such as one under migration.
///
/// Only this crate implements it: what an entry is taken for decides which memory the engine touches.
pub trait Paging: sealed::Sealed + Copy + Eq + fmt::Debug + Send + Sync + 'static {
    /// Are there sizes with groups? `false` leaves all code for them out.
    const GROUPS: bool;

    /// The fewest levels that a tree of this format has, and the most. Walks are compiled for them: a level that all trees
    /// have costs no question.
    const LEVELS: RangeInclusive<u8>;

    /// The shape of the tree.
    fn geometry(&self) -> Geometry;

    /// The first address that user mappings cannot have. Linux: `TASK_SIZE_MAX`.
    #[inline]
    fn task_size(&self) -> VirtAddr {
        VirtAddr::new(1 << self.geometry().user_bits)
    }

    /// The first address that user mappings get only on request. Programs that store something in the upper bits of
    /// pointers expect addresses of 47 or 48 bits, whatever the machine has.
    ///
    /// Linux: `DEFAULT_MAP_WINDOW`.
    fn default_window(&self) -> VirtAddr {
        self.task_size()
    }

    /// The sizes of huge page, smallest first.
    fn leaves(&self) -> &'static [HugeSize];

    /// What is due after a store to an entry.
    fn hooks(&self) -> Hooks;

    /// The bits of an entry. `size` is that of the page it stands for, and `member` numbers it in its group; a leaf's frame
    /// is that of the whole page. `carried` is what [`carried`](Self::carried) returned for the entry before, or
    /// [`ordinary`](Self::ordinary). Entries other than leaves carry nothing, and all members are the same.
    fn encode(&self, entry: Entry, size: HugeSize, member: u16, carried: u64) -> u64;

    /// What an entry of a table of this level says. The frame of a leaf that belongs to a group is that of the whole page.
    fn decode(&self, bits: u64, level: u8) -> Entry;

    /// The table of the engine's that an entry points to, if any: all that a walk asks of an entry above the leaves.
    fn next_table(&self, bits: u64, level: u8) -> Option<TableFrame>;

    /// May a processor use the entry, and so write to it at any moment?
    fn is_valid(&self, bits: u64) -> bool;

    /// The size of the page that a leaf stands for. `None` for what is no leaf, and for base pages.
    fn leaf_size(&self, bits: u64, level: u8) -> Option<HugeSize>;

    /// The bits of a leaf that mean nothing to the engine and stay with it. 0 for what is no leaf.
    fn carried(&self, bits: u64, level: u8) -> u64;

    /// Those of a page of ordinary memory.
    fn ordinary(&self) -> u64;

    /// Must `old` be broken before `new` is stored: be made an entry that allows no access, in all members, and be flushed?
    /// Both are for the same address, at the same level.
    fn needs_break(&self, old: u64, new: u64, level: u8) -> bool;

    /// The leaf with other flags; the page, and what is carried, stay. Anything else stays as it is. `index` is that of the
    /// entry in its table.
    fn change_flags(
        &self,
        bits: u64,
        level: u8,
        index: usize,
        next: impl FnOnce(LeafFlags) -> LeafFlags,
    ) -> u64 {
        match (self.decode(bits, level), self.leaf_size(bits, level)) {
            (Entry::Leaf(leaf), Some(size)) => {
                let entry = Entry::Leaf(super::Leaf { frame: leaf.frame, flags: next(leaf.flags) });
                let member = (index & size.group_mask()) as u16;
                self.encode(entry, size, member, self.carried(bits, level))
            }
            _ => bits,
        }
    }

    /// Is it one of this format's sizes?
    #[inline]
    fn has(&self, size: HugeSize) -> bool {
        self.leaves().get(size.index()) == Some(&size)
    }

    /// The size that flags of `mmap`, `memfd_create` or `shmget` name in bits 26 to 31: `MAP_HUGE_64KB` and so on. `None` if the
    /// processor has no such size, and also if the flags name none: then the host has a default.
    ///
    /// Linux: `hstate_sizelog()` in include/linux/hugetlb.h; `MAP_HUGE_SHIFT` and `MAP_HUGE_MASK` in
    /// include/uapi/asm-generic/hugetlb_encode.h.
    fn of_map_flags(&self, flags: u32) -> Option<HugeSize> {
        self.of_shift(flags >> 26 & 0x3f)
    }

    /// The size of pages of `1 << shift` bytes, if the processor has it.
    fn of_shift(&self, shift: u32) -> Option<HugeSize> {
        self.leaves().iter().copied().find(|size| size.shift() == shift)
    }
}
