//! Interrupts of the calling processor: PSTATE.I.

use core::arch::asm;

const MASKED: u64 = 1 << 7;

/// Turns them on.
pub fn enable() {
    // SAFETY: the handlers touch nothing but what is theirs.
    unsafe { asm!("msr daifclr, #2", options(nostack, preserves_flags)) };
}

/// Turns them off.
pub fn disable() {
    // SAFETY: changes no memory.
    unsafe { asm!("msr daifset, #2", options(nostack, preserves_flags)) };
}

/// Are they on?
pub fn are_enabled() -> bool {
    let mask: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, daif", out(reg) mask, options(nomem, nostack, preserves_flags)) };
    mask & MASKED == 0
}

/// Does something with interrupts off.
pub fn without_interrupts<R>(work: impl FnOnce() -> R) -> R {
    let were = are_enabled();
    disable();
    let done = work();
    if were {
        enable();
    }
    done
}

/// Sleeps until one comes, on or off.
pub fn wait() {
    // SAFETY: changes no memory.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) };
}

/// Turns them on, and sleeps until one has come. One that came before ends the sleep too, since it is turned on afterwards.
pub fn enable_and_wait() {
    wait();
    enable();
}
