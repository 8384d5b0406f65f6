//! The command line: what all commands have in common. What each takes stands in the `args.rs` of its own folder.

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::bench::args::BenchArgs;
use crate::check::args::CheckArgs;
use crate::compare::args::CompareArgs;
use crate::completions::CompletionsArgs;
use crate::conform::args::ConformArgs;
use crate::estimate::args::EstimateArgs;
use crate::explain::ExplainArgs;
use crate::inspect::args::InspectArgs;
use crate::manual::ManArgs;
use crate::record::args::RecordArgs;
use crate::replay::args::ReplayArgs;
use crate::run::args::RunArgs;

/// Huge-page tables that processes share, and what becomes of them.
#[derive(Debug, Parser)]
#[command(name = "hugewalk", version = env!("HUGEWALK_VERSION"), about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// When to print in colour
    #[arg(
        long,
        global = true,
        value_enum,
        ignore_case = true,
        value_name = "WHEN",
        default_value_t,
        hide_possible_values = true
    )]
    pub color: When,

    /// Print what was asked for, and errors: no progress, no notes
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

impl Cli {
    /// Reads a command line.
    ///
    /// # Errors
    ///
    /// What is wrong with it, or the help that it asks for.
    pub fn read(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Self, clap::Error> {
        let mut command = taking_numbers(Self::command());
        let matches = command.try_get_matches_from_mut(words)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }
}

/// A number below 0 behind an option is its value, and no option itself: so the option says what it wants instead.
fn taking_numbers(command: clap::Command) -> clap::Command {
    let takes_numbers = |arg: clap::Arg| {
        if arg.is_positional() || !arg.get_action().takes_values() {
            arg
        } else {
            arg.allow_negative_numbers(true)
        }
    };
    command.mut_args(takes_numbers).mut_subcommands(taking_numbers)
}

/// When to print in colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Into files and pipes too
    Always,
    /// Never
    Never,
}

impl When {
    /// Sees to it that everything is printed so from now on.
    pub fn set(self) {
        match self {
            Self::Auto => anstream::ColorChoice::Auto,
            Self::Always => anstream::ColorChoice::Always,
            Self::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }
}

/// What the command line says of colour, before the rest of it is read: what is wrong with it is printed in colour, too.
#[must_use]
pub fn color_of(mut words: impl Iterator<Item = OsString>) -> When {
    let mut when = When::Auto;
    while let Some(word) = words.next() {
        let value = match word.to_str() {
            Some("--") => break,
            Some("--color") => words.next(),
            Some(word) => word.strip_prefix("--color=").map(OsString::from),
            None => None,
        };
        let named = value.and_then(|value| When::from_str(value.to_str()?, true).ok());
        when = named.unwrap_or(when);
    }
    when
}

/// What `hugewalk` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Replay what a recorded program did with huge pages, and report its page tables and what sharing them saved
    ///
    /// Reads what strace and perf recorded of a real program, repeats each call and each page fault on huge pages at the
    /// recorded address, and compares every result with the recorded one. The report says which mappings share their page
    /// tables, which cannot and why, what the tables cost, what broke the sharing, what that costs under each protocol,
    /// and what could be gained.
    ///
    /// Calls that asked for huge pages and got none are listed with what they lacked. What the recording does not tell, or
    /// the replay could not follow, is listed before all figures under "What this cannot say": such figures may be wrong,
    /// although the exit status is 0.
    ///
    /// Handlers of faults (userfaultfd) are replayed too: a fault that is the handler's waits until the recorded handler
    /// resolves it. For that strace has to print what an ioctl is about: version 6.1 prints UFFDIO_CONTINUE and
    /// UFFDIO_WRITEPROTECT as addresses only, and those are passed over and counted.
    Replay(ReplayArgs),
    /// Record a program, or processes that run, for replay: calls, page faults, and what the kernel says
    ///
    /// Runs strace and perf as they have to be run, stops them, and writes one directory that `hugewalk replay` takes as it is.
    /// The kernel's own figures are taken at the end, and at any moment that is asked for. The program may be slower
    /// meanwhile, as under strace.
    Record(RecordArgs),
    /// Say what running processes have in huge pages, which of their page tables can be shared, and what those cost
    ///
    /// Reads /proc and /sys only: nothing is recorded, no process is stopped or restarted, nothing is written. Your own
    /// processes need no root; those of other users are counted, and looked at only by root. /proc does not show which page
    /// tables are shared, so that what they cost is given as a least and a most.
    Inspect(InspectArgs),
    /// Estimate page tables, faults, forks and exits for so much memory shared by so many processes
    ///
    /// The engine runs a program that maps the memory and forks, and counts; a large one is extrapolated from smaller ones, and
    /// the report says so. What forks and exits cost is given under each protocol of docs/upstream.md.
    Estimate(EstimateArgs),
    /// Run the engine under every interleaving of each scenario, by each locking protocol, and say which of them race
    ///
    /// A scenario is a few processors that walk, share, unshare and free at the same time; a protocol is what the walkers
    /// hold and what unsharing waits for: those of Linux from 6.0 to 2026, and hugewalk's own. What runs is the engine
    /// itself, not a model of it. Of a single scenario under a single protocol the race is drawn as the kernel's commit
    /// messages draw them.
    Check(CheckArgs),
    /// Say what a scenario, a property, a protocol or a step of the lab is
    ///
    /// What happens in it, under which protocols it has a race, what it is judged by, and which command shows it.
    Explain(ExplainArgs),
    /// Say what changed between two reports of check, replay or bench
    ///
    /// Of two checks, which verdicts changed; of two replays, which figures of tables, faults, unsharing and pools; of two
    /// benches, which cases became slower or faster in proportion to the baseline of their group.
    Compare(CompareArgs),
    /// Measure what walks, walkers, faults, fork and unshare cost on this machine
    ///
    /// What is to be compared is measured in turn, sample by sample, and printed as ratios too: a machine whose speed
    /// drifts slows all of it alike. Leave the machine alone meanwhile.
    Bench(BenchArgs),
    /// Run the same random programs on the engine and on the running kernel, and compare all that can be observed
    ///
    /// Programs of up to four processes and three files map, fault, fork, protect, move, punch and truncate huge pages of
    /// 2 MiB: on the engine, and with real processes on the running kernel. After every step results, signals, bytes, minor
    /// faults, mincore, pagemap, smaps, file sizes and the pool's counters have to be equal. A program on which they are not
    /// is made as short as it gets and printed. Takes the kernel's pool over meanwhile, and puts it back; needs root, and
    /// that nobody else uses huge pages.
    Conform(ConformArgs),
    /// Run an unmodified static Linux program in a small kernel that embeds the engine
    ///
    /// Boots the kernel in QEMU with the program and the files it wants; the processor walks the engine's own shared tables.
    /// The program's output and exit status pass through. A report at the end, on standard error, says what its page tables
    /// cost, which were shared, what was flushed and sent to other processors, and which system calls the kernel lacks.
    /// The program reads the end of the file on its standard input.
    Run(RunArgs),
    /// Print what a shell needs to complete this command, with the names of scenarios and protocols
    Completions(CompletionsArgs),
    /// Print the manual page of a command, or write all of them
    Man(ManArgs),
}

/// A time to spend: more than nothing, and less than a day.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if seconds > 0.0 && seconds < 86_400.0 => Ok(seconds),
        _ => Err("a number of seconds above 0 is wanted".to_owned()),
    }
}

/// The size of a huge page, as a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageShift(pub u32);

pub(crate) fn page_size(text: &str) -> Result<PageShift, String> {
    match text.to_ascii_uppercase().as_str() {
        "1G" | "1GB" | "1GIB" | "1048576K" | "1048576" => Ok(PageShift(30)),
        "2M" | "2MB" | "2MIB" | "2048K" | "2048" => Ok(PageShift(21)),
        _ => Err(format!("pages are of 2M or 1G, not {text}")),
    }
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// For programs; the schema is named in the field `schema`
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        taking_numbers(Cli::command()).debug_assert();
    }

    #[test]
    fn colour_is_known_before_the_rest_is_read() {
        let of = |line: &str| color_of(line.split(' ').map(OsString::from));
        assert_eq!(of("hugewalk check --color never"), When::Never);
        assert_eq!(of("hugewalk --color=Always check --wrong"), When::Always);
        assert_eq!(of("hugewalk record -- ls --color=always"), When::Auto);
        assert_eq!(of("hugewalk --color sometimes"), When::Auto);
    }
}
