//! What pages contain: where it came from, which version of it, and what processors have stored to it since.
//!
//! Kept always, and a step only in scenarios that are judged by it: elsewhere nobody asks, and nothing depends on it.

use std::cell::{Cell, RefCell};

use hugewalk::addr::{HugeFrame, TableFrame};

use super::{PAGES, world};

/// Stores that processors make in a run.
const STORES: usize = 32;

/// Where contents came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::lab) enum Origin {
    /// From whoever had the page before.
    #[default]
    Nobody,
    Zeroes,
    /// From this page, in this version.
    Copy(HugeFrame, u32),
    /// From the file's side, or a handler.
    Written,
}

/// What a page contains.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::lab) struct Contents {
    pub(in crate::lab) origin: Origin,
    /// Changes of it in the run.
    pub(in crate::lab) version: u32,
    /// The stores that are in it, a bit for each.
    stores: u32,
    /// How often the page has been given back: which of its lives this is.
    pub(in crate::lab) life: u32,
}

/// In place of an address space: a file, or a handler, was written by.
const NO_ROOT: TableFrame = TableFrame(0);

/// Something that a processor has stored.
#[derive(Clone, Copy, Debug)]
pub(in crate::lab) struct Store {
    pub(in crate::lab) cpu: Option<usize>,
    pub(in crate::lab) root: TableFrame,
    /// The address of the page.
    pub(in crate::lab) address: u64,
    number: u32,
}

/// The contents of all pages.
pub(in crate::lab) struct AllContents {
    pages: RefCell<[Contents; PAGES]>,
    stores: RefCell<[Option<Store>; STORES]>,
    stored: Cell<u32>,
}

impl Default for AllContents {
    fn default() -> Self {
        Self {
            pages: RefCell::new([Contents::default(); PAGES]),
            stores: RefCell::new([None; STORES]),
            stored: Cell::new(0),
        }
    }
}

impl Store {
    /// Was it written by a file, or by a handler?
    pub(in crate::lab) fn is_of_file(&self) -> bool {
        self.root == NO_ROOT
    }
}

impl AllContents {
    pub(super) fn begin_run(&self) {
        self.pages.borrow_mut().fill(Contents::default());
        self.stores.borrow_mut().fill(None);
        self.stored.set(0);
    }

    /// What a page contains.
    pub(in crate::lab) fn of(&self, page: HugeFrame) -> Contents {
        self.pages.borrow()[number(page)]
    }

    fn change(&self, page: HugeFrame, change: impl FnOnce(&mut Contents)) {
        let contents = &mut self.pages.borrow_mut()[number(page)];
        contents.version += 1;
        change(contents);
    }

    /// A page is zeroed, or written as a whole.
    pub(in crate::lab) fn fill(&self, page: HugeFrame, origin: Origin) {
        self.change(page, |contents| (contents.origin, contents.stores) = (origin, 0));
    }

    /// A part of a page is written from the file's side.
    pub(in crate::lab) fn write(&self, page: HugeFrame, cpu: Option<usize>) {
        self.change(page, |contents| {
            if contents.origin == Origin::Nobody {
                contents.origin = Origin::Written;
            }
        });
        if cpu.is_some() {
            self.store(page, cpu, NO_ROOT, 0);
        }
    }

    pub(in crate::lab) fn copy(&self, from: HugeFrame, to: HugeFrame) {
        let Contents { origin, version, stores, .. } = self.of(from);
        let origin = if origin == Origin::Nobody { origin } else { Origin::Copy(from, version) };
        self.change(to, |contents| (contents.origin, contents.stores) = (origin, stores));
    }

    /// A processor stores to a page.
    pub(in crate::lab) fn store(&self, page: HugeFrame, cpu: Option<usize>, root: TableFrame, address: u64) {
        let number = self.stored.get();
        self.stored.set(number + 1);
        self.stores.borrow_mut()[number as usize] = Some(Store { cpu, root, address, number });
        self.change(page, |contents| contents.stores |= 1 << number);
    }

    /// The page goes back to its pool: whatever it contains, it is nobody's.
    pub(in crate::lab) fn give_back(&self, page: HugeFrame) {
        let life = self.of(page).life + 1;
        self.pages.borrow_mut()[number(page)] = Contents { life, ..Contents::default() };
    }

    /// A store at this address of this address space that is not in the page.
    pub(in crate::lab) fn lost(&self, page: HugeFrame, root: TableFrame, address: u64) -> Option<Store> {
        let stores = self.of(page).stores;
        let is_lost = |store: &&Store| {
            (store.root, store.address) == (root, address) && stores & 1 << store.number == 0
        };
        self.stores.borrow().iter().flatten().find(is_lost).copied()
    }

    /// How many stores there have been.
    pub(in crate::lab) fn stored(&self) -> u32 {
        self.stored.get()
    }

    /// A store of another address space that is in the page, and was made after these.
    pub(in crate::lab) fn foreign(&self, page: HugeFrame, root: TableFrame, after: u32) -> Option<Store> {
        let stores = self.of(page).stores;
        let is_foreign = |store: &&Store| {
            !store.is_of_file()
                && store.root != root
                && store.number >= after
                && stores & 1 << store.number != 0
        };
        self.stores.borrow().iter().flatten().find(is_foreign).copied()
    }

    /// Is it in the page?
    pub(in crate::lab) fn has(&self, page: HugeFrame, store: &Store) -> bool {
        self.of(page).stores & 1 << store.number != 0
    }

    /// Everything that was stored.
    pub(in crate::lab) fn stores(&self) -> Vec<Store> {
        self.stores.borrow().iter().flatten().copied().collect()
    }
}

fn number(page: HugeFrame) -> usize {
    world().record_of(page)
}
