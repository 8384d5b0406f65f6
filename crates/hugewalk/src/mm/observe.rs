//! What an address space holds, for reports: its tables and how they are shared, its pages and whether
//! others map them.

use alloc::vec::Vec;
use core::ops::Range;

use crate::addr::{HugeSize, VirtAddr};
use crate::entries::by_table;
use crate::error::MapError;
use crate::error::WrongSystem;
use crate::pagewalk::{Found, Visitor, walk_table};
use crate::platform::Platform;
use crate::space::AddressSpace;
use crate::sync::try_push;
use crate::table::{Slot, Stable};
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

impl<P: Platform> Visitor<P> for Residency {
    fn entry(&mut self, found: &Found<'_, P>) {
        // A page under migration is counted too.
        if found.entry().page().is_some() {
            *(if found.is_page_shared() { &mut self.shared } else { &mut self.private }) += 1;
        }
    }
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
    /// Counts the pages that each mapping reaches, in pages of its own size, and calls `visit` with the
    /// result. Sleeps.
    ///
    /// Takes the mmap lock in read, and holds it while it calls `visit`, which must not call back into the
    /// address space. It walks under RCU, so a table that others change meanwhile is counted as it was
    /// found.
    ///
    /// Linux: `smaps_hugetlb_range()` in fs/proc/task_mmu.c.
    ///
    /// # Errors
    ///
    /// [`WrongSystem`] if the task belongs to another system: nothing was visited then.
    pub fn residency(
        &self,
        task: &mut Task<P>,
        mut visit: impl FnMut(&Vma<P>, Residency),
    ) -> Result<(), WrongSystem> {
        task.check(self.mm().hugetlb())?;
        let mmap = self.mmap_read(task);
        for vma in mmap.vmas() {
            let mut residency = Residency::default();
            for part in by_table(vma.mm().geometry(), vma.start()..vma.end(), vma.size()) {
                walk_table(task, vma, part, &mut residency);
            }
            visit(vma, residency);
        }
        Ok(())
    }

    /// The tables that hold the leaves of this address space. Sleeps. Linux has no such report.
    ///
    /// Takes the mmap lock and the VMA locks in read.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfMemory`] if there is no memory for the list, [`MapError::WrongSystem`].
    pub fn tables(&self, task: &mut Task<P>) -> Result<Vec<TableUse>, MapError> {
        self.tables_counting(task, |_, _| true)
    }

    /// As [`tables`](Self::tables), but counts the leaves of a table only if `wanted` returns true for its
    /// identity and its users; otherwise they are 0. So a caller that looks at thousands of address spaces
    /// need not count a shared table once for each of them.
    ///
    /// # Errors
    ///
    /// As for [`tables`](Self::tables).
    pub fn tables_counting(
        &self,
        task: &mut Task<P>,
        mut wanted: impl FnMut(u64, u64) -> bool,
    ) -> Result<Vec<TableUse>, MapError> {
        task.check(self.mm().hugetlb())?;
        let mut found: Vec<TableUse> = Vec::new();
        let mut result = Ok(());
        let mmap = self.mmap_read(task);
        for vma in mmap.vmas() {
            let Some(locked) = mmap.lock_vma(vma, task) else {
                continue;
            };
            let size = vma.size();
            each_table(&locked, |part, slot| {
                let start = vma.table_range(part.start).start;
                // Two mappings can have leaves in one table, and tables of another size may lie between the
                // two finds.
                let last = found.iter().rev().find(|table| table.size == size);
                if last.is_some_and(|last| last.start == start) {
                    return;
                }
                let (identity, users) = (slot.table_identity(), slot.sharers() + 1);
                let leaves = if wanted(identity, users) { slot.count_leaves() } else { 0 };
                let table = TableUse { start, size, identity, users, leaves };
                if let Err(error) = try_push(&mut found, table) {
                    result = Err(error);
                }
            });
        }
        result?;
        Ok(found)
    }
}

fn each_table<P: Platform>(
    locked: &VmaReadGuard<'_, P>,
    mut visit: impl FnMut(Range<VirtAddr>, &Slot<'_, P, Stable>),
) {
    let vma = locked.vma();
    for part in by_table(vma.mm().geometry(), vma.start()..vma.end(), vma.size()) {
        if let Ok(Some(slot)) = huge_pte_offset(locked, vma.mm(), part.start, vma.size()) {
            visit(part, &slot);
        }
    }
}
