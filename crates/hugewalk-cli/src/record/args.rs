//! The command line of `hugewalk record`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::args::{Format, seconds};

/// What stands behind the options in the help.
const RECORDING: &str = "\
Examples:
  hugewalk record -o db.recording -- postgres -D data     then: hugewalk replay db.recording
  hugewalk record --truth-at 5 --truth-at 60 -- ./server  figures after 5 and after 60 seconds
  hugewalk record --pid 4711                              a server that runs, until Ctrl-C
  kill -USR1 $(pgrep -x hugewalk)                         figures now

Exit status:
  0  recorded, however the program ended; the report says how
  2  nothing was recorded; one line on standard error says why";

/// `hugewalk record`
#[derive(Debug, Args)]
#[command(after_help = RECORDING, after_long_help = RECORDING)]
pub struct RecordArgs {
    /// The program to run, and its arguments
    #[arg(value_name = "PROGRAM", trailing_var_arg = true, required_unless_present = "pid")]
    pub program: Vec<OsString>,

    /// Record this process and all that descend from it from now on, instead of a program from its start; may be repeated. Ctrl-C, or
    /// the end of all of them, ends the recording
    #[arg(long, value_name = "PID", conflicts_with = "program", value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub pid: Vec<u32>,

    /// The directory to write; it must not exist yet [default: the program's name, or the number of the process, and .recording]
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,

    /// Stop all recorded processes after so long, write down what the kernel says of them, and let them go on; may be repeated.
    /// SIGUSR1 to this command does the same at any moment
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub truth_at: Vec<f64>,

    /// Record calls only, without perf: which pages are touched is not known then
    #[arg(long)]
    pub no_faults: bool,

    /// How to print what was recorded
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub format: Format,
}
