//! Moves a page elsewhere while it is in use.
//!
//! # Protocol
//!
//! With the fault mutex of the page's place held throughout:
//!
//! 1. A page is taken from the pool, one that is not reserved.
//! 2. Every entry that maps the old page becomes a *migration entry*, is flushed, and drops its
//!    reference. Migration entries hold no reference, but the page's record counts them. A fault
//!    that finds one waits, with no lock held.
//! 3. If there is another reference now (a pin, a reader of the file), the page is *put back*. The
//!    check freezes the references: one step takes them from the expected number to zero, so that
//!    none is added in between.
//! 4. The contents are copied. If the old page's memory fails meanwhile, the page is put back too. No entry maps either page, and writing through the file needs the
//!    fault mutex. So nothing writes to either page.
//! 5. The new page takes the old one's place in the file's cache, under the cache's lock, with the
//!    references frozen again. For a private page, the note of its owner and its kind pass on. In
//!    both cases the mount counts the new page.
//! 6. Migration entries become leaves of the new page, until their count is zero. Waiting faults
//!    are woken.
//!
//! `i_mmap` is free in between. Other operations handle migration entries as follows:
//!
//! - *fork* copies them, counts them, and removes the right to write on both sides. The child's
//!   mapping is in the file's tree, right behind its original, before anything is copied into it.
//!   So the walk of step 6 finds the copy after it, or has made a leaf of the original before.
//! - *unmap, truncation, and taking pages from children* drop them, and count.
//! - *mremap* moves them, together with the VMA's place in the tree, with `i_mmap` in write.
//! - *mprotect* removes the right to write. The new leaf gets the rights that its VMA has at that
//!   time.
//! - *Sharing and unsharing* change which address spaces use the table. The entry counts once, as
//!   it exists once.
//! - *Faults* at this place wait for the fault mutex. If they looked before it was taken, they
//!   sleep until they are woken.

use super::walk::{Tables, mapped_places};
use super::{LockedPage, PageError};
use crate::addr::HugeFrame;
use crate::entries::{At, Instead};
use crate::error::MemoryError;
use crate::hugetlb::Hugetlb;
use crate::page::{Charges, PageRef};
use crate::platform::{Event, Platform, ROUNDS};
use crate::pool::{Poisoned, Supply};
use crate::protocol::patience;
use crate::task::Task;

impl<P: Platform> Hugetlb<P> {
    /// Moves a page elsewhere, with its contents, its place in its file, and all that its entries
    /// say. Returns its new frame. Accesses wait meanwhile. Shared tables that map the page are
    /// unshared. Sleeps.
    ///
    /// Takes the fault mutex of its place, `i_mmap` in write and then in read, and tries or waits for VMA locks in write.
    ///
    /// Linux: `unmap_and_move_huge_page()` in mm/migrate.c.
    ///
    /// # Errors
    ///
    /// [`PageError::Held`] if something else holds the page. The page then stays where it is,
    /// mapped as before (but its tables may no longer be shared). The same holds for [`PageError::Hwpoison`] if the page's
    /// memory failed while it was copied; if memory failure hit it before, nothing has changed. [`PageError::PoolEmpty`] and
    /// the others except [`PageError::Private`]: nothing has changed.
    pub fn migrate(&self, task: &mut Task<P>, frame: HugeFrame) -> Result<HugeFrame, PageError> {
        let old = self.lock_page(task, frame)?;
        if old.page.page().is_hwpoison() {
            return Err(PageError::Hwpoison);
        }
        self.move_page(&old, task)
    }

    /// Takes a page out of use that may fail soon. Its contents move elsewhere, and the page leaves
    /// the pool until it is [unpoisoned](Self::unpoison). Users of the contents do not notice.
    /// Sleeps.
    ///
    /// Takes the locks that [`migrate`](Self::migrate) takes.
    ///
    /// Linux: `soft_offline_page()` in mm/memory-failure.c, `MADV_SOFT_OFFLINE`.
    ///
    /// # Errors
    ///
    /// As for [`migrate`](Self::migrate), with two exceptions. A page that memory failure has hit
    /// is out of use already. A free page leaves the pool at once, or later
    /// ([`PageError::Reserved`]).
    pub fn soft_offline(&self, task: &mut Task<P>, frame: HugeFrame) -> Result<(), PageError> {
        self.retire(task, frame, None)
    }

    /// As [`soft_offline`](Self::soft_offline), for a page that the caller holds, so that it is
    /// still the page that was meant. The caller's reference is dropped once the page is locked.
    pub(crate) fn soft_offline_page(
        &self,
        task: &mut Task<P>,
        page: PageRef<'_, P>,
    ) -> Result<(), PageError> {
        self.retire(task, page.frame(), Some(page))
    }

    fn retire(
        &self,
        task: &mut Task<P>,
        frame: HugeFrame,
        held: Option<PageRef<'_, P>>,
    ) -> Result<(), PageError> {
        for _ in 0..patience::<P>() {
            match self.lock_page(task, frame) {
                Ok(old) => {
                    drop(held);
                    if !old.page.page().is_hwpoison() {
                        self.move_page(&old, task)?;
                        // Marked while it is held: when the last reference is dropped, the pool
                        // dissolves it.
                        old.page.page().poison();
                    }
                    return Ok(());
                }
                Err(PageError::NotInUse) => {
                    let (head, size) = self.huge_page_at(frame)?;
                    match self.pool(size).poison(self, head) {
                        Some(Poisoned::Dissolved | Poisoned::Already) => return Ok(()),
                        Some(Poisoned::Reserved) => return Err(PageError::Reserved),
                        None => {}
                    }
                }
                Err(PageError::OnItsWay) => {}
                Err(other) => return Err(other),
            }
            task.pause();
        }
        Err(PageError::OnItsWay)
    }

    fn move_page(&self, old: &LockedPage<'_, P>, task: &mut Task<P>) -> Result<HugeFrame, PageError> {
        let moved = self.move_page_untold(old, task);
        self.platform().trace(Event::Migrated { from: old.page.frame(), to: moved.ok() });
        moved
    }

    fn move_page_untold(&self, old: &LockedPage<'_, P>, task: &mut Task<P>) -> Result<HugeFrame, PageError> {
        let new = self.take_for_move(old)?;
        let mut away = Away { page: old, to: &old.page, task };
        let displaced = old.displace(Instead::Migration, away.task).map_err(|_| NotMoved::Held);
        let moved = displaced.and_then(|()| old.move_to(&new, away.task));
        if moved.is_ok() {
            away.to = &new;
        }
        drop(away);
        match moved {
            Ok(()) => return Ok(new.frame()),
            Err(NotMoved::BadMemory) => return Err(PageError::Hwpoison),
            Err(NotMoved::Held) => {}
        }
        // The references of this function and of the cache exist in any case, and those of the
        // mappings have been restored.
        let page = old.page.page();
        let others = page.references().saturating_sub(old.own_references() + page.mapcount());
        Err(PageError::Held { references: others })
    }

    /// Takes a page that is not reserved, that no mount counts yet, and that nobody has paid for: moving passes the old
    /// page's mount and charge on.
    ///
    /// Linux: `alloc_huge_page_nodemask()` in mm/hugetlb.c.
    fn take_for_move(&self, old: &LockedPage<'_, P>) -> Result<PageRef<'_, P>, PageError> {
        let size = old.page.size();
        let frame = Supply::retry(self, size, |supply| self.pool(size).take(supply, false))?;
        // SAFETY: just taken from the pool, so this caller has exclusive access.
        unsafe { self.page(frame).hand_out(None, Charges::NONE, false) };
        // SAFETY: the reference that `hand_out` set up is ours.
        Ok(unsafe { PageRef::from_raw(self, frame, size) })
    }
}

/// Why a page stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotMoved {
    /// Something else holds it.
    Held,
    /// Its memory failed while it was copied. Linux: `-EHWPOISON` of `folio_mc_copy()`.
    BadMemory,
}

/// A page whose entries may be migration entries. Dropping this makes them leaves again, even if
/// the platform unwinds while it copies or flushes. So no fault waits for a page that never
/// arrives.
struct Away<'a, P: Platform> {
    page: &'a LockedPage<'a, P>,
    /// Where the page is now.
    to: &'a PageRef<'a, P>,
    /// Remapping sleeps.
    task: &'a mut Task<P>,
}

impl<P: Platform> Drop for Away<'_, P> {
    fn drop(&mut self) {
        self.page.remap(self.to, self.task);
    }
}

impl<P: Platform> LockedPage<'_, P> {
    /// Copies the page, which no entry maps, to `new`, and lets `new` replace it.
    fn move_to(&self, new: &PageRef<'_, P>, task: &mut Task<P>) -> Result<(), NotMoved> {
        let (page, expected) = (self.page.page(), self.own_references());
        // A check before copying is cheaper than one after it. A frozen page is not mistaken for a
        // free one: a caller that finds it either has its cache locked, or comes from a frame and
        // asks the pool.
        let nobody_else = || {
            let frozen = page.freeze(expected);
            if frozen {
                page.thaw(expected);
            }
            frozen
        };
        if !self.patiently(task, || self.in_cache(nobody_else)) {
            return Err(NotMoved::Held);
        }
        let platform = self.hugetlb.platform();
        // SAFETY: both are held, and of one size; the new one was taken for this, so they are two.
        unsafe { platform.copy_huge(self.page.frame(), new.frame(), self.page.size()) }
            .map_err(|MemoryError| NotMoved::BadMemory)?;
        if self.patiently(task, || self.take_place(new)) { Ok(()) } else { Err(NotMoved::Held) }
    }

    /// Retries for a while: a reader of the file, or a walker that came from an entry which is gone
    /// now, drops its reference soon.
    fn patiently(&self, task: &mut Task<P>, attempt: impl Fn() -> Option<()>) -> bool {
        for _ in 0..patience::<P>() {
            if attempt().is_some() {
                return true;
            }
            // A pin is not dropped soon.
            if self.page.page().pins() > 0 {
                return false;
            }
            task.pause();
        }
        false
    }

    /// Runs `work`, with the file's cache locked if the page is in it.
    fn in_cache(&self, work: impl FnOnce() -> bool) -> Option<()> {
        let done = if self.page.page().is_anon() { work() } else { self.file.with_cache_locked(work) };
        done.then_some(())
    }

    fn take_place(&self, new: &PageRef<'_, P>) -> Option<()> {
        let (old, expected) = (self.page.page(), self.own_references());
        let exchange = || {
            if !old.freeze(expected) {
                return false;
            }
            self.hugetlb.pass_owner(self.page.frame(), new.frame());
            // SAFETY: the old page was frozen just now, and the caller has exclusive access to the
            // new one.
            unsafe { new.page().inherit(old) };
            true
        };
        if old.is_anon() {
            if !exchange() {
                return None;
            }
            old.thaw(1);
            return Some(());
        }
        let replaced = self.file.replace_page(self.index, self.page.frame(), new.frame(), || {
            // The cache's reference.
            let exchanged = exchange();
            if exchanged {
                new.page().hold();
                old.thaw(1);
            }
            exchanged
        });
        replaced.then_some(())
    }

    /// Turns all migration entries into leaves of `to`, and wakes the faults that wait for that.
    /// Sleeps.
    ///
    /// Takes `i_mmap` in read. Linux: `remove_migration_ptes()` in mm/migrate.c.
    fn remap(&self, to: &PageRef<'_, P>, task: &mut Task<P>) {
        let old = self.page.page();
        // The new page is mapped by one entry after the other. Until all of them map it, none has
        // the page to itself.
        let moved = to.frame() != self.page.frame();
        if moved {
            to.page().add_migration();
        }
        for round in 0.. {
            if old.moving() == 0 {
                break;
            }
            if round == ROUNDS {
                self.hugetlb.platform().trace(Event::StillMapped { frame: self.page.frame() });
                // Entries that name the page are left. Keeping a reference for ever keeps them from
                // naming another page.
                core::mem::forget(self.page.another());
                break;
            }
            if round > 0 {
                task.pause();
            }
            let i_mmap = self.file.i_mmap_read_within(task);
            let vmas = || i_mmap.vmas(self.index..self.index + 1);
            mapped_places(vmas, self.index, self.page.frame(), Tables::ForEachUser, |mapped| {
                let Some(locked) = mapped.lock(task) else { return };
                At::new(&locked, mapped.vma.vma(), mapped.address).arrive(to.frame());
            });
        }
        if moved {
            to.page().remove_migration();
        }
        self.hugetlb.migrations(self.page.frame()).wake_all();
    }
}
