//! What the processor walks for an address space: a root table of the kernel's own, into which the engine's tables are spliced.
//!
//! The engine's tree holds huge leaves only, and the engine frees its tables by its own VMAs. So tables of base pages cannot
//! hang in it. The hardware's root is the kernel's; each gigabyte of it is one of three:
//!
//! - *spliced*: the entry is a copy of the engine's, so the processor walks the engine's table itself, shared or not;
//! - *own*: a table of the kernel's, for a gigabyte with base pages, with tables of 4 KiB entries below. Huge leaves that lie in
//!   the same gigabyte are copied into it one by one;
//! - empty.
//!
//! # Protocol
//!
//! A spinning lock guards all tables of a root. [`follow`](Root::follow) makes the hardware's entries what the engine's are. It
//! is called in two places: after a fault was resolved, and in the engine's TLB flush, before the processors are interrupted.
//! The engine flushes after each clearing of an entry, and frees a table only after that. So a reader under the lock reads no
//! table that is free: it either reads before the flush takes the lock, and then the table is still there, or finds the entry
//! cleared. And a copy that is made from an old entry is made again by the flush.
//!
//! This room has a narrow interface on purpose: when the engine's tree can hold tables of the host's, it goes.

use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::{Mutex, MutexGuard};

use crate::cpu::{self, shootdown};
use crate::memory::frames::{self, Kind};
use crate::memory::page::BasePage;
use crate::memory::stack::kernel_root;
use crate::memory::{HUGE, PAGE, direct};
use crate::task::wait::WaitQueue;

/// Bits of an entry, as the processor has them.
pub mod bits {
    /// The entry is used.
    pub const PRESENT: u64 = 1;
    /// Stores are allowed.
    pub const WRITE: u64 = 1 << 1;
    /// Programs may use it.
    pub const USER: u64 = 1 << 2;
    /// The processor has used it.
    pub const ACCESSED: u64 = 1 << 5;
    /// The processor has stored through it.
    pub const DIRTY: u64 = 1 << 6;
    /// It is a leaf.
    pub const LEAF: u64 = 1 << 7;
    /// Ours: a table of the kernel's, not the engine's.
    pub const OWN: u64 = 1 << 9;
    /// Ours: the entry keeps a base page, whether or not the processor may use it.
    pub const KEPT: u64 = 1 << 10;
    /// Instruction fetches are not allowed.
    pub const NO_EXECUTE: u64 = 1 << 63;
    /// The frame.
    pub const FRAME: u64 = 0x000f_ffff_ffff_f000;
}

const TABLE: u64 = bits::PRESENT | bits::WRITE | bits::USER;
/// Bytes that one table of 2 MiB entries covers.
const GIB: u64 = 1 << 30;

/// The hardware's tables of an address space, and the processors that have them loaded.
///
/// # Invariants
///
/// Tables whose entry has [`bits::OWN`], and those of the two levels above, are this root's alone. Entries of base pages keep a
/// reference to their [`BasePage`].
pub struct Root {
    root: u64,
    /// The engine's root, or 0 if it is not known yet: then nothing is mapped.
    engine: AtomicU64,
    lock: Mutex<()>,
    /// A bit for each processor that has the root loaded.
    processors: AtomicU64,
    /// Threads that wait for messages of handlers of page faults.
    handlers: WaitQueue,
}

fn entry(table: u64, address: u64, level: u32) -> *mut u64 {
    direct::<u64>((table & bits::FRAME) + (address >> (12 + 9 * level) & 511) * 8)
}

fn read(entry: *mut u64) -> u64 {
    // SAFETY: an entry of a table that the caller has kept from being freed.
    unsafe { entry.read_volatile() }
}

fn write(entry: *mut u64, value: u64) {
    // SAFETY: an entry of a table of the root whose lock the caller holds. The processor sees it whole.
    unsafe { entry.write_volatile(value) };
}

impl Root {
    /// A root that maps the kernel's half and nothing else. `None` if there is no memory.
    pub fn new() -> Option<Self> {
        let root = frames::allocate_zeroed(Kind::Table)?;
        // SAFETY: both are whole tables; the kernel's half of the kernel's root is complete before the first other root.
        unsafe {
            ptr::copy_nonoverlapping(direct::<u64>(kernel_root() + 2048), direct::<u64>(root + 2048), 256);
        }
        Some(Self {
            root,
            engine: AtomicU64::new(0),
            lock: Mutex::new(()),
            processors: AtomicU64::new(0),
            handlers: WaitQueue::new(),
        })
    }

    /// Says where the engine's tree is.
    pub fn set_engine_root(&self, frame: u64) {
        // Release: the tree is there. Pairs with the Acquire in `engine_entry`.
        self.engine.store(frame * PAGE, Ordering::Release);
    }

    /// Loads it on the calling processor.
    pub fn load(&self) {
        if cpu::this().root.load(Ordering::Relaxed) == self.root {
            return;
        }
        // SeqCst: pairs with the fence in `shootdown::flush`.
        self.processors.fetch_or(1 << cpu::this().number(), Ordering::SeqCst);
        // SAFETY: it has the kernel's half, and is left before it is dropped.
        unsafe { cpu::load_root(self.root) };
    }

    /// The calling processor has loaded another one.
    pub fn leave(&self) {
        self.processors.fetch_and(!(1 << cpu::this().number()), Ordering::SeqCst);
    }

    /// As [`leave`](Self::leave), if it has.
    pub fn leave_unless_loaded(&self) {
        if cpu::this().root.load(Ordering::Relaxed) != self.root {
            self.leave();
        }
    }

    /// The processors that have it loaded.
    pub fn processors(&self) -> u64 {
        self.processors.load(Ordering::SeqCst)
    }

    /// Threads that wait for messages of handlers of page faults.
    pub fn handlers(&self) -> &WaitQueue {
        &self.handlers
    }

    /// The engine's entry for the gigabyte of an address. The lock is held.
    fn engine_entry(&self, address: u64) -> u64 {
        let root = self.engine.load(Ordering::Acquire);
        if root == 0 {
            return 0;
        }
        let upper = read(entry(root, address, 3));
        if upper & bits::PRESENT == 0 { 0 } else { read(entry(upper, address, 2)) }
    }

    /// Makes the hardware's entries of a range what the engine's are. False if there was no memory for a table: then the access
    /// faults again.
    pub fn follow(&self, start: u64, end: u64) -> bool {
        let guard = self.lock.lock();
        let mut done = true;
        let mut at = start & !(GIB - 1);
        while at < end {
            done &= self.follow_gib(at, start.max(at), end.min(at + GIB), &guard);
            at += GIB;
        }
        done
    }

    fn follow_gib(&self, gib: u64, start: u64, end: u64, guard: &MutexGuard<'_, ()>) -> bool {
        let theirs = self.engine_entry(gib);
        let upper = read(entry(self.root, gib, 3));
        if upper == 0 && theirs == 0 {
            return true;
        }
        let Some(table) = self.upper_table(gib, guard) else { return false };
        let ours = entry(table, gib, 2);
        let now = read(ours);
        if now & bits::OWN == 0 {
            // The accessed bit is the processor's.
            if now & !bits::ACCESSED != theirs & !bits::ACCESSED {
                write(ours, theirs);
            }
            return true;
        }
        let leaves = theirs & bits::PRESENT != 0 && theirs & bits::LEAF == 0;
        for at in (start & !(HUGE - 1)..end).step_by(HUGE as usize) {
            let slot = entry(now, at, 1);
            if read(slot) & bits::OWN == 0 {
                let leaf = if leaves { read(entry(theirs, at, 1)) } else { 0 };
                // What is not present is the engine's own business.
                write(slot, if leaf & bits::PRESENT != 0 { leaf & !bits::OWN } else { 0 });
            }
        }
        true
    }

    /// The table of 1 GiB entries for an address.
    fn upper_table(&self, address: u64, _: &MutexGuard<'_, ()>) -> Option<u64> {
        let slot = entry(self.root, address, 3);
        if read(slot) == 0 {
            write(slot, frames::allocate_zeroed(Kind::Table)? | TABLE);
        }
        Some(read(slot))
    }

    /// The place of the entry of a base page, its tables made on the way if `make`.
    fn slot(&self, address: u64, make: bool, guard: &MutexGuard<'_, ()>) -> Option<*mut u64> {
        if read(entry(self.root, address, 3)) == 0 && !make {
            return None;
        }
        let upper = entry(self.upper_table(address, guard)?, address, 2);
        if read(upper) & bits::OWN == 0 {
            if !make {
                return None;
            }
            let table = frames::allocate_zeroed(Kind::Table)?;
            let was = read(upper);
            write(upper, table | TABLE | bits::OWN);
            if was != 0 {
                // Base pages come to a gigabyte whose table was the engine's. Its leaves are copied, and processors that have
                // cached the way to the engine's table drop it.
                self.follow_gib(
                    address & !(GIB - 1),
                    address & !(GIB - 1),
                    (address & !(GIB - 1)) + GIB,
                    guard,
                );
                shootdown::flush(|| self.processors());
            }
        }
        let middle = entry(read(upper), address, 1);
        if read(middle) & bits::OWN == 0 {
            if !make {
                return None;
            }
            debug_assert!(read(middle) == 0, "a base page inside a huge one");
            write(middle, frames::allocate_zeroed(Kind::Table)? | TABLE | bits::OWN);
        }
        Some(entry(read(middle), address, 0))
    }

    /// The entry of a base page, or 0.
    pub fn base(&self, address: u64) -> u64 {
        let guard = self.lock.lock();
        self.slot(address, false, &guard).map_or(0, read)
    }

    /// Changes the entry of a base page, if it is what the caller has seen. False if it is not, or if there was no memory for a
    /// table. What the old entry kept is the caller's, and so is the flush.
    pub fn replace(&self, address: u64, old: u64, new: u64) -> bool {
        const SET_BY_PROCESSOR: u64 = bits::ACCESSED | bits::DIRTY;
        let guard = self.lock.lock();
        let Some(slot) = self.slot(address, true, &guard) else { return false };
        if read(slot) & !SET_BY_PROCESSOR != old & !SET_BY_PROCESSOR {
            return false;
        }
        write(slot, new);
        true
    }

    /// Changes the entries in a range that keep base pages, and flushes.
    pub fn change(&self, start: u64, end: u64, mut change: impl FnMut(u64, u64) -> u64) {
        {
            let guard = self.lock.lock();
            self.each(start, end, &guard, |at, slot| write(slot, change(at, read(slot))));
        }
        shootdown::flush(|| self.processors());
    }

    /// Calls `visit` for the entries in a range that keep base pages, with the lock held.
    pub fn visit(&self, start: u64, end: u64, mut visit: impl FnMut(u64, u64)) {
        let guard = self.lock.lock();
        self.each(start, end, &guard, |at, slot| visit(at, read(slot)));
    }

    fn each(&self, start: u64, end: u64, guard: &MutexGuard<'_, ()>, mut visit: impl FnMut(u64, *mut u64)) {
        let mut at = start;
        while at < end {
            let Some(slot) = self.slot(at, false, guard) else {
                at = self.next_table(at);
                continue;
            };
            if read(slot) & bits::KEPT != 0 {
                visit(at, slot);
            }
            at += PAGE;
        }
    }

    /// Where the next table of base pages may begin.
    fn next_table(&self, at: u64) -> u64 {
        let upper = read(entry(self.root, at, 3));
        if upper == 0 {
            return (at | (512 * GIB - 1)).saturating_add(1);
        }
        if read(entry(upper, at, 2)) & bits::OWN == 0 {
            return (at | (GIB - 1)).saturating_add(1);
        }
        (at | (HUGE - 1)).saturating_add(1)
    }

    /// Clears the entries of base pages in a range, frees the tables that are empty now, flushes, and frees the pages.
    pub fn clear(&self, start: u64, end: u64) {
        let mut pages = Vec::new();
        let mut tables = Vec::new();
        let mut from = start;
        while from < end {
            // In pieces, so that the lists stay small and the lock is not held for long.
            let to = end.min((from | (64 * HUGE - 1)).saturating_add(1));
            {
                let guard = self.lock.lock();
                self.each(from, to, &guard, |_, slot| {
                    pages.push(read(slot) & bits::FRAME);
                    write(slot, 0);
                });
                self.prune(from, to, &mut tables);
            }
            if !pages.is_empty() || !tables.is_empty() {
                shootdown::flush(|| self.processors());
            }
            for page in pages.drain(..) {
                // SAFETY: the entry that kept the reference is cleared, and no processor uses it any more.
                drop(unsafe { BasePage::from_address(page) });
            }
            for table in tables.drain(..) {
                // SAFETY: nothing leads to the table, and no processor has cached the way to it.
                unsafe { frames::free(table, Kind::Table) };
            }
            from = if read(entry(self.root, from, 3)) == 0 { self.next_table(from).max(to) } else { to };
        }
    }

    /// Unlinks the tables of the kernel's in a range that have no entry. The lock is held.
    fn prune(&self, start: u64, end: u64, unlinked: &mut Vec<u64>) {
        let is_empty = |table: u64| (0..512).all(|index| read(entry(table, index * PAGE, 0)) == 0);
        let mut at = start & !(HUGE - 1);
        while at < end {
            let upper = read(entry(self.root, at, 3));
            if upper == 0 {
                at = (at | (512 * GIB - 1)).saturating_add(1);
                continue;
            }
            let upper = entry(upper, at, 2);
            let middle = read(upper);
            if middle & bits::OWN != 0 {
                let slot = entry(middle, at, 1);
                let table = read(slot);
                if table & bits::OWN != 0 && is_empty(table) {
                    write(slot, 0);
                    unlinked.push(table & bits::FRAME);
                }
                let last = (at + HUGE).is_multiple_of(GIB) || at + HUGE >= end;
                if last && is_empty(middle) {
                    write(upper, self.engine_entry(at));
                    unlinked.push(middle & bits::FRAME);
                }
            }
            at += HUGE;
        }
    }

    /// Finds the tables of 2 MiB leaves that the processor reaches through this root: their frames. For the report.
    pub fn leaf_tables(&self, mut found: impl FnMut(u64)) {
        let _guard = self.lock.lock();
        for high in 0..256_u64 {
            let upper = read(entry(self.root, high << 39, 3));
            if upper == 0 {
                continue;
            }
            for middle in 0..512_u64 {
                let value = read(entry(upper, middle << 30, 2));
                if value & (bits::PRESENT | bits::LEAF | bits::OWN) == bits::PRESENT {
                    found(value & bits::FRAME);
                }
            }
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        debug_assert!(self.processors() == 0, "a root that is loaded is dropped");
        for high in 0..256_u64 {
            let upper = read(entry(self.root, high << 39, 3));
            if upper == 0 {
                continue;
            }
            for middle in 0..512_u64 {
                let own = read(entry(upper, middle << 30, 2));
                if own & bits::OWN != 0 {
                    self.drop_own(own);
                }
            }
            // SAFETY: this root's alone, by the invariants, and not loaded anywhere.
            unsafe { frames::free(upper & bits::FRAME, Kind::Table) };
        }
        // SAFETY: as above.
        unsafe { frames::free(self.root, Kind::Table) };
    }
}

impl Root {
    /// Frees a table of the kernel's, and what is below. Address spaces are emptied before they are dropped; this is for one that
    /// was not finished.
    fn drop_own(&self, table: u64) {
        for low in 0..512_u64 {
            let pages = read(entry(table, low << 21, 1));
            if pages & bits::OWN == 0 {
                continue;
            }
            for page in 0..512_u64 {
                let value = read(entry(pages, page << 12, 0));
                if value & bits::KEPT != 0 {
                    // SAFETY: the entry kept the reference, and no processor uses it.
                    drop(unsafe { BasePage::from_address(value & bits::FRAME) });
                }
            }
            // SAFETY: this root's alone, by the invariants, and not loaded anywhere.
            unsafe { frames::free(pages & bits::FRAME, Kind::Table) };
        }
        // SAFETY: as above.
        unsafe { frames::free(table & bits::FRAME, Kind::Table) };
    }
}
