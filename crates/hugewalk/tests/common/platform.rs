//! The platform itself.

use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::collections::BTreeMap;

use hugewalk::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};
use hugewalk::error::OutOfMemory;
use hugewalk::platform::{Barriers, ENTRIES, Event, Hugewalk, Levels, PageRecord, Platform, TableRecord};
use hugewalk::rcu::EpochRcu;
use hugewalk::sync::Parker;
use parking_lot::Mutex;

use super::cpu::Tlb;
use super::locks::{Alone, Spinning};
use super::memory::Contents;
use super::tables::{Frames, Region};
use super::{inject, interrupt};

const TABLES: usize = 1024;
/// How many huge pages of each size there can be.
const HUGE: [usize; 2] = [8192, 64];
/// Frame numbers of the first huge page of each size.
const FIRST: [u64; 2] = [1 << 20, 1 << 28];
/// Entries of a table that is free: present, and of no frame there is.
const FREED_ENTRY: u64 = 0x000f_dead_beef_d001;

/// The host of these tests.
pub(crate) struct Bench {
    levels: Levels,
    /// The frame numbers of both sizes start at the same place: a frame may be a large page now, and a small one later.
    one_memory: bool,
    mmap_min_addr: u64,
    entries: Region,
    table_records: Region,
    page_records: [Region; 2],
    tables: Mutex<Frames>,
    huge: [Mutex<Huge>; 2],
    events: Mutex<Vec<Event>>,
}

struct Huge {
    frames: Frames,
    contents: BTreeMap<usize, Contents>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_levels(Levels::Four)
    }

    /// Large and small pages come out of the same memory.
    pub(crate) fn with_one_memory() -> Self {
        Self { one_memory: true, ..Self::new() }
    }

    pub(crate) fn with_mmap_min_addr(mmap_min_addr: u64) -> Self {
        Self { mmap_min_addr, ..Self::new() }
    }

    pub(crate) fn with_levels(levels: Levels) -> Self {
        let huge = |size: HugeSize| {
            let frames = Frames::new(HUGE[index(size)]);
            Mutex::new(Huge { frames, contents: BTreeMap::new() })
        };
        let page = size_of::<PageRecord>();
        Self {
            levels,
            one_memory: false,
            mmap_min_addr: 65536,
            entries: Region::new(ENTRIES * 8, TABLES, 4096),
            table_records: Region::new(size_of::<TableRecord>(), TABLES, align_of::<TableRecord>()),
            page_records: HUGE.map(|count| Region::new(page, count, align_of::<PageRecord>())),
            tables: Mutex::new(Frames::new(TABLES)),
            huge: HugeSize::ALL.map(huge),
            events: Mutex::new(Vec::new()),
        }
    }

    /// Page tables in use, roots and those that wait for a grace period included.
    pub(crate) fn tables_in_use(&self) -> usize {
        self.tables.lock().in_use()
    }

    /// Huge pages that a pool has.
    pub(crate) fn huge_in_use(&self, size: HugeSize) -> usize {
        self.huge[index(size)].lock().frames.in_use()
    }

    /// The tracepoints passed since the last call.
    pub(crate) fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock())
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
            let mut huge = self.huge[index(size)].lock();
            let contents = huge.contents.get_mut(&number);
            work(contents.unwrap_or_else(|| panic!("{frame:?} is used, and it is free")))
        })
    }

    fn first(&self, size: HugeSize) -> u64 {
        FIRST[if self.one_memory { 0 } else { index(size) }]
    }

    /// The size of the page at a frame, and its number among the pages of that size.
    fn locate(&self, frame: HugeFrame) -> (HugeSize, usize) {
        let number = |size| {
            let offset = frame.0.checked_sub(self.first(size))?;
            offset.is_multiple_of(pages(size)).then_some(usize::try_from(offset / pages(size)).unwrap())
        };
        let is_used = |size| number(size).is_some_and(|at| self.huge[index(size)].lock().frames.is_used(at));
        let by_number = if frame.0 >= FIRST[1] { HugeSize::Size1G } else { HugeSize::Size2M };
        let size = if self.one_memory && is_used(HugeSize::Size1G) { HugeSize::Size1G } else { by_number };
        (size, number(size).unwrap_or_else(|| panic!("{frame:?} is no huge page")))
    }

    fn table(&self, frame: TableFrame) -> usize {
        let number = usize::try_from(frame.0).unwrap() - 1;
        assert!(self.tables.lock().is_used(number), "table {frame:?} is used, and it is free");
        number
    }
}

fn index(size: HugeSize) -> usize {
    usize::from(size == HugeSize::Size1G)
}

fn pages(size: HugeSize) -> u64 {
    size.bytes() >> 12
}

// SAFETY: full fences on both sides.
unsafe impl Barriers for Bench {
    type Word = AtomicU64;
    type SpinLock = Spinning;

    fn light(&self) {
        inject::exempt(|| interrupt::reach(interrupt::At::Light));
        fence(Ordering::SeqCst);
    }
    fn heavy(&self) {
        inject::exempt(|| interrupt::reach(interrupt::At::Heavy));
        fence(Ordering::SeqCst);
    }
    unsafe fn pause(&self) {
        panic!("a grace period waits for this very thread");
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
}

// SAFETY: `Frames` hands each frame out once; regions stay where they are; a page's record is found by its frame alone,
// and starts as zeroes. The only processor is the one in `cpu.rs`, whose TLB is flushed at once.
unsafe impl Platform for Bench {
    type Protocol = Hugewalk;
    type SleepMutex = Alone;
    type SleepRwLock = Alone;
    type Parker = NobodyElse;
    type Rcu = EpochRcu<Self>;
    type MmContext = Tlb;

    fn levels(&self) -> Levels {
        self.levels
    }

    fn mmap_min_addr(&self) -> VirtAddr {
        VirtAddr::new(self.mmap_min_addr)
    }

    fn new_context(&self) -> Result<Tlb, OutOfMemory> {
        inject::permit().then(Tlb::default).ok_or(OutOfMemory)
    }

    fn alloc_table(&self) -> Option<TableFrame> {
        if !inject::permit() {
            return None;
        }
        let number = inject::exempt(|| self.tables.lock().take())?;
        let frame = TableFrame(number as u64 + 1);
        // SAFETY: a frame just taken; nobody else has it.
        unsafe { self.entries.at(number).write_bytes(0, ENTRIES * 8) };
        Some(frame)
    }

    unsafe fn free_table(&self, frame: TableFrame) {
        inject::exempt(|| interrupt::reach(interrupt::At::FreeTable));
        // SAFETY: still allocated.
        let entries = unsafe { self.table_entries(frame) };
        // SAFETY: nobody reaches the table any more, but by mistake.
        for entry in unsafe { entries.as_ref() } {
            entry.store(FREED_ENTRY, Ordering::Relaxed);
        }
        inject::exempt(|| self.tables.lock().give(frame.0 as usize - 1));
    }

    unsafe fn table_entries(&self, frame: TableFrame) -> NonNull<[AtomicU64; ENTRIES]> {
        self.entries.at(self.table(frame)).cast()
    }

    unsafe fn table_record(&self, frame: TableFrame) -> NonNull<TableRecord> {
        self.table_records.at(self.table(frame)).cast()
    }

    fn alloc_huge(&self, size: HugeSize) -> Option<HugeFrame> {
        inject::exempt(|| interrupt::reach(interrupt::At::AllocHuge));
        if !inject::permit() {
            return None;
        }
        inject::exempt(|| {
            let mut huge = self.huge[index(size)].lock();
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
            let mut huge = self.huge[index(size)].lock();
            huge.frames.give(number);
            huge.contents.remove(&number);
        });
    }

    unsafe fn page_record(&self, frame: HugeFrame) -> NonNull<PageRecord> {
        inject::exempt(|| interrupt::reach(interrupt::At::Record));
        if self.one_memory {
            let unit = (frame.0 - FIRST[0]) / pages(HugeSize::Size2M);
            return self.page_records[0].at(usize::try_from(unit).unwrap()).cast();
        }
        let (size, number) = self.locate(frame);
        self.page_records[index(size)].at(number).cast()
    }

    fn has_page_record(&self, frame: HugeFrame) -> bool {
        let sizes = if self.one_memory { &HugeSize::ALL[..1] } else { &HugeSize::ALL[..] };
        sizes.iter().any(|&size| {
            let offset = frame.0.checked_sub(FIRST[index(size)]);
            offset.is_some_and(|at| {
                at.is_multiple_of(pages(size)) && at / pages(size) < HUGE[index(size)] as u64
            })
        })
    }

    // Contents are kept by a rule of their own (`memory.rs`), not byte by byte.
    unsafe fn huge_bytes(&self, _: HugeFrame) -> Option<NonNull<u8>> {
        None
    }

    unsafe fn zero_huge(&self, frame: HugeFrame, _: HugeSize) {
        self.with(frame, |contents| *contents = Contents::zero());
    }

    unsafe fn copy_huge(&self, from: HugeFrame, to: HugeFrame, _: HugeSize) {
        inject::exempt(|| interrupt::reach(interrupt::At::Copy));
        let copy = inject::exempt(|| self.with(from, |contents| contents.clone()));
        self.with(to, |contents| *contents = copy);
    }

    unsafe fn read_huge(&self, frame: HugeFrame, offset: u64, into: &mut [u8]) {
        self.with(frame, |contents| {
            for (at, byte) in (offset..).zip(into) {
                *byte = contents.read(at);
            }
        });
    }

    unsafe fn write_huge(&self, frame: HugeFrame, offset: u64, from: &[u8]) {
        self.with(frame, |contents| {
            for (at, &byte) in (offset..).zip(from) {
                contents.write(at, byte);
            }
        });
    }

    unsafe fn clear_huge(&self, frame: HugeFrame, offset: u64, length: u64) {
        assert!(offset + length <= self.locate(frame).0.bytes());
        self.with(frame, |contents| contents.clear(offset, length));
    }

    fn flush_tlb(&self, context: &Tlb, range: Range<VirtAddr>) {
        inject::exempt(|| interrupt::reach(interrupt::At::Flush));
        inject::exempt(|| context.flush(&range));
    }

    fn trace(&self, event: Event) {
        inject::exempt(|| self.events.lock().push(event));
    }
}
