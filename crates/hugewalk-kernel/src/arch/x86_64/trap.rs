//! What exceptions mean.

use hugewalk::fault::Access;
use linux_raw_sys::general::{
    BUS_ADRERR, FPE_INTDIV, ILL_ILLOPN, SI_KERNEL, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP, TRAP_TRACE,
};

use super::Frame;
use crate::cpu::trap;
use crate::process::signal::Cause;

#[unsafe(no_mangle)]
extern "C" fn trap_page_fault(frame: &mut Frame, address: u64) {
    const WRITE: u64 = 1 << 1;
    const FETCH: u64 = 1 << 4;
    let access = match frame.error {
        error if error & WRITE != 0 => Access::Write,
        error if error & FETCH != 0 => Access::Execute,
        _ => Access::Read,
    };
    trap::page_fault(frame, address, access);
}

#[unsafe(no_mangle)]
extern "C" fn trap_exception(frame: &mut Frame) {
    let (signal, code, address) = match frame.vector {
        0 | 16 | 19 => (SIGFPE, FPE_INTDIV, frame.rip),
        1 => (SIGTRAP, TRAP_TRACE, frame.rip),
        3 => (SIGTRAP, SI_KERNEL, 0),
        6 => (SIGILL, ILL_ILLOPN, frame.rip),
        17 => (SIGBUS, BUS_ADRERR, frame.rip),
        _ => (SIGSEGV, SI_KERNEL, 0),
    };
    trap::exception(frame, Cause::Exception { signal, code, address });
}

/// An exception in the kernel: a fault of ours.
#[unsafe(no_mangle)]
extern "C" fn trap_kernel(frame: &Frame) -> ! {
    let address: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) };
    let what = match frame.vector {
        8 => "a double fault (did a kernel stack overflow?)",
        14 => "a page fault",
        13 => "a general protection fault",
        6 => "an invalid instruction",
        _ => "an exception",
    };
    crate::panic::die(
        format_args!(
            "{what} (vector {}, error {:#x}, address {address:#x}) at {:#x}, stack {:#x}",
            frame.vector, frame.error, frame.rip, frame.rsp
        ),
        frame.rip,
        frame.rbp,
    )
}
