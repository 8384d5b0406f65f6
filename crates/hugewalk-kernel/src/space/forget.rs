//! Pages that leave a file leave the address spaces that map them.
//!
//! The pages are gone from the file first. A fault that found one before holds the lock of the areas in read until it has mapped
//! it; whoever takes that lock in write afterwards finds the entry.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use super::Space;
use super::area::{Backing, PageSource};
use super::root::bits;
use crate::errno::{Errno, Result};
use crate::memory::PAGE;
use crate::process;

/// Unmaps pages of a source from all address spaces. Copies of private mappings go too if `copies`: the file was truncated. The
/// caller has no lock of an address space. Sleeps.
pub fn forget(source: &Arc<dyn PageSource>, pages: Range<u64>, copies: bool) {
    for process in process::all() {
        if let Ok(space) = process.space() {
            space.forget(source, &pages, copies);
        }
    }
}

impl Space {
    fn forget(&self, source: &Arc<dyn PageSource>, pages: &Range<u64>, copies: bool) {
        let areas = self.areas().write();
        for area in areas.iter().filter(|area| copies || area.shared) {
            let Backing::Source { source: mapped, index } = &area.backing else { continue };
            if !core::ptr::addr_eq(Arc::as_ptr(mapped), Arc::as_ptr(source)) {
                continue;
            }
            let mapped = *index..index + (area.end - area.start) / PAGE;
            let gone = mapped.start.max(pages.start)..mapped.end.min(pages.end);
            if gone.start < gone.end {
                let at = |page: u64| area.start + (page - mapped.start) * PAGE;
                // A page that is taken out of a file stays protected for a handler; behind the end of a file nothing is.
                let kept = if !copies && area.protects() { bits::PROTECTED } else { 0 };
                self.clear_but(at(gone.start), at(gone.end), kept);
            }
        }
    }

    /// Takes the pages behind a range out of their files: `MADV_REMOVE`. Linux: `madvise_remove()` in mm/madvise.c.
    pub(super) fn remove(&self, start: u64, end: u64) -> Result<()> {
        let mut found = Vec::new();
        for area in self.areas().read().overlapping(start, end) {
            let Backing::Source { source, index } = &area.backing else { return Err(Errno::EINVAL) };
            if !area.shared || !area.may_write {
                return Err(Errno::EACCES);
            }
            let page = |at: u64| index + (at - area.start) / PAGE;
            found.push((source.clone(), page(area.start.max(start))..page(area.end.min(end))));
        }
        // With the lock released: other address spaces are looked at, and this one again.
        for (source, pages) in found {
            source.remove(pages.clone())?;
            forget(&source, pages, false);
        }
        Ok(())
    }
}
