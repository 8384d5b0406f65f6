//! Where a task sleeps until it is woken.

use hugewalk::sync::Parker;
use parking_lot::{Condvar, Mutex};

/// A token, and a condition variable that signals it.
pub struct Park {
    token: Mutex<bool>,
    put: Condvar,
}

// SAFETY: the token is put and taken under a mutex, which orders everything before the put before
// everything after the take.
unsafe impl Parker for Park {
    fn new() -> Self {
        Self { token: Mutex::new(false), put: Condvar::new() }
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
