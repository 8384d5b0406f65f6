//! `pidfd_open`: a descriptor that can be read from once its process has ended.

use alloc::sync::Arc;

use linux_raw_sys::general::{O_NONBLOCK, O_RDWR};

use super::{Process, find};
use crate::errno::{Errno, Result};
use crate::fs::file::Events;
use crate::fs::{File, Opened};
use crate::task::current;
use crate::task::wait::WaitQueue;

struct PidFd(Arc<Process>);

impl File for PidFd {
    fn is_stream(&self) -> bool {
        true
    }

    fn events(&self) -> Events {
        if self.0.state.lock().status.is_some() { Events::IN | Events::RDNORM } else { Events::empty() }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.gone)
    }
}

/// `pidfd_open`.
///
/// # Errors
///
/// `EINVAL` for unknown flags, `ESRCH`; those of a new descriptor.
pub fn open(pid: u32, flags: u32) -> Result<u64> {
    if flags & !O_NONBLOCK != 0 {
        return Err(Errno::EINVAL);
    }
    let process = find(pid).ok_or(Errno::ESRCH)?;
    let opened = Opened::anonymous(Arc::new(PidFd(process)), "anon_inode:[pidfd]", O_RDWR | flags);
    Ok(current().process().files().insert(opened, true, 0)?.into())
}
