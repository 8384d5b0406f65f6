//! Programs of several threads, each for a fixed number of rounds.

use std::cell::UnsafeCell;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;

use hugewalk::arch::{Entry, PUD_SIZE};
use hugewalk::fault::Access;
use hugewalk::mm::Advice;
use hugewalk::platform::Platform;
use hugewalk::sleep::{RawSleepMutex, RawSleepRwLock};
use hugewalk::sync::Parker;
use hugewalk::walk::{Unshared, huge_pte_offset};
use lock_api::{Mutex, RawMutex};

use super::{Handle, PAGE, PRIVATE, SHARED, fill, map, page, space, system, task};

const ROUNDS: u64 = 200;

/// Set when this is dropped, also by a panic. So no thread waits for one that is gone.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Release);
    }
}

/// One thread walks without locks while another shares and unshares the table that it walks through.
pub fn walks_beside_unsharing<P: Platform>(platform: &Handle<P>) {
    let hugetlb = system(platform);
    let mut own = task(&hugetlb);
    let parent = space(&hugetlb);
    map(&parent, SHARED, &mut own);
    fill(&parent, SHARED, 1, &mut own);
    let child = parent.fork(&mut own).expect("there is memory");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let task = task(&hugetlb);
            let mut frame = None;
            while !done.load(Acquire) {
                let section = task.rcu_read_lock();
                let slot = huge_pte_offset(&section, child.mm(), SHARED, PAGE).expect("our own");
                match slot.map(|slot| slot.read()) {
                    Some(Ok(Entry::Leaf(leaf))) => assert_eq!(*frame.get_or_insert(leaf.frame), leaf.frame),
                    None | Some(Ok(Entry::None) | Err(Unshared)) => {}
                    Some(other) => panic!("{other:?} was never mapped"),
                }
            }
        });
        let _done = Done(&done);
        for _ in 0..ROUNDS {
            child.fault(&mut own, SHARED, Access::Read).expect("shared");
            child.madvise(&mut own, SHARED, PUD_SIZE, Advice::DontNeed).expect("it is mapped");
        }
    });
    child.exit(&mut own).expect("its own task");
    parent.exit(&mut own).expect("its own task");
}

/// Threads fault in what another one unmaps.
pub fn faults_beside_unmapping<P: Platform>(platform: &Handle<P>) {
    let hugetlb = system(platform);
    let mut own = task(&hugetlb);
    let space = space(&hugetlb);
    for start in [SHARED, PRIVATE] {
        map(&space, start, &mut own);
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for start in [SHARED, PRIVATE] {
            let (space, hugetlb, done) = (&space, &hugetlb, &done);
            scope.spawn(move || {
                let mut task = task(hugetlb);
                while !done.load(Acquire) {
                    for number in 0..4 {
                        space.fault(&mut task, page(start, number), Access::Write).expect("it is mapped");
                    }
                }
            });
        }
        let _done = Done(&done);
        for _ in 0..ROUNDS {
            for start in [SHARED, PRIVATE] {
                space.madvise(&mut own, start, PUD_SIZE, Advice::DontNeed).expect("it is mapped");
            }
        }
    });
    space.exit(&mut own).expect("its own task");
}

/// A meeting point of two threads. It spins, so that both go on at the same moment.
struct Meeting([AtomicU64; 2]);

impl Meeting {
    fn wait(&self, number: usize) {
        let here = self.0[number].load(Relaxed) + 1;
        self.0[number].store(here, Release);
        let mut spins = 0;
        while self.0[1 - number].load(Acquire) < here {
            spins += 1;
            if spins < 1000 {
                core::hint::spin_loop();
            } else {
                // The other thread may wait for this processor.
                thread::yield_now();
            }
        }
    }
}

/// If two threads each write, pass their barrier and read the other's word, at least one sees the
/// other's write.
///
/// A barrier that does nothing shows only where the processor delays a store behind a load while
/// both threads run, so it may pass this by chance.
pub fn barriers_are_barriers<P: Platform>(platform: &Handle<P>) {
    type Side<P> = fn(&P);
    let sides: [(&str, Side<P>); 2] = [("light", P::light), ("heavy", P::heavy)];
    for (name, one) in sides {
        let platform = platform.inner();
        let words = [AtomicU64::new(0), AtomicU64::new(0)];
        let store = |number: usize, round| words[number].store(round, Relaxed);
        let load = |number: usize| words[number].load(Relaxed);
        store_buffering(name, 10 * ROUNDS, (&store, &load), [&|| one(platform), &|| P::heavy(platform)]);
    }
}

/// Runs the litmus test for that many rounds. `memory` is the store to and the load of a thread's word.
fn store_buffering(
    name: &str,
    rounds: u64,
    memory: (&(dyn Fn(usize, u64) + Sync), &(dyn Fn(usize) -> u64 + Sync)),
    barriers: [&(dyn Fn() + Sync); 2],
) {
    let (store, load) = memory;
    let seen = [AtomicU64::new(0), AtomicU64::new(0)];
    let meeting = Meeting([AtomicU64::new(0), AtomicU64::new(0)]);
    thread::scope(|scope| {
        for (number, barrier) in barriers.into_iter().enumerate() {
            let (seen, meeting) = (&seen, &meeting);
            scope.spawn(move || {
                for round in 1..=rounds {
                    meeting.wait(number);
                    store(number, round);
                    barrier();
                    seen[number].store(load(1 - number), Relaxed);
                    meeting.wait(number);
                    // Both threads find the same.
                    let neither = seen.iter().all(|seen| seen.load(Relaxed) < round);
                    assert!(!neither, "neither {name}() nor heavy() let its thread see the other's write");
                }
            });
        }
    });
}

fn count<L: RawMutex + Send + Sync>(name: &str) {
    let lock = Mutex::<L, u64>::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..10 * ROUNDS {
                    let mut count = lock.lock();
                    let before = *count;
                    thread::yield_now();
                    *count = before + 1;
                }
            });
        }
    });
    assert_eq!(*lock.lock(), 20 * ROUNDS, "two threads held the same {name}");
    let held = lock.lock();
    assert!(lock.try_lock().is_none(), "a {name} was taken while it was held");
    drop(held);
    assert!(lock.try_lock().is_some(), "a free {name} could not be taken");
}

/// A number that threads change under a lock, which is all that keeps them apart.
struct Guarded(UnsafeCell<u64>);

// SAFETY: what is looked for is a lock that does not exclude; the accesses are volatile, and nothing depends on the number.
unsafe impl Sync for Guarded {}

impl Guarded {
    fn get(&self) -> u64 {
        // SAFETY: valid as long as the value.
        unsafe { self.0.get().read_volatile() }
    }

    fn count(&self) {
        let before = self.get();
        thread::yield_now();
        // SAFETY: valid as long as the value.
        unsafe { self.0.get().write_volatile(before + 1) };
    }
}

/// The locks exclude.
pub fn locks_exclude<P: Platform>(_platform: &Handle<P>) {
    count::<P::SpinLock>("SpinLock");
    count::<P::TableLock>("TableLock");
    sleeping_locks_exclude::<P::Parker, P::SleepMutex>();
    sleeping_rw_locks_exclude::<P::Parker, P::SleepRwLock>();
}

fn sleeping_locks_exclude<K: Parker, L: RawSleepMutex<K>>() {
    let (lock, number) = (L::INIT, Guarded(UnsafeCell::new(0)));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let here = K::new();
                for _ in 0..10 * ROUNDS {
                    lock.lock(&here);
                    number.count();
                    // SAFETY: taken above.
                    unsafe { lock.unlock() };
                }
            });
        }
    });
    assert_eq!(number.get(), 20 * ROUNDS, "two threads held the same SleepMutex");
    assert!(lock.try_lock(), "a free SleepMutex could not be taken");
    assert!(!lock.try_lock(), "a SleepMutex was taken while it was held");
    // SAFETY: taken above.
    unsafe { lock.unlock() };
    assert!(lock.lock_killable(&K::new()).is_ok(), "a wait ended that nobody killed");
    // SAFETY: taken above.
    unsafe { lock.unlock() };
}

fn sleeping_rw_locks_exclude<K: Parker, L: RawSleepRwLock<K>>() {
    let (lock, number) = (L::INIT, Guarded(UnsafeCell::new(0)));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let here = K::new();
                for _ in 0..ROUNDS {
                    lock.lock_exclusive(&here);
                    number.count();
                    // SAFETY: taken above.
                    unsafe { lock.unlock_exclusive() };
                    lock.lock_shared(&here);
                    let before = number.get();
                    thread::yield_now();
                    let same = number.get() == before;
                    // SAFETY: taken above.
                    unsafe { lock.unlock_shared() };
                    assert!(same, "a SleepRwLock was held in write together with a reader");
                }
            });
        }
    });
    assert_eq!(number.get(), 2 * ROUNDS, "two threads held the same SleepRwLock in write");
    assert!(lock.try_lock_shared(), "a free SleepRwLock could not be taken in read");
    assert!(!lock.try_lock_exclusive(), "a SleepRwLock was taken in write while it was held in read");
    // SAFETY: taken above.
    unsafe { lock.unlock_shared() };
    assert!(lock.try_lock_exclusive(), "a free SleepRwLock could not be taken in write");
    assert!(!lock.try_lock_shared(), "a SleepRwLock was taken in read while it was held in write");
    // SAFETY: taken above.
    unsafe { lock.unlock_exclusive() };
    let killable = lock.lock_exclusive_killable(&K::new());
    assert!(killable.is_ok(), "a wait ended that nobody killed");
    // SAFETY: taken above.
    unsafe { lock.unlock_exclusive() };
}

/// A grace period does not end before the sections that were open when it began.
pub fn sections_hold_grace_periods_up<P: Platform>(platform: &Handle<P>) {
    let hugetlb = system(platform);
    for _ in 0..20 {
        let (inside, left) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                let inside = Done(&inside);
                let task = task(&hugetlb);
                let outer = task.rcu_read_lock();
                drop(task.rcu_read_lock());
                drop(inside);
                for _ in 0..20 {
                    thread::yield_now();
                }
                left.store(true, Release);
                drop(outer);
            });
            while !inside.load(Acquire) {
                thread::yield_now();
            }
            let mut task = task(&hugetlb);
            task.synchronize();
            assert!(left.load(Acquire), "a grace period ended inside a section that was open before it");
        });
    }
}

/// A token that is put before a task sleeps is found, and one that is put while it sleeps wakes it.
pub fn tokens_wake_tasks<P: Platform>(_platform: &Handle<P>) {
    let place = <P::Parker as Parker>::new();
    let turn = AtomicU64::new(0);
    place.unpark();
    place.park();
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                while turn.load(Acquire) < round {
                    // May return without a token.
                    place.park();
                }
            }
        });
        for round in 1..=ROUNDS {
            turn.store(round, Release);
            place.unpark();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As on a processor that keeps a store in its buffer until the thread stores again.
    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_store_that_no_barrier_drains_is_found() {
        let [seen, buffer] = [const { [const { AtomicU64::new(0) }; 2] }; 2];
        let store = |number: usize, round| seen[number].store(buffer[number].swap(round, Relaxed), Relaxed);
        let load = |number: usize| seen[number].load(Relaxed);
        store_buffering("light", 1, (&store, &load), [&|| (), &|| ()]);
    }
}
