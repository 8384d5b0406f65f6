//! Why an operation on a page failed.

use thiserror::Error;

use super::{Errno, PoolEmpty, WrongSystem};
use crate::addr::HugeFrame;

/// Why an operation on a page failed. Unless the variant says otherwise, nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PageError {
    /// No pool has a page at this frame.
    #[error("there is no huge page at {frame:?}")]
    NoHugePage {
        /// The frame.
        frame: HugeFrame,
    },
    /// The page is not in use.
    #[error("the page is not in use")]
    NotInUse,
    /// There are other references to the page, pins for example. Memory failure has taken it out of
    /// all mappings all the same, and it leaves the pool when the last reference is dropped.
    #[error("there are {references} other references to the page")]
    Held {
        /// References besides those of mappings and the page cache, at that moment.
        references: u64,
    },
    /// The page is on its way into use or out of it. Try again.
    #[error("the page is on its way into use, or out of it")]
    OnItsWay,
    /// The page belongs to private mappings, so there is no other copy of its contents.
    #[error("the page belongs to private mappings, so there is no other copy of it")]
    Private,
    /// Memory failure hit the page before, or its memory failed while it was copied.
    #[error("memory failure has hit the page")]
    Hwpoison,
    /// Memory failure never hit the page.
    #[error("memory failure has not hit the page")]
    Sound,
    /// The page is free, but every free page is reserved. It will never be allocated, and leaves
    /// the pool when a reservation is given back.
    #[error("every free page is reserved")]
    Reserved,
    /// The pool has no free page to move it to.
    #[error(transparent)]
    PoolEmpty(#[from] PoolEmpty),
    /// The task belongs to another system than the page.
    #[error(transparent)]
    WrongSystem(#[from] WrongSystem),
}

impl PageError {
    /// The number that Linux returns.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoHugePage { .. } => Errno::ENXIO,
            Self::NotInUse => Errno::ENOENT,
            Self::Held { .. } | Self::Sound | Self::Reserved => Errno::EBUSY,
            Self::OnItsWay => Errno::EAGAIN,
            Self::Private | Self::WrongSystem(_) => Errno::EINVAL,
            Self::Hwpoison => Errno::EHWPOISON,
            Self::PoolEmpty(_) => Errno::ENOMEM,
        }
    }
}
