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
pub static REPORT: Mutex<Report> = Mutex::new(Report { port: Port(REPORT_PORT), partial: 0 });

/// The channel of the report.
pub struct Report {
    port: Port,
    /// The thread whose line of the trace is not ended yet, or 0.
    pub partial: u32,
}

impl Report {
    /// Ends a line that is not ended: another one comes.
    pub fn interrupt(&mut self) {
        if core::mem::take(&mut self.partial) != 0 {
            self.port.write(b" <unfinished ...>\n");
        }
    }
}

impl Write for Report {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.port.write_str(text)
    }
}

const REPORT_PORT: u16 = 0xe9;

/// A port that takes bytes: a serial port, or QEMU's debug console, which waits by itself until somebody has taken them.
pub struct Port(u16);

/// Bytes that a serial port takes at once.
const QUEUE: usize = 16;

impl Port {
    /// Writes bytes.
    pub fn write(&mut self, bytes: &[u8]) {
        for bytes in bytes.chunks(QUEUE) {
            if self.0 != REPORT_PORT {
                self.wait();
            }
            for byte in bytes {
                // SAFETY: a serial port, or QEMU's debug console: neither touches memory.
                unsafe { port::write8(self.0, *byte) };
            }
        }
    }

    /// Waits until a serial port's queue is empty. A byte that comes too early is lost: QEMU keeps a full queue while nobody reads
    /// at the other end.
    fn wait(&self) {
        // SAFETY: the register that switches the queue on.
        unsafe { port::write8(self.0 + 2, 1) };
        // SAFETY: the register that says how the line is doing; bit 5 is set when the queue is empty.
        while unsafe { port::read8(self.0 + 5) } & 0x20 == 0 {
            core::hint::spin_loop();
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
    let mut report = REPORT.lock();
    report.interrupt();
    // Ports take every byte.
    let _ = writeln!(report, "{line}");
}

/// As [`report`], from a panic: the lock may be held by a processor that will never let it go.
pub fn report_unlocked(line: fmt::Arguments<'_>) {
    let _ = writeln!(Port(REPORT_PORT), "{line}");
}

/// Ends QEMU, when what was written is out. The report has said why.
pub fn end() -> ! {
    for port in [0x3f8, 0x2f8] {
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
        x86_64::instructions::hlt();
    }
}
