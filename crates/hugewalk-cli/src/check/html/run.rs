//! A run as the page tells it: the story, with what is done over and over in it once.

use hugewalk_lab::fold::{Again, Row, fold};
use hugewalk_lab::story::{Cpu, Report, Stack, State, Step, Story};
use hugewalk_lab::text::{Drawing, draw};
use serde::Serialize;

/// A story without the turns of a loop after its first one, and without the states of these.
#[derive(Serialize)]
pub(super) struct Run<'s> {
    cpus: &'s [Cpu],
    steps: Vec<Told<'s>>,
    /// How many steps there were.
    count: usize,
    /// The last one is the state at the end.
    states: Vec<&'s State>,
    stacks: &'s [Stack],
    report: Option<&'s Report>,
    /// The run for a commit message.
    diagram: String,
}

#[derive(Serialize)]
struct Told<'s> {
    #[serde(flatten)]
    step: &'s Step,
    /// Its number among all steps, from 1 on.
    number: usize,
    /// Its state among those that are told; `state` is that of the story.
    shows: usize,
    again: Option<Again>,
}

impl<'s> Run<'s> {
    pub(super) fn of(story: &'s Story) -> Self {
        let all: Vec<&Step> = story.steps.iter().collect();
        let rows = fold(story, &all);
        let mut kept: Vec<usize> = rows.iter().map(|row| row.step.state).collect();
        kept.extend([0, story.states.len().saturating_sub(1)]);
        kept.sort_unstable();
        kept.dedup();
        let told = |row: Row<'s>| Told {
            step: row.step,
            number: row.at + 1,
            shows: kept.partition_point(|&state| state < row.step.state),
            again: row.again,
        };
        Self {
            cpus: &story.cpus,
            steps: rows.into_iter().map(told).collect(),
            count: story.steps.len(),
            states: kept.iter().filter_map(|&state| story.states.get(state)).collect(),
            stacks: &story.stacks,
            report: story.report.as_ref(),
            diagram: draw(story, &Drawing::DIAGRAM),
        }
    }
}
