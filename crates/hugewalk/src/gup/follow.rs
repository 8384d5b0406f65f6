//! The two walks: to an entry that is locked, and to one that is read without a lock.

use core::ops::Deref;

use super::{GupError, GupFlags, PinnedPage};
use crate::addr::VirtAddr;
use crate::arch::{Entry, Leaf};
use crate::hugetlb::Hugetlb;
use crate::page::{NotHeld, Page, Speculative};
use crate::platform::Platform;
use crate::root::Mm;
use crate::space::AddressSpace;
use crate::task::Task;
use crate::walk::leaf_offset;

/// What the caller wants a page for.
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

    /// Does the entry allow the access?
    #[inline]
    const fn is_allowed_by(self, leaf: Leaf) -> bool {
        leaf.is_accessible() && (!self.write || leaf.is_writable())
    }

    /// Must the page be copied before it may be pinned? If so, a later store through this entry
    /// would replace the page by a copy, and the pin would stay with a page that the address space
    /// does not use any more.
    ///
    /// Without the table lock, the caller has pinned the page already.
    ///
    /// Linux: `gup_must_unshare()` in include/linux/mm.h. Pages of the page cache are pinned as
    /// they are.
    #[inline]
    fn must_unshare<P: Platform>(self, leaf: Leaf, page: &Page<P>) -> bool {
        self.pin && !leaf.is_writable() && page.is_anon() && !page.is_exclusive()
    }
}

/// What was found at the end of a walk.
pub(super) enum Follow<P: Platform, H: Deref<Target = Hugetlb<P>>> {
    Page(PinnedPage<P, H>),
    /// No table, or no page.
    Hole,
    /// A migration entry, a marker, or an entry that does not allow the access: a fault has to
    /// resolve it.
    MustFault,
    /// A shared page that must be copied before it is pinned.
    MustUnshare,
}

impl<P: Platform> Mm<P> {
    /// Walks to the entry for `address`, and takes a reference to its page under the table lock.
    ///
    /// Proof: a read section; the lock is revalidated (P2). Does not sleep.
    ///
    /// Linux: `hugetlb_follow_page_mask()` in mm/hugetlb.c.
    pub(super) fn follow<H: Deref<Target = Hugetlb<P>>>(
        &self,
        task: &Task<P>,
        system: H,
        address: VirtAddr,
        want: Want,
    ) -> Result<Follow<P, H>, GupError> {
        loop {
            let section = task.rcu_read_lock();
            let found = leaf_offset(&section, self, address).map_err(|_| GupError::WrongSystem)?;
            let Some((slot, _)) = found else {
                return Ok(Follow::Hole);
            };
            let Ok(locked) = slot.lock() else { continue };
            // Where sizes share a level, the entry says which of them it is.
            let locked = locked.resized_as_mapped();
            let size = locked.size();
            let leaf = match locked.read() {
                Entry::Leaf(leaf) => leaf,
                // A table of the host's: whatever is mapped there is none of the engine's pages.
                Entry::None | Entry::HostTable(_) => return Ok(Follow::Hole),
                Entry::Marker | Entry::Migration(_) => return Ok(Follow::MustFault),
                Entry::Hwpoison(_) | Entry::Poison => {
                    return Err(GupError::Hwpoison { address: address.huge_page(size), size });
                }
                // It replaced an empty entry, or a leaf, since the walk.
                Entry::Table(_) => continue,
            };
            if !want.is_allowed_by(leaf) {
                return Ok(Follow::MustFault);
            }
            let page = system.page(leaf.frame);
            // The table lock keeps fork from making the page shared.
            if want.must_unshare(leaf, page) {
                return Ok(Follow::MustUnshare);
            }
            // The locked entry is a leaf of this size and holds a reference to its page. That
            // confirms the speculative reference.
            return match Speculative::take(&*system, leaf.frame, want.pin).map(|held| held.confirmed().1) {
                // SAFETY: the reference, and the pin, pass on.
                Ok(frame) => Ok(Follow::Page(unsafe { PinnedPage::from_raw(system, frame, size, want) })),
                Err(NotHeld::Crowded) => Err(GupError::TooManyReferences { address }),
                // The entry holds a reference. If the count is zero all the same, migration has
                // frozen it.
                Err(NotHeld::Free) => continue,
            };
        }
    }
}

impl<P: Platform> AddressSpace<P> {
    /// Takes a reference to the page at `address` without a lock. `None` if something changes
    /// meanwhile.
    ///
    /// Proof: a read section; the read is confirmed (P3) after the reference was taken. Does not
    /// sleep.
    ///
    /// Linux: `gup_pgd_range()` in mm/gup.c, and the functions it calls.
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
        let size = seen.leaf_size_or(size);
        if !want.is_allowed_by(leaf) {
            return None;
        }
        // From here on, returning drops the reference.
        let held = Speculative::take(system, leaf.frame, want.pin).ok()?;
        seen.confirm_unchanged().ok()?;
        if want.must_unshare(leaf, held.page()) {
            return None;
        }
        let (system, frame) = held.confirmed();
        // SAFETY: the reference, and the pin, pass on. The entry was a leaf of this size after they
        // were taken, and it held a reference to its page. So the page had this size then.
        Some(unsafe { PinnedPage::from_raw(system, frame, size, want) })
    }
}
