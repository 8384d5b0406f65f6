//! What the miniature kernel runs on: memory, and processors that walk the tables.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst, fence};

use hugewalk::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};
use hugewalk::arch::{PMD_SIZE, X86_64};
use hugewalk::error::OutOfMemory;
use hugewalk::platform::{
    Barriers, Contents, Event, Flush, Limits, Locks, Notify, PageRecord, Pages, Platform, TableRecord,
    Tables, Tlb, Trace,
};
use hugewalk::rcu::EpochRcu;
use hugewalk::sync::Parker;
use parking_lot::{Condvar, Mutex, RawMutex, RawRwLock, RwLock};

/// Pages of 4 KiB, for tables and base pages, and huge pages. Frames of the first begin at `FIRST_SMALL`.
const SMALL: usize = 512;
const HUGE: usize = 8;
const FIRST_SMALL: u64 = 1 << 10;
const FIRST_HUGE: u64 = 1 << 18;
pub(crate) const SMALL_BYTES: u64 = 4096;
pub(crate) const ENTRIES: usize = X86_64::ENTRIES;

/// Bits of an entry.
pub(crate) const PRESENT: u64 = 1;
pub(crate) const WRITABLE: u64 = 1 << 1;
pub(crate) const USER: u64 = 1 << 2;
const LEAF: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

pub(crate) struct Machine {
    small: Box<[[AtomicU64; ENTRIES]]>,
    table_records: Box<[TableRecord]>,
    free_small: Mutex<Vec<usize>>,
    huge: NonNull<u8>,
    page_records: Box<[PageRecord]>,
    free_huge: Mutex<Vec<usize>>,
    /// Held in read by each access of a processor. A flush waits for all of them.
    accesses: RwLock<()>,
    shared: AtomicUsize,
    unshared: AtomicUsize,
}

// SAFETY: the memory behind `huge` is accessed by atomics only, and belongs to no thread.
unsafe impl Send for Machine {}
// SAFETY: as above.
unsafe impl Sync for Machine {}

const HUGE_LAYOUT: Layout = match Layout::from_size_align(HUGE * PMD_SIZE as usize, PMD_SIZE as usize) {
    Ok(layout) => layout,
    Err(_) => panic!(),
};

impl Machine {
    pub(crate) fn new() -> Self {
        // SAFETY: the layout is not empty.
        let huge = unsafe { alloc_zeroed(HUGE_LAYOUT) };
        Self {
            small: (0..SMALL).map(|_| [const { AtomicU64::new(0) }; ENTRIES]).collect(),
            table_records: (0..SMALL).map(|_| TableRecord::new()).collect(),
            free_small: Mutex::new((0..SMALL).collect()),
            huge: NonNull::new(huge).expect("16 MiB"),
            page_records: (0..HUGE).map(|_| PageRecord::new()).collect(),
            free_huge: Mutex::new((0..HUGE).collect()),
            accesses: RwLock::new(()),
            shared: AtomicUsize::new(0),
            unshared: AtomicUsize::new(0),
        }
    }

    /// Small pages and huge pages in use.
    pub(crate) fn in_use(&self) -> (usize, usize) {
        (SMALL - self.free_small.lock().len(), HUGE - self.free_huge.lock().len())
    }

    /// How many tables were shared and unshared so far.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.shared.load(SeqCst), self.unshared.load(SeqCst))
    }

    /// Two small pages of zeroes, or none.
    pub(crate) fn alloc_two(&self) -> Option<(TableFrame, TableFrame)> {
        let first = self.alloc_table()?;
        let second = self.alloc_table();
        if second.is_none() {
            // SAFETY: allocated just now.
            unsafe { self.free_table(first) };
        }
        Some((first, second?))
    }

    /// An entry of a table, or a word of a base page.
    pub(crate) fn entry(&self, table: TableFrame, index: usize) -> &AtomicU64 {
        &self.small[(table.0 - FIRST_SMALL) as usize][index]
    }

    /// What a processor does for one access: it walks the tables from the root, and loads a word, or stores one. `None` is a
    /// page fault.
    pub(crate) fn access(&self, root: TableFrame, address: VirtAddr, store: Option<u64>) -> Option<u64> {
        let _under_way = self.accesses.read();
        let mut table = root;
        for shift in [39, 30, 21, 12] {
            let index = (address.as_u64() >> shift) as usize % ENTRIES;
            let entry = self.entry(table, index).load(SeqCst);
            if entry & PRESENT == 0 || (store.is_some() && entry & WRITABLE == 0) {
                return None;
            }
            let frame = (entry & ADDRESS) >> 12;
            if shift > 12 && entry & LEAF == 0 {
                table = TableFrame(frame);
                continue;
            }
            let inside = address.as_u64() & ((1 << shift) - 1);
            let word = if shift == 12 {
                self.entry(TableFrame(frame), inside as usize / 8)
            } else {
                let offset = (frame - FIRST_HUGE) * SMALL_BYTES + (inside & !7);
                let word = self.huge.map_addr(|start| start.saturating_add(offset as usize));
                // SAFETY: inside the huge pages, which are accessed by atomics only.
                unsafe { word.cast().as_ref() }
            };
            if let Some(store) = store {
                word.store(store, SeqCst);
            }
            return Some(word.load(SeqCst));
        }
        None
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.huge.as_ptr(), HUGE_LAYOUT) };
    }
}

// SAFETY: two full fences are such a pair.
unsafe impl Barriers for Machine {
    type Word = AtomicU64;
    type SpinLock = RawMutex;
    fn light(&self) {
        fence(SeqCst);
    }
    fn heavy(&self) {
        fence(SeqCst);
    }
    unsafe fn pause(&self) {
        std::thread::yield_now();
    }
}

/// Where a task sleeps.
pub(crate) struct Bed(Mutex<bool>, Condvar);

// SAFETY: the mutex orders everything before `unpark` before everything after `park`.
unsafe impl Parker for Bed {
    fn new() -> Self {
        Self(Mutex::new(false), Condvar::new())
    }
    fn park(&self) {
        let mut token = self.0.lock();
        while !*token {
            self.1.wait(&mut token);
        }
        *token = false;
    }
    fn unpark(&self) {
        *self.0.lock() = true;
        self.1.notify_one();
    }
}

// SAFETY: a frame is either in its free list or allocated. Memory and records do not move as long as the machine exists. Each
// frame has its own record, and page records start as zeroes. A flush waits for all accesses, and none outlives its lock.
unsafe impl Tables for Machine {
    type Paging = X86_64;
    fn paging(&self) -> X86_64 {
        X86_64::FOUR_LEVELS
    }
    fn alloc_table(&self) -> Option<TableFrame> {
        let index = self.free_small.lock().pop()?;
        self.small[index].iter().for_each(|entry| entry.store(0, SeqCst));
        Some(TableFrame(FIRST_SMALL + index as u64))
    }
    unsafe fn free_table(&self, frame: TableFrame) {
        self.free_small.lock().push((frame.0 - FIRST_SMALL) as usize); // there is room for all: allocates nothing
    }
    unsafe fn table_entries(&self, frame: TableFrame) -> NonNull<AtomicU64> {
        NonNull::from(&self.small[(frame.0 - FIRST_SMALL) as usize]).cast()
    }
    unsafe fn table_record(&self, frame: TableFrame) -> NonNull<TableRecord> {
        NonNull::from(&self.table_records[(frame.0 - FIRST_SMALL) as usize])
    }
}

// SAFETY: a huge page is handed out once until it is given back, and its record stays.
unsafe impl Pages for Machine {
    fn alloc_huge(&self, size: HugeSize) -> Option<HugeFrame> {
        let index = if size == X86_64::SIZE_2M { self.free_huge.lock().pop()? } else { return None };
        Some(HugeFrame(FIRST_HUGE + index as u64 * ENTRIES as u64))
    }
    unsafe fn free_huge(&self, frame: HugeFrame, _: HugeSize) {
        self.free_huge.lock().push(huge_index(frame));
    }
    unsafe fn page_record(&self, frame: HugeFrame) -> NonNull<PageRecord> {
        NonNull::from(&self.page_records[huge_index(frame)])
    }
    fn has_page_record(&self, frame: HugeFrame) -> bool {
        frame.0 >= FIRST_HUGE && huge_index(frame) < HUGE && frame.fits(X86_64::SIZE_2M)
    }
}

// SAFETY: the address is that of the page.
unsafe impl Contents for Machine {
    unsafe fn huge_bytes(&self, frame: HugeFrame) -> Option<NonNull<u8>> {
        let offset = huge_index(frame) * PMD_SIZE as usize;
        Some(self.huge.map_addr(|start| start.saturating_add(offset)))
    }
}

// SAFETY: the locks exclude as locks do.
unsafe impl Locks for Machine {
    type TableLock = RawMutex;
    type SleepMutex = RawMutex;
    type SleepRwLock = RawRwLock;
    type Parker = Bed;
    type Rcu = EpochRcu<Self>;
}

// SAFETY: a flush returns when no processor uses what it names any more.
unsafe impl Tlb for Machine {
    type MmContext = ();
    fn new_context(&self) -> Result<(), OutOfMemory> {
        Ok(())
    }
    fn flush_tlb(&self, (): &(), _: Flush) {
        drop(self.accesses.write());
    }
}

impl Notify for Machine {}

impl Trace for Machine {
    fn trace(&self, event: Event) {
        match event {
            Event::Shared { .. } => self.shared.fetch_add(1, SeqCst),
            Event::Unshared { .. } => self.unshared.fetch_add(1, SeqCst),
            _ => 0,
        };
    }
}

impl Limits for Machine {
    type Charge = core::convert::Infallible;
}

// SAFETY: the parts above are those of one platform.
unsafe impl Platform for Machine {}

fn huge_index(frame: HugeFrame) -> usize {
    ((frame.0 - FIRST_HUGE) / ENTRIES as u64) as usize
}
