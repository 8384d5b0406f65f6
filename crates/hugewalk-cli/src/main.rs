//! The `hugewalk` command.

use std::process::ExitCode;

use clap::Parser;
use hugewalk_cli::args::Cli;

fn main() -> ExitCode {
    hugewalk_cli::run(&Cli::parse())
}
