//! Stops at system calls, and after one instruction.

use linux_raw_sys::general::SIGTRAP;
use linux_raw_sys::ptrace::{
    PTRACE_EVENTMSG_SYSCALL_ENTRY, PTRACE_EVENTMSG_SYSCALL_EXIT, PTRACE_O_TRACESYSGOOD,
};

use super::stops::{from_tracer, signal_stop, stop};
use super::{Go, Why};
use crate::arch::Frame;
use crate::process::signal::{self, Info};
use crate::task::current;

/// False if the thread did not stop.
fn call_stop(frame: &mut Frame, why: Why, call: u64) -> bool {
    let me = current();
    let code = {
        let mut state = me.tracee.state.lock();
        state.message = u64::from(if why == Why::Entry {
            PTRACE_EVENTMSG_SYSCALL_ENTRY
        } else {
            PTRACE_EVENTMSG_SYSCALL_EXIT
        });
        SIGTRAP | if state.options & PTRACE_O_TRACESYSGOOD != 0 { 0x80 } else { 0 }
    };
    let info = Info { signal: SIGTRAP, code: code.cast_signed(), fields: [me.process().pid.into(), 0, 0] };
    let answer = stop(frame, why, code, info, Some(call));
    if let Some((signal @ 1.., _)) = answer {
        signal::send_to_thread(&me.handle(), from_tracer(signal));
    }
    answer.is_some()
}

/// A system call of a traced thread begins. False if the tracer took it away.
pub fn call_begins(frame: &mut Frame) -> bool {
    let me = current();
    if me.tracee.state.lock().go != Go::ToCall {
        return true;
    }
    let number = frame.number();
    frame.call_began();
    if !call_stop(frame, Why::Entry, number) {
        frame.set_number(number);
    }
    frame.number().cast_signed() >= 0
}

/// A system call of a traced thread is over, and its result in the registers.
pub fn call_ends(frame: &mut Frame, number: u64) {
    let go = current().tracee.state.lock().go;
    match go {
        Go::Freely => {}
        Go::ToCall => {
            call_stop(frame, Why::Exit, number);
        }
        // The processor would step over the instruction behind the call as well.
        Go::Step => {
            signal_stop(frame, Info { signal: SIGTRAP, code: crate::arch::TRAP_OF_STEP, fields: [0; 3] });
        }
    }
}

/// A handler was entered by a thread that steps: that counts as its step.
pub(in crate::process) fn stepped_into_handler(frame: &mut Frame) {
    let me = current();
    if me.tracee.is_traced() && me.tracee.state.lock().go == Go::Step {
        signal_stop(frame, Info { signal: SIGTRAP, code: crate::arch::TRAP_OF_STEP, fields: [0; 3] });
    }
}
