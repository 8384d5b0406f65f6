//! Time.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::clock;

pub use crate::arch::clock::now;

/// Seconds since 1970 when the clock was at 0.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// Starts the clock.
///
/// # Errors
///
/// What the machine lacks, and what has it.
pub fn set_up() -> Result<(), &'static str> {
    clock::set_up()?;
    EPOCH.store(clock::date(), Ordering::Relaxed);
    Ok(())
}

/// Nanoseconds since 1970.
pub fn wall() -> u64 {
    EPOCH.load(Ordering::Relaxed) * 1_000_000_000 + now()
}
