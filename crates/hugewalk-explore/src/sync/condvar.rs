//! Waiting for a condition under a lock.

use std::sync::{LockResult, Mutex as StdMutex, PoisonError};

use super::mutex::MutexGuard;
use crate::explorer::{Op, Wait, access, in_thread};
use crate::state::{self, Id};

/// A condition variable. A thread that waits is woken by a notification only, never for nothing: loops that look again are right
/// all the same, and a program that needs them to be is not found.
#[derive(Debug, Default)]
pub struct Condvar {
    id: Id,
    /// Nobody is kept out of it for longer than a look takes: no step is taken meanwhile.
    waiting: StdMutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Threads that wait, each with the notifications that came meanwhile. Each notification is for whoever of them goes on
    /// first.
    threads: Vec<(usize, Vec<u64>)>,
    notifications: u64,
}

impl Condvar {
    /// A condition nobody waits for.
    #[must_use]
    pub const fn new() -> Self {
        let waiting = Waiting { threads: Vec::new(), notifications: 0 };
        Self { id: Id::new(), waiting: StdMutex::new(waiting) }
    }

    fn with<R>(&self, work: impl FnOnce(&mut Waiting) -> R) -> R {
        work(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_notified(of: *const ()) -> bool {
        // SAFETY: asked while the thread waits in `wait`, on whose stack it lies.
        let &(this, me) = unsafe { &*of.cast::<(&Self, usize)>() };
        this.with(|waiting| waiting.threads.iter().any(|(who, notified)| *who == me && !notified.is_empty()))
    }

    /// Releases the lock, waits for a notification, and takes the lock again.
    ///
    /// # Errors
    ///
    /// None: no lock is poisoned.
    ///
    /// # Panics
    ///
    /// Outside of an exploration.
    #[track_caller]
    pub fn wait<'m, T: ?Sized>(&self, guard: MutexGuard<'m, T>) -> LockResult<MutexGuard<'m, T>> {
        let (mutex, object) = (guard.mutex, self.id.object());
        let me = in_thread().expect("a condition is waited for outside of an exploration");
        access(&Op::write(object));
        self.with(|waiting| waiting.threads.push((me, Vec::new())));
        state::tell(object, || "wait for #".to_owned());
        drop(guard);
        let wait = (self, me);
        access(&Op::write(object).waits(Wait::until(Self::is_notified, std::ptr::from_ref(&wait).cast())));
        self.with(|waiting| {
            let at = waiting.threads.iter().position(|&(who, _)| who == me).expect("it waits");
            let (_, notified) = waiting.threads.remove(at);
            for (_, others) in &mut waiting.threads {
                others.retain(|&other| other != notified[0]);
            }
        });
        state::tell(object, || "woken by #".to_owned());
        mutex.lock()
    }

    /// Waits as long as the condition holds.
    ///
    /// # Errors
    ///
    /// None: no lock is poisoned.
    #[track_caller]
    pub fn wait_while<'m, T: ?Sized>(
        &self,
        mut guard: MutexGuard<'m, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'m, T>> {
        while condition(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// Wakes one of the threads that wait, any of them.
    #[track_caller]
    pub fn notify_one(&self) {
        self.notify(false);
    }

    /// Wakes all threads that wait.
    #[track_caller]
    pub fn notify_all(&self) {
        self.notify(true);
    }

    #[track_caller]
    fn notify(&self, all: bool) {
        let object = self.id.object();
        access(&Op::write(object));
        self.with(|waiting| {
            waiting.notifications += 1;
            for (_, notified) in &mut waiting.threads {
                notified.push(waiting.notifications);
                waiting.notifications += u64::from(all);
            }
        });
        state::tell(object, || if all { "notify all of #" } else { "notify one of #" }.to_owned());
    }
}
