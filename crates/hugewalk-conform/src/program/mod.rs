//! Programs: what processes do with huge pages, one step after the other.
//!
//! A program is a value; its text is one line that [`FromStr`](core::str::FromStr) reads again. Addresses are offsets into
//! a *window* of the address space that both sides have free, so that a program says the same on both.

pub mod generate;
pub mod shrink;
mod text;
mod userfault;

use std::collections::BTreeSet;
use std::fmt;

use bitflags::bitflags;

pub use self::text::SyntaxError;
pub use self::userfault::{Handling, LONGEST_COPY, Modes, OnRange};

/// Processes a program can have at a time. Process 0 is there from the start.
pub const PROCESSES: usize = 4;
/// Files a program can have open at a time.
pub const FILES: usize = 3;
/// Mounts a program can have at a time.
pub const MOUNTS: usize = 2;

/// Bytes of a huge page.
pub const PAGE: u64 = 2 << 20;
/// Bytes that one table of huge pages covers.
pub const GIB: u64 = 1 << 30;

/// Where the window starts: far from whatever else a process of the kernel has.
pub const WINDOW: u64 = 1 << 45;
/// How large it is.
pub const WINDOW_SIZE: u64 = 16 * GIB;

/// A number of bytes: a length, an offset in a file, or an offset from the start of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Bytes {
    /// The address in the window. It wraps around: programs may say what they like.
    #[must_use]
    pub const fn address(self) -> u64 {
        WINDOW.wrapping_add(self.0)
    }

    /// The place in the window that has an address, if it lies there.
    #[must_use]
    pub fn of_address(address: u64) -> Option<Self> {
        address.checked_sub(WINDOW).filter(|&offset| offset < WINDOW_SIZE).map(Self)
    }

    /// Where something is mapped that is asked for here as a hint: cut to 4 KiB, then rounded up to a huge page.
    #[must_use]
    pub const fn as_hint(self) -> u64 {
        (self.address() & !4095).next_multiple_of(PAGE)
    }

    /// The start of the huge page it lies in.
    #[must_use]
    pub const fn page(self) -> Self {
        Self(self.0 & !(PAGE - 1))
    }
}

/// A program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Program {
    /// What is done, in order.
    pub steps: Vec<Step>,
}

/// One thing that a program does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The pool is made so many pages large. Linux: `nr_hugepages`.
    Pool {
        /// Huge pages, surplus ones not counted.
        pages: u64,
    },
    /// The pool may take so many pages more from the system. Linux: `nr_overcommit_hugepages`.
    Overcommit {
        /// Huge pages.
        pages: u64,
    },
    /// A file system is mounted, with limits or without.
    Mount {
        /// Which place for mounts it takes.
        mount: usize,
        /// `size`, in huge pages.
        size: Option<u64>,
        /// `min_size`, in huge pages.
        min: Option<u64>,
    },
    /// A mount is given up; it goes when its files have gone.
    Unmount {
        /// Which.
        mount: usize,
    },
    /// A file is made, without a name.
    Open {
        /// Which place for files it takes.
        file: usize,
        /// What kind of file.
        kind: FileKind,
    },
    /// A file is closed; it goes when nobody maps it any more.
    Close {
        /// Which.
        file: usize,
    },
    /// `ftruncate(2)`
    Truncate {
        /// Which file.
        file: usize,
        /// The new size.
        size: Bytes,
    },
    /// `fallocate(2)`
    Allocate {
        /// Which file.
        file: usize,
        /// From where on.
        from: Bytes,
        /// How much.
        length: Bytes,
        /// `FALLOC_FL_KEEP_SIZE`
        keep: bool,
    },
    /// `fallocate(2)` with `FALLOC_FL_PUNCH_HOLE`
    Punch {
        /// Which file.
        file: usize,
        /// From where on.
        from: Bytes,
        /// How much.
        length: Bytes,
    },
    /// `pread(2)`
    Read {
        /// Which file.
        file: usize,
        /// From where on.
        from: Bytes,
        /// How many bytes, [`LONGEST_READ`] at most.
        length: u64,
    },
    /// `pwrite(2)` of one byte.
    Write {
        /// Which file.
        file: usize,
        /// Where.
        at: Bytes,
        /// The byte.
        value: u8,
    },
    /// A process does something.
    In {
        /// Which process.
        process: usize,
        /// What it does.
        call: Call,
    },
}

/// The most that a program reads from a file at once.
pub const LONGEST_READ: u64 = 64;

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// `memfd_create(2)` with `MFD_HUGETLB`
    Memory,
    /// A file on a mount.
    On {
        /// Which mount.
        mount: usize,
    },
    /// A segment of System V: `shmget(2)` with `SHM_HUGETLB`. It is closed with `IPC_RMID`, and can only be attached.
    Segment {
        /// How large.
        length: Bytes,
        /// Without `SHM_NORESERVE`
        reserve: bool,
    },
}

/// What a process does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// `mmap(2)`
    Map(Map),
    /// `shmat(2)` of a segment.
    Attach {
        /// Which.
        file: usize,
        /// Where.
        at: Bytes,
        /// `SHM_REMAP`
        replace: bool,
    },
    /// `shmdt(2)`
    Detach {
        /// Where it was attached.
        at: Bytes,
    },
    /// `munmap(2)`
    Unmap {
        /// From where on.
        at: Bytes,
        /// How much.
        length: Bytes,
    },
    /// `mprotect(2)`
    Protect {
        /// From where on.
        at: Bytes,
        /// How much.
        length: Bytes,
        /// The new rights.
        rights: Rights,
    },
    /// `mremap(2)`
    Remap {
        /// Where the range lies.
        at: Bytes,
        /// How much of it there is.
        length: Bytes,
        /// How much of it is to be left.
        kept: Bytes,
        /// Where it goes.
        to: To,
    },
    /// `madvise(2)`
    Advise {
        /// From where on.
        at: Bytes,
        /// How much.
        length: Bytes,
        /// What is said.
        advice: Advice,
    },
    /// `fork(2)`
    Fork {
        /// Which place for processes the child takes.
        child: usize,
    },
    /// `_exit(2)`
    Exit,
    /// One byte is loaded.
    Load {
        /// From where.
        at: Bytes,
    },
    /// One byte is stored.
    Store {
        /// Where.
        at: Bytes,
        /// The byte.
        value: u8,
    },
    /// One byte of each huge page of a range is loaded, in order, until that goes wrong.
    Sweep {
        /// From where on.
        at: Bytes,
        /// How much.
        length: Bytes,
    },
    /// `process_vm_readv(2)`: the process reads another's memory, or its own.
    Peek {
        /// Whose memory.
        of: usize,
        /// From where on.
        at: Bytes,
        /// How many bytes, [`LONGEST_READ`] at most.
        length: u64,
    },
    /// `process_vm_writev(2)`: the process writes to another's memory, or to its own.
    Poke {
        /// Whose memory.
        of: usize,
        /// From where on.
        at: Bytes,
        /// How many bytes, [`LONGEST_READ`] at most.
        length: u64,
        /// What each of them becomes.
        value: u8,
    },
    /// `mincore(2)`
    Mincore {
        /// From where on.
        at: Bytes,
        /// How much, [`LONGEST_MINCORE`] at most.
        length: Bytes,
    },
    /// `userfaultfd(2)`
    Userfault(Handling),
    /// `move_pages(2)` of one address in each huge page of a range: on which node they are, or that they go to node 0.
    Nodes {
        /// From where on.
        at: Bytes,
        /// How much, [`LONGEST_NODES`] at most.
        length: Bytes,
        /// They go there, with `MPOL_MF_MOVE`.
        moved: bool,
    },
}

/// The most that a program asks `mincore(2)` of at once.
pub const LONGEST_MINCORE: u64 = 4 * PAGE;

/// The most that a program asks `move_pages(2)` of at once.
pub const LONGEST_NODES: u64 = 8 * PAGE;

/// What is mapped, where and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Map {
    /// A file and the offset in it; fresh pages if `None`.
    pub file: Option<(usize, Bytes)>,
    /// Where.
    pub at: Bytes,
    /// How much.
    pub length: Bytes,
    /// With which rights.
    pub rights: Rights,
    /// How.
    pub flags: MapFlags,
}

bitflags! {
    /// `PROT_*`
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Rights: u8 {
        /// `PROT_READ`
        const READ = 1;
        /// `PROT_WRITE`
        const WRITE = 2;
        /// `PROT_EXEC`
        const EXECUTE = 4;
    }
}

bitflags! {
    /// `MAP_*`
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct MapFlags: u8 {
        /// `MAP_SHARED`; `MAP_PRIVATE` without it.
        const SHARED = 1;
        /// `MAP_FIXED`
        const FIXED = 2;
        /// `MAP_FIXED_NOREPLACE`
        const NO_REPLACE = 4;
        /// `MAP_NORESERVE`
        const NO_RESERVE = 8;
        /// `MAP_POPULATE`
        const POPULATE = 16;
        /// `MAP_LOCKED`
        const LOCKED = 32;
    }
}

/// Where `mremap(2)` puts a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum To {
    /// No flags.
    InPlace,
    /// `MREMAP_MAYMOVE`
    Anywhere,
    /// `MREMAP_MAYMOVE | MREMAP_FIXED`
    Fixed(Bytes),
}

/// `MADV_*`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Advice {
    /// `MADV_DONTNEED`
    DontNeed,
    /// `MADV_REMOVE`
    Remove,
    /// `MADV_POPULATE_READ`
    PopulateRead,
    /// `MADV_POPULATE_WRITE`
    PopulateWrite,
    /// `MADV_DONTDUMP`
    DontDump,
    /// `MADV_DODUMP`
    DoDump,
    /// `MADV_DONTFORK`
    DontFork,
    /// `MADV_DOFORK`
    DoFork,
}

/// The most places that are looked at after each step.
const MOST_PAGES: usize = 40;
const MOST_OFFSETS: usize = 6;

/// Which places of the window are looked at after each step of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Starts of huge pages.
    pub pages: Vec<Bytes>,
    /// Bytes in each of them.
    pub offsets: Vec<u64>,
}

impl Program {
    /// The places that the program names: the pages it stores to and the ends of its ranges.
    #[must_use]
    pub fn places(&self) -> Places {
        let mut pages = BTreeSet::new();
        let mut offsets = BTreeSet::from([0]);
        for step in &self.steps {
            let byte = |at: Bytes| at.0 & (PAGE - 1);
            match step {
                Step::In { call: Call::Load { at } | Call::Store { at, .. }, .. } => {
                    pages.insert(at.page());
                    offsets.insert(byte(*at));
                }
                Step::In { call, .. } => {
                    if let Call::Poke { at, .. } = call {
                        offsets.insert(byte(*at));
                    }
                    for (at, length) in call.ranges() {
                        let last = at.0.saturating_add(length.0.saturating_sub(1));
                        pages.extend([at.page(), Bytes(last).page()]);
                    }
                }
                Step::Read { from, .. } => {
                    offsets.insert(byte(*from));
                }
                // The bytes on either side of where zeroing starts and ends.
                Step::Punch { from, length, .. } => {
                    let end = byte(Bytes(from.0.wrapping_add(length.0)));
                    offsets.extend([byte(*from), end]);
                }
                _ => {}
            }
        }
        pages.retain(|page| page.0 < WINDOW_SIZE);
        Places {
            pages: pages.into_iter().take(MOST_PAGES).collect(),
            offsets: offsets.into_iter().take(MOST_OFFSETS).collect(),
        }
    }
}

impl Call {
    /// The ranges it names.
    pub(crate) fn ranges(&self) -> Vec<(Bytes, Bytes)> {
        match *self {
            Self::Map(Map { at, length, .. })
            | Self::Unmap { at, length }
            | Self::Protect { at, length, .. }
            | Self::Advise { at, length, .. }
            | Self::Sweep { at, length }
            | Self::Mincore { at, length }
            | Self::Nodes { at, length, .. } => vec![(at, length)],
            Self::Remap { at, length, kept, to } => match to {
                To::Fixed(to) => vec![(at, length), (to, kept)],
                To::InPlace | To::Anywhere => vec![(at, length)],
            },
            Self::Attach { at, .. } | Self::Detach { at } => vec![(at, Bytes(1))],
            Self::Load { at } | Self::Store { at, .. } => vec![(at, Bytes(1))],
            Self::Peek { at, length, .. } | Self::Poke { at, length, .. } => vec![(at, Bytes(length))],
            Self::Userfault(ref handling) => handling.range().into_iter().collect(),
            Self::Fork { .. } | Self::Exit => Vec::new(),
        }
    }
}

impl Step {
    /// What the step is called, for counting.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        match self {
            Self::Pool { .. } => "pool",
            Self::Overcommit { .. } => "overcommit",
            Self::Mount { .. } => "mount",
            Self::Unmount { .. } => "unmount",
            Self::Open { .. } => "open",
            Self::Close { .. } => "close",
            Self::Truncate { .. } => "truncate",
            Self::Allocate { .. } => "allocate",
            Self::Punch { .. } => "punch",
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::In { call, .. } => match call {
                Call::Map(_) => "map",
                Call::Attach { .. } => "attach",
                Call::Detach { .. } => "detach",
                Call::Unmap { .. } => "unmap",
                Call::Protect { .. } => "protect",
                Call::Remap { .. } => "remap",
                Call::Advise { .. } => "advise",
                Call::Fork { .. } => "fork",
                Call::Exit => "exit",
                Call::Load { .. } => "load",
                Call::Store { .. } => "store",
                Call::Sweep { .. } => "sweep",
                Call::Mincore { .. } => "mincore",
                Call::Nodes { .. } => "nodes",
                Call::Peek { .. } => "peek",
                Call::Poke { .. } => "poke",
                Call::Userfault(handling) => handling.operation(),
            },
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.steps.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(f, "{separator}{step}")?;
        }
        Ok(())
    }
}
