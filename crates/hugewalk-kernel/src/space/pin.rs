//! References to base pages, for whoever uses them without the tables. The engine's pins are those of huge pages.

use alloc::sync::Arc;
use core::mem::ManuallyDrop;

use hugewalk::fault::Access;

use super::Space;
use super::area::Rights;
use super::base::NotReplaced;
use super::fault::Refused;
use super::root::bits;
use crate::memory::PAGE;
use crate::memory::page::BasePage;

impl Space {
    /// A reference to the base page at an address, which is faulted in. Of a private mapping that can be written it is the
    /// mapping's own page, also if it is only to be read: later stores reach it. Sleeps.
    ///
    /// # Errors
    ///
    /// [`Refused`]; `NotMapped` also for a huge page.
    pub fn pin_base(self: &Arc<Self>, address: u64, write: bool) -> Result<BasePage, Refused> {
        let at = address & !(PAGE - 1);
        loop {
            let own = {
                let areas = self.areas().read();
                let area = areas.find(at).ok_or(Refused::NotMapped)?;
                let own = !area.shared && area.rights.contains(Rights::WRITE);
                let old = self.base(at);
                if own && !write && area.protects() && old & bits::KEPT != 0 && old & bits::PROTECTED != 0 {
                    // The handler of page faults is asked for stores only.
                    match self.unshare(at, old)? {
                        Some(page) => return Ok(page),
                        None => continue,
                    }
                }
                own
            };
            let access = if write || own { Access::Write } else { Access::Read };
            self.fault(at, access)?;
            let mut found = None;
            self.visit(at, at + PAGE, |_, entry| {
                if entry & bits::KEPT != 0 && (access == Access::Read || entry & bits::WRITE != 0) {
                    // SAFETY: the entry keeps a reference, and the lock of the entries the entry.
                    let mapped = ManuallyDrop::new(unsafe { BasePage::from_address(entry & bits::FRAME) });
                    found = Some(BasePage::clone(&mapped));
                }
            });
            // None if another thread unmapped or protected it in between.
            if let Some(page) = found {
                return Ok(page);
            }
        }
    }

    /// A reference to a protected page, which is made the mapping's own if others have it too: it stays protected. The caller has
    /// the lock of the areas. `None` if the entry has changed meanwhile. Linux: `FAULT_FLAG_UNSHARE`.
    fn unshare(&self, at: u64, old: u64) -> Result<Option<BasePage>, Refused> {
        let mut found = None;
        self.visit(at, at + PAGE, |_, entry| {
            if entry & bits::KEPT == 0 || entry & bits::FRAME != old & bits::FRAME {
                return;
            }
            // SAFETY: the entry keeps a reference, and the lock of the entries the entry.
            let mapped = ManuallyDrop::new(unsafe { BasePage::from_address(entry & bits::FRAME) });
            found = Some(BasePage::clone(&mapped));
        });
        let Some(page) = found else { return Ok(None) };
        // The entry's, and the one just taken.
        if page.references() == 2 {
            return Ok(Some(page));
        }
        let copy = page.copied().map_err(|_| Refused::OutOfMemory)?;
        match self.replace(at, old, copy.address() | old & !bits::FRAME) {
            Ok(()) => {}
            Err(NotReplaced::Changed) => return Ok(None),
            Err(NotReplaced::OutOfMemory) => return Err(Refused::OutOfMemory),
        }
        // INVARIANT: the entry keeps one of the two references.
        copy.clone().into_address();
        self.flush(at);
        // SAFETY: the entry that kept the reference is replaced, and no processor uses it any more.
        drop(unsafe { BasePage::from_address(old & bits::FRAME) });
        Ok(Some(copy))
    }
}
