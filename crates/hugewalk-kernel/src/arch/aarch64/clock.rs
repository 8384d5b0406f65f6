//! Time: the virtual counter, and the date from the PL031.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::memory::direct;

/// The real-time clock of `virt`: its first register counts seconds since 1970.
const PL031: u64 = 0x0901_0000;

static BASE: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds a tick, times 2^32.
static SCALE: AtomicU64 = AtomicU64::new(0);

fn ticks() -> u64 {
    let ticks: u64;
    // SAFETY: reads a register; the barrier keeps it in its place.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nostack, preserves_flags)) };
    ticks
}

/// Ticks a second.
pub(super) fn frequency() -> u64 {
    let frequency: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack, preserves_flags)) };
    frequency
}

/// Starts the clock.
///
/// # Errors
///
/// What the machine lacks.
pub fn set_up() -> Result<(), &'static str> {
    let frequency = frequency();
    if frequency == 0 {
        return Err("the machine does not say how fast its counter is");
    }
    SCALE.store(((1_000_000_000_u128 << 32) / u128::from(frequency)) as u64, Ordering::Relaxed);
    BASE.store(ticks(), Ordering::Relaxed);
    Ok(())
}

/// Nanoseconds since the start.
pub fn now() -> u64 {
    let ticks = ticks().wrapping_sub(BASE.load(Ordering::Relaxed));
    ((u128::from(ticks) * u128::from(SCALE.load(Ordering::Relaxed))) >> 32) as u64
}

/// Seconds since 1970.
pub fn date() -> u64 {
    // SAFETY: the clock's registers lie in the direct map, which is not used otherwise there.
    u64::from(unsafe { direct::<u32>(PL031).read_volatile() })
}
