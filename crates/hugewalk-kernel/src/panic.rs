//! What happens when the kernel is wrong: it says so, with a backtrace, and ends the run. docs/kernel.md has the form.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::arch::{self, interrupts};
use crate::console::{end, report_unlocked};

unsafe extern "C" {
    static kernel_text: u8;
    static kernel_text_end: u8;
}

static DYING: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let frame = arch::frame_pointer();
    match info.location() {
        Some(at) => die(format_args!("{} at {}:{}", OneLine(info.message()), at.file(), at.line()), 0, frame),
        None => die(format_args!("{}", OneLine(info.message())), 0, frame),
    }
}

/// Says what went wrong, and the way there: `at`, then the chain of frame pointers from `frame` on.
pub fn die(what: fmt::Arguments<'_>, at: u64, frame: u64) -> ! {
    interrupts::disable();
    if DYING.swap(true, Ordering::SeqCst) {
        // Another processor is at it; or this one failed while it was.
        loop {
            interrupts::wait();
        }
    }
    report_unlocked(format_args!("panic {what}"));
    let text = (&raw const kernel_text).addr() as u64..(&raw const kernel_text_end).addr() as u64;
    if at != 0 {
        report_unlocked(format_args!("at {at:#x}"));
    }
    let mut frame = frame;
    for _ in 0..40 {
        // Frames lie in the kernel's half, and callers above callees.
        if frame < 0xffff_8000_0000_0000 || !frame.is_multiple_of(8) {
            break;
        }
        let words = core::ptr::with_exposed_provenance::<u64>(frame as usize);
        // SAFETY: the chain of frame pointers of the kernel's own stack. `core` was compiled without frame pointers; where it
        // breaks the chain, the address is refused above or below.
        let next = unsafe { words.read_volatile() };
        // SAFETY: as above; the return address lies beside it.
        let back = unsafe { words.wrapping_add(1).read_volatile() };
        if !text.contains(&back) {
            break;
        }
        report_unlocked(format_args!("at {back:#x}"));
        if next <= frame {
            break;
        }
        frame = next;
    }
    end()
}

/// A message whose line ends are spaces.
struct OneLine<T>(T);

impl<T: fmt::Display> fmt::Display for OneLine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Flat<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl fmt::Write for Flat<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for piece in text.split_inclusive('\n') {
                    match piece.strip_suffix('\n') {
                        Some(line) => write!(self.0, "{line} ")?,
                        None => self.0.write_str(piece)?,
                    }
                }
                Ok(())
            }
        }
        fmt::Write::write_fmt(&mut Flat(f), format_args!("{}", self.0))
    }
}
