//! Threads that work at once, and one that unshares all the while.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hugewalk::sync::Arc;
use hugewalk::{Hugetlb, Task};
use hugewalk_host::Host;

use super::sample::Sample;

/// What unshares a table and takes it up again, once; it is told how often it has done so.
pub(super) type Unshare<'a> = &'a (dyn Fn(&mut Task<Host>, u64) + Sync);

/// Who is at work while something is measured.
#[derive(Clone, Copy)]
pub(super) struct Crowd<'a> {
    pub(super) hugetlb: &'a Arc<Hugetlb<Host>>,
    /// The threads that are measured.
    pub(super) threads: usize,
    /// What one more thread does over and over meanwhile.
    pub(super) unsharer: Option<Unshare<'a>>,
}

impl Crowd<'_> {
    /// Runs `work` on all threads at once, which is told the number of each; the time of the slowest.
    pub(super) fn run(&self, work: impl Fn(&mut Task<Host>, usize) -> Duration + Sync) -> Sample {
        let start = Barrier::new(self.threads + usize::from(self.unsharer.is_some()));
        let stop = AtomicBool::new(false);
        let one = |thread| {
            let task = hugewalk_host::task(self.hugetlb);
            // Whoever has no task waits with the others all the same: they wait for him.
            start.wait();
            task.map_or(Duration::ZERO, |mut task| work(&mut task, thread))
        };
        std::thread::scope(|scope| {
            let unsharer = self.unsharer.map(|unshare| scope.spawn(|| self.unshare(unshare, &start, &stop)));
            // All of them new, for a thread has one task: the caller may have its own.
            let threads: Vec<_> = (0..self.threads).map(|thread| scope.spawn(move || one(thread))).collect();
            let took = threads.into_iter().filter_map(|thread| thread.join().ok()).max().unwrap_or_default();
            stop.store(true, Ordering::Relaxed);
            let unshared = unsharer.and_then(|unsharer| unsharer.join().ok());
            Sample { took, unshared }
        })
    }

    /// Unshares until it is told to stop; how often, and in which time.
    fn unshare(&self, unshare: Unshare<'_>, start: &Barrier, stop: &AtomicBool) -> (u64, Duration) {
        let task = hugewalk_host::task(self.hugetlb);
        start.wait();
        let began = Instant::now();
        let mut times = 0;
        if let Ok(mut task) = task {
            while !stop.load(Ordering::Relaxed) {
                unshare(&mut task, times);
                times += 1;
            }
        }
        (times, began.elapsed())
    }
}

/// Runs `work` on so many threads at once, which it is told the number of; the time of the slowest. Each has its share of
/// what is not shared by `work` itself.
pub(super) fn together(
    hugetlb: &Arc<Hugetlb<Host>>,
    threads: usize,
    work: impl Fn(&mut Task<Host>, usize) -> Duration + Sync,
) -> Duration {
    Crowd { hugetlb, threads, unsharer: None }.run(work).took
}
