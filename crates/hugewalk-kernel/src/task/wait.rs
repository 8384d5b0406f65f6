//! Waiting for something that another thread brings about.
//!
//! A waiter enters the queue first and looks then; whoever brings the thing about does so first and wakes then.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use spin::Mutex;

use super::{Thread, current, park_until};
use crate::cpu::clock;
use crate::errno::{Errno, Result};

/// Threads that wait for the same kind of thing.
pub struct WaitQueue(Mutex<Vec<Arc<Thread>>>);

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Enters the running thread, until the place is dropped. For waiting for several things at once: enter all queues, look,
    /// [`sleep`], look again.
    pub fn enter(&self) -> Place<'_> {
        let thread = current().handle();
        self.0.lock().push(thread.clone());
        Place { queue: self, thread }
    }

    /// Wakes all that wait; each looks again. Does not sleep.
    pub fn wake_all(&self) {
        for thread in &*self.0.lock() {
            thread.unpark();
        }
    }

    /// Sleeps until `look` finds something.
    ///
    /// # Errors
    ///
    /// `EINTR` if a signal came first (what was found counts first), `ETIMEDOUT` at the deadline, in nanoseconds since the start.
    pub fn wait<R>(&self, deadline: Option<u64>, mut look: impl FnMut() -> Option<R>) -> Result<R> {
        let _place = self.enter();
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            sleep(deadline)?;
        }
    }

    /// As [`wait`](Self::wait), unless the thread is to end. `None` then.
    ///
    /// Linux: `TASK_KILLABLE`.
    pub fn wait_killable<R>(&self, mut look: impl FnMut() -> Option<R>) -> Option<R> {
        let _place = self.enter();
        loop {
            let found = look();
            if found.is_some() || current().is_killed() {
                return found;
            }
            super::park();
        }
    }

    /// As [`wait`](Self::wait), whatever signals come.
    pub fn wait_uninterrupted<R>(&self, mut look: impl FnMut() -> Option<R>) -> R {
        let _place = self.enter();
        loop {
            if let Some(found) = look() {
                return found;
            }
            super::park();
        }
    }
}

/// A thread's place in a queue.
pub struct Place<'q> {
    queue: &'q WaitQueue,
    thread: Arc<Thread>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let left = {
            let mut waiting = self.queue.0.lock();
            let at = waiting.iter().position(|thread| Arc::ptr_eq(thread, &self.thread));
            at.map(|at| waiting.swap_remove(at))
        };
        drop(left);
    }
}

/// Sleeps once: until the thread is woken, for whatever reason.
///
/// # Errors
///
/// `EINTR` if a signal waits to be handled, `ETIMEDOUT` if the deadline has come.
pub fn sleep(deadline: Option<u64>) -> Result<()> {
    // SeqCst: pairs with `Thread::interrupt`, which sets the flag before it makes the token present.
    if current().interrupted.load(Ordering::SeqCst) {
        return Err(Errno::EINTR);
    }
    if deadline.is_some_and(|deadline| clock::now() >= deadline) {
        return Err(Errno::ETIMEDOUT);
    }
    park_until(deadline);
    Ok(())
}
