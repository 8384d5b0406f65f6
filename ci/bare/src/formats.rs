//! The processor's own view of the formats: each entry that a format makes does what it says, when the processor reads it.
//!
//! There is no engine in this. Tables are made here by hand, with the functions of [`Paging`] alone, for one page at a time.

use alloc::alloc::{alloc_zeroed, dealloc};
use alloc::vec::Vec;
use core::alloc::Layout;
use core::fmt::{self, Arguments};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use hugewalk::addr::{FRAME_BYTES, HugeFrame, HugeSize, TableFrame};
use hugewalk::arch::{Entry, Leaf, LeafFlags, Migration, Paging};

use crate::{Flush, Machine, Mmu, Trap};

/// Where the page is mapped: all formats have such addresses, and it is a multiple of every size up to 1 GiB.
const ADDRESS: u64 = 24 << 30;

/// Larger pages than this do not fit into the machine.
const LARGEST: u64 = 1 << 30;

/// Shows the processor a page of each size, in each format.
pub(crate) fn prove<M: Machine>(say: &mut dyn FnMut(Arguments<'_>)) {
    let Some(mmu) = M::mmu() else { return };
    for (name, format) in M::formats() {
        for &size in format.leaves().iter().filter(|size| size.bytes() <= LARGEST) {
            Try::<M>::new(mmu, format, size).run(say, name);
        }
    }
}

/// Does the processor know the groups of the format? Some processors of a kind have them and others do not.
pub(crate) fn knows_groups<M: Machine>(format: &M::Paging) -> bool {
    let groups = format.leaves().iter().filter(|size| size.group() > 1 && size.bytes() <= LARGEST);
    let knows = |mmu, &size: &HugeSize| {
        let attempt = Try::<M>::new(mmu, format, size);
        attempt.enter();
        let known = attempt.knows_groups();
        attempt.leave();
        known
    };
    M::mmu().is_none_or(|mmu| groups.clone().all(|size| knows(mmu, size)))
}

/// A page of one size, and the tables that map it.
struct Try<M: Machine> {
    mmu: &'static dyn Mmu<M::Paging>,
    format: M::Paging,
    size: HugeSize,
    page: HugeFrame,
    tables: Vec<(NonNull<u8>, Layout)>,
    /// The entries of the page, in the table of its level.
    entries: NonNull<AtomicU64>,
    /// The index of the first one in its table.
    index: usize,
}

impl<M: Machine> Try<M> {
    fn new(mmu: &'static dyn Mmu<M::Paging>, format: &M::Paging, size: HugeSize) -> Self {
        let fitting = M::memory().into_iter().find_map(|range| {
            let start = range.start.next_multiple_of(size.bytes());
            (start + size.bytes() <= range.end).then_some(start)
        });
        let page = HugeFrame(fitting.expect("memory for a page of each size") / FRAME_BYTES);
        let entries = NonNull::dangling();
        let mut this = Self { mmu, format: *format, size, page, tables: Vec::new(), entries, index: 0 };
        this.make_tables();
        this
    }

    fn make_tables(&mut self) {
        let geometry = self.format.geometry();
        let root = self.table(geometry.root());
        // SAFETY: a root of this format, zeroed, which nothing reaches.
        unsafe { self.mmu.init_root(&self.format, M::physical(root.cast())) };
        let mut table = root;
        for level in (self.size.level() + 1..geometry.levels).rev() {
            let next = self.table(level - 1);
            let entry = Entry::Table(TableFrame(M::physical(next.cast()) / FRAME_BYTES));
            let bits = self.format.encode(entry, self.size, 0, 0);
            assert_eq!(
                self.format.next_table(bits, level),
                Some(TableFrame(M::physical(next.cast()) / FRAME_BYTES))
            );
            at(table, geometry.index(ADDRESS, level)).store(bits, Ordering::Relaxed);
            table = next;
        }
        self.index = geometry.index(ADDRESS, self.size.level());
        self.entries = NonNull::from(at(table, self.index));
    }

    /// A table of this level, all zeroes.
    fn table(&mut self, level: u8) -> NonNull<AtomicU64> {
        let geometry = self.format.geometry();
        // A root may be smaller than the others, and is aligned to a page all the same.
        let bytes = (geometry.entries(level) * 8).max(1 << geometry.base_shift);
        let layout = Layout::from_size_align(bytes, 1 << geometry.base_shift).expect("small powers of two");
        // SAFETY: the layout has a size.
        let table = NonNull::new(unsafe { alloc_zeroed(layout) }).expect("there is memory");
        self.tables.push((table, layout));
        table.cast()
    }

    fn run(self, say: &mut dyn FnMut(Arguments<'_>), name: &str) {
        self.write_marks();
        self.enter();
        let grouped = self.size.group() > 1;
        if grouped && !self.knows_groups() {
            say(format_args!("mmu: {name}, {}: the processor does not know such groups", Size(self.size)));
        } else {
            self.a_page_without_use_is_noted_as_read_and_not_as_written();
            self.a_store_needs_the_right_to_write_and_is_noted();
            self.what_is_no_page_is_never_accessed();
            say(format_args!(
                "mmu: {name}, {}: read, written, noted; refused where it should be",
                Size(self.size)
            ));
        }
        self.leave();
    }

    fn enter(&self) {
        // SAFETY: made by `make_tables`, of this format.
        unsafe { self.mmu.enter(&self.format, M::physical(self.tables[0].0)) };
    }

    fn leave(self) {
        self.mmu.leave();
        for (table, layout) in &self.tables {
            // SAFETY: allocated with this layout, and no processor walks it any more.
            unsafe { dealloc(table.as_ptr(), *layout) };
        }
    }

    /// A processor that does not know groups refuses their entries.
    fn knows_groups(&self) -> bool {
        self.replace(self.leaf(LeafFlags::ACCESS | LeafFlags::ACCESSED));
        let known = self.mmu.load(ADDRESS).is_ok();
        self.replace(Entry::None);
        known
    }

    fn a_page_without_use_is_noted_as_read_and_not_as_written(&self) {
        self.replace(self.leaf(LeafFlags::ACCESS));
        assert!(!self.used(LeafFlags::ACCESSED), "nobody accessed it");
        for (address, mark) in self.marks() {
            assert_eq!(self.mmu.load(address), Ok(mark), "at {address:#x}");
        }
        assert!(self.used(LeafFlags::ACCESSED), "the processor notes a load");
        assert!(!self.used(LeafFlags::DIRTY), "a load is no store");
    }

    fn a_store_needs_the_right_to_write_and_is_noted(&self) {
        self.replace(self.leaf(LeafFlags::ACCESS));
        for (address, mark) in self.marks() {
            // SAFETY: the page is this test's.
            let stored = unsafe { self.mmu.store(address, !mark) };
            assert!(matches!(stored, Err(Trap::Denied | Trap::Unsaid)), "{stored:?} at {address:#x}");
            assert_eq!(self.mmu.load(address), Ok(mark), "nothing was stored");
        }
        assert!(!self.used(LeafFlags::DIRTY), "nothing was stored");

        self.replace(self.leaf(LeafFlags::ACCESS | LeafFlags::WRITE));
        for (address, mark) in self.marks() {
            assert_eq!(self.mmu.load(address), Ok(mark));
        }
        assert!(!self.used(LeafFlags::DIRTY), "a load is no store");
        for (address, mark) in self.marks() {
            // SAFETY: the page is this test's.
            assert_eq!(unsafe { self.mmu.store(address, !mark) }, Ok(()), "at {address:#x}");
            assert_eq!(self.memory(address).load(Ordering::Relaxed), !mark, "it went where the entry says");
        }
        assert!(self.used(LeafFlags::DIRTY), "the processor notes a store");

        // Write protection keeps what was noted.
        self.change(|flags| flags - LeafFlags::WRITE);
        assert!(self.used(LeafFlags::DIRTY), "it stays dirty");
        for (address, mark) in self.marks() {
            // SAFETY: the page is this test's.
            let stored = unsafe { self.mmu.store(address, mark) };
            assert!(matches!(stored, Err(Trap::Denied | Trap::Unsaid)), "{stored:?} at {address:#x}");
            assert_eq!(self.mmu.load(address), Ok(!mark));
        }
        // Back to what `marks` says.
        self.write_marks();
    }

    fn what_is_no_page_is_never_accessed(&self) {
        let migration = |write| {
            let frame = self.page;
            Entry::Migration(Migration {
                frame,
                write,
                uffd_wp: true,
                soft_dirty: true,
                accessed: true,
                dirty: true,
            })
        };
        let entries = [
            self.leaf(LeafFlags::all() - LeafFlags::ACCESS),
            self.leaf(LeafFlags::empty()),
            migration(false),
            migration(true),
            Entry::Hwpoison(self.page),
            Entry::Marker,
            Entry::Poison,
            Entry::None,
        ];
        for entry in entries {
            self.replace(self.leaf(LeafFlags::ACCESS | LeafFlags::WRITE));
            self.replace(entry);
            for (address, mark) in self.marks() {
                let loaded = self.mmu.load(address);
                assert!(matches!(loaded, Err(Trap::Missing | Trap::Unsaid)), "{entry:?}: {loaded:?}");
                // SAFETY: the page is this test's.
                let stored = unsafe { self.mmu.store(address, !mark) };
                assert!(matches!(stored, Err(Trap::Missing | Trap::Unsaid)), "{entry:?}: {stored:?}");
            }
            assert!(self.members().all(|(_, bits)| self.decode(bits) == entry), "{entry:?} stayed as it was");
        }
    }

    fn leaf(&self, flags: LeafFlags) -> Entry {
        Entry::Leaf(Leaf { frame: self.page, flags: flags | LeafFlags::NO_EXECUTE })
    }

    /// Stores `entry` in all members, by break before make.
    fn replace(&self, entry: Entry) {
        let ordinary = self.format.ordinary();
        self.store(|_, member| self.format.encode(entry, self.size, member, ordinary));
    }

    fn change(&self, next: impl Fn(LeafFlags) -> LeafFlags) {
        let index = |member| self.index + usize::from(member);
        self.store(|bits, member| self.format.change_flags(bits, self.size.level(), index(member), &next));
    }

    fn store(&self, next: impl Fn(u64, u16) -> u64) {
        let old: Vec<u64> = self.members().map(|(entry, _)| entry.swap(0, Ordering::Relaxed)).collect();
        self.flush();
        for ((entry, _), (member, old)) in self.members().zip((0..).zip(old)) {
            entry.store(next(old, member), Ordering::Release);
        }
        self.mmu.barrier(self.format.hooks().after_valid, ADDRESS);
        self.flush();
    }

    fn flush(&self) {
        self.mmu.flush(ADDRESS..ADDRESS + self.size.bytes(), self.size.member_bytes(), Flush::Leaves);
    }

    fn members(&self) -> impl Iterator<Item = (&AtomicU64, u64)> {
        (0..usize::from(self.size.group())).map(|member| {
            let entry = at(self.entries, member);
            (entry, entry.load(Ordering::Relaxed))
        })
    }

    fn decode(&self, bits: u64) -> Entry {
        self.format.decode(bits, self.size.level())
    }

    /// Is this noted of one of the members? All must be leaves of the page.
    fn used(&self, flag: LeafFlags) -> bool {
        let mut noted = false;
        for (_, bits) in self.members() {
            let Entry::Leaf(leaf) = self.decode(bits) else { panic!("{bits:#x} is no leaf") };
            assert_eq!(leaf.frame, self.page, "{bits:#x}");
            noted |= leaf.flags.contains(flag);
        }
        noted
    }

    /// Two addresses in each part of the page that an entry maps, and what is there.
    fn marks(&self) -> impl Iterator<Item = (u64, u64)> + use<M> {
        let part = self.size.member_bytes();
        let parts = (0..u64::from(self.size.group())).map(move |member| ADDRESS + member * part);
        parts.flat_map(move |start| [start, start + part - 8]).map(|address| (address, address * 3 + 1))
    }

    fn write_marks(&self) {
        for (address, mark) in self.marks() {
            self.memory(address).store(mark, Ordering::Relaxed);
        }
    }

    /// What the page has at an address, by way of the program's own half.
    fn memory(&self, address: u64) -> &AtomicU64 {
        let place = M::mapped(self.page.0 * FRAME_BYTES + (address - ADDRESS)).cast();
        // SAFETY: a multiple of 8 inside the page, which lies in memory that is mapped; processors access it, too.
        unsafe { place.as_ref() }
    }
}

/// An entry of a table.
fn at<'a>(table: NonNull<AtomicU64>, index: usize) -> &'a AtomicU64 {
    // SAFETY: callers pass an index that the table has.
    let entry = unsafe { table.add(index) };
    // SAFETY: tables outlive all their uses in this file, and everybody accesses them by atomics.
    unsafe { entry.as_ref() }
}

/// A size, and how many entries it takes.
struct Size(HugeSize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.group() {
            1 => write!(f, "{:?}", self.0),
            group => write!(f, "{:?} in {group} entries", self.0),
        }
    }
}
