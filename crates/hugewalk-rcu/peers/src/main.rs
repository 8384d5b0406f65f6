//! Read sections, and frees, of `hugewalk-rcu` beside those of its peers, in one run:
//! `cargo run --release --manifest-path crates/hugewalk-rcu/peers/Cargo.toml`.
//!
//! What is timed is processor time of the thread, so that others on this machine do not count; the cases of a table take turns, and
//! the median of their turns is printed. `urcu-like` is the read side of liburcu's membarrier flavour, written out here.

use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::Barrier;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicPtr, AtomicU64, compiler_fence, fence};
use std::time::Duration;

use hugewalk_rcu::{Barriers, EpochRcu, Rcu, RcuHead};
use seize::Guard as _;

const EXPEDITED: libc::c_int = 1 << 3;
const REGISTER: libc::c_int = 1 << 4;

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: the call touches no memory of this program.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

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
        assert!(membarrier(EXPEDITED), "membarrier was there at the start");
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

/// Processor time of this thread.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place is one for a `timespec`.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn timed(count: u64, mut each: impl FnMut() -> u64) -> Duration {
    let start = processor_time();
    let mut sum = 0_u64;
    for _ in 0..count {
        sum = sum.wrapping_add(each());
    }
    black_box(sum);
    processor_time() - start
}

/// The slowest of so many threads that do this at once.
fn on_threads(threads: usize, work: &(dyn Fn() -> Duration + Sync)) -> Duration {
    let start = Barrier::new(threads);
    std::thread::scope(|scope| {
        let begin = |_| {
            scope.spawn(|| {
                start.wait();
                work()
            })
        };
        let begun: Vec<_> = (0..threads).map(begin).collect();
        begun.into_iter().map(|thread| thread.join().expect("no panic")).max().expect("a thread")
    })
}

type Case<'c> = (&'static str, Box<dyn Fn(u64) -> Duration + 'c>);

fn table(title: &str, count: u64, cases: &[Case<'_>]) {
    const TURNS: usize = 21;
    let mut times = vec![Vec::new(); cases.len()];
    for _ in 0..TURNS {
        for ((_, case), times) in cases.iter().zip(&mut times) {
            times.push(case(count).as_secs_f64() * 1e9 / count as f64);
        }
    }
    println!("{title}");
    for ((name, _), mut times) in cases.iter().zip(times) {
        times.sort_by(f64::total_cmp);
        println!("  {name:38} {:>8.2} ns, at least {:.2}", times[TURNS / 2], times[0]);
    }
}

/// A section of ours around a load.
fn section<B: Barriers>(host: &B, rcu: &EpochRcu<B>, count: u64, place: &AtomicPtr<u64>) -> Duration {
    let reader = rcu.register(host).expect("memory for a reader");
    let time = timed(count, || {
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

#[repr(align(128))]
struct Line(AtomicU64);

#[repr(C)]
struct Node {
    head: RcuHead,
    value: u64,
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
    let time = timed(count, || {
        let node = Box::into_raw(Box::new(Node { head: RcuHead::new(free), value: 1 }));
        free_later(place.swap(node, SeqCst));
        1
    });
    free_later(place.swap(std::ptr::null_mut(), SeqCst));
    // SAFETY: in no section, and no lock is held.
    unsafe { rcu.barrier(host) };
    time
}

fn main() {
    assert!(membarrier(REGISTER), "this machine has no membarrier(2)");
    let value = Box::leak(Box::new(Node { head: RcuHead::new(free), value: 7 }));
    let place = &AtomicPtr::new(&raw mut value.value);
    let (by_membarrier, by_fences) = (&EpochRcu::new(&Membarrier).unwrap(), &EpochRcu::new(&Fences).unwrap());
    let atomic = &crossbeam_epoch::Atomic::new(7_u64);
    let collector = &seize::Collector::new();
    let epoch = &AtomicU64::new(1);
    for threads in [1, 2] {
        let run = move |work: &(dyn Fn() -> Duration + Sync)| on_threads(threads, work);
        let cases: Vec<Case<'_>> = vec![
            // SAFETY: the number stays.
            ("the load alone", Box::new(move |n| run(&|| timed(n, || unsafe { *place.load(Acquire) })))),
            (
                "hugewalk-rcu, membarrier",
                Box::new(move |n| run(&|| section(&Membarrier, by_membarrier, n, place))),
            ),
            ("hugewalk-rcu, fences", Box::new(move |n| run(&|| section(&Fences, by_fences, n, place)))),
            (
                "urcu-like, membarrier",
                Box::new(move |n| {
                    run(&|| {
                        let slot = Line(AtomicU64::new(0));
                        timed(n, || {
                            slot.0.store(epoch.load(Relaxed), Relaxed);
                            compiler_fence(SeqCst);
                            // SAFETY: the number stays.
                            let value = unsafe { *place.load(Acquire) };
                            slot.0.store(0, Release);
                            black_box(&slot);
                            value
                        })
                    })
                }),
            ),
            (
                "crossbeam-epoch, pin of a handle",
                Box::new(move |n| {
                    run(&|| {
                        let handle = crossbeam_epoch::default_collector().register();
                        timed(n, || {
                            let guard = handle.pin();
                            // SAFETY: the number stays.
                            unsafe { *atomic.load(Acquire, &guard).deref() }
                        })
                    })
                }),
            ),
            (
                "seize, enter",
                Box::new(move |n| {
                    run(&|| {
                        timed(n, || {
                            let guard = collector.enter();
                            // SAFETY: the number stays.
                            unsafe { *guard.protect(place, Acquire) }
                        })
                    })
                }),
            ),
        ];
        table(
            &format!("enter, load a pointer and what is there, leave; threads: {threads}"),
            1_000_000,
            &cases,
        );
    }
    let cases: Vec<Case<'_>> = vec![
        ("hugewalk-rcu, membarrier", Box::new(move |n| replace(&Membarrier, by_membarrier, n))),
        ("hugewalk-rcu, fences", Box::new(move |n| replace(&Fences, by_fences, n))),
        (
            "crossbeam-epoch",
            Box::new(|n| {
                let place = crossbeam_epoch::Atomic::<Node>::null();
                let handle = crossbeam_epoch::default_collector().register();
                let node = || crossbeam_epoch::Owned::new(Node { head: RcuHead::new(free), value: 1 });
                let time = timed(n, || {
                    let guard = handle.pin();
                    let old = place.swap(node(), SeqCst, &guard);
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
            }),
        ),
        (
            "seize",
            Box::new(move |n| {
                let place = AtomicPtr::new(std::ptr::null_mut::<Node>());
                let retire = |old: *mut Node| {
                    if !old.is_null() {
                        // SAFETY: unlinked just now, and made by `Box`.
                        unsafe { collector.retire(old, seize::reclaim::boxed) };
                    }
                };
                let time = timed(n, || {
                    let node = Box::into_raw(Box::new(Node { head: RcuHead::new(free), value: 1 }));
                    retire(place.swap(node, SeqCst));
                    1
                });
                retire(place.swap(std::ptr::null_mut(), SeqCst));
                time
            }),
        ),
    ];
    table("replace a node of the heap, and have the old one freed when it may be", 100_000, &cases);
}
