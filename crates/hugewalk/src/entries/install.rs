//! Mapping a page where none is mapped.

use super::At;
use super::at::{leaf_flags, used};
use crate::addr::VirtAddr;
use crate::arch::{Entry, Leaf, LeafFlags};
use crate::page::PageRef;
use crate::platform::Platform;
use crate::table::{Slot, Stable};
use crate::task::Task;
use crate::vma::Vma;

/// How a page is mapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Install {
    /// May it be written, as far as the VMA allows that?
    pub(crate) writable: bool,
    /// Is it write-protected by userfaultfd? Then it cannot be written.
    pub(crate) protected: bool,
    /// Does it count as written? It counts as accessed in any case.
    pub(crate) written: bool,
}

impl<P: Platform> At<'_, '_, P> {
    /// Maps a page in an entry that maps none: `seen`, which the caller has read under this lock. The
    /// reference becomes the mapping's. No flush is owed.
    ///
    /// Linux: `set_huge_pte_at()`, and what comes before it in `hugetlb_no_page()` and `hugetlb_mfill_atomic_pte()`.
    #[inline]
    pub(crate) fn install(&self, seen: Entry, page: PageRef<'_, P>, how: Install) {
        let mut flags = leaf_flags(self.vma, how.writable && !how.protected) | used(how.written);
        flags.set(LeafFlags::UFFD_WP, how.protected);
        let frame = page.frame();
        // Before the entry is stored, so that the count is never too small.
        page.into_mapping();
        self.mm().add_resident(self.size());
        self.replace(seen, |_| Entry::Leaf(Leaf { frame, flags }));
    }
}

/// Maps a page at `address` of `vma` if the entry, that of `slot`, is empty, and if `still` says so with the table locked.
/// Only then `page` is asked for the reference, and `how` for what an entry that said this is to become. Returns what the
/// entry said, or `None` if nothing was mapped.
///
/// What `page` has captured is otherwise dropped with the table unlocked: parameters are dropped after the guard in here.
#[inline]
pub(crate) fn install_if<'p, P: Platform + 'p>(
    slot: &Slot<'_, P, Stable>,
    (vma, address): (&Vma<P>, VirtAddr),
    still: impl FnOnce() -> bool,
    page: impl FnOnce() -> PageRef<'p, P>,
    how: impl FnOnce(Entry) -> Install,
    task: &Task<P>,
) -> Option<Entry> {
    let locked = slot.lock(task);
    let seen = locked.read();
    if !seen.is_free() || !still() {
        return None;
    }
    At::new(&locked, vma, address).install(seen, page(), how(seen));
    Some(seen)
}
