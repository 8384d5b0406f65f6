//! A page leaves its entry, and comes back to it.

use super::At;
use super::at::leaf_flags;
use crate::addr::HugeFrame;
use crate::arch::{Entry, Leaf, LeafFlags, Migration};
use crate::gather::Gather;
use crate::platform::Platform;

/// What replaces a leaf. Linux: `TTU_*`, and `try_to_migrate()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instead {
    /// Nothing: the next access faults.
    Nothing,
    /// A migration entry: the next access waits.
    Migration,
    /// A hwpoison entry: the next access is an error.
    Hwpoison,
}

/// The page is pinned: the pin's holder relies on the address space to keep seeing the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pinned;

impl<P: Platform> At<'_, '_, P> {
    /// Replaces a leaf, and gives up its mapping and its reference. False if the entry is no leaf. The flush is left to
    /// `gather`.
    ///
    /// Linux: `try_to_unmap_one()` and `try_to_migrate_one()` in mm/rmap.c.
    ///
    /// # Errors
    ///
    /// [`Pinned`] if a private page is to be migrated and is pinned. The entry is as it was then.
    pub(crate) fn displace(&self, instead: Instead, gather: &mut Gather<'_, P>) -> Result<bool, Pinned> {
        let now = self.read();
        let Entry::Leaf(leaf) = now else {
            return Ok(false);
        };
        let page = self.hugetlb().page(leaf.frame);
        if instead == Instead::Migration {
            // Before the entry is stored, so that the count is never too small.
            page.add_migration();
        }
        let before = self.replace(now, |entry| replacement(entry, instead));
        // A pinned private page must stay with this address space, but fork shares a page that has
        // a migration entry. As in `copy_to`, the entry is changed first and pins are looked for
        // afterwards; a lockless pin pins first and rechecks the entry.
        if instead == Instead::Migration && page.is_anon() && page.pins() > 0 {
            // It was a migration entry, so no processor has written to it.
            self.replace(replacement(before, instead), |_| before);
            page.remove_migration();
            return Err(Pinned);
        }
        gather.unmapped(self.address, leaf.frame);
        Ok(true)
    }

    /// Turns a migration entry into a leaf of `to`, where the page is now; the caller holds a reference to it. Returns
    /// where the page was, if this was a migration entry. No flush is owed.
    ///
    /// Linux: `remove_migration_pte()` in mm/migrate.c.
    pub(crate) fn arrive(&self, to: HugeFrame) -> Option<HugeFrame> {
        let now = self.read();
        let Entry::Migration(migration) = now else {
            return None;
        };
        self.hugetlb().page(to).add_mapping();
        self.mm().add_resident(self.size(), 1, 0);
        let mut flags = leaf_flags(self.vma, migration.write && !migration.uffd_wp);
        flags.set(LeafFlags::UFFD_WP, migration.uffd_wp);
        flags.set(LeafFlags::SOFT_DIRTY, migration.soft_dirty);
        flags.set(LeafFlags::ACCESSED, migration.accessed);
        flags.set(LeafFlags::DIRTY, migration.dirty);
        self.replace(now, |_| Entry::Leaf(Leaf { frame: to, flags }));
        self.hugetlb().page(migration.frame).remove_migration();
        Some(migration.frame)
    }
}

/// What replaces an entry.
fn replacement(entry: Entry, instead: Instead) -> Entry {
    let Entry::Leaf(leaf) = entry else {
        return entry;
    };
    let has = |flag| leaf.flags.contains(flag);
    match instead {
        // Linux: pte_install_uffd_wp_if_needed().
        Instead::Nothing if has(LeafFlags::UFFD_WP) => Entry::Marker,
        Instead::Nothing => Entry::None,
        Instead::Hwpoison => Entry::Hwpoison(leaf.frame),
        Instead::Migration => Entry::Migration(Migration {
            frame: leaf.frame,
            write: has(LeafFlags::WRITE),
            uffd_wp: has(LeafFlags::UFFD_WP),
            soft_dirty: has(LeafFlags::SOFT_DIRTY),
            accessed: has(LeafFlags::ACCESSED),
            dirty: has(LeafFlags::DIRTY),
        }),
    }
}
