//! The ground floor: the machine's memory, what has become of each part of it, and where everything lies. It knows nothing of
//! what stands on it: who tells of a run, who judges it, what the engine calls.
//!
//! There is one machine for each OS thread, and it stays; a run begins by wiping what the run before has written. Within a run
//! no table or page is handed out twice, but for [a large page](frames), so a late access is seen for what it is. The numbers of tables are the same in every
//! run: the `n`th table that a thread allocates has the same number whatever the others did.
//!
//! # Steps
//!
//! What the engine does that others can see goes through [`access`], which is a scheduling point. Methods called `peek` look
//! without touching.

mod caches;
mod contents;
mod flaws;
mod format;
mod frames;
mod places;

use std::cell::{Cell, RefCell, UnsafeCell};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use hugewalk::addr::{HugeFrame, TableFrame};
use hugewalk::arch::X86_64;

pub(super) use self::caches::{Cached, Kept, To, Translation};
pub(super) use self::contents::Origin;
pub use self::flaws::Flaw;
pub(super) use self::flaws::{Fill, Flaws, Flush, Outer};
pub use self::format::Format;
pub(super) use self::format::{MEMBER_SHIFT, RawEntry};
pub(super) use self::places::{
    ANON, DISSOLVED, FLAGS, FREE, GENERATION, HWPOISON, IN_USE, MAPPINGS, OWNER, POISONED, Place, REFERENCES,
    SUBPOOL, USERS,
};

use super::property::Property;
use super::settings::Settings;
use crate::explore::{self, Asks, MAX_THREADS, Object, Op, in_thread, journal, not_asking};

/// Tables that the setup of a run may allocate, and that each thread may.
const OF_SETUP: usize = 32;
const OF_THREAD: usize = 16;
pub(super) const TABLES: usize = OF_SETUP + OF_THREAD * MAX_THREADS;
const PAGES: usize = 64;

/// Processes that can be told apart.
const PROCESSES: usize = 16;

/// Room for the record of a table, and of a page: as many words as the engine's largest has.
pub(super) const RECORD: usize = 16;
pub(super) const RECORD_BYTES: usize = RECORD * 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Unused,
    Alive,
    /// Freed by this thread.
    Dead(Option<u8>),
}

#[derive(Clone, Copy)]
struct TableState {
    life: Life,
    lock: Life,
}

/// A value with an address of its own, as an object of the explorer.
#[derive(Default)]
#[repr(align(8))]
struct Flag<T>(Cell<T>);

#[repr(C, align(4096))]
struct TablePage([AtomicU64; X86_64::ENTRIES]);

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Record([MaybeUninit<u64>; RECORD]);

/// What changes in it in a run lies in the struct itself, in the records, or is a journalled entry: so a run can be set back
/// by copying ([`World::pieces`]).
pub(super) struct World {
    pages: Box<[UnsafeCell<TablePage>]>,
    records: Box<[UnsafeCell<Record>]>,
    page_records: Box<[UnsafeCell<Record>]>,
    state: RefCell<[TableState; TABLES]>,
    allocated: RefCell<[usize; MAX_THREADS + 1]>,
    next_page: Cell<usize>,
    /// Its processors have tables with groups.
    groups: Cell<bool>,
    large: Cell<frames::Large>,
    no_memory: Flag<bool>,
    /// A page that the watched walkers' mappings do not show.
    foreign: Flag<Option<HugeFrame>>,
    /// Allocations of the engine may fail.
    heap_fails: Cell<bool>,
    pub(super) live_pages: Cell<usize>,
    pub(super) settings: Cell<Settings>,
    judged: Cell<u32>,
    /// What pages contain.
    pub(super) contents: contents::AllContents,
    /// What the machine does wrong.
    pub(super) flaws: Flaws,
    /// How many locks and sections that forbid sleep each thread has.
    pub(super) atomic: RefCell<[u32; MAX_THREADS]>,
    roots: RefCell<[Option<TableFrame>; PROCESSES]>,
    /// What processors have cached.
    pub(super) cached: caches::Caches,
    /// Threads whose read sections hold nobody off.
    pub(super) dud: Cell<u8>,
    /// Threads whose sections are interrupts off.
    pub(super) interrupts_off: Cell<u8>,
    /// The context of the address space that each thread says it runs, or walks without locks; 0 if it says nothing.
    pub(super) runs: [Cell<usize>; MAX_THREADS],
    /// The context of the address space that each thread has flushed last.
    flushed: [Cell<usize>; MAX_THREADS],
    /// Threads that do not hold VMA locks in read.
    pub(super) unlocked: Cell<u8>,
    /// Rmap does not wait for VMA locks that are busy.
    pub(super) in_place_at_once: Cell<bool>,
    /// Called before each access: somebody may have to say what has happened since the last.
    pub(super) before_access: Cell<Option<fn()>>,
    /// A number that no other run has, of whatever OS thread.
    pub(super) run: Cell<u64>,
}

/// The platform: the machine of the OS thread, in one run. There is one in use at a time, and one that is used after its run, or
/// on another OS thread, panics.
///
/// `F` is the format of the tables.
#[derive(Debug)]
pub struct Lab<F: Format = X86_64> {
    pub(super) run: u64,
    /// The domain that broadcasts wait for; null before it is known.
    pub(super) rcu: Cell<*const ()>,
    pub(super) format: PhantomData<F>,
}

// SAFETY: on another OS thread every method of the platform panics, in `machine`, before it touches anything.
unsafe impl<F: Format> Sync for Lab<F> {}
// SAFETY: as above.
unsafe impl<F: Format> Send for Lab<F> {}

impl<F: Format> Lab<F> {
    /// The machine, if this is its run and its OS thread.
    #[inline]
    pub(super) fn machine(&self) -> &'static World {
        let world = world();
        assert_eq!(
            world.run.get(),
            self.run,
            "a system of the lab is used after its run, or on another OS thread"
        );
        world
    }
}

thread_local! {
    static WORLD: &'static World = Box::leak(Box::new(World::new()));
}

/// The machine of this OS thread.
#[inline]
pub(super) fn world() -> &'static World {
    WORLD.with(|world| *world)
}

/// Announces an access: a scheduling point. What the thread has let go before is said first.
#[inline]
pub(super) fn access(op: &Op) {
    settle();
    explore::access(op);
}

/// The thread is about to do something.
#[inline]
pub(super) fn settle() {
    if let Some(work) = world().before_access.get() {
        work();
    }
}

impl World {
    fn new() -> Self {
        let zero = |_| UnsafeCell::new(TablePage([const { AtomicU64::new(0) }; X86_64::ENTRIES]));
        let record = |_| UnsafeCell::new(Record([MaybeUninit::zeroed(); RECORD]));
        Self {
            pages: (0..TABLES).map(zero).collect(),
            records: (0..TABLES).map(record).collect(),
            page_records: (0..PAGES).map(record).collect(),
            state: RefCell::new([TableState { life: Life::Unused, lock: Life::Unused }; TABLES]),
            allocated: RefCell::default(),
            next_page: Cell::new(0),
            groups: Cell::new(false),
            large: Cell::default(),
            no_memory: Flag::default(),
            foreign: Flag::default(),
            heap_fails: Cell::new(false),
            live_pages: Cell::new(0),
            settings: Cell::new(Settings::HUGEWALK),
            judged: Cell::new(u32::MAX),
            contents: contents::AllContents::default(),
            flaws: Flaws::default(),
            atomic: RefCell::default(),
            roots: RefCell::new([None; PROCESSES]),
            cached: caches::Caches::default(),
            dud: Cell::new(0),
            interrupts_off: Cell::new(0),
            runs: Default::default(),
            flushed: Default::default(),
            unlocked: Cell::new(0),
            in_place_at_once: Cell::new(false),
            before_access: Cell::new(None),
            run: Cell::new(0),
        }
    }

    /// Forgets the run before. The entries it wrote are wiped by whoever journalled them.
    pub(super) fn begin_run(&self, settings: Settings) {
        self.state.borrow_mut().fill(TableState { life: Life::Unused, lock: Life::Unused });
        *self.allocated.borrow_mut() = Default::default();
        self.next_page.set(0);
        self.groups.set(false);
        self.large.take();
        self.no_memory.0.set(false);
        self.foreign.0.set(None);
        self.heap_fails.set(false);
        self.live_pages.set(0);
        self.settings.set(settings);
        self.contents.begin_run();
        self.flaws.begin_run();
        *self.atomic.borrow_mut() = Default::default();
        *self.roots.borrow_mut() = [None; PROCESSES];
        self.cached.begin_run();
        self.dud.set(0);
        self.interrupts_off.set(0);
        self.runs.iter().chain(&self.flushed).for_each(|context| context.set(0));
        self.unlocked.set(0);
        self.in_place_at_once.set(false);
        self.before_access.set(None);
        static RUNS: AtomicU64 = AtomicU64::new(1);
        self.run.set(RUNS.fetch_add(1, Ordering::Relaxed));
    }

    /// The run is judged by these properties.
    pub(super) fn judge_by(&self, properties: &[Property]) {
        self.judged.set(properties.iter().fold(0, |mask, property| mask | 1 << *property as u32));
    }

    /// Is the scenario judged by this property?
    #[inline]
    pub(super) fn judges(&self, property: Property) -> bool {
        self.judged.get() & 1 << property as u32 != 0
    }

    /// Reports a violation if the scenario is judged by this property.
    pub(super) fn violated(&self, property: Property, text: &str) {
        if self.judges(property) {
            property.is_violated(text);
        }
    }

    /// Memory on the heap may run out in this run.
    pub(super) fn let_heap_fail(&self) {
        self.heap_fails.set(true);
    }

    /// The lab is at work, on the engine's behalf: what it allocates until this is dropped is not the engine's.
    #[inline]
    pub(super) fn at_work(&self) -> Option<Asks> {
        self.heap_fails.get().then(not_asking)
    }

    /// Is there no memory for tables? A step, if that ever changes; with what it depends on.
    pub(super) fn no_memory(&self) -> (bool, Object) {
        let object = Object::at(&raw const self.no_memory);
        access(&Op::read(object));
        (self.no_memory.0.get(), object)
    }

    /// Says whether there is memory for tables from now on. The caller has announced a write to [`no_memory`](Self::no_memory)'s object.
    pub(super) fn set_memory(&self, there_is: bool) {
        self.no_memory.0.set(!there_is);
    }

    /// The object that changes with the memory there is.
    pub(super) fn memory_object(&self) -> Object {
        Object::at(&raw const self.no_memory)
    }

    /// The thread has flushed the address space whose context has this address.
    pub(super) fn set_flushed(&self, context: usize) {
        if let Some(thread) = in_thread() {
            self.flushed[thread].set(context);
        }
    }

    /// The context of the address space that the thread has flushed last; 0 if there is none.
    pub(super) fn flushed(&self) -> usize {
        in_thread().map_or(0, |thread| self.flushed[thread].get())
    }

    /// The page that watched walkers must not be given. A step, if a thread ever says so.
    pub(super) fn foreign(&self) -> Option<HugeFrame> {
        access(&Op::read(Object::at(&raw const self.foreign)));
        self.foreign.0.get()
    }

    pub(super) fn set_foreign(&self, page: HugeFrame) {
        access(&Op::write(Object::at(&raw const self.foreign)));
        self.foreign.0.set(Some(page));
    }

    /// A table that was not handed out before in this run.
    pub(super) fn alloc_table(&self) -> Option<TableFrame> {
        let thread = in_thread();
        let mut allocated = self.allocated.borrow_mut();
        let count = &mut allocated[thread.unwrap_or(MAX_THREADS)];
        let (first, room) = match thread {
            None => (1, OF_SETUP - 1),
            Some(thread) => (OF_SETUP + thread * OF_THREAD, OF_THREAD),
        };
        if *count == room {
            return None;
        }
        let number = first + *count;
        *count += 1;
        self.state.borrow_mut()[number] = TableState { life: Life::Alive, lock: Life::Alive };
        Some(TableFrame(number as u64))
    }

    /// What has become of a table, or of its lock.
    pub(super) fn life(&self, frame: TableFrame, lock: bool) -> Life {
        let state = self.state.borrow()[frame.0 as usize];
        if lock { state.lock } else { state.life }
    }

    /// A table dies by the hand of this thread, or its lock does.
    pub(super) fn dies(&self, frame: TableFrame, lock: bool) {
        let dead = Life::Dead(in_thread().map(|thread| thread as u8));
        let state = &mut self.state.borrow_mut()[frame.0 as usize];
        *(if lock { &mut state.lock } else { &mut state.life }) = dead;
    }

    pub(super) fn tables_in_use(&self) -> usize {
        self.state.borrow().iter().filter(|state| state.life == Life::Alive).count()
    }

    /// A word of a page's record changes: the page may have gone back to its pool.
    #[inline]
    pub(super) fn note_page(&self, place: Place, before: u64, after: u64) {
        if let Place::PageRecord(word) = place
            && word % RECORD == FLAGS
            && after & !before & FREE != 0
        {
            self.contents.give_back(self.page_of(word / RECORD));
        }
    }

    /// The entries of a table.
    pub(super) fn entries(&self, frame: TableFrame) -> NonNull<AtomicU64> {
        NonNull::new(self.pages[frame.0 as usize % TABLES].get()).expect("not null").cast()
    }

    /// Room for the record of a table.
    pub(super) fn record(&self, frame: TableFrame) -> NonNull<u64> {
        NonNull::new(self.records[frame.0 as usize % TABLES].get()).expect("not null").cast()
    }

    /// From now on its processors have tables with groups. No page was handed out, or they were all given back.
    pub(super) fn set_groups(&self) {
        self.groups.set(true);
    }

    /// Do its processors have tables with groups?
    #[inline]
    pub(super) fn groups(&self) -> bool {
        self.groups.get()
    }

    /// Base-2 logarithm of the frames of a page.
    #[inline]
    fn page_shift(&self) -> u32 {
        if self.groups() { 13 } else { 9 }
    }

    /// The record of a page, by its number.
    #[inline]
    pub(super) fn record_of(&self, frame: HugeFrame) -> usize {
        (frame.0 >> self.page_shift()).wrapping_sub(1) as usize % PAGES
    }

    /// The page with the record of this number.
    #[inline]
    pub(super) fn page_of(&self, record: usize) -> HugeFrame {
        HugeFrame((record as u64 + 1) << self.page_shift())
    }

    /// Room for the record of a page.
    pub(super) fn page_record(&self, frame: HugeFrame) -> NonNull<u64> {
        let number = self.record_of(frame);
        NonNull::new(self.page_records[number].get()).expect("not null").cast()
    }

    /// The roots of the processes that have been named.
    pub(super) fn roots(&self) -> impl Iterator<Item = TableFrame> {
        self.roots.borrow().into_iter().flatten()
    }

    /// The next process that is named has this root.
    pub(super) fn add_process(&self, root: TableFrame) {
        let mut roots = self.roots.borrow_mut();
        *roots.iter_mut().find(|place| place.is_none()).expect("fewer processes") = Some(root);
    }

    /// The table behind an entry, as it is now: no access, no scheduling point.
    pub(super) fn peek(&self, table: TableFrame, index: u64) -> Option<TableFrame> {
        self.peek_raw(table, index).table()
    }

    pub(super) fn peek_raw(&self, table: TableFrame, index: u64) -> RawEntry {
        // SAFETY: the page is there as long as the world; its words are atomics.
        let words = unsafe { self.entries(table).cast::<[AtomicU64; X86_64::ENTRIES]>().as_ref() };
        RawEntry::from_bits(words[index as usize & (X86_64::ENTRIES - 1)].load(Ordering::Relaxed))
    }

    /// A word of a page's record: no access, no scheduling point.
    pub(super) fn peek_page(&self, page: HugeFrame, word: usize) -> u64 {
        let word = self.page_record(page).cast::<AtomicU64>().as_ptr().wrapping_add(word);
        // SAFETY: the record is there as long as the world, and one thread moves at a time: no word of it is being written.
        unsafe { (*word).load(Ordering::Relaxed) }
    }

    /// What changes with the contents of a page. None, if nobody asks.
    pub(super) fn contents_of(&self, page: HugeFrame) -> Option<Object> {
        let is_asked = [Property::I11, Property::I12, Property::I13].into_iter().any(|of| self.judges(of));
        // An address of its own, as that of a table's life.
        let address = self.page_record(page).as_ptr().addr() + 2;
        is_asked.then_some(Object {
            address,
            name: Some(((TABLES as u32 + 1) << 10) | (self.record_of(page) as u32 + 1)),
        })
    }

    /// A word of a table's record: no access, no scheduling point.
    pub(super) fn peek_record(&self, table: TableFrame, word: usize) -> u64 {
        let word = self.record(table).cast::<AtomicU64>().as_ptr().wrapping_add(word);
        // SAFETY: the record is there as long as the world, and its numbers are atomics.
        unsafe { (*word).load(Ordering::Relaxed) }
    }

    /// An entry of a table is about to be written.
    #[inline]
    pub(super) fn journal(&'static self, place: Place) {
        if let Place::Entry(frame, index) = place {
            // SAFETY: the page is there as long as the world; its words are atomics.
            let words = unsafe { &(*self.pages[frame.0 as usize].get()).0 };
            journal(&words[index]);
        }
    }

    /// All that changes in a run and is not an entry of a table: the world itself, and the records that are in use.
    pub(super) fn pieces(&'static self, each: &mut dyn FnMut(*mut u8, usize)) {
        each(std::ptr::from_ref(self).cast_mut().cast(), size_of::<Self>());
        let allocated = *self.allocated.borrow();
        for (owner, &count) in allocated.iter().enumerate().filter(|&(_, &count)| count > 0) {
            let first = if owner == MAX_THREADS { 1 } else { OF_SETUP + owner * OF_THREAD };
            each(self.records[first].get().cast(), count * size_of::<Record>());
        }
        if self.next_page.get() > 0 {
            each(self.page_records[0].get().cast(), self.next_page.get() * size_of::<Record>());
        }
        if self.large.get() != frames::Large::Unused {
            each(self.page_record(frames::LARGE).as_ptr().cast(), size_of::<Record>());
        }
    }
}

const _: () = assert!(size_of::<TablePage>() == 4096);
