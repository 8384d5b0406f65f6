//! The `hugewalk` command.

use std::process::ExitCode;

use clap::error::ErrorKind;
use hugewalk_cli::args::{Cli, color_of};
use hugewalk_cli::complain;
use hugewalk_cli::usage::in_one_line;

// SAFETY: scenarios keep to themselves: they are all the lab's own.
#[global_allocator]
static ALLOCATOR: hugewalk_lab::Allocator = unsafe { hugewalk_lab::Allocator::new() };

fn main() -> ExitCode {
    color_of(std::env::args_os()).set();
    match Cli::read(std::env::args_os()) {
        Ok(cli) => hugewalk_cli::run(&cli),
        Err(error)
            if error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand =>
        {
            complain(&in_one_line(&error, std::env::args_os()));
            ExitCode::from(2)
        }
        Err(error) if error.use_stderr() => error.exit(),
        // Help, and the version: a report like any other.
        Err(error) => hugewalk_cli::print_help(&error),
    }
}
