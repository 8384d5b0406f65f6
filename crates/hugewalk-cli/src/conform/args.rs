//! The command line of `hugewalk conform`.

use clap::{Args, ValueEnum};

use crate::args::{Format, seconds};

/// What stands behind the options in the help.
const STATUS: &str = "\
Exit status:
  0  both sides agree, and what a table says holds
  1  they do not; the program, or the table as it is here, is printed
  2  nothing was run, or the run had to stop; one line on standard error says why";

/// `hugewalk conform`
#[derive(Clone, Debug, Args)]
#[command(after_help = STATUS)]
pub struct ConformArgs {
    /// Programs to run
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub programs: u64,

    /// Stop after so long, even if there are programs left
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub seconds: Option<f64>,

    /// The seed of the first program; the next ones count up from it [default: the time]
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,

    /// Run this one program and show each of its steps
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["programs", "seconds", "seed"])]
    pub replay: Option<String>,

    /// List the steps that a program can have
    #[arg(long, conflicts_with_all = ["programs", "seconds", "seed", "replay", "table"])]
    pub list: bool,

    /// Run the programs of a table of docs/, and print the table as it is on this kernel (Markdown)
    #[arg(long, value_enum, ignore_case = true, value_name = "TABLE", conflicts_with_all = ["programs", "seconds", "seed", "replay"])]
    pub table: Option<ConformTable>,

    /// Run the programs in the kernel of `hugewalk run` too, as real processes, and compare that with the engine exactly. Needs a
    /// checkout and QEMU
    #[arg(long, conflicts_with_all = ["list", "table"])]
    pub guest: bool,

    /// How long the kernel may take for a step; then the run stops
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,

    /// How to print the report
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub format: Format,
}

/// A table that `hugewalk conform` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConformTable {
    /// What userfaultfd does on huge pages: docs/uffd-hugetlb.md
    Uffd,
}
