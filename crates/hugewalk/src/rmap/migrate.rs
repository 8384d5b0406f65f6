//! Moving a page elsewhere while it is in use.
//!
//! # Protocol
//!
//! With the fault mutex of the page's place held throughout:
//!
//! 1. A page is taken from the pool, not one that is promised.
//! 2. Every entry that maps the old page becomes a *migration entry*, flushed, its reference given up. Such entries
//!    hold no reference, but are counted in the page's record. Who meets one waits, with nothing held.
//! 3. If then anybody else has a reference (a pin, a reader of the file), the page is *put back*. That is asked by freezing
//!    the references: they go from what is expected to zero in one step, so nobody takes one in between.
//! 4. The contents are copied. Nobody can write to either page: no entry maps them, and who writes from the file's side
//!    holds the fault mutex.
//! 5. The new page takes the old one's place in the file's cache, frozen again, under the cache's lock; or, if it is
//!    private, just its note, its charge and its kind.
//! 6. Migration entries become leaves of the new page, until the count of them is zero; those who wait are woken.
//!
//! What others do to migration entries meanwhile, `i_mmap` being free:
//!
//! - *fork* copies them, counts, and takes the right to write away on both sides. The child's mapping is in the file's tree
//!   before anything is copied into it, so a later round finds the copy: the rounds end when the count is zero, and
//!   not when one round is over. That fork cannot go on for ever: a child's mapping is copied into once.
//! - *unmap, truncation, the robbing of children* drop them, and count.
//! - *mremap* moves them, with `i_mmap` in write, together with their place in the tree.
//! - *mprotect* takes the right to write away. The leaf gets the rights that its VMA has when it is made.
//! - *sharing and unsharing* change who uses the table; the entry is counted once, as it is there once.
//! - *faults* of this place wait for the fault mutex, or looked before and sleep until they are woken.

use super::walk::{Tables, mapped_places};
use super::{LockedPage, PageError};
use crate::addr::HugeFrame;
use crate::arch::{Entry, Leaf, LeafFlags, Migration};
use crate::fault::leaf_flags;
use crate::hugetlb::Hugetlb;
use crate::page::PageRef;
use crate::platform::{Event, Platform, ROUNDS};
use crate::pool::Poisoned;
use crate::rmap::displace::Instead;
use crate::task::Task;
use crate::vma::Vma;

/// How often it is tried to exchange a page that somebody else holds for a moment.
const PATIENCE: u32 = 100;

impl<P: Platform> Hugetlb<P> {
    /// Moves a page elsewhere, with its contents, its place in its file, and all that its entries say; returns the frame
    /// it has now. Accesses meanwhile wait. Shared tables it is mapped in are unshared. Sleeps.
    ///
    /// Takes the fault mutex of its place, `i_mmap` in write and then in read, and tries or waits for VMA locks in write.
    ///
    /// Linux: `unmap_and_move_huge_page()` in mm/migrate.c.
    ///
    /// # Errors
    ///
    /// [`PageError::Held`] if somebody else holds the page: it is where it was then, and mapped as it was (but tables that
    /// were shared may not be). [`PageError::PoolEmpty`] and the others but [`PageError::Private`]: nothing has changed.
    pub fn migrate(&self, task: &mut Task<P>, frame: HugeFrame) -> Result<HugeFrame, PageError> {
        let old = self.lock_page(task, frame)?;
        if old.page.page().is_hwpoison() {
            return Err(PageError::Hwpoison);
        }
        self.move_page(&old, task)
    }

    /// Takes a page out of use that may fail soon: its contents move elsewhere, and the pool loses it, until it is
    /// [unpoisoned](Self::unpoison). Nobody who uses it notices. Sleeps.
    ///
    /// Takes what [`migrate`](Self::migrate) takes.
    ///
    /// Linux: `soft_offline_page()` in mm/memory-failure.c, `MADV_SOFT_OFFLINE`.
    ///
    /// # Errors
    ///
    /// As for [`migrate`](Self::migrate), but a page that memory failure has hit is out of use already, and one that nobody uses
    /// leaves the pool at once, or later ([`PageError::Reserved`]).
    pub fn soft_offline(&self, task: &mut Task<P>, frame: HugeFrame) -> Result<(), PageError> {
        self.retire(task, frame, None)
    }

    /// As [`soft_offline`](Self::soft_offline), of a page that the caller holds, so that it is still the one that was meant.
    /// Its reference is let go once the page is locked.
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
        for _ in 0..PATIENCE {
            match self.lock_page(task, frame) {
                Ok(old) => {
                    drop(held);
                    if !old.page.page().is_hwpoison() {
                        self.move_page(&old, task)?;
                        // Marked while it is held: with the last reference it goes to the pool, which keeps it.
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
        let new = self.take_for_move(old)?;
        let mut away = Away { page: old, to: &old.page, task };
        let moved = old.displace(Instead::Migration, away.task).is_ok() && old.move_to(&new, away.task);
        if moved {
            away.to = &new;
        }
        drop(away);
        if moved {
            return Ok(new.frame());
        }
        // Ours and the cache's are there in any case, those of mappings are back.
        let page = old.page.page();
        let others = page.references().saturating_sub(old.own_references() + page.mapcount());
        Err(PageError::Held { references: others })
    }

    /// A page that is promised to nobody, and charged to nobody yet: that passes on with the move.
    ///
    /// Linux: `alloc_huge_page_nodemask()` in mm/hugetlb.c.
    fn take_for_move(&self, old: &LockedPage<'_, P>) -> Result<PageRef<'_, P>, PageError> {
        let size = old.page.size();
        let frame = self.pool(size).take(self, false)?;
        // SAFETY: just taken from the pool: ours alone.
        unsafe { self.page(frame).hand_out(None, false) };
        // SAFETY: the reference that `hand_out` set up is ours.
        Ok(unsafe { PageRef::from_raw(self, frame, size) })
    }
}

/// A page whose entries may be migration entries. When this goes, be it because the platform unwinds while it copies or
/// flushes, they are leaves again: nobody waits for a page that never arrives.
struct Away<'a, P: Platform> {
    page: &'a LockedPage<'a, P>,
    /// Where it is.
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
    /// Copies the page, which no entry maps, to `new`, and lets that take its place. False if somebody else holds it.
    fn move_to(&self, new: &PageRef<'_, P>, task: &mut Task<P>) -> bool {
        let (page, expected) = (self.page.page(), self.own_references());
        // Cheaper than to find out after copying. Nobody who finds the page frozen takes it for free: such a one has its
        // cache locked, or comes from a frame and asks the pool.
        let nobody_else = || {
            let frozen = page.freeze(expected);
            if frozen {
                page.thaw(expected);
            }
            frozen
        };
        if !self.patiently(task, || self.in_cache(nobody_else)) {
            return false;
        }
        let platform = self.hugetlb.platform();
        // SAFETY: both are held, and of one size; the new one was taken for this, so they are two.
        unsafe { platform.copy_huge(self.page.frame(), new.frame(), self.page.size()) };
        self.patiently(task, || self.take_place(new))
    }

    /// Tries for a while: a reader of the file, or one who came from an entry that is gone now, lets go soon.
    fn patiently(&self, task: &mut Task<P>, attempt: impl Fn() -> Option<()>) -> bool {
        for _ in 0..PATIENCE {
            if attempt().is_some() {
                return true;
            }
            // One who pinned the page will not let go soon.
            if self.page.page().pins() > 0 {
                return false;
            }
            task.pause();
        }
        false
    }

    /// Runs `work` with the file's cache locked, if the page is of the cache.
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
            // SAFETY: frozen just now; the new page is ours alone.
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

    /// Makes leaves of `to` of all migration entries, and wakes who waits for that. Sleeps.
    ///
    /// Takes `i_mmap` in read. Linux: `remove_migration_ptes()` in mm/migrate.c.
    fn remap(&self, to: &PageRef<'_, P>, task: &mut Task<P>) {
        let old = self.page.page();
        // The page it moved to is mapped by one entry after the other. Until it is by all, none of them has it to itself.
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
                // Entries that name the page are left: it is never free again, so that they name no other.
                core::mem::forget(self.page.another());
                break;
            }
            if round > 0 {
                task.pause();
            }
            let i_mmap = self.file.i_mmap_read(task);
            let vmas = || i_mmap.vmas(self.index..self.index + 1);
            mapped_places(vmas, self.index, self.page.frame(), Tables::ForEachUser, |mapped| {
                let Some(locked) = mapped.lock(task) else { return };
                let Entry::Migration(migration) = locked.read() else {
                    return;
                };
                to.page().add_mapping();
                let vma = mapped.vma.vma();
                vma.mm().add_resident(vma.size());
                locked.fill(Entry::Leaf(arrived(migration, to.frame(), mapped.vma.vma())));
                old.remove_migration();
            });
        }
        if moved {
            to.page().remove_migration();
        }
        self.hugetlb.migrations(self.page.frame()).wake_all();
    }
}

/// The leaf that a migration entry becomes.
fn arrived<P: Platform>(migration: Migration, frame: HugeFrame, vma: &Vma<P>) -> Leaf {
    let mut flags = leaf_flags(vma, migration.write && !migration.uffd_wp);
    flags.set(LeafFlags::UFFD_WP, migration.uffd_wp);
    flags.set(LeafFlags::SOFT_DIRTY, migration.soft_dirty);
    flags.set(LeafFlags::ACCESSED, migration.accessed);
    flags.set(LeafFlags::DIRTY, migration.dirty);
    Leaf { frame, flags }
}
