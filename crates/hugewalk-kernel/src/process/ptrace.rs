//! Threads that another process traces: where they stop, and how they go on. The requests are in `syscall/ptrace.rs`.
//!
//! A thread stops on its own, at a few places on its way out of or into a system call. There it leaves a copy of its registers
//! where the tracer can change them, tells the tracer, and parks. The tracer answers in the stop itself; the thread takes the
//! stop away, and what has become of its registers with it. So no tracer ever touches a thread that runs.
//!
//! Locks: the list of a tracer's threads comes before what is known of one of them. Nothing else is taken under either, and
//! nothing sleeps under them. Linux: kernel/ptrace.c, `ptrace_stop()` and `ptrace_signal()` in kernel/signal.c.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use linux_raw_sys::general::{CLD_STOPPED, CLD_TRAPPED, SI_USER, SIGCHLD, SIGKILL, SIGSTOP, SIGTRAP};
use linux_raw_sys::ptrace::*;
use spin::Mutex;

use super::Process;
use super::exit::{self, Status};
use super::signal::{self, Info};
use super::wait::{Found, Which};
use crate::arch::{Frame, Registers};
use crate::errno::{Errno, Result};
use crate::task::{Thread, current, park};

/// What a thread has of its tracer.
pub struct Tracee {
    /// It has one: a look without the lock.
    traced: AtomicBool,
    /// The last stop of its whole process that it has told its tracer of.
    group_stop: AtomicU32,
    state: Mutex<Tracing>,
}

/// What is known of a traced thread.
pub struct Tracing {
    tracer: Weak<Process>,
    /// By `PTRACE_SEIZE`.
    pub seized: bool,
    /// `PTRACE_O_*`.
    pub options: u32,
    /// How it goes on.
    go: Go,
    /// It stops, or is about to go on.
    stop: Option<Box<Stop>>,
    /// What `PTRACE_GETEVENTMSG` returns.
    pub message: u64,
    /// `PTRACE_INTERRUPT`, or a new thread of one that was seized: it is to stop.
    wanted: bool,
    /// It is not the first thread of its process, and has ended.
    ended: Option<Status>,
}

/// How a thread goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Go {
    /// Up to the next signal.
    #[default]
    Freely,
    /// Up to the next system call, or the end of this one.
    ToCall,
    /// For one instruction.
    Step,
}

/// Why a thread has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A signal is about to be delivered.
    Signal,
    /// A system call begins.
    Entry,
    /// A system call is over.
    Exit,
    /// What an option asked for, or `PTRACE_INTERRUPT`.
    Event,
    /// Its process was stopped by a signal.
    Group,
}

/// A stop.
pub struct Stop {
    /// As `wait4` says it: a signal, and an event eight bits above.
    pub code: u32,
    /// Why.
    pub why: Why,
    /// What `PTRACE_GETSIGINFO` returns.
    pub info: Info,
    /// The registers, for the tracer to change.
    pub registers: Registers,
    /// The tracer has waited for it.
    told: bool,
    /// The thread goes on, with this signal or none.
    answer: Option<u32>,
}

impl Default for Tracee {
    fn default() -> Self {
        Self::new()
    }
}

impl Tracee {
    /// Nobody traces it.
    pub const fn new() -> Self {
        Self {
            traced: AtomicBool::new(false),
            group_stop: AtomicU32::new(0),
            state: Mutex::new(Tracing {
                tracer: Weak::new(),
                seized: false,
                options: 0,
                go: Go::Freely,
                stop: None,
                message: 0,
                wanted: false,
                ended: None,
            }),
        }
    }

    /// Does somebody trace it?
    pub fn is_traced(&self) -> bool {
        // Relaxed: whoever begins to trace a thread interrupts it then, and the lock says for sure.
        self.traced.load(Ordering::Relaxed)
    }

    /// The process that traces it.
    pub fn tracer(&self) -> Option<Arc<Process>> {
        if self.is_traced() { self.state.lock().tracer.upgrade() } else { None }
    }

    /// Is it in a stop?
    pub fn is_stopped(&self) -> bool {
        self.is_traced() && self.state.lock().stop.as_ref().is_some_and(|stop| stop.answer.is_none())
    }
}

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

impl Tracing {
    const fn none() -> Self {
        Self {
            tracer: Weak::new(),
            seized: false,
            options: 0,
            go: Go::Freely,
            stop: None,
            message: 0,
            wanted: false,
            ended: None,
        }
    }

    /// The stop, for the tracer to look at and change.
    ///
    /// # Errors
    ///
    /// `ESRCH` if it runs.
    pub fn stop(&mut self) -> Result<&mut Stop> {
        self.stop.as_deref_mut().filter(|stop| stop.answer.is_none()).ok_or(Errno::ESRCH)
    }
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
pub(super) fn tracer_ends(tracer: &Arc<Process>) {
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

/// Tells a tracer that something has happened to a thread.
fn tell(tracer: &Arc<Process>, code: u32, tid: u32, value: u32) {
    if !tracer.handlers().lock().hides_stops() {
        let info = Info::child(SIGCHLD, code.cast_signed(), tid, value.cast_signed());
        signal::send_to_process(tracer, info);
    }
    tracer.waiters.wake_all();
}

/// The running thread ends, and is not the first of its process.
pub(super) fn thread_ends(status: Status) {
    let me = current();
    if let Some(tracer) = me.tracee.tracer()
        && me.tid != me.process().pid
    {
        me.tracee.state.lock().ended = Some(status);
        tracer.waiters.wake_all();
    }
}

/// Is the running thread about to end, so that it stops no more?
pub(super) fn dies() -> bool {
    let ending = current().process().state.lock().ending;
    ending.is_some() || is_killed()
}

/// As [`dies`], by force: it stops not even to tell of its end.
fn is_killed() -> bool {
    let me = current();
    let process = me.process();
    let killed = signal::set_of(SIGKILL);
    let ending = process.state.lock().ending;
    let by_force = matches!(ending, Some(Status::Killed(SIGKILL, _)));
    let own = me.signals.lock().pending.set();
    let shared = process.pending.lock().set();
    by_force || me.ends_alone.load(Ordering::SeqCst) || (own | shared) & killed != 0
}

/// The running thread stops until its tracer lets it go on. Returns the signal that the tracer wants it to have, or `None` if it
/// did not stop.
fn stop(frame: &mut Frame, why: Why, code: u32, info: Info, call: Option<u64>) -> Option<(u32, Info)> {
    let me = current();
    let tracer = me.tracee.tracer()?;
    let goes = if code == SIGTRAP | PTRACE_EVENT_EXIT << 8 { is_killed } else { dies };
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
pub(super) fn signal_stop(frame: &mut Frame, info: Info) -> Option<Info> {
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

fn from_tracer(signal: u32) -> Info {
    let tracer = current().tracee.tracer().map_or(0, |tracer| tracer.pid);
    Info { signal, code: SI_USER.cast_signed(), fields: [u64::from(tracer), 0, 0] }
}

/// The process of the running thread was stopped by a signal, for the `number`th time. True if the thread's tracer decides when
/// it goes on.
pub(super) fn group_stop(frame: &mut Frame, signal: u32, number: u32) -> bool {
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
pub(super) fn stop_if_wanted(frame: &mut Frame) {
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
pub(super) fn follow(thread: &Arc<Thread>, vfork: bool, fork: bool) -> Option<u32> {
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
pub(super) fn stepped_into_handler(frame: &mut Frame) {
    let me = current();
    if me.tracee.is_traced() && me.tracee.state.lock().go == Go::Step {
        signal_stop(frame, Info { signal: SIGTRAP, code: crate::arch::TRAP_OF_STEP, fields: [0; 3] });
    }
}

/// What has happened to the threads that a process traces, and not been told: for `wait`. The first value is whether it traces
/// any of these.
pub(super) fn news(tracer: &Arc<Process>, which: Which, keep: bool) -> (bool, Option<(u32, Found)>) {
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
pub(super) fn child_is_gone(tracer: &Process, pid: u32) {
    let thread = {
        let mut tracees = tracer.tracees.lock();
        let at = tracees.iter().position(|thread| thread.tid == pid);
        at.map(|at| tracees.swap_remove(at))
    };
    drop(thread);
}
