//! Errors. They name addresses, sizes and numbers, and nothing of the operations that return them.
//!
//! So errors of an upper floor can be part of those of a lower one: a mapping that is populated may fail as a fault does.
//! Each is known by the path of its operation too, such as [`mm::MapError`](crate::mm::MapError).

mod fault;
mod file;
mod gup;
mod map;
mod no_page;
mod page;

pub use hugewalk_rcu::OutOfMemory;
use thiserror::Error;

pub use self::fault::FaultError;
pub use self::file::{FileError, WriteStopped};
pub use self::gup::{GupError, NotPinnedForWriting, TransferError};
pub use self::map::MapError;
pub use self::no_page::{LimitReached, NoPage, PoolEmpty, SubPoolFull};
pub use self::page::PageError;

/// An argument (a task, a file, a mount) belongs to another [`Hugetlb`](crate::Hugetlb). Nothing was
/// changed.
///
/// Its frames are those of another platform, and its read sections hold off the grace periods of another
/// system. A kernel has one system; a host may have many. Every operation checks its task; guards take any:
/// see [`task`](crate::task#a-task-of-another-system).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Error)]
#[error("the task, file or mount belongs to another system")]
pub struct WrongSystem;

/// The memory of a huge page failed while it was read: a machine check.
///
/// Linux: `-EHWPOISON` of `copy_user_large_folio()` in mm/memory.c and `folio_mc_copy()` in mm/util.c.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Error)]
#[error("the memory of the page failed")]
pub struct MemoryError;

/// Bytes that were to be copied cannot be had: a [`Source`](crate::source::Source) has none there, or it failed.
///
/// Linux: `-EFAULT`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Error)]
#[error("the bytes to be copied cannot be had")]
pub struct BadSource;

/// A wait has ended before what was waited for came: the task was [killed](crate::sync::Parker::is_killed), or
/// [interrupted](crate::sync::Parker::is_interrupted) where an operation says so.
///
/// Linux: `-EINTR`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Error)]
#[error("the wait was interrupted")]
pub struct Interrupted;

/// Why a wait has ended without what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum WaitError {
    /// There is no room in the queue; the task has not slept.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// The task was killed or interrupted.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// The error numbers that Linux returns for the same failure, for hosts that speak system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::upper_case_acronyms)]
#[non_exhaustive]
pub enum Errno {
    /// Operation not permitted.
    EPERM,
    /// No such thing (here: no process maps the page, or no mapping has a handler).
    ENOENT,
    /// Interrupted system call.
    EINTR,
    /// No such process (here: the address space has exited).
    ESRCH,
    /// No such address (here: no huge page has this frame).
    ENXIO,
    /// No such device (here: the processors have no pages of this size).
    ENODEV,
    /// Try again.
    EAGAIN,
    /// Out of memory, or a range that is not mapped.
    ENOMEM,
    /// Bad address.
    EFAULT,
    /// Device or resource busy.
    EBUSY,
    /// Already there.
    EEXIST,
    /// Invalid argument.
    EINVAL,
    /// No space: the pool or the mount has no page left.
    ENOSPC,
    /// More than a file can have.
    EFBIG,
    /// Access not permitted.
    EACCES,
    /// Value too large (here: an offset in a file).
    EOVERFLOW,
    /// Not supported.
    EOPNOTSUPP,
    /// Input or output error (here: the page that a handler wants to map has a hardware error).
    EIO,
    /// The page has a hardware error.
    EHWPOISON,
}

impl Errno {
    /// The symbol as `strace` and the manual pages print it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EPERM => "EPERM",
            Self::ENOENT => "ENOENT",
            Self::EINTR => "EINTR",
            Self::ESRCH => "ESRCH",
            Self::ENXIO => "ENXIO",
            Self::ENODEV => "ENODEV",
            Self::EAGAIN => "EAGAIN",
            Self::ENOMEM => "ENOMEM",
            Self::EFAULT => "EFAULT",
            Self::EBUSY => "EBUSY",
            Self::EEXIST => "EEXIST",
            Self::EINVAL => "EINVAL",
            Self::ENOSPC => "ENOSPC",
            Self::EFBIG => "EFBIG",
            Self::EACCES => "EACCES",
            Self::EOVERFLOW => "EOVERFLOW",
            Self::EOPNOTSUPP => "EOPNOTSUPP",
            Self::EIO => "EIO",
            Self::EHWPOISON => "EHWPOISON",
        }
    }
}
