//! `hugewalk conform`: programs on the engine and on the running kernel.

pub mod args;
mod guest;
mod report;

use std::io::{self, Write};
use std::time::{Duration, Instant};

use hugewalk_conform::kernel::LeftBehind;
use hugewalk_conform::known::Known;
use hugewalk_conform::program::generate::Generator;
use hugewalk_conform::program::shrink::shrink;
use hugewalk_conform::program::{FORMS, Program, SyntaxError};
use hugewalk_conform::run::{RunError, Sides, Unsure};
use hugewalk_conform::table::{Held, UFFD, giant, uffd_page};
use indicatif::{ProgressBar, ProgressStyle};

use self::args::{ConformArgs, ConformTable};
use crate::args::Format;
use crate::notes;

/// How often a program is run to make it shorter.
const SHRINKING: u32 = 2000;
/// How many programs may differ once and not again. More are no chance.
const CHANCE: usize = 3;

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub enum ConformError {
    /// The program to be replayed cannot be read.
    #[error("--replay: {0}")]
    Syntax(#[from] SyntaxError),
    /// The run cannot go on.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The guest cannot be asked.
    #[error(transparent)]
    Guest(#[from] guest::GuestError),
    /// The kernel has no memory for huge pages, so nothing could be compared.
    #[error(
        "the kernel finds no memory for a huge page in one piece, so nothing can be compared; free some, or put it together: echo 1 > /proc/sys/vm/compact_memory"
    )]
    NoMemory,
    /// A page of 1 GiB could be had, and not be used.
    #[error("a page of 1 GiB cannot be used: {0}")]
    Giant(io::Error),
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
    if args.list {
        return list(args.format, out).map(|()| true);
    }
    if let Some(ConformTable::Uffd) = args.table {
        return table(args, out);
    }
    let replayed = args.replay.as_deref().map(str::parse::<Program>).transpose()?;
    if args.guest {
        return with_guest(args, out);
    }
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
    Ok(run.agrees())
}

/// The seed of the first program.
fn seed(args: &ConformArgs) -> u64 {
    args.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_secs())
    })
}

/// Runs programs in the guest, and the same on the running kernel if that can be asked.
fn with_guest(args: &ConformArgs, out: &mut Vec<u8>) -> Result<bool, ConformError> {
    let mut args = args.clone();
    args.seed = Some(seed(&args));
    let guest = guest::run(&args, args.seed.unwrap_or(1))?;
    let agrees = guest.differs.is_empty();
    // The same programs, and no more of them than the guest had time for.
    args.programs = guest.programs.max(1);
    args.guest = false;
    args.seconds = None;
    let mut beside = Vec::new();
    let on_kernel = match run(&args, &mut beside) {
        Ok(agrees) => Ok(agrees),
        Err(ConformError::Run(RunError::Kernel(error))) => Err(error.to_string()),
        Err(error) => return Err(error),
    };
    match args.format {
        Format::Text => {
            guest.text(out)?;
            match &on_kernel {
                Ok(_) => {
                    writeln!(out, "\nThe same programs on the running kernel:\n")?;
                    out.write_all(&beside)?;
                }
                Err(why) => writeln!(out, "The running kernel was not asked: {why}.")?,
            }
        }
        Format::Json => {
            let beside: serde_json::Value = serde_json::from_slice(&beside).unwrap_or_default();
            let report = serde_json::json!({
                "schema": "hugewalk-conform-guest/1", "seed": args.seed, "guest": guest,
                "kernel": beside, "not_asked": on_kernel.as_ref().err(),
            });
            serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        }
    }
    Ok(agrees && on_kernel.unwrap_or(true))
}

/// The steps that a program can have.
fn list(format: Format, out: &mut Vec<u8>) -> Result<(), ConformError> {
    match format {
        Format::Text => report::forms(out)?,
        Format::Json => {
            let forms: Vec<_> = FORMS
                .iter()
                .map(|form| serde_json::json!({ "form": form.form, "what": form.what }))
                .collect();
            serde_json::to_writer_pretty(&mut *out, &forms).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}

/// Runs the rows of docs/uffd-hugetlb.md, and prints the page. True if all hold.
fn table(args: &ConformArgs, out: &mut Vec<u8>) -> Result<bool, ConformError> {
    let mut sides = Sides::new(Duration::from_secs(args.timeout))?;
    let rows: Vec<_> = UFFD.iter().flat_map(|part| part.rows).collect();
    let bar = notes::bar(rows.len() as u64);
    let mut held = Vec::new();
    for row in &rows {
        held.push(row.run(&mut sides)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    // A thread has one engine at a time.
    drop(sides);
    let giant = giant::on_kernel().map_err(ConformError::Giant)?;
    let count = |wanted: fn(&Held) -> bool| held.iter().filter(|held| wanted(held)).count();
    let not_asked = count(|held| matches!(held, Held::NotAsked | Held::NoPages | Held::NotAgain));
    let wrong = count(|held| matches!(held, Held::No { .. } | Held::Differs { .. }));
    let giant_is_wrong = giant.as_ref().is_some_and(|answers| !giant::hold(answers));
    match args.format {
        Format::Text => out.write_all(uffd_page(&held, giant.as_deref()).as_bytes())?,
        Format::Json => {
            let rows = rows.iter().zip(&held).map(|(row, held)| {
                let program = row.program().map(|program| program.to_string()).unwrap_or_default();
                serde_json::json!({
                    "says": row.says,
                    "program": program,
                    "answers": match held { Held::No { answers } => answers.clone(), _ => row.answers.iter().map(ToString::to_string).collect() },
                    "kernels": row.kernels.to_string(),
                    "held": match held { Held::Yes => "yes", Held::NotAsked => "not asked", Held::NoPages => "no huge pages to spare", Held::NotAgain => "differed once, and not again", Held::No { .. } => "no", Held::Differs { .. } => "the engine differs" },
                })
            });
            let report =
                serde_json::json!({ "schema": "hugewalk-conform-table/1", "rows": rows.collect::<Vec<_>>() });
            serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        }
    }
    notes::note(&format_args!(
        "{} of {} rows hold on this kernel, {not_asked} were not asked, {wrong} do not hold; pages of 1 GiB: {}",
        rows.len() - not_asked - wrong,
        rows.len(),
        match (&giant, giant_is_wrong) {
            (None, _) => "none to spare, not asked",
            (Some(_), false) => "all rows hold",
            (Some(_), true) => "not all rows hold",
        }
    ));
    Ok(wrong == 0 && !giant_is_wrong)
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
    /// Programs of which nothing can be told.
    unsure: Vec<NotTold>,
    /// What was there from a run that was killed.
    left_behind: Option<LeftBehind>,
}

impl Run {
    fn agrees(&self) -> bool {
        self.found.is_none() && self.outdated.is_empty() && self.not_again().count() <= CHANCE
    }

    /// Programs that differed once.
    fn not_again(&self) -> impl Iterator<Item = &NotTold> {
        self.unsure.iter().filter(|program| program.why == Unsure::NotAgain)
    }

    /// How many programs the kernel had no memory for.
    fn without_memory(&self) -> usize {
        self.unsure.iter().filter(|program| program.why == Unsure::NoMemory).count()
    }
}

/// A program that differed, which may not be its own doing.
struct NotTold {
    seed: u64,
    why: Unsure,
    /// What differed first, and how.
    difference: String,
}

/// A program that the sides do not agree on.
struct Found {
    seed: Option<u64>,
}

fn replay(program: &Program, sides: &mut Sides) -> Result<Run, ConformError> {
    let start = Instant::now();
    let report = sides.run(program)?;
    if report.unsure == Some(Unsure::NoMemory) {
        return Err(ConformError::NoMemory);
    }
    Ok(Run {
        seed: None,
        programs: 1,
        seconds: start.elapsed().as_secs_f64(),
        coverage: sides.coverage.clone(),
        found: report.differs().then_some(Found { seed: None }),
        shown: Some((program.clone(), report)),
        outdated: Vec::new(),
        unsure: Vec::new(),
        left_behind: None,
    })
}

fn generated(args: &ConformArgs, sides: &mut Sides) -> Result<Run, ConformError> {
    let seed = seed(args);
    let bar = progress(args.programs);
    let start = Instant::now();
    let limit = args.seconds.map(Duration::from_secs_f64);
    let mut programs = 0;
    let mut found = None;
    let mut unsure = Vec::new();
    for number in 0..args.programs {
        if limit.is_some_and(|limit| start.elapsed() >= limit) {
            break;
        }
        let seed = seed.wrapping_add(number);
        let program = Generator::new(seed).program();
        let report = sides.run(&program)?;
        programs += 1;
        bar.inc(1);
        if let (Some(why), Some(first)) = (report.unsure, report.differences.first()) {
            let difference =
                format!("{}: {} on the kernel, {} on the engine", first.what, first.kernel, first.engine);
            unsure.push(NotTold { seed, why, difference });
        }
        if report.differs() {
            found = Some((seed, program, report));
            break;
        }
    }
    let without_memory = unsure.iter().filter(|program| program.why == Unsure::NoMemory).count() as u64;
    if programs > 0 && without_memory == programs {
        return Err(ConformError::NoMemory);
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
        unsure,
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
        match sides.run_briefly(candidate) {
            Ok(report) => report.differs() && report.kind() == kind,
            Err(error) => {
                failure = Some(error);
                false
            }
        }
    });
    match failure {
        Some(error) => Err(error),
        None => sides.run_briefly(&short).map(|report| (short, report)),
    }
}

fn progress(programs: u64) -> ProgressBar {
    let bar = notes::bar(programs);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} {pos}/{len} programs, {per_sec}, {eta} left {msg}")
    {
        bar.set_style(style);
    }
    bar
}
