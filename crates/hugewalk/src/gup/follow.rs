//! The two walks: to an entry that is locked, and to one that is read without a lock.

use core::ops::{Deref, Range};

use super::pinned::Pins;
use super::{GupError, GupFlags, PinnedPage, SystemRef};
use crate::addr::{HugeFrame, HugeSize, VirtAddr};
use crate::arch::{Entry, Leaf};
use crate::hugetlb::Hugetlb;
use crate::page::{NotHeld, Page, Speculative};
use crate::platform::Platform;
use crate::root::Mm;
use crate::space::AddressSpace;
use crate::table::{Alive, LockedSlot, Slot};
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
pub(super) enum Follow<T> {
    /// The page, or a run of pages from this one on.
    Page(T),
    Missing(Missing),
}

/// Why there is no page to take.
#[derive(Clone, Copy, Debug)]
pub(super) enum Missing {
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
    ) -> Result<Follow<PinnedPage<P, H>>, GupError> {
        loop {
            let section = task.rcu_read_lock();
            let found = leaf_offset(&section, self, address).map_err(|_| GupError::WrongSystem)?;
            let Some((slot, _)) = found else {
                return Ok(Follow::Missing(Missing::Hole));
            };
            let Ok(locked) = slot.lock() else { continue };
            let locked = locked.resized_as_mapped();
            let size = locked.size();
            let frame = match look(&locked, &system, address, want)? {
                Look::Page(frame) => frame,
                Look::Missing(missing) => return Ok(Follow::Missing(missing)),
                Look::Again => continue,
            };
            if let Some(frame) = take_mapped(&*system, frame, address, want)? {
                // SAFETY: the reference, and the pin, pass on.
                return Ok(Follow::Page(unsafe { PinnedPage::from_raw(system, frame, size, want) }));
            }
        }
    }

    /// As [`follow`](Self::follow), and goes on with the pages behind it: up to the end of the range, as long as they lie
    /// in the same table, there is room for them, and each can be taken at once. One walk and one table lock for all of them.
    ///
    /// Linux: `follow_hugetlb_page()` in mm/hugetlb.c (until 6.4), which looks for each page anew.
    pub(super) fn follow_run<H: Deref<Target = Hugetlb<P>>>(
        &self,
        task: &Task<P>,
        system: SystemRef<'_, P>,
        range: Range<VirtAddr>,
        pins: &mut Pins<P, H>,
    ) -> Result<Follow<()>, GupError> {
        let want = pins.want();
        loop {
            let section = task.rcu_read_lock();
            let found = leaf_offset(&section, self, range.start).map_err(|_| GupError::WrongSystem)?;
            let Some((slot, size)) = found else {
                return Ok(Follow::Missing(Missing::Hole));
            };
            let Ok(locked) = slot.lock() else { continue };
            let mut locked = locked.resized_as_mapped();
            let mut frame = match look(&locked, &system, range.start, want)? {
                Look::Page(frame) => frame,
                Look::Missing(missing) => return Ok(Follow::Missing(missing)),
                Look::Again => continue,
            };
            let end = self.geometry().table_range(range.start, size.level()).end.min(range.end);
            let mut address = range.start;
            let mut taken = false;
            loop {
                match take_mapped(&*system, frame, address, want) {
                    Ok(Some(frame)) => {
                        taken = true;
                        // SAFETY: the reference, and the pin, pass on.
                        let page = unsafe { PinnedPage::from_raw(system, frame, locked.size(), want) };
                        let Some(next) = pins.push(page).filter(|next| *next < end) else { break };
                        address = next;
                    }
                    Err(error) if !taken => return Err(error),
                    // What is behind the first page is for the caller to ask for again.
                    Ok(None) | Err(_) => break,
                }
                locked.move_to(address);
                locked = locked.resized_as_mapped();
                let Ok(Look::Page(another)) = look(&locked, &system, address, want) else { break };
                frame = another;
            }
            if taken {
                return Ok(Follow::Page(()));
            }
        }
    }
}

/// What an entry whose table is locked says.
enum Look {
    /// A page that may be taken as is wanted.
    Page(HugeFrame),
    Missing(Missing),
    /// There is a table where the walk ended: it has to be done again.
    Again,
}

/// Looks at an entry whose table is locked. Where sizes share a level, the slot is
/// [resized](LockedSlot::resized_as_mapped): the entry says which of them it is.
fn look<P: Platform>(
    locked: &LockedSlot<'_, P>,
    system: &Hugetlb<P>,
    address: VirtAddr,
    want: Want,
) -> Result<Look, GupError> {
    let size = locked.size();
    let leaf = match locked.read() {
        Entry::Leaf(leaf) => leaf,
        // A table of the host's: whatever is mapped there is none of the engine's pages.
        Entry::None | Entry::HostTable(_) => return Ok(Look::Missing(Missing::Hole)),
        Entry::Marker | Entry::Migration(_) => return Ok(Look::Missing(Missing::MustFault)),
        Entry::Hwpoison(_) | Entry::Poison => {
            return Err(GupError::Hwpoison { address: address.huge_page(size), size });
        }
        // It replaced an empty entry, or a leaf, since the walk.
        Entry::Table(_) => return Ok(Look::Again),
    };
    if !want.is_allowed_by(leaf) {
        return Ok(Look::Missing(Missing::MustFault));
    }
    // The table lock keeps fork from making the page shared.
    if want.must_unshare(leaf, system.page(leaf.frame)) {
        return Ok(Look::Missing(Missing::MustUnshare));
    }
    Ok(Look::Page(leaf.frame))
}

/// Takes a reference to the page of an entry, with its table still locked since [`look`]. The entry is a leaf of the
/// slot's size and holds a reference to its page: that confirms the speculative reference. `None` if the count is zero all
/// the same: migration has frozen it.
fn take_mapped<P: Platform>(
    system: &Hugetlb<P>,
    frame: HugeFrame,
    address: VirtAddr,
    want: Want,
) -> Result<Option<HugeFrame>, GupError> {
    match Speculative::take(system, frame, want.pin).map(|held| held.confirmed().1) {
        Ok(frame) => Ok(Some(frame)),
        Err(NotHeld::Crowded) => Err(GupError::TooManyReferences { address }),
        Err(NotHeld::Free) => Ok(None),
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
        let (frame, size) = take_fast(&slot, size, &system, want)?;
        // SAFETY: the reference, and the pin, pass on. The page had this size when they were taken.
        Some(unsafe { PinnedPage::from_raw(system, frame, size, want) })
    }

    /// As [`follow_fast`](Self::follow_fast), and goes on with the pages behind it, as long as they lie in the same table,
    /// there is room for them, and each can be taken at once. One walk for all of them; each is confirmed by itself.
    /// False if it took none.
    pub(super) fn follow_fast_run<H: Deref<Target = Hugetlb<P>>>(
        &self,
        task: &Task<P>,
        system: SystemRef<'_, P>,
        address: VirtAddr,
        pins: &mut Pins<P, H>,
    ) -> bool {
        let section = task.rcu_read_lock();
        let Ok(Some((mut slot, size))) = leaf_offset(&section, self.mm(), address) else {
            return false;
        };
        let end = self.mm().geometry().table_range(address, size.level()).end;
        let mut taken = false;
        while let Some((frame, size)) = take_fast(&slot, size, &system, pins.want()) {
            taken = true;
            // SAFETY: the reference, and the pin, pass on. The page had this size when they were taken.
            let page = unsafe { PinnedPage::from_raw(system, frame, size, pins.want()) };
            match pins.push(page).filter(|next| *next < end) {
                Some(next) => slot.move_to(next),
                None => break,
            }
        }
        taken
    }
}

/// Takes a reference to the page of an entry without a lock: the steps of the fast way, in [the module](super). `None` if
/// something changes meanwhile. `size` is that of the walk. The page that is returned has a reference, and a pin if one is
/// wanted, and had this size when they were taken.
#[inline]
fn take_fast<P: Platform>(
    slot: &Slot<'_, P, Alive>,
    size: HugeSize,
    system: &Hugetlb<P>,
    want: Want,
) -> Option<(HugeFrame, HugeSize)> {
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
    // The entry was a leaf of this size after the reference was taken, and it held one to its page.
    let (_, frame) = held.confirmed();
    Some((frame, size))
}
