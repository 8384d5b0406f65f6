//! The command line of `hugewalk check`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::args::Format;

/// What has nothing to do with a single schedule.
const OTHER_THAN_REPLAY: [&str; 10] = [
    "fail_fast",
    "random",
    "pct",
    "shard",
    "checkpoint",
    "preemptions",
    "executions",
    "changes",
    "seed",
    "jobs",
];
/// What has nothing to do with names, besides.
const OTHER_THAN_LIST: [&str; 8] =
    ["protocol", "without", "with", "freed_at_once", "replay", "html", "show", "diagram"];

/// `--executions` where nothing is said.
pub(super) const EXECUTIONS: u64 = 5_000_000;

/// What stands behind the options in the help.
const CHECKING: &str = "\
Examples:
  hugewalk check                                     all scenarios under all protocols
  hugewalk check S1 --protocol legacy                one race, drawn
  hugewalk check S8 --protocol hugewalk --without revalidate
  hugewalk check --show S1 --protocol hugewalk       a run of a safe one, drawn
  hugewalk check S9 --protocol 'mine=rfc-ptl,broadcast=last,+revalidate'
  hugewalk check --pct 1000000 --seed 7              random schedules
  hugewalk check --pct 100000000 --shard 3/16 --checkpoint part-3.json
  hugewalk check merge part-*.json

Exit status:
  0  all verdicts are as expected; a protocol of your own has no expected verdicts
  1  some are not; the report says which
  2  there is something wrong with what was asked for; one line on standard error says what";

/// `hugewalk check`
#[derive(Debug, Args)]
#[command(after_help = CHECKING, after_long_help = CHECKING)]
#[command(args_conflicts_with_subcommands = true)]
pub struct CheckArgs {
    /// Something else than checking.
    #[command(subcommand)]
    pub action: Option<CheckAction>,

    /// Scenarios by name or pattern: S1/* is all of line S1, */gup-fast each with that walker [default: all]
    #[arg(value_name = "SCENARIO")]
    pub scenarios: Vec<String>,

    /// A locking protocol, or one of your own: 'mine=rfc-ptl,walkers=rcu,broadcast=last,+revalidate'; may be repeated
    /// [default: all]
    #[arg(long, value_name = "NAME")]
    pub protocol: Vec<String>,

    /// Drop a step of the protocol; may be repeated
    #[arg(long, value_name = "STEP", value_delimiter = ',')]
    pub without: Vec<String>,

    /// Add a step to protocols that lack it; may be repeated
    #[arg(long, value_name = "STEP", value_delimiter = ',')]
    pub with: Vec<String>,

    /// Model a machine that frees tables as soon as they are handed to RCU, as x86-64 without paravirtualisation may
    #[arg(long)]
    pub freed_at_once: bool,

    /// List scenarios, protocols and steps, or what is named: --list S9
    #[arg(long, conflicts_with_all = OTHER_THAN_LIST, conflicts_with_all = OTHER_THAN_REPLAY)]
    pub list: bool,

    /// Run one schedule, as a report prints it, and print every step; the exit code is 0 whatever happens
    #[arg(long, value_name = "SCHEDULE", conflicts_with_all = OTHER_THAN_REPLAY)]
    pub replay: Option<String>,

    /// Draw one run in which the first processor is held up in the middle, whether it is safe or not
    #[arg(long, conflicts_with = "replay", conflicts_with_all = OTHER_THAN_REPLAY)]
    pub show: bool,

    /// Draw a run for a commit message: 72 columns, names of the kernel only
    #[arg(long)]
    pub diagram: bool,

    /// How hard to look.
    #[command(flatten)]
    pub effort: EffortArgs,

    /// Stop at the first verdict that is not the expected one; the report then has only what was done by then
    #[arg(long)]
    pub fail_fast: bool,

    /// Do part K of N of the work: a case, or a block of random runs, belongs to one part
    #[arg(long, value_name = "K/N")]
    pub shard: Option<String>,

    /// Keep what is done in this file, and go on from there if it is there already
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,

    /// Also write an HTML report: the matrix, and each race with the page tables beside its steps; - for standard output, in place
    /// of the text
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// How to print the report
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub format: CheckFormat,
}

/// How a report of a check is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// For people
    #[default]
    Text,
    /// For programs; the schema is named in the field `schema`
    Json,
    /// Markdown: the table, or one run in a block of code
    Md,
    /// A picture of the table, or of one run
    Svg,
}

/// How hard to look.
#[derive(Debug, Args)]
#[command(next_help_heading = "Effort")]
pub struct EffortArgs {
    /// Only schedules with at most N preemptions [default: with at most 2, then all, with reduction]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1000))]
    pub preemptions: Option<u32>,

    /// Limit on executions per stage of a case
    #[arg(long, value_name = "N", default_value_t = EXECUTIONS, conflicts_with_all = ["random", "pct"], value_parser = clap::value_parser!(u64).range(1..))]
    pub executions: u64,

    /// Sample N random schedules of each case instead
    #[arg(long, value_name = "N", group = "by_chance", conflicts_with_all = ["pct", "preemptions", "changes"], value_parser = clap::value_parser!(u64).range(1..))]
    pub random: Option<u64>,

    /// Sample N schedules of each case by probabilistic concurrency testing instead
    #[arg(long, value_name = "N", group = "by_chance", conflicts_with = "preemptions", value_parser = clap::value_parser!(u64).range(1..))]
    pub pct: Option<u64>,

    /// Changes of priority in a schedule of --pct
    #[arg(long, value_name = "N", default_value_t = 3, requires = "pct", value_parser = clap::value_parser!(u32).range(..=1000))]
    pub changes: u32,

    /// Seed of --random and --pct; the same seed gives the same schedules
    #[arg(long, value_name = "N", default_value_t = 0, requires = "by_chance")]
    pub seed: u64,

    /// Threads to work with [default: as many as there are processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub jobs: Option<u32>,
}

/// What there is besides checking.
#[derive(Debug, Subcommand)]
pub enum CheckAction {
    /// Join the checkpoints of all parts of a campaign, and report; parts may be unfinished or missing
    Merge(MergeArgs),
    /// Say how far the parts of a campaign are
    Status(StatusArgs),
}

/// `hugewalk check status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// A checkpoint of each part; - for standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// How to print it
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub format: Format,
}

/// `hugewalk check merge`
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// A checkpoint of each part; - for standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// Also write an HTML report; - for standard output, in place of the text
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// How to print the report
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub format: CheckFormat,
}
