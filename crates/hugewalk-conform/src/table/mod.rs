//! Tables for readers: sentences about the kernel, each with a program that shows it.
//!
//! A row is run on the engine and on the running kernel. It holds if the kernel answers as the row says, and the sides agree.

pub mod giant;
mod uffd;

use std::fmt::Write;

pub use self::uffd::{UFFD, page as uffd_page};
use crate::known::Kernels;
use crate::observe::Outcome;
use crate::program::{Call, Handling, Program, Step};
use crate::run::{Ran, RunError, Sides, Unsure};

/// A sentence, and the program that shows it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What the kernel does.
    pub says: &'static str,
    /// What comes before.
    pub setup: &'static str,
    /// What shows it.
    pub steps: &'static str,
    /// What the last of these steps come to: as many as there are here. Of a signal its name alone.
    pub answers: &'static [&'static str],
    /// The kernels it is said of.
    pub kernels: Kernels,
    /// Kernels in whose source it was read.
    pub read_in: &'static str,
}

/// Rows of one subject.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The subject.
    pub heading: &'static str,
    /// What is to be known before.
    pub text: &'static str,
    /// The rows.
    pub rows: &'static [Row],
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// The kernel answers so, and the engine too.
    Yes,
    /// It is not said of this kernel.
    NotAsked,
    /// The machine had no huge pages to spare.
    NoPages,
    /// Something differed once, and not again.
    NotAgain,
    /// The kernel answers otherwise.
    No {
        /// As the row gives its own answers.
        answers: Vec<String>,
    },
    /// The engine does not do what the kernel does.
    Differs {
        /// What differs first.
        what: String,
    },
}

impl Row {
    /// The whole program.
    ///
    /// # Errors
    ///
    /// What is wrong with its text.
    pub fn program(&self) -> Result<Program, crate::program::SyntaxError> {
        format!("{}; {}", self.setup, self.steps).parse()
    }

    /// Runs the program on both sides.
    ///
    /// # Errors
    ///
    /// As for [`Sides::run`].
    pub fn run(&self, sides: &mut Sides) -> Result<Held, RunError> {
        let Ok(program) = self.program() else { return Ok(Held::No { answers: Vec::new() }) };
        if !self.kernels.is_running() {
            return Ok(Held::NotAsked);
        }
        let report = sides.run(&program)?;
        match report.unsure {
            Some(Unsure::NoMemory) => return Ok(Held::NoPages),
            Some(Unsure::NotAgain) => return Ok(Held::NotAgain),
            None => {}
        }
        // A difference that is meant is the engine's matter; what is said is said of the kernel.
        if let Some(first) = report.differences.first().filter(|_| report.known.is_none()) {
            return Ok(Held::Differs {
                what: format!("{}: {} and {}", first.what, first.kernel, first.engine),
            });
        }
        let of_program = report.steps.get(..program.steps.len()).unwrap_or_default();
        let shown = &of_program[of_program.len().saturating_sub(self.answers.len())..];
        let answers: Vec<String> = shown.iter().map(|(step, ran)| answer(step, ran)).collect();
        Ok(if answers == self.answers { Held::Yes } else { Held::No { answers } })
    }

    /// The steps whose answers are shown.
    fn shown(&self) -> impl Iterator<Item = &'static str> {
        let steps: Vec<&'static str> = self.steps.split(';').map(str::trim).collect();
        let first = steps.len().saturating_sub(self.answers.len());
        steps.into_iter().skip(first)
    }

    fn line(&self, held: &Held) -> String {
        let pairs = |answers: &[String]| {
            let pair = |(step, answer): (&str, &String)| format!("`{step}`: {answer}");
            self.shown().zip(answers).map(pair).collect::<Vec<_>>().join("; ")
        };
        let said: Vec<String> = self.answers.iter().map(ToString::to_string).collect();
        let answers = match held {
            Held::Yes | Held::NotAsked | Held::NoPages | Held::NotAgain => pairs(&said),
            Held::No { answers } => format!("**not so here:** {}", pairs(answers)),
            Held::Differs { what } => format!("**the engine differs:** {what}"),
        };
        let not_asked =
            if matches!(held, Held::NotAsked | Held::NoPages | Held::NotAgain) { ", not asked" } else { "" };
        format!("| {} | {answers} | {}{not_asked} | {} |", self.says, self.kernels, self.read_in)
    }
}

/// What a step came to, in few words.
fn answer(step: &Step, ran: &Ran) -> String {
    match (step, ran) {
        (_, Ran::Idle) => "meets nothing".to_owned(),
        (_, Ran::Guarded(guard)) => format!("kept back: {}", guard.name()),
        (_, Ran::Done { kernel: Outcome::Signal { signal, .. }, .. }) => (*signal).to_owned(),
        (
            Step::In { call: Call::Userfault { handling: Handling::Register { .. }, .. }, .. },
            Ran::Done { kernel: Outcome::Number(bits), .. },
        ) => operations(*bits),
        (Step::In { call: Call::Userfault { .. }, .. }, Ran::Done { kernel: Outcome::Number(bytes), .. }) => {
            crate::program::Bytes(*bytes).to_string()
        }
        (_, Ran::Done { kernel, .. }) => kernel.to_string(),
    }
}

/// `_UFFDIO_*`, as bits.
fn operations(bits: u64) -> String {
    let names = [(2, "wake"), (3, "copy"), (6, "write-protect"), (7, "continue"), (8, "poison")];
    let set: Vec<_> =
        names.into_iter().filter(|(bit, _)| bits >> bit & 1 != 0).map(|(_, name)| name).collect();
    set.join(", ")
}

/// The rows about pages of 1 GiB, with what they came to on the kernel, if it had one.
fn giant_rows(answers: Option<&[Vec<String>]>) -> String {
    let mut text = String::from("| what | steps and answers |\n|---|---|\n");
    for (number, row) in giant::GIANT.iter().enumerate() {
        let expected: Vec<String> = row.acts.iter().map(|(_, answer)| (*answer).to_owned()).collect();
        let here = answers.and_then(|answers| answers.get(number)).unwrap_or(&expected);
        let pairs = row.acts.iter().zip(here).map(|((act, _), answer)| format!("`{act}`: {answer}"));
        let wrong = if *here == expected { "" } else { "**not so here:** " };
        // A string takes all that is written to it.
        let _ = writeln!(text, "| {} | {wrong}{} |", row.says, pairs.collect::<Vec<_>>().join("; "));
    }
    text
}

/// The parts as tables of Markdown, with what became of each row.
#[must_use]
pub fn markdown<'h>(parts: &[Part], mut held: impl Iterator<Item = &'h Held>) -> String {
    let mut text = String::new();
    for part in parts {
        // A string takes all that is written to it.
        let _ = writeln!(text, "\n## {}\n\n{}\n", part.heading, part.text);
        text.push_str(
            "| what | steps and answers | holds for | read in the source of |\n|---|---|---|---|\n",
        );
        for row in part.rows {
            let _ = writeln!(text, "{}", row.line(held.next().unwrap_or(&Held::Yes)));
        }
    }
    text
}
