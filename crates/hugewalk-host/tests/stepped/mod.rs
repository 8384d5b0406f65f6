//! The ordinary host but for its atomics and spinning locks, which count the accesses of one thread, and at a given one
//! let another thread do all of what it has to do.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use hugewalk::addr::{HugeFrame, HugeSize, TableFrame};
use hugewalk::arch::X86_64;
use hugewalk::error::{MemoryError, OutOfMemory};
use hugewalk::platform::{
    Barriers, Contents, Flush, Limits, Locks, Notify, PageRecord, Pages, Platform, TableRecord, Tables, Tlb,
    Trace,
};
use hugewalk::rcu::EpochRcu;
use hugewalk::sync::Word;
use hugewalk_host::{Host, MmContext, Park, SpinLock};
use lock_api::RawMutex;

// The atomics.

thread_local! {
    /// Accesses of this thread until the other one has its turn.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    static AT_LOCKS: Cell<bool> = const { Cell::new(false) };
    static TURN: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// Words of the engine by their address.
#[derive(Debug, Default)]
pub(crate) struct Footprint {
    pub(crate) read: BTreeSet<usize>,
    pub(crate) written: BTreeSet<usize>,
}

thread_local! {
    static FOOTPRINT: RefCell<Option<Footprint>> = const { RefCell::new(None) };
}

/// Runs `work`, and notes which words it reads and which it writes; what of both, counts as written.
pub(crate) fn footprint<R>(work: impl FnOnce() -> R) -> (R, Footprint) {
    FOOTPRINT.set(Some(Footprint::default()));
    let result = work();
    (result, FOOTPRINT.take().expect("set above"))
}

fn reads(word: &SteppedWord) {
    step();
    note(|footprint| &mut footprint.read, word);
}

fn writes(word: &SteppedWord) {
    step();
    note(|footprint| &mut footprint.written, word);
}

fn note(side: impl FnOnce(&mut Footprint) -> &mut BTreeSet<usize>, word: &SteppedWord) {
    FOOTPRINT.with_borrow_mut(|footprint| {
        if let Some(footprint) = footprint {
            side(footprint).insert(core::ptr::from_ref(word).addr());
        }
    });
}

fn step() {
    let Some(left) = LEFT.get() else { return };
    LEFT.set(left.checked_sub(1));
    if left == 0 {
        let turn = TURN.take().expect("there is one turn");
        turn();
    }
}

/// Before which accesses the other thread may have its turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Steps {
    /// Those of atomics. The other thread is waited for.
    Words,
    /// Those, and the taking of spinning locks. The other thread may want a lock that this one holds: then its turn goes on
    /// beside what this one does.
    WordsAndLocks,
}

/// Runs `work`, and `turn` on another thread before the access of number `at`. False if `work` has no more than that.
pub(crate) fn interrupt<R>(
    at: u64,
    steps: Steps,
    turn: impl FnOnce() + Send,
    work: impl FnOnce() -> R,
) -> (R, bool) {
    thread::scope(|scope| {
        let (go, wait) = channel::<Sender<()>>();
        let other = scope.spawn(move || {
            if let Ok(done) = wait.recv() {
                turn();
                drop(done);
            }
        });
        TURN.set(Some(Box::new(move || {
            let (done, ended) = channel();
            go.send(done).unwrap();
            let patience = match steps {
                Steps::Words => Duration::from_secs(3600),
                Steps::WordsAndLocks => Duration::from_millis(20),
            };
            // Ends when the sender is dropped.
            let end = ended.recv_timeout(patience).unwrap_err();
            assert!(end == RecvTimeoutError::Disconnected || steps == Steps::WordsAndLocks);
        })));
        AT_LOCKS.set(steps == Steps::WordsAndLocks);
        LEFT.set(Some(at));
        let result = work();
        let interrupted = LEFT.take().is_none();
        // Lets the other thread go that had no turn.
        drop(TURN.take());
        other.join().unwrap();
        (result, interrupted)
    })
}

/// How many accesses `work` has.
pub(crate) fn steps_of(steps: Steps, work: impl FnOnce()) -> u64 {
    AT_LOCKS.set(steps == Steps::WordsAndLocks);
    LEFT.set(Some(u64::MAX));
    work();
    u64::MAX - LEFT.take().unwrap_or_default()
}

#[repr(transparent)]
pub(crate) struct SteppedWord(AtomicU64);

// SAFETY: the operations are those of `AtomicU64`, and so is the layout.
unsafe impl Word for SteppedWord {
    fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }
    fn load(&self, order: Ordering) -> u64 {
        reads(self);
        self.0.load(order)
    }
    fn store(&self, value: u64, order: Ordering) {
        writes(self);
        self.0.store(value, order);
    }
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        writes(self);
        self.0.swap(value, order)
    }
    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        writes(self);
        self.0.fetch_add(value, order)
    }
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        writes(self);
        self.0.fetch_sub(value, order)
    }
    fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        writes(self);
        self.0.fetch_or(value, order)
    }
    fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
        writes(self);
        self.0.fetch_and(value, order)
    }
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        writes(self);
        self.0.compare_exchange(current, new, success, failure)
    }
}

#[repr(transparent)]
pub(crate) struct SteppedLock(SpinLock);

// SAFETY: the lock is the one inside.
unsafe impl RawMutex for SteppedLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self(<SpinLock as RawMutex>::INIT);
    type GuardMarker = <SpinLock as RawMutex>::GuardMarker;
    fn lock(&self) {
        if AT_LOCKS.get() {
            step();
        }
        // The trait's, which leaves it locked.
        RawMutex::lock(&self.0);
    }
    fn try_lock(&self) -> bool {
        RawMutex::try_lock(&self.0)
    }
    unsafe fn unlock(&self) {
        // SAFETY: passed on.
        unsafe { RawMutex::unlock(&self.0) };
    }
}

// The host.

pub(crate) struct Stepped(pub(crate) Host);

thread_local! {
    /// Told when this thread tells the host that a handler has a message.
    pub(crate) static HANDLER_CALLED: RefCell<Option<Sender<()>>> = const { RefCell::new(None) };
}

/// What fills the kernel's half of each root: an entry that would lead anywhere.
pub(crate) const KERNELS: u64 = 0x000f_cafe_f00d_d067;

// SAFETY: the barriers are those of `Host`.
unsafe impl Barriers for Stepped {
    type Word = SteppedWord;
    type SpinLock = SteppedLock;
    fn light(&self) {
        self.0.light();
    }
    fn heavy(&self) {
        self.0.heavy();
    }
    unsafe fn pause(&self) {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.0.pause() };
    }
}

// SAFETY: everything is passed on to `Host`, whose words and records have the same layout.
unsafe impl Tables for Stepped {
    type Paging = X86_64;
    fn paging(&self) -> X86_64 {
        self.0.paging()
    }
    fn alloc_table(&self) -> Option<TableFrame> {
        self.0.alloc_table()
    }
    unsafe fn free_table(&self, frame: TableFrame) {
        // SAFETY: passed on.
        unsafe { self.0.free_table(frame) };
    }
    unsafe fn init_root(&self, root: TableFrame) {
        // SAFETY: passed on.
        let entries = unsafe { self.0.table_entries(root) };
        let entries = NonNull::slice_from_raw_parts(entries, X86_64::ENTRIES);
        // SAFETY: a root that nothing reaches yet; entries are atomics.
        for entry in &unsafe { entries.as_ref() }[X86_64::ENTRIES / 2..] {
            entry.store(KERNELS, Ordering::Relaxed);
        }
    }
    unsafe fn table_entries(&self, frame: TableFrame) -> NonNull<SteppedWord> {
        // SAFETY: passed on.
        unsafe { self.0.table_entries(frame) }.cast()
    }
    unsafe fn table_record(&self, frame: TableFrame) -> NonNull<TableRecord> {
        // SAFETY: passed on.
        unsafe { self.0.table_record(frame) }
    }
}

// SAFETY: a huge page is handed out once until it is given back, and its record stays.
unsafe impl Pages for Stepped {
    fn alloc_huge(&self, size: HugeSize) -> Option<HugeFrame> {
        self.0.alloc_huge(size)
    }
    unsafe fn free_huge(&self, frame: HugeFrame, size: HugeSize) {
        // SAFETY: passed on.
        unsafe { self.0.free_huge(frame, size) };
    }
    unsafe fn page_record(&self, frame: HugeFrame) -> NonNull<PageRecord> {
        // SAFETY: passed on.
        unsafe { self.0.page_record(frame) }
    }
    fn has_page_record(&self, frame: HugeFrame) -> bool {
        self.0.has_page_record(frame)
    }
}

// SAFETY: the address is that of the page.
unsafe impl Contents for Stepped {
    unsafe fn huge_bytes(&self, frame: HugeFrame) -> Option<NonNull<u8>> {
        // SAFETY: passed on.
        unsafe { self.0.huge_bytes(frame) }
    }
    unsafe fn zero_huge(&self, frame: HugeFrame, size: HugeSize) {
        // SAFETY: passed on.
        unsafe { self.0.zero_huge(frame, size) };
    }
    unsafe fn copy_huge(&self, from: HugeFrame, to: HugeFrame, size: HugeSize) -> Result<(), MemoryError> {
        // SAFETY: passed on.
        unsafe { self.0.copy_huge(from, to, size) }
    }
    unsafe fn read_huge(&self, frame: HugeFrame, offset: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        // SAFETY: passed on.
        unsafe { self.0.read_huge(frame, offset, into) }
    }
    unsafe fn write_huge(&self, frame: HugeFrame, offset: u64, from: &[u8]) {
        // SAFETY: passed on.
        unsafe { self.0.write_huge(frame, offset, from) };
    }
    unsafe fn clear_huge(&self, frame: HugeFrame, offset: u64, length: u64) {
        // SAFETY: passed on.
        unsafe { self.0.clear_huge(frame, offset, length) };
    }
}

// SAFETY: the locks exclude as locks do.
unsafe impl Locks for Stepped {
    type TableLock = SteppedLock;
    type SleepMutex = <Host as Locks>::SleepMutex;
    type SleepRwLock = <Host as Locks>::SleepRwLock;
    type Parker = Park;
    type Rcu = hugewalk_host::OnePerThread<EpochRcu<Self>>;
    // One access more or less would move the steps that tests name.
    fn reader_bias() -> bool {
        false
    }
}

// SAFETY: a flush returns when no processor uses what it names any more.
unsafe impl Tlb for Stepped {
    type MmContext = MmContext;
    fn new_context(&self) -> Result<MmContext, OutOfMemory> {
        self.0.new_context()
    }
    fn flush_tlb(&self, context: &MmContext, flush: Flush) {
        self.0.flush_tlb(context, flush);
    }
}

impl Notify for Stepped {
    fn handler_called(&self, _: &MmContext) {
        HANDLER_CALLED.with_borrow(|tell| {
            if let Some(tell) = tell {
                tell.send(()).unwrap();
            }
        });
    }
}

impl Trace for Stepped {}

impl Limits for Stepped {
    type Charge = core::convert::Infallible;
}

// SAFETY: the parts above are those of one platform.
unsafe impl Platform for Stepped {}
