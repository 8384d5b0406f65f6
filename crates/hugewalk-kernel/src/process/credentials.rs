//! Who a process is: users and groups. Linux: `struct cred`, kernel/sys.c, `ipcperms()` in ipc/util.c.
//!
//! User 0 may do everything; there are no capabilities apart from that.

use alloc::vec::Vec;

use crate::errno::{Errno, Result};
use crate::task::current;

/// A number that leaves what it stands for alone.
const KEEP: u32 = u32::MAX;

/// The users, or the groups, of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// Who started it.
    pub real: u32,
    /// Whose rights it has.
    pub effective: u32,
    /// Whose rights it may take again.
    pub saved: u32,
}

/// Who a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Users.
    pub user: Ids,
    /// Groups.
    pub group: Ids,
    /// More groups.
    pub groups: Vec<u32>,
}

impl Credentials {
    /// May it do everything?
    pub const fn is_root(&self) -> bool {
        self.user.effective == 0
    }

    /// May it see and change the memory of a process with these? Linux: `__ptrace_may_access()` in kernel/ptrace.c.
    pub fn may_reach(&self, other: &Self) -> bool {
        let all = |ids: Ids, id| [ids.real, ids.effective, ids.saved] == [id; 3];
        self.is_root() || all(other.user, self.user.real) && all(other.group, self.group.real)
    }

    /// Is it a member of this group?
    pub fn is_in(&self, group: u32) -> bool {
        self.group.effective == group || self.groups.contains(&group)
    }

    /// Which of the rights read (4), write (2) and execute (1) it lacks to something with these owners and permissions.
    pub fn lacks(&self, users: &[u32], groups: &[u32], permissions: u32, wanted: u32) -> bool {
        if self.is_root() {
            return false;
        }
        let granted = if users.contains(&self.user.effective) {
            permissions >> 6
        } else if groups.iter().any(|group| self.is_in(*group)) {
            permissions >> 3
        } else {
            permissions
        };
        wanted & 7 & !granted != 0
    }
}

/// Who the running process is.
pub fn own() -> Credentials {
    current().process().credentials.lock().clone()
}

/// Is the running process root?
///
/// # Errors
///
/// `EPERM`.
pub fn must_be_root() -> Result<()> {
    let root = current().process.as_ref().is_none_or(|process| process.credentials.lock().is_root());
    if root { Ok(()) } else { Err(Errno::EPERM) }
}

/// Which of the numbers of a process is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Users.
    User,
    /// Groups.
    Group,
}

fn change(kind: Kind, change: impl FnOnce(&mut Ids, bool) -> Result<()>) -> Result<u64> {
    let me = current();
    let mut own = me.process().credentials.lock();
    let root = own.is_root();
    let ids = match kind {
        Kind::User => &mut own.user,
        Kind::Group => &mut own.group,
    };
    change(ids, root).map(|()| 0)
}

/// `setuid`, `setgid`.
///
/// # Errors
///
/// `EPERM`.
pub fn set(kind: Kind, id: u32) -> Result<u64> {
    change(kind, |ids, root| {
        if root {
            *ids = Ids { real: id, effective: id, saved: id };
        } else if [ids.real, ids.saved].contains(&id) {
            ids.effective = id;
        } else {
            return Err(Errno::EPERM);
        }
        Ok(())
    })
}

/// `setreuid`, `setregid`.
///
/// # Errors
///
/// `EPERM`.
pub fn set_two(kind: Kind, real: u32, effective: u32) -> Result<u64> {
    change(kind, |ids, root| {
        let old = *ids;
        let may_be_real = real == KEEP || [old.real, old.effective].contains(&real);
        let may_be_effective = effective == KEEP || [old.real, old.effective, old.saved].contains(&effective);
        let may = root || may_be_real && may_be_effective;
        if !may {
            return Err(Errno::EPERM);
        }
        if real != KEEP {
            ids.real = real;
        }
        if effective != KEEP {
            ids.effective = effective;
        }
        if real != KEEP || effective != KEEP && effective != old.real {
            ids.saved = ids.effective;
        }
        Ok(())
    })
}

/// `setresuid`, `setresgid`.
///
/// # Errors
///
/// `EPERM`.
pub fn set_three(kind: Kind, [real, effective, saved]: [u32; 3]) -> Result<u64> {
    change(kind, |ids, root| {
        let old = *ids;
        let may = |id| id == KEEP || [old.real, old.effective, old.saved].contains(&id);
        let may = root || may(real) && may(effective) && may(saved);
        if !may {
            return Err(Errno::EPERM);
        }
        for (id, new) in [(&mut ids.real, real), (&mut ids.effective, effective), (&mut ids.saved, saved)] {
            if new != KEEP {
                *id = new;
            }
        }
        Ok(())
    })
}
