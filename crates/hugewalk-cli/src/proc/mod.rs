//! What `/proc` and `/sys` say. Nothing is ever written there.

mod mounts;
mod pagemap;
mod pools;
mod smaps;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub(crate) use mounts::{Mounted, hugetlbfs};
pub(crate) use pagemap::{Filled, slots};
pub(crate) use pools::Machine;
pub use pools::Pool;
pub(crate) use smaps::Mapping;

/// Why `/proc` does not say what is asked for.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// `/proc` cannot be read.
    #[error("{}: there is no /proc here: {source}; mount it (mount -t proc proc /proc)", path.display())]
    NoProc {
        /// Where it should be.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file of `/proc` cannot be read, and not because its process has ended or is another user's.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file of `/proc` is not what the kernel writes.
    #[error("{}:{line}: this is not a line of smaps as the kernel writes it; copy the file again", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Where, from 1 on.
        line: usize,
    },
}

/// A directory that has `proc` and `sys` in it: `/`, or a copy.
pub(crate) struct Root {
    proc: PathBuf,
    sys: PathBuf,
}

/// A process that could be looked at.
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) command: String,
    /// `HugetlbPages` of its status. A process that shares tables may have touched more, or less, than it says.
    pub(crate) hugetlb_kb: u64,
    /// `VmPTE` of its status: all its page tables. A shared table counts for each of its users.
    pub(crate) page_tables_kb: u64,
    /// Its mappings of huge pages, by address.
    pub(crate) mappings: Vec<Mapping>,
}

/// What became of looking at a process.
pub(crate) enum Look {
    Seen(Process),
    /// It ended meanwhile, or it is a thread of the kernel.
    Gone,
    /// It is another user's, or has more capabilities than this one.
    Forbidden {
        command: String,
        hugetlb_kb: u64,
    },
}

impl Root {
    /// # Errors
    ///
    /// If there is no `/proc`.
    pub(crate) fn new(directory: &Path) -> Result<Self, ProcError> {
        let root = Self { proc: directory.join("proc"), sys: directory.join("sys") };
        match root.meminfo() {
            Ok(_) => Ok(root),
            Err(source) => Err(ProcError::NoProc { path: root.proc, source }),
        }
    }

    fn meminfo(&self) -> io::Result<String> {
        read(&self.proc.join("meminfo"))
    }

    /// All processes there are.
    pub(crate) fn pids(&self) -> Result<Vec<u32>, ProcError> {
        let unreadable = |source| ProcError::NoProc { path: self.proc.clone(), source };
        let mut pids = Vec::new();
        for entry in fs::read_dir(&self.proc).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            pids.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        pids.sort_unstable();
        Ok(pids)
    }

    /// Is `/proc` mounted with `hidepid`? Then processes of other users may not even be listed.
    pub(crate) fn hides_processes(&self) -> bool {
        let shown = ["hidepid=0", "hidepid=off"];
        let hides = |option: &str| option.starts_with("hidepid=") && !shown.contains(&option);
        let mounts = read(&self.proc.join("mounts")).unwrap_or_default();
        mounts.lines().any(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            matches!(fields[..], [_, "/proc", "proc", options, ..] if options.split(',').any(hides))
        })
    }

    /// The process that `pid`, which may be one of its threads, belongs to; none if there is none.
    pub(crate) fn process_of(&self, pid: u32) -> Option<u32> {
        let status = read(&self.proc.join(pid.to_string()).join("status")).ok()?;
        Some(field(&status, "Tgid:").and_then(|text| text.parse().ok()).unwrap_or(pid))
    }

    /// The parent of a process; none if it has ended.
    pub(crate) fn parent_of(&self, pid: u32) -> Option<u32> {
        let status = read(&self.proc.join(pid.to_string()).join("status")).ok()?;
        field(&status, "PPid:").and_then(|text| text.parse().ok())
    }

    /// Looks at a process.
    ///
    /// # Errors
    ///
    /// If what it says cannot be read, or makes no sense.
    pub(crate) fn look(&self, pid: u32) -> Result<Look, ProcError> {
        let directory = self.proc.join(pid.to_string());
        let Ok(status) = read(&directory.join("status")) else { return Ok(Look::Gone) };
        let command = field(&status, "Name:").unwrap_or_default().to_owned();
        let kb = |name| field(&status, name).and_then(first_number).unwrap_or(0);
        // Whoever clears entries of a table that it came to share did not count them: the figure can fall below zero, and is
        // printed wrapped around then.
        let hugetlb_kb = kb("HugetlbPages:").cast_signed().max(0).cast_unsigned();
        let forbidden = || Look::Forbidden { command: command.clone(), hugetlb_kb };
        let mut mappings = Vec::new();
        // The kernel walks all tables of a process to answer for smaps, and none for maps.
        let maps = directory.join("maps");
        let may_be_huge = match read(&maps) {
            Ok(text) => smaps::may_hold_huge_pages(&text),
            Err(error) => match Missing::of(&error) {
                Some(Missing::Gone) => true,
                Some(Missing::Forbidden) => return Ok(forbidden()),
                None => return Err(ProcError::Unreadable { path: maps, source: error }),
            },
        };
        if may_be_huge {
            let path = directory.join("smaps");
            let text = match read(&path) {
                Ok(text) => text,
                Err(error) => match Missing::of(&error) {
                    Some(Missing::Gone) => return Ok(Look::Gone),
                    Some(Missing::Forbidden) => return Ok(forbidden()),
                    None => return Err(ProcError::Unreadable { path, source: error }),
                },
            };
            mappings = smaps::huge_mappings(&text).map_err(|line| ProcError::Damaged { path, line })?;
        }
        if !mappings.is_empty() {
            let pagemap = File::open(directory.join("pagemap")).ok();
            pagemap::fill_in(&mut mappings, pagemap.as_ref());
        }
        Ok(Look::Seen(Process { pid, command, hugetlb_kb, page_tables_kb: kb("VmPTE:"), mappings }))
    }

    /// The pools, and what the machine has in page tables.
    ///
    /// # Errors
    ///
    /// If there is no `/proc` any more.
    pub(crate) fn machine(&self) -> Result<Machine, ProcError> {
        let meminfo =
            self.meminfo().map_err(|source| ProcError::NoProc { path: self.proc.clone(), source })?;
        Ok(pools::machine(&meminfo, &self.proc, &self.sys))
    }
}

/// Is this process root's?
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0)
}

/// Why a file of a process is not there, where that is no fault.
enum Missing {
    Gone,
    Forbidden,
}

impl Missing {
    fn of(error: &io::Error) -> Option<Self> {
        /// What a file of a process answers when the process has ended.
        const ESRCH: i32 = 3;
        match error.kind() {
            io::ErrorKind::NotFound => Some(Self::Gone),
            io::ErrorKind::PermissionDenied => Some(Self::Forbidden),
            _ if error.raw_os_error() == Some(ESRCH) => Some(Self::Gone),
            _ => None,
        }
    }
}

/// Names of files and commands need not be text.
fn read(path: &Path) -> io::Result<String> {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// What stands behind `name` at the start of a line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}
