//! Why no reference to a page could be taken.

use thiserror::Error;

use super::{Errno, FaultError, OutOfMemory, WrongSystem};
use crate::addr::{HugeSize, VirtAddr};

/// Why get_user_pages failed. Nothing was changed, except that pages may have been faulted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GupError {
    /// A flag that this crate does not know, or that is not allowed in this call or with the other
    /// flags.
    #[error("these flags cannot be used here, or not together")]
    BadFlags,
    /// The task belongs to another system than the address space.
    #[error("the task belongs to another system")]
    WrongSystem,
    /// The range reaches past the addresses of a process.
    #[error("{length:#x} bytes from {address:?} on reach past the addresses of a process")]
    OutOfRange {
        /// Its start.
        address: VirtAddr,
        /// Its length in bytes.
        length: u64,
    },
    /// Nothing is mapped there.
    #[error("{address:?} is not mapped")]
    NotMapped {
        /// The address.
        address: VirtAddr,
    },
    /// The mapping does not allow it.
    #[error("the mapping at {address:?} does not allow this access")]
    Protection {
        /// The address.
        address: VirtAddr,
    },
    /// There is no page, and a core dump does not allocate one: the range reads as zeroes.
    #[error("there is no page at {address:?}")]
    NoPage {
        /// The address.
        address: VirtAddr,
    },
    /// The page has a hardware error. Linux tells it from other faults for callers that set `FOLL_HWPOISON`.
    #[error("the page at {address:?} has a hardware error")]
    Hwpoison {
        /// The address.
        address: VirtAddr,
        /// The size of the memory that is lost: the whole huge page.
        size: HugeSize,
    },
    /// The page had to be faulted in, and that failed.
    #[error(transparent)]
    Fault(FaultError),
    /// One more reference might overflow the page's count.
    #[error("the page at {address:?} has too many references")]
    TooManyReferences {
        /// The address.
        address: VirtAddr,
    },
    /// No memory for the list of pages, or for tables.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// Taking the page needs sleeping.
    #[error("the page cannot be taken without sleeping")]
    WouldSleep,
}

impl GupError {
    /// The number that Linux returns.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::BadFlags | Self::WrongSystem => Errno::EINVAL,
            Self::OutOfRange { .. }
            | Self::NotMapped { .. }
            | Self::Protection { .. }
            | Self::NoPage { .. } => Errno::EFAULT,
            Self::Hwpoison { .. } => Errno::EHWPOISON,
            Self::Fault(error) => error.errno(),
            Self::TooManyReferences { .. } | Self::OutOfMemory(_) => Errno::ENOMEM,
            Self::WouldSleep => Errno::EAGAIN,
        }
    }
}

impl From<FaultError> for GupError {
    fn from(error: FaultError) -> Self {
        match error {
            FaultError::NotMapped { address } => Self::NotMapped { address },
            FaultError::Protection { address } => Self::Protection { address },
            FaultError::Hwpoison { address, size } => Self::Hwpoison { address, size },
            FaultError::OutOfMemory(error) => Self::OutOfMemory(error),
            FaultError::WrongSystem(_) => Self::WrongSystem,
            other => Self::Fault(other),
        }
    }
}

impl From<WrongSystem> for GupError {
    fn from(_: WrongSystem) -> Self {
        Self::WrongSystem
    }
}

/// The page was not pinned for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the page was not pinned for writing")]
pub struct NotPinnedForWriting;

/// Why no byte was transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The address space has exited.
    #[error("the address space has exited")]
    Exited,
    /// The page of the first byte could not be taken.
    #[error(transparent)]
    NoPage(GupError),
    /// The memory of the first byte's page failed while it was read.
    #[error("the memory of the page at {address:?} failed")]
    Memory {
        /// The address of the first byte.
        address: VirtAddr,
    },
}

impl TransferError {
    /// The number that Linux returns: `EFAULT` whenever a page cannot be taken or read, whatever the
    /// reason.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Exited => Errno::ESRCH,
            Self::NoPage(GupError::BadFlags | GupError::WrongSystem) => Errno::EINVAL,
            Self::NoPage(_) | Self::Memory { .. } => Errno::EFAULT,
        }
    }
}
