//! Kernel stacks: 64 KiB each, below which nothing is mapped.
//!
//! They lie in a part of the kernel's half of their own. A stack that runs over meets the hole below it, and the double fault
//! that follows is reported. Stacks are kept when their threads end, and used again: nothing here is ever unmapped.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use crate::arch::entry::{kernel_page, kernel_table};
use crate::arch::mmu::kernel_root;

use super::frames::{self, Kind};
use super::{PAGE, direct};

/// Bytes of a stack. The hole below is as large.
pub const SIZE: u64 = 64 << 10;
const FIRST: u64 = 0xffff_c000_0000_0000;

static NEXT: AtomicU64 = AtomicU64::new(FIRST + SIZE);
static SPARE: Mutex<Vec<u64>> = Mutex::new(Vec::new());
static IN_USE: AtomicU64 = AtomicU64::new(0);
/// Guards the tables that map stacks.
static TABLES: Mutex<()> = Mutex::new(());

/// Stacks that threads have.
pub fn in_use() -> u64 {
    IN_USE.load(Ordering::Relaxed)
}

/// Makes the table that all roots share. Called once, before there is another root.
pub fn set_up() {
    let entry = direct::<u64>(kernel_root() + (FIRST >> 39 & 511) * 8);
    let table = frames::allocate_zeroed(Kind::Kernel).expect("memory at the start");
    // SAFETY: the kernel's root, which nobody else changes.
    unsafe { entry.write_volatile(kernel_table(table)) };
}

/// The stack of a thread in the kernel. Dropping it keeps it for the next thread.
pub struct KernelStack(u64);

impl KernelStack {
    /// A stack. `None` if there is no memory.
    pub fn new() -> Option<Self> {
        let spare = SPARE.lock().pop();
        let start = match spare {
            Some(start) => start,
            None => {
                let start = NEXT.fetch_add(2 * SIZE, Ordering::Relaxed);
                for offset in (0..SIZE).step_by(PAGE as usize) {
                    map(start + offset)?;
                }
                // Room for this stack in the list, so that a drop allocates nothing.
                let mut spare = SPARE.lock();
                let all = ((start - FIRST) / (2 * SIZE)) as usize + 1;
                let missing = all.saturating_sub(spare.len());
                spare.try_reserve(missing).ok()?;
                start
            }
        };
        IN_USE.fetch_add(1, Ordering::Relaxed);
        Some(Self(start))
    }

    /// The first address above it.
    pub fn top(&self) -> u64 {
        self.0 + SIZE
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        IN_USE.fetch_sub(1, Ordering::Relaxed);
        SPARE.lock().push(self.0);
    }
}

/// Maps a fresh frame at an address of the stacks.
fn map(address: u64) -> Option<()> {
    let _guard = TABLES.lock();
    let mut table = kernel_root();
    for level in [3, 2, 1] {
        let entry = direct::<u64>(table + (address >> (12 + 9 * level) & 511) * 8);
        // SAFETY: an entry of the tables for stacks, under their lock.
        let value = unsafe { entry.read_volatile() };
        table = if value == 0 {
            let table = frames::allocate_zeroed(Kind::Kernel)?;
            // SAFETY: as above; other processors see the entry whole.
            unsafe { entry.write_volatile(kernel_table(table)) };
            table
        } else {
            value & !0xfff
        };
    }
    let frame = frames::allocate(Kind::Kernel)?;
    // SAFETY: as above; nothing is mapped there yet.
    unsafe { direct::<u64>(table + (address >> 12 & 511) * 8).write_volatile(kernel_page(frame)) };
    Some(())
}
