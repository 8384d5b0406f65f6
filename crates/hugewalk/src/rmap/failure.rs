//! Memory failure, and the accessed bits that processors leave in the entries of a page.
//!
//! # What becomes of the page
//!
//! - A free page leaves its pool (see [`pool`](crate::pool)).
//! - A page in use is marked, and every entry that maps it becomes a *hwpoison entry*. An access
//!   there is an error as long as the entry exists.
//! - A private page leaves the pool with its last reference.
//! - A file's page stays in the file, so that a reader gets the error and not zeroes in the place
//!   of data. Truncating or punching it out removes it from the pool.
//!
//! The mark is set with the fault mutex of the page's place held, so no fault maps the page
//! meanwhile.

use super::walk::{Tables, mapped_places};
use super::{LockedPage, PageError};
use crate::addr::HugeFrame;
use crate::entries::Instead;
use crate::hugetlb::Hugetlb;
use crate::page::PageRef;
use crate::platform::Platform;
use crate::pool::Poisoned;
use crate::protocol::patience;
use crate::task::Task;

/// What memory failure hit, if it is handled completely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// A free page. It has left the pool.
    Free,
    /// A page of private mappings. Its contents are lost, and it has left the pool.
    Private,
    /// A page of a file. It stays in the file until it is truncated or punched out, and leaves the
    /// pool then.
    File,
}

impl<P: Platform> Hugetlb<P> {
    /// Reports that the memory of a page has failed. Every access to it is an error from now on,
    /// and the page is never allocated again. Sleeps.
    ///
    /// Takes the fault mutex of its place, `i_mmap` in write, and tries or waits for VMA locks in write.
    ///
    /// Linux: `memory_failure()` in mm/memory-failure.c, `MADV_HWPOISON`.
    ///
    /// # Errors
    ///
    /// [`PageError::NoHugePage`], [`PageError::OnItsWay`]: nothing was changed.
    /// [`PageError::Hwpoison`]: it was hit before. [`PageError::Held`], [`PageError::Reserved`]:
    /// done, but the page leaves the pool later.
    pub fn memory_failure(&self, task: &mut Task<P>, frame: HugeFrame) -> Result<Recovery, PageError> {
        self.fail(task, frame, None)
    }

    /// As [`memory_failure`](Self::memory_failure), for a page that the caller holds, so that it is
    /// still the page that was meant. The caller's reference is dropped once the page is locked.
    ///
    /// Linux: `memory_failure()` with `MF_COUNT_INCREASED`.
    pub(crate) fn fail_page(&self, task: &mut Task<P>, page: PageRef<'_, P>) -> Result<Recovery, PageError> {
        self.fail(task, page.frame(), Some(page))
    }

    fn fail(
        &self,
        task: &mut Task<P>,
        frame: HugeFrame,
        mut held: Option<PageRef<'_, P>>,
    ) -> Result<Recovery, PageError> {
        for _ in 0..patience::<P>() {
            match self.lock_page(task, frame) {
                Ok(page) => {
                    drop(held);
                    return page.fail(task);
                }
                // The page is free, was moved, or was taken out of its file.
                Err(PageError::NotInUse) => {
                    let (head, size) = self.huge_page_at(frame)?;
                    match self.pool(size).poison(self, head) {
                        Some(Poisoned::Dissolved) => return Ok(Recovery::Free),
                        Some(Poisoned::Reserved) => return Err(PageError::Reserved),
                        Some(Poisoned::Already) => return Err(PageError::Hwpoison),
                        None => {}
                    }
                }
                Err(PageError::Held { .. }) => {
                    if let Some(result) = self.fail_held(frame, &mut held) {
                        return result;
                    }
                }
                Err(PageError::OnItsWay) => {}
                Err(other) => return Err(other),
            }
            task.pause();
        }
        Err(PageError::OnItsWay)
    }

    /// As [`memory_failure`](Self::memory_failure), for a page that is held but no longer belongs
    /// to a place.
    fn fail_held(
        &self,
        frame: HugeFrame,
        held: &mut Option<PageRef<'_, P>>,
    ) -> Option<Result<Recovery, PageError>> {
        let page = self.hold_named(frame).ok()?;
        if !page.page().is_in_use() || self.owner_of(&page).is_some() {
            return None;
        }
        if !page.page().poison() {
            return Some(Err(PageError::Hwpoison));
        }
        drop(held.take());
        Some(match page.page().references() - 1 {
            // The caller was its last holder, and the page leaves the pool with that reference.
            0 => Ok(Recovery::Free),
            references => Err(PageError::Held { references }),
        })
    }

    /// Reports that a page which memory failure hit is sound after all. It goes back to its pool.
    /// Hwpoison entries stay until they are unmapped. Does not sleep.
    ///
    /// Linux: `unpoison_memory()` in mm/memory-failure.c, which gives the page to the page allocator.
    ///
    /// # Errors
    ///
    /// [`PageError::NoHugePage`]; [`PageError::Sound`]; [`PageError::Held`] if a file still has the
    /// page, or something else holds it; [`PageError::OnItsWay`].
    pub fn unpoison(&self, frame: HugeFrame) -> Result<(), PageError> {
        let (head, size) = self.huge_page_at(frame)?;
        let page = self.page(head);
        if !page.is_hwpoison() {
            return Err(PageError::Sound);
        }
        match page.references() {
            0 if self.pool(size).unpoison(self, head) => Ok(()),
            0 => Err(PageError::OnItsWay),
            references => Err(PageError::Held { references }),
        }
    }

    /// How many entries that map the page were used since the last call. Clears their accessed
    /// bits. An entry in a shared table counts once. Sleeps.
    ///
    /// Takes `i_mmap` in read. TLBs are not flushed, as in Linux on x86-64: a processor that has
    /// the translation cached does not set the bit again until it walks the tables again.
    ///
    /// Linux: `folio_referenced()` in mm/rmap.c.
    ///
    /// # Errors
    ///
    /// [`PageError::NoHugePage`], [`PageError::NotInUse`].
    pub fn referenced(&self, task: &mut Task<P>, frame: HugeFrame) -> Result<u64, PageError> {
        task.enter(self)?;
        let page = self.hold_named(frame)?;
        let (file, index) = self.owner_of(&page).ok_or(PageError::NotInUse)?;
        let i_mmap = file.i_mmap_read_within(task);
        let mut young = 0;
        let vmas = || i_mmap.vmas(index..index + 1);
        mapped_places(vmas, index, page.frame(), Tables::Once, |mapped| {
            let Some(locked) = mapped.lock(task) else { return };
            young += u64::from(locked.mark_old());
        });
        Ok(young)
    }
}

impl<P: Platform> LockedPage<'_, P> {
    fn fail(self, task: &mut Task<P>) -> Result<Recovery, PageError> {
        let page = self.page.page();
        if !page.poison() {
            return Err(PageError::Hwpoison);
        }
        // Cannot fail: only migration refuses pinned pages.
        let _ = self.displace(Instead::Hwpoison, task);
        let others = self.others_after_a_while(task);
        match (others, page.is_anon()) {
            (1.., _) => Err(PageError::Held { references: others }),
            (0, true) => Ok(Recovery::Private),
            (0, false) => Ok(Recovery::File),
        }
    }

    /// Counts the references of others, after waiting a while for short ones to be dropped.
    fn others_after_a_while(&self, task: &mut Task<P>) -> u64 {
        let others = || self.page.page().references().saturating_sub(self.own_references());
        for _ in 0..patience::<P>() {
            if others() == 0 || self.page.page().pins() > 0 {
                break;
            }
            task.pause();
        }
        others()
    }
}
