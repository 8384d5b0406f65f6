//! Accesses that entries note.

use super::at::used;
use crate::arch::{Entry, Leaf, LeafFlags};
use crate::platform::Platform;
use crate::table::LockedSlot;

impl Leaf {
    /// Does it allow the access, and note it already? What can be written counts as written since soft-dirty was cleared.
    pub(crate) fn notes(self, write: bool) -> bool {
        let noted = if write { LeafFlags::ACCESSED | LeafFlags::DIRTY } else { LeafFlags::ACCESSED };
        self.is_accessible() && (!write || self.is_writable()) && self.flags.contains(noted)
    }
}

impl<P: Platform> LockedSlot<'_, P> {
    /// Sets the accessed bit, and the dirty bits if `write`, of a leaf that allows the access, as a
    /// processor does. Returns false if the entry is no such leaf.
    pub fn mark_used(&self, write: bool) -> bool {
        let now = self.read();
        if !matches!(now, Entry::Leaf(leaf) if leaf.is_accessible() && (!write || leaf.is_writable())) {
            return false;
        }
        // The leaf allows the access until the table is unlocked.
        self.replace_entry(now, |entry| entry.with(used(write)));
        true
    }

    /// Clears the accessed bit of a leaf; true if it was set. No flush is owed, as in Linux on x86-64: a processor that
    /// has the translation cached does not set the bit again until it walks the tables again.
    ///
    /// Linux: `ptep_test_and_clear_young()`.
    pub fn mark_old(&self) -> bool {
        let now = self.read();
        matches!(now, Entry::Leaf(_))
            && matches!(self.replace_entry(now, |entry| entry.without(LeafFlags::ACCESSED)),
                Entry::Leaf(leaf) if leaf.is_accessed())
    }
}
