//! What a process does.

use bitflags::bitflags;

use super::{Bytes, Handling, PAGE, Policy};

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
    /// `mlock(2)`
    Lock {
        /// From where on.
        at: Bytes,
        /// How much.
        length: Bytes,
        /// `mlock2(2)` with `MLOCK_ONFAULT`
        on_fault: bool,
    },
    /// `munlock(2)`
    Unlock {
        /// From where on.
        at: Bytes,
        /// How much.
        length: Bytes,
    },
    /// `mlockall(2)` with `MCL_FUTURE`. What is mapped already is not asked for: that would be all of a process, most of which
    /// is no part of the program.
    LockNew {
        /// `MCL_ONFAULT`
        on_fault: bool,
    },
    /// `munlockall(2)`
    UnlockAll,
    /// `mbind(2)`
    Bind {
        /// From where on.
        at: Bytes,
        /// How much.
        length: Bytes,
        /// The policy.
        policy: Policy,
    },
    /// `userfaultfd(2)`
    Userfault {
        /// With which of its handlers, [`HANDLERS`](super::HANDLERS) at most.
        handler: usize,
        /// What.
        handling: Handling,
    },
    /// `move_pages(2)` of one address in each huge page of a range: on which node they are, or that they go to node 0.
    Nodes {
        /// From where on.
        at: Bytes,
        /// How much, [`LONGEST_NODES`] at most.
        length: Bytes,
        /// They go there, with `MPOL_MF_MOVE`.
        moved: bool,
    },
    /// `PAGEMAP_SCAN` for pages of any kind; [`MOST_REGIONS`] are reported.
    Scan {
        /// From where on.
        at: Bytes,
        /// How much.
        length: Bytes,
        /// Only for those that were written: `PAGE_IS_WRITTEN`
        written: bool,
        /// `PM_SCAN_WP_MATCHING`
        protect: bool,
        /// `PM_SCAN_CHECK_WPASYNC`
        check: bool,
    },
}

/// The most that a program reads from a file at once.
pub const LONGEST_READ: u64 = 64;

/// The most that a program asks `mincore(2)` of at once.
pub const LONGEST_MINCORE: u64 = 4 * PAGE;

/// The most that a program asks `move_pages(2)` of at once.
pub const LONGEST_NODES: u64 = 8 * PAGE;

/// Regions that a scan reports at most.
pub const MOST_REGIONS: usize = 16;

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
    /// `MADV_NORMAL`
    Normal,
    /// `MADV_RANDOM`
    Random,
    /// `MADV_SEQUENTIAL`
    Sequential,
    /// `MADV_WILLNEED`
    WillNeed,
    /// `MADV_COLD`
    Cold,
    /// `MADV_PAGEOUT`
    PageOut,
    /// `MADV_FREE`
    Free,
    /// `MADV_WIPEONFORK`
    WipeOnFork,
    /// `MADV_KEEPONFORK`
    KeepOnFork,
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
            | Self::Lock { at, length, .. }
            | Self::Unlock { at, length }
            | Self::Bind { at, length, .. }
            | Self::Scan { at, length, .. }
            | Self::Nodes { at, length, .. } => vec![(at, length)],
            Self::Remap { at, length, kept, to } => match to {
                To::Fixed(to) => vec![(at, length), (to, kept)],
                To::InPlace | To::Anywhere => vec![(at, length)],
            },
            Self::Attach { at, .. } | Self::Detach { at } => vec![(at, Bytes(1))],
            Self::Load { at } | Self::Store { at, .. } => vec![(at, Bytes(1))],
            Self::Peek { at, length, .. } | Self::Poke { at, length, .. } => vec![(at, Bytes(length))],
            Self::Userfault { ref handling, .. } => handling.range().into_iter().collect(),
            Self::Fork { .. } | Self::Exit | Self::LockNew { .. } | Self::UnlockAll => Vec::new(),
        }
    }

    /// What it is called, for counting.
    pub(super) fn operation(&self) -> &'static str {
        match self {
            Self::Map(_) => "map",
            Self::Attach { .. } => "attach",
            Self::Detach { .. } => "detach",
            Self::Unmap { .. } => "unmap",
            Self::Protect { .. } => "protect",
            Self::Remap { .. } => "remap",
            Self::Advise { .. } => "advise",
            Self::Fork { .. } => "fork",
            Self::Exit => "exit",
            Self::Load { .. } => "load",
            Self::Store { .. } => "store",
            Self::Sweep { .. } => "sweep",
            Self::Mincore { .. } => "mincore",
            Self::Lock { .. } => "mlock",
            Self::Unlock { .. } => "munlock",
            Self::LockNew { .. } => "mlockall",
            Self::UnlockAll => "munlockall",
            Self::Bind { .. } => "mbind",
            Self::Nodes { .. } => "nodes",
            Self::Scan { .. } => "scan",
            Self::Peek { .. } => "peek",
            Self::Poke { .. } => "poke",
            Self::Userfault { handling, .. } => handling.operation(),
        }
    }
}
