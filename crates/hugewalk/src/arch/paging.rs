//! What the tables of a processor look like: data, and pure functions on the 64 bits of an entry.

use core::fmt;

use super::{Entry, LeafFlags};
use crate::addr::{HugeFrame, PAGE_SIZE, TableFrame};

/// A size of page that the processor maps by a leaf, or by a group of leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeafSize {
    /// Base-2 logarithm of the size in bytes.
    pub shift: u32,
    /// The level of the table that holds the leaf. Tables of level 0 hold the entries of base pages.
    pub level: u8,
    /// How many entries side by side stand for the page: 1, or a power of two.
    pub group: u16,
    /// May address spaces share tables of these leaves?
    pub shares_tables: bool,
}

impl LeafSize {
    /// Size of the page in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift
    }

    /// Bytes that one entry of the group covers.
    #[must_use]
    pub const fn member_bytes(self) -> u64 {
        self.bytes() / self.group as u64
    }

    /// The bits of an entry's index that number it in its group. The group begins at the index without them.
    #[must_use]
    pub const fn group_mask(self) -> usize {
        self.group as usize - 1
    }

    /// The page around a frame.
    #[must_use]
    pub const fn page_around(self, frame: HugeFrame) -> HugeFrame {
        HugeFrame(frame.0 & !(self.bytes() / PAGE_SIZE - 1))
    }

    /// The part of `page` that a member of the group covers.
    #[must_use]
    pub const fn part(self, page: HugeFrame, member: u16) -> HugeFrame {
        HugeFrame(page.0 + member as u64 * (self.member_bytes() / PAGE_SIZE))
    }
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

impl Geometry {
    /// Base-2 logarithm of the bytes that an entry of a table of this level covers.
    #[must_use]
    pub const fn shift(self, level: u8) -> u32 {
        self.base_shift + level as u32 * self.index_bits
    }

    /// Entries of a table of this level.
    #[must_use]
    pub const fn entries(self, level: u8) -> usize {
        let left = self.address_bits - self.shift(level);
        1 << if left < self.index_bits { left } else { self.index_bits }
    }

    /// The index, in a table of this level, of the entry for an address.
    #[must_use]
    pub const fn index(self, address: u64, level: u8) -> usize {
        (address >> self.shift(level)) as usize & (self.entries(level) - 1)
    }

    /// The level of the root.
    #[must_use]
    pub const fn root(self) -> u8 {
        self.levels - 1
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
/// physical address is a frame number times [`PAGE_SIZE`], whatever the base page is.
///
/// Some bits of a leaf mean nothing to the engine and stay with it: protection keys, memory types. They are called *carried*.
pub trait Paging: Copy + fmt::Debug + Send + Sync + 'static {
    /// The shape of the tree.
    fn geometry(&self) -> Geometry;

    /// The sizes of huge page, smallest first.
    fn leaves(&self) -> &'static [LeafSize];

    /// What is due after a store to an entry.
    fn hooks(&self) -> Hooks;

    /// The bits of an entry. `size` is that of the page it stands for, and `member` numbers it in its group; a leaf's frame
    /// is that of the whole page. `carried` is what [`carried`](Self::carried) returned for the entry before, or
    /// [`ordinary`](Self::ordinary). Entries other than leaves carry nothing, and all members are the same.
    fn encode(&self, entry: Entry, size: LeafSize, member: u16, carried: u64) -> u64;

    /// What an entry of a table of this level says. The frame of a leaf that belongs to a group is that of the whole page.
    fn decode(&self, bits: u64, level: u8) -> Entry;

    /// The table that an entry points to, if any: all that a walk asks of an entry above the leaves.
    fn next_table(&self, bits: u64, level: u8) -> Option<TableFrame>;

    /// May a processor use the entry, and so write to it at any moment?
    fn is_valid(&self, bits: u64) -> bool;

    /// The size of the page that a leaf stands for. `None` for what is no leaf, and for base pages.
    fn leaf_size(&self, bits: u64, level: u8) -> Option<LeafSize>;

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

    /// The size with this base-2 logarithm, if the processor has it.
    fn leaf_of_shift(&self, shift: u32) -> Option<LeafSize> {
        self.leaves().iter().copied().find(|size| size.shift == shift)
    }
}
