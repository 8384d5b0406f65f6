//! `poll`, `ppoll`, `select` and `pselect6`.

use alloc::vec::Vec;

use crate::cpu::clock;
use crate::errno::{Errno, Result};
use crate::fs::descriptors::LIMIT;
use crate::fs::file::Events;
use crate::fs::poll::{self, Wanted};
use crate::memory::user;
use crate::process::signal;
use crate::task::current;

/// The deadline so many milliseconds from now; none for a negative number.
pub(super) fn milliseconds(limit: i32) -> Option<u64> {
    u64::try_from(limit).ok().map(|limit| clock::now() + limit * 1_000_000)
}

/// The deadline that a `timespec` at an address gives; none without an address.
fn timespec(address: u64, unit: u64) -> Result<Option<u64>> {
    if address == 0 {
        return Ok(None);
    }
    let [seconds, rest]: [i64; 2] = user::get(address)?;
    let (Ok(seconds), Ok(rest)) = (u64::try_from(seconds), u64::try_from(rest)) else {
        return Err(Errno::EINVAL);
    };
    // Of a `timeval` Linux takes more than a second of microseconds too.
    if unit == 1 && rest >= 1_000_000_000 {
        return Err(Errno::EINVAL);
    }
    let span = seconds.saturating_mul(1_000_000_000).saturating_add(rest.saturating_mul(unit));
    Ok(Some(clock::now().saturating_add(span)))
}

fn mask(address: u64) -> Result<Option<u64>> {
    if address == 0 { Ok(None) } else { user::get(address).map(Some) }
}

/// `poll`: each descriptor with two sets of events, in eight bytes.
pub(super) fn poll(address: u64, count: u64, deadline: Option<u64>) -> Result<u64> {
    if count > u64::from(LIMIT) {
        return Err(Errno::EINVAL);
    }
    let files = current().process().files();
    let mut entries: Vec<(i32, u16)> = Vec::new();
    let mut list = Vec::new();
    for index in 0..count {
        let [descriptor, events]: [u32; 2] = user::get(address + 8 * index)?;
        entries.push((descriptor as i32, events as u16));
        // A negative descriptor is passed over.
        if let Ok(descriptor) = i32::try_from(descriptor) {
            let opened = files.get(descriptor).ok();
            list.push(Wanted {
                opened,
                events: Events::from_bits_truncate(events as u16),
                found: Events::empty(),
            });
        }
    }
    let ready = poll::poll(&mut list, deadline)?;
    let mut found = list.iter();
    for (index, (descriptor, _)) in (0..).zip(entries) {
        let events = if descriptor < 0 { 0 } else { found.next().map_or(0, |wanted| wanted.found.bits()) };
        user::put(address + 8 * index + 6, &events)?;
    }
    Ok(ready as u64)
}

/// `ppoll`.
pub(super) fn ppoll(address: u64, count: u64, limit: u64, signals: u64) -> Result<u64> {
    let deadline = timespec(limit, 1)?;
    signal::with_mask(mask(signals)?, || poll(address, count, deadline))
}

/// Where the time to wait at most is, and in what unit its second half is.
pub(super) enum Limit {
    /// A `timeval`.
    Microseconds(u64),
    /// A `timespec`.
    Nanoseconds(u64),
}

/// `select` and `pselect6`, with the sets of descriptors to read, to write, and that failed.
pub(super) fn select(count: u64, sets: [u64; 3], limit: Limit, signals: u64) -> Result<u64> {
    let count = u32::try_from(count).ok().filter(|&count| count <= LIMIT).ok_or(Errno::EINVAL)?;
    let deadline = match limit {
        Limit::Microseconds(at) => timespec(at, 1000)?,
        Limit::Nanoseconds(at) => timespec(at, 1)?,
    };
    // The last argument of pselect6 points to the address of the mask, and its size.
    let signals = if signals == 0 { None } else { mask(user::get(signals)?)? };
    let words = count.div_ceil(64) as u64;
    let mut asked = Vec::new();
    for (address, events) in sets.into_iter().zip([
        Events::IN | Events::HUP | Events::ERR,
        Events::OUT | Events::ERR,
        Events::empty(),
    ]) {
        for word in 0..if address == 0 { 0 } else { words } {
            let bits: u64 = user::get(address + 8 * word)?;
            for bit in (0..64).filter(|bit| bits >> bit & 1 != 0) {
                let descriptor = (word * 64 + bit) as i32;
                if descriptor < count as i32 {
                    asked.push((address, descriptor, events));
                }
            }
        }
    }
    let files = current().process().files();
    let mut list = Vec::new();
    for (_, descriptor, events) in &asked {
        let opened = Some(files.get(*descriptor)?);
        list.push(Wanted { opened, events: *events, found: Events::empty() });
    }
    signal::with_mask(signals, || poll::poll(&mut list, deadline))?;
    for address in sets.into_iter().filter(|address| *address != 0) {
        for word in 0..words {
            user::put(address + 8 * word, &0_u64)?;
        }
    }
    let mut ready = 0;
    for ((address, descriptor, events), wanted) in asked.iter().zip(&list) {
        if wanted.found.intersects(*events) {
            let word = address + 8 * (*descriptor as u64 / 64);
            let bits: u64 = user::get(word)?;
            user::put(word, &(bits | 1 << (descriptor % 64)))?;
            ready += 1;
        }
    }
    Ok(ready)
}
