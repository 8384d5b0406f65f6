//! Input and output by port.

use ::x86_64::instructions::port::Port;

/// Writes a byte.
///
/// # Safety
///
/// What the device at the port does with it breaks no promise of Rust's: it touches no memory that is in use.
pub unsafe fn write8(port: u16, value: u8) {
    // SAFETY: passed on to the caller.
    unsafe { Port::<u8>::new(port).write(value) };
}

/// Reads a byte.
///
/// # Safety
///
/// As for [`write8`].
pub unsafe fn read8(port: u16) -> u8 {
    // SAFETY: passed on to the caller.
    unsafe { Port::<u8>::new(port).read() }
}

/// Writes a word of 32 bits.
///
/// # Safety
///
/// As for [`write8`].
pub unsafe fn write32(port: u16, value: u32) {
    // SAFETY: passed on to the caller.
    unsafe { Port::<u32>::new(port).write(value) };
}
