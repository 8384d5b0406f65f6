//! A reference model of huge-page memory: maps of page numbers to contents, and which pages are reserved for what. No page tables, no
//! sharing of them, no locks, no maps of regions. Beside it the programs that are run on model and engine alike.
//!
//! What the model says comes from Linux 6.1 (`mm/hugetlb.c`, `fs/hugetlbfs/inode.c`, `mm/mmap.c`, `mm/mremap.c`,
//! `mm/madvise.c`, `mm/mprotect.c`). Where the engine has chosen otherwise, the model says "here:".

mod access;
mod accounts;
mod advice;
mod compare;
mod engine;
mod files;
pub(crate) mod format;
mod mapping;
mod process;
pub(crate) mod program;
mod resolve;
mod state;

pub(crate) use self::engine::Engine;
pub(crate) use self::state::Model;

use hugewalk::addr::HugeSize;
use hugewalk::fault::Access;
use hugewalk::mm::{Advice, MapFlags, Placement, RemapTo};
use hugewalk::vma::Protection;

use crate::common::Group;

/// An operation with all its numbers, for model and engine alike. Files and mounts are named by slots.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    NewMount { slot: usize, max: Option<u64>, min: Option<u64> },
    CloseMount { slot: usize },
    NewFile { slot: usize, size: HugeSize, mount: Option<usize> },
    Close { slot: usize },
    NewProcess { process: usize },
    Fork { from: usize, to: usize },
    Exit { process: usize },
    Map { process: usize, map: Map },
    Unmap { process: usize, address: u64, length: u64 },
    Protect { process: usize, address: u64, length: u64, rights: Protection },
    Remap { process: usize, old: u64, old_length: u64, new_length: u64, to: RemapTo },
    Advise { process: usize, address: u64, length: u64, advice: Advice },
    Load { process: usize, address: u64, access: Access },
    Store { process: usize, address: u64, value: u8 },
    Truncate { slot: usize, size: u64 },
    Allocate { slot: usize, offset: u64, length: u64, keep_size: bool },
    Punch { slot: usize, offset: u64, length: u64 },
    Read { slot: usize, offset: u64, length: usize },
    Write { slot: usize, offset: u64, bytes: Vec<u8> },
    Resize { size: HugeSize, pages: u64 },
    Overcommit { size: HugeSize, pages: u64 },
}

impl Call {
    /// The group that pays for what the call takes: that of its process, or of the first.
    pub(crate) fn payer(&self) -> Group {
        let process = match *self {
            Self::Load { process, .. }
            | Self::Store { process, .. }
            | Self::Advise { process, .. }
            | Self::Map { process, .. }
            | Self::Fork { from: process, .. } => process,
            _ => 0,
        };
        Group(1 + process as u8)
    }
}

/// What to map.
#[derive(Clone, Debug)]
pub(crate) struct Map {
    pub(crate) what: What,
    pub(crate) placement: Placement,
    pub(crate) length: u64,
    pub(crate) rights: Protection,
    pub(crate) flags: MapFlags,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    File { slot: usize, offset: u64 },
    Anonymous(HugeSize),
}

/// What a call came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Number(u64),
    Bytes(Vec<u8>),
    Refused(Refused),
}

/// A refusal: the error number, and the reason in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) &'static str, pub(crate) Why);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    ZeroLength,
    Unaligned,
    UnalignedAddress,
    NoRoom,
    TooLow,
    Overflow,
    Exists,
    NotMapped,
    BadAddress,
    Grows,
    Overlaps,
    NotAllowed,
    AccessDenied,
    MinAboveMax,
    Protection,
    BeyondEof,
    TakenAway,
    PoolEmpty,
    SubPoolFull,
    /// The engine's alone: the model has no groups.
    LimitReached,
    /// Of the engine alone: the model has memory.
    OutOfMemory,
    Other,
}

impl From<Result<(), Refused>> for Outcome {
    fn from(result: Result<(), Refused>) -> Self {
        result.map_or_else(Self::Refused, |()| Self::Done)
    }
}

impl From<Result<u64, Refused>> for Outcome {
    fn from(result: Result<u64, Refused>) -> Self {
        result.map_or_else(Self::Refused, Self::Number)
    }
}

/// Offsets in a page that programs read and write: both ends, and both sides of a 4 KiB boundary.
pub(crate) fn probes(size: HugeSize) -> [u64; 5] {
    [0, 1, 0xfff, 0x1000, size.bytes() - 1]
}
