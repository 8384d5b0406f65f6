//! Where a task sleeps until it is woken.

use std::sync::atomic::{AtomicU8, Ordering};

use hugewalk::sync::Parker;
use parking_lot::{Condvar, Mutex};

/// A token, and a condition variable that signals it.
pub struct Park {
    token: Mutex<bool>,
    put: Condvar,
    signal: AtomicU8,
}

/// What `Park::signal` says.
const NONE: u8 = 0;
const INTERRUPTED: u8 = 1;
const KILLED: u8 = 2;

impl Park {
    /// Ends the task's waits that can be killed, those under way and those to come.
    pub fn kill(&self) {
        self.signal.store(KILLED, Ordering::Release);
        self.unpark();
    }

    /// Ends the task's waits that can be interrupted, until the signal is [taken](Self::take_signal).
    pub fn interrupt(&self) {
        // A task that is killed stays so.
        let _ = self.signal.compare_exchange(NONE, INTERRUPTED, Ordering::Release, Ordering::Relaxed);
        self.unpark();
    }

    /// The task has taken its signal. True if there was one, and it was not killed.
    pub fn take_signal(&self) -> bool {
        self.signal.compare_exchange(INTERRUPTED, NONE, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}

// SAFETY: the token is put and taken under a mutex, which orders everything before the put before
// everything after the take.
unsafe impl Parker for Park {
    fn new() -> Self {
        Self { token: Mutex::new(false), put: Condvar::new(), signal: AtomicU8::new(NONE) }
    }

    fn park(&self) {
        let mut token = self.token.lock();
        while !*token {
            self.put.wait(&mut token);
        }
        *token = false;
    }

    fn unpark(&self) {
        *self.token.lock() = true;
        self.put.notify_one();
    }

    // Acquire: pairs with the Release of whoever sends the signal.
    fn is_killed(&self) -> bool {
        self.signal.load(Ordering::Acquire) == KILLED
    }

    fn is_interrupted(&self) -> bool {
        self.signal.load(Ordering::Acquire) != NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_put_before_is_found() {
        let park = Park::new();
        park.unpark();
        park.park();
    }

    #[test]
    fn a_sleeping_task_is_woken() {
        let park = Park::new();
        std::thread::scope(|scope| {
            scope.spawn(|| park.park());
            park.unpark();
        });
    }
}
