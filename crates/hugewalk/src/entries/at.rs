//! An entry of a mapping, and the one function that changes it.

use core::ops::Range;

use crate::addr::{HugeSize, VirtAddr};
use crate::arch::{Barrier, Entry, Leaf, LeafFlags, Paging};
use crate::hugetlb::Hugetlb;
use crate::platform::{Flush, Platform};
use crate::protocol::{Step, keeps};
use crate::root::Mm;
use crate::table::LockedSlot;
use crate::vma::{Protection, Vma};

/// An entry of a mapping, with its table locked.
pub(crate) struct At<'s, 'v, P: Platform> {
    pub(super) slot: &'s LockedSlot<'s, P>,
    pub(super) vma: &'v Vma<P>,
    pub(super) address: VirtAddr,
}

impl<'s, 'v, P: Platform> At<'s, 'v, P> {
    /// The entry of `slot`, which maps the page of `vma` that starts at `address`.
    #[inline]
    pub(crate) fn new(slot: &'s LockedSlot<'s, P>, vma: &'v Vma<P>, address: VirtAddr) -> Self {
        Self { slot, vma, address }
    }

    /// The entry. Processors may set accessed and dirty bits in it at any moment; nothing else changes.
    #[inline]
    pub(crate) fn read(&self) -> Entry {
        self.slot.read()
    }

    /// Is there nothing of the engine's in the entry? A table of the host's is the host's own business.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.read(), Entry::None | Entry::HostTable(_))
    }

    /// The first address that the entry translates.
    pub(crate) fn address(&self) -> VirtAddr {
        self.address
    }

    #[inline]
    pub(super) fn mm(&self) -> &'v Mm<P> {
        self.vma.mm()
    }

    #[inline]
    pub(super) fn hugetlb(&self) -> &'v Hugetlb<P> {
        self.mm().hugetlb()
    }

    #[inline]
    pub(super) fn size(&self) -> HugeSize {
        self.vma.size()
    }

    /// The addresses that the entry translates.
    pub(super) fn range(&self) -> Range<VirtAddr> {
        self.address..self.address.plus(self.size().bytes())
    }

    /// Replaces the entry by what `next` makes of it, and returns what it was. `next` may be called more than once.
    ///
    /// `seen` is what the caller has read under this lock. If a processor has set a bit since, `next` is called again, with
    /// the value that is there.
    ///
    /// If the processor demands that the old entry be forgotten before the new one is found ([`Paging::needs_break`]; that is
    /// so when the entry goes over to another page), the entry is made *busy* first: it allows no access, is not empty, and the
    /// TLB of its address space is flushed here. In any other case the caller owes a flush if the new entry allows less than the
    /// old one.
    ///
    /// If the flush unwinds, the entry becomes what it was. Otherwise every access would fault, and the fault would find it
    /// mapped.
    #[inline]
    pub(super) fn replace(&self, seen: Entry, next: impl Fn(Entry) -> Entry) -> Entry {
        // Under the lock only accessed and dirty bits change, and the answer does not depend on them.
        let wanted = next(seen);
        if self.slot.needs_break(seen, wanted) && keeps::<P>(Step::BreakFirst) {
            let before = self.make_busy(seen);
            self.make(before, next(before));
            return before;
        }
        self.prepare(seen, wanted);
        let before = self.slot.replace_entry(seen, next);
        self.announce(before, wanted);
        before
    }

    /// Stores, where nothing is, an entry that has stood or stands elsewhere, and carried this there: a protection key, a memory
    /// type.
    pub(super) fn take_over(&self, entry: Entry, carried: u64) {
        self.prepare(Entry::None, entry);
        self.slot.replace_carrying(Entry::None, |_| entry, carried);
        self.announce(Entry::None, entry);
    }

    /// What the leaf carries.
    pub(super) fn carried(&self) -> u64 {
        self.slot.carried()
    }

    /// Notes an access in a leaf that allows it, as a processor does that sets accessed and dirty bits by itself; others leave
    /// it to the fault. The processor that has faulted looks again: it may remember what the entry was before.
    pub(crate) fn mark_used(&self, write: bool) {
        if self.slot.mark_used(write) {
            look_again(self.vma, self.address);
        }
    }

    /// The platform is told before a page can be executed for the first time.
    #[inline]
    fn prepare(&self, old: Entry, new: Entry) {
        if !self.mm().paging().hooks().instruction_cache {
            return;
        }
        let executable = |leaf: Leaf| leaf.is_accessible() && !leaf.flags.contains(LeafFlags::NO_EXECUTE);
        match (old, new) {
            (Entry::Leaf(old), Entry::Leaf(new)) if executable(old) && old.frame == new.frame => {}
            (_, Entry::Leaf(new)) if executable(new) => {
                self.hugetlb().platform().before_execution(new.frame, self.size());
            }
            _ => {}
        }
    }

    /// The platform is told of an entry that became valid, or allows more than before.
    #[inline]
    fn announce(&self, old: Entry, new: Entry) {
        let hooks = self.mm().paging().hooks();
        if hooks.after_valid.max(hooks.after_gain) == Barrier::Nothing {
            return;
        }
        let gains = LeafFlags::WRITE | LeafFlags::ACCESSED | LeafFlags::DIRTY;
        match (old, new) {
            (_, Entry::Leaf(new)) if !new.is_accessible() => {}
            (Entry::Leaf(old), Entry::Leaf(new)) if old.is_accessible() => {
                let gained = (new.flags - old.flags).intersects(gains);
                if gained || (old.flags - new.flags).contains(LeafFlags::NO_EXECUTE) {
                    self.tell(hooks.after_gain);
                }
            }
            (_, Entry::Leaf(_)) => self.tell(hooks.after_valid),
            _ => {}
        }
    }

    fn tell(&self, due: Barrier) {
        tell(self.vma, self.address, due);
    }

    /// The first half of an exchange of pages: makes the entry busy, and flushes. Returns what it was.
    ///
    /// A lockless reader that meets a busy entry finds that it allows no access, and takes the table lock: a fault waits there
    /// until the new page is in, and GUP-fast leaves it to the slow path.
    pub(super) fn make_busy(&self, seen: Entry) -> Entry {
        if !keeps::<P>(Step::BreakFirst) {
            return seen;
        }
        let before = self.slot.replace_entry(seen, Entry::busy);
        let undo = Undo { at: self, before };
        let flush = Flush { range: self.range(), stride: self.size().member_bytes(), tables: false };
        self.hugetlb().platform().flush_tlb(self.mm().context(), flush);
        core::mem::forget(undo);
        before
    }

    /// The second half: stores the new entry. No processor writes to a busy entry, so the bits it had are those that
    /// `before` has, which [`make_busy`](Self::make_busy) returned.
    pub(super) fn make(&self, before: Entry, new: Entry) {
        self.prepare(before.busy(), new);
        self.slot.replace_entry(before.busy(), |_| new);
        self.announce(before.busy(), new);
    }
}

/// The processor that has faulted looks again at an entry which allows the access: it may remember what the entry was before.
///
/// Linux: `flush_tlb_fix_spurious_fault()`.
pub(crate) fn look_again<P: Platform>(vma: &Vma<P>, address: VirtAddr) {
    let hooks = vma.mm().paging().hooks();
    tell(vma, address, hooks.after_valid.max(hooks.after_gain));
}

fn tell<P: Platform>(vma: &Vma<P>, address: VirtAddr, due: Barrier) {
    if due != Barrier::Nothing {
        let mm = vma.mm();
        mm.hugetlb().platform().entry_stored(mm.context(), address, vma.size(), due);
    }
}

/// An entry that is busy until the TLB is flushed.
struct Undo<'u, 's, 'v, P: Platform> {
    at: &'u At<'s, 'v, P>,
    before: Entry,
}

impl<P: Platform> Drop for Undo<'_, '_, '_, P> {
    #[cold]
    fn drop(&mut self) {
        self.at.make(self.before, self.before);
    }
}

/// What accesses to a page leave in its entry: a store, or a load.
pub(super) const fn used(write: bool) -> LeafFlags {
    if write {
        LeafFlags::ACCESSED.union(LeafFlags::DIRTY).union(LeafFlags::SOFT_DIRTY)
    } else {
        LeafFlags::ACCESSED
    }
}

/// The flags that a leaf of this VMA has for its rights, writable or not. Flags for accesses to the page
/// are not among them.
///
/// A leaf that can be written counts as written since soft-dirty was cleared: the processor knows nothing
/// of that bit, and the next store may need no fault. Linux: `pte_mkdirty()` sets `_PAGE_SOFT_DIRTY` too.
#[inline]
pub(super) fn leaf_flags<P: Platform>(vma: &Vma<P>, writable: bool) -> LeafFlags {
    let rights = vma.protection();
    let mut flags = LeafFlags::empty();
    flags.set(LeafFlags::ACCESS, !rights.is_empty());
    flags.set(LeafFlags::WRITE | LeafFlags::SOFT_DIRTY, writable && rights.contains(Protection::WRITE));
    flags.set(LeafFlags::NO_EXECUTE, !rights.contains(Protection::EXECUTE));
    flags
}
