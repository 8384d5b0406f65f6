//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::check::args::CheckArgs;
use crate::compare::args::CompareArgs;
use crate::estimate::args::EstimateArgs;
use crate::explain::ExplainArgs;
use crate::inspect::args::InspectArgs;
use crate::record::args::RecordArgs;
use crate::recording::{self, MountBefore, PoolBefore, Recorded};
use crate::replay::plan::Mount;
use crate::run::args::RunArgs;
use crate::trace::Time;
use crate::trace::calls::recipe;

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
    #[command(after_help = recording(), after_long_help = recording())]
    Replay(ReplayArgs),
    /// Record a program, or processes that run, for replay: calls, page faults, and what the kernel says
    ///
    /// Runs strace and perf as they have to be run, stops them, and writes one directory that `hugewalk replay` takes as it is.
    /// The kernel's own figures are taken at the end, and at any moment that is asked for. The program may be slower
    /// meanwhile, as under strace.
    #[command(after_help = RECORDING, after_long_help = RECORDING)]
    Record(RecordArgs),
    /// Say what running processes have in huge pages, which of their page tables can be shared, and what those cost
    ///
    /// Reads /proc and /sys only: nothing is recorded, no process is stopped or restarted, nothing is written. Your own
    /// processes need no root; those of other users are counted, and looked at only by root. /proc does not show which page
    /// tables are shared, so that what they cost is given as a least and a most.
    #[command(after_help = INSPECTING, after_long_help = INSPECTING)]
    Inspect(InspectArgs),
    /// Estimate page tables, faults, forks and exits for so much memory shared by so many processes
    ///
    /// The engine runs a program that maps the memory and forks, and counts; a large one is extrapolated from smaller ones, and
    /// the report says so. What forks and exits cost is given under each protocol of docs/upstream.md.
    #[command(after_help = ESTIMATING, after_long_help = ESTIMATING)]
    Estimate(EstimateArgs),
    /// Run the engine under every interleaving of each scenario, by each locking protocol, and say which of them race
    ///
    /// A scenario is a few processors that walk, share, unshare and free at the same time; a protocol is what the walkers
    /// hold and what unsharing waits for: those of Linux from 6.0 to 2026, and hugewalk's own. What runs is the engine
    /// itself, not a model of it. Of a single scenario under a single protocol the race is drawn as the kernel's commit
    /// messages draw them.
    #[command(after_help = CHECKING, after_long_help = CHECKING)]
    Check(CheckArgs),
    /// Say what a scenario, a property, a protocol or a step of the lab is
    ///
    /// What happens in it, under which protocols it has a race, what it is judged by, and which command shows it.
    Explain(ExplainArgs),
    /// Say what changed between two reports of check, replay or bench
    ///
    /// Of two checks, which verdicts changed; of two replays, which figures of tables, faults, unsharing and pools; of two
    /// benches, which cases became slower or faster in proportion to the baseline of their group.
    #[command(after_help = COMPARING, after_long_help = COMPARING)]
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
    #[command(after_help = CONFORM_STATUS)]
    Conform(ConformArgs),
    /// Run an unmodified static Linux program in a small kernel that embeds the engine
    ///
    /// Boots the kernel in QEMU with the program and the files it wants; the processor walks the engine's own shared tables.
    /// The program's output and exit status pass through. A report at the end, on standard error, says what its page tables
    /// cost, which were shared, what was flushed and sent to other processors, and which system calls the kernel lacks.
    /// The program reads the end of the file on its standard input.
    #[command(after_help = RUNNING, after_long_help = RUNNING)]
    Run(RunArgs),
    /// Print what a shell needs to complete this command, with the names of scenarios and protocols
    #[command(after_help = COMPLETING)]
    Completions(CompletionsArgs),
    /// Print the manual page of a command, or write all of them
    #[command(after_help = READING)]
    Man(ManArgs),
}

const COMPLETING: &str = "\
Examples:
  hugewalk completions bash > /usr/share/bash-completion/completions/hugewalk
  hugewalk completions zsh > /usr/share/zsh/site-functions/_hugewalk
  hugewalk completions fish > /usr/share/fish/vendor_completions.d/hugewalk.fish";

const READING: &str = "\
Examples:
  hugewalk man check | man -l -
  hugewalk man --to /usr/share/man/man1";

/// `hugewalk completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum, ignore_case = true)]
    pub shell: Shell,
}

/// `hugewalk man`
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Whose page: check, or check merge [default: that of hugewalk itself]
    #[arg(value_name = "COMMAND", conflicts_with = "to")]
    pub command: Vec<String>,

    /// Write the pages of all commands to this directory
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
}

const RUNNING: &str = "\
Examples:
  hugewalk run ./map_hugetlb
  hugewalk run --cpus 4 --pool 600 ./hugepage-mremap 1024
  hugewalk run --file /bin/busybox=/bin/sh ./hugetlb-soft-offline
  hugewalk run --trace --report none ./thuge-gen 2> thuge-gen.strace

Exit status:
  the program's own, or 128 and the number of the signal that ended it; else
  2    the command line is wrong
  124  the program was still running at the end of --timeout
  125  it could not be run: no QEMU, no static program for the processors, something the kernel refuses, a fault in the kernel; one line
       on standard error says which";

const CONFORM_STATUS: &str = "\
Exit status:
  0  both sides agree, and what a table says holds
  1  they do not; the program, or the table as it is here, is printed
  2  nothing was run, or the run had to stop; one line on standard error says why";

/// `hugewalk conform`
#[derive(Clone, Debug, Args)]
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

/// What stands behind the options of `hugewalk replay`.
fn recording() -> String {
    let recipe = recipe().replace('\n', "\n  ");
    format!(
        "\
`hugewalk record -- PROGRAM` records a program. The same by hand, both files at once:
  {recipe}

Every form in which strace prints calls is read, with or without threads and times. Faults need
the times of -ttt. What cannot be concluded from a recording is said in the report.

Exit status:
  0  replayed; nothing differs from --truth (look at \"What this cannot say\" first)
  1  replayed; something differs from --truth
  2  an input cannot be used; one line on standard error says what, where, and what to do"
    )
}

const COMPARING: &str = "\
Examples:
  hugewalk check --format json > now.json; hugewalk compare before.json now.json
  hugewalk compare --tolerance 10 bench-main.json bench-branch.json

Exit status:
  0  nothing changed that counts
  1  something did; the report says what
  2  the two cannot be compared; one line on standard error says why";

const RECORDING: &str = "\
Examples:
  hugewalk record -o db.recording -- postgres -D data     then: hugewalk replay db.recording
  hugewalk record --truth-at 5 --truth-at 60 -- ./server  figures after 5 and after 60 seconds
  hugewalk record --pid 4711                              a server that runs, until Ctrl-C
  kill -USR1 $(pgrep -x hugewalk)                         figures now

Exit status:
  0  recorded, however the program ended; the report says how
  2  nothing was recorded; one line on standard error says why";

const INSPECTING: &str = "\
Examples:
  hugewalk inspect                    all processes
  hugewalk inspect $(pgrep postgres)  these
  hugewalk inspect --watch 5          again every five seconds
  hugewalk inspect --prometheus       metrics, for the textfile collector of the node exporter

Exit status:
  0  looked, whether or not there was anything to see
  2  there is no such process, it is another user's, or there is no /proc; one line says which";

const ESTIMATING: &str = "\
Examples:
  hugewalk estimate --shared 512G --processes 500
  hugewalk estimate --shared 512G --processes 500 --size 1G
  hugewalk estimate --shared 512G --processes 500 --recording db.recording --cpus 64

Exit status:
  0  estimated
  2  something that was given cannot be used; one line on standard error says what";

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

/// `hugewalk bench`
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure
    #[arg(value_enum, ignore_case = true)]
    pub what: BenchWhat,

    /// Samples of each figure
    #[arg(long, value_name = "N", default_value_t = 21, value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: u32,

    /// Seconds for each group of figures
    #[arg(long, value_name = "SECONDS", default_value_t = 4.0, value_parser = seconds)]
    pub seconds: f64,

    /// Do one case and print no figures: for tools that count instructions
    #[arg(long, value_name = "CASE", requires = "iterations")]
    pub only: Option<String>,

    /// How often to do it
    #[arg(long, value_name = "N", requires = "only")]
    pub iterations: Option<u64>,

    /// A report that was printed before, with --format json: what changed since is printed too
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["only", "format"])]
    pub baseline: Option<PathBuf>,

    /// How to print the figures
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub format: Format,
}

/// What `hugewalk bench` can measure.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum BenchWhat {
    /// Walks under RCU, under the VMA lock and bare; faults, fork and unshare
    Walk,
    /// Each walker of the engine, with 1 and 2 threads, alone and while another thread unshares the tables
    Walkers,
    /// What the design aims for, each figure beside its goal
    Goals,
    /// How costs grow: with the mappings of a file, the processes that share a table, the pages of a file, and threads
    Growth,
    /// The running kernel: a fault of a huge page, an interrupt of all processors, a grace period; for --costs of replay
    /// and estimate
    Kernel,
}

/// A time to spend: more than nothing, and less than a day.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if seconds > 0.0 && seconds < 86_400.0 => Ok(seconds),
        _ => Err("a number of seconds above 0 is wanted".to_owned()),
    }
}

/// `hugewalk replay`
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// The recording: a directory of `hugewalk record`, or what strace printed, also packed by gzip; - for standard input
    #[arg(value_name = "RECORDING")]
    pub strace: PathBuf,

    /// The page faults: output of perf script --ns -F pid,tid,time,event,addr, also packed by gzip
    #[arg(long, value_name = "FILE")]
    pub faults: Option<PathBuf>,

    /// Stop before the first event later than this: seconds since the epoch, or +SECONDS since the first event
    #[arg(long, value_name = "TIME", value_parser = until)]
    pub until: Option<Until>,

    /// What the kernel said (JSON); replay up to its moment and compare line by line
    #[arg(long, value_name = "FILE", conflicts_with = "clones")]
    pub truth: Option<PathBuf>,

    /// How to print the report
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub format: Format,

    /// Processors of the machine whose costs are counted
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub cpus: u32,

    /// What faults cost: a report of hugewalk bench kernel --format json [default: figures in docs/performance.md]
    #[arg(long, value_name = "FILE.json")]
    pub costs: Option<PathBuf>,

    /// Also write an HTML report, with a time line, a map of addresses, and what other places and page sizes would give
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Run the recorded program's processes N times over, all on the same files
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub clones: u32,

    /// Huge pages in the pool at the start, with :1G or :2M behind the number for another size than the default; may be
    /// repeated [default: as many as --truth says, else a guess that agrees with the recording]
    #[arg(long, value_name = "PAGES[:SIZE]", allow_negative_numbers = true, value_parser = pool)]
    pub pool: Vec<PoolArg>,

    /// The size of huge pages where the recording names none: Hugepagesize of /proc/meminfo [default: as --truth says,
    /// else 2M]
    #[arg(long, value_name = "2M|1G", value_parser = page_size)]
    pub default_size: Option<PageShift>,

    /// A directory on which hugetlbfs is mounted, with :1G behind it if its pages are that large; may be repeated
    ///
    /// Known without being named: /dev/hugepages, /run/hugepages, /mnt/huge*, mounts and statfs in the recording, what
    /// --truth lists, and files that are ever mapped with MAP_HUGETLB.
    #[arg(long, value_name = "DIR[:1G]", value_parser = mount)]
    pub hugetlbfs: Vec<Mount>,
}

impl ReplayArgs {
    /// What it takes to replay a recording, and nothing more.
    #[must_use]
    pub fn of(strace: PathBuf, faults: Option<PathBuf>) -> Self {
        Self {
            strace,
            faults,
            until: None,
            truth: None,
            format: Format::Text,
            cpus: 8,
            clones: 1,
            pool: Vec::new(),
            default_size: None,
            hugetlbfs: Vec::new(),
            costs: None,
            html: None,
        }
    }

    /// The same for the files of a directory of `hugewalk record`. What the command line says goes before what is written there.
    #[must_use]
    pub fn in_directory(&self, recorded: &Recorded) -> Self {
        let directory = &self.strace;
        let shift = |kb: u64| kb.trailing_zeros() + 10;
        let mut args = self.clone();
        args.strace = directory.join(recording::CALLS);
        args.faults =
            self.faults.clone().or_else(|| recorded.faults.then(|| directory.join(recording::FAULTS)));
        let truth = directory.join(recording::TRUTH);
        let compares = self.until.is_none() && self.clones == 1 && truth.is_file();
        args.truth = self.truth.clone().or_else(|| compares.then_some(truth));
        args.default_size = self.default_size.or(Some(PageShift(shift(recorded.default_page_kb))));
        let pool = |pool: &PoolBefore| PoolArg {
            pages: pool.pages,
            shift: Some(shift(pool.huge_page_kb)),
            recorded: true,
        };
        args.pool = recorded.pools.iter().map(pool).chain(self.pool.iter().copied()).collect();
        let mount = |mount: &MountBefore| Mount {
            directory: mount.directory.clone(),
            page_shift: shift(mount.huge_page_kb),
        };
        args.hugetlbfs.extend(recorded.hugetlbfs.iter().map(mount));
        args
    }
}

/// The size of a huge page, as a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageShift(pub u32);

/// The pages of one size that the pool has at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolArg {
    /// How many.
    pub pages: u64,
    /// Their size as a power of two, if it is named.
    pub shift: Option<u32>,
    /// Whether the recording says so, and not the command line.
    pub recorded: bool,
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

/// Where a replay ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// At this moment.
    Moment(Time),
    /// So long after the first event.
    After(Time),
}

impl Until {
    /// The moment meant, if the first event is at `start`.
    #[must_use]
    pub fn moment(self, start: Time) -> Time {
        match self {
            Self::Moment(time) => time,
            Self::After(span) => start + span,
        }
    }
}

pub(crate) fn page_size(text: &str) -> Result<PageShift, String> {
    match text.to_ascii_uppercase().as_str() {
        "1G" | "1GB" | "1GIB" | "1048576K" | "1048576" => Ok(PageShift(30)),
        "2M" | "2MB" | "2MIB" | "2048K" | "2048" => Ok(PageShift(21)),
        _ => Err(format!("pages are of 2M or 1G, not {text}")),
    }
}

fn pool(text: &str) -> Result<PoolArg, String> {
    let (pages, shift) = match text.split_once(':') {
        Some((pages, size)) => (pages, Some(page_size(size)?.0)),
        None => (text, None),
    };
    match pages.parse() {
        Ok(pages) => Ok(PoolArg { pages, shift, recorded: false }),
        Err(_) => Err("give a number of pages, as in 512, or 4:1G".to_owned()),
    }
}

fn mount(text: &str) -> Result<Mount, String> {
    let (directory, page_shift) = match text.rsplit_once(':') {
        Some((directory, "1G")) => (directory, 30),
        Some((directory, "2M")) => (directory, 21),
        Some((_, size)) if !size.contains('/') => return Err(format!("pages are of 2M or 1G, not {size}")),
        _ => (text, 21),
    };
    if !directory.starts_with('/') {
        return Err("give the whole path of the directory, from / on".to_owned());
    }
    Ok(Mount { directory: directory.trim_end_matches('/').to_owned(), page_shift })
}

fn until(text: &str) -> Result<Until, String> {
    let (seconds, kind): (&str, fn(Time) -> Until) = match text.strip_prefix('+') {
        Some(rest) => (rest, Until::After),
        None => (text, Until::Moment),
    };
    Time::parse(seconds).map(kind).ok_or_else(|| "give seconds, as in 1795335398.67 or +12.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn colour_is_known_before_the_rest_is_read() {
        let of = |line: &str| color_of(line.split(' ').map(OsString::from));
        assert_eq!(of("hugewalk check --color never"), When::Never);
        assert_eq!(of("hugewalk --color=Always check --wrong"), When::Always);
        assert_eq!(of("hugewalk record -- ls --color=always"), When::Auto);
        assert_eq!(of("hugewalk --color sometimes"), When::Auto);
    }

    #[test]
    fn a_mount_is_named_by_its_whole_path_and_the_size_of_its_pages() {
        let shift = |text| mount(text).map(|mount| (mount.directory, mount.page_shift)).ok();
        assert_eq!(shift("/srv/h/"), Some(("/srv/h".to_owned(), 21)));
        assert_eq!(shift("/srv/h:1G"), Some(("/srv/h".to_owned(), 30)));
        assert_eq!(shift("/srv/a:b/h"), Some(("/srv/a:b/h".to_owned(), 21)));
        assert_eq!((shift("/srv/h:4K"), shift("h")), (None, None));
    }

    #[test]
    fn a_pool_is_a_number_of_pages_of_some_size() {
        assert_eq!(pool("64"), Ok(PoolArg { pages: 64, shift: None, recorded: false }));
        assert_eq!(pool("4:1G"), Ok(PoolArg { pages: 4, shift: Some(30), recorded: false }));
        assert!(pool("4:1T").is_err() && pool("many").is_err() && pool("-1").is_err());
    }

    #[test]
    fn a_replay_may_end_at_a_moment_or_after_a_while() {
        let start = Time(10_000_000_000);
        assert_eq!(until("12.5").map(|until| until.moment(start)), Ok(Time(12_500_000_000)));
        assert_eq!(until("+2.5").map(|until| until.moment(start)), Ok(Time(12_500_000_000)));
        assert!(until("soon").is_err());
    }
}
