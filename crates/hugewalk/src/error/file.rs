//! Why an operation on a file failed.

use thiserror::Error;

use super::{
    BadSource, Errno, Interrupted, LimitReached, NoPage, OutOfMemory, PoolEmpty, SubPoolFull, WrongSystem,
};
use crate::addr::HugeSize;

/// Why an operation on a file failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FileError {
    /// A size that is not a multiple of the page size.
    #[error("{size:#x} is not a multiple of the page size")]
    Unaligned {
        /// The size asked for.
        size: u64,
    },
    /// A length of 0.
    #[error("the length is 0")]
    ZeroLength,
    /// Pages of a size that the processors do not have. Linux: `ENODEV`.
    #[error("the processors have no pages of {size:?}")]
    NoSuchSize {
        /// The size.
        size: HugeSize,
    },
    /// An offset, length or size that is negative when it is read with a sign, as no file's is.
    #[error("{value:#x} is too large for a file")]
    Negative {
        /// The number.
        value: u64,
    },
    /// A range that ends past the largest file.
    #[error("the range ends past the largest file")]
    TooLarge,
    /// The pool has no page left. Pages that were allocated before stay.
    #[error(transparent)]
    PoolEmpty(#[from] PoolEmpty),
    /// The mount's limit is reached. Pages that were allocated before stay.
    #[error(transparent)]
    SubPoolFull(SubPoolFull),
    /// The limit of the group of processes is reached. Pages that were allocated before stay.
    #[error(transparent)]
    LimitReached(LimitReached),
    /// Memory failure has hit the page, and its contents are lost. Pages that were written before
    /// it stay written. Linux: `EIO`.
    #[error("page {index} has a hardware error")]
    Hwpoison {
        /// Offset of the page in the file, in huge pages.
        index: u64,
    },
    /// No memory for records.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// A signal came. Pages that were allocated before stay.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The bytes to be written cannot be had.
    #[error(transparent)]
    BadSource(#[from] BadSource),
    /// The mount has pages of another size.
    #[error("the mount has pages of another size")]
    WrongMount,
    /// The task, or the mount, belongs to another system.
    #[error(transparent)]
    WrongSystem(#[from] WrongSystem),
}

impl FileError {
    /// The number that Linux returns.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Unaligned { .. }
            | Self::ZeroLength
            | Self::Negative { .. }
            | Self::WrongMount
            | Self::WrongSystem(_) => Errno::EINVAL,
            Self::NoSuchSize { .. } => Errno::ENODEV,
            Self::TooLarge => Errno::EFBIG,
            Self::PoolEmpty(_) | Self::SubPoolFull(_) | Self::LimitReached(_) => Errno::ENOSPC,
            Self::Hwpoison { .. } => Errno::EIO,
            Self::OutOfMemory(_) => Errno::ENOMEM,
            Self::Interrupted(_) => Errno::EINTR,
            Self::BadSource(_) => Errno::EFAULT,
        }
    }
}

/// Writing to a file stopped. What was written before the error stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("stopped after {done:#x} bytes: {error}")]
pub struct WriteStopped {
    /// Bytes written.
    pub done: u64,
    /// Why it stopped.
    pub error: FileError,
}

impl<E: Into<FileError>> From<E> for WriteStopped {
    fn from(error: E) -> Self {
        Self { done: 0, error: error.into() }
    }
}

impl From<NoPage> for FileError {
    fn from(error: NoPage) -> Self {
        match error {
            NoPage::OutOfMemory(error) => Self::OutOfMemory(error),
            NoPage::PoolEmpty(error) => Self::PoolEmpty(error),
            NoPage::SubPoolFull(error) => Self::SubPoolFull(error),
            NoPage::LimitReached(error) => Self::LimitReached(error),
        }
    }
}
