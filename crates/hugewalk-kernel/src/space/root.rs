//! The root that processors load for an address space, and which of them have.
//!
//! The root and the tables below are the engine's; the kernel's half of the root is copied from the kernel's own when the engine
//! makes one. Tables of base pages are the kernel's, and hang in the same tree: see [`base`](super::base).
//!
//! [`active`](super::active) has what each processor has loaded.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU64, Ordering};

use spin::{Mutex, MutexGuard, Once};

use super::Space;
use crate::arch;
use crate::cpu;
use crate::memory::{PAGE, direct};
use crate::task::wait::WaitQueue;

/// Bits of an entry of a base page, as this kernel has them. They are those of x86-64; what another processor has in their place
/// is told where an entry is read or stored ([`arch::entry`]).
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
    /// Ours: there is no page, and a handler of page faults says there shall be none (`UFFDIO_POISON`).
    pub const POISONED: u64 = 1 << 9;
    /// Ours: the entry keeps a base page, whether or not the processor may use it.
    pub const KEPT: u64 = 1 << 10;
    /// Ours: a handler of page faults has write-protected the address, whether or not there is a page. The entry does not allow
    /// stores then.
    pub const PROTECTED: u64 = 1 << 11;
    /// Instruction fetches are not allowed.
    pub const NO_EXECUTE: u64 = 1 << 63;
    /// The frame.
    pub const FRAME: u64 = 0x000f_ffff_ffff_f000;
}

/// What the kernel knows of the root of an address space. Linux: `mm_context_t`.
pub struct Root {
    /// Its physical address, or 0 if it is not known yet.
    address: AtomicU64,
    /// Guards the entries of base pages.
    entries: Mutex<()>,
    /// A bit for each processor that has the root loaded.
    processors: AtomicU64,
    /// Threads that wait for messages of handlers of page faults.
    handlers: WaitQueue,
    /// The address space with base pages around it.
    space: Once<Weak<Space>>,
}

/// The entry for an address in a table of this level.
pub(super) fn entry(table: u64, address: u64, level: u32) -> *mut u64 {
    direct::<u64>((table & bits::FRAME) + (address >> (12 + 9 * level) & 511) * 8)
}

fn read_raw(entry: *mut u64) -> u64 {
    // SAFETY: an entry of a table that the caller has kept from being freed.
    unsafe { entry.read_volatile() }
}

/// The entry of a base page.
pub(super) fn read(entry: *mut u64) -> u64 {
    arch::entry::decode(read_raw(entry))
}

impl Root {
    /// Of an address space whose root is not known yet.
    pub const fn new() -> Self {
        Self {
            address: AtomicU64::new(0),
            entries: Mutex::new(()),
            processors: AtomicU64::new(0),
            handlers: WaitQueue::new(),
            space: Once::new(),
        }
    }

    /// Says where the root is. Called once, before a thread runs in the address space.
    pub fn set_frame(&self, frame: u64) {
        self.address.store(frame * PAGE, Ordering::Relaxed);
    }

    fn address(&self) -> u64 {
        self.address.load(Ordering::Relaxed)
    }

    /// The lock of the entries of base pages. Nothing is waited for under it.
    pub(super) fn lock_entries(&self) -> MutexGuard<'_, ()> {
        self.entries.lock()
    }

    /// The calling processor is about to load it.
    pub(super) fn enter(&self) {
        // SeqCst: pairs with the fence in `shootdown::flush`.
        self.processors.fetch_or(1 << cpu::this().number(), Ordering::SeqCst);
    }

    /// The calling processor has loaded another one.
    pub(super) fn leave(&self) {
        self.processors.fetch_and(!(1 << cpu::this().number()), Ordering::SeqCst);
    }

    /// The processors that have it loaded.
    pub fn processors(&self) -> u64 {
        self.processors.load(Ordering::SeqCst)
    }

    /// Says which address space is around the engine's. Called once.
    pub(super) fn set_space(&self, space: &Arc<Space>) {
        self.space.call_once(|| Arc::downgrade(space));
    }

    /// The address space around the engine's, if it is there already, and still.
    pub fn space(&self) -> Option<Arc<Space>> {
        self.space.get()?.upgrade()
    }

    /// Threads that wait for messages of handlers of page faults.
    pub fn handlers(&self) -> &WaitQueue {
        &self.handlers
    }

    /// Finds the tables of 2 MiB entries that the processor reaches through this root: their frames. For reports. The caller is
    /// in a read section of the engine, which keeps the tables.
    pub(super) fn middle_tables(&self, mut found: impl FnMut(u64)) {
        for high in 0..256_u64 {
            let upper = read_raw(entry(self.address(), high << 39, 3));
            let Some(upper) = arch::entry::table(upper) else { continue };
            for middle in 0..512_u64 {
                arch::entry::table(read_raw(entry(upper, middle << 30, 2))).map(&mut found);
            }
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        debug_assert!(self.processors() == 0, "a root that is loaded is dropped");
    }
}
