//! Address spaces on the processor: CR3.

use core::arch::asm;
use core::ops::Range;

use bare::{Access, Flush, Machine, Mmu, Trap};
use hugewalk::arch::{Barrier, X86_64};

use super::Bare;

/// The first of the kernel's entries in a root.
const KERNEL: usize = 256;
const ENTRIES: usize = 512;

pub(crate) struct Processor;

/// Was CR4.LA57 set by `boot.s`?
pub(crate) fn has_five_levels() -> bool {
    let cr4: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags)) };
    cr4 >> 12 & 1 != 0
}

/// The root that `boot.s` made.
fn boot_root() -> *const u64 {
    unsafe extern "C" {
        static boot_pml4: [u64; ENTRIES];
        static boot_pml5: [u64; ENTRIES];
    }
    if has_five_levels() { (&raw const boot_pml5).cast() } else { (&raw const boot_pml4).cast() }
}

impl Mmu<X86_64> for Processor {
    // Flushes the TLB, for no entry is global.
    unsafe fn enter(&self, _: &X86_64, root: u64) {
        // SAFETY: the root has the kernel's half, by `init_root`, and the caller answers for the lower one.
        unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
    }

    fn leave(&self) {
        let root = boot_root().addr() as u64 - Bare::LINEAR;
        // SAFETY: it maps the program, and its lower half nobody uses.
        unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
    }

    unsafe fn init_root(&self, _: &X86_64, root: u64) {
        let root = (root + Bare::LINEAR) as *mut u64;
        for index in KERNEL..ENTRIES {
            // SAFETY: an entry of `boot.s`'s table, which nobody writes to.
            let entry = unsafe { boot_root().wrapping_add(index).read_volatile() };
            // SAFETY: a table of the caller's, which nothing reaches yet.
            unsafe { root.wrapping_add(index).write_volatile(entry) };
        }
    }

    fn load(&self, address: u64) -> Result<u64, Trap> {
        super::super::load(address).map_err(|error| trap(error, Access::Load))
    }

    unsafe fn store(&self, address: u64, value: u64) -> Result<(), Trap> {
        // SAFETY: passed on to the caller.
        unsafe { super::super::store(address, value) }.map_err(|error| trap(error, Access::Store))
    }

    fn barrier(&self, barrier: Barrier, address: u64) {
        if barrier == Barrier::LookAgain {
            self.flush(address..address + 1, 1, Flush::Leaves);
        }
    }

    fn flush_all(&self) {
        // SAFETY: the root stays; no entry is global.
        unsafe {
            asm!("mov {root}, cr3", "mov cr3, {root}", root = out(reg) _, options(nostack, preserves_flags))
        };
    }

    // INVLPG drops what is cached of the tables, too.
    fn flush(&self, range: Range<u64>, stride: u64, _: Flush) {
        for address in range.step_by(stride as usize) {
            // SAFETY: translations are looked up again, and no more.
            unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
        }
    }
}

/// The error code of a page fault.
fn trap(error: u64, access: Access) -> Trap {
    let [present, writes, reserved] = [0, 1, 3].map(|bit| error >> bit & 1 != 0);
    assert!(!reserved && writes == (access == Access::Store), "a page fault of this access: {error:#x}");
    if present { Trap::Denied } else { Trap::Missing }
}
