//! `--trace`: each system call, in the form in which strace prints it, so that `hugewalk replay` reads it.
//!
//! A call is printed when it begins, up to its arguments, and its result when it ends. If another thread's line comes in between,
//! the first part ends with `<unfinished ...>`, and the second begins with `<... NAME resumed>`, as strace has it. So the order of
//! the lines is the order in which things happened.

mod arguments;
mod flags;

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::arch::numbers::*;

use crate::arch::name;
use crate::console::REPORT;
use crate::cpu::clock;
use crate::process::exec::Start;
use crate::process::exit::Status;
use crate::process::signal::Info;
use crate::syscall::Arguments;
use crate::task::current;

pub use self::flags::signal_name;

static ON: AtomicBool = AtomicBool::new(false);

/// Prints from now on.
pub fn start() {
    ON.store(true, Ordering::Relaxed);
}

fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// The first program begins.
pub fn first(pid: u32, start: &Start) {
    if !is_on() {
        return;
    }
    let mut report = REPORT.lock();
    begin_for(&mut *report, pid);
    let _ = write!(report, "execve({:?}, [", start.path);
    for (index, argument) in start.arguments.iter().enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        let _ = write!(report, "{comma}{:?}", alloc::string::String::from_utf8_lossy(argument));
    }
    let _ = writeln!(report, "], 0x7ffff000 /* {} vars */) = 0", start.environment.len());
}

/// A line of the trace, without its end.
fn begin(out: &mut impl Write) {
    begin_for(out, current().tid);
}

fn begin_for(out: &mut impl Write, tid: u32) {
    let time = clock::wall() / 1000;
    let _ = write!(out, "trace {tid} {}.{:06} ", time / 1_000_000, time % 1_000_000);
}

/// A number of a system call that has no name.
struct Name(u64);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u32::try_from(self.0).ok().and_then(name) {
            Some(name) => f.write_str(name),
            None => write!(f, "syscall_{:#x}", self.0),
        }
    }
}

/// The running thread makes a system call.
pub fn enter(number: u64, arguments: &Arguments) {
    if !is_on() {
        return;
    }
    // Strings are read from the program before the lock is taken.
    let text = arguments::format(number, arguments);
    let mut report = REPORT.lock();
    report.interrupt();
    begin(&mut *report);
    let _ = write!(report, "{}({text}", Name(number));
    report.partial = current().tid;
}

/// It has its result.
pub fn leave(number: u64, arguments: &Arguments, result: u64) {
    if !is_on() {
        return;
    }
    let text = arguments::result(number, arguments, result);
    let mut report = REPORT.lock();
    if report.partial == current().tid {
        report.partial = 0;
    } else {
        report.interrupt();
        begin(&mut *report);
        let _ = write!(report, "<... {} resumed>", Name(number));
    }
    let _ = writeln!(report, "{text}");
}

/// The running thread gets a signal.
pub fn signal(info: &Info) {
    if !is_on() {
        return;
    }
    let mut report = REPORT.lock();
    report.interrupt();
    begin(&mut *report);
    let name = signal_name(info.signal);
    let _ = write!(report, "--- {name} {{si_signo={name}, si_code={}", flags::code_name(info));
    let _ = match info.signal {
        SIGSEGV | SIGBUS | SIGILL | SIGFPE | SIGTRAP => {
            write!(report, ", si_addr={}", arguments::Pointer(info.fields[0]))
        }
        _ => write!(report, ", si_pid={}, si_uid=0", info.fields[0] & 0xffff_ffff),
    };
    let _ = writeln!(report, "}} ---");
}

/// The running thread ends.
pub fn ended(status: Status) {
    if !is_on() {
        return;
    }
    let mut report = REPORT.lock();
    // The call that it ended in has no result.
    if report.partial == current().tid {
        report.partial = 0;
        let _ = writeln!(report, ") = ?");
    }
    report.interrupt();
    begin(&mut *report);
    let _ = match status {
        Status::Exited(status) => writeln!(report, "+++ exited with {status} +++"),
        Status::Killed(signal, core) => {
            let core = if core { " (core dumped)" } else { "" };
            writeln!(report, "+++ killed by {}{core} +++", signal_name(signal))
        }
    };
}
