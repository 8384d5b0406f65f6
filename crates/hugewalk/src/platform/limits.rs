//! What a host allows.

use crate::addr::{HugeSize, VirtAddr};
use crate::error::LimitReached;

/// What a host allows. All of it has defaults, but for [`Charge`](Self::Charge).
///
/// # Control groups
///
/// A host that limits how many huge pages a group of processes may use charges each page to the group of whoever it is taken for.
/// The engine asks before it takes pages from a pool ([`try_charge`](Self::try_charge)), keeps the answer in the page's record, and
/// gives it back when the page is free again ([`uncharge`](Self::uncharge)): to the group that has paid, whoever frees the page
/// and however long its file has outlived that group's processes. A page that moves elsewhere takes its charge along.
///
/// Pages that are reserved and not in use are not charged.
///
/// Linux: mm/hugetlb_cgroup.c, `hugetlb.<size>.max` of Documentation/admin-guide/cgroup-v2.rst.
pub trait Limits {
    /// Who has paid for pages: a number or a reference of the host's, at most 16 bytes, aligned to 8 at most. Dropping or cloning
    /// it must neither sleep nor allocate nor call back.
    ///
    /// A host without such limits names [`Infallible`](core::convert::Infallible) here, of which there is no value: nothing is
    /// charged, and no record has room for it.
    ///
    /// Linux: `struct hugetlb_cgroup *`, `hugetlb_cgroup_from_folio()`.
    type Charge: Clone + Send + Sync + 'static;

    /// Charges huge pages of this size to the group of the calling thread. `None`: nobody pays, and nothing will be given back. That is
    /// the default.
    ///
    /// Called before pages are taken from the pool, with sleeping locks held, and no spinning lock. May sleep, but must not call
    /// back. What is charged and then not needed, since the pool has too few pages for example, is given back at once.
    ///
    /// Linux: `hugetlb_cgroup_charge_cgroup()` in mm/hugetlb_cgroup.c.
    ///
    /// # Errors
    ///
    /// [`LimitReached`] if the group may not have so many more. Nothing is charged then. A fault ends with
    /// [`FaultError::LimitReached`](crate::error::FaultError::LimitReached) (`SIGBUS`).
    #[inline(always)]
    fn try_charge(&self, size: HugeSize, pages: u64) -> Result<Option<Self::Charge>, LimitReached> {
        let _ = (size, pages);
        Ok(None)
    }

    /// Gives back pages that were charged, in one call or in several. Called with spinning locks held and in any thread, so it must
    /// neither sleep nor call back. Does nothing by default.
    ///
    /// Linux: `hugetlb_cgroup_uncharge_folio()` in mm/hugetlb_cgroup.c.
    #[inline(always)]
    fn uncharge(&self, charge: Self::Charge, size: HugeSize, pages: u64) {
        let _ = (charge, size, pages);
    }

    /// The lowest address that may be mapped, so that a null pointer never leads to memory: 64 KiB.
    /// A host that lets privileged processes map lower addresses, down to 0, returns that limit.
    ///
    /// Linux: `mmap_min_addr`, `cap_mmap_addr()` in security/commoncap.c.
    fn mmap_min_addr(&self) -> VirtAddr {
        VirtAddr::new(64 << 10)
    }
}
