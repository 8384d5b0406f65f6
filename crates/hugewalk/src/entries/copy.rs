//! Copying an entry for fork, and exchanging a page for a copy of it.

use super::At;
use super::at::{leaf_flags, used};
use crate::addr::HugeFrame;
use crate::arch::{Entry, Leaf, LeafFlags};
use crate::page::PageRef;
use crate::platform::Platform;
use crate::vma::VmaFlags;

impl<'v, P: Platform> At<'_, 'v, P> {
    /// Copies the entry to the empty one of a child. A private page is shared by both then, and neither can write to it.
    /// The parent's flush is owed by the caller.
    ///
    /// The child keeps write protections of userfaultfd only if its mapping is registered for them: if the handler asked
    /// for fork events.
    ///
    /// Linux: `copy_hugetlb_page_range()` in mm/hugetlb.c.
    ///
    /// # Errors
    ///
    /// The page, with a reference, if it is pinned in the parent, so that the child has to have a copy of it. All is as it
    /// was then.
    pub(crate) fn copy_to(&self, child: &At<'_, '_, P>) -> Result<(), PageRef<'v, P>> {
        let entry = self.read();
        let keeps_protections = child.vma.flags().contains(VmaFlags::UFFD_WP);
        let copy = if keeps_protections { entry } else { entry.without_uffd_wp() };
        let copy = match copy {
            Entry::Leaf(leaf) if child.vma.is_shared() => {
                self.hugetlb().page(leaf.frame).add_mapping();
                copy
            }
            Entry::Leaf(leaf) => {
                self.make_shared(entry, leaf.frame)?;
                // A bit that a processor of the parent has set since stays in the parent's entry.
                copy.without_write()
            }
            Entry::Hwpoison(_) | Entry::Marker | Entry::Poison => copy,
            Entry::Migration(migration) => {
                self.hugetlb().page(migration.frame).add_migration();
                if child.vma.is_shared() {
                    copy
                } else {
                    // Migration refuses pinned pages, so this one may be shared. The child's entry is counted, and
                    // the migration finds it, since the child's mapping is in the file's tree; see `rmap`.
                    self.replace(entry, Entry::without_write);
                    copy.without_write()
                }
            }
            Entry::None | Entry::Table(_) | Entry::HostTable(_) => return Ok(()),
        };
        if matches!(copy, Entry::Leaf(_)) {
            child.mm().add_resident(child.size(), 1, 0);
        }
        child.take_over(copy, self.carried());
        Ok(())
    }

    /// Write-protects a leaf and counts a second mapping of its page, unless the page is pinned: the pin's
    /// owner relies on the parent to go on using this very page. If it is pinned, the page is returned with a
    /// reference, and all is as it was.
    ///
    /// This function first makes the page shared and then looks for pins. A GUP-fast walker works the other way
    /// round: it first takes the pin, and then sees that the entry can still be written, or that the page is
    /// mapped once. All four accesses are sequentially consistent, so at least one of the two sides notices the
    /// other.
    ///
    /// Linux: `write_protect_seq`, `page_needs_cow_for_dma()`.
    fn make_shared(&self, entry: Entry, frame: HugeFrame) -> Result<(), PageRef<'v, P>> {
        let page = self.hugetlb().page(frame);
        let writable = entry != entry.without_write();
        if writable {
            self.replace(entry, Entry::without_write);
        }
        page.add_mapping();
        if !page.is_anon() || page.pins() == 0 {
            return Ok(());
        }
        if writable {
            self.replace(entry.without_write(), |entry| entry.with(LeafFlags::WRITE));
        }
        page.remove_mapping();
        // SAFETY: the reference of the mapping that is not made after all.
        Err(unsafe { PageRef::from_raw(self.hugetlb(), frame, self.size()) })
    }

    /// Exchanges the page of a leaf, `seen`, for the one that `copy` returns; the reference becomes the mapping's. `copy` is
    /// called once the old page is out of use. Its mapping is given up; its reference passes to the caller. Flushes.
    ///
    /// `keep`: the leaf keeps its rights and what it remembers, as for a read that unshares. Otherwise it can be written
    /// from now on, and counts as written.
    ///
    /// Linux: the end of `hugetlb_wp()` in mm/hugetlb.c.
    pub(crate) fn exchange(&self, seen: Entry, copy: impl FnOnce() -> PageRef<'v, P>, keep: bool) {
        // Otherwise one processor could store to the new page while another still reads the old one through its TLB, and
        // misses the store.
        let before = self.make_busy(seen);
        let Entry::Leaf(old) = before else { return };
        let flags = if keep { old.flags | used(false) } else { leaf_flags(self.vma, true) | used(true) };
        let copy = copy();
        let frame = copy.frame();
        copy.into_mapping();
        self.make(before, Entry::Leaf(Leaf { frame, flags }));
        // Still under the table lock: a fault that finds the page mapped once may take it for its own.
        self.hugetlb().page(old.frame).remove_mapping();
    }
}
