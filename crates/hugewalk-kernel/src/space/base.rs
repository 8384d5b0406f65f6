//! Entries of base pages, in tables of the kernel's that hang in the engine's tree.
//!
//! # Protocol
//!
//! A spinning lock of the address space guards the entries. A table is put into the tree when an entry in it is to be filled,
//! and is taken out when its last entry is cleared. Whoever looks for a table does so under that lock, in a read section, and a
//! table is taken out under the lock too: so a table that was found stays until the lock is released.
//!
//! The order is: lock of the areas, the engine's mmap lock, lock of a table of the engine's, lock of the entries. Only who
//! puts tables in or takes them out has the first three.
//!
//! Entries keep a reference to their [`BasePage`], present or not. One that keeps none may say what a handler of page faults
//! wants there: a *marker*, which is [`PROTECTED`](bits::PROTECTED) or [`POISONED`](bits::POISONED).

use alloc::vec::Vec;

use hugewalk::Task;
use hugewalk::addr::{TableFrame, VirtAddr};
use hugewalk::base::host_table;

use super::Space;
use super::root::{bits, entry, read};
use crate::arch;
use crate::cpu::shootdown;
use crate::memory::frames::{self, Kind};
use crate::memory::page::BasePage;
use crate::memory::{HUGE, PAGE};
use crate::platform::Kernel;
use crate::task::current;

/// Stores the entry for an address.
fn write(entry: *mut u64, at: u64, value: u64) {
    // SAFETY: an entry of a table of the kernel's, under the lock of the entries.
    unsafe { arch::entry::store(entry, at, value) };
}

fn range(start: u64, end: u64) -> core::ops::Range<VirtAddr> {
    VirtAddr::new(start)..VirtAddr::new(end)
}

/// The entries of a table that lie in a range, by address. `block` is the first address that the table translates.
fn entries_within(
    table: TableFrame,
    block: u64,
    start: u64,
    end: u64,
) -> impl Iterator<Item = (u64, *mut u64)> {
    let (start, end) = (block.max(start), (block + HUGE).min(end));
    (start..end).step_by(PAGE as usize).map(move |at| (at, entry(table.0 * PAGE, at, 0)))
}

/// Why the entry of a base page was not replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReplaced {
    /// It is not what the caller has seen.
    Changed,
    /// There is no memory for its table.
    OutOfMemory,
}

impl Space {
    /// Works on the entry of a base page, if there is a table for it. `None` too if there is no memory to look with.
    fn with_entry<R>(&self, task: &Task<Kernel>, at: u64, work: impl FnOnce(*mut u64) -> R) -> Option<R> {
        let _guard = self.root().lock_entries();
        let section = task.rcu_read_lock();
        let table = host_table(&section, self.engine().mm(), VirtAddr::new(at))?;
        Some(work(entry(table.0 * PAGE, at, 0)))
    }

    /// The entry of a base page, or 0.
    pub fn base(&self, at: u64) -> u64 {
        let Ok(task) = current().task() else { return 0 };
        self.with_entry(&task, at, read).unwrap_or(0)
    }

    /// Changes the entry of a base page, if it is what the caller has seen. What the old entry kept is the caller's, and so is
    /// the flush. Sleeps.
    ///
    /// # Errors
    ///
    /// [`NotReplaced`].
    pub fn replace(&self, at: u64, old: u64, new: u64) -> Result<(), NotReplaced> {
        loop {
            if !self.make_table(at) {
                return Err(NotReplaced::OutOfMemory);
            }
            let task = current().task().map_err(|_| NotReplaced::OutOfMemory)?;
            match self.replace_with(&task, at, old, new) {
                Some(true) => return Ok(()),
                Some(false) => return Err(NotReplaced::Changed),
                // The last page of the table was thrown away by another thread, and the table with it.
                None => {}
            }
        }
    }

    /// As [`replace`](Self::replace), if there is a table: did the entry hold what the caller has seen? Does not sleep.
    pub(super) fn replace_with(&self, task: &Task<Kernel>, at: u64, old: u64, new: u64) -> Option<bool> {
        const SET_BY_PROCESSOR: u64 = bits::ACCESSED | bits::DIRTY;
        self.with_entry(task, at, |slot| {
            let is_seen = read(slot) & !SET_BY_PROCESSOR == old & !SET_BY_PROCESSOR;
            if is_seen {
                write(slot, at, new);
            }
            is_seen
        })
    }

    /// Makes sure that there is a table for the entry of a base page, whose address is in an area. False if there is no memory.
    /// Sleeps.
    pub fn make_table(&self, at: u64) -> bool {
        let Ok(mut task) = current().task() else { return false };
        if self.with_entry(&task, at, |_| ()).is_some() {
            return true;
        }
        let Some(table) = frames::allocate_zeroed(Kind::Table) else { return false };
        let mmap = self.engine().mmap_read(&mut task);
        let put = mmap.host_slot(&mut task, VirtAddr::new(at), |slot| {
            // SAFETY: its entries are empty, and will keep pages of programs only. It is freed once it was taken out.
            unsafe { slot.put(TableFrame(table / PAGE)) }
        });
        drop(mmap);
        if put != Ok(Ok(())) {
            // SAFETY: allocated above, and put nowhere.
            unsafe { frames::free(table, Kind::Table) };
        }
        // If something was there, another thread has made one.
        put.is_ok()
    }

    /// The blocks of a range that have tables: their first addresses. Sleeps.
    pub(super) fn blocks(&self, start: u64, end: u64) -> Vec<u64> {
        let mut blocks = Vec::new();
        self.each_table(start, end, |_, _, block| {
            blocks.push(block);
            false
        });
        blocks
    }

    /// Visits the tables in a range with the lock of the entries held. `visit` says whether the table is to be flushed.
    fn each_table(
        &self,
        start: u64,
        end: u64,
        mut visit: impl FnMut(&Task<Kernel>, TableFrame, u64) -> bool,
    ) {
        let Ok(mut task) = current().task() else { return };
        let mmap = self.engine().mmap_read(&mut task);
        let visited = mmap.host_slots(&task, range(start, end), |slot| {
            let Some(table) = slot.table() else { return };
            let _guard = self.root().lock_entries();
            if visit(&task, table, slot.address().as_u64()) {
                slot.flush();
            }
        });
        debug_assert!(visited.is_ok(), "the task is the kernel's");
    }

    /// Changes the entries in a range that keep base pages or are markers, and flushes. The function is called with the lock of the
    /// entries held; what it is given beside the entry is the task. What it makes of an entry keeps the same page. Sleeps.
    pub fn change(&self, start: u64, end: u64, mut change: impl FnMut(&Task<Kernel>, u64, u64) -> u64) {
        self.each_table(start, end, |task, table, block| {
            let mut flush = false;
            for (at, slot) in entries_within(table, block, start, end) {
                let now = read(slot);
                if now != 0 {
                    write(slot, at, change(task, at, now));
                    flush = true;
                }
            }
            flush
        });
    }

    /// Calls `visit` for the entries in a range that keep base pages or are markers, with the lock of the entries held. Sleeps.
    pub fn visit(&self, start: u64, end: u64, mut visit: impl FnMut(u64, u64)) {
        self.each_table(start, end, |_, table, block| {
            let used = entries_within(table, block, start, end).map(|(at, slot)| (at, read(slot)));
            used.filter(|(_, now)| *now != 0).for_each(|(at, now)| visit(at, now));
            false
        });
    }

    /// Drops the translation that processors have of a base page.
    pub fn flush(&self, at: u64) {
        shootdown::flush(at..at + PAGE, PAGE, false, || self.root().processors());
    }

    /// Clears the entries of base pages in a range, takes out the tables that are empty then, flushes, and frees both. Sleeps.
    pub fn clear(&self, start: u64, end: u64) {
        self.clear_but(start, end, 0);
    }

    /// As [`clear`](Self::clear), but leaves markers with these bits of what was there.
    pub(super) fn clear_but(&self, start: u64, end: u64, kept: u64) {
        let mut pages = Vec::new();
        let mut tables = Vec::new();
        let mut from = start;
        while from < end {
            // In pieces, so that the lists stay small.
            let to = end.min((from | (64 * HUGE - 1)).saturating_add(1));
            let Ok(mut task) = current().task() else { return };
            let mmap = self.engine().mmap_read(&mut task);
            let visited = mmap.host_slots(&task, range(from, to), |slot| {
                let Some(table) = slot.table() else { return };
                let block = slot.address().as_u64();
                let _guard = self.root().lock_entries();
                for (at, entry) in entries_within(table, block, from, to) {
                    let now = read(entry);
                    write(entry, at, now & kept);
                    if now & bits::KEPT != 0 {
                        pages.push(now & bits::FRAME);
                        slot.flush();
                    }
                }
                if entries_within(table, block, block, block + HUGE).all(|(_, entry)| read(entry) == 0) {
                    tables.extend(slot.take());
                }
            });
            debug_assert!(visited.is_ok(), "the task is the kernel's");
            drop(mmap);
            drop(task);
            for page in pages.drain(..) {
                // SAFETY: the entry that kept the reference is cleared, and no processor uses it any more.
                drop(unsafe { BasePage::from_address(page) });
            }
            for table in tables.drain(..) {
                // SAFETY: taken out under the lock of the entries, and flushed. Whoever has found it has released that lock.
                unsafe { frames::free(table.0 * PAGE, Kind::Table) };
            }
            from = to;
        }
    }

    /// Finds the tables of 2 MiB entries that the processor reaches: their frames. For reports.
    pub fn middle_tables(&self, found: impl FnMut(u64)) {
        if let Ok(task) = current().task() {
            let _section = task.rcu_read_lock();
            self.root().middle_tables(found);
        }
    }
}
