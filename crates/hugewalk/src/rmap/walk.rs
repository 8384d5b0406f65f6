//! The walk over the entries that name a page.

use crate::addr::{HugeFrame, VirtAddr};
use crate::file::FileProof;
use crate::platform::Platform;
use crate::table::{LockedSlot, Slot, Stable};
use crate::task::Task;
use crate::vma::Vma;
use crate::walk::huge_pte_offset;

/// Which entries of a shared table are visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tables {
    /// Each table once, whichever VMAs use it.
    Once,
    /// A shared table once for each VMA that uses it.
    ForEachUser,
}

/// An entry that named the page when it was found. [`lock`](Self::lock) rechecks that under the
/// table lock.
///
/// Linux: `struct page_vma_mapped_walk`.
pub(crate) struct Mapped<'p, 'g, P: Platform> {
    /// The VMA through which it was found.
    pub(crate) vma: &'p FileProof<'g, P>,
    /// The address in that VMA.
    pub(crate) address: VirtAddr,
    frame: HugeFrame,
    slot: Slot<'p, P, Stable>,
}

impl<'p, P: Platform> Mapped<'p, '_, P> {
    /// Locks the table, and rechecks that the entry names the page. Spins; the caller must not
    /// sleep until the guard is dropped.
    pub(crate) fn lock<'s>(&self, task: &'s Task<P>) -> Option<LockedSlot<'s, P>>
    where
        'p: 's,
    {
        let locked = self.slot.lock(task);
        (locked.read().page() == Some(self.frame)).then_some(locked)
    }

    /// The share count: how many address spaces use the table besides this one.
    pub(crate) fn sharers(&self) -> u64 {
        self.slot.sharers()
    }

    /// A number that is the same for two VMAs if they share the table.
    pub(crate) fn table(&self) -> u64 {
        self.slot.table_identity()
    }
}

/// Calls `visit` for each entry, a leaf or a migration entry, that names the page `frame` at
/// `index`. It walks the VMAs found under `i_mmap`: those that `vmas` returns, each time in the
/// same order.
///
/// Holds: `i_mmap`, by the proofs of the VMAs. Takes no lock, does not sleep.
///
/// Linux: `rmap_walk_file()` in mm/rmap.c, `page_vma_mapped_walk()` in mm/page_vma_mapped.c.
pub(crate) fn mapped_places<'g, P: Platform, I: Iterator<Item = FileProof<'g, P>>>(
    vmas: impl Fn() -> I,
    index: u64,
    frame: HugeFrame,
    tables: Tables,
    mut visit: impl FnMut(&Mapped<'_, 'g, P>),
) {
    let mut seen = SeenTables::new();
    for (position, vma) in vmas().enumerate() {
        let Some((address, slot)) = place(&vma, index) else {
            continue;
        };
        // A first look without the lock. `visit` locks the table to be sure.
        if slot.read().page() != Some(frame) {
            continue;
        }
        let mapped = Mapped { vma: &vma, address, frame, slot };
        if tables == Tables::Once && mapped.sharers() > 0 {
            let earlier = || vmas().take(position).any(|vma| uses(&vma, index, mapped.table()));
            if seen.contains_or_add(mapped.table(), earlier) {
                continue;
            }
        }
        visit(&mapped);
    }
}

/// The slot of a VMA for an index, and its address.
pub(crate) fn place<'p, P: Platform>(
    proof: &'p FileProof<'_, P>,
    index: u64,
) -> Option<(VirtAddr, Slot<'p, P, Stable>)> {
    let vma: &'p Vma<P> = proof.vma();
    let address = vma.addresses_of(&(index..index.checked_add(1)?))?.start;
    let slot = huge_pte_offset(proof, vma.mm(), address, vma.size()).ok().flatten()?;
    Some((address, slot))
}

/// Does a VMA use this table for the index?
pub(crate) fn uses<P: Platform>(proof: &FileProof<'_, P>, index: u64, table: u64) -> bool {
    proof.vma().size().shares_tables()
        && place(proof, index).is_some_and(|(_, slot)| slot.table_identity() == table)
}

/// The shared tables that a walk has visited. VMAs of one file share unless they differ in range or
/// rights, so there are only a few.
struct SeenTables {
    tables: [u64; 8],
    len: usize,
}

impl SeenTables {
    fn new() -> Self {
        Self { tables: [0; 8], len: 0 }
    }

    /// Was the table visited before? If the list is full, `earlier` answers.
    fn contains_or_add(&mut self, table: u64, earlier: impl FnOnce() -> bool) -> bool {
        if self.tables.iter().take(self.len).any(|&seen| seen == table) {
            return true;
        }
        if let Some(place) = self.tables.get_mut(self.len) {
            *place = table;
            self.len += 1;
            return false;
        }
        earlier()
    }
}
