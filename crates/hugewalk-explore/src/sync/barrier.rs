//! Waiting for each other.

use super::{Condvar, Mutex};

/// A place where so many threads wait for each other.
#[derive(Debug)]
pub struct Barrier {
    /// Threads that have come, and how often all had.
    state: Mutex<(usize, u64)>,
    complete: Condvar,
    threads: usize,
}

/// Whether the thread was the last to come.
#[derive(Clone, Copy, Debug)]
pub struct BarrierWaitResult(bool);

impl BarrierWaitResult {
    /// True for one of the threads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.0
    }
}

impl Barrier {
    /// A barrier for so many threads.
    #[must_use]
    pub const fn new(threads: usize) -> Self {
        Self { state: Mutex::new((0, 0)), complete: Condvar::new(), threads }
    }

    /// Waits until all threads have come.
    #[track_caller]
    pub fn wait(&self) -> BarrierWaitResult {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.0 += 1;
        if state.0 >= self.threads {
            *state = (0, state.1 + 1);
            self.complete.notify_all();
            return BarrierWaitResult(true);
        }
        let round = state.1;
        drop(self.complete.wait_while(state, |state| state.1 == round));
        BarrierWaitResult(false)
    }
}
