//! The callbacks that wait for their grace period, in the order of the calls.

use core::ptr::{self, NonNull};

use crate::RcuHead;

/// So many batches run at the same time, whether on different threads or nested, because callbacks
/// call. Nesting is bounded because kernel stacks are small.
const RUNNERS: usize = 4;

/// A queue without memory of its own: the callbacks are linked through their heads.
///
/// # Invariants
///
/// - From `first`, `next` leads over `queued - taken` heads to `last` and then to null. Both are
///   null if there are none. All of these heads are valid and belong to the queue alone: their
///   callers keep them so until they have been run.
/// - Their tags, `RcuHead::epoch`, do not fall from one to the next.
pub(super) struct Queue {
    first: *mut RcuHead,
    last: *mut RcuHead,
    /// Callbacks ever pushed.
    queued: u64,
    /// Callbacks ever taken out to be run; they are the oldest ones.
    taken: u64,
    /// Callbacks that have run.
    completed: u64,
    /// For each batch under way, how many callbacks were taken before it.
    running: [Option<u64>; RUNNERS],
}

// SAFETY: by the type invariants the heads belong to the queue alone, and by the contract of
// `Rcu::call` any thread may run them.
unsafe impl Send for Queue {}

/// Callbacks that may run now. The batch must be run, and then given back to [`Queue::finish`].
///
/// # Invariants
///
/// `next` leads from `first` over `count` heads, which are valid, belong to this batch alone, and
/// are past their grace period.
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

    /// Appends a callback. `tag` is not below that of the callback before.
    ///
    /// # Safety
    ///
    /// `head` is valid and belongs to the queue alone until it has been run, which may happen on
    /// any thread.
    pub(super) unsafe fn push(&mut self, head: NonNull<RcuHead>, tag: u64) {
        // SAFETY: by the contract of this function the head is valid and ours.
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

    /// Takes out the oldest callbacks, with tags up to `elapsed`, the last epoch whose grace period
    /// is over.
    ///
    /// It takes at most `limit`, and half as many for each batch under way. A nested batch must not
    /// do as much as the one around it, or one call might do the work of all. `None` if there is no
    /// such callback, or if too many batches are under way.
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

    /// Notes that a batch has been run. Called once for each batch.
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

    /// Have the first `count` callbacks that were pushed all been run? Batches end in any order, so
    /// counting the ones that ended would be wrong.
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
    /// Runs the callbacks. Must not be called with a lock held, since they may queue others.
    pub(super) fn run(&mut self) {
        let mut next = self.first;
        for _ in 0..self.count {
            let Some(head) = NonNull::new(next) else { break };
            // SAFETY: by the type invariants the head is valid and ours; its callback, which frees it, has not run.
            next = unsafe { (*head.as_ptr()).next };
            // SAFETY: by the type invariants its grace period is over, and only this batch reaches
            // it.
            unsafe { RcuHead::invoke(head) };
        }
        // INVARIANT: no heads are left, so nothing is run twice. `count` stays, because `finish`
        // needs it.
        self.first = ptr::null_mut();
    }
}
