//! Whose turn it is: what a strategy is shown at a scheduling point, and what it answers.

use super::Thread;
use crate::explorer::schedule::Schedule;

/// What the strategy says at a scheduling point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Run(usize),
    /// This run is not worth going on with.
    GiveUp,
}

/// A scheduling point, as the strategy sees it.
pub(crate) struct View<'v> {
    /// Bit `t`: thread `t` can take its step.
    pub(crate) enabled: u8,
    /// Who moved last, whether it can go on or not.
    pub(crate) current: Option<usize>,
    pub(crate) threads: &'v [Thread],
    pub(crate) schedule: &'v Schedule,
}

impl View<'_> {
    /// The least number of steps that a run which goes wrong before the next switch can have.
    pub(crate) fn steps(&self) -> u32 {
        let others = self.threads.iter().enumerate().filter(|&(number, _)| Some(number) != self.current);
        self.schedule.steps() - others.map(|(_, thread)| thread.tail).sum::<u32>()
    }
}

/// Who decides whose turn it is.
pub(crate) trait Strategy {
    fn choose(&mut self, view: &View<'_>) -> Choice;

    /// How many choices the next run makes as the last one did; `None` if the last one was not this strategy's.
    fn repeats(&self) -> Option<usize> {
        None
    }

    /// The number of the choice that was made just now, if another may be made there later.
    fn returns_here(&self) -> Option<usize> {
        None
    }

    /// The next choice is the one of this number.
    fn return_to(&mut self, _choice: usize) {}
}
