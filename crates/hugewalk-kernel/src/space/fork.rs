//! fork: the child's copy of an address space.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use hugewalk::addr::VirtAddr;
use hugewalk::mm::Placement;

use super::area::{Area, Backing};
use super::root::bits;
use super::{STACK_LIMIT, Space};
use crate::errno::{Errno, Result};
use crate::memory::USER_END;
use crate::memory::page::BasePage;
use crate::task::current;
use crate::uffd::{Children, Registration};

impl Space {
    /// A copy for a child: base pages of private areas are shared until one of the two stores, huge pages as the engine's fork
    /// does. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; then there is no child.
    pub fn fork(&self) -> Result<Arc<Self>> {
        let engine = {
            let mut task = current().task()?;
            self.engine().fork(&mut task)?
        };
        let child = Self::around(engine);
        *child.brk.write() = self.brk();
        let mut handlers = Children::default();
        if let Err(error) = self.copy_areas(&child, &mut handlers) {
            child.empty();
            return Err(error);
        }
        self.copy_attached(&child, current().process().pid);
        handlers.tell();
        Ok(child)
    }

    /// What is claimed for an area: its addresses, and what the stack has below it.
    fn claims_of(&self, area: &Area) -> Result<Vec<Range<VirtAddr>>> {
        let own = VirtAddr::new(area.start)..VirtAddr::new(area.end);
        if !area.stack {
            return Ok(Vec::from([own]));
        }
        let lowest = area.end.saturating_sub(STACK_LIMIT + (1 << 20)).min(area.start);
        let mut task = current().task()?;
        let mmap = self.engine().mmap_read(&mut task);
        Ok(mmap.claims(&(VirtAddr::new(lowest)..own.end)).collect())
    }

    fn copy_areas(&self, child: &Self, handlers: &mut Children) -> Result<()> {
        // In write: no fault of another thread gets a page between the copy of its entry and the flush.
        let areas = self.areas.write();
        let mut copies = child.areas.write();
        // The engine copied the claims as they were when it copied its own mappings.
        child.release(0, USER_END);
        for area in areas.iter().filter(|area| !area.dont_fork) {
            let mut copy = area.clone();
            for claim in self.claims_of(area)? {
                let mut task = current().task()?;
                let length = claim.end.as_u64() - claim.start.as_u64();
                child.engine().claim(&mut task, Placement::Fixed(claim.start), length)?;
            }
            copy.handler = match (handlers.handler(area, child)?, &area.handler) {
                (Some(handler), Some(Registration { modes, .. })) => {
                    Some(Registration { handler, modes: *modes })
                }
                _ => None,
            };
            let protects = copy.protects();
            if let Backing::Source { source, .. } = &copy.backing
                && copy.writes_source()
            {
                source.writable_mapping(true);
            }
            copies.insert(copy);
            if area.shared && !protects {
                // The child's faults find the pages in the source.
                continue;
            }
            // What the child gets of an entry of the parent's: the handler's protections only if it handles the child's faults.
            let markers = if protects { bits::PROTECTED | bits::POISONED } else { bits::POISONED };
            let for_child = |entry: u64| match entry & bits::KEPT != 0 && !area.shared {
                true => {
                    entry & !(bits::WRITE | bits::ACCESSED | bits::DIRTY | bits::PROTECTED) | entry & markers
                }
                // Here too it finds the page in the source.
                false => entry & markers,
            };
            // First the tables: with the lock of the entries held, nothing is allocated.
            let mut blocks = self.blocks(area.start, area.end).into_iter();
            if !blocks.all(|block| child.make_table(block)) {
                return Err(Errno::ENOMEM);
            }
            let mut failed = false;
            self.change(area.start, area.end, |task, at, entry| {
                let copy = for_child(entry);
                if child.replace_with(task, at, 0, copy) != Some(true) {
                    failed = true;
                } else if copy & bits::KEPT != 0 {
                    // SAFETY: the entry keeps a reference; the copy gets one of its own.
                    let mapped =
                        core::mem::ManuallyDrop::new(unsafe { BasePage::from_address(entry & bits::FRAME) });
                    // INVARIANT: the child's entry keeps it.
                    BasePage::clone(&mapped).into_address();
                }
                if area.shared { entry } else { entry & !bits::WRITE }
            });
            if failed {
                return Err(Errno::ENOMEM);
            }
        }
        Ok(())
    }
}
