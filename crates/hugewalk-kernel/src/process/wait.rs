//! Waiting for children, and for threads that the process traces. Linux: `do_wait()` in kernel/exit.c.

use alloc::sync::Arc;

use super::exit::{Status, reap};
use super::{Process, ptrace};
use crate::errno::{Errno, Result};
use crate::task::{Thread, current, wait};

/// Which children `wait4` is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Any.
    Any,
    /// The one with this number.
    Pid(u32),
    /// Those of a group.
    Group(u32),
}

impl Which {
    fn is(self, process: &Process) -> bool {
        match self {
            Self::Any => true,
            Self::Pid(pid) => process.pid == pid,
            Self::Group(group) => process.state.lock().group == group,
        }
    }

    /// Is it for a thread that the process traces?
    pub(super) fn is_thread(self, thread: &Thread) -> bool {
        match self {
            Self::Pid(pid) => thread.tid == pid,
            _ => thread.process.as_ref().is_some_and(|process| self.is(process)),
        }
    }
}

/// What is waited for, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Children that have ended.
    pub ended: bool,
    /// Children that a signal has stopped. Traced threads that have stopped are waited for always.
    pub stopped: bool,
    /// Children that go on after that.
    pub continued: bool,
    /// It does not wait.
    pub nohang: bool,
    /// It can be waited for again.
    pub keep: bool,
}

/// What has happened to a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It has ended.
    Ended(Status),
    /// It has stopped: the signal, and an event eight bits above. True if its tracer knows why, false if a signal has stopped its
    /// process.
    Stopped(u32, bool),
    /// It goes on.
    Continued,
}

impl Found {
    /// As `wait4` returns it.
    pub fn as_wait(self) -> u32 {
        match self {
            Self::Ended(status) => status.as_wait(),
            Self::Stopped(code, _) => code << 8 | 0x7f,
            Self::Continued => 0xffff,
        }
    }

    /// `si_code` and `si_status`.
    pub fn as_code(self) -> (i32, i32) {
        use linux_raw_sys::general::{CLD_CONTINUED, CLD_STOPPED, CLD_TRAPPED, SIGCONT};
        let (code, value) = match self {
            Self::Ended(status) => return status.as_code(),
            Self::Stopped(code, true) => (CLD_TRAPPED, code),
            Self::Stopped(code, false) => (CLD_STOPPED, code),
            Self::Continued => (CLD_CONTINUED, SIGCONT),
        };
        (code.cast_signed(), value.cast_signed())
    }
}

/// Waits until something has happened to a child. Returns its number and what, or `None` if nothing has and it is not to wait.
/// Sleeps.
///
/// # Errors
///
/// `ECHILD` if there is no such child, `EINTR`.
pub fn wait_for(which: Which, wants: Wants) -> Result<Option<(u32, Found)>> {
    let process = current().process().clone();
    let _place = process.waiters.enter();
    loop {
        let (traces, news) = ptrace::news(&process, which, wants.keep);
        if news.is_some() {
            return Ok(news);
        }
        let children: alloc::vec::Vec<Arc<Process>> = {
            let state = process.state.lock();
            state.children.iter().filter(|child| which.is(child)).cloned().collect()
        };
        if let Some((child, found)) =
            children.iter().find_map(|child| look(&process, child, wants).map(|found| (child, found)))
        {
            if matches!(found, Found::Ended(_)) && !wants.keep {
                reap(&process, child);
            }
            return Ok(Some((child.pid, found)));
        }
        if children.is_empty() && !traces {
            return Err(Errno::ECHILD);
        }
        if wants.nohang {
            return Ok(None);
        }
        drop(children);
        wait::sleep(None)?;
    }
}

/// What has happened to a child of a process.
fn look(parent: &Arc<Process>, child: &Process, wants: Wants) -> Option<Found> {
    // Whoever traces it is told first.
    let traced_elsewhere = child.tracer.lock().upgrade().is_some_and(|tracer| !Arc::ptr_eq(&tracer, parent));
    let mut state = child.state.lock();
    if let Some(status) = state.status {
        return (wants.ended && !traced_elsewhere).then_some(Found::Ended(status));
    }
    if wants.stopped
        && let Some(stopped) = &mut state.stopped
        && !stopped.told
    {
        stopped.told = !wants.keep;
        return Some(Found::Stopped(stopped.signal, false));
    }
    if wants.continued && state.continued {
        state.continued = wants.keep;
        return Some(Found::Continued);
    }
    None
}
