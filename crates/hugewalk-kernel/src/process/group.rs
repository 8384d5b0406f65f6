//! Process groups, and sessions of them. Linux: `setpgid()` and `setsid()` in kernel/sys.c.

use crate::errno::{Errno, Result};
use crate::process::{self, find};
use crate::task::current;

/// Puts a process into a group; number 0 is the running process, group 0 the one that the process leads.
///
/// # Errors
///
/// `EINVAL` for a negative group; `ESRCH` if it is neither the running process nor a child of it; `EACCES` if the child has
/// begun another program; `EPERM` if it is of another session or leads one, or the group is of none or of another.
pub fn join(pid: u32, group: i32) -> Result<()> {
    let own = current().process().clone();
    let group = u32::try_from(group).map_err(|_| Errno::EINVAL)?;
    let pid = if pid == 0 { own.pid } else { pid };
    let group = if group == 0 { pid } else { group };
    let session = own.state.lock().session;
    let target = if pid == own.pid {
        own
    } else {
        let child = find(pid).filter(|child| child.is_child_of(&own)).ok_or(Errno::ESRCH)?;
        let state = child.state.lock();
        if state.session != session {
            return Err(Errno::EPERM);
        }
        if state.has_execed {
            return Err(Errno::EACCES);
        }
        drop(state);
        child
    };
    if target.state.lock().session == pid {
        return Err(Errno::EPERM);
    }
    if group != pid {
        let known = process::all().iter().any(|other| {
            let state = other.state.lock();
            state.group == group && state.session == session
        });
        if !known {
            return Err(Errno::EPERM);
        }
    }
    target.state.lock().group = group;
    Ok(())
}

/// Makes the running process lead a new session and a new group. Returns their number.
///
/// # Errors
///
/// `EPERM` if there is a group of that number.
pub fn begin_session() -> Result<u32> {
    let own = current().process().clone();
    if process::all().iter().any(|other| other.state.lock().group == own.pid) {
        return Err(Errno::EPERM);
    }
    let mut state = own.state.lock();
    (state.session, state.group) = (own.pid, own.pid);
    Ok(own.pid)
}
