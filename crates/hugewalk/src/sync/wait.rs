//! Waiting for something that another task brings about, without ever missing that it has.
//!
//! # Protocol
//!
//! Who waits puts itself into the queue *first* and looks *then*; who brings the thing about does so first and wakes
//! then. So either the look finds it, or the waking finds the waiter (scenario S19). The look must not sleep, which would
//! use up the very wake-up it waits for: it gets the task behind a shared borrow, and everything that sleeps wants `&mut`.

use alloc::vec::Vec;

use super::{Arc, SpinLock};
use crate::error::OutOfMemory;
use crate::platform::Platform;
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

/// Tasks that wait for the same kind of thing. Linux: `wait_queue_head_t`.
pub struct WaitQueue<P: Platform> {
    waiting: SpinLock<P, Vec<Arc<P::Parker>>>,
}

impl<P: Platform> WaitQueue<P> {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self { waiting: SpinLock::<P, _>::new(Vec::new()) }
    }

    /// Sleeps until `look` finds something, and returns that. `look` is called with the task in the queue, at least once,
    /// and again after each [`wake_all`](Self::wake_all).
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if the queue cannot take the task; it has not slept then, or not since the last look.
    pub fn wait<R>(
        &self,
        task: &mut Task<P>,
        mut look: impl FnMut(&Task<P>) -> Option<R>,
    ) -> Result<R, OutOfMemory> {
        loop {
            self.enter(task)?;
            if let Some(found) = look(task) {
                self.leave(task);
                return Ok(found);
            }
            task.parker().park();
            // Awake for another reason than ours, it may be in the queue still.
            self.leave(task);
        }
    }

    /// Wakes every task that is in the queue now. Does not sleep.
    pub fn wake_all(&self) {
        let woken = core::mem::take(&mut *self.waiting.lock());
        for parker in &woken {
            parker.unpark();
        }
    }

    /// Tasks in the queue.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.lock().len()
    }

    fn enter(&self, task: &Task<P>) -> Result<(), OutOfMemory> {
        super::try_push(&mut *self.waiting.lock(), task.parker().clone())
    }

    fn leave(&self, task: &Task<P>) {
        let mut waiting = self.waiting.lock();
        if let Some(at) = waiting.iter().position(|parker| Arc::ptr_eq(parker, task.parker())) {
            waiting.swap_remove(at);
        }
    }
}

impl<P: Platform> Default for WaitQueue<P> {
    fn default() -> Self {
        Self::new()
    }
}
