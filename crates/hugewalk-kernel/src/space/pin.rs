//! References to base pages, for whoever uses them without the tables. The engine's pins are those of huge pages.

use alloc::sync::Arc;
use core::mem::ManuallyDrop;

use hugewalk::fault::Access;

use super::Space;
use super::area::Rights;
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
                !area.shared && area.rights.contains(Rights::WRITE)
            };
            let access = if write || own { Access::Write } else { Access::Read };
            self.fault(at, access)?;
            let mut found = None;
            self.root().visit(at, at + PAGE, |_, entry| {
                if access == Access::Read || entry & bits::WRITE != 0 {
                    // SAFETY: the entry keeps a reference, and the root's lock the entry.
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
}
