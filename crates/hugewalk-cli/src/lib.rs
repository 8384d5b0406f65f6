//! The `hugewalk` command: all of it but `main`.

pub mod args;
pub mod replay;
pub mod report;
pub mod trace;

use std::process::ExitCode;

use args::{Cli, Command, ReplayArgs};
use report::truth::{Truth, TruthError};
use trace::{Trace, TraceError};

/// Does what the command line says. Nothing is printed on standard output unless all of it can be.
#[must_use]
pub fn run(cli: &Cli) -> ExitCode {
    let done = match &cli.command {
        Command::Replay(args) => replay(args),
    };
    done.unwrap_or_else(|failure| {
        anstream::eprintln!("hugewalk: {failure}");
        ExitCode::from(2)
    })
}

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error(transparent)]
    Truth(#[from] TruthError),
}

fn replay(args: &ReplayArgs) -> Result<ExitCode, Failure> {
    let _trace = Trace::load(&args.strace, args.faults.as_deref())?;
    let _truth = args.truth.as_deref().map(Truth::load).transpose()?;
    Ok(ExitCode::SUCCESS)
}
