//! Why an operation of a handler failed.

use thiserror::Error;

use crate::addr::{HugeSize, VirtAddr};
use crate::entries::{NotCopied, NotFresh};
use crate::error::MapError;
use crate::error::{BadSource, Errno, Interrupted, OutOfMemory, WaitError, WrongSystem};
use crate::reserve::NoPage;

/// Why an operation of a handler failed. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UserfaultError {
    /// Flags that are unknown, or contradict each other, or are missing where one is needed.
    #[error("unknown, missing or contradicting flags")]
    UnknownFlags,
    /// A range that is empty, not a multiple of 4 KiB, or reaches beyond the end of user addresses.
    #[error("{length:#x} bytes at {start:?} are not a valid range")]
    BadRange {
        /// Its start.
        start: VirtAddr,
        /// Its length.
        length: u64,
    },
    /// An end of the range lies inside a huge page.
    #[error("{value:#x} is not a multiple of {:#x}", .size.bytes())]
    Unaligned {
        /// The end.
        value: u64,
        /// The page size.
        size: HugeSize,
    },
    /// Nothing is mapped in the range, nor above it.
    #[error("nothing is mapped at or above {start:?}")]
    NothingAbove {
        /// Start of the range.
        start: VirtAddr,
    },
    /// Nothing is mapped in the range.
    #[error("nothing is mapped in the range at {start:?}")]
    NothingMapped {
        /// Start of the range.
        start: VirtAddr,
    },
    /// A mapping in the range is registered with another handle.
    #[error("the mapping at {address:?} has another handler")]
    Busy {
        /// Start of the mapping.
        address: VirtAddr,
    },
    /// The range does not lie in one registered mapping, or it is to be protected and its mapping is not
    /// registered for that.
    #[error("no registered mapping holds the range at {address:?}")]
    NotRegistered {
        /// Start of the range.
        address: VirtAddr,
    },
    /// A page is to be mapped write-protected, but the mapping is not registered for that.
    #[error("the mapping at {address:?} is not registered for write protection")]
    NotProtectable {
        /// Start of the range.
        address: VirtAddr,
    },
    /// The range to be unregistered was registered with another handler.
    #[error("another handler registered the mapping at {address:?}")]
    Others {
        /// Start of the mapping.
        address: VirtAddr,
    },
    /// A page is mapped already.
    #[error("{address:?} has a page already")]
    Exists {
        /// Where.
        address: VirtAddr,
    },
    /// The file has no page there to continue with, or does not reach that far.
    #[error("the file has no page for {address:?}")]
    NotInFile {
        /// Where.
        address: VirtAddr,
    },
    /// The file's page has a hardware error.
    #[error("the page for {address:?} has a hardware error")]
    Hwpoison {
        /// Where.
        address: VirtAddr,
    },
    /// There is no huge page of zeroes that could be mapped (`UFFDIO_ZEROPAGE`).
    #[error("there is no huge page of zeroes")]
    Unsupported,
    /// The mappings are changing, and the handler has not read the event yet. Read it, then try again.
    #[error("the mappings are changing: read the event, then try again")]
    Changing,
    /// The address space has exited.
    #[error("the address space has exited")]
    Exited,
    /// The pool or the mount has no page.
    #[error(transparent)]
    NoPage(NoPage),
    /// No memory for tables or records.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// The bytes to be copied cannot be had.
    #[error(transparent)]
    BadSource(#[from] BadSource),
    /// A signal came, and no message.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The task belongs to another system than the address space.
    #[error(transparent)]
    WrongSystem(#[from] WrongSystem),
}

impl UserfaultError {
    /// The number that Linux returns.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::UnknownFlags
            | Self::BadRange { .. }
            | Self::Unaligned { .. }
            | Self::NothingMapped { .. }
            | Self::NotProtectable { .. }
            | Self::Others { .. }
            | Self::Unsupported
            | Self::WrongSystem(_) => Errno::EINVAL,
            Self::NothingAbove { .. } | Self::NoPage(_) | Self::OutOfMemory(_) => Errno::ENOMEM,
            Self::Busy { .. } => Errno::EBUSY,
            Self::NotRegistered { .. } => Errno::ENOENT,
            Self::Exists { .. } => Errno::EEXIST,
            Self::NotInFile { .. } | Self::BadSource(_) => Errno::EFAULT,
            Self::Hwpoison { .. } => Errno::EIO,
            Self::Changing => Errno::EAGAIN,
            Self::Exited => Errno::ESRCH,
            Self::Interrupted(_) => Errno::EINTR,
        }
    }
}

impl UserfaultError {
    /// Why there is no fresh page to fill.
    pub(super) fn of_fresh(error: NotFresh, address: VirtAddr) -> Self {
        match error {
            NotFresh::NoPage(error) => error.into(),
            NotFresh::BadSource => Self::Hwpoison { address },
        }
    }
}

impl From<NotCopied> for UserfaultError {
    fn from(error: NotCopied) -> Self {
        match error {
            NotCopied::NoPage(error) => error.into(),
            NotCopied::BadSource(error) => Self::BadSource(error),
        }
    }
}

impl From<NoPage> for UserfaultError {
    fn from(error: NoPage) -> Self {
        match error {
            NoPage::OutOfMemory(error) => Self::OutOfMemory(error),
            other => Self::NoPage(other),
        }
    }
}

impl From<WaitError> for UserfaultError {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::OutOfMemory(error) => Self::OutOfMemory(error),
            WaitError::Interrupted(error) => Self::Interrupted(error),
        }
    }
}

impl From<MapError> for UserfaultError {
    /// Converts the errors that replacing mappings can have.
    fn from(error: MapError) -> Self {
        match error {
            MapError::Unaligned { value, size } => Self::Unaligned { value, size },
            _ => Self::OutOfMemory(OutOfMemory),
        }
    }
}

/// Filling a range stopped. What was filled before the error stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("stopped after {done:#x} bytes: {error}")]
pub struct Stopped {
    /// Bytes filled.
    pub done: u64,
    /// Why it stopped.
    pub error: UserfaultError,
}

impl Stopped {
    /// The number that Linux returns: that of the error if nothing was done, else `EAGAIN`.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        if self.done > 0 { Errno::EAGAIN } else { self.error.errno() }
    }
}

impl From<UserfaultError> for Stopped {
    fn from(error: UserfaultError) -> Self {
        Self { done: 0, error }
    }
}

impl From<OutOfMemory> for Stopped {
    fn from(error: OutOfMemory) -> Self {
        Self::from(UserfaultError::from(error))
    }
}
