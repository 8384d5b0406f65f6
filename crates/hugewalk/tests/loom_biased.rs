//! The lock whose readers mark themselves, under a model checker of memory orderings. Run by `ci/loom.sh`.
//!
//! The tests after the first three weaken one ordering, leave a barrier or a step out, and expect the checker to notice. Not
//! modelled: two readers that have the plain lock at once (they exclude each other here), and a wake-up that is lost, which ends
//! a model in a deadlock; the lab has both.

#![cfg(loom)]

use std::cell::{Cell, UnsafeCell};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};

use hugewalk::addr::{HugeFrame, HugeSize, TableFrame};
use hugewalk::arch::X86_64;
use hugewalk::error::OutOfMemory;
use hugewalk::platform::{
    Barriers, Contents, Flush, Limits, Locks, Notify, PageRecord, Pages, Platform, TableRecord, Tables, Tlb,
    Trace,
};
use hugewalk::protocol::Step;
use hugewalk::rcu::{Rcu, RcuHead};
use hugewalk::sleep::BiasedRwLock;
use hugewalk::sync::{Arc, Parker, Word};
use hugewalk::{Hugetlb, Task};
use lock_api::{GuardNoSend, RawMutex, RawRwLock};
use loom::sync::atomic::{AtomicU64, fence};
use loom::sync::{Condvar, Mutex, MutexGuard};
use loom::thread;

/// Reads that give a fresh lock its bias.
const READS: u32 = 16;

/// What is taken out of the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    LightBarrier,
    HeavyBarrier,
    /// A mark is cleared with Relaxed.
    Clear,
    /// Marks are looked at with Relaxed.
    Scan,
    /// A reader looks with Relaxed whether the lock is biased still.
    Look,
    /// The bias is given back with Relaxed.
    Give,
    Without(Step),
}

thread_local! {
    // Loom runs all its threads on one.
    static BROKEN: Cell<Broken> = const { Cell::new(Broken::Nothing) };
    /// Do the barriers order what is before one with what is behind the other, and nothing else?
    static MEET: Cell<bool> = const { Cell::new(false) };
}

loom::lazy_static! {
    /// Where barriers meet that are no fences: of two, the later one sees what came before the earlier one.
    static ref MEETING: AtomicU64 = AtomicU64::new(0);
}

fn barrier() {
    if MEET.get() {
        MEETING.fetch_add(1, AcqRel);
    } else {
        fence(SeqCst);
    }
}

/// Loom's atomic, as a word.
struct LoomWord {
    word: AtomicU64,
    /// It has been exchanged: it is the bias of a lock, and no mark.
    is_bias: Cell<bool>,
}

// SAFETY: loom runs all its threads on one.
unsafe impl Send for LoomWord {}
// SAFETY: as for `Send`.
unsafe impl Sync for LoomWord {}

fn weaker(order: Ordering, broken: Broken) -> Ordering {
    if BROKEN.get() == broken { Relaxed } else { order }
}

// SAFETY: loom's atomics are atomic; no tables are made of them.
unsafe impl Word for LoomWord {
    fn new(value: u64) -> Self {
        Self { word: AtomicU64::new(value), is_bias: Cell::new(false) }
    }
    fn load(&self, order: Ordering) -> u64 {
        let broken = if self.is_bias.get() { Broken::Look } else { Broken::Scan };
        self.word.load(if order == Acquire { weaker(order, broken) } else { order })
    }
    fn store(&self, value: u64, order: Ordering) {
        let clears = value == 0 && order == Release;
        self.word.store(value, if clears { weaker(order, Broken::Clear) } else { order });
    }
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.word.swap(value, order)
    }
    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.word.fetch_add(value, order)
    }
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.word.fetch_sub(value, order)
    }
    fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        self.word.fetch_or(value, order)
    }
    fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
        self.word.fetch_and(value, order)
    }
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.is_bias.set(true);
        self.word.compare_exchange(current, new, weaker(success, Broken::Give), failure)
    }
}

/// Loom's mutex as a raw one, and as a reader/writer lock whose readers exclude each other.
///
/// # Invariants
///
/// `guard` is looked at by holders of `mutex` only. It borrows from `mutex` and is gone before it.
struct LoomLock {
    // Made at first use: what loom keeps cannot be made in a constant.
    mutex: OnceLock<Box<Mutex<()>>>,
    guard: UnsafeCell<Option<MutexGuard<'static, ()>>>,
}

// SAFETY: by the type invariants, and since loom runs all its threads on one.
unsafe impl Send for LoomLock {}
// SAFETY: as for `Send`.
unsafe impl Sync for LoomLock {}

impl LoomLock {
    const NEW: Self = Self { mutex: OnceLock::new(), guard: UnsafeCell::new(None) };

    fn mutex(&self) -> &'static Mutex<()> {
        let mutex: *const Mutex<()> = &**self.mutex.get_or_init(|| Box::new(Mutex::new(())));
        // SAFETY: it does not move, and is only borrowed longer than it lives by `guard`, which ends earlier.
        unsafe { &*mutex }
    }

    fn keep(&self, guard: MutexGuard<'static, ()>) {
        // SAFETY: by the type invariants; the mutex is held.
        unsafe { *self.guard.get() = Some(guard) };
    }
}

// SAFETY: loom's mutex excludes.
unsafe impl RawMutex for LoomLock {
    const INIT: Self = Self::NEW;
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        self.keep(self.mutex().lock().unwrap());
    }
    fn try_lock(&self) -> bool {
        self.mutex().try_lock().map(|guard| self.keep(guard)).is_ok()
    }
    unsafe fn unlock(&self) {
        // SAFETY: by the type invariants; whoever unlocks holds it.
        let guard = unsafe { (*self.guard.get()).take() };
        drop(guard);
    }
}

// SAFETY: as above; readers exclude each other as well.
unsafe impl RawRwLock for LoomLock {
    const INIT: Self = Self::NEW;
    type GuardMarker = GuardNoSend;

    fn lock_shared(&self) {
        RawMutex::lock(self);
    }
    fn try_lock_shared(&self) -> bool {
        RawMutex::try_lock(self)
    }
    unsafe fn unlock_shared(&self) {
        // SAFETY: passed on to the caller.
        unsafe { RawMutex::unlock(self) };
    }
    fn lock_exclusive(&self) {
        RawMutex::lock(self);
    }
    fn try_lock_exclusive(&self) -> bool {
        RawMutex::try_lock(self)
    }
    unsafe fn unlock_exclusive(&self) {
        // SAFETY: passed on to the caller.
        unsafe { RawMutex::unlock(self) };
    }
}

/// Where a thread of the model sleeps.
struct Bed {
    token: Mutex<bool>,
    put: Condvar,
}

// SAFETY: the token is handed over under a mutex.
unsafe impl Parker for Bed {
    fn new() -> Self {
        Self { token: Mutex::new(false), put: Condvar::new() }
    }
    fn park(&self) {
        let mut token = self.token.lock().unwrap();
        while !*token {
            token = self.put.wait(token).unwrap();
        }
        *token = false;
    }
    fn unpark(&self) {
        *self.token.lock().unwrap() = true;
        self.put.notify_one();
    }
}

/// No section is entered.
struct NoRcu;

// SAFETY: there are no sections, and callbacks are never run.
unsafe impl Rcu<Loom> for NoRcu {
    type Reader = ();
    fn new(_: &Loom) -> Result<Self, OutOfMemory> {
        Ok(Self)
    }
    fn register(&self, _: &Loom) -> Result<(), OutOfMemory> {
        Ok(())
    }
    unsafe fn unregister(&self, _: &Loom, (): ()) {}
    unsafe fn read_lock(&self, _: &Loom, (): &()) {}
    unsafe fn read_unlock(&self, _: &Loom, (): &()) {}
    unsafe fn call(&self, _: &Loom, _: NonNull<RcuHead>) {}
    unsafe fn synchronize(&self, _: &Loom) {}
    unsafe fn barrier(&self, _: &Loom) {}
    fn pending(&self) -> u64 {
        0
    }
}

struct Loom;

// SAFETY: full fences; what is left out is what the checker is to notice.
unsafe impl Barriers for Loom {
    type Word = LoomWord;
    type SpinLock = LoomLock;
    fn light(&self) {
        if BROKEN.get() != Broken::LightBarrier {
            barrier();
        }
    }
    fn heavy(&self) {
        if BROKEN.get() != Broken::HeavyBarrier {
            barrier();
        }
    }
    unsafe fn pause(&self) {
        thread::yield_now();
    }
}

// SAFETY: there is no frame of any kind, so nothing is lost with a step that is left out.
unsafe impl Tables for Loom {
    type Paging = X86_64;
    fn paging(&self) -> X86_64 {
        X86_64::FOUR_LEVELS
    }
    fn alloc_table(&self) -> Option<TableFrame> {
        None
    }
    unsafe fn free_table(&self, _: TableFrame) {}
    unsafe fn table_entries(&self, _: TableFrame) -> NonNull<LoomWord> {
        unreachable!("there are no tables")
    }
    unsafe fn table_record(&self, _: TableFrame) -> NonNull<TableRecord> {
        unreachable!("there are no tables")
    }
}

// SAFETY: a huge page is handed out once until it is given back, and its record stays.
unsafe impl Pages for Loom {
    fn alloc_huge(&self, _: HugeSize) -> Option<HugeFrame> {
        None
    }
    unsafe fn free_huge(&self, _: HugeFrame, _: HugeSize) {}
    unsafe fn page_record(&self, _: HugeFrame) -> NonNull<PageRecord> {
        unreachable!("there are no pages")
    }
    fn has_page_record(&self, _: HugeFrame) -> bool {
        false
    }
}

// SAFETY: the address is that of the page.
unsafe impl Contents for Loom {
    unsafe fn huge_bytes(&self, _: HugeFrame) -> Option<NonNull<u8>> {
        None
    }
}

// SAFETY: the locks exclude as locks do.
unsafe impl Locks for Loom {
    type TableLock = LoomLock;
    type SleepMutex = LoomLock;
    type SleepRwLock = LoomLock;
    type Parker = Bed;
    type Rcu = NoRcu;
}

// SAFETY: a flush returns when no processor uses what it names any more.
unsafe impl Tlb for Loom {
    type MmContext = ();
    fn new_context(&self) -> Result<(), OutOfMemory> {
        Err(OutOfMemory)
    }
    fn flush_tlb(&self, (): &(), _: Flush) {}
}

impl Notify for Loom {}

impl Trace for Loom {}

impl Limits for Loom {
    type Charge = core::convert::Infallible;
}

// SAFETY: the parts above are those of one platform.
unsafe impl Platform for Loom {
    fn keeps(step: Step) -> bool {
        BROKEN.get() != Broken::Without(step)
    }
}

/// What the lock is around: loom tells of a reader beside a writer, and of one that does not see what the other did.
type Data = loom::cell::UnsafeCell<u64>;

/// Moved to one of the model's threads.
struct Moved<T>(T);

// SAFETY: loom runs all its threads on one.
unsafe impl<T> Send for Moved<T> {}

struct System {
    hugetlb: Arc<Hugetlb<Loom>>,
    lock: Rc<BiasedRwLock<Loom, Data>>,
}

impl System {
    /// A lock of which so many reads have been counted.
    fn new(reads: u32) -> Self {
        let hugetlb = Hugetlb::new(Loom).unwrap();
        let lock = Rc::new(BiasedRwLock::new(&hugetlb, Data::new(0)));
        let system = Self { hugetlb, lock };
        let mut task = system.task();
        for _ in 0..reads {
            drop(system.lock.read(&mut task));
        }
        assert_eq!(system.lock.is_biased(), reads == READS);
        system
    }

    fn task(&self) -> Task<Loom> {
        // SAFETY: the model's threads use one each.
        unsafe { Task::new(&self.hugetlb) }.unwrap()
    }

    /// A thread that does this.
    fn thread(&self, work: fn(&BiasedRwLock<Loom, Data>, &mut Task<Loom>)) -> thread::JoinHandle<()> {
        let moved = Moved((self.lock.clone(), self.task()));
        thread::spawn(move || {
            let moved = moved;
            let Moved((lock, mut task)) = moved;
            work(&lock, &mut task);
            // They are dropped with the model.
            std::mem::forget(task);
        })
    }
}

fn read(lock: &BiasedRwLock<Loom, Data>, task: &mut Task<Loom>) {
    // SAFETY: loom checks that nobody writes meanwhile.
    lock.read(task).with(|data| unsafe { *data });
}

fn write(lock: &BiasedRwLock<Loom, Data>, task: &mut Task<Loom>) {
    // SAFETY: loom checks that nobody else comes.
    lock.write(task).with_mut(|data| unsafe { *data += 1 });
}

/// The bias comes back behind a writer: as many reads are counted anew.
fn write_and_give(lock: &BiasedRwLock<Loom, Data>, task: &mut Task<Loom>) {
    write(lock, task);
    for _ in 0..READS {
        read(lock, task);
    }
}

fn try_write(lock: &BiasedRwLock<Loom, Data>, task: &mut Task<Loom>) {
    if let Some(data) = lock.try_write() {
        // SAFETY: loom checks that nobody else comes.
        return data.with_mut(|data| unsafe { *data += 1 });
    }
    write(lock, task);
}

fn model(broken: Broken, reads: u32, threads: &'static [fn(&BiasedRwLock<Loom, Data>, &mut Task<Loom>)]) {
    let mut builder = loom::model::Builder::new();
    // A third thread is a hundred times as much.
    builder.preemption_bound = Some(if threads.len() > 2 { 2 } else { 3 });
    builder.max_branches = 10_000;
    builder.check(move || {
        BROKEN.set(Broken::Nothing);
        let system = System::new(reads);
        BROKEN.set(broken);
        let threads: Vec<_> = threads.iter().map(|&work| system.thread(work)).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        BROKEN.set(Broken::Nothing);
    });
}

fn is_noticed(
    broken: Broken,
    reads: u32,
    threads: &'static [fn(&BiasedRwLock<Loom, Data>, &mut Task<Loom>)],
) {
    let run = std::panic::catch_unwind(|| model(broken, reads, threads));
    assert!(run.is_err(), "{broken:?}: nothing is found");
}

#[test]
fn a_reader_and_a_writer() {
    model(Broken::Nothing, READS, &[read, write]);
    model(Broken::Nothing, READS, &[read, try_write]);
}

#[test]
fn two_readers_and_a_writer() {
    model(Broken::Nothing, READS, &[read, read, write]);
}

#[test]
fn a_reader_that_gives_the_bias_back() {
    model(Broken::Nothing, READS - 1, &[write, read, read]);
}

#[test]
fn without_the_light_barrier() {
    is_noticed(Broken::LightBarrier, READS, &[read, write]);
}

#[test]
fn without_the_heavy_barrier() {
    is_noticed(Broken::HeavyBarrier, READS, &[read, write]);
}

#[test]
fn a_mark_that_is_cleared_too_early() {
    is_noticed(Broken::Clear, READS, &[read, write]);
}

#[test]
fn a_scan_that_sees_too_little() {
    is_noticed(Broken::Scan, READS, &[read, write]);
}

/// A fence after a load does what its Acquire would.
fn with_barriers_that_are_no_fences(work: fn()) {
    MEET.set(true);
    work();
    MEET.set(false);
}

#[test]
fn a_reader_that_gives_the_bias_back_with_barriers_that_are_no_fences() {
    with_barriers_that_are_no_fences(|| {
        model(Broken::Nothing, READS, &[read, write]);
        model(Broken::Nothing, READS - 1, &[write, read, read]);
        model(Broken::Nothing, 0, &[write_and_give, read]);
    });
}

#[test]
fn a_bias_that_says_nothing_of_the_writers_before() {
    with_barriers_that_are_no_fences(|| {
        is_noticed(Broken::Look, 0, &[write_and_give, read]);
        is_noticed(Broken::Give, 0, &[write_and_give, read]);
    });
}

#[test]
fn a_reader_that_looks_before_it_marks() {
    is_noticed(Broken::Without(Step::MarkThenLook), READS, &[read, write]);
}

#[test]
fn a_writer_that_looks_before_the_bias_is_gone() {
    is_noticed(Broken::Without(Step::RevokeThenScan), READS, &[read, write]);
}
