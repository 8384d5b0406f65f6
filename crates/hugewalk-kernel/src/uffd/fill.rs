//! What a handler of page faults does to base pages: registering, filling, protecting, poisoning and moving them.
//!
//! The lock of the areas is held in read, as by faults: an entry is changed only if it is still what was seen. Moving pages holds it
//! in write, so that no fault finds a page at neither place.
//!
//! Source of facts: mm/userfaultfd.c, `userfaultfd_register()` in fs/userfaultfd.c.

use alloc::sync::Arc;

use hugewalk::uffd::{Features, Modes};

use super::base::{Handler, Registration};
use crate::errno::{Errno, Result};
use crate::memory::PAGE;
use crate::memory::page::BasePage;
use crate::space::area::{Area, Areas, Backing, Rights};
use crate::space::base::NotReplaced;
use crate::space::root::bits;
use crate::space::{Space, user_range};

/// What is put where nothing is mapped.
#[derive(Clone, Copy)]
pub(super) enum Fill<'b> {
    /// A page with these bytes.
    Bytes(&'b [u8]),
    /// A page of zeroes.
    Zeroes,
    /// The page that is in the file.
    OfFile,
    /// Nothing, for good: whoever looks gets `SIGBUS`.
    Poison,
}

impl From<NotReplaced> for Errno {
    fn from(reason: NotReplaced) -> Self {
        match reason {
            NotReplaced::Changed => Self::EEXIST,
            NotReplaced::OutOfMemory => Self::ENOMEM,
        }
    }
}

/// The area of an address, if it is this handler's.
fn of_handler<'a>(areas: &'a Areas, at: u64, handler: &Arc<Handler>) -> Option<(&'a Area, Modes)> {
    let area = areas.find(at)?;
    let known = area.handler.as_ref().filter(|known| Arc::ptr_eq(&known.handler, handler))?;
    Some((area, known.modes))
}

impl Space {
    /// Are there base pages in the range?
    pub fn has_base(&self, start: u64, length: u64) -> bool {
        self.areas().read().overlapping(start, start.saturating_add(length)).next().is_some()
    }

    /// Gives the areas in a range a handler, or takes it away.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a range that is not one of whole pages, or modes that the memory does not have; `EPERM` for memory that cannot
    /// be written; `EBUSY` if another handler has part of it.
    pub(super) fn set_handler(&self, start: u64, length: u64, new: Option<&Registration>) -> Result<()> {
        let end = start.checked_add(length).ok_or(Errno::EINVAL)?;
        if length == 0 || !(start | length).is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let mut areas = self.areas().write();
        for area in areas.overlapping(start, end) {
            let Some(new) = new else { continue };
            let has = !(new.modes.contains(Modes::MINOR) && matches!(area.backing, Backing::Anonymous));
            if !has {
                return Err(Errno::EINVAL);
            }
            if !area.may_write {
                return Err(Errno::EPERM);
            }
            if area.registered().is_some_and(|old| !Arc::ptr_eq(&old.handler, &new.handler)) {
                return Err(Errno::EBUSY);
            }
        }
        for mut area in areas.take(start, end) {
            let goes_on = area.protects() && new.is_some_and(|new| new.modes.contains(Modes::WP));
            if area.handler.is_some() && !goes_on {
                // Also protections that another handler has left, which is closed.
                self.change(area.start, area.end, |_, _, entry| entry & !bits::PROTECTED);
            }
            area.handler = new.cloned();
            areas.insert(area);
        }
        Ok(())
    }

    /// Fills the page at an address, protected from stores or not.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the handler does not have the address, `EEXIST` if there is a page, `EFAULT` if the file has none, `EINVAL` for a
    /// protection that was not registered, `EAGAIN` while the handler does not know what the addresses are, `ENOMEM`.
    pub(super) fn fill(&self, at: u64, handler: &Arc<Handler>, fill: Fill<'_>, protect: bool) -> Result<()> {
        let areas = self.areas().read();
        let (area, modes) = of_handler(&areas, at, handler).ok_or(Errno::ENOENT)?;
        if handler.is_changing() {
            return Err(Errno::EAGAIN);
        }
        if protect && !modes.contains(Modes::WP) {
            return Err(Errno::EINVAL);
        }
        let old = self.base(at);
        let (page, writable) = match fill {
            Fill::Poison if old == 0 => return Ok(self.replace(at, 0, bits::POISONED)?),
            Fill::Poison => return Err(Errno::EEXIST),
            Fill::OfFile => {
                let (source, index) = area.in_source(at).ok_or(Errno::EINVAL)?;
                if !source.has_page(index) {
                    return Err(Errno::EFAULT);
                }
                (source.page(index, area.shared).map_err(|_| Errno::EFAULT)?, area.shared)
            }
            Fill::Bytes(bytes) => {
                let page = BasePage::zeroed()?;
                page.write(0, bytes);
                (page, true)
            }
            Fill::Zeroes => (BasePage::zeroed()?, true),
        };
        // Zeroes do not go in place of a marker.
        if old & bits::KEPT != 0 || matches!(fill, Fill::Zeroes) && old != 0 {
            return Err(Errno::EEXIST);
        }
        if area.shared
            && !matches!(fill, Fill::OfFile)
            && let Some((source, index)) = area.in_source(at)
        {
            source.install(index, page.clone())?;
        }
        let protected = if protect { bits::PROTECTED } else { 0 };
        let new = page.address() | area.rights.entry(writable && !protect) | bits::ACCESSED | protected;
        match self.replace(at, old, new) {
            Ok(()) => {
                // INVARIANT: the entry keeps the reference.
                page.into_address();
                Ok(())
            }
            Err(NotReplaced::Changed) if area.shared && !matches!(fill, Fill::OfFile) => {
                // A fault has found the page in the source since.
                if protect {
                    self.change(at, at + PAGE, |_, _, entry| entry & !bits::WRITE | bits::PROTECTED);
                }
                Ok(())
            }
            Err(reason) => Err(reason.into()),
        }
    }

    /// Protects a range from stores, or lifts the protection.
    ///
    /// # Errors
    ///
    /// `ENOENT` where no protection was registered, `EAGAIN` while the handler does not know what the addresses are, `ENOMEM`.
    pub(super) fn protect_for(
        &self,
        start: u64,
        length: u64,
        handler: &Arc<Handler>,
        protect: bool,
    ) -> Result<()> {
        let (start, end) = user_range(start, length).map_err(|_| Errno::EINVAL)?;
        let areas = self.areas().read();
        if handler.is_changing() {
            return Err(Errno::EAGAIN);
        }
        let mut found = false;
        for area in areas.overlapping(start, end) {
            found = true;
            let (from, to) = (area.start.max(start), area.end.min(end));
            of_handler(&areas, from, handler)
                .filter(|(_, modes)| modes.contains(Modes::WP))
                .ok_or(Errno::ENOENT)?;
            if !protect {
                self.change(from, to, |_, _, entry| entry & !bits::PROTECTED);
                continue;
            }
            let empty_too = !matches!(area.backing, Backing::Anonymous)
                || handler.features.intersects(Features::WP_UNPOPULATED | Features::WP_ASYNC);
            if empty_too {
                self.mark_protected(from, to)?;
            }
            self.change(from, to, |_, _, entry| match entry {
                bits::POISONED => entry,
                _ => entry & !bits::WRITE | bits::PROTECTED,
            });
        }
        if found { Ok(()) } else { Err(Errno::ENOENT) }
    }

    /// Leaves markers where nothing is.
    fn mark_protected(&self, start: u64, end: u64) -> Result<()> {
        for at in (start..end).step_by(PAGE as usize) {
            match self.replace(at, 0, bits::PROTECTED) {
                Ok(()) | Err(NotReplaced::Changed) => {}
                Err(NotReplaced::OutOfMemory) => return Err(Errno::ENOMEM),
            }
        }
        Ok(())
    }

    /// Moves pages of anonymous memory to where the handler misses them, and says how far it came. Holes are left out if
    /// `allow_holes`.
    ///
    /// Linux: `move_pages()` in mm/userfaultfd.c.
    pub(super) fn move_for(
        &self,
        to: u64,
        from: u64,
        length: u64,
        handler: &Arc<Handler>,
        allow_holes: bool,
    ) -> (u64, Result<()>) {
        let areas = self.areas().write();
        if handler.is_changing() {
            return (0, Err(Errno::EAGAIN));
        }
        if !may_move(&areas, to, from, length, handler) {
            return (0, Err(Errno::EINVAL));
        }
        for at in (0..length).step_by(PAGE as usize) {
            let moved = match self.move_page(to + at, from + at) {
                Err(Errno::ENOENT) if allow_holes => Ok(()),
                moved => moved,
            };
            if moved.is_err() {
                return (at, moved);
            }
        }
        (length, Ok(()))
    }

    fn move_page(&self, to: u64, from: u64) -> Result<()> {
        if self.base(to) != 0 {
            return Err(Errno::EEXIST);
        }
        let old = self.base(from);
        if old & bits::KEPT == 0 {
            return Err(Errno::ENOENT);
        }
        let there = old & bits::FRAME;
        // SAFETY: the entry keeps the reference, and the lock of the areas in write the entry.
        let page = core::mem::ManuallyDrop::new(unsafe { BasePage::from_address(there) });
        if page.references() != 1 {
            return Err(Errno::EBUSY);
        }
        if !self.make_table(to) {
            return Err(Errno::ENOMEM);
        }
        self.replace(from, old, 0)?;
        self.flush(from);
        let entry = there | old & bits::NO_EXECUTE | bits::KEPT | bits::PRESENT | bits::USER;
        if let Err(reason) = self.replace(to, 0, entry | bits::WRITE | bits::DIRTY | bits::ACCESSED) {
            // The reference is nobody's now, and the old place has a table.
            let _ = self.replace(from, 0, old);
            return Err(reason.into());
        }
        Ok(())
    }
}

/// Are both ranges in one area each, of anonymous memory that can be written, and is the handler that of the one that is filled?
fn may_move(areas: &Areas, to: u64, from: u64, length: u64, handler: &Arc<Handler>) -> bool {
    let Some((filled, _)) = of_handler(areas, to, handler) else { return false };
    let Some(source) = areas.find(from) else { return false };
    let fits = |area: &Area, start: u64| {
        area.end - start >= length && matches!(area.backing, Backing::Anonymous) && !area.shared
    };
    let overlap = to < from + length && from < to + length;
    fits(filled, to)
        && fits(source, from)
        && !overlap
        && source.rights == filled.rights
        && source.rights.contains(Rights::WRITE)
}
