//! Programs: what processes do with huge pages, one step after the other.
//!
//! A program is a value; its text is one line that [`FromStr`](core::str::FromStr) reads again. Addresses are offsets into
//! a *window* of the address space that both sides have free, so that a program says the same on both.

mod call;
pub mod generate;
mod policy;
pub mod shrink;
mod text;
mod userfault;

use std::collections::BTreeSet;
use std::fmt;

pub use self::call::{
    Advice, Call, LONGEST_MINCORE, LONGEST_NODES, LONGEST_READ, MOST_REGIONS, Map, MapFlags, Rights, To,
};
pub use self::policy::{Policy, PolicyMode};
pub use self::text::{FORMS, Form, SyntaxError};
pub use self::userfault::{HANDLERS, Handling, LONGEST_COPY, Modes, OnRange};

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
            Self::In { call, .. } => call.operation(),
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
