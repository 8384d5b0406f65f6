//! What is asked of the explorer, and what it answers.

use std::any::Any;
use std::time::Duration;

use super::schedule::Schedule;
use super::vm::Note;

/// How far to go.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most preemptions of the bounded stages.
    pub preemptions: u32,
    /// Whether to explore without a bound when they have found nothing.
    pub unbounded: bool,
    /// Executions that a stage may take.
    pub executions: u64,
    /// Executions that the search for a shorter counterexample may take.
    pub shortening: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { preemptions: 2, unbounded: true, executions: 5_000_000, shortening: 2_000_000 }
    }
}

/// How to throw dice for a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chance {
    /// At each scheduling point any thread that can move.
    Plain,
    /// By priorities that change at so many places: probabilistic concurrency testing, which finds a race that takes few
    /// switches with a chance that has a lower bound.
    Pct {
        /// Places where the priorities change.
        changes: u32,
    },
    /// By a priority of each step, thrown anew when a step that it does not commute with was taken: partial-order sampling,
    /// which does not prefer the orders that many schedules are equal to.
    PartialOrder,
}

/// What was explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// All schedules.
    Everything,
    /// All schedules with at most so many preemptions.
    Preemptions(u32),
    /// Not even all schedules without preemptions.
    Some,
}

/// A run that went wrong.
#[derive(Debug)]
pub struct Counterexample {
    /// What went wrong.
    pub text: String,
    /// What was reported with it.
    pub what: Box<dyn Any>,
    /// The schedule up to there.
    pub schedule: Schedule,
    /// There is none with fewer switches, nor one with as many and fewer steps.
    pub shortest: bool,
}

/// What [`Explorer::check`](super::Explorer::check) found.
#[derive(Debug)]
pub struct Report {
    /// A run that went wrong, if there is one.
    pub counterexample: Option<Counterexample>,
    /// What was explored, if there is none.
    pub coverage: Coverage,
    /// Runs to the end.
    pub executions: u64,
    /// Runs in which everybody slept: the cost of the reduction.
    pub asleep: u64,
    /// Objects that threads raced on.
    pub contended: usize,
    /// How long it took.
    pub time: Duration,
}

/// One run, told.
#[derive(Debug)]
pub struct Replayed {
    /// How it went wrong, if it did.
    pub counterexample: Option<Counterexample>,
    /// Names of the threads.
    pub threads: Vec<String>,
    /// What they did.
    pub notes: Vec<Note>,
    /// The turns they took, up to where it went wrong or ended.
    pub schedule: Schedule,
}

/// A schedule that does not belong to this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DoesNotFit {
    /// There are fewer threads.
    #[error("turn {at} names {letter}, and there are only A to {last}")]
    NoSuchThread {
        /// Which turn, counted from 1.
        at: usize,
        /// The thread that it names.
        letter: char,
        /// The last one there is.
        last: char,
    },
    /// A thread waits, or has ended.
    #[error("at turn {at} {letter} cannot move: it waits, or has ended")]
    CannotMove {
        /// Which turn, counted from 1.
        at: usize,
        /// The thread that it names.
        letter: char,
    },
}
