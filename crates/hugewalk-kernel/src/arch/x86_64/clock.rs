//! Time: the TSC, calibrated by the HPET, and the date from the real-time clock.

use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering};

use super::port;
use crate::memory::direct;

const HPET: u64 = 0xfed0_0000;

static BASE: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds a tick, times 2^32.
static SCALE: AtomicU64 = AtomicU64::new(0);

fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has a TSC.
    unsafe { _rdtsc() }
}

fn hpet(register: u64) -> u64 {
    // SAFETY: the HPET's registers lie in the direct map, which is not used otherwise there.
    unsafe { direct::<u64>(HPET + register).read_volatile() }
}

/// Both clocks at one moment: ticks of the TSC and of the HPET. The host may take the processor away between two reads, so the HPET is
/// read between two reads of the TSC, and of some readings the one counts whose two lie closest together.
fn both() -> (u64, u64) {
    let reading = || {
        let (before, counter, after) = (ticks(), hpet(0xf0), ticks());
        (after - before, (before, counter))
    };
    let best = (0..16).map(|_| reading()).min_by_key(|(apart, _)| *apart);
    best.map_or_else(|| (ticks(), hpet(0xf0)), |(_, both)| both)
}

/// Starts the clock.
///
/// # Errors
///
/// What the machine lacks, and what has it.
pub fn set_up() -> Result<(), &'static str> {
    // Femtoseconds a tick, at most 100 ns by the specification.
    let period = hpet(0) >> 32;
    if period == 0 || period > 100_000_000 {
        return Err("the machine has no HPET to tell the time by; use -machine q35 or pc");
    }
    // SAFETY: counting touches no memory.
    unsafe { direct::<u64>(HPET + 0x10).write_volatile(hpet(0x10) | 1) };
    let (tick, start) = both();
    let (end_tick, end) = loop {
        let now = both();
        if now.1.wrapping_sub(start) * period > 20_000_000_000_000 {
            break now;
        }
    };
    let nanoseconds = u128::from(end.wrapping_sub(start)) * u128::from(period) / 1_000_000;
    let scale = (nanoseconds << 32) / u128::from((end_tick - tick).max(1));
    SCALE.store(scale as u64, Ordering::Relaxed);
    BASE.store(tick, Ordering::Relaxed);
    Ok(())
}

/// Nanoseconds since the start.
pub fn now() -> u64 {
    let ticks = ticks().wrapping_sub(BASE.load(Ordering::Relaxed));
    ((u128::from(ticks) * u128::from(SCALE.load(Ordering::Relaxed))) >> 32) as u64
}

/// Spins for as many nanoseconds.
pub(super) fn spin(nanoseconds: u64) {
    let end = now() + nanoseconds;
    while now() < end {
        core::hint::spin_loop();
    }
}

/// Seconds since 1970, by the real-time clock, which is in UTC and BCD.
pub fn date() -> u64 {
    let read = |register: u8| {
        // SAFETY: the real-time clock touches no memory.
        unsafe { port::write8(0x70, register) };
        // SAFETY: as above.
        let value = unsafe { port::read8(0x71) };
        u64::from(value >> 4) * 10 + u64::from(value & 15)
    };
    let take = || [9, 8, 7, 4, 2, 0].map(read);
    let mut fields = take();
    // Twice the same: the clock was not counting up meanwhile.
    loop {
        let again = take();
        if again == fields {
            break;
        }
        fields = again;
    }
    let [year, month, day, hour, minute, second] = fields;
    // Days since 1970, by counting years from March: Howard Hinnant's `days_from_civil`.
    let year = 2000 + year - u64::from(month <= 2);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.max(1) - 1;
    let era = year / 400;
    let year_of_era = year % 400;
    let days =
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    ((days * 24 + hour) * 60 + minute) * 60 + second
}
