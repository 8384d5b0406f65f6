//! Platforms with one fault each: this crate's own host but for that.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use hugewalk::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};
use hugewalk::arch::X86_64;
use hugewalk::error::{MemoryError, OutOfMemory};
use hugewalk::platform::{
    Barriers, Contents, Flush, Limits, Locks, Notify, PageRecord, Pages, Platform, TableRecord, Tables, Tlb,
    Trace,
};
use hugewalk::rcu::EpochRcu;
use hugewalk_host::checked::{Checked, Loads, Report, may_sleep};
use hugewalk_host::{Host, MmContext, Park, SpinLock};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Nothing,
    PageTwice,
    TableTwice,
    Misaligned,
    TooWide,
    TableTooWide,
    TableNotZero,
    TableRecordMoves,
    EntryElsewhere,
    PageRecordMoves,
    RecordsOverlap,
    RecordNotZero,
    RecordNotAligned,
    NoRecord,
    ContentsOverlap,
    WritesLowHalfOfRoots,
    ForgetsFlush,
    FlushSleeps,
    /// No fault: allocations may sleep.
    AllocationsSleep,
    FlushCallsBack,
    ZeroDoesNothing,
    CopyDoesNothing,
    NoBarriers,
    PanicsInZero,
    PanicsInFlush,
}

/// Whose record.
#[derive(PartialEq, Eq, Hash)]
enum Record {
    Table(u64),
    Page(u64),
}

pub(crate) struct Broken {
    host: Host,
    pub(crate) fault: Mutex<Fault>,
    /// Beside the mutex, which would be a barrier itself.
    no_barriers: bool,
    last_page: AtomicU64,
    last_table: AtomicU64,
    asked: Mutex<HashSet<Record>>,
    /// What `flush_tlb` does, if it calls back.
    pub(crate) flush_calls: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl Broken {
    pub(crate) fn new(fault: Fault) -> Self {
        Self {
            host: super::host(),
            fault: Mutex::new(fault),
            no_barriers: fault == Fault::NoBarriers,
            last_page: AtomicU64::new(0),
            last_table: AtomicU64::new(0),
            asked: Mutex::default(),
            flush_calls: Mutex::new(None),
        }
    }

    fn is(&self, fault: Fault) -> bool {
        *self.fault.lock().unwrap() == fault
    }

    /// Has the record of this table or page been asked for since it was allocated? What moves has to be in its place first: what lies where it moves to
    /// is nobody's, or somebody else's.
    fn is_asked_again(&self, of: Record) -> bool {
        !self.asked.lock().unwrap().insert(of)
    }
}

// SAFETY: the barriers are those of `Host`, but where they are left out: then the tests share nothing that matters.
unsafe impl Barriers for Broken {
    type Word = AtomicU64;
    type SpinLock = SpinLock;
    fn light(&self) {
        if !self.no_barriers {
            self.host.light();
        }
    }
    fn heavy(&self) {
        if !self.no_barriers {
            self.host.heavy();
        }
    }
    unsafe fn pause(&self) {
        // SAFETY: passed on.
        unsafe { self.host.pause() };
    }
}

// SAFETY: broken in one way each; `Checked` keeps it from the engine, which is what is tested.
unsafe impl Tables for Broken {
    type Paging = X86_64;
    fn paging(&self) -> X86_64 {
        self.host.paging()
    }
    fn alloc_table(&self) -> Option<TableFrame> {
        if self.is(Fault::AllocationsSleep) {
            may_sleep();
        }
        let last = self.last_table.load(Ordering::Relaxed);
        if self.is(Fault::TableTwice) && last != 0 {
            return Some(TableFrame(last));
        }
        let frame = self.host.alloc_table()?;
        self.asked.lock().unwrap().remove(&Record::Table(frame.0));
        self.last_table.store(frame.0, Ordering::Relaxed);
        if self.is(Fault::TableNotZero) {
            // SAFETY: allocated just now.
            let entry = unsafe { self.host.table_entry(frame, 77) };
            // SAFETY: entries are atomics.
            unsafe { entry.as_ref() }.store(0xbad, Ordering::Relaxed);
        }
        if self.is(Fault::TableTooWide) { Some(TableFrame(frame.0 | 1 << 40)) } else { Some(frame) }
    }
    unsafe fn free_table(&self, frame: TableFrame) {
        // SAFETY: passed on.
        unsafe { self.host.free_table(frame) };
    }
    unsafe fn init_root(&self, root: TableFrame) {
        if self.is(Fault::WritesLowHalfOfRoots) {
            // SAFETY: passed on.
            let entries = unsafe { self.host.table_entries(root) };
            // SAFETY: entries are atomics.
            let entries = unsafe { entries.cast::<[AtomicU64; X86_64::ENTRIES]>().as_ref() };
            entries[255].store(0xbad, Ordering::Relaxed);
            entries[256].store(0x600d, Ordering::Relaxed);
        }
    }
    unsafe fn table_entries(&self, frame: TableFrame) -> NonNull<AtomicU64> {
        // SAFETY: passed on.
        unsafe { self.host.table_entries(frame) }
    }
    unsafe fn table_entry(&self, frame: TableFrame, index: usize) -> NonNull<AtomicU64> {
        let index = if self.is(Fault::EntryElsewhere) { index ^ 1 } else { index };
        // SAFETY: passed on; the number of entries is even.
        unsafe { self.host.table_entry(frame, index) }
    }
    unsafe fn table_record(&self, frame: TableFrame) -> NonNull<TableRecord> {
        // SAFETY: passed on.
        let record = unsafe { self.host.table_record(frame) };
        let moves = |bytes: usize| record.map_addr(|at| at.saturating_add(bytes));
        match *self.fault.lock().unwrap() {
            Fault::TableRecordMoves if self.is_asked_again(Record::Table(frame.0)) => moves(1 << 14),
            // On the record of the frame after it.
            Fault::RecordsOverlap if frame.0 % 2 == 1 => moves(size_of::<TableRecord>()),
            Fault::RecordNotAligned => moves(32),
            _ => record,
        }
    }
}

// SAFETY: a huge page is handed out once until it is given back, and its record stays.
unsafe impl Pages for Broken {
    fn alloc_huge(&self, size: HugeSize) -> Option<HugeFrame> {
        if self.is(Fault::AllocationsSleep) {
            may_sleep();
        }
        let last = self.last_page.load(Ordering::Relaxed);
        if self.is(Fault::PageTwice) && last != 0 {
            return Some(HugeFrame(last));
        }
        let frame = self.host.alloc_huge(size)?;
        self.asked.lock().unwrap().remove(&Record::Page(frame.0));
        self.last_page.store(frame.0, Ordering::Relaxed);
        if self.is(Fault::RecordNotZero) {
            // SAFETY: allocated just now.
            let record = unsafe { self.host.page_record(frame) };
            // SAFETY: a record that nobody uses yet.
            unsafe { record.cast::<u64>().write(1 << 7) };
        }
        match *self.fault.lock().unwrap() {
            Fault::Misaligned => Some(HugeFrame(frame.0 + 1)),
            Fault::TooWide => Some(HugeFrame(frame.0 | 1 << 41)),
            _ => Some(frame),
        }
    }
    unsafe fn free_huge(&self, frame: HugeFrame, size: HugeSize) {
        // SAFETY: passed on.
        unsafe { self.host.free_huge(frame, size) };
    }
    unsafe fn page_record(&self, frame: HugeFrame) -> NonNull<PageRecord> {
        // SAFETY: passed on.
        let record = unsafe { self.host.page_record(frame) };
        let moves = self.is(Fault::PageRecordMoves) && self.is_asked_again(Record::Page(frame.0));
        if moves { record.map_addr(|at| at.saturating_add(64)) } else { record }
    }
    fn has_page_record(&self, frame: HugeFrame) -> bool {
        !self.is(Fault::NoRecord) && self.host.has_page_record(frame)
    }
}

// SAFETY: the address is that of the page.
unsafe impl Contents for Broken {
    unsafe fn huge_bytes(&self, frame: HugeFrame) -> Option<NonNull<u8>> {
        if self.is(Fault::ContentsOverlap) {
            // Nothing follows: the methods below do without.
            return NonNull::new(core::ptr::without_provenance_mut(0x1000));
        }
        // SAFETY: passed on.
        unsafe { self.host.huge_bytes(frame) }
    }
    unsafe fn zero_huge(&self, frame: HugeFrame, size: HugeSize) {
        assert!(!self.is(Fault::PanicsInZero), "zero_huge panics");
        if self.is(Fault::ZeroDoesNothing) {
            // SAFETY: passed on; one byte lies inside.
            unsafe { self.host.write_huge(frame, 0, &[9]) };
        } else {
            // SAFETY: passed on.
            unsafe { self.host.zero_huge(frame, size) };
        }
    }
    unsafe fn copy_huge(&self, from: HugeFrame, to: HugeFrame, size: HugeSize) -> Result<(), MemoryError> {
        if !self.is(Fault::CopyDoesNothing) {
            // SAFETY: passed on.
            unsafe { self.host.copy_huge(from, to, size) }?;
        }
        Ok(())
    }
    unsafe fn read_huge(&self, frame: HugeFrame, offset: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        // SAFETY: passed on.
        unsafe { self.host.read_huge(frame, offset, into) }
    }
    unsafe fn write_huge(&self, frame: HugeFrame, offset: u64, from: &[u8]) {
        // SAFETY: passed on.
        unsafe { self.host.write_huge(frame, offset, from) };
    }
    unsafe fn clear_huge(&self, frame: HugeFrame, offset: u64, length: u64) {
        // SAFETY: passed on.
        unsafe { self.host.clear_huge(frame, offset, length) };
    }
}

// SAFETY: the locks exclude as locks do.
unsafe impl Locks for Broken {
    type TableLock = SpinLock;
    type SleepMutex = <Host as Locks>::SleepMutex;
    type SleepRwLock = <Host as Locks>::SleepRwLock;
    type Parker = Park;
    type Rcu = EpochRcu<Self>;
}

// SAFETY: a flush returns when no processor uses what it names any more.
unsafe impl Tlb for Broken {
    type MmContext = MmContext;
    fn new_context(&self) -> Result<MmContext, OutOfMemory> {
        self.host.new_context()
    }
    fn flush_tlb(&self, context: &MmContext, flush: Flush) {
        assert!(!self.is(Fault::PanicsInFlush), "flush_tlb panics");
        if self.is(Fault::FlushSleeps) {
            may_sleep();
        }
        if self.is(Fault::FlushCallsBack)
            && let Some(call) = &*self.flush_calls.lock().unwrap()
        {
            call();
        }
        if !self.is(Fault::ForgetsFlush) {
            self.host.flush_tlb(context, flush);
        }
    }
}

impl Notify for Broken {}

impl Trace for Broken {}

impl Limits for Broken {
    type Charge = core::convert::Infallible;
}

// SAFETY: the parts above are those of one platform.
unsafe impl Platform for Broken {}

impl Loads for Broken {
    unsafe fn load(&self, context: &MmContext, root: TableFrame, address: VirtAddr) -> Option<u8> {
        // SAFETY: passed on.
        unsafe { self.host.load(context, root, address) }
    }
}

pub(crate) type Handle = Arc<Checked<Broken>>;

/// What is found when `program` runs. It may panic then.
pub(crate) fn reports(fault: Fault, program: impl FnOnce(&Handle)) -> Vec<Report> {
    let checked = Arc::new(Checked::new(Broken::new(fault)));
    let _ = catch_unwind(AssertUnwindSafe(|| program(&checked)));
    checked.take_reports()
}
