//! The ways out: what the program writes, the report, and the end of the run.
//!
//! docs/kernel.md says what goes where.

use core::fmt::{self, Write};

use spin::Mutex;

use crate::arch::console::{self, Channel};

/// What the program writes on its descriptors 0 and 1.
pub static OUTPUT: Mutex<Port> = Mutex::new(Port(Channel::Output));
/// What the program writes on its descriptor 2.
pub static ERRORS: Mutex<Port> = Mutex::new(Port(Channel::Errors));
/// The report.
pub static REPORT: Mutex<Report> = Mutex::new(Report { port: Port(Channel::Report), partial: 0 });

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

/// A way out that takes bytes.
pub struct Port(Channel);

impl Port {
    /// Writes bytes.
    pub fn write(&mut self, bytes: &[u8]) {
        console::write(self.0, bytes);
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
    let _ = writeln!(Port(Channel::Report), "{line}");
}

/// Ends the machine, when what was written is out. The report has said why.
pub fn end() -> ! {
    console::end()
}
