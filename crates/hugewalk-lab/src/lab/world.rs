//! The machine's memory: table pages, their records, records of huge pages, and what has become of each.
//!
//! There is one for each OS thread, and it stays; a run begins by wiping what the run before has written. Within a run no
//! table or page is handed out twice, so a late access is seen for what it is. The numbers of tables are the same in every
//! run: the `n`th table that a thread allocates has the same number whatever the others did.

mod judge;

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use hugewalk::addr::{HugeFrame, TableFrame, VirtAddr};
use hugewalk::arch::RawEntry;
use hugewalk::platform::{ENTRIES, PageRecord, TableRecord};

use super::audit::Audit;
use super::cpu::Cached;
use super::patience::Patience;
use super::protocol::Settings;
use super::quarantine::{Quarantine, access};
use super::{Word, trace};
use crate::explore::{Asks, Kind, MAX_THREADS, Machine, Object, Op, in_thread, journal, not_asking};
use crate::story::StepKind;

pub use self::judge::Property;
pub(super) use self::judge::in_words;

/// Tables that the setup of a run may allocate, and that each thread may.
const OF_SETUP: usize = 32;
const OF_THREAD: usize = 16;
pub(super) const TABLES: usize = OF_SETUP + OF_THREAD * MAX_THREADS;
const PAGES: usize = 64;

/// Processes that can be told apart in traces.
const PROCESSES: usize = 16;
/// Translations that all processors together can cache.
const CACHED: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
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

/// What a thread is doing, for the checks.
#[derive(Clone, Copy, Default)]
pub(super) struct Watch {
    pub(super) on: bool,
    /// Of the address space it walks in.
    pub(super) root: Option<TableFrame>,
    /// It walks in one address space after the other: in the one whose root it read last.
    pub(super) everywhere: bool,
    pub(super) address: VirtAddr,
    /// The first entry of a leaf table that it read since its walk began at the root: was it its own?
    pub(super) own: Option<bool>,
}

#[derive(Default)]
#[repr(align(8))]
struct Flag(Cell<bool>);

impl std::ops::Deref for Flag {
    type Target = Cell<bool>;
    fn deref(&self) -> &Cell<bool> {
        &self.0
    }
}

#[repr(C, align(4096))]
struct TablePage([Word; ENTRIES]);

/// What changes in it in a run lies in the struct itself, in the records, or is a journalled entry: so a run can be set back
/// by copying (`World::pieces`).
pub(super) struct World {
    pages: Box<[UnsafeCell<TablePage>]>,
    records: Box<[UnsafeCell<std::mem::MaybeUninit<TableRecord>>]>,
    page_records: Box<[UnsafeCell<std::mem::MaybeUninit<PageRecord>>]>,
    state: RefCell<[TableState; TABLES]>,
    allocated: RefCell<[usize; MAX_THREADS + 1]>,
    next_page: Cell<usize>,
    /// Aligned, as an object of the explorer.
    no_memory: Flag,
    /// Allocations of the engine may fail.
    heap_fails: Cell<bool>,
    pub(super) live_pages: Cell<usize>,
    pub(super) settings: Cell<Settings>,
    pub(super) judged: Cell<u16>,
    pub(super) watch: RefCell<[Watch; MAX_THREADS]>,
    pub(super) atomic: RefCell<[u32; MAX_THREADS]>,
    /// A page that the watched walkers' mappings do not show.
    foreign: Cell<Option<HugeFrame>>,
    roots: RefCell<[Option<TableFrame>; PROCESSES]>,
    /// What processors have cached.
    pub(super) cached: RefCell<[Option<Cached>; CACHED]>,
    /// Threads whose read sections hold nobody off.
    pub(super) dud: Cell<u8>,
    /// Threads whose sections are interrupts off.
    pub(super) interrupts_off: Cell<u8>,
    /// Threads that do not hold VMA locks in read.
    pub(super) unlocked: Cell<u8>,
    pub(super) patience: Patience,
    /// VMAs that outlast their last reference.
    pub(super) quarantine: Quarantine,
    /// What is looked at whenever a lock is let go.
    pub(super) audit: RefCell<Option<Rc<Audit>>>,
    /// A number that no other run has, of whatever OS thread.
    pub(super) run: Cell<u64>,
}

thread_local! {
    static WORLD: &'static World = Box::leak(Box::new(World::new()));
}

/// The machine of this OS thread.
#[inline]
pub(super) fn world() -> &'static World {
    WORLD.with(|world| *world)
}

/// The words of a table's record that have names.
pub(super) const GENERATION: usize = 3;
pub(super) const USERS: usize = 4;

/// The machine, for who sets its runs back.
pub(crate) const MACHINE: Machine =
    Machine { wipe: || world().begin_run(Settings::HUGEWALK), pieces: |each| world().pieces(each) };

/// Where a word lies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Entry(TableFrame, usize),
    Record(TableFrame, usize),
    PageRecord(usize),
    Elsewhere,
}

impl World {
    fn new() -> Self {
        let zero = |_| UnsafeCell::new(TablePage([const { Word::zero() }; ENTRIES]));
        Self {
            pages: (0..TABLES).map(zero).collect(),
            records: (0..TABLES).map(|_| UnsafeCell::new(std::mem::MaybeUninit::zeroed())).collect(),
            page_records: (0..PAGES).map(|_| UnsafeCell::new(std::mem::MaybeUninit::zeroed())).collect(),
            state: RefCell::new([TableState { life: Life::Unused, lock: Life::Unused }; TABLES]),
            allocated: RefCell::default(),
            next_page: Cell::new(0),
            no_memory: Flag::default(),
            heap_fails: Cell::new(false),
            live_pages: Cell::new(0),
            settings: Cell::new(Settings::HUGEWALK),
            judged: Cell::new(u16::MAX),
            watch: RefCell::default(),
            atomic: RefCell::default(),
            foreign: Cell::new(None),
            roots: RefCell::new([None; PROCESSES]),
            cached: RefCell::new([None; CACHED]),
            dud: Cell::new(0),
            interrupts_off: Cell::new(0),
            unlocked: Cell::new(0),
            patience: Patience::default(),
            quarantine: Quarantine::default(),
            audit: RefCell::new(None),
            run: Cell::new(0),
        }
    }

    /// Forgets the run before. The entries it wrote are wiped by whoever journalled them.
    pub(super) fn begin_run(&self, settings: Settings) {
        self.state.borrow_mut().fill(TableState { life: Life::Unused, lock: Life::Unused });
        *self.allocated.borrow_mut() = Default::default();
        self.next_page.set(0);
        self.no_memory.set(false);
        self.heap_fails.set(false);
        self.live_pages.set(0);
        self.settings.set(settings);
        *self.watch.borrow_mut() = Default::default();
        *self.atomic.borrow_mut() = Default::default();
        self.foreign.set(None);
        *self.roots.borrow_mut() = [None; PROCESSES];
        *self.cached.borrow_mut() = [None; CACHED];
        self.dud.set(0);
        self.interrupts_off.set(0);
        self.unlocked.set(0);
        self.patience.begin_run();
        self.quarantine.begin_run();
        // What a run that was given up has left behind is in use on a stack that was abandoned.
        std::mem::forget(self.audit.take());
        static RUNS: AtomicU64 = AtomicU64::new(1);
        self.run.set(RUNS.fetch_add(1, Ordering::Relaxed));
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

    /// Is there memory for tables? A step, if that ever changes.
    pub(super) fn has_memory(&self) -> bool {
        let object = Object::at(&raw const self.no_memory);
        access(&Op::read(object));
        let there_is = !self.no_memory.get();
        if !there_is {
            trace::event(Some(object), StepKind::Read, || {
                ["memory", "is refused memory", "alloc()  // fails"].map(str::to_owned)
            });
        }
        there_is
    }

    pub(super) fn set_memory(&self, there_is: bool) {
        access(&Op::write(Object::at(&raw const self.no_memory)));
        trace::event(None, StepKind::Write, || {
            let what = if there_is { "there is memory again" } else { "there is no memory" };
            ["memory".to_owned(), what.to_owned(), what.to_owned()]
        });
        self.no_memory.set(!there_is);
    }

    /// The page that watched walkers must not be given. A step, if a thread ever says so.
    pub(super) fn foreign(&self) -> Option<HugeFrame> {
        access(&Op::read(Object::at(&raw const self.foreign)));
        self.foreign.get()
    }

    pub(super) fn set_foreign(&self, page: HugeFrame) {
        access(&Op::write(Object::at(&raw const self.foreign)));
        self.foreign.set(Some(page));
    }

    /// Has this page been allocated?
    pub(super) fn was_allocated(&self, frame: HugeFrame) -> bool {
        frame.0.is_multiple_of(512) && (1..=self.next_page.get() as u64).contains(&(frame.0 >> 9))
    }

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
        let frame = TableFrame(number as u64);
        trace::allocated(frame);
        Some(frame)
    }

    pub(super) fn free_table(&self, frame: TableFrame) {
        self.kill_lock(frame);
        access(&Op::write(self.life_of(frame)));
        trace::event(None, StepKind::Free, || {
            let table = format!("T{}", frame.0);
            [table.clone(), format!("frees {table}"), format!("free_page({table})")]
        });
        trace::freed(frame);
        self.state.borrow_mut()[frame.0 as usize].life = Life::Dead(in_thread().map(|thread| thread as u8));
    }

    /// The lock of a table dies, if it has not died before: with its table, or while the table lives on.
    pub(super) fn kill_lock(&self, frame: TableFrame) {
        access(&Op::write(self.lock_life_of(frame)));
        let before = self.state.borrow()[frame.0 as usize].lock;
        if before == Life::Alive {
            trace::event(None, StepKind::FreeLock, || {
                let lock = format!("lock of T{}", frame.0);
                [lock.clone(), format!("frees the {lock}"), format!("ptlock_free(T{})", frame.0)]
            });
            trace::lock_freed(frame);
            self.state.borrow_mut()[frame.0 as usize].lock =
                Life::Dead(in_thread().map(|thread| thread as u8));
        }
    }

    pub(super) fn tables_in_use(&self) -> usize {
        self.state.borrow().iter().filter(|state| state.life == Life::Alive).count()
    }

    pub(super) fn alloc_page(&self) -> Option<HugeFrame> {
        let number = self.next_page.get();
        if number == PAGES {
            return None;
        }
        self.next_page.set(number + 1);
        self.live_pages.set(self.live_pages.get() + 1);
        // SAFETY: the record of a page nobody has yet; all-zero bytes are what the engine asks for.
        unsafe { self.page_records[number].get().write_bytes(0, 1) };
        Some(HugeFrame((number as u64 + 1) << 9))
    }

    pub(super) fn entries(&self, frame: TableFrame) -> NonNull<[Word; ENTRIES]> {
        NonNull::new(self.pages[frame.0 as usize % TABLES].get()).expect("not null").cast()
    }

    pub(super) fn record(&self, frame: TableFrame) -> NonNull<TableRecord> {
        NonNull::new(self.records[frame.0 as usize % TABLES].get()).expect("not null").cast()
    }

    pub(super) fn page_record(&self, frame: HugeFrame) -> NonNull<PageRecord> {
        let number = (frame.0 >> 9).wrapping_sub(1) as usize % PAGES;
        NonNull::new(self.page_records[number].get()).expect("not null").cast()
    }

    /// The roots of the processes that have been named.
    pub(super) fn roots(&self) -> impl Iterator<Item = TableFrame> {
        self.roots.borrow().into_iter().flatten()
    }

    /// The count of further users of a table.
    pub(super) fn users(&self, frame: TableFrame) -> &Word {
        let word = self.record(frame).cast::<Word>().as_ptr().wrapping_add(USERS);
        // SAFETY: the record is there as long as the world, and this word of it is the count, an atomic.
        unsafe { &*word }
    }

    /// The next process that is named has this root.
    pub(super) fn add_process(&self, root: TableFrame) {
        let mut roots = self.roots.borrow_mut();
        *roots.iter_mut().find(|place| place.is_none()).expect("fewer processes") = Some(root);
    }

    /// What an entry is called: `P1.pud[4]`, or `T3[0]` in a table of leaves.
    pub(super) fn name_of(&self, frame: TableFrame, index: usize) -> String {
        for (number, &root) in self.roots.borrow().iter().flatten().enumerate() {
            if root == frame {
                return format!("P{}.pgd[{index}]", number + 1);
            }
            if self.peek(root, 0) == Some(frame) {
                return format!("P{}.pud[{index}]", number + 1);
            }
        }
        format!("T{}[{index}]", frame.0)
    }

    /// The table whose record this head is the first field of.
    pub(super) fn frame_of(&self, head: NonNull<hugewalk::rcu::RcuHead>) -> TableFrame {
        let offset = head.as_ptr().addr() - self.records.as_ptr().addr();
        TableFrame((offset / size_of::<TableRecord>()) as u64)
    }

    fn life_of(&self, frame: TableFrame) -> Object {
        let record = self.record(frame).as_ptr().addr();
        // Addresses of its own: nothing else in the record lies at an odd half of a word.
        Object { address: record + 2, name: Some((frame.0 as u32) << 10 | 1022) }
    }

    fn lock_life_of(&self, frame: TableFrame) -> Object {
        let record = self.record(frame).as_ptr().addr();
        Object { address: record + 10, name: Some((frame.0 as u32) << 10 | 1023) }
    }

    /// Is this the address of an entry of a table?
    #[inline]
    pub(super) fn is_entry(&self, address: usize) -> bool {
        address.wrapping_sub(self.pages.as_ptr().addr()) < 4096 * TABLES
    }

    /// Where a word or lock of the engine lies.
    #[inline]
    pub(super) fn place(&self, address: usize) -> Place {
        let within = |start: usize, size: usize, count: usize| {
            let offset = address.wrapping_sub(start);
            (offset < size * count).then(|| (offset / size, offset % size))
        };
        if let Some((table, offset)) = within(self.pages.as_ptr().addr(), 4096, TABLES) {
            return Place::Entry(TableFrame(table as u64), offset / 8);
        }
        if let Some((table, offset)) = within(self.records.as_ptr().addr(), size_of::<TableRecord>(), TABLES)
        {
            return Place::Record(TableFrame(table as u64), offset / 8);
        }
        match within(self.page_records.as_ptr().addr(), size_of::<PageRecord>(), PAGES) {
            Some((page, offset)) => Place::PageRecord(page * 16 + offset / 8),
            None => Place::Elsewhere,
        }
    }

    /// The operation on something at this place: its name, and the table whose life it depends on.
    #[inline]
    pub(super) fn op(&self, place: Place, address: usize, kind: Kind, lock: bool) -> Op {
        let (name, table) = match place {
            Place::Entry(frame, index) => (Some((frame.0 as u32) << 10 | index as u32), Some(frame)),
            Place::Record(frame, word) => (Some((frame.0 as u32) << 10 | 512 | word as u32), Some(frame)),
            Place::PageRecord(word) => (Some((TABLES as u32) << 10 | word as u32), None),
            Place::Elsewhere => (None, None),
        };
        let object = Object { address, name };
        let op = if kind == Kind::Read { Op::read(object) } else { Op::write(object) };
        match table {
            Some(frame) if lock => op.and(self.lock_life_of(frame), Kind::Read),
            Some(frame) => op.and(self.life_of(frame), Kind::Read),
            None => op,
        }
    }

    /// The parent entry that the walk of this thread, if it is watched, came by to an entry of a table of leaves. What is
    /// checked of the access depends on it, so it belongs to what the access touches.
    pub(super) fn parent_of(&self, frame: TableFrame, index: usize) -> Option<Object> {
        let watch = self.watch.borrow()[in_thread()?];
        let (root, address) = (watch.root?, watch.address.as_u64());
        if index != (address >> 21 & 511) as usize || frame == root {
            return None;
        }
        let pud = self.peek(root, address >> 39).filter(|&pud| pud != frame)?;
        let index = (address >> 30 & 511) as usize;
        let address = self.entries(pud).as_ptr().addr() + index * 8;
        Some(Object { address, name: Some((pud.0 as u32) << 10 | index as u32) })
    }

    /// The table behind an entry, as it is now: no access, no scheduling point.
    pub(super) fn peek(&self, table: TableFrame, index: u64) -> Option<TableFrame> {
        self.peek_raw(table, index).table()
    }

    pub(super) fn peek_raw(&self, table: TableFrame, index: u64) -> RawEntry {
        // SAFETY: the page is there as long as the world; its words are atomics.
        let words = unsafe { self.entries(table).as_ref() };
        RawEntry::from_bits(words[index as usize & (ENTRIES - 1)].raw().load(Ordering::Relaxed))
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
            journal(words[index].raw());
        }
    }

    /// All that changes in a run and is not an entry of a table: the world itself, and the records that are in use.
    fn pieces(&'static self, each: &mut dyn FnMut(*mut u8, usize)) {
        each(std::ptr::from_ref(self).cast_mut().cast(), size_of::<Self>());
        let allocated = *self.allocated.borrow();
        for (owner, &count) in allocated.iter().enumerate().filter(|&(_, &count)| count > 0) {
            let first = if owner == MAX_THREADS { 1 } else { OF_SETUP + owner * OF_THREAD };
            each(self.records[first].get().cast(), count * size_of::<TableRecord>());
        }
        if self.next_page.get() > 0 {
            each(self.page_records[0].get().cast(), self.next_page.get() * size_of::<PageRecord>());
        }
    }
}

const _: () = assert!(size_of::<TablePage>() == 4096 && size_of::<AtomicU64>() == size_of::<Word>());
