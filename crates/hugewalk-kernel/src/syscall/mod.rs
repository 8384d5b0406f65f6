//! System calls: the table, one file for each group. This room converts and calls; it holds no state.
//!
//! A group answers the numbers that it knows. A number that no group knows is `ENOSYS`, and is named in the report.

mod memory;
mod policy;
mod process;
mod ptrace;
mod signal;
mod thread;
mod time;
mod transfer;

pub use self::transfer::reach;

use alloc::string::ToString;

use linux_raw_sys::general::{
    __NR_exit_group, __NR_futex, __NR_ioctl, __NR_pread64, __NR_pwrite64, __NR_read, __NR_readv,
    __NR_rt_sigreturn, __NR_wait4, __NR_waitid, __NR_write, __NR_writev,
};

use crate::arch::{self, Frame, numbers};
use crate::errno::{Errno, Result};
use crate::task::current;
use crate::{fs, report, trace};

/// The arguments of a system call.
pub type Arguments = [u64; 6];

/// A group's answer, or `None` if the number is not one of its own.
pub type Answer = Option<Result<u64>>;

/// Serves a system call.
pub fn dispatch(frame: &mut Frame) {
    let number = frame.number();
    let arguments = frame.arguments();
    report::called(number);
    trace::enter(number, &arguments);
    let outcome =
        u32::try_from(number).ok().filter(|number| u64::from(*number) < numbers::END).and_then(|number| {
            memory::call(number, &arguments)
                .or_else(|| fs::call(number, &arguments))
                .or_else(|| thread::call(number, &arguments, frame))
                .or_else(|| process::call(number, &arguments, frame))
                .or_else(|| signal::call(number, &arguments, frame))
                .or_else(|| ptrace::call(number, &arguments))
                .or_else(|| time::call(number, &arguments))
                .or_else(|| policy::call(number, &arguments))
                .or_else(|| transfer::call(number, &arguments))
                .or_else(|| arch::call(number, &arguments))
        });
    let outcome = outcome.unwrap_or_else(|| {
        let name = u32::try_from(number).ok().and_then(arch::name);
        report::missing(name.map_or_else(|| alloc::format!("syscall_{number}"), ToString::to_string));
        Err(Errno::ENOSYS)
    });
    let result = match outcome {
        Ok(value) => value,
        Err(error) => {
            if error == Errno::EINTR {
                current().signals.lock().restart = Some(number);
            }
            error.as_result()
        }
    };
    // The two have no result.
    if ![__NR_rt_sigreturn, __NR_exit_group].map(u64::from).contains(&number) {
        trace::leave(number, &arguments, result);
    }
    frame.set_result(result);
}

/// Is the system call made again after a handler with `SA_RESTART`?
pub fn restarts(number: u64) -> bool {
    let Ok(number) = u32::try_from(number) else { return false };
    matches!(
        number,
        __NR_read
            | __NR_write
            | __NR_readv
            | __NR_writev
            | __NR_pread64
            | __NR_pwrite64
            | __NR_ioctl
            | __NR_wait4
            | __NR_waitid
            | __NR_futex
    )
}
