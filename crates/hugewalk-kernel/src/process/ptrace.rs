//! Threads that another process traces: where they stop, and how they go on. The requests are in `syscall/ptrace.rs`.
//!
//! A thread stops on its own, at a few places on its way out of or into a system call. There it leaves a copy of its registers
//! where the tracer can change them, tells the tracer, and parks. The tracer answers in the stop itself; the thread takes the
//! stop away, and what has become of its registers with it. So no tracer ever touches a thread that runs.
//!
//! Locks: the list of a tracer's threads comes before what is known of one of them. Nothing else is taken under either, and
//! nothing sleeps under them. Linux: kernel/ptrace.c, `ptrace_stop()` and `ptrace_signal()` in kernel/signal.c.

mod calls;
mod stops;
mod tracer;

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use spin::Mutex;

pub(super) use self::calls::stepped_into_handler;
pub use self::calls::{call_begins, call_ends};
pub use self::stops::{began_program, dies, event};
pub(super) use self::stops::{follow, group_stop, signal_stop, stop_if_wanted, thread_ends};
pub use self::tracer::{attach, detach, interrupt, resume, tracee, with_stopped};
pub(super) use self::tracer::{child_is_gone, news, tracer_ends};

use super::Process;
use super::exit::Status;
use super::signal::Info;
use crate::arch::Registers;
use crate::errno::{Errno, Result};

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
            state: Mutex::new(Tracing::none()),
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
