//! Sees that every thread gets on, and says what they do where one does not.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

/// What a thread is doing, for the watchdog.
#[derive(Default)]
pub(crate) struct Progress {
    steps: AtomicU64,
    /// Which of [`STEPS`], and for which process and mapping or file.
    doing: AtomicU64,
    left: AtomicU64,
}

/// The names of what threads do.
pub(crate) const STEPS: [&str; 16] = [
    "nothing",
    "load",
    "store",
    "map",
    "unmap",
    "protect",
    "relocate",
    "advise",
    "remove",
    "truncate",
    "punch",
    "allocate",
    "write",
    "read",
    "resize",
    "fork or exit",
];

impl Progress {
    pub(crate) fn begin(&self, step: usize, process: u32, place: usize) {
        self.doing.store((step as u64) << 40 | u64::from(process) << 8 | place as u64, SeqCst);
    }

    pub(crate) fn end(&self) {
        self.steps.fetch_add(1, SeqCst);
        self.doing.store(0, SeqCst);
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps.load(SeqCst)
    }

    /// The thread has ended.
    pub(crate) fn leave(&self) {
        self.left.store(1, SeqCst);
    }

    pub(crate) fn has_left(&self) -> bool {
        self.left.load(SeqCst) != 0
    }

    fn describe(&self) -> String {
        let doing = self.doing.load(SeqCst);
        let (step, process, place) = (STEPS[(doing >> 40) as usize], doing as u32 >> 8, doing & 255);
        format!("{step} (process {process}, place {place}) after {} steps", self.steps())
    }
}

/// Watches until every thread has left. A thread that makes no step for `patience` ends the process: the others hold
/// locks it waits for, so there is no way back.
pub(crate) fn watch(threads: &[Progress], patience: Duration) {
    let mut last: Vec<_> = threads.iter().map(|thread| (thread.steps(), Instant::now())).collect();
    while threads.iter().any(|thread| !thread.has_left()) {
        thread::sleep(Duration::from_millis(5));
        for (thread, (steps, since)) in threads.iter().zip(&mut last) {
            if thread.steps() != *steps || thread.has_left() {
                (*steps, *since) = (thread.steps(), Instant::now());
            } else if since.elapsed() > patience {
                eprintln!("a thread has been stuck for {patience:?}:");
                for (number, thread) in threads.iter().enumerate() {
                    eprintln!("  thread {number}: {}", thread.describe());
                }
                std::process::abort();
            }
        }
    }
}
