//! Locks for one thread: whoever would have to wait would wait for itself, and panics.
//!
//! With a spinning lock held the heap is not to be used, neither for an allocation nor for giving one back: in a kernel
//! the allocator takes locks of its own and may be the one that was interrupted. Test binaries that install
//! [`Heap`](super::heap::Heap) see that nobody does.

use core::cell::{Cell, RefCell};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicI64, Ordering};

use lock_api::{GuardNoSend, RawMutex, RawRwLock};

use hugewalk::error::OutOfMemory;
use hugewalk::rcu::{EpochRcu, Rcu, RcuHead};

use super::inject;
use super::platform::Bench;

const WRITER: i64 = -1;

/// A lock that is free, or held by one writer or some readers.
pub(crate) struct Alone(AtomicI64);

impl Alone {
    fn step(&self, from: i64, to: i64) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn holders(&self) -> i64 {
        self.0.load(Ordering::Acquire)
    }
}

// SAFETY: a lock is taken by the exchange that makes its word other than 0 (or adds a reader to readers), which one
// thread at a time succeeds in.
unsafe impl RawMutex for Alone {
    const INIT: Self = Self(AtomicI64::new(0));
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        assert!(RawMutex::try_lock(self), "a mutex is taken that this thread holds");
    }
    fn try_lock(&self) -> bool {
        self.step(0, WRITER)
    }
    unsafe fn unlock(&self) {
        assert!(self.step(WRITER, 0), "a mutex is released that nobody holds");
    }
}

// SAFETY: as for `RawMutex`.
unsafe impl RawRwLock for Alone {
    const INIT: Self = Self(AtomicI64::new(0));
    type GuardMarker = GuardNoSend;

    fn lock_shared(&self) {
        // With a writer queued between the two, a second reader of the same thread would wait for ever.
        assert!(self.step(0, 1), "a lock is taken in read that this thread holds");
    }
    fn try_lock_shared(&self) -> bool {
        self.step(0, 1)
    }
    unsafe fn unlock_shared(&self) {
        assert!(self.holders() > 0, "a lock is released that nobody holds in read");
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
    fn lock_exclusive(&self) {
        assert!(self.try_lock_exclusive(), "a lock is taken in write that this thread holds");
    }
    fn try_lock_exclusive(&self) -> bool {
        self.step(0, WRITER)
    }
    unsafe fn unlock_exclusive(&self) {
        assert!(self.step(WRITER, 0), "a lock is released that nobody holds in write");
    }
}

thread_local! {
    /// Spinning locks that this thread holds.
    static SPINNING: Cell<u32> = const { Cell::new(0) };
    /// Those of them that are no table's.
    static LEAVES: Cell<u32> = const { Cell::new(0) };
    /// Read sections that this thread is in.
    static SECTIONS: Cell<u32> = const { Cell::new(0) };
    /// Where the heap was used meanwhile.
    static HEAP_USED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A spinning lock.
pub(crate) struct Spinning(Alone);

// SAFETY: as `Alone`.
unsafe impl RawMutex for Spinning {
    const INIT: Self = Self(Alone(AtomicI64::new(0)));
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        RawMutex::lock(&self.0);
        SPINNING.set(SPINNING.get() + 1);
    }
    fn try_lock(&self) -> bool {
        let locked = RawMutex::try_lock(&self.0);
        SPINNING.set(SPINNING.get() + u32::from(locked));
        locked
    }
    unsafe fn unlock(&self) {
        SPINNING.set(SPINNING.get() - 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { RawMutex::unlock(&self.0) };
        let used = HEAP_USED.with_borrow_mut(Option::take);
        if let Some(place) = used.filter(|_| !std::thread::panicking()) {
            panic!("the heap was used with a spinning lock held:\n{place}");
        }
    }
}

/// A spinning lock that is no table's: a kernel has interrupts off meanwhile.
pub(crate) struct Leaf(Spinning);

// SAFETY: as `Spinning`.
unsafe impl RawMutex for Leaf {
    const INIT: Self = Self(Spinning(Alone(AtomicI64::new(0))));
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        RawMutex::lock(&self.0);
        LEAVES.set(LEAVES.get() + 1);
    }
    fn try_lock(&self) -> bool {
        let locked = RawMutex::try_lock(&self.0);
        LEAVES.set(LEAVES.get() + u32::from(locked));
        locked
    }
    unsafe fn unlock(&self) {
        LEAVES.set(LEAVES.get() - 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { RawMutex::unlock(&self.0) };
    }
}

/// Read-copy-update that knows whether this thread is in a read section.
pub(crate) struct Sections(EpochRcu<Bench>);

/// A reader, and the read sections that it is in.
pub(crate) struct Reader {
    inner: <EpochRcu<Bench> as Rcu<Bench>>::Reader,
    sections: Cell<u32>,
}

// SAFETY: everything is passed on.
unsafe impl Rcu<Bench> for Sections {
    type Reader = Reader;

    fn new(host: &Bench) -> Result<Self, OutOfMemory> {
        EpochRcu::new(host).map(Self)
    }
    fn register(&self, host: &Bench) -> Result<Reader, OutOfMemory> {
        Ok(Reader { inner: self.0.register(host)?, sections: Cell::new(0) })
    }
    unsafe fn unregister(&self, host: &Bench, reader: Reader) {
        // Sections whose guards were forgotten end with their reader.
        SECTIONS.set(SECTIONS.get() - reader.sections.get());
        // SAFETY: passed on.
        unsafe { self.0.unregister(host, reader.inner) };
    }
    unsafe fn read_lock(&self, host: &Bench, reader: &Reader) {
        // SAFETY: passed on.
        unsafe { self.0.read_lock(host, &reader.inner) };
        reader.sections.set(reader.sections.get() + 1);
        SECTIONS.set(SECTIONS.get() + 1);
    }
    unsafe fn read_unlock(&self, host: &Bench, reader: &Reader) {
        SECTIONS.set(SECTIONS.get() - 1);
        reader.sections.set(reader.sections.get() - 1);
        // SAFETY: passed on.
        unsafe { self.0.read_unlock(host, &reader.inner) };
    }
    unsafe fn call(&self, host: &Bench, head: NonNull<RcuHead>) {
        // SAFETY: passed on.
        unsafe { self.0.call(host, head) };
    }
    unsafe fn synchronize(&self, host: &Bench) {
        // SAFETY: passed on.
        unsafe { self.0.synchronize(host) };
    }
    unsafe fn barrier(&self, host: &Bench) {
        // SAFETY: passed on.
        unsafe { self.0.barrier(host) };
    }
    fn pending(&self) -> u64 {
        self.0.pending()
    }
}

/// The platform is called, and may sleep. What another processor does in between (`interrupt`) is not looked at.
pub(super) fn may_sleep(call: &str) {
    if !inject::is_exempt() && !std::thread::panicking() {
        assert_eq!(SPINNING.get(), 0, "{call}() is called with a spinning lock held, and may sleep");
        assert_eq!(SECTIONS.get(), 0, "{call}() is called in a read section, and may sleep");
    }
}

/// The platform is called, and waits for other processors to answer an interrupt.
pub(super) fn waits_for_processors(call: &str) {
    if !inject::is_exempt() && !std::thread::panicking() {
        assert_eq!(LEAVES.get(), 0, "{call}() is called with interrupts off, and waits for other processors");
    }
}

/// The heap is about to be used.
pub(super) fn using_heap() {
    if SPINNING.get() == 0 || inject::is_exempt() || std::thread::panicking() {
        return;
    }
    inject::exempt(|| {
        let place = std::backtrace::Backtrace::force_capture().to_string();
        HEAP_USED.with_borrow_mut(|used| used.get_or_insert(place).len());
    });
}
