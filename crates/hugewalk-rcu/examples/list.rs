//! A list that readers walk without a lock, while a writer takes elements out and frees them:
//! `cargo run -p hugewalk-rcu --example list`.
//!
//! Each element has a mark that says that it is there, and the callback that frees it takes the mark away first. A reader that
//! met an element without it would have read freed memory.

use std::ptr::NonNull;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, fence};
use std::thread;

use hugewalk_rcu::{Barriers, EpochRcu, OutOfMemory, Rcu, RcuHead};

/// Threads of a program. Both barriers are full fences, which is right everywhere.
struct Threads;

// SAFETY: full fences are sequentially consistent.
unsafe impl Barriers for Threads {
    type Word = AtomicU64;
    type SpinLock = parking_lot::RawMutex;
    fn light(&self) {
        fence(SeqCst);
    }
    fn heavy(&self) {
        fence(SeqCst);
    }
    unsafe fn pause(&self) {
        thread::yield_now();
    }
}

const THERE: u64 = 0x7ab1_e0f5_7ab1_e0f5;

/// An element. Its head is first, so that the callback finds the element by the head.
#[repr(C)]
struct Element {
    head: RcuHead,
    mark: AtomicU64,
    value: u64,
    next: AtomicPtr<Element>,
}

static FREED: AtomicU64 = AtomicU64::new(0);

unsafe fn free(head: NonNull<RcuHead>) {
    // SAFETY: the head is the first field of an element that was made by `Box`, is in no list any more, and that no reader has
    // found since its grace period began.
    let element = unsafe { Box::from_raw(head.as_ptr().cast::<Element>()) };
    element.mark.store(0, Relaxed);
    FREED.fetch_add(1, Relaxed);
}

/// A list with one writer at a time.
struct List {
    first: AtomicPtr<Element>,
}

impl List {
    /// Puts an element in front. Called by the writer.
    fn push(&self, value: u64) {
        let next = AtomicPtr::new(self.first.load(Relaxed));
        let element = Element { head: RcuHead::new(free), mark: AtomicU64::new(THERE), value, next };
        // Release: pairs with the Acquire of `sum`, which finds the element whole.
        self.first.store(Box::into_raw(Box::new(element)), Release);
    }

    /// Takes the first element with this value out, and has it freed when no reader can be at it any more. Called by the writer.
    fn take(&self, rcu: &EpochRcu<Threads>, value: u64) -> bool {
        let mut place = &self.first;
        loop {
            let found = place.load(Acquire);
            // SAFETY: elements are freed only after they are taken out, and this is the only writer.
            let Some(element) = (unsafe { found.as_ref() }) else { return false };
            if element.value == value {
                place.store(element.next.load(Relaxed), Release);
                let head = NonNull::new(found).expect("an element").cast();
                // SAFETY: the element is out of the list, and is touched by readers alone until its callback runs.
                unsafe { rcu.call(&Threads, head) };
                return true;
            }
            place = &element.next;
        }
    }

    /// The sum of all elements. The caller is in a read section.
    fn sum(&self) -> u64 {
        let mut sum = 0;
        let mut next = self.first.load(Acquire);
        // SAFETY: what is found in a section stays until the section is left.
        while let Some(element) = unsafe { next.as_ref() } {
            // The writer goes on while a reader is at an element.
            thread::yield_now();
            assert_eq!(element.mark.load(Relaxed), THERE, "an element was freed under a reader");
            sum += element.value;
            next = element.next.load(Acquire);
        }
        sum
    }
}

impl Drop for List {
    fn drop(&mut self) {
        let mut next = *self.first.get_mut();
        while !next.is_null() {
            // SAFETY: the list owns its elements, and nobody else has it.
            let mut element = unsafe { Box::from_raw(next) };
            next = *element.next.get_mut();
        }
    }
}

fn main() -> Result<(), OutOfMemory> {
    const ROUNDS: u64 = 2_000;
    let (rcu, list) = (EpochRcu::new(&Threads)?, List { first: AtomicPtr::default() });
    (1..=8).for_each(|value| list.push(value));
    let (done, walks, mut taken) = (AtomicBool::new(false), AtomicU64::new(0), 0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let reader = rcu.register(&Threads).expect("memory for a reader");
                while !done.load(Relaxed) {
                    // SAFETY: the reader is one of this domain, and used by this thread.
                    unsafe { rcu.read_lock(&Threads, &reader) };
                    let sum = list.sum();
                    // SAFETY: in the section entered above.
                    unsafe { rcu.read_unlock(&Threads, &reader) };
                    // Elements are put in front, so none is met twice; those that were moved there meanwhile are missed.
                    assert!(sum <= 36, "a reader has found {sum}");
                    walks.fetch_add(1, AcqRel);
                }
                // SAFETY: the reader is one of this domain, and in no section.
                unsafe { rcu.unregister(&Threads, reader) };
            });
        }
        // Until the readers have begun, too.
        while taken < ROUNDS || walks.load(Acquire) < ROUNDS {
            let value = taken % 8 + 1;
            assert!(list.take(&rcu, value), "{value} is in the list");
            list.push(value);
            taken += 1;
        }
        done.store(true, Relaxed);
    });
    // SAFETY: in no section, and no lock is held.
    unsafe { rcu.barrier(&Threads) };
    assert_eq!(FREED.load(Relaxed), taken);
    println!("{} walks of 8 elements beside {taken} that were taken out and freed", walks.load(Relaxed));
    Ok(())
}
