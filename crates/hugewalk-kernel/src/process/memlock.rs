//! `RLIMIT_MEMLOCK`: who may lock how much in memory. Linux: `can_do_mlock()` in mm/mlock.c.

use linux_raw_sys::general::RLIMIT_MEMLOCK;

use crate::errno::{Errno, Result};
use crate::process::credentials;
use crate::task::current;

/// Bytes that a process may lock which is not root's, unless a limit was set.
pub const DEFAULT: u64 = 8 << 20;

/// May the running process lock so many bytes? What it has locked before is not counted.
///
/// # Errors
///
/// `EPERM` if it may lock nothing, `too_much` if it may lock less.
pub fn check(bytes: u64, too_much: Errno) -> Result<()> {
    if credentials::own().is_root() {
        return Ok(());
    }
    match current().process().limits.lock()[RLIMIT_MEMLOCK as usize][0] {
        0 => Err(Errno::EPERM),
        limit if bytes > limit => Err(too_much),
        _ => Ok(()),
    }
}
