//! The command line of `hugewalk inspect`.

use std::path::PathBuf;

use clap::Args;

use crate::args::{Format, seconds};

/// What stands behind the options in the help.
const INSPECTING: &str = "\
Examples:
  hugewalk inspect                    all processes
  hugewalk inspect $(pgrep postgres)  these
  hugewalk inspect --watch 5          again every five seconds
  hugewalk inspect --prometheus       metrics, for the textfile collector of the node exporter

Exit status:
  0  looked, whether or not there was anything to see
  2  there is no such process, it is another user's, or there is no /proc; one line says which";

/// `hugewalk inspect`
#[derive(Debug, Args)]
#[command(after_help = INSPECTING, after_long_help = INSPECTING)]
pub struct InspectArgs {
    /// The processes to look at [default: all that may be looked at]
    #[arg(value_name = "PID", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub pids: Vec<u32>,

    /// Look at all processes; without root, at your own
    #[arg(long, conflicts_with = "pids")]
    pub all: bool,

    /// Repeat every 2 seconds, or as often as said: redraws on a terminal, prints one report after the other into a pipe. Numbers of processes go before it
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = seconds)]
    pub watch: Option<f64>,

    /// Print metrics for Prometheus, in its text format
    #[arg(long, conflicts_with_all = ["watch", "format"])]
    pub prometheus: bool,

    /// Read DIR/proc and DIR/sys instead of /proc and /sys: copies made on another machine
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,

    /// What faults cost, for what there is to gain: a report of hugewalk bench kernel --format json [default: figures in
    /// docs/performance.md]
    #[arg(long, value_name = "FILE.json")]
    pub costs: Option<PathBuf>,

    /// How to print the report; with --watch, each JSON object is on one line
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub format: Format,
}
