//! The end of a process.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use linux_raw_sys::general::{CLD_DUMPED, CLD_EXITED, CLD_KILLED, SIGCHLD};

use super::signal::{self, Info};
use super::{INIT, PROCESSES, Process, find, ptrace};
use crate::report;
use crate::task::current;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// By itself, with a status.
    Exited(u8),
    /// By a signal; `true` if Linux would write a core file.
    Killed(u32, bool),
}

impl Status {
    /// As `wait4` returns it.
    pub fn as_wait(self) -> u32 {
        match self {
            Self::Exited(status) => u32::from(status) << 8,
            Self::Killed(signal, core) => signal | if core { 0x80 } else { 0 },
        }
    }

    pub(super) fn as_code(self) -> (i32, i32) {
        match self {
            Self::Exited(status) => (CLD_EXITED as i32, i32::from(status)),
            Self::Killed(signal, false) => (CLD_KILLED as i32, signal as i32),
            Self::Killed(signal, true) => (CLD_DUMPED as i32, signal as i32),
        }
    }
}

/// Makes all threads of a process end (`exit_group`, a deadly signal): each does so on its way to its program. One that ends already keeps
/// its status, and threads of it that have stopped to tell their tracer stay so, as on Linux.
pub fn end_group(process: &Arc<Process>, status: Status) {
    let threads = {
        let mut state = process.state.lock();
        if state.ending.is_some() {
            return;
        }
        state.ending = Some(status);
        state.threads.clone()
    };
    for thread in &threads {
        thread.interrupt();
    }
}

/// Ends the other threads of the running process, for execve. False if the process ends.
pub(super) fn end_other_threads(process: &Arc<Process>) -> bool {
    let me = current();
    let others: Vec<_> = {
        let state = process.state.lock();
        if state.ending.is_some() {
            return false;
        }
        state.threads.iter().filter(|thread| thread.tid != me.tid).cloned().collect()
    };
    for thread in &others {
        thread.ends_alone.store(true, Ordering::SeqCst);
        thread.interrupt();
    }
    drop(others);
    process.waiters.wait_uninterrupted(|| (process.state.lock().threads.len() == 1).then_some(()));
    true
}

/// A child that was made by `vfork` does not use its parent's memory any more.
pub(super) fn end_of_vfork(process: &Process) {
    process.state.lock().vforked = false;
    process.waiters.wake_all();
}

/// What the last thread of a process does.
pub(super) fn finish(process: &Arc<Process>, status: Status) {
    report::sample();
    drop(process.interval.lock().take());
    // The table may be shared with another process, which goes on with it.
    let files = core::mem::take(&mut *process.files.lock());
    drop(files);
    let space = process.space.lock().take();
    if let Some(space) = space {
        space.leave();
        current().set_space(None);
    }
    end_of_vfork(process);
    drop(process.ipc.lock().take());
    // Children go to who has asked for them, to the first process, or to nobody.
    let children = core::mem::take(&mut process.state.lock().children);
    for child in children {
        let heir = heir(process);
        match heir {
            Some(first) => {
                *child.parent.lock() = Arc::downgrade(&first);
                first.state.lock().children.push(child.clone());
                // Else its tracer waits for it first.
                let ended = child.state.lock().status.is_some() && child.tracer.lock().upgrade().is_none();
                if ended && first.pid == INIT {
                    reap(&first, &child);
                }
                first.waiters.wake_all();
            }
            None => {
                let ended = child.state.lock().status.is_some();
                *child.parent.lock() = alloc::sync::Weak::new();
                if ended {
                    PROCESSES.lock().remove(&child.pid);
                }
            }
        }
    }
    process.state.lock().status = Some(status);
    process.gone.wake_all();
    ptrace::tracer_ends(process);
    let tracer = process.tracer.lock().upgrade();
    match tracer {
        // The parent learns of it when the tracer has waited for it.
        Some(tracer) if !process.is_child_of(&tracer) => {
            let (code, value) = status.as_code();
            signal::send_to_process(&tracer, Info::child(SIGCHLD, code, process.pid, value));
            tracer.waiters.wake_all();
        }
        _ => tell_parent(process, status),
    }
    crate::boot::ended(process.pid, status);
}

/// Tells the parent of a process that it has ended, or forgets it if there is none.
pub(super) fn tell_parent(process: &Arc<Process>, status: Status) {
    let parent = process.parent.lock().upgrade();
    match parent {
        Some(parent) => {
            let (code, value) = status.as_code();
            let ignored = parent.handlers().lock().discards_children();
            if process.exit_signal != 0 {
                signal::send_to_process(&parent, Info::child(process.exit_signal, code, process.pid, value));
            }
            if ignored && (process.exit_signal == SIGCHLD || parent.pid == INIT) {
                reap(&parent, process);
            }
            parent.waiters.wake_all();
        }
        None => drop(PROCESSES.lock().remove(&process.pid)),
    }
}

/// Who gets the children of a process that ends.
fn heir(process: &Arc<Process>) -> Option<Arc<Process>> {
    let mut above = process.parent.lock().upgrade();
    while let Some(ancestor) = above {
        let lives = ancestor.state.lock().status.is_none();
        if lives && ancestor.subreaper.load(core::sync::atomic::Ordering::Relaxed) {
            return Some(ancestor);
        }
        above = ancestor.parent.lock().upgrade();
    }
    find(INIT).filter(|first| first.pid != process.pid)
}

/// Forgets a child that has ended.
pub(super) fn reap(parent: &Process, child: &Arc<Process>) {
    ptrace::child_is_gone(parent, child.pid);
    parent.state.lock().children.retain(|other| other.pid != child.pid);
    parent.children_reaped.fetch_add(1, Ordering::Relaxed);
    PROCESSES.lock().remove(&child.pid);
}
