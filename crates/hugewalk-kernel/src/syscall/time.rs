//! Time: clocks and sleeping.

use crate::arch::numbers::*;

use super::{Answer, Arguments};
use crate::cpu::clock;
use crate::errno::{Errno, Result};
use crate::memory::user;
use crate::task::wait::sleep;

pub(super) fn call(number: u32, a: &Arguments) -> Answer {
    Some(match number {
        __NR_clock_gettime => time_of(a[0] as u32).and_then(|time| put(a[1], time)),
        __NR_clock_getres => time_of(a[0] as u32).and_then(|_| if a[1] == 0 { Ok(0) } else { put(a[1], 1) }),
        __NR_gettimeofday => {
            let time = clock::wall();
            if a[0] == 0 {
                Ok(0)
            } else {
                user::put(a[0], &[time / 1_000_000_000, time % 1_000_000_000 / 1000]).map(|()| 0)
            }
        }
        __NR_time => {
            let seconds = clock::wall() / 1_000_000_000;
            if a[0] == 0 { Ok(seconds) } else { user::put(a[0], &seconds).map(|()| seconds) }
        }
        __NR_times => {
            let ticks = clock::now() / 10_000_000;
            if a[0] == 0 { Ok(ticks) } else { user::put(a[0], &[ticks, 0, 0, 0]).map(|()| ticks) }
        }
        __NR_nanosleep => sleep_for(CLOCK_MONOTONIC, false, a[0], a[1]),
        __NR_clock_nanosleep => sleep_for(a[0] as u32, a[1] as u32 & TIMER_ABSTIME != 0, a[2], a[3]),
        _ => return None,
    })
}

fn time_of(which: u32) -> Result<u64> {
    match which {
        CLOCK_REALTIME | CLOCK_REALTIME_COARSE | CLOCK_TAI => Ok(clock::wall()),
        CLOCK_MONOTONIC
        | CLOCK_MONOTONIC_RAW
        | CLOCK_MONOTONIC_COARSE
        | CLOCK_BOOTTIME
        | CLOCK_PROCESS_CPUTIME_ID
        | CLOCK_THREAD_CPUTIME_ID => Ok(clock::now()),
        _ => Err(Errno::EINVAL),
    }
}

fn put(into: u64, time: u64) -> Result<u64> {
    user::put(into, &[time / 1_000_000_000, time % 1_000_000_000]).map(|()| 0)
}

fn sleep_for(which: u32, absolute: bool, request: u64, remaining: u64) -> Result<u64> {
    let [seconds, nanoseconds]: [u64; 2] = user::get(request)?;
    if nanoseconds >= 1_000_000_000 || seconds > i64::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    let time = seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
    let offset = time_of(which)?.saturating_sub(clock::now());
    let deadline = if absolute { time.saturating_sub(offset) } else { clock::now().saturating_add(time) };
    loop {
        match sleep(Some(deadline)) {
            Ok(()) => {}
            Err(Errno::ETIMEDOUT) => return Ok(0),
            Err(error) => {
                if !absolute && remaining != 0 {
                    put(remaining, deadline.saturating_sub(clock::now()))?;
                }
                return Err(error);
            }
        }
    }
}
