//! What the ways into the kernel lead to, and the way back to a program.

use hugewalk::fault::Access;

use super::this;
use crate::arch::{Frame, interrupts, processor};
use crate::process::ptrace;
use crate::process::signal::{self, Cause};
use crate::task::{current, exit_current, schedule_if_due};
use crate::{process, syscall, task};

/// Sets the kernel stack of the thread that is about to run on this processor.
pub fn set_kernel_stack(top: u64) {
    let own = this();
    // Relaxed: read by this processor only, when it enters the kernel.
    own.kernel_stack.store(top, core::sync::atomic::Ordering::Relaxed);
    processor::set_kernel_stack(own.number(), top);
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
    let me = current();
    let number = frame.number();
    // Relaxed: read by the thread itself.
    me.call.store(number, core::sync::atomic::Ordering::Relaxed);
    if !me.tracee.is_traced() || ptrace::call_begins(frame) {
        syscall::dispatch(frame);
    }
    if me.tracee.is_traced() {
        ptrace::call_ends(frame, number);
    }
    leave(frame);
}

/// A page fault of a program.
pub fn page_fault(frame: &mut Frame, address: u64, access: Access) {
    let space = current().space();
    match space.fault(address, access) {
        Ok(()) => {
            current().process().faults.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        }
        Err(refused) => signal::force(Cause::Fault { address, refused }),
    }
    drop(space);
    leave(frame);
}

/// A program did what it gets a signal for.
pub fn exception(frame: &mut Frame, cause: Cause) {
    signal::force(cause);
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
