//! What the ways into the kernel lead to, and the way back to a program.

use hugewalk::fault::Access;
use x86_64::instructions::interrupts;

use super::frame::Frame;
use super::{tables, this};
use crate::process::signal::{self, Cause};
use crate::task::{current, exit_current, schedule_if_due};
use crate::{process, syscall, task};

/// Sets the kernel stack of the thread that is about to run on this processor.
pub fn set_kernel_stack(top: u64) {
    let processor = this();
    // Relaxed: read by this processor only, when it enters the kernel.
    processor.kernel_stack.store(top, core::sync::atomic::Ordering::Relaxed);
    tables::set_kernel_stack(processor.number(), top);
}

/// The way back: handles signals and lets other threads run, until there is nothing to do. Returns with interrupts off.
fn leave(frame: &mut Frame) {
    use core::sync::atomic::Ordering;
    loop {
        interrupts::disable();
        // SeqCst: pairs with `Thread::interrupt`, which sets the flag and then interrupts this processor.
        let interrupted = current().interrupted.load(Ordering::SeqCst);
        let due = this().reschedule.load(Ordering::Relaxed);
        if !interrupted && !due {
            return;
        }
        interrupts::enable();
        if due {
            schedule_if_due();
        }
        if interrupted {
            signal::handle(frame);
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn trap_syscall(frame: &mut Frame) {
    syscall::dispatch(frame);
    leave(frame);
}

#[unsafe(no_mangle)]
extern "C" fn trap_page_fault(frame: &mut Frame, address: u64) {
    const WRITE: u64 = 1 << 1;
    const FETCH: u64 = 1 << 4;
    let access = match frame.error {
        error if error & WRITE != 0 => Access::Write,
        error if error & FETCH != 0 => Access::Execute,
        _ => Access::Read,
    };
    let space = current().space();
    if let Err(refused) = space.fault(address, access) {
        signal::force(Cause::Fault { address, refused });
    }
    drop(space);
    leave(frame);
}

#[unsafe(no_mangle)]
extern "C" fn trap_exception(frame: &mut Frame) {
    signal::force(Cause::Exception { vector: frame.vector, rip: frame.rip });
    leave(frame);
}

#[unsafe(no_mangle)]
extern "C" fn trap_interrupt(frame: &mut Frame) {
    schedule_if_due();
    leave(frame);
}

/// Where a new thread of a program begins.
#[unsafe(no_mangle)]
extern "C" fn trap_begin(frame: &mut Frame) {
    task::finish_switch();
    process::thread::started();
    leave(frame);
}

/// Where a new thread of the kernel begins.
#[unsafe(no_mangle)]
extern "C" fn trap_begin_kernel(argument: u64, main: extern "C" fn(u64)) -> ! {
    task::finish_switch();
    main(argument);
    exit_current()
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
