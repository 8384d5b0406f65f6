//! Why there is no page.

use thiserror::Error;

use super::OutOfMemory;

/// Why no page could be taken, or none reserved. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoPage {
    /// No memory for bookkeeping.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// The pool has too few pages without a reservation.
    #[error(transparent)]
    PoolEmpty(#[from] PoolEmpty),
    /// The mount's maximum is reached.
    #[error(transparent)]
    SubPoolFull(SubPoolFull),
    /// The limit of the group of processes is reached.
    #[error(transparent)]
    LimitReached(LimitReached),
}

/// The pool has fewer pages without a reservation than were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{asked} huge pages asked for, {available} available")]
pub struct PoolEmpty {
    /// Pages asked for, besides those that the caller has reservations for.
    pub asked: u64,
    /// Pages that were free and not reserved at that moment.
    pub available: u64,
}

/// The mount has fewer pages left than were asked for: its `size` is reached.
///
/// Linux: `-ENOMEM` of `hugepage_subpool_get_pages()` in mm/hugetlb.c, which becomes ENOMEM in mmap and ENOSPC or
/// SIGBUS at a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{asked} huge pages asked for, but the mount has {left} left")]
pub struct SubPoolFull {
    /// Huge pages asked for.
    pub asked: u64,
    /// Huge pages that the mount had left.
    pub left: u64,
}

/// The group of processes that would pay for the pages may not have so many more: see
/// [`Limits::try_charge`](crate::platform::Limits::try_charge) and
/// [`Limits::try_charge_reserved`](crate::platform::Limits::try_charge_reserved).
///
/// Linux: `-ENOMEM` of `hugetlb_cgroup_charge_cgroup()`, which becomes ENOMEM in mmap, ENOSPC in `alloc_hugetlb_folio()`, and
/// SIGBUS at a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{asked} huge pages asked for, beyond the limit of the group")]
pub struct LimitReached {
    /// Huge pages asked for.
    pub asked: u64,
}

impl From<LimitReached> for NoPage {
    fn from(error: LimitReached) -> Self {
        Self::LimitReached(error)
    }
}
