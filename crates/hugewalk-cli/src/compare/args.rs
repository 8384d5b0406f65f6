//! The command line of `hugewalk compare`.

use std::path::PathBuf;

use clap::Args;

use crate::args::Format;

/// What stands behind the options in the help.
const COMPARING: &str = "\
Examples:
  hugewalk check --format json > now.json; hugewalk compare before.json now.json
  hugewalk compare --tolerance 10 bench-main.json bench-branch.json

Exit status:
  0  nothing changed that counts
  1  something did; the report says what
  2  the two cannot be compared; one line on standard error says why";

/// `hugewalk compare`
#[derive(Debug, Args)]
#[command(after_help = COMPARING, after_long_help = COMPARING)]
pub struct CompareArgs {
    /// What was printed before: by check, replay or bench, with --format json
    #[arg(value_name = "BEFORE.json")]
    pub before: PathBuf,

    /// What was printed now, by the same command
    #[arg(value_name = "NOW.json")]
    pub now: PathBuf,

    /// Of two benches: how many per cent a case may be slower or faster before it counts
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, value_parser = percent)]
    pub tolerance: f64,

    /// How to print what changed
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub format: Format,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse() {
        Ok(percent) if (0.0..10_000.0).contains(&percent) => Ok(percent),
        _ => Err("a number of per cent from 0 on is wanted".to_owned()),
    }
}
