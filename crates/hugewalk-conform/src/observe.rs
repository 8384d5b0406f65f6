//! What can be observed of a program after a step: the same type for both sides.

use std::fmt;

use crate::program::{Bytes, FILES, Modes, PROCESSES, Policy, PolicyMode, Rights};

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It did what it should.
    Done,
    /// A number: the size a pool came to, a byte that was loaded, how many pages a sweep got through.
    Number(u64),
    /// Bytes that were read.
    Bytes(Vec<u8>),
    /// Something was mapped where it was not asked for, and was unmapped again at once.
    Elsewhere,
    /// For each huge page, what mincore says.
    Resident(Vec<Residency>),
    /// For each address, the node that its page is on, or an error.
    Nodes(Vec<Result<u64, &'static str>>),
    /// What a scan found, and where it ended if that was not the end of its range.
    Scanned {
        /// Pages side by side that are the same.
        regions: Vec<Region>,
        /// Where it ended early.
        end: Option<Bytes>,
    },
    /// An error, by its name.
    Error(&'static str),
    /// An error that came when a part was done.
    Stopped {
        /// Its name.
        error: &'static str,
        /// What was done before.
        after: Bytes,
    },
    /// A signal, and where the access was that it is about; with the pages a sweep got through before.
    Signal {
        /// Its name.
        signal: &'static str,
        /// What it is about: `SEGV_MAPERR` and the like.
        code: &'static str,
        /// The address it carries.
        at: Option<Bytes>,
        /// Accesses before it that went well.
        after: u64,
    },
}

impl Outcome {
    /// For counting: `ok`, the error, or the signal.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Error(name) => name,
            Self::Stopped { .. } => "stopped",
            Self::Signal { code, .. } => code,
            Self::Elsewhere => "elsewhere",
            Self::Done
            | Self::Number(_)
            | Self::Bytes(_)
            | Self::Resident(_)
            | Self::Nodes(_)
            | Self::Scanned { .. } => "ok",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Bytes(bytes) => write!(f, "{} bytes {bytes:02x?}", bytes.len()),
            Self::Elsewhere => f.write_str("mapped elsewhere"),
            Self::Resident(pages) => write!(f, "{pages:?}"),
            Self::Nodes(nodes) => write!(f, "{}", nodes_line(nodes)),
            Self::Scanned { regions, end } => {
                f.write_str(if regions.is_empty() { "nothing" } else { "" })?;
                let mut comma = "";
                for region in regions {
                    write!(f, "{comma}{region}")?;
                    comma = ", ";
                }
                end.map_or(Ok(()), |end| write!(f, "; ended at {end}"))
            }
            Self::Error(name) => f.write_str(name),
            Self::Stopped { error, after } => write!(f, "{error} after {after}"),
            Self::Signal { signal, code, at, after } => {
                write!(f, "{signal} {code}")?;
                at.map_or(Ok(()), |at| write!(f, " at {at}"))?;
                if *after > 0 { write!(f, " after {after} pages") } else { Ok(()) }
            }
        }
    }
}

/// Pages that a scan found, side by side and of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Region {
    /// From where on.
    pub start: Bytes,
    /// To where.
    pub end: Bytes,
    /// What they are: `PAGE_IS_*`, without `PAGE_IS_SOFT_DIRTY`, which not all kernels know.
    pub categories: u64,
}

/// `PAGE_IS_*`, by number of the bit.
const CATEGORIES: [&str; 7] = ["allowed", "written", "file", "present", "swapped", "zero", "huge"];

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}:", self.start, self.end)?;
        let set = CATEGORIES.iter().enumerate().filter(|(bit, _)| self.categories >> bit & 1 != 0);
        let mut names = set.map(|(_, name)| *name).peekable();
        if names.peek().is_none() {
            return f.write_str(" of no kind");
        }
        names.try_for_each(|name| write!(f, " {name}"))
    }
}

pub(crate) fn nodes_line(nodes: &[Result<u64, &'static str>]) -> String {
    let node =
        |node: &Result<u64, &str>| node.map_or_else(|error| format!(" {error}"), |node| format!(" {node}"));
    "nodes".to_owned() + &nodes.iter().map(node).collect::<String>()
}

/// What mincore says of a huge page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Residency {
    /// Nothing is mapped there.
    Unmapped,
    /// There is no page.
    Absent,
    /// There is one.
    Resident,
    /// Its parts of 4 KiB do not agree.
    Mixed,
}

/// Linux: `HugePages_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pool {
    /// Pages, surplus ones included.
    pub total: u64,
    /// Pages nobody uses.
    pub free: u64,
    /// Reservations without a page yet.
    pub reserved: u64,
    /// Pages above the configured size.
    pub surplus: u64,
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { total, free, reserved, surplus } = self;
        write!(f, "total {total} free {free} reserved {reserved} surplus {surplus}")
    }
}

/// `fstat(2)`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileState {
    /// `st_size`
    pub size: Bytes,
    /// `st_blocks`, in huge pages.
    pub pages: u64,
}

/// A line of smaps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// Its start.
    pub start: Bytes,
    /// Its end.
    pub end: Bytes,
    /// `PROT_*`
    pub rights: Rights,
    /// `MAP_SHARED`
    pub shared: bool,
    /// Where it starts in its file.
    pub offset: Bytes,
    /// What userfaultfd is registered for there.
    pub handled: Modes,
    /// `Shared_Hugetlb`, in huge pages.
    pub shared_pages: u64,
    /// `Private_Hugetlb`, in huge pages.
    pub private_pages: u64,
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.shared { "shared" } else { "private" };
        write!(f, "{}..{} {} {kind} from {}", self.start, self.end, self.rights, self.offset)?;
        write!(f, ", pages shared {} private {}", self.shared_pages, self.private_pages)?;
        if self.handled.is_empty() { Ok(()) } else { write!(f, ", handled {}", self.handled) }
    }
}

bitflags::bitflags! {
    /// Bits of pagemap.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct PageMap: u8 {
        /// A page is mapped.
        const PRESENT = 1;
        /// It was written since that was forgotten.
        const SOFT_DIRTY = 2;
        /// Nobody else maps it.
        const EXCLUSIVE = 4;
        /// It belongs to a file.
        const FILE = 8;
        /// userfaultfd protects it.
        const UFFD_WP = 16;
        /// It is on its way elsewhere.
        const SWAP = 32;
    }
}

/// One place of the window.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PageState {
    /// Where.
    pub at: Bytes,
    /// What pagemap says.
    pub map: PageMap,
    /// What mincore says.
    pub residency: Residency,
    /// From which nodes it is to come, if something is mapped there.
    pub policy: Option<Policy>,
    /// Some of its bytes, if it is there and can be read.
    pub bytes: Vec<Option<u8>>,
}

impl fmt::Display for PageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {:?} {:?}",
            self.at,
            self.map.iter_names().map(|(name, _)| name).collect::<Vec<_>>(),
            self.residency
        )?;
        if let Some(policy) = self.policy.filter(|policy| policy.mode != PolicyMode::Default) {
            write!(f, " policy {policy}")?;
        }
        if self.bytes.iter().any(Option::is_some) {
            let byte = |byte: &Option<u8>| byte.map_or("-".to_owned(), |byte| byte.to_string());
            write!(f, " bytes {}", self.bytes.iter().map(byte).collect::<Vec<_>>().join(" "))?;
        }
        Ok(())
    }
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProcessState {
    /// `HugetlbPages`, in huge pages.
    pub huge_pages: u64,
    /// Its mappings, by address.
    pub mappings: Vec<Mapping>,
    /// The places that are looked at.
    pub pages: Vec<PageState>,
}

/// All that is observed after a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What the step came to.
    pub outcome: Outcome,
    /// Minor faults that an access has taken.
    pub faults: Option<u64>,
    /// The pool.
    pub pool: Pool,
    /// The files that are open.
    pub files: [Option<FileState>; FILES],
    /// The processes that are alive.
    pub processes: [Option<ProcessState>; PROCESSES],
}
