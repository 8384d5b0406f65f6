//! What there is to do: the huge-page part of a recording, as operations on address spaces and files of the engine.
//!
//! Planning reads the recording alone. It follows who is who, which descriptor is which file and where huge mappings lie
//! according to the recorded results, and leaves out what does not concern huge pages. Performing the plan is then a
//! matter of calling the engine, as often over as there are copies to run.

mod descriptors;
mod failed;
pub mod files;
mod holders;
mod memory;
mod mounts;
mod names;
mod need;
pub mod ordinary;
mod planner;
mod ranges;
mod segments;
mod sharing;
mod tables;
pub mod tasks;
mod unknown;
mod userfault;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

pub use failed::Failed;
pub use files::FileId;
pub use mounts::Mount;
pub use need::Need;
pub use planner::{Known, plan};
pub(super) use sharing::{ANOTHER_PLACE, to_gain};

use crate::programs::Program;
use crate::report::{Killed, Unsharable};
use crate::trace::flags::Prot;
use crate::trace::{Event, Outcome, Time};

/// An address space that ever holds a huge mapping. Counted from zero in the order in which they come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Space(pub u32);

/// A huge mapping, as one call made it. Counted from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MappingId(pub u32);

/// All there is to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// In order of time.
    pub ops: Vec<Op>,
    /// The mappings that come to be, by [`MappingId`].
    pub mappings: Vec<Made>,
    /// How many [`Space`]s there are.
    pub spaces: u32,
    /// The operation before which as many processes as ever hold huge mappings, the last if there are several such
    /// moments; the number of operations if that is the end.
    pub peak: usize,
    /// The mappings held at that moment, and by which address spaces.
    pub fullest: HashMap<MappingId, BTreeSet<Space>>,
    /// The first process was there before the recording began.
    pub began_late: bool,
    /// Its number.
    pub first_pid: u32,
    /// The processes alive at the end that have an address space with huge mappings.
    pub living: BTreeMap<u32, Space>,
    /// The huge pages that all this can use.
    pub need: Need,
    /// Processes that lived.
    pub processes: u64,
    /// Faults in huge mappings.
    pub huge_faults: u64,
    /// Faults elsewhere.
    pub other_faults: u64,
    /// What could not be followed, and what would help: a sentence each.
    pub notes: Vec<String>,
    /// Processes that a signal killed.
    pub killed: Vec<Killed>,
    /// Calls that asked for huge pages and got none.
    pub failed: Vec<Failed>,
    /// Calls that are not performed, by name.
    pub skipped: BTreeMap<String, u64>,
    /// The moment of the last step.
    pub until: Time,
}

/// One thing to do.
#[derive(Debug)]
pub struct Op {
    /// When it was done.
    pub time: Time,
    /// The line, of the fault file for a fault, else of the strace file.
    pub line: u32,
    /// The process that did it.
    pub pid: u32,
    /// The thread of it.
    pub tid: u32,
    /// The call, or `fault`, or `exit`.
    pub call: &'static str,
    /// How it ended; none if that is not known, or the operation is only a consequence of the call.
    pub recorded: Option<Outcome>,
    /// What to do.
    pub act: Act,
}

impl Op {
    /// What is only a consequence of a call.
    fn following(event: &Event, call: &'static str, act: Act) -> Self {
        let Event { time, line, tid, .. } = *event;
        Self { time, line, pid: tid, tid, call, recorded: None, act }
    }
}

/// What to do.
#[derive(Debug)]
pub enum Act {
    /// Make a mapping.
    Map(Map),
    /// `munmap`
    Unmap {
        /// Where.
        space: Space,
        /// Address and length, as they were passed.
        at: Range<u64>,
    },
    /// `mprotect`
    Protect {
        /// Where.
        space: Space,
        /// The parts that concern huge pages.
        parts: Vec<Range<u64>>,
        /// The new rights.
        prot: Prot,
    },
    /// A call that failed left a mapping split where this begins.
    Split {
        /// Where.
        space: Space,
        /// From there to the end of the mapping.
        at: Range<u64>,
    },
    /// `mseal`
    Seal {
        /// Where.
        space: Space,
        /// The parts that concern huge pages.
        parts: Vec<Range<u64>>,
    },
    /// `mremap`
    Remap {
        /// Where.
        space: Space,
        /// The old address.
        address: u64,
        /// The old length.
        old_length: u64,
        /// The new length.
        new_length: u64,
        /// Whether it may move, and where to.
        to: MoveTo,
    },
    /// `madvise`
    Advise {
        /// Where.
        space: Space,
        /// The parts that concern huge pages.
        parts: Vec<Range<u64>>,
        /// What is advised.
        advice: hugewalk::mm::Advice,
    },
    /// Fault pages in, as far as that goes: `mlock`.
    Populate {
        /// Where.
        space: Space,
        /// The parts that concern huge pages, each with the size of its pages and the access that fills them.
        parts: Vec<(Range<u64>, u64, hugewalk::fault::Access)>,
    },
    /// Copy an address space.
    Fork {
        /// The parent's.
        parent: Space,
        /// The child's.
        child: Space,
        /// Handlers that want to know, and for each the one of the child's faults.
        handlers: Vec<(FileId, FileId)>,
    },
    /// Something is done by who handles the faults of an address space.
    Handler(HandlerAct),
    /// `process_vm_readv` and `process_vm_writev`
    Transfer {
        /// Whose memory.
        space: Space,
        /// Whether it is written.
        write: bool,
        /// The parts that concern huge pages.
        parts: Vec<Range<u64>>,
    },
    /// An address space ends.
    End {
        /// Which.
        space: Space,
    },
    /// Touch an address.
    Fault {
        /// Where.
        space: Space,
        /// The address.
        address: u64,
        /// How.
        access: hugewalk::fault::Access,
    },
    /// Something is done to a file.
    File(FileAct),
}

/// What the handler of an address space's faults does.
#[derive(Debug)]
pub struct HandlerAct {
    /// Whose faults.
    pub space: Space,
    /// The handler.
    pub handler: FileId,
    /// What it was asked to tell.
    pub features: hugewalk::uffd::Features,
    /// What it does.
    pub what: ToHandler,
}

/// What a handler does.
#[derive(Debug)]
pub enum ToHandler {
    /// Something to ranges.
    Handle {
        /// Address and length, as they were passed, or the parts that concern huge pages.
        parts: Vec<Range<u64>>,
        /// What.
        handling: crate::trace::Handling,
    },
    /// It leaves.
    Close,
}

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
pub struct FileAct {
    /// Which.
    pub file: FileId,
    /// The size of its pages, as a power of two.
    pub shift: u32,
    /// What.
    pub change: Change,
}

/// How a file changes.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// `ftruncate`
    Truncate {
        /// To how many bytes.
        length: u64,
    },
    /// `fallocate`
    Allocate {
        /// From where.
        offset: u64,
        /// How much.
        length: u64,
        /// Without making the file longer.
        keep_size: bool,
    },
    /// `fallocate` with `FALLOC_FL_PUNCH_HOLE`
    PunchHole {
        /// From where.
        offset: u64,
        /// How much.
        length: u64,
    },
    /// `shmget`: a segment of this size, with or without its pages reserved.
    Segment {
        /// How large.
        length: u64,
        /// Whether its pages are reserved at once.
        reserved: bool,
    },
    /// It has neither a name nor a descriptor any more: what is not mapped of it goes away.
    Forget,
}

/// A mapping to make.
#[derive(Clone, Copy, Debug)]
pub struct Map {
    /// Where.
    pub space: Space,
    /// Which, if the recorded call succeeded.
    pub mapping: Option<MappingId>,
    /// At which address.
    pub place: hugewalk::mm::Placement,
    /// How many bytes.
    pub length: u64,
    /// With which rights.
    pub prot: Prot,
    /// How.
    pub flags: hugewalk::mm::MapFlags,
    /// What.
    pub file: FileId,
    /// Whether nobody else knows the file.
    pub anonymous: bool,
    /// From where in the file.
    pub offset: u64,
    /// The size of its pages, as a power of two.
    pub shift: u32,
}

/// Where `mremap` may put a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveTo {
    /// It stays.
    Stay,
    /// Anywhere.
    Anywhere,
    /// Here.
    Here(u64),
}

/// A mapping that came to be.
#[derive(Clone, Debug)]
pub struct Made {
    /// Who made it.
    pub pid: u32,
    /// The line of the call.
    pub line: u32,
    /// The call.
    pub call: &'static str,
    /// What the file is called.
    pub backing: String,
    /// The file.
    pub file: FileId,
    /// From where in the file.
    pub offset: u64,
    /// From and to.
    pub range: Range<u64>,
    /// The size of its pages, as a power of two.
    pub shift: u32,
    /// Whether stores are seen by others.
    pub shared: bool,
    /// Its rights when it was made.
    pub prot: Prot,
    /// How many processes held it at most at one time.
    pub processes: u64,
    /// The program that made it.
    pub program: Program,
    /// The aligned 1 GiB ranges it covers whole.
    pub whole_ranges: u64,
    /// What of it cannot share, and why.
    pub unsharable: Vec<Unsharable>,
}

impl Made {
    /// Whether it could share tables at all.
    #[must_use]
    pub fn may_share(&self) -> bool {
        self.shared && self.shift == 21
    }
}
