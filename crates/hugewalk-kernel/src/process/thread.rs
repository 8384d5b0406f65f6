//! clone and fork, and the start and the end of a thread.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use linux_raw_sys::general::{
    CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID, CLONE_FILES, CLONE_FS, CLONE_PARENT_SETTID, CLONE_SETTLS,
    CLONE_SIGHAND, CLONE_THREAD, CLONE_VFORK, CLONE_VM, SIGCHLD,
};
use linux_raw_sys::ptrace::PTRACE_EVENT_VFORK_DONE;
use spin::Mutex;

use super::signal::Pending;
use super::{PROCESSES, Process, State, exit, fresh_number, ptrace};
use crate::arch::Frame;
use crate::errno::{Errno, Result};
use crate::memory::user;
use crate::task::wait::WaitQueue;
use crate::task::{Thread, begin, current, futex, robust};

/// What `clone` and `clone3` ask for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    /// `CLONE_*`.
    pub flags: u64,
    /// Top of the stack, or 0 for a copy of the parent's.
    pub stack: u64,
    /// Where the parent gets the number.
    pub parent_tid: u64,
    /// Where the child finds the number, and a 0 at its end.
    pub child_tid: u64,
    /// The thread pointer.
    pub tls: u64,
    /// The signal at its end.
    pub exit_signal: u32,
}

/// Makes a thread, or a process with one thread. Returns its number. Sleeps; with `CLONE_VFORK`, until the child has ended or begun
/// another program.
///
/// # Errors
///
/// `EINVAL` for flags that do not go together, `ENOMEM`, `EAGAIN`.
pub fn clone(frame: &mut Frame, request: &Request) -> Result<u64> {
    let has = |flag: u32| request.flags & u64::from(flag) != 0;
    if has(CLONE_THREAD) && !has(CLONE_SIGHAND)
        || has(CLONE_SIGHAND) && !has(CLONE_VM)
        || request.exit_signal > 64
    {
        return Err(Errno::EINVAL);
    }
    let me = current();
    let process = me.process().clone();
    let tid = fresh_number();
    let registers = frame.child((request.stack != 0).then_some(request.stack));
    let space = me.space();
    let space = if has(CLONE_VM) {
        space.enter();
        space
    } else {
        space.fork()?
    };
    let made =
        if has(CLONE_THREAD) { Ok(process.clone()) } else { Ok(process.child(tid, request, space.clone())) };
    let made = made.and_then(|owner: Arc<Process>| {
        Thread::user(tid, owner.clone(), space.clone(), registers, me.fpu()).map(|thread| (owner, thread))
    });
    let (owner, thread) = match made {
        Ok(made) => made,
        Err(error) => {
            if !has(CLONE_THREAD) {
                process.state.lock().children.retain(|child| child.pid != tid);
                PROCESSES.lock().remove(&tid);
            }
            space.leave();
            return Err(error);
        }
    };
    // Those of one program that run at the same time have stacks of their own.
    let stack = !has(CLONE_VM) || has(CLONE_VFORK);
    thread.signals.lock().inherit(&me.signals.lock(), stack);
    thread.registers.inherit(&me.registers, has(CLONE_SETTLS).then_some(request.tls));
    *thread.name.lock() = *me.name.lock();
    thread.processors.store(me.processors.load(Ordering::Relaxed), Ordering::Relaxed);
    if has(CLONE_CHILD_CLEARTID) {
        thread.clear_tid.store(request.child_tid, Ordering::Relaxed);
    }
    if has(CLONE_CHILD_SETTID) {
        thread.set_tid.store(request.child_tid, Ordering::Relaxed);
    }
    if has(CLONE_PARENT_SETTID) {
        let _ = user::put(request.parent_tid, &tid);
    }
    {
        let mut state = owner.state.lock();
        if let Some(status) = state.ending {
            drop(state);
            let _ = status;
            space.leave();
            return Err(Errno::EAGAIN);
        }
        state.threads.push(thread.clone());
        state.vforked = has(CLONE_VFORK);
    }
    let traced = ptrace::follow(&thread, has(CLONE_VFORK), request.exit_signal == SIGCHLD);
    begin(&thread);
    drop(thread);
    if let Some(event) = traced {
        ptrace::event(frame, event, tid.into());
    }
    if has(CLONE_VFORK) {
        owner.waiters.wait_uninterrupted(|| (!owner.state.lock().vforked).then_some(()));
        ptrace::event(frame, PTRACE_EVENT_VFORK_DONE, tid.into());
    }
    Ok(u64::from(tid))
}

impl Process {
    /// A child, as `clone` asks for, without threads yet.
    fn child(self: &Arc<Self>, pid: u32, request: &Request, space: Arc<crate::space::Space>) -> Arc<Self> {
        let has = |flag: u32| request.flags & u64::from(flag) != 0;
        let files = self.files();
        let place = self.place.lock().clone();
        let handlers = self.handlers();
        let (group, session) = {
            let state = self.state.lock();
            (state.group, state.session)
        };
        let copied_place = Arc::new(Mutex::new(place.lock().clone()));
        let copied_handlers = Arc::new(Mutex::new(handlers.lock().clone()));
        let child = Arc::new(Self {
            pid,
            parent: Mutex::new(Arc::downgrade(self)),
            state: Mutex::new(State::new(group, session)),
            space: Mutex::new(Some(space)),
            files: Mutex::new(if has(CLONE_FILES) { files } else { Arc::new(files.copied()) }),
            place: Mutex::new(if has(CLONE_FS) { place } else { copied_place }),
            umask: core::sync::atomic::AtomicU32::new(self.umask.load(Ordering::Relaxed)),
            handlers: Mutex::new(if has(CLONE_SIGHAND) { handlers } else { copied_handlers }),
            pending: Mutex::new(Pending::new()),
            waiters: WaitQueue::new(),
            exit_signal: request.exit_signal,
            interval: Mutex::new(None),
            program: Mutex::new(self.program.lock().clone()),
            oom_score_adj: AtomicI32::new(self.oom_score_adj.load(Ordering::Relaxed)),
            limits: Mutex::new(*self.limits.lock()),
            started: AtomicU64::new(crate::cpu::clock::now()),
            gone: WaitQueue::new(),
            ipc: Mutex::new(self.ipc.lock().clone()),
            subreaper: core::sync::atomic::AtomicBool::new(false),
            faults: AtomicU64::new(0),
            children_reaped: AtomicU64::new(0),
            barriers: core::sync::atomic::AtomicU32::new(self.barriers.load(Ordering::Relaxed)),
            credentials: Mutex::new(self.credentials.lock().clone()),
            tracees: Mutex::new(Vec::new()),
            tracer: Mutex::new(Weak::new()),
        });
        self.state.lock().children.push(child.clone());
        PROCESSES.lock().insert(pid, child.clone());
        child
    }
}

/// The first thing that a new thread does.
pub fn started() {
    let me = current();
    let address = me.set_tid.swap(0, Ordering::Relaxed);
    if address != 0 {
        let _ = user::put(address, &me.tid);
    }
}

/// Ends the running thread (`exit`); with the last one, the process.
pub fn exit(own_status: u8) -> ! {
    let me = current();
    let process = me.process().clone();
    robust::release_all();
    let clear = me.clear_tid.swap(0, Ordering::Relaxed);
    if clear != 0 && user::put(clear, &0_u32).is_ok() {
        futex::wake_at(clear);
    }
    let (last, status) = {
        let mut state = process.state.lock();
        let own = me.tid;
        let at = state.threads.iter().position(|thread| thread.tid == own);
        let thread = at.map(|at| state.threads.swap_remove(at));
        let last = state.threads.is_empty();
        if last && state.ending.is_none() {
            state.ending = Some(exit::Status::Exited(own_status));
        }
        let ending = state.ending;
        drop(state);
        drop(thread);
        (last, ending)
    };
    ptrace::thread_ends(status.unwrap_or(exit::Status::Exited(own_status)));
    process.waiters.wake_all();
    crate::trace::ended(status.unwrap_or(exit::Status::Exited(own_status)));
    if last {
        exit::finish(&process, status.unwrap_or(exit::Status::Exited(own_status)));
    } else {
        me.space().leave();
    }
    drop(process);
    crate::task::exit_current()
}

/// The last part of a path, as a thread's name.
pub fn short_name(path: &str) -> [u8; 16] {
    let mut name = [0; 16];
    let last = path.rsplit('/').next().unwrap_or_default().as_bytes();
    let length = last.len().min(15);
    name[..length].copy_from_slice(&last[..length]);
    name
}
