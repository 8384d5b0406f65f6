//! Other rights for what is mapped.

use super::At;
use super::at::{leaf_flags, used};
use crate::arch::{Entry, Leaf, LeafFlags, Migration};
use crate::gather::Gather;
use crate::platform::Platform;
use crate::vma::{Vma, VmaFlags};

impl<P: Platform> At<'_, '_, P> {
    /// Gives the entry the rights of `new`, the VMA that replaces its own. The flush is left to `gather`.
    ///
    /// Linux: `hugetlb_change_protection()` in mm/hugetlb.c.
    pub(crate) fn reprotect(&self, new: &Vma<P>, gather: &mut Gather<'_, P>) {
        let now = self.read();
        match now {
            Entry::Leaf(_) => {
                self.replace(now, |entry| reprotected(entry, new));
                gather.changed(self.range());
            }
            // When the page arrives, it is mapped with the mapping's rights of that moment. But once the
            // right to write was taken away, only a fault gives it back.
            Entry::Migration(migration) if migration.write => {
                self.replace(now, Entry::without_write);
            }
            Entry::None
            | Entry::Table(_)
            | Entry::HostTable(_)
            | Entry::Migration(_)
            | Entry::Hwpoison(_)
            | Entry::Marker
            | Entry::Poison => {}
        }
    }

    /// Write-protects the entry for a handler of userfaultfd, or takes that back; an empty entry gets a marker. The flush
    /// is left to `gather`.
    ///
    /// Linux: `hugetlb_change_protection()` with `MM_CP_UFFD_WP` or `MM_CP_UFFD_WP_RESOLVE`.
    pub(crate) fn protect_for_handler(&self, on: bool, gather: &mut Gather<'_, P>) {
        // In one step: a fault that checks whether it has to wait must not see the entry empty in between.
        let before = self.replace(self.read(), |entry| protected(entry, on));
        if matches!(before, Entry::Leaf(_)) {
            gather.changed(self.range());
        }
    }

    /// Forgets that the page was written, and takes the right to write away with that: the next store faults, and sets
    /// both again. The flush is left to `gather`.
    ///
    /// Every leaf that can be written is soft-dirty (see [`leaf_flags`]), so no other leaf has to be changed.
    pub(crate) fn clear_soft_dirty(&self, gather: &mut Gather<'_, P>) {
        let now = self.read();
        if matches!(now, Entry::Leaf(leaf) if leaf.is_soft_dirty()) {
            self.replace(now, |entry| entry.without(LeafFlags::SOFT_DIRTY | LeafFlags::WRITE));
            gather.changed(self.range());
        }
    }

    /// Takes the handler's write protection off a leaf, `seen`, which stays read-only. The page counts as written from now on
    /// (`UFFD_FEATURE_WP_ASYNC`). No flush is owed: it allows what it did.
    pub(crate) fn count_as_written(&self, seen: Entry) {
        self.replace(seen, Entry::without_uffd_wp);
    }

    /// Lets the page of a leaf, `seen`, be written, and counts it as written. A write protection of userfaultfd goes: its
    /// handler has left, or wants to be told by a scan only. No flush is owed: the processor that faults looks again.
    pub(crate) fn make_writable(&self, seen: Entry) {
        let flags = leaf_flags(self.vma, true) | used(true);
        self.replace(seen, |entry| entry.without(LeafFlags::UFFD_WP).with(flags));
    }
}

/// A leaf with the rights of another VMA. A page that other processes may share stays write-protected: the
/// fault of the next store decides. The same holds as long as a handler may protect pages of the mapping,
/// as in Linux (`vma_wants_writenotify()`).
fn reprotected<P: Platform>(entry: Entry, vma: &Vma<P>) -> Entry {
    let Entry::Leaf(leaf) = entry else {
        return entry;
    };
    let rights = LeafFlags::ACCESS | LeafFlags::WRITE | LeafFlags::NO_EXECUTE;
    let writable = vma.is_shared()
        && !leaf.flags.contains(LeafFlags::UFFD_WP)
        && !vma.flags().contains(VmaFlags::UFFD_WP);
    Entry::Leaf(Leaf { frame: leaf.frame, flags: (leaf.flags - rights) | leaf_flags(vma, writable) })
}

fn protected(entry: Entry, on: bool) -> Entry {
    match entry {
        Entry::None if on => Entry::Marker,
        Entry::Marker if !on => Entry::None,
        // The right to write goes either way, also for a leaf that was not protected. The fault of the next
        // store gives it back. A private page may belong to another process too, and Linux withholds the
        // right for all pages of a mapping that is registered for this (`vma_wants_writenotify()`).
        Entry::Leaf(leaf) => {
            let mut leaf = leaf.without(LeafFlags::WRITE);
            leaf.flags.set(LeafFlags::UFFD_WP, on);
            Entry::Leaf(leaf)
        }
        Entry::Migration(migration) => Entry::Migration(Migration { write: false, uffd_wp: on, ..migration }),
        same => same,
    }
}
