//! The ways out: two serial ports, the debug console, and the end of the run.
//!
//! docs/kernel.md says what goes where.

use core::fmt::{self, Write};

use spin::Mutex;

use crate::cpu::port;

/// What the program writes on its descriptors 0 and 1.
pub static OUTPUT: Mutex<Port> = Mutex::new(Port(0x3f8));
/// What the program writes on its descriptor 2.
pub static ERRORS: Mutex<Port> = Mutex::new(Port(0x2f8));
/// The report.
pub static REPORT: Mutex<Port> = Mutex::new(Port(0xe9));

/// A port that takes bytes. QEMU's serial ports are always ready.
pub struct Port(u16);

impl Port {
    /// Writes bytes.
    pub fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            // SAFETY: a serial port, or QEMU's debug console: neither touches memory.
            unsafe { port::write8(self.0, *byte) };
        }
    }
}

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}

/// Writes one line of the report.
pub fn report(line: fmt::Arguments<'_>) {
    // Ports take every byte.
    let _ = writeln!(REPORT.lock(), "{line}");
}

/// As [`report`], from a panic: the lock may be held by a processor that will never let it go.
pub fn report_unlocked(line: fmt::Arguments<'_>) {
    let _ = writeln!(Port(0xe9), "{line}");
}

/// Ends QEMU. The report has said why.
pub fn end() -> ! {
    loop {
        // SAFETY: `isa-debug-exit` touches no memory.
        unsafe { port::write32(0xf4, 0x10) };
        x86_64::instructions::hlt();
    }
}
