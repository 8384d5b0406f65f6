//! Which memory some work writes, seen by the processor: the memory is write-protected, and each store that faults is noted
//! and then carried out by itself.
//!
//! So nothing has to be told of a store: not the counts of references, nor the locks, whosever they are. Memory is watched
//! that came from the allocator of this binary, and what a test names besides. One thread works at a time.

use std::alloc::{GlobalAlloc, Layout};
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;
const PAGE: usize = 4096;

/// Memory that allocations come from, one behind the other: each has cache lines of its own.
const HEAP_BYTES: usize = 1 << 30;
static HEAP: AtomicUsize = AtomicUsize::new(0);
static USED: AtomicUsize = AtomicUsize::new(0);

const MOST: usize = 1 << 16;
/// The end of each allocation. Ends ascend.
static ENDS: [AtomicUsize; MOST] = [const { AtomicUsize::new(0) }; MOST];
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

/// What is watched: starts and ends, of whole pages.
static WATCHED: [[AtomicUsize; 2]; 8] = [const { [AtomicUsize::new(0), AtomicUsize::new(0)] }; 8];

/// The addresses of the stores.
static STORES: [AtomicUsize; MOST] = [const { AtomicUsize::new(0) }; MOST];
static STORED: AtomicUsize = AtomicUsize::new(0);

/// Gives each allocation cache lines that no other one has, and takes none back.
pub(crate) struct Apart;

// SAFETY: the pieces are disjoint, as long and as aligned as asked for.
unsafe impl GlobalAlloc for Apart {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let heap = heap();
        let align = layout.align().max(LINE);
        let mut at = USED.load(Relaxed);
        loop {
            let start = at.next_multiple_of(align);
            let end = (start + layout.size()).next_multiple_of(LINE);
            if end > HEAP_BYTES {
                return ptr::null_mut();
            }
            match USED.compare_exchange(at, end, Relaxed, Relaxed) {
                Ok(_) => {
                    // Two threads may note theirs in the other order: nothing that is named is allocated then.
                    ENDS[ALLOCATIONS.fetch_add(1, Relaxed) % MOST].store(heap + end, Relaxed);
                    return ptr::with_exposed_provenance_mut(heap + start);
                }
                Err(other) => at = other,
            }
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

fn heap() -> usize {
    let heap = HEAP.load(Relaxed);
    if heap != 0 {
        return heap;
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: fresh memory, anywhere.
    let memory =
        unsafe { libc::mmap(ptr::null_mut(), HEAP_BYTES, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    assert!(memory != libc::MAP_FAILED, "no memory");
    // Another thread may have been first: then this piece is left unused.
    match HEAP.compare_exchange(0, memory.expose_provenance(), Relaxed, Relaxed) {
        Ok(_) => memory.addr(),
        Err(first) => first,
    }
}

/// The allocation in which an address lies: where it ends tells one from the other.
pub(crate) fn allocation(address: usize) -> usize {
    let ends = ENDS.iter().take(ALLOCATIONS.load(Relaxed)).map(|end| end.load(Relaxed));
    ends.filter(|&end| end > address).min().unwrap_or(0)
}

/// How many bytes, rounded up to cache lines, the allocation has in which an address lies.
pub(crate) fn bytes(address: usize) -> usize {
    let end = allocation(address);
    let before =
        ENDS.iter().take(ALLOCATIONS.load(Relaxed)).map(|end| end.load(Relaxed)).filter(|&it| it < end);
    end - before.max().unwrap_or(end)
}

/// Runs `work`, and returns the cache lines that it stores to, of the heap and of `more`.
pub(crate) fn stores<R>(more: &[Range<usize>], work: impl FnOnce() -> R) -> (R, BTreeSet<usize>) {
    let heap = heap();
    let used = heap..heap + USED.load(Relaxed) + (1 << 20);
    let ranges: Vec<Range<usize>> = [&[used], more].concat();
    handle(libc::SIGSEGV, on_store);
    handle(libc::SIGTRAP, on_step);
    for (place, range) in WATCHED.iter().zip(&ranges) {
        place[0].store(range.start / PAGE * PAGE, Relaxed);
        place[1].store(range.end.next_multiple_of(PAGE), Relaxed);
    }
    STORED.store(0, Relaxed);
    protect(libc::PROT_READ);
    let result = work();
    protect(libc::PROT_READ | libc::PROT_WRITE);
    let stores = STORES.iter().take(STORED.load(Relaxed)).map(|store| store.load(Relaxed) / LINE).collect();
    for place in &WATCHED {
        place[1].store(0, Relaxed);
    }
    (result, stores)
}

fn protect(rights: i32) {
    for [start, end] in &WATCHED {
        let (start, end) = (start.load(Relaxed), end.load(Relaxed));
        if start < end {
            // SAFETY: memory of the heap, or what the test has named. It stays readable, and what is stored while it is
            // not writable is stored by way of `on_store`.
            let done =
                unsafe { libc::mprotect(ptr::with_exposed_provenance_mut(start), end - start, rights) };
            if done != 0 {
                // SAFETY: it has none. This may run in a handler.
                unsafe { libc::abort() };
            }
        }
    }
}

type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void);

fn handle(signal: i32, handler: Handler) {
    // SAFETY: all zero is a value of the type.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handlers below use atomics and mprotect(2) only.
    let done = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    assert_eq!(done, 0);
}

/// The flag of the processor that stops it after one instruction.
const TRAP: i64 = 0x100;

fn flags(context: *mut c_void) -> *mut i64 {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: what a handler gets with `SA_SIGINFO`.
    let registers = unsafe { &raw mut (*context).uc_mcontext.gregs };
    // SAFETY: within the array.
    unsafe { registers.cast::<i64>().add(libc::REG_EFL as usize) }
}

extern "C" fn on_store(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: what a handler gets with `SA_SIGINFO`.
    let info = unsafe { &*info };
    // SAFETY: this signal has an address.
    let address = unsafe { info.si_addr() }.addr();
    let is_watched =
        WATCHED.iter().any(|[start, end]| (start.load(Relaxed)..end.load(Relaxed)).contains(&address));
    if !is_watched {
        // A mistake: the instruction faults once more, and ends the process.
        // SAFETY: the default.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    STORES[STORED.fetch_add(1, Relaxed) % MOST].store(address, Relaxed);
    protect(libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: the flags that the thread goes on with.
    unsafe { *flags(context) |= TRAP };
}

extern "C" fn on_step(_: i32, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: as above.
    unsafe { *flags(context) &= !TRAP };
    protect(libc::PROT_READ);
}
