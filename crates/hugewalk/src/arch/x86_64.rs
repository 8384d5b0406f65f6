//! x86-64 page-table entries: Intel SDM volume 3A, section 4.5; AMD APM volume 2, section 5.3.
//!
//! | state | P | bits |
//! |---|---|---|
//! | none | 0 | all zero |
//! | table | 1 | RW US A, frame in 12-51 |
//! | table of the host's | 1 | as a table, and 9, which processors ignore |
//! | leaf | 1 | PSE; RW, A, D, 10 = uffd-wp, 11 = soft-dirty, 58 = dirty without RW, NX, frame in 21-51 or 30-51 |
//! | leaf without access (`PROT_NONE`) | 0 | G and PSE stand for P; frame bits inverted; else as a leaf |
//! | migration, hwpoison, marker, poison | 0 | type in 59-62, frame bits inverted, 2 = uffd-wp, 3 = soft-dirty, 5 = A, 6 = D |
//!
//! The frame bits of an entry that is not present are inverted, so that a processor that speculates past P
//! = 0 does not reach memory (the L1 terminal fault). Linux does the same, in its own encoding.

//! With CET, an entry with P = 1, RW = 0 and D = 1 maps a page of a shadow stack: the processor stores
//! return addresses there. So a dirty leaf without the right to write keeps its dirtiness in bit 58, which
//! processors ignore, and has D clear. When it gets the right to write back, D is set again. Linux does the
//! same (`_PAGE_SAVED_DIRTY`).

use core::fmt;

use bitflags::bitflags;

use crate::addr::{HugeFrame, TableFrame};

pub(super) const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
pub(super) const LARGE: u64 = 1 << 7;
/// In an entry with P = 0, the global bit marks a leaf without access.
pub(super) const NO_ACCESS: u64 = 1 << 8;
/// In an entry that points to a table: it is the host's.
pub(super) const HOST: u64 = 1 << 9;
const UFFD_WP: u64 = 1 << 10;
const SOFT_DIRTY: u64 = 1 << 11;
/// Dirty, in a leaf without the right to write.
const SAVED_DIRTY: u64 = DIRTY << SAVED_DIRTY_SHIFT;
const SAVED_DIRTY_SHIFT: u32 = 52;
const NO_EXECUTE: u64 = 1 << 63;
pub(super) const FRAME: u64 = ((1 << 52) - 1) & !0xfff;

const SPECIAL_UFFD_WP: u64 = 1 << 2;
const SPECIAL_SOFT_DIRTY: u64 = 1 << 3;
const TYPE_SHIFT: u32 = 59;
const TYPE: u64 = 0xf << TYPE_SHIFT;
const MIGRATION_READ: u64 = 1;
const MIGRATION_WRITE: u64 = 2;
const HWPOISON: u64 = 3;
const MARKER: u64 = 4;
const POISON: u64 = 5;

bitflags! {
    /// What a leaf allows, and what accesses to its page have been seen.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct LeafFlags: u64 {
        /// The processor may read. Without it the leaf is present, but every access faults (`PROT_NONE`).
        const ACCESS = PRESENT;
        /// The processor may write.
        const WRITE = WRITE;
        /// It has been accessed ("young").
        const ACCESSED = ACCESSED;
        /// It has been written.
        const DIRTY = DIRTY;
        /// Write-protected by userfaultfd.
        const UFFD_WP = UFFD_WP;
        /// Written since soft-dirty was last cleared.
        const SOFT_DIRTY = SOFT_DIRTY;
        /// The processor must not fetch instructions.
        const NO_EXECUTE = NO_EXECUTE;
    }
}

/// A present leaf: a huge page is mapped here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leaf {
    /// The page.
    pub frame: HugeFrame,
    /// Its rights, and the accesses that have been seen.
    pub flags: LeafFlags,
}

impl Leaf {
    /// May the processor write through it?
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.flags.contains(LeafFlags::ACCESS.union(LeafFlags::WRITE))
    }

    /// May the processor read through it?
    #[must_use]
    pub const fn is_accessible(self) -> bool {
        self.flags.contains(LeafFlags::ACCESS)
    }

    /// Has it been accessed since that was last cleared?
    #[must_use]
    pub const fn is_accessed(self) -> bool {
        self.flags.contains(LeafFlags::ACCESSED)
    }

    /// Has the page been written?
    #[must_use]
    pub const fn is_dirty(self) -> bool {
        self.flags.contains(LeafFlags::DIRTY)
    }

    /// Has it been written since soft-dirty was last cleared?
    #[must_use]
    pub const fn is_soft_dirty(self) -> bool {
        self.flags.contains(LeafFlags::SOFT_DIRTY)
    }

    /// Is it write-protected by userfaultfd?
    #[must_use]
    pub const fn is_protected(self) -> bool {
        self.flags.contains(LeafFlags::UFFD_WP)
    }

    /// The same leaf with `flags` added.
    #[must_use]
    pub const fn with(self, flags: LeafFlags) -> Self {
        Self { frame: self.frame, flags: self.flags.union(flags) }
    }

    /// The same leaf with `flags` taken away.
    #[must_use]
    pub const fn without(self, flags: LeafFlags) -> Self {
        Self { frame: self.frame, flags: self.flags.difference(flags) }
    }
}

/// A page under migration. Faults wait until it has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Migration {
    /// Where the page was.
    pub frame: HugeFrame,
    /// Was the leaf writable?
    pub write: bool,
    /// Was it write-protected by userfaultfd?
    pub uffd_wp: bool,
    /// Was it soft-dirty?
    pub soft_dirty: bool,
    /// Had it been accessed?
    pub accessed: bool,
    /// Had it been written?
    pub dirty: bool,
}

/// What an entry says. Linux: `pte_t` and the predicates on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// Nothing.
    None,
    /// The next table down.
    Table(TableFrame),
    /// A table of the host's, with entries of base pages. Processors walk it. The engine does not: no walk of its own goes
    /// on from here, and no operation of its own changes the entry. See [`base`](crate::base).
    HostTable(TableFrame),
    /// A huge page.
    Leaf(Leaf),
    /// A huge page that is being moved.
    Migration(Migration),
    /// A huge page that memory failure took away.
    Hwpoison(HugeFrame),
    /// No page, but a userfaultfd write protection to remember (`PTE_MARKER_UFFD_WP`).
    Marker,
    /// No page: a handler has said that the contents are lost (`PTE_MARKER_POISONED`). Every access fails.
    Poison,
}

impl Entry {
    /// Is it empty?
    #[must_use]
    pub const fn is_none(self) -> bool {
        matches!(self, Self::None)
    }

    /// Is there no page, so that one may be mapped? A write protection may be remembered.
    #[must_use]
    pub const fn is_free(self) -> bool {
        matches!(self, Self::None | Self::Marker)
    }

    /// May a handler of userfaultfd bring a page here? Also where one has said that the contents are lost. Linux:
    /// `huge_pte_none_mostly()`.
    #[must_use]
    pub const fn may_be_filled(self) -> bool {
        matches!(self, Self::None | Self::Marker | Self::Poison)
    }

    /// The page it stands for: one that is mapped here, or that will be mapped here after its migration.
    #[must_use]
    pub const fn page(self) -> Option<HugeFrame> {
        match self {
            Self::Leaf(leaf) => Some(leaf.frame),
            Self::Migration(migration) => Some(migration.frame),
            Self::None
            | Self::Table(_)
            | Self::HostTable(_)
            | Self::Hwpoison(_)
            | Self::Marker
            | Self::Poison => None,
        }
    }

    /// The same with `flags` added, if it is a leaf.
    #[must_use]
    pub const fn with(self, flags: LeafFlags) -> Self {
        match self {
            Self::Leaf(leaf) => Self::Leaf(leaf.with(flags)),
            _ => self,
        }
    }

    /// The same with `flags` taken away, if it is a leaf.
    #[must_use]
    pub const fn without(self, flags: LeafFlags) -> Self {
        match self {
            Self::Leaf(leaf) => Self::Leaf(leaf.without(flags)),
            _ => self,
        }
    }

    /// The same without the right to write. A leaf loses the right now; a page that is being moved loses it
    /// when it arrives.
    #[must_use]
    pub const fn without_write(self) -> Self {
        match self {
            Self::Migration(migration) => Self::Migration(Migration { write: false, ..migration }),
            _ => self.without(LeafFlags::WRITE),
        }
    }

    /// What stands in for it while it is *busy*: on its way to another page. It is of no use to processors, but it is not
    /// empty, and still names its page.
    #[must_use]
    pub const fn busy(self) -> Self {
        self.without(LeafFlags::ACCESS)
    }

    /// Does it say the same as `other`, apart from the accesses that processors have noted in either?
    #[must_use]
    pub fn is_same_but_for_use(self, other: Self) -> bool {
        let used = LeafFlags::ACCESSED | LeafFlags::DIRTY;
        match (self, other) {
            (Self::Leaf(one), Self::Leaf(other)) => one.with(used) == other.with(used),
            _ => self == other,
        }
    }

    /// The same without userfaultfd's write protection. An entry that lost the right to write for it does
    /// not get it back here.
    #[must_use]
    pub const fn without_uffd_wp(self) -> Self {
        match self {
            Self::Leaf(leaf) => Self::Leaf(leaf.without(LeafFlags::UFFD_WP)),
            Self::Migration(migration) => Self::Migration(Migration { uffd_wp: false, ..migration }),
            Self::Marker => Self::None,
            Self::None | Self::Table(_) | Self::HostTable(_) | Self::Hwpoison(_) | Self::Poison => self,
        }
    }
}

/// The 64 bits of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RawEntry(u64);

impl RawEntry {
    /// The empty entry.
    pub const NONE: Self = Self(0);

    /// An entry of these bits.
    #[must_use]
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits of the entry.
    #[must_use]
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Is it empty?
    #[must_use]
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// May a processor use it, and so write to it at any moment?
    #[must_use]
    #[inline]
    pub const fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// The table of the engine's that it points to, if any. This is all that a walk asks of an entry above
    /// the leaves, so it is quick. A table of the host's is none: there every walk ends.
    #[must_use]
    #[inline]
    pub const fn table(self) -> Option<TableFrame> {
        if self.0 & (PRESENT | LARGE | HOST) == PRESENT {
            Some(TableFrame((self.0 & FRAME) >> 12))
        } else {
            None
        }
    }

    /// A leaf that is present, for this frame, with the flags of these bits.
    #[inline]
    pub(super) const fn leaf(frame: u64, bits: u64) -> Entry {
        // Dirty if either bit says so: without CET, a processor may set D while the right to write is taken away.
        let flags = bits | (bits & SAVED_DIRTY) >> SAVED_DIRTY_SHIFT;
        Entry::Leaf(Leaf { frame: HugeFrame(frame), flags: LeafFlags::from_bits_truncate(flags) })
    }

    /// The table in this frame, whose these bits say.
    #[inline]
    pub(super) const fn table_of(frame: u64, bits: u64) -> Entry {
        match bits & HOST {
            0 => Entry::Table(TableFrame(frame)),
            _ => Entry::HostTable(TableFrame(frame)),
        }
    }

    /// What the entry says, in a table whose entries are leaves or point to tables. See also
    /// [`X86_64::decode`](super::Paging::decode).
    #[must_use]
    #[inline]
    pub const fn decode(self) -> Entry {
        if self.0 == 0 {
            return Entry::None;
        }
        if self.0 & PRESENT != 0 {
            let frame = (self.0 & FRAME) >> 12;
            return if self.0 & LARGE == 0 {
                Self::table_of(frame, self.0)
            } else {
                Self::leaf(frame, self.0)
            };
        }
        let frame = HugeFrame((!self.0 & FRAME) >> 12);
        if self.0 & (NO_ACCESS | LARGE) == NO_ACCESS | LARGE {
            return Entry::Leaf(Leaf { frame, flags: LeafFlags::from_bits_truncate(self.0) });
        }
        let kind = (self.0 & TYPE) >> TYPE_SHIFT;
        match kind {
            MIGRATION_READ | MIGRATION_WRITE => Entry::Migration(Migration {
                frame,
                write: kind == MIGRATION_WRITE,
                uffd_wp: self.0 & SPECIAL_UFFD_WP != 0,
                soft_dirty: self.0 & SPECIAL_SOFT_DIRTY != 0,
                accessed: self.0 & ACCESSED != 0,
                dirty: self.0 & DIRTY != 0,
            }),
            HWPOISON => Entry::Hwpoison(frame),
            POISON => Entry::Poison,
            _ => Entry::Marker,
        }
    }
}

impl From<Entry> for RawEntry {
    #[inline]
    fn from(entry: Entry) -> Self {
        match entry {
            Entry::None => Self::NONE,
            // The leaf decides the rights; the tables above it allow everything, as with Linux's
            // `_PAGE_TABLE`.
            Entry::Table(frame) => Self((frame.0 << 12) & FRAME | PRESENT | WRITE | USER | ACCESSED),
            Entry::HostTable(frame) => Self(Self::from(Entry::Table(frame)).0 | HOST),
            Entry::Leaf(leaf) if leaf.is_accessible() => {
                let flags = leaf.flags.bits();
                let flags = match flags & (WRITE | DIRTY) {
                    DIRTY => flags ^ (DIRTY | SAVED_DIRTY),
                    _ => flags,
                };
                Self((leaf.frame.0 << 12) & FRAME | LARGE | USER | flags)
            }
            Entry::Leaf(leaf) => {
                Self(!(leaf.frame.0 << 12) & FRAME | NO_ACCESS | LARGE | USER | leaf.flags.bits())
            }
            Entry::Migration(migration) => {
                let kind = if migration.write { MIGRATION_WRITE } else { MIGRATION_READ };
                let seen = [
                    (migration.uffd_wp, SPECIAL_UFFD_WP),
                    (migration.soft_dirty, SPECIAL_SOFT_DIRTY),
                    (migration.accessed, ACCESSED),
                    (migration.dirty, DIRTY),
                ];
                let mut bits = !(migration.frame.0 << 12) & FRAME | kind << TYPE_SHIFT;
                for (was, bit) in seen {
                    bits |= if was { bit } else { 0 };
                }
                Self(bits)
            }
            Entry::Hwpoison(frame) => Self(!(frame.0 << 12) & FRAME | HWPOISON << TYPE_SHIFT),
            Entry::Marker => Self(MARKER << TYPE_SHIFT | SPECIAL_UFFD_WP),
            Entry::Poison => Self(POISON << TYPE_SHIFT),
        }
    }
}

impl fmt::Debug for RawEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawEntry({:#x}: {:?})", self.0, self.decode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{Paging, X86_64};
    use proptest::prelude::*;

    fn huge_frame() -> impl Strategy<Value = HugeFrame> {
        (0u64..1 << 31).prop_map(|n| HugeFrame(n << 9))
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let leaf = (huge_frame(), any::<u64>()).prop_map(|(frame, bits)| {
            Entry::Leaf(Leaf { frame, flags: LeafFlags::from_bits_truncate(bits) })
        });
        let migration = (huge_frame(), any::<[bool; 5]>()).prop_map(
            |(frame, [write, uffd_wp, soft_dirty, accessed, dirty])| {
                Entry::Migration(Migration { frame, write, uffd_wp, soft_dirty, accessed, dirty })
            },
        );
        prop_oneof![
            Just(Entry::None),
            Just(Entry::Marker),
            Just(Entry::Poison),
            (0u64..1 << 40).prop_map(|n| Entry::Table(TableFrame(n))),
            (0u64..1 << 40).prop_map(|n| Entry::HostTable(TableFrame(n))),
            huge_frame().prop_map(Entry::Hwpoison),
            leaf,
            migration,
        ]
    }

    proptest! {
        #[test]
        fn every_entry_reads_back_as_it_was_written(entry in entry()) {
            prop_assert_eq!(RawEntry::from(entry).decode(), entry);
        }

        #[test]
        fn only_what_the_processor_may_use_has_the_present_bit(entry in entry()) {
            let usable = match entry {
                Entry::Table(_) | Entry::HostTable(_) => true,
                Entry::Leaf(leaf) => leaf.is_accessible(),
                _ => false,
            };
            prop_assert_eq!(RawEntry::from(entry).bits() & 1 == 1, usable);
        }

        #[test]
        fn nothing_is_encoded_as_a_page_of_a_shadow_stack(entry in entry()) {
            let bits = RawEntry::from(entry).bits();
            prop_assert!(bits & (PRESENT | LARGE | WRITE | DIRTY) != PRESENT | LARGE | DIRTY);
        }

        #[test]
        fn no_two_pages_are_in_use_when_one_entry_becomes_another(
            old in entry(),
            other in entry(),
            flags in prop::option::of(any::<u64>()),
        ) {
            // The same page with other flags, now and then.
            let new = match (old, flags) {
                (Entry::Leaf(leaf), Some(bits)) => {
                    Entry::Leaf(Leaf { flags: LeafFlags::from_bits_truncate(bits), ..leaf })
                }
                _ => other,
            };
            prop_assume!(![old, new].into_iter().any(|entry| {
                matches!(entry, Entry::Table(_) | Entry::HostTable(_))
            }));
            let bits = |entry| RawEntry::from(entry).bits();
            let needs_break = X86_64::FOUR_LEVELS.needs_break(bits(old), bits(new), 1);
            let two_pages = match (old, new) {
                (Entry::Leaf(old), Entry::Leaf(new)) => {
                    old.frame != new.frame && old.is_accessible() && new.is_accessible()
                }
                _ => false,
            };
            prop_assert_eq!(needs_break, two_pages);
            let busy = old.busy();
            prop_assert!(!X86_64::FOUR_LEVELS.needs_break(bits(old), bits(busy), 1));
            prop_assert!(!X86_64::FOUR_LEVELS.needs_break(bits(busy), bits(new), 1));
            prop_assert!(!RawEntry::from(busy).is_present());
            prop_assert_eq!((busy.is_none(), busy.page()), (old.is_none(), old.page()));
        }

        #[test]
        fn any_bits_decode_to_something(bits in any::<u64>()) {
            let _ = RawEntry::from_bits(bits).decode();
        }
    }

    #[test]
    fn a_writable_dirty_user_leaf_has_the_bits_of_the_manual() {
        let flags = LeafFlags::ACCESS | LeafFlags::WRITE | LeafFlags::ACCESSED | LeafFlags::DIRTY;
        let raw = RawEntry::from(Entry::Leaf(Leaf { frame: HugeFrame(0x200), flags }));
        assert_eq!(raw.bits(), 0x20_0000 | 0b1110_0111);
    }

    #[test]
    fn a_table_is_found_without_decoding() {
        let raw = RawEntry::from(Entry::Table(TableFrame(7)));
        assert_eq!(raw.table(), Some(TableFrame(7)));
        assert_eq!(RawEntry::from(Entry::HostTable(TableFrame(7))).table(), None);
        assert_eq!(RawEntry::NONE.table(), None);
    }
}
