//! The proof on a bare x86-64 machine: boots by the PVH note, runs in long mode, prints over the first serial port.
//!
//! `boot.s` brings the processor to [`start`]; there is no interrupt table, and interrupts stay off: an exception is a
//! triple fault, which resets the machine, and a reset is not the exit code of success.

#![no_std]
#![no_main]

mod mmu;
mod port;
mod serial;

use core::arch::global_asm;
use core::panic::PanicInfo;

use bare::{Machine, Outcome};
use hugewalk::addr::{TableFrame, VirtAddr};

global_asm!(include_str!("boot.s"), options(att_syntax));

/// The port of QEMU's `isa-debug-exit` device: writing `n` ends the emulator with exit code `2 * n + 1`.
const DEBUG_EXIT: u16 = 0xf4;

struct Pc;

impl Machine for Pc {
    fn print(bytes: &[u8]) {
        for &byte in bytes {
            serial::send(byte);
        }
    }

    unsafe fn load(root: TableFrame, address: VirtAddr) -> Option<u64> {
        // SAFETY: the caller's promise is passed on. No address space has anything in the upper half of its root: user
        // addresses end below it.
        Some(unsafe { mmu::load(root.0, address.as_u64()) })
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

/// Where `boot.s` ends: long mode, the first GiB mapped at its physical address, a stack, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn start() -> ! {
    serial::set_up();
    bare::run::<Pc>()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    bare::panic::<Pc>(info)
}
