//! Platforms with one fault each, and what is said of them. Each is this crate's own host but for that.

use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hugewalk::Hugetlb;
use hugewalk::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};
use hugewalk::error::OutOfMemory;
use hugewalk::platform::{Barriers, ENTRIES, Hugewalk, Levels, PageRecord, Platform, TableRecord};
use hugewalk::rcu::EpochRcu;
use hugewalk_host::checked::{Checked, Finding, Loads, Report, may_sleep, programs, run};
use hugewalk_host::{Host, MmContext, Park, SpinLock, task};

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
    PageRecordMoves,
    RecordsOverlap,
    RecordNotZero,
    RecordNotAligned,
    NoRecord,
    ForgetsFlush,
    FlushSleeps,
    FlushCallsBack,
    ZeroDoesNothing,
    CopyDoesNothing,
    NoBarriers,
    PanicsInZero,
    PanicsInFlush,
}

pub(crate) struct Broken {
    host: Host,
    pub(crate) fault: Mutex<Fault>,
    /// Beside the mutex, which would be a barrier itself.
    no_barriers: bool,
    last_page: AtomicU64,
    last_table: AtomicU64,
    turn: AtomicU64,
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
            turn: AtomicU64::new(0),
            flush_calls: Mutex::new(None),
        }
    }

    fn is(&self, fault: Fault) -> bool {
        *self.fault.lock().unwrap() == fault
    }

    fn every_second_time(&self) -> bool {
        self.turn.fetch_add(1, Ordering::Relaxed) % 2 == 1
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
unsafe impl Platform for Broken {
    type Protocol = Hugewalk;
    type SleepMutex = <Host as Platform>::SleepMutex;
    type SleepRwLock = <Host as Platform>::SleepRwLock;
    type Parker = Park;
    type Rcu = EpochRcu<Self>;
    type MmContext = MmContext;

    fn levels(&self) -> Levels {
        self.host.levels()
    }
    fn new_context(&self) -> Result<MmContext, OutOfMemory> {
        self.host.new_context()
    }
    fn alloc_table(&self) -> Option<TableFrame> {
        let last = self.last_table.load(Ordering::Relaxed);
        if self.is(Fault::TableTwice) && last != 0 {
            return Some(TableFrame(last));
        }
        let frame = self.host.alloc_table()?;
        self.last_table.store(frame.0, Ordering::Relaxed);
        if self.is(Fault::TableNotZero) {
            // SAFETY: allocated just now.
            let entries = unsafe { self.host.table_entries(frame) };
            // SAFETY: entries are atomics.
            let entries = unsafe { entries.as_ref() };
            entries[77].store(0xbad, Ordering::Relaxed);
        }
        if self.is(Fault::TableTooWide) { Some(TableFrame(frame.0 | 1 << 40)) } else { Some(frame) }
    }
    unsafe fn free_table(&self, frame: TableFrame) {
        // SAFETY: passed on.
        unsafe { self.host.free_table(frame) };
    }
    unsafe fn table_entries(&self, frame: TableFrame) -> NonNull<[AtomicU64; ENTRIES]> {
        // SAFETY: passed on.
        unsafe { self.host.table_entries(frame) }
    }
    unsafe fn table_record(&self, frame: TableFrame) -> NonNull<TableRecord> {
        // SAFETY: passed on.
        let record = unsafe { self.host.table_record(frame) };
        let moves = |bytes: usize| record.map_addr(|at| at.saturating_add(bytes));
        match *self.fault.lock().unwrap() {
            Fault::TableRecordMoves if self.every_second_time() => moves(1 << 14),
            // On the record of the frame after it.
            Fault::RecordsOverlap if frame.0 % 2 == 1 => moves(size_of::<TableRecord>()),
            Fault::RecordNotAligned => moves(32),
            _ => record,
        }
    }
    fn alloc_huge(&self, size: HugeSize) -> Option<HugeFrame> {
        let last = self.last_page.load(Ordering::Relaxed);
        if self.is(Fault::PageTwice) && last != 0 {
            return Some(HugeFrame(last));
        }
        let frame = self.host.alloc_huge(size)?;
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
        let moves = self.is(Fault::PageRecordMoves) && self.every_second_time();
        if moves { record.map_addr(|at| at.saturating_add(64)) } else { record }
    }
    fn has_page_record(&self, frame: HugeFrame) -> bool {
        !self.is(Fault::NoRecord) && self.host.has_page_record(frame)
    }
    unsafe fn huge_bytes(&self, frame: HugeFrame) -> Option<NonNull<u8>> {
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
    unsafe fn copy_huge(&self, from: HugeFrame, to: HugeFrame, size: HugeSize) {
        if !self.is(Fault::CopyDoesNothing) {
            // SAFETY: passed on.
            unsafe { self.host.copy_huge(from, to, size) };
        }
    }
    unsafe fn read_huge(&self, frame: HugeFrame, offset: u64, into: &mut [u8]) {
        // SAFETY: passed on.
        unsafe { self.host.read_huge(frame, offset, into) };
    }
    unsafe fn write_huge(&self, frame: HugeFrame, offset: u64, from: &[u8]) {
        // SAFETY: passed on.
        unsafe { self.host.write_huge(frame, offset, from) };
    }
    unsafe fn clear_huge(&self, frame: HugeFrame, offset: u64, length: u64) {
        // SAFETY: passed on.
        unsafe { self.host.clear_huge(frame, offset, length) };
    }
    fn flush_tlb(&self, context: &MmContext, range: Range<VirtAddr>) {
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
            self.host.flush_tlb(context, range);
        }
    }
}

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

/// Asserts that the first thing found is this, in this call, made by that file of the engine.
macro_rules! assert_found {
    ($fault:ident, $program:expr, $finding:pat, $call:literal, $file:literal) => {{
        let found = reports(Fault::$fault, $program);
        let first = found.first().expect("nothing was found");
        assert!(matches!(first.finding, $finding), "{first}");
        assert_eq!(first.call, $call);
        assert!(first.caller.file().replace('\\', "/").ends_with($file), "{first}");
    }};
}

#[test]
fn a_frame_that_is_handed_out_twice_is_found() {
    assert_found!(
        PageTwice,
        programs::maps_and_exits,
        Finding::PageTwice { .. },
        "alloc_huge",
        "src/pool.rs"
    );
    assert_found!(
        TableTwice,
        programs::maps_and_exits,
        Finding::TableTwice { .. },
        "alloc_table",
        "table/mod.rs"
    );
}

#[test]
fn a_frame_that_no_entry_can_hold_is_found() {
    assert_found!(
        Misaligned,
        programs::maps_and_exits,
        Finding::Misaligned { .. },
        "alloc_huge",
        "src/pool.rs"
    );
    assert_found!(TooWide, programs::maps_and_exits, Finding::TooWide { .. }, "alloc_huge", "src/pool.rs");
    assert_found!(
        TableTooWide,
        programs::maps_and_exits,
        Finding::TooWide { .. },
        "alloc_table",
        "table/mod.rs"
    );
}

#[test]
fn a_table_that_is_not_zero_is_found_and_zeroed() {
    let found = reports(Fault::TableNotZero, programs::maps_and_exits);
    assert!(!found.is_empty());
    for report in &found {
        assert!(matches!(report.finding, Finding::TableNotZero { index: 77, entry: 0xbad, .. }), "{report}");
    }
}

#[test]
fn records_that_move_overlap_or_are_not_ready_are_found() {
    assert_found!(
        TableRecordMoves,
        programs::maps_and_exits,
        Finding::Moved { what: "record", .. },
        "table_record",
        "table/mod.rs"
    );
    assert_found!(
        PageRecordMoves,
        programs::maps_and_exits,
        Finding::Moved { what: "record", .. } | Finding::Overlap { .. },
        "page_record",
        "src/page.rs"
    );
    assert_found!(
        RecordsOverlap,
        programs::shares_and_unshares,
        Finding::Overlap { what: "record", .. },
        "table_record",
        "table/mod.rs"
    );
    assert_found!(
        RecordNotAligned,
        programs::maps_and_exits,
        Finding::AddressMisaligned { what: "record", to: 64, .. },
        "table_record",
        "table/mod.rs"
    );
    assert_found!(
        RecordNotZero,
        programs::maps_and_exits,
        Finding::RecordNotZero { .. },
        "alloc_huge",
        "src/pool.rs"
    );
    assert_found!(NoRecord, programs::maps_and_exits, Finding::NoRecord { .. }, "alloc_huge", "src/pool.rs");
}

#[test]
fn contents_that_are_not_what_was_asked_for_are_found() {
    assert_found!(
        ZeroDoesNothing,
        programs::maps_and_exits,
        Finding::WrongContents { .. },
        "zero_huge",
        "fault/attempt.rs"
    );
    assert_found!(
        CopyDoesNothing,
        programs::copies_on_write,
        Finding::WrongContents { .. },
        "copy_huge",
        "fault/attempt.rs"
    );
}

#[test]
fn a_callback_that_sleeps_is_found() {
    let found = reports(Fault::FlushSleeps, programs::shares_and_unshares);
    let first = found.first().expect("nothing was found");
    assert!(matches!(&first.finding, Finding::Slept { inside } if inside.contains("flush_tlb")), "{first}");
    assert!(first.caller.file().ends_with("broken.rs"), "{first}");
}

#[test]
fn a_callback_that_calls_back_is_found() {
    for (number, call) in ["lock", "Rcu::register", "alloc_table"].into_iter().enumerate() {
        let found = reports(Fault::FlushCallsBack, |platform| {
            let hugetlb = Hugetlb::new(platform.clone()).unwrap();
            let back = (hugetlb.clone(), platform.clone());
            let call: Box<dyn Fn() + Send> = match number {
                0 => Box::new(move || assert_eq!(back.0.pool(HugeSize::Size1G).counters().total, 0)),
                1 => Box::new(move || drop(task(&back.0))),
                _ => Box::new(move || {
                    back.1.alloc_table();
                }),
            };
            *platform.inner().flush_calls.lock().unwrap() = Some(call);
            programs::copies_on_write(platform);
            *platform.inner().flush_calls.lock().unwrap() = None;
        });
        let first = found.first().expect("nothing was found");
        assert!(matches!(first.finding, Finding::CalledBack { from: "flush_tlb" }), "{first}");
        assert_eq!(first.call, call);
    }
}

/// What `run` panics with.
fn judged(fault: Fault, program: impl FnOnce(&Handle)) -> String {
    let panic =
        catch_unwind(AssertUnwindSafe(|| run(Broken::new(fault), program))).expect_err("it was found sound");
    *panic.downcast::<String>().expect("a text")
}

#[test]
fn a_forgotten_flush_is_found_by_a_load() {
    let text = judged(Fault::ForgetsFlush, programs::flushes_reach_processors);
    assert!(text.contains("a flush is missing"), "{text}");
    run(Broken::new(Fault::Nothing), programs::flushes_reach_processors);
}

#[test]
fn barriers_that_are_none_are_found() {
    if std::thread::available_parallelism().is_ok_and(|processors| processors.get() < 2) {
        return eprintln!("one processor sees its own stores in order: nothing to find");
    }
    // The two must be running at the same time, which may take a while beside other work.
    let begun = Instant::now();
    let attempt = || catch_unwind(|| run(Broken::new(Fault::NoBarriers), programs::barriers_are_barriers));
    while attempt().is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(120), "they were found to be barriers");
    }
}

#[test]
fn a_report_says_what_where_and_what_was_not_looked_at() {
    let text = judged(Fault::Misaligned, programs::maps_and_exits);
    assert!(text.contains("the platform broke its contract"), "{text}");
    assert!(text.contains("which is not a multiple of Size2M"), "{text}");
    assert!(text.contains("in alloc_huge(), called at ") && text.contains("src/pool.rs:"), "{text}");
    assert!(text.contains("The program ended with: assertion"), "{text}");
    assert!(text.contains("Not looked at: "), "{text}");
}

#[test]
fn what_is_left_at_the_end_is_told() {
    let text = judged(Fault::Nothing, |platform| {
        platform.alloc_table().unwrap();
    });
    assert_eq!(text, "1 tables and 0 huge pages are left");
}
