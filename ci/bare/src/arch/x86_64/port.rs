//! The processor's I/O ports.

use core::arch::asm;

/// Writes `value` to `port`.
///
/// # Safety
///
/// Whatever device is there does nothing to memory the program uses.
pub(crate) unsafe fn write(port: u16, value: u8) {
    // SAFETY: by the contract; the program runs in ring 0, where the instruction is allowed.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) }
}

/// Reads from `port`.
///
/// # Safety
///
/// Whatever device is there does nothing to memory the program uses.
pub(crate) unsafe fn read(port: u16) -> u8 {
    let value;
    // SAFETY: by the contract; the program runs in ring 0, where the instruction is allowed.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) }
    value
}
