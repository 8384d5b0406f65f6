//! What can be wrong with a wish: each a line that says what, and what would be right.

use std::io;
use std::path::{Path, PathBuf};

use hugewalk_lab::explore::{DoesNotFit, NotASchedule};
use hugewalk_lab::lab::NotAProtocol;

use super::interrupt;

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No scenario has the name.
    #[error("no scenario is called `{name}`{hint} (`hugewalk check --list` names all)")]
    UnknownScenario {
        /// What was asked for.
        name: String,
        /// The nearest name, in words.
        hint: String,
    },
    /// No protocol has the name.
    #[error("no protocol is called `{name}`{hint} (there are {all})")]
    UnknownProtocol {
        /// What was asked for.
        name: String,
        /// The nearest name, in words.
        hint: String,
        /// All names.
        all: String,
    },
    /// No step has the name.
    #[error("no step is called `{name}`{hint} (there are {all})")]
    UnknownStep {
        /// What was asked for.
        name: String,
        /// The nearest name, in words.
        hint: String,
        /// All names.
        all: String,
    },
    /// A step is left out that is not there.
    #[error("{protocol} has no step `{step}`; drop it from one that has it: {having}")]
    StepNotThere {
        /// The protocol.
        protocol: &'static str,
        /// The step.
        step: String,
        /// Protocols that have the step.
        having: String,
    },
    /// A step is added that is there.
    #[error("{protocol} has step `{step}` already; add it to one that lacks it: {lacking}")]
    StepThere {
        /// The protocol.
        protocol: &'static str,
        /// The step.
        step: String,
        /// Protocols that lack the step.
        lacking: String,
    },
    /// A step is added that is there everywhere.
    #[error("every protocol has step `{step}`; --without leaves it out")]
    StepEverywhere {
        /// The step.
        step: String,
    },
    /// A protocol of one's own is none.
    #[error("--protocol {text}: {why}")]
    NotAProtocol {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: NotAProtocol,
    },
    /// Two protocols of one's own have one name.
    #[error("--protocol {name}=...: is defined twice; give each its own name")]
    DefinedTwice {
        /// The name.
        name: &'static str,
    },
    /// A scenario says nothing about a protocol.
    #[error("{scenario} says nothing about {protocol}: {why}")]
    DoesNotApply {
        /// The scenario.
        scenario: &'static str,
        /// The protocol.
        protocol: &'static str,
        /// Why.
        why: &'static str,
    },
    /// A schedule can only be replayed in one place.
    #[error(
        "--replay wants one scenario and one --protocol, as in: hugewalk check S8 --protocol rfc-ptl --replay A4B1"
    )]
    ReplayOfMany,
    /// One run is drawn of one case.
    #[error(
        "--show wants one scenario and one --protocol, as in: hugewalk check --show S1 --protocol hugewalk"
    )]
    ShowOfMany,
    /// There is no run to draw.
    #[error(
        "--diagram wants one race, or a run by --show or --replay, as in: hugewalk check S1 --protocol legacy --diagram"
    )]
    NoDiagram,
    /// A diagram is text.
    #[error("--diagram is text of 72 columns; leave --format out")]
    DiagramFormat,
    /// The text of a schedule is none.
    #[error("--replay {text}: {error}")]
    NotASchedule {
        /// The text.
        text: String,
        /// What is wrong with it.
        error: NotASchedule,
    },
    /// Nothing to replay.
    #[error("--replay: the schedule is empty; give one as a report prints it, such as A4B1")]
    EmptySchedule,
    /// The schedule belongs to something else.
    #[error(
        "--replay {text}: {}; a schedule belongs to one scenario under one protocol",
        does_not_fit(*error, scenario, protocol)
    )]
    DoesNotFit {
        /// The schedule.
        text: String,
        /// The scenario.
        scenario: &'static str,
        /// The protocol.
        protocol: &'static str,
        /// Where it does not fit.
        error: DoesNotFit,
    },
    /// The part that is asked for is none.
    #[error("--shard {text}: give K/N with K from 1 to N, as in 3/16")]
    Shard {
        /// What was asked for.
        text: String,
    },
    /// A checkpoint cannot be read.
    #[error("{}: cannot be read: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file is no checkpoint.
    #[error("{}: is not a checkpoint of `hugewalk check`: {why}; name another file, or remove this one to start over", file.display())]
    NotACheckpoint {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file is another document of ours.
    #[error("{}: is a document of another kind, `{schema}`, and no checkpoint; name a file that --checkpoint made, or a new one", file.display())]
    AnotherDocument {
        /// The file.
        file: PathBuf,
        /// What it says that it is.
        schema: String,
    },
    /// A checkpoint was made with other options.
    #[error("{}: was made with {differs}; give the same options, or another file", file.display())]
    OtherOptions {
        /// The file.
        file: PathBuf,
        /// Which option, and how it was given then and now: `--seed 7, not 8`.
        differs: String,
    },
    /// A checkpoint was made by another version.
    #[error("{}: was made by version {there}, and this is {}; use that version, or another file", file.display(), env!("CARGO_PKG_VERSION"))]
    OtherVersion {
        /// The file.
        file: PathBuf,
        /// The version that made it.
        there: String,
    },
    /// Somebody else is at work on a checkpoint.
    #[error("{}: is in use by another `hugewalk check`; wait for it, or name another file", file.display())]
    InUse {
        /// The file.
        file: PathBuf,
    },
    /// Standard input cannot be read twice.
    #[error("-: standard input is one checkpoint; name the others by their files")]
    StandardInputTwice,
    /// One file for two things.
    #[error("{}: {one} and {other} would be the same file; give each its own", file.display())]
    SameFile {
        /// The file.
        file: PathBuf,
        /// What it is for.
        one: &'static str,
        /// What else it is for.
        other: &'static str,
    },
    /// The work was stopped.
    #[error("stopped by {} with {done} of {of} units done; {}", interrupt::name(*signal), kept(file.as_deref()))]
    Interrupted {
        /// By which signal.
        signal: i32,
        /// Units done.
        done: usize,
        /// Units there are.
        of: usize,
        /// Where they are kept.
        file: Option<PathBuf>,
    },
    /// A checkpoint, or a page, cannot be written.
    #[error("{}: cannot be written: {error}", file.display())]
    Unwritable {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A part of a campaign is there twice.
    #[error("{}: is shard {shard} again; name each once", file.display())]
    ShardTwice {
        /// The second file.
        file: PathBuf,
        /// Which part.
        shard: String,
    },
    /// The report cannot be written.
    #[error("the report cannot be written: {0}")]
    Output(#[from] io::Error),
}

fn does_not_fit(error: DoesNotFit, scenario: &str, protocol: &str) -> String {
    match error {
        DoesNotFit::NoSuchThread { letter, last, .. } => {
            let there: Vec<String> = ('A'..=last).map(|cpu| cpu.to_string()).collect();
            format!("{scenario} has no CPU {letter}; it has {}", there.join(", "))
        }
        DoesNotFit::CannotMove { at, letter } => {
            format!(
                "at turn {at} CPU {letter} cannot move in {scenario} under {protocol}: it waits, or has ended"
            )
        }
    }
}

fn kept(file: Option<&Path>) -> String {
    match file {
        Some(file) => format!("they are kept in {}: the same command goes on from there", file.display()),
        None => "nothing is kept: --checkpoint FILE would have".to_owned(),
    }
}

/// The nearest of the names to what was meant, as a part of a sentence; empty if none is near.
pub(crate) fn did_you_mean<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> String {
    let nearness = |other: &str| strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase());
    let nearest = names.map(|other| (nearness(other), other)).max_by(|one, other| one.0.total_cmp(&other.0));
    nearest
        .filter(|&(near, _)| near > 0.7)
        .map(|(_, other)| format!(", did you mean {other}?"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_and_nothing_that_is_far_off() {
        let names = || ["legacy", "rfc", "rfc-ptl", "vma-lock", "hugewalk"].into_iter();
        assert_eq!(did_you_mean("huge-walk", names()), ", did you mean hugewalk?");
        assert_eq!(did_you_mean("VMA_LOCK", names()), ", did you mean vma-lock?");
        assert_eq!(did_you_mean("xyz", names()), "");
    }
}
