//! Executions per second, and the time to a full verdict: the engine under the lab, and one small program under the lab, `shuttle` and
//! `loom`. Those two are stopped before they have seen all of it, and say so.
//! `cargo run --release -p hugewalk-lab --example speed`.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as Count, Ordering::Relaxed};
use std::time::Instant;

use hugewalk_lab::explore::{Coverage, Explorer, Options, Setup, Shared};
use hugewalk_lab::lab::Settings;
use hugewalk_lab::{check, scenario};

// SAFETY: the scenarios keep to themselves.
#[global_allocator]
static ALLOCATOR: hugewalk_lab::Allocator = unsafe { hugewalk_lab::Allocator::new() };

const THREADS: usize = 3;
const ROUNDS: usize = 2;

fn small(setup: &mut Setup) {
    let cell = Rc::new(Shared::new(0));
    for thread in 0..THREADS {
        let cell = cell.clone();
        setup.thread(thread.to_string(), move || {
            for _ in 0..ROUNDS {
                let value = cell.load();
                cell.store(value + 1);
            }
        });
    }
}

/// Time that this thread has spent on a processor, so that others on this machine do not count; elsewhere than on Linux,
/// time.
struct Clock {
    start: Instant,
    on_cpu: Option<u64>,
}

impl Clock {
    fn on_cpu() -> Option<u64> {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        stat.split(' ').next()?.parse().ok()
    }

    fn start() -> Self {
        Self { start: Instant::now(), on_cpu: Self::on_cpu() }
    }

    fn seconds(&self) -> f64 {
        match (self.on_cpu, Self::on_cpu()) {
            (Some(start), Some(end)) => (end - start) as f64 / 1e9,
            _ => self.start.elapsed().as_secs_f64(),
        }
    }
}

fn report(what: &str, runs: u64, clock: &Clock) {
    let rate = runs as f64 / clock.seconds();
    println!("{what:44} {runs:>9} executions {rate:>12.0} a second");
}

/// How many executions it took, and how long, until there is nothing left to see.
fn verdict(what: &str, runs: u64, is_complete: bool, clock: &Clock) {
    let complete = if is_complete { "complete" } else { "stopped before it is complete" };
    println!("{what:44} {runs:>9} executions {:>9.1} ms, {complete}", clock.seconds() * 1e3);
}

/// `shuttle` runs so many at the most.
const SHUTTLE: u64 = 200_000;
/// `loom` likewise.
const LOOM: u64 = 20_000;

fn main() {
    println!("{THREADS} threads, {ROUNDS} times load and store:");
    let clock = Clock::start();
    report("  lab, all interleavings", Explorer::new(&small).count_all(), &clock);
    let clock = Clock::start();
    let checked = Explorer::new(&small).check(&Options::default());
    let is_complete = checked.coverage == Coverage::Everything;
    verdict("  lab, a verdict", checked.executions, is_complete, &clock);

    let clock = Clock::start();
    let runs = Arc::new(Count::new(0));
    let counted = runs.clone();
    shuttle::check_dfs(
        move || {
            counted.fetch_add(1, Relaxed);
            let cell = Arc::new(shuttle::sync::atomic::AtomicU64::new(0));
            let threads: Vec<_> = (0..THREADS)
                .map(|_| {
                    let cell = cell.clone();
                    shuttle::thread::spawn(move || {
                        for _ in 0..ROUNDS {
                            let value = cell.load(std::sync::atomic::Ordering::SeqCst);
                            cell.store(value + 1, std::sync::atomic::Ordering::SeqCst);
                        }
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        },
        Some(SHUTTLE as usize),
    );
    report("  shuttle, depth first", runs.load(Relaxed), &clock);
    verdict("  shuttle, a verdict", runs.load(Relaxed), runs.load(Relaxed) < SHUTTLE, &clock);

    let clock = Clock::start();
    let runs = Arc::new(Count::new(0));
    let counted = runs.clone();
    let mut loom = loom::model::Builder::new();
    loom.max_permutations = Some(LOOM as usize);
    loom.check(move || {
        counted.fetch_add(1, Relaxed);
        let cell = loom::sync::Arc::new(loom::sync::atomic::AtomicU64::new(0));
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let cell = cell.clone();
                loom::thread::spawn(move || {
                    for _ in 0..ROUNDS {
                        let value = cell.load(std::sync::atomic::Ordering::SeqCst);
                        cell.store(value + 1, std::sync::atomic::Ordering::SeqCst);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    report("  loom", runs.load(Relaxed), &clock);
    verdict("  loom, a verdict", runs.load(Relaxed), runs.load(Relaxed) < LOOM, &clock);

    println!("the engine, three threads, hugewalk:");
    for id in ["S1", "S9", "S10"] {
        let options = Options { preemptions: 4, unbounded: false, executions: 300_000, ..Options::default() };
        let clock = Clock::start();
        let verdict = check(scenario::named(id).expect("a scenario"), Settings::HUGEWALK, &options);
        report(&format!("  lab, {id}"), verdict.report.executions, &clock);
    }
}
