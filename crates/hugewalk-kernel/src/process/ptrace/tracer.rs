//! The tracer's side: how it gets hold of threads, lets them go on and gives them up, and what it is told by `wait`.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use linux_raw_sys::general::SIGKILL;
use linux_raw_sys::ptrace::PTRACE_O_EXITKILL;

use super::{Go, Tracing, Why};
use crate::errno::{Errno, Result};
use crate::process::Process;
use crate::process::exit;
use crate::process::signal::{self, Info};
use crate::process::wait::{Found, Which};
use crate::task::{Thread, current};

/// Lets a process trace a thread that nobody traces.
///
/// # Errors
///
/// `EPERM` if somebody does, `ESRCH` if it has ended.
pub fn attach(thread: &Arc<Thread>, tracer: &Arc<Process>, seized: bool, options: u32) -> Result<()> {
    let process = thread.process.as_ref().ok_or(Errno::EPERM)?;
    {
        let mut tracees = tracer.tracees.lock();
        let mut state = thread.tracee.state.lock();
        if state.tracer.upgrade().is_some() {
            return Err(Errno::EPERM);
        }
        *state = Tracing { tracer: Arc::downgrade(tracer), seized, options, ..Tracing::none() };
        tracees.push(thread.clone());
        thread.tracee.traced.store(true, Ordering::Relaxed);
    }
    if thread.tid == process.pid {
        *process.tracer.lock() = Arc::downgrade(tracer);
    }
    Ok(())
}

/// A thread is nobody's any more. What it was stopped by goes on.
fn release(thread: &Arc<Thread>, signal: u32) {
    {
        let mut state = thread.tracee.state.lock();
        let stop = state.stop.take().map(|mut stop| {
            stop.answer.get_or_insert(signal);
            stop
        });
        *state = Tracing { stop, ..Tracing::none() };
        thread.tracee.traced.store(false, Ordering::Relaxed);
    }
    if let Some(process) = &thread.process
        && thread.tid == process.pid
    {
        *process.tracer.lock() = Weak::new();
    }
    thread.interrupt();
}

/// The thread with this number, if the running process traces it.
///
/// # Errors
///
/// `ESRCH`.
pub fn tracee(tid: u32) -> Result<Arc<Thread>> {
    let process = current().process().clone();
    let tracees = process.tracees.lock();
    tracees.iter().find(|thread| thread.tid == tid).cloned().ok_or(Errno::ESRCH)
}

/// Looks at or changes a thread that the running process traces, and that has stopped. Nothing may sleep in it.
///
/// # Errors
///
/// `ESRCH` if it is not traced or runs.
pub fn with_stopped<R>(tid: u32, change: impl FnOnce(&mut Tracing) -> Result<R>) -> Result<R> {
    let thread = tracee(tid)?;
    let mut state = thread.tracee.state.lock();
    state.stop()?;
    change(&mut state)
}

/// Lets a stopped thread go on with a signal, or 0 for none.
///
/// # Errors
///
/// `ESRCH` if it is not traced or runs, `EIO` for a signal that there is not.
pub fn resume(tid: u32, go: Go, signal: u64) -> Result<u64> {
    let signal = u32::try_from(signal).ok().filter(|&signal| signal <= 64).ok_or(Errno::EIO)?;
    with_stopped(tid, |state| {
        state.go = go;
        state.stop()?.answer = Some(signal);
        Ok(())
    })?;
    tracee(tid)?.unpark();
    Ok(0)
}

/// Lets a stopped thread go on, traced by nobody.
///
/// # Errors
///
/// As for [`resume`].
pub fn detach(tid: u32, signal: u64) -> Result<u64> {
    let signal = u32::try_from(signal).ok().filter(|&signal| signal <= 64).ok_or(Errno::EIO)?;
    with_stopped(tid, |_| Ok(()))?;
    let thread = tracee(tid)?;
    forget(current().process(), &thread);
    release(&thread, signal);
    Ok(0)
}

fn forget(tracer: &Process, thread: &Arc<Thread>) {
    tracer.tracees.lock().retain(|other| !Arc::ptr_eq(other, thread));
}

/// `PTRACE_INTERRUPT`: a thread that was seized stops soon.
///
/// # Errors
///
/// `ESRCH` if it is not traced, `EIO` if it was not seized.
pub fn interrupt(tid: u32) -> Result<u64> {
    let thread = tracee(tid)?;
    {
        let mut state = thread.tracee.state.lock();
        if !state.seized {
            return Err(Errno::EIO);
        }
        state.wanted = state.stop.is_none();
    }
    thread.interrupt();
    Ok(0)
}

/// A process ends: what it traces goes on, or ends with it.
pub(in crate::process) fn tracer_ends(tracer: &Arc<Process>) {
    let threads = core::mem::take(&mut *tracer.tracees.lock());
    for thread in threads {
        let kill = thread.tracee.state.lock().options & PTRACE_O_EXITKILL != 0;
        release(&thread, 0);
        let Some(process) = &thread.process else { continue };
        if kill {
            signal::send_to_process(process, Info::kernel(SIGKILL));
        }
        end_is_told(tracer, process, thread.tid);
    }
}

/// The tracer knows of the end of a process: now its parent learns of it, if that is another.
fn end_is_told(tracer: &Arc<Process>, process: &Arc<Process>, tid: u32) {
    let status = process.state.lock().status;
    if let Some(status) = status
        && tid == process.pid
        && !process.is_child_of(tracer)
    {
        exit::tell_parent(process, status);
    }
}

/// What has happened to the threads that a process traces, and not been told: for `wait`. The first value is whether it traces
/// any of these.
pub(in crate::process) fn news(
    tracer: &Arc<Process>,
    which: Which,
    keep: bool,
) -> (bool, Option<(u32, Found)>) {
    let threads: Vec<Arc<Thread>> = {
        let tracees = tracer.tracees.lock();
        tracees.iter().filter(|thread| which.is_thread(thread)).cloned().collect()
    };
    for thread in &threads {
        let Some(process) = &thread.process else { continue };
        let status = process.state.lock().status;
        let ended = match status {
            // The parent waits for it as for any child.
            Some(_) if thread.tid == process.pid && process.is_child_of(tracer) => continue,
            Some(status) if thread.tid == process.pid => Some(status),
            _ => thread.tracee.state.lock().ended,
        };
        if let Some(status) = ended {
            if !keep {
                forget(tracer, thread);
                release(thread, 0);
                end_is_told(tracer, process, thread.tid);
            }
            return (true, Some((thread.tid, Found::Ended(status))));
        }
        let mut state = thread.tracee.state.lock();
        if let Ok(stop) = state.stop()
            && !stop.told
        {
            stop.told = !keep;
            return (true, Some((thread.tid, Found::Stopped(stop.code, stop.why != Why::Group))));
        }
    }
    (!threads.is_empty(), None)
}

/// The parent has waited for a child that it traces too.
pub(in crate::process) fn child_is_gone(tracer: &Process, pid: u32) {
    let thread = {
        let mut tracees = tracer.tracees.lock();
        let at = tracees.iter().position(|thread| thread.tid == pid);
        at.map(|at| tracees.swap_remove(at))
    };
    drop(thread);
}
