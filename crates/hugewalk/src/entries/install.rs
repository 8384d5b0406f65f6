//! Mapping a page where none is mapped.

use super::At;
use super::at::{leaf_flags, used};
use crate::addr::VirtAddr;
use crate::arch::{Entry, Leaf, LeafFlags};
use crate::page::PageRef;
use crate::platform::Platform;
use crate::protocol::{Step, keeps};
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
    /// Maps a page, where nothing is, for a copy of the mapping that has a leaf at `original`: the new leaf carries what that one
    /// does. The rest is as for [`install`](Self::install).
    pub(crate) fn install_beside(&self, original: &At<'_, '_, P>, page: PageRef<'_, P>, how: Install) {
        self.mm().add_resident(self.size(), 1, 0);
        let entry = self.map(page, how);
        self.take_over(entry, original.carried());
    }

    /// Maps a page in an entry that maps none: `seen`, which the caller has read under this lock. The
    /// reference becomes the mapping's. No flush is owed.
    ///
    /// Linux: `set_huge_pte_at()`, and what comes before it in `hugetlb_no_page()` and `hugetlb_mfill_atomic_pte()`.
    #[inline]
    pub(crate) fn install(&self, seen: Entry, page: PageRef<'_, P>, how: Install, task: &Task<P>) {
        self.mm().add_resident(self.size(), 1, task.id());
        let entry = self.map(page, how);
        self.replace(seen, |_| entry);
    }

    /// Counts a mapping of a page, and returns the leaf for it. The caller counts the leaf of the address space.
    #[inline]
    fn map(&self, page: PageRef<'_, P>, how: Install) -> Entry {
        let mut flags = leaf_flags(self.vma, how.writable && !how.protected) | used(how.written);
        flags.set(LeafFlags::UFFD_WP, how.protected);
        let frame = page.frame();
        // Before the entry is stored, so that the count is never too small.
        page.into_mapping();
        Entry::Leaf(Leaf { frame, flags })
    }
}

impl<P: Platform> At<'_, '_, P> {
    /// Makes accesses fail where the entry is empty. False if it is not. No flush is owed.
    ///
    /// Linux: `hugetlb_mfill_atomic_pte()` with `MFILL_ATOMIC_POISON`.
    pub(crate) fn poison(&self) -> bool {
        let seen = self.read();
        if seen.is_none() {
            self.replace(seen, |_| Entry::Poison);
        }
        seen.is_none()
    }
}

/// Maps a page at `address` of `vma` if `free` says that the entry, that of `slot`, has none, and if `still` says so with the
/// table locked. Only then `page` is asked for the reference, and `how` for what an entry that said this is to become. Returns what the
/// entry said, or `None` if nothing was mapped.
///
/// What `page` has captured is otherwise dropped with the table unlocked: parameters are dropped after the guard in here.
#[inline]
pub(crate) fn install_if<'p, P: Platform + 'p>(
    slot: &Slot<'_, P, Stable>,
    (vma, address): (&Vma<P>, VirtAddr),
    free: impl FnOnce(Entry) -> bool,
    still: impl FnOnce() -> bool,
    page: impl FnOnce() -> PageRef<'p, P>,
    how: impl FnOnce(Entry) -> Install,
    task: &Task<P>,
) -> Option<Entry> {
    let locked = slot.lock(task);
    let seen = locked.read();
    if !free(seen) || !still() {
        return None;
    }
    At::new(&locked, vma, address).install(seen, page(), how(seen), task);
    Some(seen)
}

/// Maps pages side by side, from `address` of `vma` on, in entries of one table: one for each page that `page` returns, until it
/// returns `None` or an entry is not empty. Each reference becomes that of its mapping. Returns how many were mapped.
///
/// `within` says with the table locked how many may be mapped at most.
pub(crate) fn install_run<'p, P: Platform + 'p>(
    slot: &Slot<'_, P, Stable>,
    (vma, mut address): (&Vma<P>, VirtAddr),
    within: impl FnOnce() -> u64,
    mut page: impl FnMut() -> Option<PageRef<'p, P>>,
    how: Install,
    task: &Task<P>,
) -> u64 {
    let size = vma.size();
    let mut locked = slot.lock(task);
    let (most, mut mapped) = (within(), 0);
    while mapped < most {
        locked.move_to(address);
        let at = At::new(&locked, vma, address);
        let seen = at.read();
        if !seen.is_none() && keeps::<P>(Step::RunRecheck) {
            break;
        }
        let Some(page) = page() else { break };
        let entry = at.map(page, how);
        at.replace(seen, |_| entry);
        mapped += 1;
        address = address.plus(size.bytes());
    }
    // Before the lock is released: what clears these leaves counts them out after that.
    vma.mm().add_resident(size, mapped, task.id());
    mapped
}
