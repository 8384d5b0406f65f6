//! What a report tells of an entry was the entry's settled value at some moment of the call, and a walk tells of each entry once
//! (I16).
//!
//! A value is *settled* if it is still there when the lock of its table is released, or was stored without the lock, by a
//! processor. What a call stores for a moment, and replaces under the same lock, no report may tell. The entry of an address space
//! at an address is the one that its tables lead to; where they lead to none, it is empty. Bits that processors set are left out,
//! since they come at any moment. Counts, such as how many others map a page, may be of another moment than the entry, and are not
//! judged.
//!
//! From the beginning of a report to its end the settled values of its pages are noted, whoever changes them. One that is told
//! while the table is locked is looked at when the lock is released.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};

use hugewalk::addr::{TableFrame, VirtAddr};
use hugewalk::arch::{Entry, LeafFlags};
use hugewalk::pagewalk::PageMap;

use super::{Access, Judge};
use crate::explore::{MAX_THREADS, in_thread};
use crate::lab::ground::{Place, RawEntry, world};
use crate::lab::property::{Property, in_words};
use crate::lab::trace;

/// Pages of a report.
const PAGES: usize = 2;
/// Values that an entry has during a report.
const SEEN: usize = 16;
/// Tables that are locked at a time.
const LOCKED: usize = 8;
/// Entries that are changed under one lock.
const CHANGED: usize = 8;

/// A page of a report.
#[derive(Clone, Copy)]
struct Page {
    address: u64,
    /// How often the report has told of it.
    told: u8,
    /// The entry's settled values so far.
    seen: [Option<u64>; SEEN],
}

/// A report under way.
#[derive(Clone, Copy)]
struct Report {
    root: TableFrame,
    pages: [Option<Page>; PAGES],
}

/// A table that is locked.
#[derive(Clone, Copy)]
struct Locked {
    table: TableFrame,
    /// Entries that were changed under the lock, and what they were before.
    changed: [Option<(usize, u64)>; CHANGED],
}

/// Something that was told of an entry whose table is locked.
#[derive(Clone, Copy)]
struct Pending {
    thread: usize,
    root: TableFrame,
    page: Page,
    table: TableFrame,
    told: Told,
}

#[derive(Clone, Copy)]
struct State {
    reports: [Option<Report>; MAX_THREADS],
    locked: [Option<Locked>; LOCKED],
    pending: [Option<Pending>; LOCKED],
}

/// Reports under way.
pub(in crate::lab) struct Reports(RefCell<State>);

impl Default for Reports {
    fn default() -> Self {
        Self(RefCell::new(State {
            reports: [None; MAX_THREADS],
            locked: [None; LOCKED],
            pending: [None; LOCKED],
        }))
    }
}

thread_local! {
    static REPORTS: &'static Reports = Box::leak(Box::default());
}

fn state() -> &'static RefCell<State> {
    &REPORTS.with(|reports| *reports).0
}

/// What a report tells of an entry.
#[derive(Clone, Copy, Debug)]
pub(in crate::lab) enum Told {
    /// All of it.
    Entry(Entry),
    /// The bits of pagemap.
    Map(PageMap),
    /// Whether it stands for a page: in a total.
    Page(bool),
}

impl Told {
    /// Is this what is to be told of such an entry?
    fn fits(self, entry: Entry) -> bool {
        match self {
            Self::Entry(told) => told.is_same_but_for_use(entry),
            // Which pages are others' too, and whose a page is, are not the entry's.
            Self::Map(told) => {
                let of_entry = PageMap::PRESENT | PageMap::SOFT_DIRTY | PageMap::UFFD_WP | PageMap::SWAP;
                told & of_entry == map_of(entry)
            }
            Self::Page(told) => told == entry.page().is_some(),
        }
    }
}

/// What pagemap tells of an entry.
fn map_of(entry: Entry) -> PageMap {
    let (kind, soft_dirty, protected) = match entry {
        Entry::Leaf(leaf) => {
            let has = |flag| leaf.flags.contains(flag);
            (PageMap::PRESENT, has(LeafFlags::SOFT_DIRTY), has(LeafFlags::UFFD_WP))
        }
        Entry::Migration(migration) => (PageMap::SWAP, migration.soft_dirty, migration.uffd_wp),
        Entry::Hwpoison(_) => (PageMap::SWAP, false, false),
        Entry::Marker => (PageMap::empty(), false, true),
        _ => (PageMap::empty(), false, false),
    };
    let mut map = kind;
    map.set(PageMap::SOFT_DIRTY, soft_dirty);
    map.set(PageMap::UFFD_WP, protected);
    map
}

impl Page {
    fn note(&mut self, bits: u64) {
        let entry = RawEntry::from_bits(bits).decode();
        let is_known = |seen: &u64| RawEntry::from_bits(*seen).decode().is_same_but_for_use(entry);
        if !self.seen.iter().flatten().any(is_known) {
            *self.seen.iter_mut().find(|place| place.is_none()).expect("fewer values") = Some(bits);
        }
    }
}

/// An entry that is about to be written: its table, its index, and what it will be.
type Write = (TableFrame, usize, u64);

impl State {
    /// The table that leads an address space to an address, and the entry in it, after this write.
    fn entry(root: TableFrame, address: u64, write: Option<Write>) -> Option<(TableFrame, RawEntry)> {
        let read = |table: TableFrame, index: u64| {
            let is_it = |&(of, at, _): &Write| of == table && at == index as usize & 511;
            match write.filter(is_it) {
                Some((.., bits)) => RawEntry::from_bits(bits),
                None => world().peek_raw(table, index),
            }
        };
        let pud = read(root, address >> 39).table()?;
        let table = read(pud, address >> 30).table()?;
        Some((table, read(table, address >> 21)))
    }

    fn locked(&mut self, table: TableFrame) -> Option<&mut Locked> {
        self.locked.iter_mut().flatten().find(|locked| locked.table == table)
    }

    /// The settled value of an entry.
    fn settled(&mut self, root: TableFrame, address: u64, write: Option<Write>) -> u64 {
        let Some((table, entry)) = Self::entry(root, address, write) else { return RawEntry::NONE.bits() };
        let index = (address >> 21 & 511) as usize;
        let changed = self.locked(table).and_then(|locked| {
            locked.changed.into_iter().flatten().find(|&(at, _)| at == index).map(|(_, before)| before)
        });
        changed.unwrap_or(entry.bits())
    }

    /// Notes what is settled after this write, in all reports.
    fn note(&mut self, write: Option<Write>) {
        for thread in 0..MAX_THREADS {
            let Some(mut report) = self.reports[thread] else { continue };
            for page in report.pages.iter_mut().flatten() {
                page.note(self.settled(report.root, page.address, write));
            }
            self.reports[thread] = Some(report);
        }
    }

    fn is_idle(&self) -> bool {
        self.reports.iter().all(Option::is_none)
    }
}

impl Judge for Reports {
    fn begin_run() {
        state().replace(Self::default().0.into_inner());
    }

    fn pieces(each: &mut dyn FnMut(*mut u8, usize)) {
        let reports = REPORTS.with(|reports| *reports);
        each(std::ptr::from_ref(reports).cast_mut().cast(), size_of::<Self>());
    }

    fn accesses(access: &Access) {
        let Place::Entry(table, index) = access.place else { return };
        if !access.writes || !world().judges(Property::I16) {
            return;
        }
        let mut state = state().borrow_mut();
        if let Some(locked) = state.locked(table)
            && locked.changed.iter().flatten().all(|&(at, _)| at != index)
        {
            let place = locked.changed.iter_mut().find(|place| place.is_none());
            *place.expect("fewer changes") = Some((index, access.before));
        }
        if !state.is_idle() {
            state.note(Some((table, index, access.after)));
        }
    }

    fn took_spin(place: Place, _: usize) {
        if let Place::Record(table, _) = place
            && world().judges(Property::I16)
        {
            let mut state = state().borrow_mut();
            let locked = Locked { table, changed: [None; CHANGED] };
            *state.locked.iter_mut().find(|place| place.is_none()).expect("fewer locks") = Some(locked);
        }
    }

    fn let_spin_go(place: Place, _: usize) {
        let Place::Record(table, _) = place else { return };
        if !world().judges(Property::I16) {
            return;
        }
        let pending = {
            let mut state = state().borrow_mut();
            for place in &mut state.locked {
                place.take_if(|locked| locked.table == table);
            }
            if !state.is_idle() {
                state.note(None);
            }
            state.pending.each_mut().map(|place| place.take_if(|pending| pending.table == table))
        };
        for pending in pending.into_iter().flatten() {
            let entry = world().peek_raw(table, pending.page.address >> 21);
            if !pending.told.fits(entry.decode()) {
                pending.report();
            }
        }
    }
}

/// The number of a process.
fn process_of(root: TableFrame) -> usize {
    world().roots().position(|other| other == root).map_or(0, |at| at + 1)
}

impl Pending {
    fn report(&self) {
        let was = self.page.seen.into_iter().flatten().map(trace::entry_in_words);
        let was: Vec<String> = was.collect();
        let told = match self.told {
            Told::Entry(entry) => trace::entry_in_words(RawEntry::from(entry).bits()),
            Told::Map(map) => format!("{map:?}"),
            Told::Page(page) => if page { "a page" } else { "no page" }.to_owned(),
        };
        let process = process_of(self.root);
        let text = format!(
            "{} reports {told} at {:x} of P{process}, where all the time was {}",
            in_words(Some(self.thread)),
            self.page.address,
            was.join(" or ")
        );
        world().violated(Property::I16, &text);
    }
}

impl Reports {
    /// The thread begins to report on pages of an address space.
    pub(in crate::lab) fn begin(root: TableFrame, range: &Range<VirtAddr>) {
        let Some(thread) = in_thread() else { return };
        let mut pages = [None; PAGES];
        let mut addresses = (range.start.as_u64()..range.end.as_u64()).step_by(1 << 21);
        for page in &mut pages {
            *page = addresses.next().map(|address| Page { address, told: 0, seen: [None; SEEN] });
        }
        assert!(addresses.next().is_none(), "a report has fewer pages");
        let mut state = state().borrow_mut();
        state.reports[thread] = Some(Report { root, pages });
        state.note(None);
    }

    /// It has told this of one of them.
    pub(in crate::lab) fn tells(address: VirtAddr, told: Told) {
        let Some(thread) = in_thread() else { return };
        let (root, page) = {
            let mut state = state().borrow_mut();
            let Some(report) = &mut state.reports[thread] else { return };
            let mut pages = report.pages.iter_mut().flatten();
            let Some(page) = pages.find(|page| page.address == address.as_u64()) else { return };
            page.told = page.told.saturating_add(1);
            (report.root, *page)
        };
        let mut seen = page.seen.into_iter().flatten().map(|bits| RawEntry::from_bits(bits).decode());
        if seen.any(|entry| told.fits(entry)) {
            return;
        }
        let now = State::entry(root, page.address, None);
        let table = now.map_or(root, |(table, _)| table);
        let pending = Pending { thread, root, page, table, told };
        let mut state = state().borrow_mut();
        if now.is_some_and(|(_, entry)| told.fits(entry.decode())) && state.locked(table).is_some() {
            *state.pending.iter_mut().find(|place| place.is_none()).expect("fewer") = Some(pending);
        } else {
            drop(state);
            pending.report();
        }
    }

    /// The report is over. It has told so often of each page.
    pub(in crate::lab) fn end(times: RangeInclusive<u8>) {
        let Some(thread) = in_thread() else { return };
        let Some(report) = state().borrow_mut().reports[thread].take() else { return };
        for page in report.pages.into_iter().flatten().filter(|page| !times.contains(&page.told)) {
            let (who, process) = (in_words(Some(thread)), process_of(report.root));
            let text =
                format!("{who} reports {} times what is at {:x} of P{process}", page.told, page.address);
            world().violated(Property::I16, &text);
        }
    }
}
