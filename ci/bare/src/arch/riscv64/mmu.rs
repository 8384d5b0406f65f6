//! Address spaces on the processor: satp. All translations have ASID 0.
//!
//! RISC-V privileged architecture: "Supervisor Address Translation and Protection (satp) Register", "Supervisor
//! Memory-Management Fence Instruction".

use core::arch::asm;
use core::ops::Range;

use bare::{Access, Flush, Machine, Mmu, Trap};
use hugewalk::arch::{Barrier, Paging, Riscv64};

use super::Bare;

/// The first of the kernel's entries in a root.
const KERNEL: usize = 256;
const ENTRIES: usize = 512;

/// The physical address of the kernel's table of level 2.
fn kernel_table() -> u64 {
    unsafe extern "C" {
        static boot_root: [u64; ENTRIES];
    }
    (&raw const boot_root).addr() as u64 - Bare::LINEAR
}

/// An entry that leads to this table.
const fn table(physical: u64) -> u64 {
    physical >> 12 << 10 | 1
}

/// For Sv57, the kernel's table of level 3.
#[repr(C, align(4096))]
struct Middle([u64; ENTRIES]);

pub(crate) struct Processor;

impl Mmu<Riscv64> for Processor {
    unsafe fn enter(&self, paging: &Riscv64, root: u64) {
        let mode = match paging.geometry().levels {
            3 => 8,
            4 => 9,
            _ => 10,
        };
        // SAFETY: the root has the kernel's half, by `init_root`, and the caller answers for the lower one.
        unsafe {
            asm!(
                "csrw satp, {satp}",
                "sfence.vma",
                satp = in(reg) mode << 60 | root >> 12,
                options(nostack, preserves_flags),
            );
        }
        let satp: u64;
        // SAFETY: reads a register.
        unsafe { asm!("csrr {}, satp", out(reg) satp, options(nomem, nostack, preserves_flags)) };
        assert_eq!(satp >> 60, mode, "the processor has this mode");
    }

    fn leave(&self) {
        let satp = 8 << 60 | kernel_table() >> 12;
        // SAFETY: with Sv39 it is a root, it maps the program, and its lower half nobody uses.
        unsafe { asm!("csrw satp, {}", "sfence.vma", in(reg) satp, options(nostack, preserves_flags)) };
    }

    unsafe fn init_root(&self, paging: &Riscv64, root: u64) {
        static mut MIDDLE: Middle = Middle([0; ENTRIES]);

        let root = (root + Bare::LINEAR) as *mut u64;
        let kernel = kernel_table();
        match paging.geometry().levels {
            3 => {
                for index in KERNEL..ENTRIES {
                    let from = ((kernel + Bare::LINEAR) as *const u64).wrapping_add(index);
                    // SAFETY: entries of `boot.s`'s table, which nobody writes to.
                    let entry = unsafe { from.read_volatile() };
                    // SAFETY: a table of the caller's, which nothing reaches yet.
                    unsafe { root.wrapping_add(index).write_volatile(entry) };
                }
            }
            levels => {
                let mut next = kernel;
                if levels > 4 {
                    let middle = (&raw mut MIDDLE).cast::<u64>();
                    // SAFETY: its last entry, which is always set to the same value.
                    unsafe { middle.wrapping_add(ENTRIES - 1).write_volatile(table(kernel)) };
                    next = middle.addr() as u64 - Bare::LINEAR;
                }
                // SAFETY: a table of the caller's, which nothing reaches yet.
                unsafe { root.wrapping_add(ENTRIES - 1).write_volatile(table(next)) };
            }
        }
    }

    fn load(&self, address: u64) -> Result<u64, Trap> {
        super::super::load(address).map_err(|cause| trap(cause, Access::Load))
    }

    unsafe fn store(&self, address: u64, value: u64) -> Result<(), Trap> {
        // SAFETY: passed on to the caller.
        unsafe { super::super::store(address, value) }.map_err(|cause| trap(cause, Access::Store))
    }

    fn barrier(&self, barrier: Barrier, address: u64) {
        if barrier != Barrier::Nothing {
            self.flush(address..address + 1, 1, Flush::Leaves);
        }
    }

    fn flush_all(&self) {
        // SAFETY: translations are looked up again, and no more.
        unsafe { asm!("sfence.vma", options(nostack, preserves_flags)) };
    }

    fn flush(&self, range: Range<u64>, stride: u64, what: Flush) {
        // The fence of an address is for the leaves alone.
        if what == Flush::LeavesAndTables {
            self.flush_all();
            return;
        }
        for address in range.step_by(stride as usize) {
            // SAFETY: translations are looked up again, and no more.
            unsafe { asm!("sfence.vma {}", in(reg) address, options(nostack, preserves_flags)) };
        }
    }
}

/// scause. Page faults do not say whether something was mapped.
fn trap(cause: u64, access: Access) -> Trap {
    let expected = match access {
        Access::Load => 13,
        Access::Store => 15,
    };
    assert_eq!(cause, expected, "a page fault of this access");
    Trap::Unsaid
}
