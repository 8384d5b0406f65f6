//! The platform itself.

use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::thread::LocalKey;

use hugewalk::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};
use hugewalk::arch::{AnyPaging, Barrier, Paging, X86_64};
use hugewalk::error::{LimitReached, MemoryError, OutOfMemory};
use hugewalk::platform::{
    self, Barriers, Event, Flush, Invalidation, Limits, Locks, Notify, PageRecord, Pages, Platform,
    TableRecord, Tables, Trace,
};
use hugewalk::sync::Parker;
use parking_lot::Mutex;

use super::cpu::Tlb;
use super::locks::{Alone, Leaf, Sections, Spinning, may_sleep, waits_for_processors};
use super::memory::Contents;
use super::tables::{Frames, Region};
use super::{inject, interrupt, secondary};

const TABLES: usize = 1024;
/// How many huge pages of a size there can be.
fn most(size: HugeSize) -> usize {
    if size.bytes() < super::GIB { 8192 } else { 64 }
}

/// Entries of a table that is free: present, and of no frame there is.
const FREED_ENTRY: u64 = 0x000f_dead_beef_d001;

thread_local! {
    /// Do readers mark locks in lines of their own?
    pub(crate) static READER_BIAS: Cell<bool> = const { Cell::new(false) };
}

/// A group of processes that pays for pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group(pub(crate) u8);

thread_local! {
    /// Who pays for what is taken now, if anybody does.
    pub(crate) static PAYER: Cell<Option<Group>> = const { Cell::new(None) };
    /// How many pages may be charged before the limit is reached, if there is one.
    pub(crate) static CHARGES_LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    /// How many pages may be charged as reserved before that limit is reached, if there is one.
    pub(crate) static RESERVABLE_LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    /// Has the task a signal to take?
    pub(crate) static SIGNALLED: Cell<bool> = const { Cell::new(false) };
    /// Has a limit been reached?
    pub(crate) static LIMIT_REACHED: Cell<bool> = const { Cell::new(false) };
}

/// What a group has paid: as large as a charge may be, so that no record is too small for two of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Receipt(Group, u64);

/// What groups have paid for, by size.
#[derive(Default)]
struct Paid(Mutex<BTreeMap<(usize, Group), u64>>);

impl Paid {
    fn by(&self, size: HugeSize, group: Group) -> u64 {
        self.0.lock().get(&(size.index(), group)).copied().unwrap_or(0)
    }

    fn by_all(&self, size: HugeSize) -> u64 {
        self.0.lock().iter().filter(|((index, _), _)| *index == size.index()).map(|(_, pages)| pages).sum()
    }

    /// The group of this thread pays, if that leaves it within the limit.
    fn charge(
        &self,
        left: &'static LocalKey<Cell<Option<u64>>>,
        size: HugeSize,
        pages: u64,
    ) -> Result<Option<Receipt>, LimitReached> {
        let Some(group) = PAYER.get() else { return Ok(None) };
        if left.get().is_some_and(|left| pages > left) {
            LIMIT_REACHED.set(true);
            return Err(LimitReached { asked: pages });
        }
        left.set(left.get().map(|left| left - pages));
        inject::exempt(|| *self.0.lock().entry((size.index(), group)).or_default() += pages);
        Ok(Some(Receipt(group, 0)))
    }

    fn give_back(&self, Receipt(group, _): Receipt, size: HugeSize, pages: u64) {
        inject::exempt(|| {
            let mut paid = self.0.lock();
            let left = paid.get_mut(&(size.index(), group)).and_then(|had| had.checked_sub(pages));
            let left =
                left.unwrap_or_else(|| panic!("{group:?} gets back {pages} pages more than it has paid for"));
            paid.insert((size.index(), group), left);
        });
    }
}

/// What is said to a platform about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It was stored, or is to be looked at again.
    Stored(VirtAddr, HugeSize, Barrier),
    /// Its page is about to become one that can be executed.
    Execution,
}

/// The host of these tests.
pub(crate) struct Bench {
    /// Pages in use.
    charged: Paid,
    /// Reserved pages.
    charged_reserved: Paid,
    paging: AnyPaging,
    /// The frame numbers of both sizes start at the same place: a frame may be a large page now, and a small one later.
    one_memory: bool,
    mmap_min_addr: u64,
    entries: Region,
    table_records: Region,
    page_records: Vec<Region>,
    tables: Mutex<Frames>,
    huge: Vec<Mutex<Huge>>,
    events: Mutex<Vec<Event>>,
    last_flush: Mutex<Option<Flush>>,
    freed_files: Mutex<Vec<u64>>,
    told: Mutex<Vec<Told>>,
    /// Pages whose memory fails when it is read.
    bad: Mutex<BTreeSet<HugeFrame>>,
}

struct Huge {
    frames: Frames,
    contents: BTreeMap<usize, Contents>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_paging(super::paging())
    }

    /// Large and small pages come out of the same memory.
    pub(crate) fn with_one_memory() -> Self {
        Self { one_memory: true, ..Self::new() }
    }

    pub(crate) fn with_mmap_min_addr(mmap_min_addr: u64) -> Self {
        Self { mmap_min_addr, ..Self::new() }
    }

    pub(crate) fn with_levels(levels: X86_64) -> Self {
        Self::with_paging(levels.into())
    }

    pub(crate) fn with_paging(paging: AnyPaging) -> Self {
        let geometry = paging.geometry();
        let (page, table) = (size_of::<PageRecord>(), geometry.base_bytes() as usize);
        let sizes = || paging.leaves().iter().copied().map(most);
        let huge = |count| Mutex::new(Huge { frames: Frames::new(count), contents: BTreeMap::new() });
        Self {
            charged: Paid::default(),
            charged_reserved: Paid::default(),
            paging,
            one_memory: false,
            mmap_min_addr: 65536,
            entries: Region::new(table, TABLES, table),
            table_records: Region::new(size_of::<TableRecord>(), TABLES, align_of::<TableRecord>()),
            page_records: sizes().map(|count| Region::new(page, count, align_of::<PageRecord>())).collect(),
            tables: Mutex::new(Frames::new(TABLES)),
            huge: sizes().map(huge).collect(),
            events: Mutex::new(Vec::new()),
            last_flush: Mutex::new(None),
            freed_files: Mutex::new(Vec::new()),
            told: Mutex::default(),
            bad: Mutex::new(BTreeSet::new()),
        }
    }

    /// Page tables in use, roots and those that wait for a grace period included.
    pub(crate) fn tables_in_use(&self) -> usize {
        self.tables.lock().in_use()
    }

    /// Huge pages that a pool has.
    pub(crate) fn huge_in_use(&self, size: HugeSize) -> usize {
        self.huge[size.index()].lock().frames.in_use()
    }

    /// Entries of a table page.
    fn entries(&self) -> usize {
        1 << self.paging.geometry().index_bits
    }

    /// Frames of a table.
    fn table_frames(&self) -> u64 {
        self.paging.geometry().base_bytes() >> 12
    }

    /// Pages of a size that a group has paid for.
    pub(crate) fn charged(&self, size: HugeSize, group: Group) -> u64 {
        self.charged.by(size, group)
    }

    /// Pages of a size that have been paid for.
    pub(crate) fn all_charged(&self, size: HugeSize) -> u64 {
        self.charged.by_all(size)
    }

    /// Pages of a size that a group has paid for as reserved.
    pub(crate) fn charged_reserved(&self, size: HugeSize, group: Group) -> u64 {
        self.charged_reserved.by(size, group)
    }

    /// Pages of a size that have been paid for as reserved.
    pub(crate) fn all_charged_reserved(&self, size: HugeSize) -> u64 {
        self.charged_reserved.by_all(size)
    }

    /// The tracepoints passed since the last call.
    pub(crate) fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock())
    }

    /// The files that are gone, in the order in which they went.
    pub(crate) fn freed_files(&self) -> Vec<u64> {
        self.freed_files.lock().clone()
    }

    /// The last flush, unless it was taken already.
    pub(crate) fn take_flush(&self) -> Option<Flush> {
        self.last_flush.lock().take()
    }

    /// What was said about entries since the last call.
    pub(crate) fn take_told(&self) -> Vec<Told> {
        std::mem::take(&mut *self.told.lock())
    }

    /// From now on the memory of the page fails when it is read.
    pub(crate) fn spoil(&self, frame: HugeFrame) {
        inject::exempt(|| self.bad.lock().insert(frame));
    }

    fn read_memory(&self, frame: HugeFrame) -> Result<(), MemoryError> {
        inject::exempt(|| if self.bad.lock().contains(&frame) { Err(MemoryError) } else { Ok(()) })
    }

    /// One byte of a huge page.
    pub(crate) fn byte(&self, frame: HugeFrame, offset: u64) -> u8 {
        self.with(frame, |contents| contents.read(offset))
    }

    pub(crate) fn set_byte(&self, frame: HugeFrame, offset: u64, value: u8) {
        self.with(frame, |contents| contents.write(offset, value));
    }

    fn with<R>(&self, frame: HugeFrame, work: impl FnOnce(&mut Contents) -> R) -> R {
        inject::exempt(|| {
            let (size, number) = self.locate(frame);
            let mut huge = self.huge[size.index()].lock();
            let contents = huge.contents.get_mut(&number);
            work(contents.unwrap_or_else(|| panic!("{frame:?} is used, and it is free")))
        })
    }

    fn first(&self, size: HugeSize) -> u64 {
        // Far enough apart for all pages, and a multiple of each size.
        (1 + if self.one_memory { 0 } else { size.index() as u64 }) << 32
    }

    /// The size of the page at a frame, and its number among the pages of that size.
    fn locate(&self, frame: HugeFrame) -> (HugeSize, usize) {
        let number = |size| {
            let offset = frame.0.checked_sub(self.first(size))?;
            offset.is_multiple_of(pages(size)).then_some(usize::try_from(offset / pages(size)).unwrap())
        };
        let is_used =
            |size: HugeSize| number(size).is_some_and(|at| self.huge[size.index()].lock().frames.is_used(at));
        let sizes = self.paging.leaves();
        let by_number = (frame.0 >> 32).checked_sub(1).and_then(|index| sizes.get(index as usize));
        let in_use = sizes.iter().rev().find(|&&size| self.one_memory && is_used(size));
        let size = in_use.or(by_number).copied();
        let found = size.and_then(|size| Some((size, number(size)?)));
        found.unwrap_or_else(|| panic!("{frame:?} is no huge page"))
    }

    fn table(&self, frame: TableFrame) -> usize {
        assert!(frame.0.is_multiple_of(self.table_frames()), "{frame:?} is no table");
        let number = usize::try_from(frame.0 / self.table_frames()).unwrap() - 1;
        assert!(self.tables.lock().is_used(number), "table {frame:?} is used, and it is free");
        number
    }
}

fn pages(size: HugeSize) -> u64 {
    size.bytes() >> 12
}

// SAFETY: full fences on both sides.
unsafe impl Barriers for Bench {
    type Word = AtomicU64;
    type SpinLock = Leaf;

    fn light(&self) {
        inject::exempt(|| interrupt::reach(interrupt::At::Light));
        fence(Ordering::SeqCst);
    }
    fn heavy(&self) {
        waits_for_processors("heavy");
        inject::exempt(|| interrupt::reach(interrupt::At::Heavy));
        fence(Ordering::SeqCst);
    }
    unsafe fn pause(&self) {
        may_sleep("pause");
        interrupt::pause();
    }
}

/// The place where the only thread would sleep.
pub(crate) struct NobodyElse(AtomicBool);

// SAFETY: there is one thread.
unsafe impl Parker for NobodyElse {
    fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    fn park(&self) {
        assert!(self.0.swap(false, Ordering::Relaxed), "there is nobody who would wake the only thread");
    }

    fn unpark(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_interrupted(&self) -> bool {
        SIGNALLED.get()
    }
}

// SAFETY: `Frames` hands each frame out once; regions stay where they are; a page's record is found by its frame alone,
// and starts as zeroes. The only processor is the one in `cpu.rs`, whose TLB is flushed at once.
unsafe impl Tables for Bench {
    type Paging = AnyPaging;
    fn paging(&self) -> AnyPaging {
        self.paging
    }
    fn alloc_table(&self) -> Option<TableFrame> {
        may_sleep("alloc_table");
        if !inject::permit() {
            return None;
        }
        let number = inject::exempt(|| self.tables.lock().take())?;
        let frame = TableFrame((number as u64 + 1) * self.table_frames());
        // SAFETY: a frame just taken; nobody else has it.
        unsafe { self.entries.at(number).write_bytes(0, self.entries() * 8) };
        Some(frame)
    }
    unsafe fn free_table(&self, frame: TableFrame) {
        inject::exempt(|| interrupt::reach(interrupt::At::FreeTable));
        // SAFETY: still allocated.
        let entries = unsafe { self.table_entries(frame) };
        let entries = NonNull::slice_from_raw_parts(entries, self.entries());
        // SAFETY: nobody reaches the table any more, but by mistake.
        for entry in unsafe { entries.as_ref() } {
            entry.store(FREED_ENTRY, Ordering::Relaxed);
        }
        inject::exempt(|| self.tables.lock().give((frame.0 / self.table_frames()) as usize - 1));
    }
    unsafe fn table_entries(&self, frame: TableFrame) -> NonNull<AtomicU64> {
        self.entries.at(self.table(frame)).cast()
    }
    unsafe fn table_record(&self, frame: TableFrame) -> NonNull<TableRecord> {
        self.table_records.at(self.table(frame)).cast()
    }
}

// SAFETY: a huge page is handed out once until it is given back, and its record stays.
unsafe impl Pages for Bench {
    fn alloc_huge(&self, size: HugeSize) -> Option<HugeFrame> {
        may_sleep("alloc_huge");
        inject::exempt(|| interrupt::reach(interrupt::At::AllocHuge));
        if !inject::permit() {
            return None;
        }
        inject::exempt(|| {
            let mut huge = self.huge[size.index()].lock();
            let number = huge.frames.take()?;
            huge.contents.insert(number, Contents::garbage());
            Some(HugeFrame(self.first(size) + number as u64 * pages(size)))
        })
    }
    unsafe fn free_huge(&self, frame: HugeFrame, size: HugeSize) {
        inject::exempt(|| interrupt::reach(interrupt::At::FreeHuge));
        inject::exempt(|| {
            let (found, number) = self.locate(frame);
            assert_eq!(found, size, "{frame:?} is freed with another size");
            let mut huge = self.huge[size.index()].lock();
            huge.frames.give(number);
            huge.contents.remove(&number);
        });
    }
    unsafe fn page_record(&self, frame: HugeFrame) -> NonNull<PageRecord> {
        inject::exempt(|| interrupt::reach(interrupt::At::Record));
        if self.one_memory {
            let smallest = self.paging.leaves()[0];
            let unit = (frame.0 - self.first(smallest)) / pages(smallest);
            return self.page_records[0].at(usize::try_from(unit).unwrap()).cast();
        }
        let (size, number) = self.locate(frame);
        self.page_records[size.index()].at(number).cast()
    }
    fn has_page_record(&self, frame: HugeFrame) -> bool {
        let sizes = self.paging.leaves();
        let sizes = if self.one_memory { &sizes[..1] } else { sizes };
        sizes.iter().any(|&size| {
            let offset = frame.0.checked_sub(self.first(size));
            offset.is_some_and(|at| at.is_multiple_of(pages(size)) && at / pages(size) < most(size) as u64)
        })
    }
}

// SAFETY: the address is that of the page.
unsafe impl platform::Contents for Bench {
    // Contents are kept by a rule of their own (`memory.rs`), not byte by byte.
    unsafe fn huge_bytes(&self, _: HugeFrame) -> Option<NonNull<u8>> {
        None
    }
    unsafe fn zero_huge(&self, frame: HugeFrame, _: HugeSize) {
        may_sleep("zero_huge");
        inject::exempt(|| interrupt::reach(interrupt::At::Fill));
        self.with(frame, |contents| *contents = Contents::zero());
    }
    unsafe fn copy_huge(&self, from: HugeFrame, to: HugeFrame, _: HugeSize) -> Result<(), MemoryError> {
        may_sleep("copy_huge");
        inject::exempt(|| interrupt::reach(interrupt::At::Copy));
        self.read_memory(from)?;
        let copy = inject::exempt(|| self.with(from, |contents| contents.clone()));
        self.with(to, |contents| *contents = copy);
        Ok(())
    }
    unsafe fn read_huge(&self, frame: HugeFrame, offset: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        self.read_memory(frame)?;
        self.with(frame, |contents| {
            for (at, byte) in (offset..).zip(into) {
                *byte = contents.read(at);
            }
        });
        Ok(())
    }
    unsafe fn write_huge(&self, frame: HugeFrame, offset: u64, from: &[u8]) {
        if !from.is_empty() {
            inject::exempt(|| interrupt::reach(interrupt::At::Fill));
        }
        let whole = from.len() as u64 == self.locate(frame).0.bytes();
        self.with(frame, |contents| match *from {
            // A million entries of a map are slow.
            [first, ..] if whole && from.iter().all(|&byte| byte == first) => {
                *contents = Contents::same(first);
            }
            _ => (offset..).zip(from).for_each(|(at, &byte)| contents.write(at, byte)),
        });
    }
    unsafe fn clear_huge(&self, frame: HugeFrame, offset: u64, length: u64) {
        assert!(offset + length <= self.locate(frame).0.bytes());
        self.with(frame, |contents| contents.clear(offset, length));
    }
}

// SAFETY: the locks exclude as locks do.
unsafe impl Locks for Bench {
    type TableLock = Spinning;
    type SleepMutex = Alone;
    type SleepRwLock = Alone;
    type Parker = NobodyElse;
    type Rcu = Sections;
    // The locks are to see what would wait, but where a test says otherwise.
    fn reader_bias() -> bool {
        READER_BIAS.get()
    }
}

// SAFETY: a flush returns when no processor uses what it names any more.
unsafe impl platform::Tlb for Bench {
    type MmContext = Tlb;
    fn new_context(&self) -> Result<Tlb, OutOfMemory> {
        inject::permit().then(Tlb::default).ok_or(OutOfMemory)
    }
    fn flush_tlb(&self, context: &Tlb, flush: Flush) {
        waits_for_processors("flush_tlb");
        inject::exempt(|| secondary::in_flush(|| _ = interrupt::reach(interrupt::At::Flush)));
        inject::exempt(|| {
            context.secondary.check_flush(&flush, !matches!(self.paging, AnyPaging::X86_64(_)));
            context.flush(&flush.range);
            *self.last_flush.lock() = Some(flush);
        });
    }
    fn entry_stored(&self, _: &Tlb, address: VirtAddr, size: HugeSize, due: Barrier) {
        inject::exempt(|| self.told.lock().push(Told::Stored(address, size, due)));
    }
    fn before_execution(&self, _: HugeFrame, _: HugeSize) {
        inject::exempt(|| self.told.lock().push(Told::Execution));
    }
}

impl Notify for Bench {
    fn handler_called(&self, _: &Tlb) {
        inject::exempt(|| interrupt::reach(interrupt::At::HandlerCalled));
    }
    fn file_freed(&self, file: u64) {
        inject::exempt(|| self.freed_files.lock().push(file));
    }
    fn has_secondary_mmus(&self, context: &Tlb) -> bool {
        context.secondary.is_attached()
    }
    fn invalidate_range_start(
        &self,
        context: &Tlb,
        range: &Range<VirtAddr>,
        why: Invalidation,
        may_block: bool,
    ) {
        may_sleep("invalidate_range_start");
        inject::exempt(|| {
            context.secondary.start(range, why, may_block);
            interrupt::reach(interrupt::At::Told);
        });
    }
    fn invalidate_range_end(&self, context: &Tlb, range: &Range<VirtAddr>, why: Invalidation) {
        may_sleep("invalidate_range_end");
        inject::exempt(|| {
            interrupt::reach(interrupt::At::Told);
            context.secondary.end(range, why);
        });
    }
}

impl Trace for Bench {
    fn trace(&self, event: Event) {
        if event.is_of_tables() {
            inject::exempt(|| self.events.lock().push(event));
        }
        if matches!(event, Event::Faulted { .. }) {
            inject::exempt(|| interrupt::reach(interrupt::At::Faulted));
        }
    }
}

impl Limits for Bench {
    type Charge = Receipt;
    fn try_charge(&self, size: HugeSize, pages: u64) -> Result<Option<Receipt>, LimitReached> {
        may_sleep("try_charge");
        self.charged.charge(&CHARGES_LEFT, size, pages)
    }
    fn uncharge(&self, receipt: Receipt, size: HugeSize, pages: u64) {
        self.charged.give_back(receipt, size, pages);
    }
    fn try_charge_reserved(&self, size: HugeSize, pages: u64) -> Result<Option<Receipt>, LimitReached> {
        may_sleep("try_charge_reserved");
        inject::exempt(|| interrupt::reach(interrupt::At::Charge));
        self.charged_reserved.charge(&RESERVABLE_LEFT, size, pages)
    }
    fn uncharge_reserved(&self, receipt: Receipt, size: HugeSize, pages: u64) {
        self.charged_reserved.give_back(receipt, size, pages);
    }
    fn mmap_min_addr(&self) -> VirtAddr {
        VirtAddr::new(self.mmap_min_addr)
    }
}

// SAFETY: the parts above are those of one platform.
unsafe impl Platform for Bench {}
