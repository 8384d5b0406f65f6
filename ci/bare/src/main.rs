//! The proof on a bare machine of QEMU's: x86-64 `q35`, arm64 `virt` or riscv64 `virt`.
//!
//! [`arch`] brings the processor here, maps all memory in its upper half, and answers exceptions. Interrupts stay off.

#![no_std]
#![no_main]

mod arch;

use core::panic::PanicInfo;

use arch::Bare;

/// Where each machine's start code ends: memory mapped at [`LINEAR`](bare::Machine::LINEAR), a stack, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn start() -> ! {
    arch::set_up();
    bare::run::<Bare>()
}

/// An exception that nobody waits for: from the vectors of each machine.
#[unsafe(no_mangle)]
extern "C" fn unexpected(cause: u64, instruction: u64, address: u64) -> ! {
    panic!("exception {cause:#x} at {instruction:#x}, address {address:#x}")
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    bare::panic::<Bare>(info)
}
