//! What is done over and over is told once.

use serde::Serialize;

use crate::story::{Step, Story};

/// Most steps of a turn of a loop.
const LONGEST: usize = 64;
/// Fewer lines than this are told as they are.
const LEAST: usize = 4;

/// A step to tell.
#[derive(Clone, Copy, Debug)]
pub struct Row<'s> {
    /// Its place among the steps that were given.
    pub at: usize,
    /// The step.
    pub step: &'s Step,
    /// What comes after it and is not told.
    pub again: Option<Again>,
}

/// The last so many steps, so many times more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Again {
    /// Steps of a turn, as many as the rows that end with this one.
    pub steps: usize,
    /// Turns that are not told.
    pub times: usize,
}

/// Takes out what repeats itself: a livelock is thousands of steps, and a few of them say it all. The step that the report
/// is about stays.
#[must_use]
pub fn fold<'s>(story: &Story, steps: &[&'s Step]) -> Vec<Row<'s>> {
    let same = |one: usize, two: usize| {
        let (one, two) = (steps[one], steps[two]);
        one.cpu == two.cpu
            && one.call == two.call
            && one.source == two.source
            && one.stack == two.stack
            && !story.goes_wrong(one)
            && !story.goes_wrong(two)
    };
    let mut rows = Vec::new();
    let mut at = 0;
    while at < steps.len() {
        let turn = (1..=LONGEST).find_map(|turn| {
            let alike =
                (at..steps.len().saturating_sub(turn)).take_while(|&one| same(one, one + turn)).count();
            let times = alike / turn;
            (times * turn >= LEAST && times >= 2).then_some((turn, times))
        });
        let (turn, times) = turn.unwrap_or((1, 0));
        rows.extend((at..at + turn).map(|at| Row { at, step: steps[at], again: None }));
        if let Some(last) = rows.last_mut().filter(|_| times > 0) {
            last.again = Some(Again { steps: turn, times });
        }
        at += turn * (times + 1);
    }
    rows
}
