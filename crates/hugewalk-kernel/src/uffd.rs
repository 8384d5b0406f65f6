//! userfaultfd. A beginning.

use alloc::sync::Arc;

use crate::errno::{Errno, Result};
use crate::space::Space;

/// `userfaultfd(2)`.
pub fn create(_: u32) -> Result<u64> {
    Err(Errno::ENOSYS)
}

/// Wakes all that waits for handlers of an address space, which ends.
pub fn release(_: &Arc<Space>) {}
