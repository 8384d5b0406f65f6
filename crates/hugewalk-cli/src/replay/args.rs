//! The command line of `hugewalk replay`.

use std::path::PathBuf;

use clap::Args;

use super::plan::Mount;
use crate::args::{Format, PageShift, page_size};
use crate::recording::{self, MountBefore, PoolBefore, Recorded};
use crate::trace::Time;
use crate::trace::calls::recipe;

/// What stands behind the options in the help.
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

/// `hugewalk replay`
#[derive(Clone, Debug, Args)]
#[command(after_help = recording(), after_long_help = recording())]
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

    /// Also write an HTML report, with a time line, a map of addresses, and what other places and page sizes would give; -
    /// for standard output, in place of the text
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Run the recorded program's processes N times over, all on the same files
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub clones: u32,

    /// Huge pages in the pool at the start, with :1G or :2M behind the number for another size than the default; may be
    /// repeated [default: as many as --truth says, else a guess that agrees with the recording]
    #[arg(long, value_name = "PAGES[:SIZE]", value_parser = pool)]
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
