//! Waiting for something that another task brings about, without missing it.
//!
//! # Protocol
//!
//! A task that waits queues *first* and looks *then*. A task that brings the thing about does so first and
//! wakes then. So either the look finds it, or the wake-up finds the waiter.
//!
//! The look must not sleep: that would use up the very wake-up it waits for. It gets the task behind a
//! shared borrow, and everything that sleeps wants `&mut`.
//!
//! A task stays in the queue until it has found what it waits for. So a place in the queue is all the
//! memory that waiting takes, and a caller that must not fail later can take the place beforehand.
//!
//! Under the queue's spinning lock nothing is allocated and nothing is dropped. Keys are only looked at
//! there.

use alloc::vec::Vec;

use crate::error::{Interrupted, OutOfMemory, WaitError};
use crate::platform::Platform;
use crate::protocol::{Step, keeps};
use crate::sync::{Arc, Parker, SpinLock, lock_with_room};
use crate::task::Task;

/// Which signals end a wait. What a signal is, the host knows: [`Parker::is_killed`], [`Parker::is_interrupted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signals {
    /// None. Linux: `TASK_UNINTERRUPTIBLE`.
    Ignored,
    /// Those that kill the task. Linux: `TASK_KILLABLE`.
    Fatal,
    /// Any. Linux: `TASK_INTERRUPTIBLE`.
    Any,
}

impl Signals {
    /// Has one of them come?
    pub(crate) fn check<K: Parker>(self, task: &K) -> Result<(), Interrupted> {
        let come = match self {
            Self::Ignored => false,
            Self::Fatal => task.is_killed(),
            Self::Any => task.is_interrupted(),
        };
        if come { Err(Interrupted) } else { Ok(()) }
    }
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
    /// [`OutOfMemory`] if there is no room in the queue; the task has neither looked nor slept then.
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

    /// As [`wait`](WaitQueue::wait), for the thing that the key names.
    ///
    /// # Errors
    ///
    /// As for [`wait`](WaitQueue::wait).
    pub fn wait_as<R>(
        &self,
        key: K,
        task: &mut Task<P>,
        look: impl FnMut(&Task<P>) -> Option<R>,
    ) -> Result<R, OutOfMemory> {
        match self.wait_unless(key, Signals::Ignored, task, look) {
            Ok(found) => Ok(found),
            // The second cannot be: no signal ends the wait.
            Err(WaitError::OutOfMemory(_) | WaitError::Interrupted(_)) => Err(OutOfMemory),
        }
    }

    /// As [`wait_as`](Self::wait_as), unless one of these signals comes first.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    pub fn wait_unless<R>(
        &self,
        key: K,
        signals: Signals,
        task: &mut Task<P>,
        mut look: impl FnMut(&Task<P>) -> Option<R>,
    ) -> Result<R, WaitError> {
        if keeps::<P>(Step::QueueThenLook) {
            self.enter(key, task)?;
        } else {
            if let Some(found) = look(task) {
                return Ok(found);
            }
            self.enter(key, task)?;
            task.parker().park();
        }
        Ok(self.sleep(signals, task, look)?)
    }

    /// Wakes the tasks in the queue whose keys are wanted. They stay queued until they have found what they
    /// wait for. Does not sleep. `wanted` is called with a spinning lock of the queue held: it must not
    /// use the queue, and not sleep.
    ///
    /// `wanted` runs with the queue's spinning lock held, so it is none that a caller brings: that one might sleep.
    ///
    /// ```compile_fail,E0624
    /// # use core::cell::RefCell;
    /// # use hugewalk::{Task, platform::Platform, sleep::WaitQueue};
    /// # fn f<P: Platform>(queue: &WaitQueue<P, u64>, task: &RefCell<&mut Task<P>>) {
    /// queue.wake(|_| {
    ///     task.borrow_mut().synchronize();
    ///     true
    /// });
    /// # }
    /// ```
    pub(crate) fn wake(&self, wanted: impl Fn(&K) -> bool) {
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

    /// Takes a place in the queue. [`sleep`](Self::sleep) follows, or [`leave`](Self::leave) if the task
    /// need not wait after all.
    pub(crate) fn enter(&self, key: K, task: &Task<P>) -> Result<(), OutOfMemory> {
        let mut waiting = lock_with_room::<P, _, _>(&self.waiting, |waiting| waiting, |_| 1)?;
        // Does not allocate: there is room.
        waiting.push((task.parker().clone(), key));
        Ok(())
    }

    /// As [`wait`](WaitQueue::wait), for a task that has taken its place already. The place is given up in any case.
    pub(crate) fn sleep<R>(
        &self,
        signals: Signals,
        task: &mut Task<P>,
        mut look: impl FnMut(&Task<P>) -> Option<R>,
    ) -> Result<R, Interrupted> {
        loop {
            if let Some(found) = look(task) {
                self.leave(task.parker());
                return Ok(found);
            }
            if let Err(interrupted) = signals.check(&**task.parker()) {
                self.leave(task.parker());
                return Err(interrupted);
            }
            // A token from before, or from another queue, costs one more look.
            task.parker().park();
        }
    }

    /// Gives up a place in the queue.
    pub(crate) fn leave(&self, of: &Arc<P::Parker>) {
        let left = {
            let mut waiting = self.waiting.lock();
            let at = waiting.iter().position(|(parker, _)| Arc::ptr_eq(parker, of));
            at.map(|at| waiting.swap_remove(at))
        };
        // Dropped with the lock released: a key's `drop` is the caller's code, and may use this very queue.
        drop(left);
    }
}

impl<P: Platform, K> Default for WaitQueue<P, K> {
    fn default() -> Self {
        Self::new()
    }
}
