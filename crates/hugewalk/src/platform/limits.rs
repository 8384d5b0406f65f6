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
/// and however long its file has outlived that group's processes. A page that moves elsewhere takes its charge along. A page that
/// only passes contents on, as a copy for a userfaultfd handler that had to be faulted in first, is charged to nobody.
///
/// # Reserved pages
///
/// A second limit is on pages that are reserved, or taken without having been: then a group learns when it maps that it may have
/// no more, and not at a fault ([`try_charge_reserved`](Self::try_charge_reserved), [`uncharge_reserved`](Self::uncharge_reserved)).
/// The two are counted apart. A page that is in use and was reserved counts for both.
///
/// | what is reserved | is paid for by | until |
/// |---|---|---|
/// | a private mapping | who makes it, for all its pages | the mapping goes, or the part of it that is unmapped |
/// | a range of a file, by a shared mapping or by [`HugeFile::reserve`](crate::file::HugeFile::reserve) | who reserves it, for what has neither a page nor a reservation yet | the reservation goes with its page: the file is truncated, punched or dropped |
/// | nothing, and a page is taken | who takes it | the page is free again |
/// | the minimum of a mount | nobody | |
///
/// A child pays nothing for the private mappings that it inherits, since it has no reservations there; it pays for each page that it
/// copies. A mapping that moves takes along what was paid for it.
///
/// Linux: mm/hugetlb_cgroup.c, `hugetlb.<size>.max` and `hugetlb.<size>.rsvd.max` of Documentation/admin-guide/cgroup-v2.rst.
pub trait Limits {
    /// Who has paid for pages: a number or a reference of the host's, at most 16 bytes, aligned to 8 at most. Dropping, cloning or
    /// comparing it must neither sleep nor allocate nor call back. Two that are equal stand for each other: neighbouring reservations
    /// that both have paid for are noted as one.
    ///
    /// A host without such limits names [`Infallible`](core::convert::Infallible) here, of which there is no value: nothing is
    /// charged, and no record has room for it.
    ///
    /// Linux: `struct hugetlb_cgroup *`, `hugetlb_cgroup_from_folio()`.
    type Charge: Clone + Eq + Send + Sync + 'static;

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

    /// Charges huge pages of this size, which are about to be reserved or to be taken without a reservation, to the group of the
    /// calling thread. `None`: nobody pays, and nothing will be given back. That is the default.
    ///
    /// Called as [`try_charge`](Self::try_charge) is, and may sleep. What is charged and then not needed is given back at once. The
    /// number may turn out to be too small, where others give reservations back meanwhile: then it is given back, and the larger one
    /// is charged.
    ///
    /// Linux: `hugetlb_cgroup_charge_cgroup_rsvd()` in mm/hugetlb_cgroup.c.
    ///
    /// # Errors
    ///
    /// [`LimitReached`] if the group may not have so many more. Nothing is charged then. A mapping is refused with
    /// [`NoPage::LimitReached`](crate::error::NoPage::LimitReached) (`ENOMEM`), and a fault ends with
    /// [`FaultError::LimitReached`](crate::error::FaultError::LimitReached) (`SIGBUS`).
    #[inline(always)]
    fn try_charge_reserved(&self, size: HugeSize, pages: u64) -> Result<Option<Self::Charge>, LimitReached> {
        let _ = (size, pages);
        Ok(None)
    }

    /// Gives back pages that were charged as reserved, in one call or in several. Called with spinning locks held and in any thread,
    /// so it must neither sleep nor call back. Does nothing by default.
    ///
    /// Linux: `hugetlb_cgroup_uncharge_folio_rsvd()`, `hugetlb_cgroup_uncharge_counter()` and
    /// `hugetlb_cgroup_uncharge_file_region()` in mm/hugetlb_cgroup.c.
    #[inline(always)]
    fn uncharge_reserved(&self, charge: Self::Charge, size: HugeSize, pages: u64) {
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
