//! The callbacks that wait for their grace period, in the order of the calls.

use core::ptr::{self, NonNull};

use crate::rcu::RcuHead;

/// So many batches run at the same time, whether on different threads or because callbacks call: the latter nest, and
/// the stacks of kernels are small.
const RUNNERS: usize = 4;

/// A queue without memory of its own: the callbacks are linked through their heads.
///
/// # Invariants
///
/// - From `first`, `next` leads over `queued - taken` heads to `last` and then to null; both are null if there are
///   none. All of these heads are valid and nobody else's: their callers keep them so until they have been run.
/// - Their tags, `RcuHead::epoch`, do not fall from one to the next.
pub(super) struct Queue {
    first: *mut RcuHead,
    last: *mut RcuHead,
    /// Callbacks ever pushed.
    queued: u64,
    /// Callbacks ever taken out to be run, the oldest ones.
    taken: u64,
    /// Callbacks that have run.
    completed: u64,
    /// For each batch under way, how many callbacks were taken before it.
    running: [Option<u64>; RUNNERS],
}

// SAFETY: by the type invariants the heads are the queue's alone; `Rcu::call` asks that any thread may run them.
unsafe impl Send for Queue {}

/// Callbacks that may run now. Is to be run, and then given back to [`Queue::finish`].
///
/// # Invariants
///
/// `next` leads from `first` over `count` heads, which are valid, nobody else's, and past their grace period.
#[must_use]
pub(super) struct Batch {
    first: *mut RcuHead,
    count: u64,
    runner: usize,
}

impl Queue {
    pub(super) const fn new() -> Self {
        // INVARIANT: no heads.
        Self {
            first: ptr::null_mut(),
            last: ptr::null_mut(),
            queued: 0,
            taken: 0,
            completed: 0,
            running: [None; RUNNERS],
        }
    }

    /// Appends a callback; `tag` is not below the one before.
    ///
    /// # Safety
    ///
    /// `head` is valid and nobody else's until it has been run, which may happen on any thread.
    pub(super) unsafe fn push(&mut self, head: NonNull<RcuHead>, tag: u64) {
        // SAFETY: valid and ours, as the caller promises.
        let link = unsafe { &mut *head.as_ptr() };
        link.next = ptr::null_mut();
        link.epoch = tag;
        // INVARIANT: it ends the list, and has the highest tag.
        if self.first.is_null() {
            self.first = head.as_ptr();
        } else {
            // SAFETY: by the type invariants `last` is valid and ours, since the queue is not empty.
            unsafe { (*self.last).next = head.as_ptr() };
        }
        self.last = head.as_ptr();
        self.queued += 1;
    }

    /// Takes out callbacks, the oldest ones, with tags up to `elapsed`: the last epoch whose grace period is over. At
    /// most `limit`, and half as many for each batch under way: a nested one must not do as much as the one around it,
    /// or one call may end up doing the work of all. `None` if there is none, or if too many batches are under way.
    pub(super) fn take(&mut self, elapsed: u64, limit: u64) -> Option<Batch> {
        let runner = self.running.iter().position(Option::is_none)?;
        let limit = limit >> self.running.iter().flatten().count();
        let mut batch = Batch { first: self.first, count: 0, runner };
        while !self.first.is_null() && batch.count < limit {
            // SAFETY: by the type invariants the heads of the list are valid and ours.
            let head = unsafe { &*self.first };
            if head.epoch > elapsed {
                break;
            }
            // INVARIANT: the batch grows by the head that the list loses; it is past its grace period.
            self.first = head.next;
            batch.count += 1;
        }
        if self.first.is_null() {
            self.last = ptr::null_mut();
        }
        if batch.count == 0 {
            return None;
        }
        self.running[runner] = Some(self.taken);
        self.taken += batch.count;
        Some(batch)
    }

    /// A batch has been run. Called once for each.
    pub(super) fn finish(&mut self, batch: &Batch) {
        let &Batch { count, runner, .. } = batch;
        self.running[runner] = None;
        self.completed += count;
    }

    /// Callbacks ever pushed.
    pub(super) fn queued(&self) -> u64 {
        self.queued
    }

    /// Callbacks ever taken out to be run.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Have the callbacks that were pushed first, `count` of them, all been run? Batches end in any order, so it does
    /// not do to count those that have.
    pub(super) fn ran(&self, count: u64) -> bool {
        let under_way = self.running.iter().flatten();
        under_way.fold(self.taken, |first, &batch| first.min(batch)) >= count
    }

    /// Callbacks that have not been run.
    pub(super) fn pending(&self) -> u64 {
        self.queued - self.completed
    }
}

impl Batch {
    /// Runs the callbacks. Not to be called with a lock held: they may queue others.
    pub(super) fn run(&mut self) {
        let mut next = self.first;
        for _ in 0..self.count {
            let Some(head) = NonNull::new(next) else { break };
            // SAFETY: by the type invariants the head is valid and ours; its callback, which frees it, has not run.
            next = unsafe { (*head.as_ptr()).next };
            // SAFETY: by the type invariants its grace period is over, and it is reached here only.
            unsafe { RcuHead::invoke(head) };
        }
        // INVARIANT: none are left. `count` stays what `finish` has to know; without heads nothing is run twice.
        self.first = ptr::null_mut();
    }
}
