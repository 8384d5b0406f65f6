//! Read sections, and frees, of `hugewalk-rcu` beside those of its peers. A section is around the load of a pointer and of what is
//! there. Sections come one after the other and do not wait for each other, so this is how many there can be.
//!
//! The peers find out by themselves which thread they run on, and are safe to use; here that is the host's task.

use std::error::Error;
use std::hint::black_box;
use std::io::Write;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicPtr, AtomicU64, compiler_fence, fence};
use std::time::Duration;

use hugewalk_bench::{Case, Effort, Group, repeat, threads, together};
use hugewalk_host::task;
use hugewalk_rcu::{Barriers, EpochRcu, Rcu, RcuHead};
use parking_lot::RwLock;
use rustix::thread::{MembarrierCommand, membarrier};
use seize::Guard as _;

use crate::ground::system;

/// The heavy barrier reaches all processors that run this program.
struct Membarrier;

// SAFETY: `membarrier(2)` is a full fence on each thread that runs, between two of its instructions.
unsafe impl Barriers for Membarrier {
    type Word = AtomicU64;
    type SpinLock = parking_lot::RawMutex;
    #[inline]
    fn light(&self) {
        compiler_fence(SeqCst);
    }
    fn heavy(&self) {
        membarrier(MembarrierCommand::PrivateExpedited).expect("it was there at the start");
    }
    unsafe fn pause(&self) {
        std::thread::yield_now();
    }
}

/// Both barriers are full fences.
struct Fences;

// SAFETY: full fences are sequentially consistent.
unsafe impl Barriers for Fences {
    type Word = AtomicU64;
    type SpinLock = parking_lot::RawMutex;
    #[inline]
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

/// A section of ours around a load.
fn section<B: Barriers>(host: &B, rcu: &EpochRcu<B>, count: u64, place: &AtomicPtr<u64>) -> Duration {
    let reader = rcu.register(host).expect("memory for a reader");
    let time = repeat(count, || {
        // SAFETY: the reader is one of this domain.
        unsafe { rcu.read_lock(host, &reader) };
        // SAFETY: the number stays.
        let value = unsafe { *place.load(Acquire) };
        // SAFETY: in the section entered above.
        unsafe { rcu.read_unlock(host, &reader) };
        value
    });
    // SAFETY: the reader is one of this domain, and in no section.
    unsafe { rcu.unregister(host, reader) };
    time
}

/// The read side of liburcu's membarrier flavour, written out here.
fn by_hand(count: u64, epoch: &AtomicU64, place: &AtomicPtr<u64>) -> Duration {
    let slot = Line(AtomicU64::new(0));
    repeat(count, || {
        slot.0.store(epoch.load(Relaxed), Relaxed);
        compiler_fence(SeqCst);
        // SAFETY: the number stays.
        let value = unsafe { *place.load(Acquire) };
        slot.0.store(0, Release);
        black_box(&slot);
        value
    })
}

#[repr(align(128))]
struct Line(AtomicU64);

#[repr(C)]
struct Node {
    head: RcuHead,
    value: u64,
}

impl Node {
    fn new() -> Self {
        Self { head: RcuHead::new(free), value: 7 }
    }
}

unsafe fn free(head: NonNull<RcuHead>) {
    // SAFETY: the head is the first field of a node that was made by `Box`.
    drop(unsafe { Box::from_raw(head.as_ptr().cast::<Node>()) });
}

/// Puts nodes into a place, each in place of the one before, which is freed.
fn replace<B: Barriers>(host: &B, rcu: &EpochRcu<B>, count: u64) -> Duration {
    let place = AtomicPtr::new(std::ptr::null_mut::<Node>());
    let free_later = |node: *mut Node| {
        if let Some(head) = NonNull::new(node.cast()) {
            // SAFETY: the node is unlinked.
            unsafe { rcu.call(host, head) };
        }
    };
    let time = repeat(count, || {
        let node = Box::into_raw(Box::new(Node::new()));
        free_later(place.swap(node, SeqCst));
        1
    });
    free_later(place.swap(std::ptr::null_mut(), SeqCst));
    // SAFETY: in no section, and no lock is held.
    unsafe { rcu.barrier(host) };
    time
}

fn replace_by_crossbeam(count: u64) -> Duration {
    let place = crossbeam_epoch::Atomic::<Node>::null();
    let handle = crossbeam_epoch::default_collector().register();
    let time = repeat(count, || {
        let guard = handle.pin();
        let old = place.swap(crossbeam_epoch::Owned::new(Node::new()), SeqCst, &guard);
        if !old.is_null() {
            // SAFETY: unlinked just now.
            unsafe { guard.defer_destroy(old) };
        }
        1
    });
    let guard = handle.pin();
    let last = place.swap(crossbeam_epoch::Shared::null(), SeqCst, &guard);
    // SAFETY: unlinked just now, and not null.
    unsafe { guard.defer_destroy(last) };
    time
}

fn replace_by_seize(count: u64, collector: &seize::Collector) -> Duration {
    let place = AtomicPtr::new(std::ptr::null_mut::<Node>());
    let retire = |old: *mut Node| {
        if !old.is_null() {
            // SAFETY: unlinked just now, and made by `Box`.
            unsafe { collector.retire(old, seize::reclaim::boxed) };
        }
    };
    let time = repeat(count, || {
        let node = Box::into_raw(Box::new(Node::new()));
        retire(place.swap(node, SeqCst));
        1
    });
    retire(place.swap(std::ptr::null_mut(), SeqCst));
    time
}

pub(crate) fn report(effort: &Effort, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    membarrier(MembarrierCommand::RegisterPrivateExpedited)
        .map_err(|error| format!("this machine has no membarrier(2): {error}"))?;
    let value = Box::leak(Box::new(Node::new()));
    let place = &AtomicPtr::new(&raw mut value.value);
    let by_membarrier = &EpochRcu::new(&Membarrier)?;
    let by_fences = &EpochRcu::new(&Fences)?;
    let (atomic, lock) = (&crossbeam_epoch::Atomic::new(7_u64), &RwLock::new(7_u64));
    let (collector, epoch, hugetlb) = (&seize::Collector::new(), &AtomicU64::new(1), &system(1)?);
    for count in [1, 2] {
        let on = move |work: &(dyn Fn() -> Duration + Sync)| together(count, |_| work());
        let cases = vec![
            // SAFETY: the number stays.
            Case::new("the load alone", move |n| on(&|| repeat(n, || unsafe { *place.load(Acquire) }))),
            Case::new("hugewalk-rcu, membarrier(2)", move |n| {
                on(&|| section(&Membarrier, by_membarrier, n, place))
            }),
            Case::new("hugewalk: Task::rcu_read_lock", move |n| {
                on(&|| {
                    let task = task(hugetlb).expect("memory for a task");
                    repeat(n, || {
                        let _section = task.rcu_read_lock();
                        // SAFETY: the number stays.
                        unsafe { *place.load(Acquire) }
                    })
                })
            }),
            Case::new("hugewalk-rcu, full fences", move |n| on(&|| section(&Fences, by_fences, n, place))),
            Case::new("by hand, as in liburcu (membarrier)", move |n| on(&|| by_hand(n, epoch, place))),
            Case::new("crossbeam-epoch: pin of a handle", move |n| {
                on(&|| {
                    let handle = crossbeam_epoch::default_collector().register();
                    repeat(n, || {
                        let guard = handle.pin();
                        // SAFETY: the number stays.
                        unsafe { *atomic.load(Acquire, &guard).deref() }
                    })
                })
            }),
            Case::new("crossbeam-epoch: pin()", move |n| {
                on(&|| {
                    repeat(n, || {
                        let guard = crossbeam_epoch::pin();
                        // SAFETY: the number stays.
                        unsafe { *atomic.load(Acquire, &guard).deref() }
                    })
                })
            }),
            Case::new("seize: enter", move |n| {
                on(&|| {
                    repeat(n, || {
                        let guard = collector.enter();
                        // SAFETY: the number stays.
                        unsafe { *guard.protect(place, Acquire) }
                    })
                })
            }),
            Case::new("parking_lot: RwLock, in read", move |n| on(&|| repeat(n, || *lock.read()))),
        ];
        let title = format!("a read section, {}", threads(count));
        Group { title, parts: 1, cases }.report(effort, out)?;
    }
    let cases = vec![
        Case::new("hugewalk-rcu, membarrier(2)", move |n| replace(&Membarrier, by_membarrier, n)),
        Case::new("hugewalk-rcu, full fences", move |n| replace(&Fences, by_fences, n)),
        Case::new("crossbeam-epoch", replace_by_crossbeam),
        Case::new("seize", move |n| replace_by_seize(n, collector)),
    ];
    let title = "replace a node of the heap, and have the old one freed when it may be".to_owned();
    Ok(Group { title, parts: 1, cases }.report(effort, out)?)
}
