//! The thread's side: the places where it stops, and what becomes of it there.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use linux_raw_sys::general::{CLD_STOPPED, CLD_TRAPPED, SI_USER, SIGCHLD, SIGKILL, SIGSTOP, SIGTRAP};
use linux_raw_sys::ptrace::*;

use super::tracer::attach;
use super::{Go, Stop, Why};
use crate::arch::{Frame, Registers};
use crate::process::Process;
use crate::process::exit::Status;
use crate::process::signal::{self, Info};
use crate::task::{Thread, current, park};

/// Tells a tracer that something has happened to a thread.
fn tell(tracer: &Arc<Process>, code: u32, tid: u32, value: u32) {
    if !tracer.handlers().lock().hides_stops() {
        let info = Info::child(SIGCHLD, code.cast_signed(), tid, value.cast_signed());
        signal::send_to_process(tracer, info);
    }
    tracer.waiters.wake_all();
}

/// The running thread ends, and is not the first of its process.
pub(in crate::process) fn thread_ends(status: Status) {
    let me = current();
    if let Some(tracer) = me.tracee.tracer()
        && me.tid != me.process().pid
    {
        me.tracee.state.lock().ended = Some(status);
        tracer.waiters.wake_all();
    }
}

/// Is the running thread about to end, so that it stops no more?
pub fn dies() -> bool {
    let me = current();
    let process = me.process();
    let killed = signal::set_of(SIGKILL);
    let own = me.signals.lock().pending.set();
    let shared = process.pending.lock().set();
    ends() || (own | shared) & killed != 0
}

/// Does its process end, or does it end so that another thread can begin a program?
fn ends() -> bool {
    let me = current();
    me.process().state.lock().ending.is_some() || me.ends_alone.load(Ordering::SeqCst)
}

/// The running thread stops until its tracer lets it go on. Returns the signal that the tracer wants it to have, or `None` if it
/// did not stop.
pub(super) fn stop(
    frame: &mut Frame,
    why: Why,
    code: u32,
    info: Info,
    call: Option<u64>,
) -> Option<(u32, Info)> {
    let me = current();
    let tracer = me.tracee.tracer()?;
    // A thread that tells of its end stays until its tracer lets it go on, also if it is killed meanwhile: its process ends already. One
    // that ends by itself, and whose process ends then, does not. Linux: `prepare_signal()` in kernel/signal.c drops what is
    // sent to a process that ends.
    let is_last_stop = code == SIGTRAP | PTRACE_EVENT_EXIT << 8 && ends();
    let goes = || !is_last_stop && dies();
    if goes() {
        return None;
    }
    frame.set_step(&me.registers, false);
    let registers = Registers::take(frame, &me, call, why == Why::Entry);
    {
        let mut state = me.tracee.state.lock();
        // The tracer may have gone since.
        state.tracer.upgrade()?;
        state.stop = Some(Box::new(Stop { code, why, info, registers, told: false, answer: None }));
    }
    let reason = if why == Why::Group { CLD_STOPPED } else { CLD_TRAPPED };
    tell(&tracer, reason, me.tid, code & 0x7f);
    drop(tracer);
    let stop = loop {
        let goes = goes();
        {
            let mut state = me.tracee.state.lock();
            if goes || state.stop.as_ref().is_none_or(|stop| stop.answer.is_some()) {
                break state.stop.take();
            }
        }
        park();
    }?;
    let Stop { registers, info, answer, .. } = *stop;
    registers.give(frame, &me);
    let step = me.tracee.state.lock().go == Go::Step && me.tracee.is_traced();
    frame.set_step(&me.registers, step);
    // What came meanwhile is looked at on the way out.
    me.interrupted.store(true, Ordering::SeqCst);
    Some((answer.unwrap_or(0), info))
}

/// A signal is about to be delivered: the tracer may change it, or take it away.
pub(in crate::process) fn signal_stop(frame: &mut Frame, info: Info) -> Option<Info> {
    let Some((answer, changed)) = stop(frame, Why::Signal, info.signal, info, None) else {
        return Some(info);
    };
    let info = match answer {
        0 => return None,
        same if same == changed.signal => changed,
        signal => from_tracer(signal),
    };
    let me = current();
    if me.signals.lock().mask & signal::set_of(info.signal) != 0 {
        signal::send_to_thread(&me.handle(), info);
        return None;
    }
    Some(info)
}

pub(super) fn from_tracer(signal: u32) -> Info {
    let tracer = current().tracee.tracer().map_or(0, |tracer| tracer.pid);
    Info { signal, code: SI_USER.cast_signed(), fields: [u64::from(tracer), 0, 0] }
}

/// The process of the running thread was stopped by a signal, for the `number`th time. True if the thread's tracer decides when
/// it goes on.
pub(in crate::process) fn group_stop(frame: &mut Frame, signal: u32, number: u32) -> bool {
    let me = current();
    if !me.tracee.is_traced() {
        return false;
    }
    if me.tracee.group_stop.swap(number, Ordering::Relaxed) == number {
        return true;
    }
    let seized = me.tracee.state.lock().seized;
    let code = if seized { signal | PTRACE_EVENT_STOP << 8 } else { signal };
    stop(frame, Why::Group, code, Info { signal, code: code.cast_signed(), fields: [0; 3] }, None);
    true
}

/// On the way to the program: `PTRACE_INTERRUPT`.
pub(in crate::process) fn stop_if_wanted(frame: &mut Frame) {
    if core::mem::take(&mut current().tracee.state.lock().wanted) {
        event_stop(frame, PTRACE_EVENT_STOP);
    }
}

fn event_stop(frame: &mut Frame, event: u32) {
    let code = SIGTRAP | event << 8;
    let info =
        Info { signal: SIGTRAP, code: code.cast_signed(), fields: [current().process().pid.into(), 0, 0] };
    stop(frame, Why::Event, code, info, None);
}

/// Something has happened that the tracer may have asked for by an option. True if it has.
pub fn event(frame: &mut Frame, event: u32, message: u64) -> bool {
    let me = current();
    if !me.tracee.is_traced() {
        return false;
    }
    {
        let mut state = me.tracee.state.lock();
        if state.options & 1 << event == 0 {
            return false;
        }
        state.message = message;
    }
    event_stop(frame, event);
    true
}

/// A traced thread has begun another program. Without `PTRACE_O_TRACEEXEC` it gets a signal.
pub fn began_program(frame: &mut Frame) {
    let me = current();
    if me.tracee.is_traced()
        && !event(frame, PTRACE_EVENT_EXEC, me.tid.into())
        && !me.tracee.state.lock().seized
    {
        signal::send_to_thread(&me.handle(), Info::user(SIGTRAP, false));
    }
}

/// The event by which a tracer has asked to trace what `clone` makes; the new thread is traced from its start.
pub(in crate::process) fn follow(thread: &Arc<Thread>, vfork: bool, fork: bool) -> Option<u32> {
    let me = current();
    let tracer = me.tracee.tracer()?;
    let event = match (vfork, fork) {
        (true, _) => PTRACE_EVENT_VFORK,
        (_, true) => PTRACE_EVENT_FORK,
        _ => PTRACE_EVENT_CLONE,
    };
    let (seized, options) = {
        let state = me.tracee.state.lock();
        (state.seized, state.options)
    };
    if options & 1 << event == 0 || attach(thread, &tracer, seized, options).is_err() {
        return None;
    }
    if seized {
        thread.tracee.state.lock().wanted = true;
        thread.interrupt();
    } else {
        signal::send_to_thread(thread, Info::kernel(SIGSTOP));
    }
    Some(event)
}
