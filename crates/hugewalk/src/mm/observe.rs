//! What an address space holds, for reports: tables and who shares them, pages and whether others map them.

use alloc::vec::Vec;
use core::ops::Range;

use super::unmap::by_table;
use super::{AddressSpace, Mm};
use crate::addr::{HugeSize, VirtAddr};
use crate::arch::{Entry, Level};
use crate::error::OutOfMemory;
use crate::platform::{ENTRIES, Platform};
use crate::sync::try_push;
use crate::table::{Slot, Stable, index_of};
use crate::task::Task;
use crate::vma::{Vma, VmaReadGuard};
use crate::walk::huge_pte_offset;

/// How much of a mapping its page tables reach. Linux: `Shared_Hugetlb` and `Private_Hugetlb` in /proc/PID/smaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residency {
    /// Pages that other processes reach too: mapped by several entries, or by an entry of a shared table.
    pub shared: u64,
    /// Pages that this process alone reaches.
    pub private: u64,
}

/// One table of leaves of an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableUse {
    /// Start of the range that the table covers.
    pub start: VirtAddr,
    /// The size of its leaves.
    pub size: HugeSize,
    /// The same number for two address spaces that share the table, at one moment.
    pub identity: u64,
    /// How many address spaces use it: 1 if it is not shared.
    pub users: u64,
    /// Leaves in it.
    pub leaves: u64,
}

impl<P: Platform> AddressSpace<P> {
    /// Counts the pages that each mapping reaches, and calls `visit` with it. Sleeps.
    ///
    /// Takes the mmap lock and the VMA locks in read, and holds them while it calls `visit`: that must not call back into
    /// the address space.
    pub fn residency(&self, task: &mut Task<P>, mut visit: impl FnMut(&Vma<P>, Residency)) {
        let mmap = self.mmap_read(task);
        for vma in mmap.vmas() {
            let Some(locked) = mmap.lock_vma(vma, task) else {
                continue;
            };
            let mut residency = Residency::default();
            each_table(&locked, |part, slot| {
                let shared_table = slot.sharers() > 0;
                let shift = Level::of_leaf(vma.size()).shift();
                // The table may hold leaves of other mappings too.
                let first = index_of(part.start, shift);
                let count = (part.end.offset_from(part.start) >> shift) as usize;
                for_each_leaf(vma.mm(), slot, first..first + count, |mapcount| {
                    let shared = shared_table || mapcount > 1;
                    *(if shared { &mut residency.shared } else { &mut residency.private }) += 1;
                });
            });
            visit(vma, residency);
        }
    }

    /// The tables that hold the leaves of this address space. Sleeps.
    ///
    /// Takes the mmap lock and the VMA locks in read.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if there is no memory for the list.
    pub fn tables(&self, task: &mut Task<P>) -> Result<Vec<TableUse>, OutOfMemory> {
        self.tables_counting(task, |_, _| true)
    }

    /// As [`tables`](Self::tables), but the leaves of a table are counted only if `wanted` says so of its identity and
    /// its users, and are 0 otherwise: who looks at thousands of address spaces need not count a shared table for each.
    ///
    /// # Errors
    ///
    /// As for [`tables`](Self::tables).
    pub fn tables_counting(
        &self,
        task: &mut Task<P>,
        mut wanted: impl FnMut(u64, u64) -> bool,
    ) -> Result<Vec<TableUse>, OutOfMemory> {
        let mut found: Vec<TableUse> = Vec::new();
        let mut result = Ok(());
        let mmap = self.mmap_read(task);
        for vma in mmap.vmas() {
            let Some(locked) = mmap.lock_vma(vma, task) else {
                continue;
            };
            let size = vma.size();
            each_table(&locked, |part, slot| {
                let span = Level::of_leaf(size).entry_size() * ENTRIES as u64;
                let start = VirtAddr::new(part.start.as_u64() & !(span - 1));
                // Two mappings can have their leaves in one table; tables of another size may have been found between.
                let last = found.iter().rev().find(|table| table.size == size);
                if last.is_some_and(|last| last.start == start) {
                    return;
                }
                let (identity, users) = (slot.table_identity(), slot.sharers() + 1);
                let mut leaves = 0;
                if wanted(identity, users) {
                    for_each_leaf(vma.mm(), slot, 0..ENTRIES, |_| leaves += 1);
                }
                let table = TableUse { start, size, identity, users, leaves };
                if let Err(error) = try_push(&mut found, table) {
                    result = Err(error);
                }
            });
        }
        result.map(|()| found)
    }
}

fn each_table<P: Platform>(
    locked: &VmaReadGuard<'_, P>,
    mut visit: impl FnMut(Range<VirtAddr>, &Slot<'_, P, Stable>),
) {
    let vma = locked.vma();
    for part in by_table(vma.start()..vma.end(), vma.size()) {
        if let Ok(Some(slot)) = huge_pte_offset(locked, vma.mm(), part.start, vma.size()) {
            visit(part, &slot);
        }
    }
}

/// The leaves among these entries of a table, with how often each page is mapped.
fn for_each_leaf<P: Platform>(
    mm: &Mm<P>,
    slot: &Slot<'_, P, Stable>,
    entries: Range<usize>,
    mut visit: impl FnMut(u64),
) {
    for index in entries {
        if let Entry::Leaf(leaf) = slot.read_beside(index) {
            visit(mm.hugetlb().page(leaf.frame).mapcount());
        }
    }
}
