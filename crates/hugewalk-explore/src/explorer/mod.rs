//! The explorer: runs a program of a few threads under all schedules, or many.
//!
//! It knows nothing of page tables. A program is a function that sets up threads; whatever they share announces each
//! access by [`access`] before it happens. The threads are coroutines, so one moves at a time, memory is sequentially
//! consistent, and a schedule can be repeated.
//!
//! # What [`Explorer::check`] does
//!
//! 1. Learns by a few random runs which objects are contended (`objects.rs`); goes on learning in all that follows, and
//!    starts a stage over when it has learned something.
//! 2. Explores all schedules with at most 0, 1, 2, ... preemptions.
//! 3. If that found nothing, explores all schedules, without a bound, with partial-order reduction (`dpor.rs`).
//! 4. If anything was found, looks for the same in fewer switches, then fewer steps: all schedules with at most 0, 1, 2, ...
//!    switches, and at the first number that does it, all of them.
//!
//! What is not covered: memory orderings weaker than sequential consistency, and threads that share anything which
//! announces nothing.

mod arena;
mod bounded;
mod chance;
mod clock;
#[cfg(any(test, feature = "internals"))]
#[doc(hidden)]
pub mod compare;
mod dpor;
mod lockorder;
mod objects;
mod op;
mod replay;
mod report;
mod schedule;
mod sync;
#[cfg(test)]
mod tests;
mod vm;

use std::time::Instant;

pub use self::arena::{Allocator, Asks, asking, not_asking};
pub use self::clock::MAX_THREADS;
pub use self::op::{Class, Kind, Object, Op, Wait};
pub use self::report::{Chance, Counterexample, Coverage, DoesNotFit, Options, Replayed, Report};
pub use self::schedule::{NotASchedule, Schedule};
pub use self::sync::{Lock, RwLock, Shared};
pub use self::vm::{
    Crash, Deadlock, Livelock, LockCycle, Machine, Note, Setup, access, begin_thread, catch_crashes,
    has_found, in_thread, is_judged, is_moving, is_tracing, join_thread, journal, lock_released, lock_taken,
    lock_wanted, note, note_at, quietly, violation,
};

use self::bounded::{Bound, Bounded};
use self::chance::{Dice, PartialOrder, Pct, Random};
use self::dpor::Dpor;
use self::replay::Replay;
use self::vm::{Found, Strategy, Vm};

/// Explores one program.
pub struct Explorer<'p> {
    program: &'p dyn Fn(&mut Setup),
    vm: Vm,
    /// Set if runs are set back rather than started anew.
    machine: Option<Machine>,
    /// Nevertheless they are started anew, in the same memory.
    anew: bool,
    executions: u64,
    asleep: u64,
}

/// How a stage ended.
enum Stage {
    Found,
    /// All there was has been explored.
    Complete,
    /// All there was within the bound has been explored.
    Cut,
    OutOfBudget,
}

const RANDOM_RUNS: u64 = 100;

impl<'p> Explorer<'p> {
    /// An explorer for a program, which sets up its threads anew for each run, each time in the same way.
    #[must_use]
    pub fn new(program: &'p dyn Fn(&mut Setup)) -> Self {
        Self { program, vm: Vm::new(), machine: None, anew: false, executions: 0, asleep: 0 }
    }

    /// Makes every access a scheduling point, contended or not: slower, and to the same result.
    #[must_use]
    pub fn at_every_access(mut self) -> Self {
        self.vm.objects.all = true;
        self
    }

    /// Does not call it an error if locks are taken in two orders and nothing hangs.
    #[must_use]
    pub fn ignoring_lock_order(mut self) -> Self {
        self.vm.locks.ignored = true;
        self
    }

    /// Calls a run of more accesses than this a livelock: by default 20,000.
    ///
    /// # Panics
    ///
    /// If there are more than 32,000: clocks do not count so far.
    #[must_use]
    pub fn with_most_accesses(mut self, most: u32) -> Self {
        assert!(most <= 32_000, "more than 32,000 accesses");
        self.vm.access_limit = most;
        self
    }

    /// Sets runs back to where they part from the ones before, if [`Allocator`] is installed.
    #[must_use]
    pub fn rewinding(mut self, machine: Machine) -> Self {
        self.machine = arena::is_there().then_some(machine);
        self
    }

    /// Starts each run anew, at the addresses that it has when it is set back: what an allocator hands out twice would be one
    /// object to the explorer.
    #[cfg(any(test, feature = "internals"))]
    #[doc(hidden)]
    #[must_use]
    pub fn anew(mut self, machine: Machine) -> Self {
        self = self.rewinding(machine);
        self.anew = true;
        self
    }

    /// Runs so many schedules by chance, and calls `look` at each access.
    #[cfg(any(test, feature = "internals"))]
    #[doc(hidden)]
    pub fn look(mut self, runs: u64, look: fn()) {
        (self.vm.objects.all, self.vm.at_access) = (true, Some(look));
        for seed in 0..runs {
            self.vm.execute(&mut Random(Dice::new(seed)), self.program);
        }
    }

    /// Says whether anything can go wrong; see the [module](self) for how.
    pub fn check(mut self, options: &Options) -> Report {
        let start = Instant::now();
        self.learn();
        let mut coverage = Coverage::Some;
        let mut found = None;
        for most in 0..=options.preemptions {
            let (stage, first) = self.bounded(Bound::Preemptions(most), options.executions, false);
            found = first;
            match stage {
                Stage::Found | Stage::OutOfBudget => break,
                Stage::Complete => {
                    coverage = Coverage::Everything;
                    break;
                }
                Stage::Cut => coverage = Coverage::Preemptions(most),
            }
        }
        if found.is_none() && coverage != Coverage::Everything && options.unbounded {
            let (stage, first) = self.reduced(options.executions);
            found = first;
            if matches!(stage, Stage::Complete) {
                coverage = Coverage::Everything;
            }
        }
        let counterexample = found.map(|found| self.shorten(found, options));
        let (executions, asleep, contended) = (self.executions, self.asleep, self.vm.objects.contended.len());
        Report { counterexample, coverage, executions, asleep, contended, time: start.elapsed() }
    }

    /// Runs all schedules, each once, without bound or reduction; calls nothing a counterexample. Returns how many there
    /// are.
    pub fn count_all(mut self) -> u64 {
        self.learn();
        loop {
            self.executions = 0;
            let mut search = Bounded::new(Bound::Nothing);
            let learned = loop {
                if self.run(&mut search) {
                    break true;
                }
                if !search.advance() {
                    break false;
                }
            };
            if !learned {
                return self.executions;
            }
        }
    }

    /// Runs schedules without a bound, with reduction; calls nothing a counterexample. Returns how many were run to
    /// their end.
    pub fn count_reduced(mut self) -> u64 {
        self.learn();
        loop {
            let (mut search, mut ended, mut learned) = (Dpor::new(), 0, false);
            loop {
                learned |= self.run(&mut search);
                ended += u64::from(!search.slept);
                if learned || !search.advance(&self.vm) {
                    break;
                }
            }
            if !learned {
                return ended;
            }
        }
    }

    /// Runs random schedules, up to the first that goes wrong. The same seed gives the same schedules.
    pub fn sample(mut self, chance: Chance, runs: u64, seed: u64) -> Report {
        let start = Instant::now();
        self.learn();
        let mut dice = Dice::new(seed);
        let mut counterexample = None;
        for run in 0..runs {
            let steps = self.vm.steps.len() as u64 + 1;
            // A run that learns something is made again: what it left out as tails may have been what went wrong.
            loop {
                let learned = match chance {
                    Chance::Plain => self.run(&mut Random(Dice::new(seed ^ run << 20))),
                    Chance::PartialOrder => self.run(&mut PartialOrder::new(Dice::new(seed ^ run << 20))),
                    Chance::Pct { changes } => self.run(&mut Pct::new(&mut dice, changes, steps)),
                };
                if !learned {
                    break;
                }
                self.executions -= 1;
            }
            if let Some(found) = self.counterexample() {
                counterexample = Some(found);
                break;
            }
        }
        let (executions, contended) = (self.executions, self.vm.objects.contended.len());
        Report {
            counterexample,
            coverage: Coverage::Some,
            executions,
            asleep: 0,
            contended,
            time: start.elapsed(),
        }
    }

    /// Runs one schedule, and tells what happened up to where it went wrong. Calls `at_end` when that is decided, or the
    /// threads have ended.
    ///
    /// # Errors
    ///
    /// [`DoesNotFit`] if a thread that shall move cannot.
    pub fn replay(mut self, schedule: &Schedule, at_end: fn()) -> Result<Replayed, DoesNotFit> {
        self.learn();
        self.machine = None;
        (self.vm.objects.all, self.vm.tracing, self.vm.at_end) = (true, true, Some(at_end));
        let mut replay = Replay::new(schedule);
        self.run(&mut replay);
        if let Some(at) = replay.misfit() {
            let letter = |thread: usize| char::from(b'A' + thread as u8);
            let (named, count) = (usize::from(schedule.segments()[at - 1].thread), self.vm.threads.len());
            return Err(match named < count {
                true => DoesNotFit::CannotMove { at, letter: letter(named) },
                false => {
                    DoesNotFit::NoSuchThread { at, letter: letter(named), last: letter(count.max(1) - 1) }
                }
            });
        }
        let threads = self.vm.threads.iter().map(|thread| thread.name.clone()).collect();
        let notes = std::mem::take(&mut self.vm.notes);
        let taken = self.vm.schedule.clone();
        Ok(Replayed { counterexample: self.counterexample(), threads, notes, schedule: taken })
    }

    /// One run; true if it learned something.
    fn run(&mut self, strategy: &mut dyn Strategy) -> bool {
        if self.anew {
            self.vm.end_rewinding();
        }
        match self.machine {
            Some(machine) => self.vm.execute_rewinding(strategy, self.program, machine),
            None => self.vm.execute(strategy, self.program),
        }
        self.executions += 1;
        self.vm.objects.learned
    }

    fn learn(&mut self) {
        let mut since = 0;
        for seed in 0.. {
            let mut strategy = Random(Dice::new(seed));
            // Whatever is made once and kept is made in the first run, which is not set back.
            match self.machine.filter(|_| seed > 0) {
                Some(machine) => self.vm.execute_rewinding(&mut strategy, self.program, machine),
                None => self.vm.execute(&mut strategy, self.program),
            }
            since = if self.vm.objects.learned { 0 } else { since + 1 };
            if since >= RANDOM_RUNS {
                break;
            }
        }
        self.executions = 0;
    }

    fn counterexample(&mut self) -> Option<Counterexample> {
        let Found { text, what, schedule } = self.vm.found.take()?;
        Some(Counterexample { text, what, schedule, shortest: false })
    }

    /// All schedules within a bound, up to the first that goes wrong; or, if `shortest`, the one of least steps.
    fn bounded(&mut self, bound: Bound, budget: u64, shortest: bool) -> (Stage, Option<Counterexample>) {
        self.search(|| Bounded::new(bound), bound, budget, shortest)
    }

    /// As [`bounded`](Self::bounded), in a search that `begin` begins.
    fn search(
        &mut self,
        begin: impl Fn() -> Bounded,
        bound: Bound,
        budget: u64,
        shortest: bool,
    ) -> (Stage, Option<Counterexample>) {
        let mut left = budget;
        loop {
            let mut best: Option<Counterexample> = None;
            let mut search = begin();
            let stage = loop {
                if self.run(&mut search) {
                    break None;
                }
                if let Some(found) = self.counterexample()
                    && bound.allows(&found.schedule)
                    && best.as_ref().is_none_or(|best| found.schedule.steps() < best.schedule.steps())
                {
                    search.set_step_limit(found.schedule.steps());
                    best = Some(found);
                    if !shortest {
                        break Some(Stage::Found);
                    }
                }
                left = left.saturating_sub(1);
                if left == 0 || self.vm.abandoned > MOST_ABANDONED {
                    break Some(Stage::OutOfBudget);
                }
                if !search.advance() {
                    break Some(if search.cut { Stage::Cut } else { Stage::Complete });
                }
            };
            if let Some(stage) = stage {
                return (stage, best);
            }
        }
    }

    fn reduced(&mut self, budget: u64) -> (Stage, Option<Counterexample>) {
        let mut left = budget;
        loop {
            let mut search = Dpor::new();
            let stage = loop {
                if self.run(&mut search) {
                    break None;
                }
                if let Some(found) = self.counterexample() {
                    break Some((Stage::Found, Some(found)));
                }
                self.asleep += u64::from(search.slept);
                left = left.saturating_sub(1);
                if left == 0 {
                    break Some((Stage::OutOfBudget, None));
                }
                if !search.advance(&self.vm) {
                    break Some((Stage::Complete, None));
                }
            };
            if let Some(stage) = stage {
                return stage;
            }
        }
    }

    /// The shortest run that goes wrong, given one.
    ///
    /// Without a switch, each thread is run alone, at every access. If that does not go wrong, nothing does before the first
    /// choice either. Then let a shortest run be given, and let each thread in it run on up to its next contended access, as in
    /// `objects.rs`: that is one of the runs below, with no more switches. It cannot go wrong earlier, or it would be shorter;
    /// and what the others did after their last contended accesses does not count. So it is as short. That holds if each thread
    /// that another one waits for has a turn of its own; else all is looked for at every access.
    fn shorten(&mut self, found: Counterexample, options: &Options) -> Counterexample {
        for switches in 0..=found.schedule.switches() {
            let steps = if switches == found.schedule.switches() { found.schedule.steps() } else { u32::MAX };
            let bound = Bound::Switches(switches, steps);
            let (stage, best) = if switches == 0 || self.vm.joined_early && found.what.is::<LockCycle>() {
                self.everywhere(|this| this.bounded(bound, options.shortening, true))
            } else if self.vm.joined_early {
                let begin = || Bounded::new(bound).with_sleep();
                self.everywhere(|this| this.search(begin, bound, options.shortening, true))
            } else if found.what.is::<LockCycle>() {
                self.bounded(bound, options.shortening, true)
            } else {
                self.search(|| Bounded::new(bound).with_sleep(), bound, options.shortening, true)
            };
            match (stage, best) {
                (Stage::OutOfBudget, best) => return best.unwrap_or(found),
                (_, Some(mut best)) => {
                    best.shortest = true;
                    return best;
                }
                (_, None) => {}
            }
        }
        Counterexample { shortest: true, ..found }
    }

    /// Does something with a scheduling point at every access.
    fn everywhere<R>(&mut self, work: impl FnOnce(&mut Self) -> R) -> R {
        self.vm.end_rewinding();
        let all = std::mem::replace(&mut self.vm.objects.all, true);
        let result = work(self);
        self.vm.end_rewinding();
        self.vm.objects.all = all;
        result
    }
}

/// Runs whose threads could not end leak what lies on their stacks; after so many a search for something shorter ends.
const MOST_ABANDONED: u64 = 20_000;
