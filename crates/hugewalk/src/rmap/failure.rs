//! Memory failure, and what a processor has left in the entries of a page.
//!
//! # What becomes of the page
//!
//! A free page leaves its pool (see [`pool`](crate::pool)). A page in use is marked, and every entry that maps it becomes
//! a *hwpoison entry*: an access there is an error from then on, as long as the entry is there. Private pages leave the
//! pool with their last reference. A file's page stays in the file, so that whoever reads it gets the error and not a
//! page of zeroes in the place of data; truncating it away, or punching it out, lets the pool lose it.
//!
//! The mark is set with the fault mutex of the page's place held: no fault maps it in between.

use super::walk::{Tables, mapped_places};
use super::{LockedPage, PageError};
use crate::addr::HugeFrame;
use crate::arch::{Entry, LeafFlags};
use crate::hugetlb::Hugetlb;
use crate::page::PageRef;
use crate::platform::Platform;
use crate::pool::Poisoned;
use crate::rmap::displace::Instead;
use crate::task::Task;

/// How often a page on its way is looked at again.
const PATIENCE: u32 = 100;

/// What memory failure hit, where nothing more is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// A free page. The pool has lost it.
    Free,
    /// A page of private mappings. They have lost its contents, the pool has lost the page.
    Private,
    /// A page of a file, which keeps it until it is truncated or punched out. Then the pool loses it.
    File,
}

impl<P: Platform> Hugetlb<P> {
    /// The memory of a page has failed. Whoever touches it from now on is told so; it is never handed out again. Sleeps.
    ///
    /// Takes the fault mutex of its place, `i_mmap` in write, and tries or waits for VMA locks in write.
    ///
    /// Linux: `memory_failure()` in mm/memory-failure.c, `MADV_HWPOISON`.
    ///
    /// # Errors
    ///
    /// [`PageError::NoHugePage`], [`PageError::OnItsWay`]: nothing was changed. [`PageError::Hwpoison`]: it was hit before.
    /// [`PageError::Held`], [`PageError::Reserved`]: done, but the pool loses the page later.
    pub fn memory_failure(&self, task: &mut Task<P>, frame: HugeFrame) -> Result<Recovery, PageError> {
        self.fail(task, frame, None)
    }

    /// As [`memory_failure`](Self::memory_failure), of a page that the caller holds, so that it is still the one that was
    /// meant. Its reference is let go once the page is locked.
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
        for _ in 0..PATIENCE {
            match self.lock_page(task, frame) {
                Ok(page) => {
                    drop(held);
                    return page.fail(task);
                }
                // Free, or moved elsewhere, or taken out of its file.
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

    /// As [`memory_failure`](Self::memory_failure), for a page that belongs to no place any more, and is held all the same.
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
            // Its last holder was the one who named it, and the pool loses it with that reference.
            0 => Ok(Recovery::Free),
            references => Err(PageError::Held { references }),
        })
    }

    /// A page that memory failure hit is sound after all: its pool has it again. Entries that say otherwise stay until
    /// they are unmapped. Does not sleep.
    ///
    /// Linux: `unpoison_memory()` in mm/memory-failure.c, which gives the page to the page allocator.
    ///
    /// # Errors
    ///
    /// [`PageError::NoHugePage`]; [`PageError::Sound`]; [`PageError::Held`] if a file has it still, or somebody else;
    /// [`PageError::OnItsWay`].
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

    /// How many entries that map the page have been used since this was asked before; a table that many address spaces
    /// share counts once. Sleeps.
    ///
    /// Takes `i_mmap` in read. As on Linux for x86-64, TLBs are not flushed: a processor that has the translation does not
    /// set the bit again until it has looked it up anew.
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
        let i_mmap = file.i_mmap_read(task);
        let mut young = 0;
        let vmas = || i_mmap.vmas(index..index + 1);
        mapped_places(vmas, index, page.frame(), Tables::Once, |mapped| {
            let Some(locked) = mapped.lock(task) else { return };
            let before = locked.replace(|entry| entry.without(LeafFlags::ACCESSED));
            young +=
                u64::from(matches!(before, Entry::Leaf(leaf) if leaf.flags.contains(LeafFlags::ACCESSED)));
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
        // Only migration minds pins.
        let _ = self.displace(Instead::Hwpoison, task);
        let others = self.others_after_a_while(task);
        match (others, page.is_anon()) {
            (1.., _) => Err(PageError::Held { references: others }),
            (0, true) => Ok(Recovery::Private),
            (0, false) => Ok(Recovery::File),
        }
    }

    /// References that somebody else holds, who does not let go soon.
    fn others_after_a_while(&self, task: &mut Task<P>) -> u64 {
        let others = || self.page.page().references().saturating_sub(self.own_references());
        for _ in 0..PATIENCE {
            if others() == 0 || self.page.page().pins() > 0 {
                break;
            }
            task.pause();
        }
        others()
    }
}
