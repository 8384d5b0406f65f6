//! Processes that a signal stops, and that another lets go on. Linux: `do_signal_stop()` and `prepare_signal()` in
//! kernel/signal.c.

use alloc::sync::Arc;

use linux_raw_sys::general::{
    CLD_CONTINUED, CLD_STOPPED, SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU,
};

use super::signal::{self, Info};
use super::{Process, Stopped, ptrace};
use crate::arch::Frame;
use crate::task::{current, park};

/// Signals that stop a process, unless it handles or ignores them.
pub(super) const STOPPING: [u32; 4] = [SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU];

/// The process of the running thread stops: each of its threads on its way to its program.
pub(super) fn stop(process: &Arc<Process>, signal: u32) {
    let threads = {
        let mut state = process.state.lock();
        if state.stopped.is_some() || state.ending.is_some() {
            return;
        }
        state.stopped = Some(Stopped { signal, told: false });
        state.stops += 1;
        state.continued = false;
        state.threads.clone()
    };
    for thread in &threads {
        thread.interrupt();
    }
    tell(process, CLD_STOPPED, signal);
}

/// A signal is being sent: one that lets a process go on takes back those that stop it, and the other way round.
pub(super) fn before_sending(process: &Arc<Process>, signal: u32) {
    if STOPPING.contains(&signal) {
        signal::forget(process, SIGCONT);
    }
    if signal != SIGCONT {
        return;
    }
    for stopping in STOPPING {
        signal::forget(process, stopping);
    }
    let threads = {
        let mut state = process.state.lock();
        if state.stopped.take().is_none() {
            return;
        }
        state.continued = true;
        state.threads.clone()
    };
    for thread in &threads {
        thread.unpark();
    }
    tell(process, CLD_CONTINUED, SIGCONT);
}

fn tell(process: &Arc<Process>, code: u32, signal: u32) {
    let parent = process.parent.lock().upgrade();
    let Some(parent) = parent else { return };
    if !parent.handlers().lock().hides_stops() {
        let info = Info::child(SIGCHLD, code.cast_signed(), process.pid, signal.cast_signed());
        signal::send_to_process(&parent, info);
    }
    parent.waiters.wake_all();
}

/// What a thread does on its way to its program: it stays as long as its process is stopped. A traced thread goes on when its tracer
/// says so. Sleeps.
pub(super) fn stay(frame: &mut Frame) {
    let me = current();
    let process = me.process().clone();
    loop {
        let (signal, number) = {
            let state = process.state.lock();
            let Some(stopped) = state.stopped else { return };
            (stopped.signal, state.stops)
        };
        if ptrace::dies() || ptrace::group_stop(frame, signal, number) {
            return;
        }
        park();
    }
}
