//! This explorer beside `loom` and `shuttle`, on the same programs, in one run:
//! `cargo run --release -p hugewalk-explore --example side_by_side`.
//!
//! Each is asked for a full verdict, in the way in which it is used in a test, and has `LIMIT` for it. `loom` looks for more:
//! it explores memory orderings, too.

use std::sync::atomic::AtomicU64 as Count;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);

/// What is run by all three, which have the same names for the same things.
macro_rules! programs {
    ($explorer:ident) => {
        mod $explorer {
            use $explorer::sync::atomic::{AtomicUsize, Ordering::SeqCst};
            use $explorer::sync::{Arc, Condvar, Mutex};
            use $explorer::thread;

            /// Each of `threads` loads and stores `rounds` times.
            pub(super) fn counter(threads: usize, rounds: usize) {
                let count = Arc::new(AtomicUsize::new(0));
                let begin = |_| {
                    let count = count.clone();
                    thread::spawn(move || {
                        for _ in 0..rounds {
                            let value = count.load(SeqCst);
                            count.store(value + 1, SeqCst);
                        }
                    })
                };
                let threads: Vec<_> = (0..threads).map(begin).collect();
                threads.into_iter().for_each(|thread| thread.join().unwrap());
                assert!(count.load(SeqCst) >= rounds);
            }

            /// Each adds under a lock, and stores into a place of its own before and after.
            pub(super) fn mostly_alone(threads: usize, rounds: usize) {
                let sum = Arc::new(Mutex::new(0));
                let begin = |_| {
                    let sum = sum.clone();
                    thread::spawn(move || {
                        let own = AtomicUsize::new(0);
                        for round in 0..rounds {
                            own.store(round, SeqCst);
                            *sum.lock().unwrap() += 1;
                            own.store(round + 1, SeqCst);
                        }
                    })
                };
                let begun: Vec<_> = (0..threads).map(begin).collect();
                begun.into_iter().for_each(|thread| thread.join().unwrap());
                assert_eq!(*sum.lock().unwrap(), threads * rounds);
            }

            /// A queue of one place: `threads` put one thing each, and one takes them all.
            pub(super) fn queue(threads: usize, _: usize) {
                let queue = Arc::new((Mutex::new(None), Condvar::new(), Condvar::new()));
                let begin = |number| {
                    let queue = queue.clone();
                    thread::spawn(move || {
                        let (place, filled, emptied) = &*queue;
                        let mut place = place.lock().unwrap();
                        while place.is_some() {
                            place = emptied.wait(place).unwrap();
                        }
                        *place = Some(number);
                        filled.notify_one();
                    })
                };
                let begun: Vec<_> = (0..threads).map(begin).collect();
                let mut sum = 0;
                for _ in 0..threads {
                    let (place, filled, emptied) = &*queue;
                    let mut place = place.lock().unwrap();
                    sum += loop {
                        match place.take() {
                            Some(number) => break number,
                            None => place = filled.wait(place).unwrap(),
                        }
                    };
                    emptied.notify_one();
                }
                begun.into_iter().for_each(|thread| thread.join().unwrap());
                assert_eq!(sum, threads * (threads - 1) / 2);
            }
        }
    };
}

programs!(hugewalk_explore);
programs!(loom);
programs!(shuttle);

type Program = fn(usize, usize);

/// Runs that were made, how long they took, and whether they were all.
struct Verdict(u64, Duration, bool);

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(runs, time, complete) = self;
        let (milliseconds, complete) = (time.as_secs_f64() * 1e3, if *complete { "" } else { ", not all" });
        write!(f, "{milliseconds:>9.1} ms, {runs} runs{complete}")
    }
}

/// Counts runs.
fn timed(explore: impl FnOnce(Box<dyn Fn() + Send + Sync>)) -> Verdict {
    static RUNS: Count = Count::new(0);
    RUNS.store(0, Relaxed);
    let start = Instant::now();
    explore(Box::new(|| _ = RUNS.fetch_add(1, Relaxed)));
    let time = start.elapsed();
    Verdict(RUNS.load(Relaxed), time, time < LIMIT)
}

fn ours(program: Program, threads: usize, rounds: usize) -> Verdict {
    timed(|each| {
        ::hugewalk_explore::explore(|| {
            each();
            program(threads, rounds);
        });
    })
}

fn looms(program: Program, threads: usize, rounds: usize) -> Verdict {
    let mut builder = ::loom::model::Builder::new();
    builder.max_duration = Some(LIMIT);
    timed(|each| {
        builder.check(move || {
            each();
            program(threads, rounds);
        });
    })
}

fn shuttles(program: Program, threads: usize, rounds: usize) -> Verdict {
    let mut config = ::shuttle::Config::new();
    config.max_time = Some(LIMIT);
    timed(|each| {
        let scheduler = ::shuttle::scheduler::DfsScheduler::new(None, false);
        ::shuttle::Runner::new(scheduler, config).run(move || {
            each();
            program(threads, rounds);
        });
    })
}

fn main() {
    let three: [(&str, [Program; 3], usize, usize); 6] = [
        ("2 threads, 2 x load and store", [hugewalk_explore::counter, loom::counter, shuttle::counter], 2, 2),
        ("3 threads, 1 x load and store", [hugewalk_explore::counter, loom::counter, shuttle::counter], 3, 1),
        ("3 threads, 2 x load and store", [hugewalk_explore::counter, loom::counter, shuttle::counter], 3, 2),
        (
            "2 threads, 3 x lock, and alone",
            [hugewalk_explore::mostly_alone, loom::mostly_alone, shuttle::mostly_alone],
            2,
            3,
        ),
        (
            "3 threads, 2 x lock, and alone",
            [hugewalk_explore::mostly_alone, loom::mostly_alone, shuttle::mostly_alone],
            3,
            2,
        ),
        ("2 put in a queue, 1 takes", [hugewalk_explore::queue, loom::queue, shuttle::queue], 2, 0),
    ];
    for (name, [own, loom, shuttle], threads, rounds) in three {
        println!("{name}");
        println!("  hugewalk-explore {}", ours(own, threads, rounds));
        println!("  loom             {}", looms(loom, threads, rounds));
        println!("  shuttle          {}", shuttles(shuttle, threads, rounds));
    }
}
