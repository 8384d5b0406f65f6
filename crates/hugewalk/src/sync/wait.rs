//! Waiting for something that another task brings about, without ever missing that it has.
//!
//! # Protocol
//!
//! Who waits puts itself into the queue *first* and looks *then*; who brings the thing about does so first and wakes
//! then. So either the look finds it, or the waking finds the waiter (scenario S19). The look must not sleep, which would
//! use up the very wake-up it waits for: it gets the task behind a shared borrow, and everything that sleeps wants `&mut`.
//!
//! A task stays in the queue until it has found what it waits for. So a place in a queue is all the memory that waiting
//! takes, and a caller that must not fail any more can take it beforehand.
//!
//! Under the queue's spinning lock nothing is allocated and nothing is dropped, keys included; a key is only looked at there.

use alloc::vec::Vec;

use super::{Arc, SpinLock, lock_with_room};
use crate::error::OutOfMemory;
use crate::platform::{Platform, Protocol, Step};
use crate::task::Task;

/// The place where one task sleeps. As `std::thread::park`: a token that is there or not.
///
/// # Safety
///
/// What a task did before `unpark` is visible to the task that `park` returns to because of it.
pub unsafe trait Parker: Send + Sync + 'static {
    /// A place without a token.
    fn new() -> Self;
    /// Takes the token; sleeps until there is one. May return without one.
    fn park(&self);
    /// Puts the token there. Does not sleep; called with spinning locks held.
    fn unpark(&self);
}

/// Tasks that wait for the same kind of thing, each with a key that says which. Linux: `wait_queue_head_t`.
pub struct WaitQueue<P: Platform, K = ()> {
    waiting: SpinLock<P, Vec<(Arc<P::Parker>, K)>>,
}

impl<P: Platform> WaitQueue<P> {
    /// Sleeps until `look` finds something, and returns that. `look` is called with the task in the queue, at least once,
    /// and again after each [`wake_all`](Self::wake_all).
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if the queue cannot take the task; it has neither looked nor slept then.
    pub fn wait<R>(
        &self,
        task: &mut Task<P>,
        look: impl FnMut(&Task<P>) -> Option<R>,
    ) -> Result<R, OutOfMemory> {
        self.wait_as((), task, look)
    }
}

impl<P: Platform, K> WaitQueue<P, K> {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self { waiting: SpinLock::<P, _>::new(Vec::new()) }
    }

    /// As [`wait`](WaitQueue::wait), for what the key says.
    ///
    /// # Errors
    ///
    /// As for [`wait`](WaitQueue::wait).
    pub fn wait_as<R>(
        &self,
        key: K,
        task: &mut Task<P>,
        mut look: impl FnMut(&Task<P>) -> Option<R>,
    ) -> Result<R, OutOfMemory> {
        if P::Protocol::keeps(Step::QueueThenLook) {
            self.enter(key, task)?;
        } else {
            if let Some(found) = look(task) {
                return Ok(found);
            }
            self.enter(key, task)?;
            task.parker().park();
        }
        Ok(self.sleep(task, look))
    }

    /// Wakes the tasks in the queue whose keys are wanted. They stay in it until they have found what they wait for.
    /// Does not sleep.
    pub fn wake(&self, wanted: impl Fn(&K) -> bool) {
        for (parker, key) in &*self.waiting.lock() {
            if wanted(key) {
                parker.unpark();
            }
        }
    }

    /// Wakes every task that is in the queue now. Does not sleep.
    pub fn wake_all(&self) {
        self.wake(|_| true);
    }

    /// Tasks in the queue.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Takes a place in the queue. To be followed by [`sleep`](Self::sleep), or by [`leave`](Self::leave) if it does not
    /// come to that.
    pub(crate) fn enter(&self, key: K, task: &Task<P>) -> Result<(), OutOfMemory> {
        let mut waiting = lock_with_room::<P, _, _>(&self.waiting, |waiting| waiting, |_| 1)?;
        // Does not allocate: there is room.
        waiting.push((task.parker().clone(), key));
        Ok(())
    }

    /// As [`wait`](WaitQueue::wait), by a task that has taken its place. Does not fail.
    pub(crate) fn sleep<R>(&self, task: &mut Task<P>, mut look: impl FnMut(&Task<P>) -> Option<R>) -> R {
        loop {
            if let Some(found) = look(task) {
                self.leave(task.parker());
                return found;
            }
            // A token from before, or from another queue, is one look more.
            task.parker().park();
        }
    }

    /// Gives a place in the queue up.
    pub(crate) fn leave(&self, of: &Arc<P::Parker>) {
        let left = {
            let mut waiting = self.waiting.lock();
            let at = waiting.iter().position(|(parker, _)| Arc::ptr_eq(parker, of));
            at.map(|at| waiting.swap_remove(at))
        };
        // With the lock released: dropping the key is the caller's code, which may use this very queue.
        drop(left);
    }
}

impl<P: Platform, K> Default for WaitQueue<P, K> {
    fn default() -> Self {
        Self::new()
    }
}
