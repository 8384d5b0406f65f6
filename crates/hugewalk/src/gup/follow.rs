//! The two walks: to a locked entry, and to one that is read without a lock.

use core::ops::Deref;

use super::{GupError, GupFlags, PinnedPage};
use crate::addr::VirtAddr;
use crate::arch::{Entry, Leaf};
use crate::hugetlb::Hugetlb;
use crate::mm::AddressSpace;
use crate::page::{NotHeld, Page, Speculative};
use crate::platform::Platform;
use crate::task::Task;
use crate::walk::leaf_offset;

/// What a page is wanted for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) write: bool,
    pub(super) pin: bool,
}

impl Want {
    #[inline]
    pub(super) const fn of(flags: GupFlags) -> Self {
        Self { write: flags.contains(GupFlags::WRITE), pin: flags.contains(GupFlags::PIN) }
    }

    /// Does the entry allow it, as far as the entry knows?
    #[inline]
    const fn is_allowed_by(self, leaf: Leaf) -> bool {
        leaf.is_accessible() && (!self.write || leaf.is_writable())
    }

    /// Would a store through this entry leave who pinned the page with a page that is the address space's no more? The page
    /// has been pinned already where no table lock is held.
    ///
    /// Linux: `gup_must_unshare()` in include/linux/mm.h: pages of the page cache are pinned as they are.
    #[inline]
    fn must_unshare<P: Platform>(self, leaf: Leaf, page: &Page<P>) -> bool {
        self.pin && !leaf.is_writable() && page.is_anon() && !page.is_exclusive()
    }
}

/// What lies at the end of a walk.
pub(super) enum Follow<P: Platform, H: Deref<Target = Hugetlb<P>>> {
    Page(PinnedPage<P, H>),
    /// No table, or no page.
    Hole,
    /// A page on its way elsewhere, a marker, or an entry that does not allow it: a fault has the answer.
    MustFault,
    /// A page that others share, to be pinned.
    MustUnshare,
}

impl<P: Platform> AddressSpace<P> {
    /// Walks to the entry for `address`, and takes a reference to its page under the table lock.
    ///
    /// Proof: a read section; the lock is revalidated (P2). Does not sleep.
    pub(super) fn follow<H: Deref<Target = Hugetlb<P>>>(
        &self,
        task: &Task<P>,
        system: H,
        address: VirtAddr,
        want: Want,
    ) -> Result<Follow<P, H>, GupError> {
        loop {
            let section = task.rcu_read_lock();
            let found = leaf_offset(&section, self.mm(), address).map_err(|_| GupError::WrongSystem)?;
            let Some((slot, size)) = found else {
                return Ok(Follow::Hole);
            };
            let Ok(locked) = slot.lock() else { continue };
            let leaf = match locked.read() {
                Entry::Leaf(leaf) => leaf,
                Entry::None => return Ok(Follow::Hole),
                Entry::Marker | Entry::Migration(_) => return Ok(Follow::MustFault),
                Entry::Hwpoison(_) => {
                    return Err(GupError::Hwpoison { address: address.huge_page(size), size });
                }
                // It took the place of nothing, or of a leaf, since the walk looked.
                Entry::Table(_) => continue,
            };
            if !want.is_allowed_by(leaf) {
                return Ok(Follow::MustFault);
            }
            let page = system.page(leaf.frame);
            // Nobody makes it shared while the table is locked.
            if want.must_unshare(leaf, page) {
                return Ok(Follow::MustUnshare);
            }
            // The locked entry is a leaf of this size and holds a reference to its page: that confirms the guess.
            return match Speculative::take(&*system, leaf.frame, want.pin).map(|held| held.confirmed().1) {
                // SAFETY: the reference, and the pin, pass over.
                Ok(frame) => Ok(Follow::Page(unsafe { PinnedPage::from_raw(system, frame, size, want) })),
                Err(NotHeld::Crowded) => Err(GupError::TooManyReferences { address }),
                // The entry holds a reference; if not even that can be seen, somebody moves the page elsewhere.
                Err(NotHeld::Free) => continue,
            };
        }
    }

    /// Takes a reference to the page at `address` without a lock, if nothing changes meanwhile.
    ///
    /// Proof: a read section; the read is confirmed (P3), after the reference was taken. Does not sleep.
    ///
    /// Linux: `gup_pgd_range()` and what it calls in mm/gup.c.
    #[inline]
    pub(super) fn follow_fast<H: Deref<Target = Hugetlb<P>>>(
        &self,
        task: &Task<P>,
        system: H,
        address: VirtAddr,
        want: Want,
    ) -> Option<PinnedPage<P, H>> {
        let section = task.rcu_read_lock();
        let (slot, size) = leaf_offset(&section, self.mm(), address).ok()??;
        let seen = slot.peek().ok()?;
        let Entry::Leaf(leaf) = seen.unconfirmed() else {
            return None;
        };
        if !want.is_allowed_by(leaf) {
            return None;
        }
        // From here on, leaving is giving the reference back.
        let held = Speculative::take(system, leaf.frame, want.pin).ok()?;
        seen.confirm_unchanged().ok()?;
        if want.must_unshare(leaf, held.page()) {
            return None;
        }
        let (system, frame) = held.confirmed();
        // SAFETY: the reference, and the pin, pass over. The entry was a leaf of this size after they were taken, so that it
        // held a reference to its page, which cannot have been of another size then.
        Some(unsafe { PinnedPage::from_raw(system, frame, size, want) })
    }
}
