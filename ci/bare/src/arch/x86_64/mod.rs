//! `qemu-system-x86_64 -M q35 -cpu max`, in long mode: boots by the PVH note, prints over the first serial port.

mod exceptions;
mod mmu;
mod port;
mod serial;

use core::arch::global_asm;
use core::ops::Range;

use bare::{Machine, Mmu, Outcome};
use hugewalk::arch::X86_64;

global_asm!(include_str!("boot.s"), options(att_syntax));

/// The port of QEMU's `isa-debug-exit` device: writing `n` ends the emulator with exit code `2 * n + 1`.
const DEBUG_EXIT: u16 = 0xf4;

pub(crate) struct Bare;

impl Machine for Bare {
    type Paging = X86_64;

    const LINEAR: u64 = 0xffff_8000_0000_0000;

    fn formats() -> &'static [(&'static str, X86_64)] {
        if mmu::has_five_levels() {
            &[("5 levels", X86_64::FIVE_LEVELS)]
        } else {
            &[("4 levels", X86_64::FOUR_LEVELS)]
        }
    }

    // With 3 GiB, a third of the memory of `q35` lies above the devices. The program lies in the first 256 MiB.
    fn memory() -> [Range<u64>; 2] {
        [0x1000_0000..0x8000_0000, 0x1_0000_0000..0x1_4000_0000]
    }

    fn print(bytes: &[u8]) {
        for &byte in bytes {
            serial::send(byte);
        }
    }

    fn mmu() -> Option<&'static dyn Mmu<X86_64>> {
        Some(&mmu::Processor)
    }

    fn exit(outcome: Outcome) -> ! {
        let code = match outcome {
            Outcome::Proved => 0x10,
            Outcome::Failed => 0x11,
        };
        loop {
            // SAFETY: the port belongs to the exit device, or to none on a machine without one.
            unsafe { port::write(DEBUG_EXIT, code) };
            core::hint::spin_loop();
        }
    }
}

/// The serial port, and who answers exceptions.
pub(crate) fn set_up() {
    serial::set_up();
    exceptions::set_up();
}
