//! `hugewalk man`: manual pages, made of the same text as --help.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;

use crate::args::Cli;
use crate::check::error::did_you_mean;
use crate::html::file;

/// What stands behind the options in the help.
const READING: &str = "\
Examples:
  hugewalk man check | man -l -
  hugewalk man --to /usr/share/man/man1";

/// `hugewalk man`
#[derive(Debug, Args)]
#[command(after_help = READING)]
pub struct ManArgs {
    /// Whose page: check, or check merge [default: that of hugewalk itself]
    #[arg(value_name = "COMMAND", conflicts_with = "to")]
    pub command: Vec<String>,

    /// Write the pages of all commands to this directory
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum ManError {
    /// There is no such command.
    #[error("hugewalk has no command `{name}`{hint}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The nearest name, in words.
        hint: String,
    },
    /// A page cannot be written.
    #[error("{}: cannot be written: {error}", file.display())]
    Unwritable {
        /// Where.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Prints a page, or writes all of them.
///
/// # Errors
///
/// [`ManError`].
pub fn run(args: &ManArgs, out: &mut Vec<u8>) -> Result<(), ManError> {
    let all = pages();
    if let Some(directory) = &args.to {
        return write_all(&all, directory);
    }
    let name = std::iter::once("hugewalk").chain(args.command.iter().map(String::as_str));
    let name = name.collect::<Vec<_>>().join("-");
    let Some((_, page)) = all.iter().find(|(known, _)| *known == name) else {
        let name = args.command.join(" ");
        let known: Vec<String> = all
            .iter()
            .filter_map(|(known, _)| Some(known.strip_prefix("hugewalk-")?.replace('-', " ")))
            .collect();
        let hint = did_you_mean(&name, known.iter().map(String::as_str));
        return Err(ManError::Unknown { name, hint });
    };
    out.extend_from_slice(page.as_bytes());
    Ok(())
}

fn write_all(pages: &[(String, String)], directory: &Path) -> Result<(), ManError> {
    for (name, page) in pages {
        let path = directory.join(format!("{name}.1"));
        file::write(&path, page).map_err(|error| ManError::Unwritable { file: path.clone(), error })?;
    }
    Ok(())
}

/// The page of each command, under its name.
#[must_use]
pub fn pages() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    add(&command, &mut all);
    all
}

fn add(command: &Command, all: &mut Vec<(String, String)>) {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut page = Vec::new();
    // A vector takes all that is written to it.
    if Man::new(command.clone()).render(&mut page).is_ok() {
        all.push((name, String::from_utf8_lossy(&page).into_owned()));
    }
    for below in command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help")
    {
        add(below, all);
    }
}
