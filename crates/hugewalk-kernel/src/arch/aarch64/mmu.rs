//! The root registers, and translations. All of programs have ASID 0, so whoever loads a root drops those of the one before.

use core::arch::asm;
use core::ops::Range;

use hugewalk::arch::Barrier;

use crate::memory::physical;

/// Flushes reach all processors by themselves: nobody is interrupted for one.
pub const FLUSHES_ARE_BROADCAST: bool = true;

/// More addresses than these are flushed as all. Linux: `MAX_DVM_OPS` in arch/arm64/include/asm/tlbflush.h, for the same reason.
const MOST: u64 = 64;

/// Walks go through the caches, inner shareable.
const CACHED: u64 = 3 << 4 | 1 << 2 | 1;
/// TCR_EL1: 48 bits of addresses and the 4 KiB granule in both halves, 40 bits of physical addresses, the top byte of a program's
/// addresses ignored, and the processor sets the accessed flag and the dirty state.
pub(super) const TCR: u64 =
    16 | CACHED << 8 | 16 << 16 | CACHED << 24 | 2 << 30 | 2 << 32 | 1 << 37 | 1 << 39 | 1 << 40;
/// SCTLR_EL1: the bits that are one, and: translation, caches, stacks aligned; programs may zero cache lines, read the caches'
/// type, maintain them, and wait; PAN stays as it is, off.
pub(super) const SCTLR: u64 =
    0x30d0_0800 | 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 12 | 1 << 14 | 1 << 15 | 1 << 16 | 1 << 18 | 1 << 26;

unsafe extern "C" {
    static boot_root: u8;
    static boot_empty: u8;
}

/// The kernel's own root table: that of the upper half, which is loaded for ever.
pub fn kernel_root() -> u64 {
    physical(&raw const boot_root)
}

/// What a processor loads that runs no program: nothing is mapped.
pub fn idle_root() -> u64 {
    physical(&raw const boot_empty)
}

/// Loads a root table of the lower half, and drops all translations.
///
/// # Safety
///
/// It lives until another one is loaded.
pub unsafe fn load(root: u64) {
    // SAFETY: passed on to the caller; the kernel runs in the upper half.
    unsafe {
        asm!("dsb ishst", "msr ttbr0_el1, {}", "isb", "tlbi vmalle1", "dsb nsh", "isb", in(reg) root,
            options(nostack, preserves_flags));
    }
}

/// Drops all translations of this processor.
pub fn flush_own(_: u64) {
    // SAFETY: translations are looked up again, and no more.
    unsafe { asm!("dsb nshst", "tlbi vmalle1", "dsb nsh", "isb", options(nostack, preserves_flags)) };
}

/// Copies the kernel's half into a root that the engine has made: it has a root of its own.
///
/// # Safety
///
/// It is the physical address of a root that nothing reaches yet.
pub unsafe fn fill_kernel_half(_: u64) {}

/// Bits 0 to 43 of the operand are bits 12 to 55 of the address.
const fn operand(address: u64) -> u64 {
    address >> 12 & ((1 << 44) - 1)
}

/// Drops the translations of a page, and what was cached on the way, on all processors.
pub(super) fn flush_page(address: u64) {
    // SAFETY: translations are looked up again, and no more.
    unsafe {
        asm!("dsb ishst", "tlbi vaae1is, {}", "dsb ish", "isb", in(reg) operand(address),
            options(nostack, preserves_flags));
    }
}

/// Drops the translations of a range, one address each `stride` bytes, on all processors. When it returns, no processor uses one, nor a
/// table on the way if `tables`.
pub fn flush_all_processors(range: Range<u64>, stride: u64, tables: bool) {
    if (range.end - range.start).div_ceil(stride) > MOST {
        // SAFETY: translations are looked up again, and no more.
        unsafe { asm!("dsb ishst", "tlbi vmalle1is", "dsb ish", "isb", options(nostack, preserves_flags)) };
        return;
    }
    // SAFETY: orders accesses, and no more.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) };
    for address in range.step_by(stride as usize) {
        if tables {
            // SAFETY: as above.
            unsafe { asm!("tlbi vaae1is, {}", in(reg) operand(address), options(nostack, preserves_flags)) };
        } else {
            // SAFETY: as above.
            unsafe { asm!("tlbi vaale1is, {}", in(reg) operand(address), options(nostack, preserves_flags)) };
        }
    }
    // SAFETY: waits until the flushes are done.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// An entry was stored that has become valid, or allows more: has the walks that come after see it.
pub fn entry_stored(range: Range<u64>, due: Barrier) {
    match due {
        Barrier::Nothing => {}
        // SAFETY: orders accesses, and no more.
        Barrier::Store => unsafe { asm!("dsb ishst", "isb", options(nostack, preserves_flags)) },
        Barrier::LookAgain => flush_all_processors(range.clone(), range.end - range.start, false),
    }
}

/// Code was stored in memory that programs will execute: fetches find it.
pub fn code_stored(start: *const u8, length: usize) {
    let caches: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) caches, options(nomem, nostack, preserves_flags)) };
    // CTR_EL0.DminLine: the logarithm of the words in the smallest line.
    let bytes = 4 << (caches >> 16 & 0xf);
    let first = start.addr() & !(bytes - 1);
    for line in (first..start.addr() + length).step_by(bytes) {
        // SAFETY: cleans a line of memory of the kernel's; its contents stay.
        unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: fetches look again, and no more.
    unsafe { asm!("dsb ish", "ic ialluis", "dsb ish", "isb", options(nostack, preserves_flags)) };
}
