//! Why an operation on an address space failed.

use thiserror::Error;

use super::{
    Errno, FaultError, FileError, GupError, Interrupted, NoPage, OutOfMemory, PageError, WrongSystem,
};
use crate::addr::{HugeSize, VirtAddr};

/// Why an operation on an address space failed. Unless the variant says otherwise, nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MapError {
    /// A length of 0.
    #[error("the length is 0")]
    ZeroLength,
    /// Pages of a size that the processors do not have.
    #[error("the processors have no pages of {size:?}")]
    NoSuchSize {
        /// The size.
        size: HugeSize,
    },
    /// An address, length or offset that has to be a multiple of the page size.
    #[error("{value:#x} is not a multiple of {:#x}", .size.bytes())]
    Unaligned {
        /// The number.
        value: u64,
        /// The page size.
        size: HugeSize,
    },
    /// An address that has to be a multiple of 4 KiB.
    #[error("{address:?} is not a multiple of a base page")]
    UnalignedAddress {
        /// The address.
        address: VirtAddr,
    },
    /// A range that wraps, or that does not fit the address space.
    #[error("the range does not fit the address space")]
    Overflow,
    /// The mapping would end past what a file can have.
    #[error("the mapping would reach past the largest file, from offset {offset:#x}")]
    OffsetOverflow {
        /// The offset in bytes.
        offset: u64,
    },
    /// No room for the range below the end of user addresses.
    #[error("no free range of {length:#x} bytes")]
    NoRoom {
        /// Bytes asked for.
        length: u64,
    },
    /// An address that is too low to be mapped
    /// ([`Limits::mmap_min_addr`](crate::platform::Limits::mmap_min_addr)). If a move failed, what lay
    /// at the new place may be gone, and so may the tail that was to be cut off.
    #[error("{address:?} is below the lowest address that may be mapped, {lowest:?}")]
    TooLow {
        /// The address.
        address: VirtAddr,
        /// The lowest that may.
        lowest: VirtAddr,
    },
    /// A range that must be free is not.
    #[error("{address:?} is mapped already")]
    Exists {
        /// The first address in use.
        address: VirtAddr,
    },
    /// A mapping would replace one of the host's own, which the host has to take away first: see
    /// [`base`](crate::base).
    #[error("{address:?} is claimed by the host")]
    Claimed {
        /// The first address that the host has claimed.
        address: VirtAddr,
    },
    /// Pages that are smaller than what a table of base pages translates would lie in one table with base pages of the host's:
    /// see [`base`](crate::base).
    #[error(
        "{address:?} is translated by the same table, and only one of the engine and the host can have that"
    )]
    SameTable {
        /// What is there: claimed by the host, or mapped with such pages.
        address: VirtAddr,
    },
    /// The host has not claimed any of the range that a table of its own would cover.
    #[error("nothing is claimed in the range of a table around {address:?}")]
    NotClaimed {
        /// The address.
        address: VirtAddr,
    },
    /// A range is released while a table of the host's maps it.
    #[error("a table of the host's is in place at {address:?}")]
    HostTable {
        /// The first address that the table covers.
        address: VirtAddr,
    },
    /// Part of the range is not mapped. For madvise, what is mapped of it has been worked on; for mprotect,
    /// the part before the hole.
    #[error("{address:?} is not mapped")]
    NotMapped {
        /// The first address that is not.
        address: VirtAddr,
    },
    /// The range to be moved is not one mapping.
    #[error("no single mapping holds the range at {address:?}")]
    BadAddress {
        /// Its start.
        address: VirtAddr,
    },
    /// A huge-page mapping cannot grow.
    #[error("a huge-page mapping cannot grow")]
    Grows,
    /// Protection bits that are not known.
    #[error("unknown rights")]
    UnknownRights,
    /// Source and destination of a move overlap.
    #[error("source and destination overlap")]
    Overlaps,
    /// The mapping does not fit the advice: it lacks the right that it is to be populated for.
    #[error("the mapping does not allow that")]
    NotAllowed,
    /// Huge pages do not support this: they are neither reclaimed nor wiped.
    #[error("huge pages do not take this advice")]
    Refused,
    /// The mapping would need a right that the file was not opened with, or it is not shared and writable.
    #[error("access denied")]
    AccessDenied,
    /// The pool or the mount cannot reserve the pages, or the group of processes may reserve no more.
    #[error(transparent)]
    NoPage(NoPage),
    /// The memory of a page failed that a child has to have a copy of, because the parent's is pinned.
    #[error("the page at {address:?} has a hardware error")]
    Hwpoison {
        /// Start of the page.
        address: VirtAddr,
    },
    /// No memory for tables or records.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// Populating stopped at this fault; the pages before it are present.
    #[error("populating stopped: {0}")]
    Fault(FaultError),
    /// Locking stopped at this fault; the pages before it are present.
    #[error("locking stopped: {0}")]
    Lock(FaultError),
    /// The policy names only nodes that do not exist, or names nodes where it takes none.
    #[error("the policy does not go with these nodes")]
    BadNodes,
    /// The range cannot get the policy: there is a hole in it, or nothing is mapped in it at all.
    #[error("{address:?} is not mapped, so the range has no policy")]
    NoPolicy {
        /// The first address that is not.
        address: VirtAddr,
    },
    /// The operation on the file failed.
    #[error(transparent)]
    File(FileError),
    /// Injecting an error stopped here: no page could be faulted in.
    #[error("no page to inject an error into: {0}")]
    Gup(GupError),
    /// Injecting an error stopped at this page; the pages before it have failed.
    #[error(transparent)]
    Page(PageError),
    /// A mapping in the range is sealed: see [`mseal`](crate::AddressSpace::mseal). For mprotect the mappings before it
    /// have the new rights.
    #[error("{address:?} is sealed")]
    Sealed {
        /// The first address that is.
        address: VirtAddr,
    },
    /// The address space has exited.
    #[error("the address space has exited")]
    Exited,
    /// The task was killed before it had the mmap lock.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The task or the file belongs to another system than the address space.
    #[error(transparent)]
    WrongSystem(#[from] WrongSystem),
}

impl MapError {
    /// The number that Linux returns.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::ZeroLength
            | Self::NoSuchSize { .. }
            | Self::Unaligned { .. }
            | Self::UnalignedAddress { .. }
            | Self::Overflow
            | Self::Grows
            | Self::Overlaps
            | Self::NotAllowed
            | Self::Refused
            | Self::UnknownRights
            | Self::BadNodes
            | Self::NotClaimed { .. }
            | Self::WrongSystem(_) => Errno::EINVAL,
            Self::NoRoom { .. }
            | Self::SameTable { .. }
            | Self::NotMapped { .. }
            | Self::NoPage(_)
            | Self::OutOfMemory(_) => Errno::ENOMEM,
            Self::Exists { .. } | Self::Claimed { .. } => Errno::EEXIST,
            Self::HostTable { .. } => Errno::EBUSY,
            Self::OffsetOverflow { .. } => Errno::EOVERFLOW,
            Self::BadAddress { .. } | Self::NoPolicy { .. } => Errno::EFAULT,
            Self::AccessDenied => Errno::EACCES,
            Self::Fault(error) => error.errno(),
            // Linux: __mlock_posix_error_return() in mm/mlock.c.
            Self::Lock(error) => match error.errno() {
                Errno::EFAULT => Errno::ENOMEM,
                Errno::ENOMEM => Errno::EAGAIN,
                other => other,
            },
            Self::File(error) => error.errno(),
            // Linux distinguishes hardware errors for callers that ask for it; madvise does not ask.
            Self::Gup(GupError::Hwpoison { .. }) => Errno::EFAULT,
            Self::Gup(error) => error.errno(),
            Self::Page(error) => error.errno(),
            Self::Sealed { .. } | Self::TooLow { .. } => Errno::EPERM,
            Self::Hwpoison { .. } => Errno::EHWPOISON,
            Self::Exited => Errno::ESRCH,
            Self::Interrupted(_) => Errno::EINTR,
        }
    }
}

impl From<NoPage> for MapError {
    fn from(error: NoPage) -> Self {
        match error {
            NoPage::OutOfMemory(error) => Self::OutOfMemory(error),
            other => Self::NoPage(other),
        }
    }
}

impl From<FileError> for MapError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::OutOfMemory(error) => Self::OutOfMemory(error),
            FileError::WrongSystem(error) => Self::WrongSystem(error),
            other => Self::File(other),
        }
    }
}
