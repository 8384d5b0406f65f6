//! What exceptions mean: ESR_EL1.

use core::arch::asm;

use hugewalk::fault::Access;
use linux_raw_sys::general::{
    BUS_ADRALN, FPE_FLTUNK, ILL_ILLOPC, SI_KERNEL, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP, TRAP_BRKPT,
    TRAP_TRACE,
};

use super::Frame;
use crate::cpu::trap;
use crate::process::signal::Cause;

const fn class(syndrome: u64) -> u64 {
    syndrome >> 26 & 0x3f
}

/// The lower 56 bits: the top byte of a program's address is ignored.
const ADDRESS: u64 = (1 << 56) - 1;

#[unsafe(no_mangle)]
extern "C" fn trap_abort(frame: &mut Frame, address: u64) {
    const FETCH: u64 = 0x20;
    /// The access was a store (WnR), and not maintenance of a cache (CM).
    const WRITE: u64 = 1 << 6;
    const MAINTENANCE: u64 = 1 << 8;
    let address = address & ADDRESS;
    let syndrome = frame.syndrome;
    // 4 to 15: translation, accessed flag, permission, each by level.
    if !matches!(syndrome & 0x3f, 0x04..=0x0f) {
        trap::exception(frame, Cause::Exception { signal: SIGBUS, code: BUS_ADRALN, address });
        return;
    }
    let access = match class(syndrome) {
        FETCH => Access::Execute,
        _ if syndrome & (WRITE | MAINTENANCE) == WRITE => Access::Write,
        _ => Access::Read,
    };
    trap::page_fault(frame, address, access);
}

#[unsafe(no_mangle)]
extern "C" fn trap_exception(frame: &mut Frame) {
    let (signal, code, address) = match class(frame.syndrome) {
        // Unknown; vectors that are off; illegal state; a system register.
        0x00 | 0x07 | 0x0e | 0x18 | 0x19 => (SIGILL, ILL_ILLOPC, frame.pc),
        // The program counter, or the stack pointer, is not aligned.
        0x22 => (SIGBUS, BUS_ADRALN, frame.pc),
        0x26 => (SIGBUS, BUS_ADRALN, frame.sp),
        0x2c => (SIGFPE, FPE_FLTUNK, frame.pc),
        0x32 => (SIGTRAP, TRAP_TRACE, frame.pc),
        // The instruction BRK.
        0x3c => (SIGTRAP, TRAP_BRKPT, frame.pc),
        _ => (SIGSEGV, SI_KERNEL, 0),
    };
    trap::exception(frame, Cause::Exception { signal, code, address });
}

/// An exception in the kernel: a fault of ours.
#[unsafe(no_mangle)]
extern "C" fn trap_kernel(frame: &Frame) -> ! {
    let address: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, far_el1", out(reg) address, options(nomem, nostack, preserves_flags)) };
    let what = match class(frame.syndrome) {
        0x21 | 0x25 => "a page fault (did a kernel stack overflow?)",
        0x00 => "an invalid instruction",
        _ => "an exception",
    };
    crate::panic::die(
        format_args!(
            "{what} (syndrome {:#x}, address {address:#x}) at {:#x}, stack {:#x}",
            frame.syndrome, frame.pc, frame.sp
        ),
        frame.pc,
        frame.x[29],
    )
}
