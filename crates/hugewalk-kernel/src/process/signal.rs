//! Signals: what is sent, what is blocked, and what happens on the way back to a program.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use linux_raw_sys::general::{
    BUS_ADRERR, BUS_MCEERR_AR, SA_NOCLDSTOP, SA_NOCLDWAIT, SA_NODEFER, SA_ONSTACK, SA_RESETHAND, SA_RESTART,
    SEGV_ACCERR, SEGV_MAPERR, SI_KERNEL, SI_TKILL, SI_USER, SIGBUS, SIGCHLD, SIGCONT, SIGKILL, SIGSEGV,
    SIGSTOP, SIGURG, SIGWINCH,
};
use linux_raw_sys::ptrace::PTRACE_EVENT_EXIT;

use super::exit::{Status, end_group};
use super::{INIT, Process, ptrace, stop, thread};
use crate::arch::Frame;
use crate::errno::{Errno, Result};
use crate::space::fault::Refused;
use crate::task::{Thread, current};
use crate::trace;

/// A set of signals: bit 0 is signal 1.
pub type Set = u64;

/// The set with one signal.
pub const fn set_of(signal: u32) -> Set {
    1 << (signal - 1)
}

/// Signals that cannot be blocked, caught or ignored.
pub fn unblockable() -> Set {
    set_of(SIGKILL) | set_of(SIGSTOP)
}

/// What a handler is told: `siginfo_t`.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// Which signal.
    pub signal: u32,
    /// `si_code`.
    pub code: i32,
    /// The 24 bytes that follow, as their meaning is.
    pub fields: [u64; 3],
}

impl Info {
    /// From the kernel, about nothing in particular.
    pub fn kernel(signal: u32) -> Self {
        Self { signal, code: SI_KERNEL as i32, fields: [0; 3] }
    }

    /// From a process (`kill`), or a thread (`tgkill`).
    pub fn user(signal: u32, thread: bool) -> Self {
        let code = if thread { SI_TKILL } else { SI_USER as i32 };
        let pid = current().process().pid;
        let user = super::credentials::own().user.real;
        Self { signal, code, fields: [u64::from(pid) | u64::from(user) << 32, 0, 0] }
    }

    /// About a child.
    pub fn child(signal: u32, code: i32, pid: u32, value: i32) -> Self {
        Self { signal, code, fields: [u64::from(pid), u64::from(value.cast_unsigned()), 0] }
    }

    /// As a program has it.
    pub fn of_bytes(bytes: &[u8; 128]) -> Self {
        let word =
            |at: usize| bytes[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        Self { signal: word(0) as u32, code: word(8) as i32, fields: [word(16), word(24), word(32)] }
    }

    /// As a program sees it.
    pub fn bytes(&self) -> [u8; 128] {
        let mut bytes = [0; 128];
        bytes[..4].copy_from_slice(&self.signal.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.code.to_ne_bytes());
        for (index, field) in self.fields.iter().enumerate() {
            bytes[16 + 8 * index..][..8].copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }
}

/// Why a program gets a signal for what it did.
#[derive(Clone, Copy, Debug)]
pub enum Cause {
    /// A page fault that was refused.
    Fault {
        /// Where.
        address: u64,
        /// Why.
        refused: Refused,
    },
    /// An exception.
    Exception {
        /// What the program gets.
        signal: u32,
        /// `si_code`.
        code: u32,
        /// `si_addr`.
        address: u64,
    },
}

impl Cause {
    fn info(self) -> Info {
        let (signal, code, address, lsb) = match self {
            Self::Fault { address, refused } => match refused {
                Refused::NotMapped => (SIGSEGV, SEGV_MAPERR, address, 0),
                Refused::Protection => (SIGSEGV, SEGV_ACCERR, address, 0),
                Refused::NoPage => (SIGBUS, BUS_ADRERR, address, 0),
                Refused::Hwpoison(lsb) => (SIGBUS, BUS_MCEERR_AR, address, u64::from(lsb)),
                Refused::OutOfMemory | Refused::Killed => (SIGKILL, SI_KERNEL, address, 0),
            },
            Self::Exception { signal, code, address } => (signal, code, address, 0),
        };
        Info { signal, code: code as i32, fields: [address, lsb, 0] }
    }
}

/// Signals that were sent and not delivered.
#[derive(Default)]
pub struct Pending(Vec<Info>);

impl Pending {
    /// None.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    fn add(&mut self, info: Info) {
        // A signal below 32 is pending once.
        if info.signal >= 32 || !self.0.iter().any(|pending| pending.signal == info.signal) {
            self.0.push(info);
        }
    }

    /// Takes the first of a set; `SIGKILL` before all others.
    pub fn take(&mut self, wanted: Set) -> Option<Info> {
        let first = |wanted| self.0.iter().position(|info| set_of(info.signal) & wanted != 0);
        let at = first(wanted & set_of(SIGKILL)).or_else(|| first(wanted))?;
        Some(self.0.remove(at))
    }

    /// Which are pending.
    pub fn set(&self) -> Set {
        self.0.iter().fold(0, |set, info| set | set_of(info.signal))
    }

    fn forget(&mut self, signal: u32) {
        self.0.retain(|info| info.signal != signal);
    }
}

/// What a thread has of signals.
pub struct ThreadSignals {
    /// Signals that wait.
    pub mask: Set,
    /// The mask to go back to, while `sigsuspend` or `ppoll` has another one.
    pub saved_mask: Option<Set>,
    /// Signals for this thread.
    pub pending: Pending,
    /// The alternate stack: start, size, flags.
    pub stack: (u64, u64, u32),
    /// The system call that a signal interrupted, to be made again.
    pub restart: Option<u64>,
}

/// The program runs on the alternate stack.
pub const SS_ONSTACK: u32 = 1;
/// There is no alternate stack.
pub const SS_DISABLE: u32 = 2;

impl ThreadSignals {
    /// Nothing pending, nothing blocked.
    pub const fn new() -> Self {
        Self { mask: 0, saved_mask: None, pending: Pending::new(), stack: (0, 0, SS_DISABLE), restart: None }
    }

    /// A new thread has its maker's mask; and its alternate stack, unless the two would use one at the same time.
    pub fn inherit(&mut self, maker: &Self, stack: bool) {
        self.mask = maker.mask;
        if stack {
            self.stack = maker.stack;
        }
    }

    /// Another program has no alternate stack.
    pub fn forget_stack(&mut self) {
        self.stack = (0, 0, SS_DISABLE);
    }
}

/// What a process does about a signal: `struct sigaction` of the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Action {
    /// 0 the default, 1 nothing, else the function.
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Blocked meanwhile.
    pub mask: Set,
}

/// What a process does about signals.
#[derive(Clone)]
pub struct Handlers([Action; 64]);

impl Handlers {
    /// The defaults.
    pub const fn new() -> Self {
        Self([Action { handler: 0, flags: 0, restorer: 0, mask: 0 }; 64])
    }

    /// What it does about one.
    pub fn action(&self, signal: u32) -> Action {
        self.0[signal as usize - 1]
    }

    /// Changes that.
    pub fn set(&mut self, signal: u32, action: Action) {
        self.0[signal as usize - 1] = action;
    }

    /// Another program has no handlers; what is ignored stays so.
    pub fn reset_for_exec(&mut self) {
        for action in &mut self.0 {
            let handler = u64::from(action.handler == 1);
            *action = Action { handler, ..Action::default() };
        }
    }

    fn ignores(&self, signal: u32) -> bool {
        match self.action(signal).handler {
            0 => matches!(signal, SIGCHLD | SIGURG | SIGWINCH | SIGCONT),
            handler => handler == 1,
        }
    }

    /// Is it told of children that have ended only, not of those that stop and go on?
    pub fn hides_stops(&self) -> bool {
        self.action(SIGCHLD).flags & u64::from(SA_NOCLDSTOP) != 0
    }

    /// From now on children are forgotten as soon as they end.
    pub fn ignore_children(&mut self) {
        self.set(SIGCHLD, Action { handler: 1, ..Action::default() });
    }

    /// Are children forgotten as soon as they end?
    pub fn discards_children(&self) -> bool {
        let action = self.action(SIGCHLD);
        action.handler == 1 || action.flags & u64::from(SA_NOCLDWAIT) != 0
    }
}

/// Sends a signal to a process: any thread that does not block it gets it.
pub fn send_to_process(process: &Arc<Process>, info: Info) {
    if process.pid == INIT {
        return;
    }
    stop::before_sending(process, info.signal);
    let threads = process.threads();
    let bit = set_of(info.signal);
    let blocks = |thread: &Arc<Thread>| thread.signals.lock().mask & bit != 0;
    let open = threads.iter().find(|thread| !blocks(thread));
    // A tracer sees what is ignored too.
    let ignores = || process.handlers().lock().ignores(info.signal) && info.signal != SIGKILL;
    if open.is_some_and(|thread| !thread.tracee.is_traced()) && ignores() {
        return;
    }
    if info.signal == SIGKILL {
        // Not delivered: it ends also threads that wait in the kernel. Linux: `complete_signal()`.
        return end_group(process, Status::Killed(SIGKILL, false));
    }
    process.pending.lock().add(info);
    match open {
        Some(thread) => thread.interrupt(),
        // One may wait for it all the same, in `sigtimedwait`.
        None => threads.iter().for_each(Thread::unpark),
    }
}

/// Sends a signal to a thread.
pub fn send_to_thread(thread: &Arc<Thread>, info: Info) {
    let Some(process) = &thread.process else { return };
    if info.signal == SIGKILL {
        return send_to_process(process, info);
    }
    stop::before_sending(process, info.signal);
    let ignored = process.handlers().lock().ignores(info.signal) && !thread.tracee.is_traced();
    {
        let mut signals = thread.signals.lock();
        let blocked = signals.mask & set_of(info.signal) != 0;
        if ignored && !blocked && info.signal != SIGKILL {
            return;
        }
        signals.pending.add(info);
    }
    thread.interrupt();
}

/// The running thread did something that it gets a signal for. If it blocks or ignores that, the process ends.
pub fn force(cause: Cause) {
    force_info(cause.info());
}

/// As [`force`], with what the handler is told.
pub fn force_info(info: Info) {
    let me = current();
    let process = me.process();
    let ignored = process.handlers().lock().action(info.signal).handler == 1;
    let blocked = me.signals.lock().mask & set_of(info.signal) != 0;
    if me.tracee.is_traced() && info.signal != SIGKILL {
        // The tracer sees it first.
        if ignored || blocked {
            process.handlers().lock().set(info.signal, Action::default());
        }
        let mut signals = me.signals.lock();
        signals.mask &= !set_of(info.signal);
        signals.pending.0.insert(0, info);
    } else if ignored || blocked || info.signal == SIGKILL {
        end_group(process, Status::Killed(info.signal, dumps(info.signal)));
    } else {
        me.signals.lock().pending.0.insert(0, info);
    }
    me.interrupted.store(true, Ordering::SeqCst);
}

/// A signal was ignored from now on: what is pending of it goes.
pub fn forget(process: &Process, signal: u32) {
    process.pending.lock().forget(signal);
    for thread in process.threads() {
        thread.signals.lock().pending.forget(signal);
    }
}

/// Would Linux write a core file?
fn dumps(signal: u32) -> bool {
    use linux_raw_sys::general::{SIGABRT, SIGFPE, SIGILL, SIGQUIT, SIGSYS, SIGTRAP, SIGXCPU, SIGXFSZ};
    matches!(
        signal,
        SIGABRT | SIGBUS | SIGFPE | SIGILL | SIGQUIT | SIGSEGV | SIGSYS | SIGTRAP | SIGXCPU | SIGXFSZ
    )
}

/// Is one of the wanted signals pending for the running thread? Takes it.
pub fn take(wanted: Set) -> Option<Info> {
    let me = current();
    let own = me.signals.lock().pending.take(wanted);
    own.or_else(|| me.process().pending.lock().take(wanted))
}

/// Sets the running thread's mask, and returns the old one. Signals that are not blocked any more are delivered on the way back.
pub fn set_mask(mask: Set) -> Set {
    let me = current();
    let old = core::mem::replace(&mut me.signals.lock().mask, mask & !unblockable());
    if has_deliverable(&me) {
        me.interrupted.store(true, Ordering::SeqCst);
    }
    old
}

fn has_deliverable(thread: &Thread) -> bool {
    let (mask, own) = {
        let signals = thread.signals.lock();
        (signals.mask, signals.pending.set())
    };
    let shared = thread.process.as_ref().map_or(0, |process| process.pending.lock().set());
    (own | shared) & !mask != 0
}

/// With another mask until a handler has run, or `wait` is over without one: `sigsuspend`, `ppoll`.
///
/// # Errors
///
/// Those of `wait`.
pub fn with_mask<R>(mask: Option<Set>, wait: impl FnOnce() -> Result<R>) -> Result<R> {
    let Some(mask) = mask else { return wait() };
    let old = set_mask(mask);
    let done = wait();
    if done.as_ref().is_err_and(|error| *error == Errno::EINTR) {
        // The handler sees the old mask as the one to return to.
        current().signals.lock().saved_mask = Some(old);
    } else {
        set_mask(old);
    }
    done
}

/// What a thread does on its way to its program when something waits to be handled: the end, or a signal.
pub fn handle(registers: &mut Frame) {
    let me = current();
    // SeqCst: cleared before the look, so that what comes after the look sets it again.
    me.interrupted.store(false, Ordering::SeqCst);
    let process = me.process().clone();
    let ending = process.state.lock().ending;
    if ending.is_some() || me.ends_alone.load(Ordering::SeqCst) {
        ptrace::event(registers, PTRACE_EVENT_EXIT, ending.map_or(0, Status::as_wait).into());
        drop(process);
        thread::exit(0);
    }
    stop::stay(registers);
    if me.tracee.is_traced() {
        ptrace::stop_if_wanted(registers);
    }
    let mask = me.signals.lock().mask;
    let mut info = take(!mask);
    if let Some(found) = info
        && me.tracee.is_traced()
        && found.signal != SIGKILL
    {
        info = ptrace::signal_stop(registers, found);
    }
    let restart = me.signals.lock().restart.take();
    let Some(info) = info else {
        if let Some(number) = restart {
            again(registers, number);
        }
        let saved = me.signals.lock().saved_mask.take();
        if let Some(saved) = saved {
            set_mask(saved);
        }
        return;
    };
    trace::signal(&info);
    let handlers = process.handlers();
    let action = {
        let mut handlers = handlers.lock();
        let action = handlers.action(info.signal);
        if action.handler > 1 && action.flags & u64::from(SA_RESETHAND) != 0 {
            handlers.set(info.signal, Action::default());
        }
        action
    };
    let ignored = handlers.lock().ignores(info.signal);
    match action.handler {
        _ if ignored && action.handler <= 1 => {
            if let Some(number) = restart {
                again(registers, number);
            }
        }
        0 if stop::STOPPING.contains(&info.signal) => {
            stop::stop(&process, info.signal);
            if let Some(number) = restart {
                again(registers, number);
            }
        }
        0 => end_group(&process, Status::Killed(info.signal, dumps(info.signal))),
        _ => {
            if let Some(number) = restart
                && action.flags & u64::from(SA_RESTART) != 0
                && crate::syscall::restarts(number)
            {
                again(registers, number);
            }
            registers.set_step(&me.registers, false);
            deliver(registers, &info, &action);
            ptrace::stepped_into_handler(registers);
        }
    }
    if has_deliverable(&me) || process.state.lock().ending.is_some() {
        me.interrupted.store(true, Ordering::SeqCst);
    }
}

/// Makes the program make its system call again.
fn again(registers: &mut Frame, number: u64) {
    registers.call_again(number);
}

/// Where the frame of a handler goes, if the program leaves so many bytes below its stack pointer alone; and what the frame says
/// of the alternate stack (`stack_t`).
pub fn handler_stack(pointer: u64, below: u64, action: &Action) -> (u64, [u64; 3]) {
    let (start, size, flags) = current().signals.lock().stack;
    let on_stack = pointer.wrapping_sub(start) < size;
    let use_stack = action.flags & u64::from(SA_ONSTACK) != 0 && flags & SS_DISABLE == 0 && !on_stack;
    let top = if use_stack { start + size } else { pointer.wrapping_sub(below) };
    (top, [start, u64::from(if on_stack { flags | SS_ONSTACK } else { flags }), size])
}

fn deliver(registers: &mut Frame, info: &Info, action: &Action) {
    let me = current();
    let old = {
        let mut signals = me.signals.lock();
        let old = signals.saved_mask.take().unwrap_or(signals.mask);
        signals.mask |= action.mask & !unblockable();
        if action.flags & u64::from(SA_NODEFER) == 0 {
            signals.mask |= set_of(info.signal);
        }
        old
    };
    if crate::arch::signal::push(registers, info, action, old).is_err() {
        // A handler may have a better stack than this one. Linux: `force_sigsegv()` in kernel/signal.c.
        if info.signal == SIGSEGV {
            end_group(me.process(), Status::Killed(SIGSEGV, true));
        } else {
            force_info(Info::kernel(SIGSEGV));
        }
    }
}
