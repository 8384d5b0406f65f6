//! Clearing entries, and giving up what they stood for.

use core::ops::Range;

use super::{At, each_own_entry};
use crate::addr::{HugeFrame, VirtAddr};
use crate::arch::Entry;
use crate::gather::Gather;
use crate::platform::Platform;
use crate::reserve::PrivateReserve;
use crate::sync::Arc;
use crate::task::Task;
use crate::vma::{Vma, VmaWriteGuard};

/// Which entries to clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zap {
    /// All. Linux: `ZAP_FLAG_DROP_MARKER`.
    All,
    /// All, except that write protections of userfaultfd are remembered.
    Pages,
    /// Those that stand for this page; write protections are remembered.
    Page(HugeFrame),
}

impl Zap {
    fn wants(self, entry: Entry) -> bool {
        match self {
            Self::All => !matches!(entry, Entry::HostTable(_)),
            Self::Pages => !matches!(entry, Entry::Marker | Entry::HostTable(_)),
            Self::Page(frame) => entry.page() == Some(frame),
        }
    }

    /// What stays where an entry was.
    fn trace_of(self, entry: Entry) -> Entry {
        let protected = match entry {
            Entry::Leaf(leaf) => leaf.is_protected(),
            Entry::Migration(migration) => migration.uffd_wp,
            Entry::None
            | Entry::Table(_)
            | Entry::HostTable(_)
            | Entry::Hwpoison(_)
            | Entry::Marker
            | Entry::Poison => false,
        };
        if protected && self != Self::All { Entry::Marker } else { Entry::None }
    }
}

/// Clears the entries of a range of a VMA that `zap` wants. A table that is shared with others is unshared
/// as a whole. Returns how many of the cleared entries stood for pages.
///
/// Holds: the VMA lock in write, and `i_mmap` in write (by `gather`). Takes table locks. Does not sleep.
///
/// Flushes, and putting the pages, are left to `gather`, to which the caller has announced the range.
///
/// Linux: `__unmap_hugepage_range()` in mm/hugetlb.c.
pub(crate) fn zap_range<P: Platform>(
    vma_lock: &mut VmaWriteGuard<'_, P>,
    range: Range<VirtAddr>,
    zap: Zap,
    gather: &mut Gather<'_, P>,
    task: &Task<P>,
) -> u64 {
    let mut cleared = 0;
    each_own_entry(vma_lock, range, gather, task, |at, gather| {
        cleared += u64::from(at.zap(zap, gather));
    });
    cleared
}

impl<P: Platform> At<'_, '_, P> {
    /// Clears the entry if `zap` wants it, and gives up what it stood for. True if that was a page.
    ///
    /// The flush, and putting the page, are left to `gather`.
    #[inline]
    pub(crate) fn zap(&self, zap: Zap, gather: &mut Gather<'_, P>) -> bool {
        if self.slot.is_none() {
            return false;
        }
        let now = self.read();
        if !zap.wants(now) {
            return false;
        }
        if matches!(zap, Zap::Page(_)) {
            // Set before the entry is empty: a fault that finds it empty must not take it for a page that
            // was never touched.
            self.vma.set_robbed();
        }
        let before = self.replace(now, |entry| zap.trace_of(entry));
        match (before, reservation_of(self.vma, before)) {
            (Entry::Leaf(leaf), Some(reserve)) => {
                gather.unmapped_reserved(self.address, leaf.frame, reserve);
                true
            }
            _ => self.give_up(before, gather),
        }
    }

    /// Gives up what the entry stood for: `was`, which has been taken out of the table. True if it was a page.
    pub(super) fn give_up(&self, was: Entry, gather: &mut Gather<'_, P>) -> bool {
        match was {
            Entry::Leaf(leaf) => {
                gather.unmapped(self.address, leaf.frame);
                true
            }
            // Counted, so that the migration knows when the last one is gone. It holds no reference.
            Entry::Migration(migration) => {
                self.hugetlb().page(migration.frame).remove_migration();
                true
            }
            // These hold nothing: a marker, or the trace of a page that is gone.
            Entry::None
            | Entry::Table(_)
            | Entry::HostTable(_)
            | Entry::Hwpoison(_)
            | Entry::Marker
            | Entry::Poison => false,
        }
    }
}

/// The reservation that an entry's page goes back to when it is unmapped: that of the private mapping, if
/// it has one and the page is a private page and not the file's. `None` while there are surplus pages,
/// which are freed first of all.
///
/// Linux: `__unmap_hugepage_range()` in mm/hugetlb.c, from 6.12 on.
#[inline]
fn reservation_of<P: Platform>(vma: &Vma<P>, entry: Entry) -> Option<&Arc<PrivateReserve<P>>> {
    let hugetlb = vma.mm().hugetlb();
    let reserve = vma.reserve()?;
    let is_own = matches!(entry, Entry::Leaf(leaf) if hugetlb.page(leaf.frame).is_anon());
    (is_own && hugetlb.pool(vma.size()).counters().surplus == 0).then_some(reserve)
}
