//! The lock whose readers mark themselves, on threads: the mmap lock and VMA locks are of this kind.

use std::cell::UnsafeCell;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use hugewalk::sleep::BiasedRwLock;
use hugewalk::sync::Arc;
use hugewalk_host::{Host, HostConfig, task};

type Hugetlb = hugewalk::Hugetlb<Host>;
type Lock<T> = BiasedRwLock<Host, T>;

/// Reads that give a fresh lock its bias.
const READS: u32 = 16;

fn system() -> Arc<Hugetlb> {
    Hugetlb::new(Host::new(&HostConfig::new()).unwrap()).unwrap()
}

fn bias<T>(lock: &Lock<T>, hugetlb: &Arc<Hugetlb>, reads: u32) {
    let mut task = task(hugetlb).unwrap();
    for _ in 0..reads {
        drop(lock.read(&mut task));
    }
    assert!(lock.is_biased());
}

/// Two numbers that are equal unless a writer is at work.
#[derive(Default)]
struct Twins([UnsafeCell<u64>; 2]);

// SAFETY: changed under a lock in write, and read under it in read.
unsafe impl Sync for Twins {}

impl Twins {
    fn look(&self) -> u64 {
        // SAFETY: the caller holds the lock in read.
        let first = unsafe { self.0[0].get().read_volatile() };
        std::hint::spin_loop();
        // SAFETY: as above.
        let second = unsafe { self.0[1].get().read_volatile() };
        assert_eq!(first, second, "a reader and a writer hold the lock at once");
        first
    }

    fn change(&self) {
        let before = self.look();
        // SAFETY: the caller holds the lock in write.
        unsafe { self.0[0].get().write_volatile(before + 1) };
        thread::yield_now();
        // SAFETY: as above.
        unsafe { self.0[1].get().write_volatile(before + 1) };
    }
}

#[test]
fn readers_and_writers_exclude_each_other_while_the_bias_comes_and_goes() {
    const WRITES: u64 = 60;
    let hugetlb = system();
    let lock = Lock::new(&hugetlb, Twins::default());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut task = task(&hugetlb).unwrap();
                let mut last = 0;
                while !done.load(Relaxed) {
                    let now = lock.read(&mut task).look();
                    assert!(now >= last, "a reader does not see what a writer before it did");
                    last = now;
                }
            });
        }
        let writers = [true, false].map(|waits| {
            let (lock, hugetlb) = (&lock, &hugetlb);
            scope.spawn(move || {
                let mut task = task(hugetlb).unwrap();
                for _ in 0..WRITES {
                    // So that the bias comes back between two writers.
                    for _ in 0..1100 {
                        lock.read(&mut task).look();
                    }
                    match lock.try_write() {
                        Some(twins) if !waits => twins.change(),
                        tried => {
                            drop(tried);
                            lock.write(&mut task).change();
                        }
                    }
                }
            })
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Relaxed);
    });
    let mut task = task(&hugetlb).unwrap();
    assert_eq!(lock.read(&mut task).look(), 2 * WRITES);
    assert!(hugetlb.revocations() > 20, "the bias was taken away {} times only", hugetlb.revocations());
}

#[test]
fn a_writer_sleeps_until_the_last_reader_has_left() {
    let hugetlb = system();
    let lock = Lock::new(&hugetlb, ());
    bias(&lock, &hugetlb, READS);
    let written = AtomicBool::new(false);
    thread::scope(|scope| {
        let (come, came) = channel();
        let mut readers = Vec::new();
        for _ in 0..2 {
            let (go, wait) = channel::<()>();
            let (lock, hugetlb, come) = (&lock, &hugetlb, come.clone());
            let written = &written;
            let reader = scope.spawn(move || {
                let mut task = task(hugetlb).unwrap();
                let held = lock.read(&mut task);
                come.send(()).unwrap();
                let _ = wait.recv();
                assert!(!written.load(Acquire), "the writer is in, and a reader is too");
                drop(held);
            });
            readers.push((reader, go));
            came.recv().unwrap();
        }
        assert!(lock.try_write().is_none());
        let writer = scope.spawn(|| {
            let mut task = task(&hugetlb).unwrap();
            let held = lock.write(&mut task);
            written.store(true, Release);
            drop(held);
        });
        thread::sleep(Duration::from_millis(20));
        for (reader, go) in readers {
            assert!(!writer.is_finished());
            drop(go);
            reader.join().unwrap();
        }
        writer.join().unwrap();
    });
    assert!(written.load(Relaxed));
}

#[test]
fn a_fresh_lock_is_plain_and_a_writer_makes_it_plain_again() {
    let hugetlb = system();
    let lock = Lock::new(&hugetlb, ());
    let mut task = task(&hugetlb).unwrap();
    for reads in [READS, 2 * READS, 4 * READS] {
        for _ in 0..reads {
            assert!(!lock.is_biased());
            drop(lock.read(&mut task));
        }
        assert!(lock.is_biased());
        let before = hugetlb.revocations();
        drop(lock.write(&mut task));
        assert!(!lock.is_biased());
        // One that comes now has no barrier to pass.
        drop(lock.write(&mut task));
        assert_eq!(hugetlb.revocations(), before + 1);
    }
}

#[test]
fn a_task_that_has_no_place_left_takes_the_plain_lock() {
    let hugetlb = system();
    let locks: Vec<_> = (0..10).map(|_| Lock::new(&hugetlb, ())).collect();
    locks.iter().for_each(|lock| bias(lock, &hugetlb, READS));
    let mut task = task(&hugetlb).unwrap();
    let held: Vec<_> = locks.iter().map(|lock| lock.read(&mut task)).collect();
    assert!(locks.iter().all(|lock| lock.try_write().is_none()));
    drop(held);
    assert!(locks.iter().all(|lock| lock.try_write().is_some()));
}

#[test]
fn a_line_that_was_given_back_is_that_of_one_task_again() {
    let hugetlb = system();
    let locks: Vec<_> = (0..7).map(|_| Lock::new(&hugetlb, ())).collect();
    locks.iter().for_each(|lock| bias(lock, &hugetlb, READS));
    let (last, others) = locks.split_last().unwrap();
    let elsewhere = |work: &(dyn Fn() + Sync)| thread::scope(|scope| scope.spawn(work).join().unwrap());
    let mut first = task(&hugetlb).unwrap();
    elsewhere(&|| drop(task(&hugetlb).unwrap()));
    drop(first);
    // Two lines are free. The first task fills one.
    first = task(&hugetlb).unwrap();
    let held: Vec<_> = others.iter().map(|lock| lock.read(&mut first)).collect();
    elsewhere(&|| {
        let mut second = task(&hugetlb).unwrap();
        let before = hugetlb.revocations();
        let also = last.read(&mut second);
        assert!(last.try_write().is_none());
        drop(also);
        assert_eq!(hugetlb.revocations(), before + 1, "it holds the plain lock, for want of a place");
    });
    drop(held);
}

#[test]
fn a_task_of_another_system_takes_the_plain_lock() {
    let (hugetlb, other) = (system(), system());
    let lock = Lock::new(&hugetlb, ());
    bias(&lock, &hugetlb, READS);
    let mut task = task(&other).unwrap();
    let held = lock.read(&mut task);
    assert!(lock.try_write().is_none());
    drop(held);
    assert!(lock.try_write().is_some());
}

#[test]
fn a_guard_outlives_its_task_and_its_mark_stays() {
    let hugetlb = system();
    let lock = Lock::new(&hugetlb, ());
    bias(&lock, &hugetlb, READS);
    let mut first = task(&hugetlb).unwrap();
    let held = lock.read(&mut first);
    drop(first);
    // It gets the line in which the mark is still.
    let mut second = task(&hugetlb).unwrap();
    let also = lock.read(&mut second);
    drop(also);
    assert!(lock.try_write().is_none());
    drop(held);
    assert!(lock.try_write().is_some());
}

#[test]
fn a_bias_that_comes_back_beside_a_reader_tells_of_it() {
    let hugetlb = system();
    let lock = Lock::new(&hugetlb, ());
    bias(&lock, &hugetlb, READS);
    let mut task = task(&hugetlb).unwrap();
    let held = lock.read(&mut task);
    assert!(lock.try_write().is_none());
    // The bias is gone, and the mark is not.
    for _ in 0..2 * READS {
        drop(lock.read(&mut task));
    }
    assert!(lock.is_biased());
    assert!(lock.try_write().is_none());
    drop(held);
    assert!(lock.try_write().is_some());
}
