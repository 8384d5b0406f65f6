//! `hugewalk conform`: programs on the engine and on the running kernel.

mod report;

use std::io::{self, Write};
use std::time::{Duration, Instant};

use hugewalk_conform::kernel::LeftBehind;
use hugewalk_conform::known::Known;
use hugewalk_conform::program::generate::Generator;
use hugewalk_conform::program::shrink::shrink;
use hugewalk_conform::program::{Program, SyntaxError};
use hugewalk_conform::run::{RunError, Sides};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{ConformArgs, Format};

/// How often a program is run to make it shorter.
const SHRINKING: u32 = 2000;

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub enum ConformError {
    /// The program to be replayed cannot be read.
    #[error("--replay: {0}")]
    Syntax(#[from] SyntaxError),
    /// The run cannot go on.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The report cannot be written.
    #[error("the report cannot be written: {0}")]
    Output(#[from] io::Error),
}

/// Runs programs, and writes the report. True if both sides agreed on all of them.
///
/// # Errors
///
/// [`ConformError`].
pub fn run(args: &ConformArgs, out: &mut Vec<u8>) -> Result<bool, ConformError> {
    let replayed = args.replay.as_deref().map(str::parse::<Program>).transpose()?;
    let mut sides = Sides::new(Duration::from_secs(args.timeout))?;
    let outdated = if replayed.is_none() { sides.check_known()? } else { Vec::new() };
    let mut run = match replayed {
        Some(program) => replay(&program, &mut sides)?,
        None => generated(args, &mut sides)?,
    };
    run.outdated = outdated;
    run.left_behind = sides.left_behind();
    match args.format {
        Format::Text => report::text(&run, out)?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &report::json(&run)).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        }
    }
    Ok(run.found.is_none() && run.outdated.is_empty())
}

/// What a run came to.
struct Run {
    seed: Option<u64>,
    programs: u64,
    seconds: f64,
    coverage: hugewalk_conform::coverage::Coverage,
    /// The program that the sides do not agree on, or the one that was replayed.
    shown: Option<(Program, hugewalk_conform::run::Report)>,
    found: Option<Found>,
    /// Differences that are said to be meant, and are not there.
    outdated: Vec<&'static Known>,
    /// What was there from a run that was killed.
    left_behind: Option<LeftBehind>,
}

/// A program that the sides do not agree on.
struct Found {
    seed: Option<u64>,
}

fn replay(program: &Program, sides: &mut Sides) -> Result<Run, RunError> {
    let start = Instant::now();
    let report = sides.run(program)?;
    Ok(Run {
        seed: None,
        programs: 1,
        seconds: start.elapsed().as_secs_f64(),
        coverage: sides.coverage.clone(),
        found: (!report.is_equal()).then_some(Found { seed: None }),
        shown: Some((program.clone(), report)),
        outdated: Vec::new(),
        left_behind: None,
    })
}

fn generated(args: &ConformArgs, sides: &mut Sides) -> Result<Run, RunError> {
    let seed = args.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_secs())
    });
    let bar = progress(args.programs);
    let start = Instant::now();
    let limit = args.seconds.map(Duration::from_secs_f64);
    let mut programs = 0;
    let mut found = None;
    for number in 0..args.programs {
        if limit.is_some_and(|limit| start.elapsed() >= limit) {
            break;
        }
        let seed = seed.wrapping_add(number);
        let program = Generator::new(seed).program();
        let report = sides.run(&program)?;
        programs += 1;
        bar.inc(1);
        if !report.is_equal() {
            found = Some((seed, program, report));
            break;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let coverage = sides.coverage.clone();
    let mut shown = None;
    if let Some((_, program, report)) = &found {
        bar.set_message("shrinking");
        shown = Some(shortest(program, report, sides)?);
    }
    bar.finish_and_clear();
    let found = found.map(|(seed, ..)| Found { seed: Some(seed) });
    Ok(Run {
        seed: Some(seed),
        programs,
        seconds,
        coverage,
        shown,
        found,
        outdated: Vec::new(),
        left_behind: None,
    })
}

/// The shortest program that differs in the same figure.
fn shortest(
    program: &Program,
    report: &hugewalk_conform::run::Report,
    sides: &mut Sides,
) -> Result<(Program, hugewalk_conform::run::Report), RunError> {
    let kind = report.kind();
    let mut failure = None;
    let short = shrink(program, SHRINKING, |candidate| {
        if failure.is_some() {
            return false;
        }
        match sides.run(candidate) {
            Ok(report) => !report.is_equal() && report.kind() == kind,
            Err(error) => {
                failure = Some(error);
                false
            }
        }
    });
    match failure {
        Some(error) => Err(error),
        None => sides.run(&short).map(|report| (short, report)),
    }
}

fn progress(programs: u64) -> ProgressBar {
    // Drawn on standard error, and only if that is a terminal.
    let bar = ProgressBar::new(programs);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} {pos}/{len} programs, {per_sec}, {eta} left {msg}")
    {
        bar.set_style(style);
    }
    bar
}
