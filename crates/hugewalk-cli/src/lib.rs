//! The `hugewalk` command: all of it but `main`.

pub mod args;
pub mod bench;
pub mod check;
pub mod compare;
pub mod completions;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod conform;
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
#[path = "conform/elsewhere.rs"]
pub mod conform;
pub mod costs;
pub mod estimate;
pub mod explain;
mod gigabyte;
mod html;
pub mod inspect;
pub mod manual;
mod notes;
pub mod proc;
pub mod programs;
pub mod record;
pub mod recording;
pub mod replay;
pub mod report;
pub mod run;
pub mod trace;
pub mod usage;
mod width;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use args::{Cli, Command, Format};
use bench::args::BenchArgs;
use check::CheckError;
use check::args::CheckArgs;
use compare::args::CompareArgs;
use conform::args::ConformArgs;
use costs::{Costs, CostsError};
use inspect::args::InspectArgs;
use manual::ManArgs;
pub use notes::complain;
use record::args::RecordArgs;
use recording::Recorded;
use replay::args::ReplayArgs;
use replay::{MachineError, Replayed};
use report::truth::{Truth, TruthError};
use run::RunError;
use run::args::RunArgs;
use trace::{Trace, TraceError};

/// Does what the command line says. Nothing is printed on standard output unless all of
/// it can be, but for `inspect --watch`.
#[must_use]
pub fn run(cli: &Cli) -> ExitCode {
    cli.color.set();
    if cli.quiet {
        notes::keep_quiet();
    }
    let done = match &cli.command {
        Command::Replay(args) => replay(args),
        Command::Estimate(args) => estimate(args),
        Command::Check(args) => check(args),
        Command::Explain(args) => explain(args),
        Command::Bench(args) => bench(args),
        Command::Conform(args) => conform(args),
        Command::Inspect(args) => inspect(args),
        Command::Record(args) => record(args),
        Command::Compare(args) => compare(args),
        Command::Run(args) => run_program(args),
        Command::Completions(args) => {
            print(&completions::script(args.shell)).map(|()| ExitCode::SUCCESS).map_err(Failure::from)
        }
        Command::Man(args) => man(args),
    };
    done.unwrap_or_else(|failure| {
        complain(&failure);
        match failure {
            Failure::Check(CheckError::Interrupted { signal, .. }) => check::interrupt::die(signal),
            Failure::Run(RunError::Interrupted(signal)) => check::interrupt::die(signal),
            Failure::Run(error) => ExitCode::from(error.status()),
            _ => ExitCode::from(2),
        }
    })
}

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error(transparent)]
    Truth(#[from] TruthError),
    #[error(transparent)]
    Costs(#[from] CostsError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Bench(#[from] bench::BenchError),
    #[error(transparent)]
    Conform(#[from] conform::ConformError),
    #[error(transparent)]
    Inspect(#[from] inspect::InspectError),
    #[error(transparent)]
    Record(#[from] record::RecordError),
    #[error(transparent)]
    Compare(#[from] compare::CompareError),
    #[error(transparent)]
    Recording(#[from] recording::RecordingError),
    #[error(transparent)]
    Estimate(#[from] estimate::EstimateError),
    #[error(transparent)]
    Explain(#[from] explain::ExplainError),
    #[error(transparent)]
    Man(#[from] manual::ManError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("{}: cannot be written: {error}", file.display())]
    Unwritable { file: PathBuf, error: io::Error },
    #[error("{}: --html and {other} would be the same file; give each its own", file.display())]
    SameFile { file: PathBuf, other: &'static str },
    #[error("the report cannot be written: {0}")]
    Output(#[from] io::Error),
}

fn check(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    let code = check::run(args, &mut text);
    // Of a check that was stopped, too: what it has found by then.
    if matches!(code, Ok(_) | Err(CheckError::Interrupted { .. })) {
        print(&text)?;
    }
    Ok(code?)
}

fn man(args: &ManArgs) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    manual::run(args, &mut text)?;
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn estimate(args: &estimate::args::EstimateArgs) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    estimate::run(args, &mut text)?;
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn explain(args: &explain::ExplainArgs) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    explain::run(args, &mut text)?;
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn bench(args: &BenchArgs) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    bench::run(args, &mut text)?;
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn conform(args: &ConformArgs) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    let agree = conform::run(args, &mut text)?;
    print(&text)?;
    Ok(if agree { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn inspect(args: &InspectArgs) -> Result<ExitCode, Failure> {
    inspect::run(args)?;
    Ok(ExitCode::SUCCESS)
}

fn run_program(args: &RunArgs) -> Result<ExitCode, Failure> {
    Ok(run::run(args)?)
}

fn compare(args: &CompareArgs) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    let equal = compare::run(args, &mut text)?;
    print(&text)?;
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn record(args: &RecordArgs) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    record::run(args, &mut text)?;
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn replay(args: &ReplayArgs) -> Result<ExitCode, Failure> {
    if args.strace.is_dir() {
        let recorded = Recorded::load(&args.strace)?;
        return replay_files(&args.in_directory(&recorded), recorded.notes);
    }
    replay_files(args, Vec::new())
}

/// A page does not take the place of what it is made of.
fn leaves_inputs(page: &Path, args: &ReplayArgs) -> Result<(), Failure> {
    let inputs = [
        ("the recording", Some(&args.strace)),
        ("--faults", args.faults.as_ref()),
        ("--truth", args.truth.as_ref()),
        ("--costs", args.costs.as_ref()),
    ];
    let same = |input: &Option<&PathBuf>| input.is_some_and(|input| html::file::are_same(page, input));
    match inputs.into_iter().find(|(_, input)| same(input)) {
        Some((other, _)) => Err(Failure::SameFile { file: page.to_owned(), other }),
        None => Ok(()),
    }
}

/// Replays files. The notes are what is known of them besides.
fn replay_files(args: &ReplayArgs, mut notes: Vec<String>) -> Result<ExitCode, Failure> {
    let page_at = args.html.as_deref().filter(|file| !html::file::is_standard(file));
    page_at.map_or(Ok(()), |page| leaves_inputs(page, args))?;
    let mut trace = Trace::load(&args.strace, args.faults.as_deref())?;
    trace.notes.append(&mut notes);
    let truth = args.truth.as_deref().map(Truth::load).transpose()?;
    trace.has_moment(&args.strace, args.until)?;
    let costs = Costs::load(args.costs.as_deref())?;
    let unwritable = |file: &Path, error| Failure::Unwritable { file: file.to_owned(), error };
    if let Some(file) = page_at {
        // Before all the work.
        html::file::try_at(file).map_err(|error| unwritable(file, error))?;
    }
    let Replayed { report, picture } = replay::replay(args, &args.hugetlbfs, &trace, truth.as_ref(), &costs)?;
    let mut standard = None;
    if let (Some(file), Some(picture)) = (&args.html, &picture) {
        let page = replay::page(args, &report, picture)?;
        if page_at.is_some() {
            html::file::write(file, &page).map_err(|error| unwritable(file, error))?;
        } else {
            standard = Some(page);
        }
    }
    let mut text = Vec::new();
    match (standard, args.format) {
        (Some(page), _) => text = page.into_bytes(),
        (None, Format::Text) => report::text::write(&report, &mut text)?,
        (None, Format::Json) => {
            serde_json::to_writer_pretty(&mut text, &report).map_err(io::Error::from)?;
            text.push(b'\n');
        }
    }
    print(&text)?;
    let differs = report.truth.is_some_and(|comparison| !comparison.equal);
    Ok(if differs { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// Prints help, or the version.
#[must_use]
pub fn print_help(help: &clap::Error) -> ExitCode {
    match print(help.render().ansi().to_string().as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format_args!("the help cannot be written: {error}"));
            ExitCode::from(2)
        }
    }
}

fn print(text: &[u8]) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
