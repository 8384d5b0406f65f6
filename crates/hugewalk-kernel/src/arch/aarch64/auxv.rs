//! What the auxiliary vector says of the processor.

use core::arch::asm;

/// `AT_HWCAP`: floating point and vectors, and what of the rest needs nothing of the kernel. No SVE, no pointer authentication.
/// Linux: arch/arm64/include/uapi/asm/hwcap.h.
pub fn features() -> u64 {
    const FP: u64 = 1 << 0;
    const ASIMD: u64 = 1 << 1;
    const CRC32: u64 = 1 << 7;
    const ATOMICS: u64 = 1 << 8;
    let isar0: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, id_aa64isar0_el1", out(reg) isar0, options(nomem, nostack, preserves_flags)) };
    let mut features = FP | ASIMD;
    if isar0 >> 16 & 0xf >= 1 {
        features |= CRC32;
    }
    if isar0 >> 20 & 0xf >= 2 {
        features |= ATOMICS;
    }
    features
}
