//! What is done over and over is drawn once.

use super::goes_wrong;
use crate::story::{Step, Story};

/// Most steps of a turn of a loop.
const LONGEST: usize = 64;
/// Fewer lines than this are drawn as they are.
const LEAST: usize = 4;

/// A step to draw.
pub(super) struct Row<'s> {
    pub(super) step: &'s Step,
    /// After it, this is not drawn: the last so many steps, so many times more.
    pub(super) again: Option<(usize, usize)>,
}

/// Takes out what repeats itself: a livelock is thousands of steps, and a few of them say it all.
pub(super) fn fold<'s>(story: &Story, steps: &[&'s Step]) -> Vec<Row<'s>> {
    let same = |one: usize, two: usize| {
        let (one, two) = (steps[one], steps[two]);
        one.cpu == two.cpu
            && one.call == two.call
            && one.source == two.source
            && one.stack == two.stack
            && !goes_wrong(story, one)
            && !goes_wrong(story, two)
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
        rows.extend(steps[at..at + turn].iter().map(|&step| Row { step, again: None }));
        if let Some(last) = rows.last_mut().filter(|_| times > 0) {
            last.again = Some((turn, times));
        }
        at += turn * (times + 1);
    }
    rows
}
