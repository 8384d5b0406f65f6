//! Two serial ports and the debug console, and the device that ends QEMU.

use super::port;

/// A way out.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Channel {
    /// The first serial port.
    Output = 0x3f8,
    /// The second.
    Errors = 0x2f8,
    /// QEMU's debug console, which waits by itself until somebody has taken what it was given.
    Report = 0xe9,
}

/// Bytes that a serial port takes at once.
const QUEUE: usize = 16;

/// Writes bytes. For one processor at a time, each channel.
pub fn write(channel: Channel, bytes: &[u8]) {
    for bytes in bytes.chunks(QUEUE) {
        if channel != Channel::Report {
            wait(channel as u16);
        }
        for byte in bytes {
            // SAFETY: a serial port, or QEMU's debug console: neither touches memory.
            unsafe { port::write8(channel as u16, *byte) };
        }
    }
}

/// Waits until a serial port's queue is empty. A byte that comes too early is lost: QEMU keeps a full queue while nobody reads
/// at the other end.
fn wait(port: u16) {
    // SAFETY: the register that switches the queue on.
    unsafe { port::write8(port + 2, 1) };
    // SAFETY: the register that says how the line is doing; bit 5 is set when the queue is empty.
    while unsafe { port::read8(port + 5) } & 0x20 == 0 {
        core::hint::spin_loop();
    }
}

/// Ends QEMU, when what was written is out.
pub fn end() -> ! {
    for port in [Channel::Output as u16, Channel::Errors as u16] {
        // Bit 6: the line is idle. Not for ever: nobody may be at the other end any more.
        for _ in 0..1 << 24 {
            // SAFETY: the register that says how the line is doing.
            if unsafe { port::read8(port + 5) } & 0x40 != 0 {
                break;
            }
            core::hint::spin_loop();
        }
    }
    loop {
        // SAFETY: `isa-debug-exit` touches no memory.
        unsafe { port::write32(0xf4, 0x10) };
        super::interrupts::wait();
    }
}
