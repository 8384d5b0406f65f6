//! Alarms: what is to happen at a time. They are looked at when the timer ticks in a program, and by idle processors; so they
//! are late by a tick, 10 ms, at most as long as some processor does either.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use super::Thread;
use crate::cpu::clock;
use crate::process::Process;

enum Action {
    Wake(Arc<Thread>),
    /// `SIGALRM`, for the process's interval timer.
    Signal(Weak<Process>),
}

type Key = (u64, u64);

static ALARMS: Mutex<BTreeMap<Key, Action>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(0);
/// The time of the first alarm.
static FIRST: AtomicU64 = AtomicU64::new(u64::MAX);

/// An alarm; dropping it takes it back.
pub struct Alarm(Key);

fn add(deadline: u64, action: Action) -> Alarm {
    let key = (deadline, NEXT.fetch_add(1, Ordering::Relaxed));
    ALARMS.lock().insert(key, action);
    FIRST.fetch_min(deadline, Ordering::Relaxed);
    Alarm(key)
}

/// Wakes a thread at a time, in nanoseconds since the start.
pub fn wake_at(deadline: u64, thread: Arc<Thread>) -> Alarm {
    add(deadline, Action::Wake(thread))
}

/// Sends `SIGALRM` to a process at a time.
pub fn signal_at(deadline: u64, process: &Arc<Process>) -> Alarm {
    add(deadline, Action::Signal(Arc::downgrade(process)))
}

impl Alarm {
    /// When it is due.
    pub fn time(&self) -> u64 {
        self.0.0
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let action = ALARMS.lock().remove(&self.0);
        // Dropped with the lock released: it may be the last reference to a thread.
        drop(action);
    }
}

/// Does what is due.
pub(super) fn run() {
    let now = clock::now();
    if FIRST.load(Ordering::Relaxed) > now {
        return;
    }
    loop {
        let due = {
            let mut alarms = ALARMS.lock();
            let first = alarms.first_key_value().map_or(u64::MAX, |(key, _)| key.0);
            FIRST.store(first, Ordering::Relaxed);
            if first > now { None } else { alarms.pop_first() }
        };
        match due {
            None => return,
            Some((_, Action::Wake(thread))) => thread.unpark(),
            Some((_, Action::Signal(process))) => {
                if let Some(process) = process.upgrade() {
                    process.interval_is_over();
                }
            }
        }
    }
}
