//! Why a fault could not be resolved.

use thiserror::Error;

use super::{
    Errno, Interrupted, LimitReached, NoPage, OutOfMemory, PoolEmpty, SubPoolFull, WaitError, WrongSystem,
};
use crate::addr::{HugeSize, VirtAddr};

/// Why a fault could not be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FaultError {
    /// Nothing is mapped there. `SIGSEGV`, `SEGV_MAPERR`.
    #[error("{address:?} is not mapped")]
    NotMapped {
        /// The address.
        address: VirtAddr,
    },
    /// The mapping does not allow the access. `SIGSEGV`, `SEGV_ACCERR`.
    #[error("the mapping at {address:?} does not allow this access")]
    Protection {
        /// The address.
        address: VirtAddr,
    },
    /// The page lies beyond the end of the file. `SIGBUS`.
    #[error("page {index} lies beyond the end of the file")]
    BeyondEof {
        /// Offset of the page in the file, in huge pages.
        index: u64,
    },
    /// The pool has no page left that is not reserved for others. `SIGBUS`.
    #[error(transparent)]
    PoolEmpty(#[from] PoolEmpty),
    /// The mount's limit is reached. `SIGBUS`.
    #[error(transparent)]
    SubPoolFull(SubPoolFull),
    /// The limit of the group of processes is reached. `SIGBUS`.
    #[error(transparent)]
    LimitReached(LimitReached),
    /// The page was taken from this process to serve the owner of its reservation. `SIGBUS`.
    #[error("the page at {address:?} was given to the owner of its reservation")]
    TakenAway {
        /// The address.
        address: VirtAddr,
    },
    /// The page has a hardware error. `SIGBUS`, `BUS_MCEERR_AR`.
    #[error("the page at {address:?} has a hardware error")]
    Hwpoison {
        /// The address.
        address: VirtAddr,
        /// How much memory is lost: the whole huge page.
        size: HugeSize,
    },
    /// The handler of the mapping's faults wants a signal instead of a message
    /// ([`Features::SIGBUS`](crate::uffd::Features::SIGBUS)). `SIGBUS`.
    #[error("the handler of faults at {address:?} wants a signal")]
    Userfault {
        /// Start of the page.
        address: VirtAddr,
    },
    /// No memory for tables or records. Linux kills a process for it.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// A signal came while a handler was waited for. The processor tries the access again when the task has taken it.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The task belongs to another system than the address space.
    #[error(transparent)]
    WrongSystem(#[from] WrongSystem),
}

impl FaultError {
    /// The error number of a system call that faults on a caller's behalf.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::OutOfMemory(_) => Errno::ENOMEM,
            Self::Interrupted(_) => Errno::EINTR,
            Self::WrongSystem(_) => Errno::EINVAL,
            Self::Hwpoison { .. } => Errno::EHWPOISON,
            _ => Errno::EFAULT,
        }
    }

    /// Does the process get `SIGBUS` for it, rather than `SIGSEGV`?
    #[must_use]
    pub const fn is_bus_error(&self) -> bool {
        match self {
            Self::NotMapped { .. }
            | Self::Protection { .. }
            | Self::OutOfMemory(_)
            | Self::Interrupted(_)
            | Self::WrongSystem(_) => false,
            Self::BeyondEof { .. }
            | Self::PoolEmpty(_)
            | Self::SubPoolFull(_)
            | Self::LimitReached(_)
            | Self::TakenAway { .. }
            | Self::Hwpoison { .. }
            | Self::Userfault { .. } => true,
        }
    }
}

impl From<WaitError> for FaultError {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::OutOfMemory(error) => Self::OutOfMemory(error),
            WaitError::Interrupted(error) => Self::Interrupted(error),
        }
    }
}

impl From<NoPage> for FaultError {
    fn from(error: NoPage) -> Self {
        match error {
            NoPage::OutOfMemory(error) => Self::OutOfMemory(error),
            NoPage::PoolEmpty(error) => Self::PoolEmpty(error),
            NoPage::SubPoolFull(error) => Self::SubPoolFull(error),
            NoPage::LimitReached(error) => Self::LimitReached(error),
        }
    }
}
