//! Address spaces on the processor.

use core::arch::asm;

/// Bit 47 upwards: where `boot.s` maps all memory a second time, in entry 256 of the root.
const UPPER_HALF: u64 = 0xffff_8000_0000_0000;

/// The entry of a root that maps it.
const UPPER_HALF_ENTRY: usize = 256;

const PAGE_SIZE: u64 = 4096;

/// Loads the `u64` at `address` in the address space whose root is the frame `root`.
///
/// # Safety
///
/// `root` is the root of page tables that stay as they are meanwhile, with nothing of the owner's in the upper half, and
/// they map `address`.
pub(crate) unsafe fn load(root: u64, address: u64) -> u64 {
    // The upper half of every root is the kernel's: the program goes on there while the root is in use, since the lower
    // half, where it was linked, is the address space's.
    let boot_root: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) boot_root, options(nomem, nostack, preserves_flags)) };
    let [ours, theirs] = [boot_root & !(PAGE_SIZE - 1), root * PAGE_SIZE]
        .map(|table| (table as *mut u64).wrapping_add(UPPER_HALF_ENTRY));
    // SAFETY: a table of `boot.s`, which nobody writes to.
    let kernel_half = unsafe { ours.read_volatile() };
    // SAFETY: a table by the contract; no other processor writes to it, and the entry is the kernel's.
    unsafe { theirs.write_volatile(kernel_half) };

    let value;
    // SAFETY: the code between the two writes to cr3 runs in the upper half and uses no stack, and interrupts are off; the
    // load is of mapped memory by the contract. Each write to cr3 flushes the TLB, for no entry is global.
    unsafe {
        asm!(
            "lea {there}, [rip + 2f]",
            "add {there}, {upper_half}",
            "jmp {there}",
            "2:",
            "mov cr3, {root}",
            "mov {value}, [{address}]",
            "mov cr3, {boot_root}",
            "lea {there}, [rip + 3f]",
            "sub {there}, {upper_half}",
            "jmp {there}",
            "3:",
            there = out(reg) _,
            value = out(reg) value,
            upper_half = in(reg) UPPER_HALF,
            root = in(reg) root * PAGE_SIZE,
            boot_root = in(reg) boot_root,
            address = in(reg) address,
            options(nostack),
        );
    }
    value
}
