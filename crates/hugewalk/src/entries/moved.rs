//! Moving an entry to another place of the same address space.

use super::At;
use crate::addr::VirtAddr;
use crate::arch::Entry;
use crate::gather::Gather;
use crate::platform::Platform;
use crate::table::{Slot, Stable};
use crate::task::Task;

impl<P: Platform> At<'_, '_, P> {
    /// Moves the entry to the empty one at `to`. Drops it if no table was made for it: then its table was shared when
    /// tables were made, so its page is the file's, and a fault finds it there. The flush is left to `gather`.
    ///
    /// Write protections of userfaultfd move along if the new place is registered for them (`protected`).
    ///
    /// Linux: `move_huge_pte()` in mm/hugetlb.c.
    pub(crate) fn move_to(
        &self,
        to: Option<(Slot<'_, P, Stable>, VirtAddr)>,
        protected: bool,
        gather: &mut Gather<'_, P>,
        task: &Task<P>,
    ) {
        let carried = self.carried();
        let before = self.replace(self.read(), |_| Entry::None);
        let entry = if protected { before } else { before.without_uffd_wp() };
        match to {
            // Any kind of entry is moved, also a migration entry or the trace of a page that is gone.
            Some((to, address)) => {
                gather.changed(self.range());
                to.lock_beside(self.slot, task, |to| {
                    At::new(to, self.vma, address).take_over(entry, carried);
                });
            }
            None => {
                self.give_up(entry, gather);
            }
        }
    }
}
