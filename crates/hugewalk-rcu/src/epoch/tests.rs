extern crate std;

use std::boxed::Box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, fence};
use std::thread;
use std::vec::Vec;

use super::*;

/// Real threads, both barriers full fences.
struct Threads;

// SAFETY: full fences are sequentially consistent.
unsafe impl Barriers for Threads {
    type Word = AtomicU64;
    type SpinLock = parking_lot::RawMutex;
    fn light(&self) {
        fence(Ordering::SeqCst);
    }
    fn heavy(&self) {
        fence(Ordering::SeqCst);
    }
    unsafe fn pause(&self) {
        thread::yield_now();
    }
}

type Domain = EpochRcu<Threads>;
type Reader = EpochReader<Threads>;

fn domain() -> Arc<Domain> {
    Arc::new(Domain::new(&Threads).unwrap())
}

fn reader(domain: &Domain) -> Reader {
    domain.register(&Threads).unwrap()
}

fn unregister(domain: &Domain, reader: Reader) {
    // SAFETY: the tests have one domain each.
    unsafe { domain.unregister(&Threads, reader) };
}

fn lock(domain: &Domain, reader: &Reader) {
    // SAFETY: the tests have one domain each.
    unsafe { domain.read_lock(&Threads, reader) };
}

fn unlock(domain: &Domain, reader: &Reader) {
    // SAFETY: the tests have one domain each, and lock before they unlock.
    unsafe { domain.read_unlock(&Threads, reader) };
}

fn synchronize(domain: &Domain) {
    // SAFETY: called in no section, but where a test shows what waits; no lock is held.
    unsafe { domain.synchronize(&Threads) };
}

fn barrier(domain: &Domain) {
    // SAFETY: as for `synchronize`, and by no callback.
    unsafe { domain.barrier(&Threads) };
}

/// Something that is freed by RCU, and then does something on its way out.
#[repr(C)]
struct Deferred<F> {
    head: RcuHead,
    then: F,
}

fn call<F: FnOnce() + Send>(domain: &Domain, then: F) {
    unsafe fn run<F: FnOnce()>(head: NonNull<RcuHead>) {
        // SAFETY: the head is the first field of a `Deferred<F>` that `call` took out of a box, and is run once.
        let deferred = unsafe { Box::from_raw(head.as_ptr().cast::<Deferred<F>>()) };
        (deferred.then)();
    }
    let deferred = Box::into_raw(Box::new(Deferred { head: RcuHead::new(run::<F>), then }));
    let head = NonNull::new(deferred.cast()).unwrap();
    // SAFETY: the head is valid until its callback frees it; `then` may change threads.
    unsafe { domain.call(&Threads, head) };
}

/// A callback that counts itself.
fn call_counted(domain: &Domain, count: &Arc<AtomicU64>) {
    let count = count.clone();
    call(domain, move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
}

#[test]
fn a_section_never_sees_what_was_freed() {
    const ALIVE: u64 = 1;
    const FREED: u64 = 2;
    let domain = domain();
    let object = || Box::into_raw(Box::new(AtomicU64::new(ALIVE)));
    let places: Arc<[AtomicPtr<AtomicU64>; 4]> = Arc::new(core::array::from_fn(|_| AtomicPtr::new(object())));
    let stop = Arc::new(AtomicBool::new(false));
    let freed = Arc::new(AtomicU64::new(0));

    let readers = [1, 2, 3].map(|stay| {
        let (domain, places, stop) = (domain.clone(), places.clone(), stop.clone());
        thread::spawn(move || {
            // Not asserted on the spot: a section that is never left would hang the test.
            let mut seen_freed = 0;
            let mut sections = 0_u64;
            let mut me = reader(&domain);
            while !stop.load(Ordering::Relaxed) {
                lock(&domain, &me);
                for place in places.iter() {
                    // SAFETY: the section keeps it, or the test fails; the memory itself is never given back.
                    let object = unsafe { &*place.load(Ordering::Acquire) };
                    if sections.is_multiple_of(64) {
                        thread::yield_now();
                    }
                    for _ in 0..stay * 8 {
                        seen_freed += u64::from(object.load(Ordering::Relaxed) != ALIVE);
                    }
                }
                unlock(&domain, &me);
                sections += 1;
                if sections.is_multiple_of(1000) {
                    unregister(&domain, me);
                    me = reader(&domain);
                }
            }
            unregister(&domain, me);
            seen_freed
        })
    });
    let writers = [0_u64, 1].map(|writer| {
        let (domain, places, freed) = (domain.clone(), places.clone(), freed.clone());
        thread::spawn(move || {
            for n in 0..100_000 {
                let place = &places[usize::try_from((n + writer) % 4).unwrap()];
                let old = place.swap(object(), Ordering::AcqRel);
                // SAFETY: never given back, see above.
                let (old, freed) = (unsafe { &*old }, freed.clone());
                call(&domain, move || {
                    assert_eq!(old.swap(FREED, Ordering::Relaxed), ALIVE);
                    freed.fetch_add(1, Ordering::Relaxed);
                });
                if n % 10_000 == 0 {
                    synchronize(&domain);
                }
            }
        })
    });
    for writer in writers {
        writer.join().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert_eq!(reader.join().unwrap(), 0);
    }
    barrier(&domain);
    assert_eq!(freed.load(Ordering::Relaxed), 200_000);
}

#[test]
fn a_reader_that_stays_holds_callbacks_back() {
    let domain = domain();
    let (me, other) = (reader(&domain), reader(&domain));
    let ran = Arc::new(AtomicU64::new(0));
    lock(&domain, &me);
    for _ in 0..10_000 {
        lock(&domain, &other);
        call_counted(&domain, &ran);
        unlock(&domain, &other);
    }
    assert_eq!(ran.load(Ordering::Relaxed), 0);
    assert_eq!(domain.pending(), 10_000);

    unlock(&domain, &me);
    // The backlog shrinks with further calls alone: each runs four, on average.
    for _ in 0..4_000 {
        call_counted(&domain, &ran);
    }
    assert!(domain.pending() <= 2 * GRACE_EVERY, "{} wait", domain.pending());
}

#[test]
fn a_later_section_does_not_hold_earlier_callbacks_back() {
    let domain = domain();
    let (me, other) = (reader(&domain), reader(&domain));
    let ran = Arc::new(AtomicU64::new(0));
    call_counted(&domain, &ran);
    synchronize(&domain);
    call_counted(&domain, &ran);
    // One heavy barrier for the second callback, and a section that is entered after it.
    lock(&domain, &other);
    assert!(!domain.advance(&Threads, 2));
    lock(&domain, &me);
    unlock(&domain, &other);
    assert!(domain.advance(&Threads, 2));
    assert!(!domain.advance(&Threads, 3));
    unlock(&domain, &me);
}

#[test]
fn sections_nest() {
    let domain = domain();
    let me = reader(&domain);
    let ran = Arc::new(AtomicU64::new(0));
    lock(&domain, &me);
    call_counted(&domain, &ran);
    lock(&domain, &me);
    unlock(&domain, &me);
    let tag = domain.now().0;
    assert!(!domain.advance(&Threads, tag), "the outer section is still open");
    unlock(&domain, &me);
    assert!(domain.advance(&Threads, tag));
    barrier(&domain);
    assert_eq!(ran.load(Ordering::Relaxed), 1);
}

#[test]
fn a_forgotten_section_ends_with_its_reader() {
    let domain = domain();
    let me = reader(&domain);
    lock(&domain, &me);
    unregister(&domain, me);
    synchronize(&domain);
}

#[test]
fn slots_are_as_many_as_there_were_readers_at_one_time() {
    const THREADS: usize = 4;
    let domain = domain();
    let threads: [_; THREADS] = core::array::from_fn(|_| {
        let domain = domain.clone();
        thread::spawn(move || {
            for _ in 0..2_000 {
                let readers = [reader(&domain), reader(&domain)];
                assert_ne!(readers[0].slot, readers[1].slot);
                for reader in readers {
                    lock(&domain, &reader);
                    unlock(&domain, &reader);
                    unregister(&domain, reader);
                }
            }
        })
    });
    for thread in threads {
        thread.join().unwrap();
    }
    let slots = domain.state.lock().slots.count();
    assert!((2..=2 * THREADS).contains(&slots), "{slots} slots");
}

#[test]
fn calls_alone_keep_the_memory_bounded() {
    let domain = domain();
    let me = reader(&domain);
    let ran = Arc::new(AtomicU64::new(0));
    let mut most = 0;
    for _ in 0..1_000_000 {
        lock(&domain, &me);
        call_counted(&domain, &ran);
        unlock(&domain, &me);
        most = most.max(domain.pending());
    }
    assert!(most <= 4 * GRACE_EVERY, "{most} callbacks waited at one time");
    assert_eq!(ran.load(Ordering::Relaxed) + domain.pending(), 1_000_000);
}

#[test]
fn barrier_waits_until_everything_has_run() {
    let domain = domain();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let domain = domain.clone();
            thread::spawn(move || {
                let me = reader(&domain);
                for round in 0..300 {
                    let ran = Arc::new(AtomicU64::new(0));
                    for _ in 0..round {
                        lock(&domain, &me);
                        call_counted(&domain, &ran);
                        unlock(&domain, &me);
                    }
                    barrier(&domain);
                    assert_eq!(ran.load(Ordering::Relaxed), round);
                }
                unregister(&domain, me);
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(domain.pending(), 0);
}

#[test]
fn barrier_waits_for_a_callback_that_another_thread_runs() {
    let domain = domain();
    let gate = Arc::new(AtomicU64::new(0));
    let runs = gate.clone();
    call(&domain, move || {
        runs.store(1, Ordering::Relaxed);
        while runs.load(Ordering::Relaxed) == 1 {
            thread::yield_now();
        }
        runs.store(3, Ordering::Relaxed);
    });
    let runner = thread::spawn({
        let domain = domain.clone();
        move || synchronize(&domain)
    });
    while gate.load(Ordering::Relaxed) != 1 {
        thread::yield_now();
    }
    let waiter = thread::spawn({
        let (domain, gate) = (domain.clone(), gate.clone());
        move || {
            barrier(&domain);
            gate.load(Ordering::Relaxed)
        }
    });
    thread::sleep(std::time::Duration::from_millis(20));
    // One that is queued and run later does not stand in for it.
    call(&domain, || ());
    synchronize(&domain);
    assert_eq!(domain.pending(), 1);
    thread::sleep(std::time::Duration::from_millis(20));
    assert!(!waiter.is_finished());
    gate.store(2, Ordering::Relaxed);
    assert_eq!(waiter.join().unwrap(), 3);
    runner.join().unwrap();
}

#[test]
fn callbacks_may_call_and_do_not_nest_without_end() {
    struct Depth {
        now: AtomicUsize,
        most: AtomicUsize,
    }
    fn again(domain: &Arc<Domain>, depth: &Arc<Depth>, times: u32) {
        let (on, depth) = (Arc::downgrade(domain), depth.clone());
        call(domain, move || {
            let now = depth.now.fetch_add(1, Ordering::Relaxed) + 1;
            depth.most.fetch_max(now, Ordering::Relaxed);
            if let (Some(domain), Some(times)) = (on.upgrade(), times.checked_sub(1)) {
                again(&domain, &depth, times);
            }
            depth.now.fetch_sub(1, Ordering::Relaxed);
        });
    }
    let domain = domain();
    let depth = Arc::new(Depth { now: AtomicUsize::new(0), most: AtomicUsize::new(0) });
    for _ in 0..1_000 {
        again(&domain, &depth, 100);
    }
    let most = depth.most.load(Ordering::Relaxed);
    assert!((2..=4).contains(&most), "callbacks were run {most} deep");
    for _ in 0..101 {
        barrier(&domain);
    }
    assert_eq!(domain.pending(), 0);
}

#[test]
fn the_domain_runs_what_is_left_when_it_ends() {
    let domain = domain();
    let ran = Arc::new(AtomicU64::new(0));
    let me = reader(&domain);
    for _ in 0..100 {
        call_counted(&domain, &ran);
    }
    unregister(&domain, me);
    drop(domain);
    assert_eq!(ran.load(Ordering::Relaxed), 100);
}
