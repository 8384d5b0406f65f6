//! fork: the child's copy of an address space.

use alloc::sync::Arc;

use super::Space;
use super::area::{Areas, Backing};
use super::root::bits;
use crate::errno::{Errno, Result};
use crate::memory::page::BasePage;
use crate::task::current;

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
        let child = Self::around(engine, Areas::new());
        *child.brk.write() = self.brk();
        if let Err(error) = self.copy_areas(&child) {
            child.empty();
            return Err(error);
        }
        self.copy_attached(&child, current().process().pid);
        Ok(Arc::new(child))
    }

    fn copy_areas(&self, child: &Self) -> Result<()> {
        // In write: no fault of another thread gets a page between the copy of its entry and the flush.
        let areas = self.areas.write();
        let mut copies = child.areas.write();
        for area in areas.iter().filter(|area| !area.dont_fork) {
            let mut copy = area.clone();
            // The child's faults are nobody's, unless a handler asks for events of base pages, which it cannot.
            copy.handler = None;
            if let Backing::Source { source, .. } = &copy.backing
                && copy.writes_source()
            {
                source.writable_mapping(true);
            }
            copies.insert(copy);
            if area.shared {
                // The child's faults find the pages in the source.
                continue;
            }
            let mut failed = false;
            self.root().change(area.start, area.end, |at, entry| {
                // SAFETY: the entry keeps a reference; the copy gets one of its own.
                let mapped =
                    core::mem::ManuallyDrop::new(unsafe { BasePage::from_address(entry & bits::FRAME) });
                let protected = entry & !bits::WRITE;
                if child.root().replace(at, 0, protected & !(bits::ACCESSED | bits::DIRTY)) {
                    // INVARIANT: the child's entry keeps it.
                    BasePage::clone(&mapped).into_address();
                } else {
                    failed = true;
                }
                protected
            });
            if failed {
                return Err(Errno::ENOMEM);
            }
        }
        Ok(())
    }
}
