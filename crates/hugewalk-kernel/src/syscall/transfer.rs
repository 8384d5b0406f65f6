//! Memory of other processes: process_vm_readv and process_vm_writev.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::arch::numbers::*;
use hugewalk::addr::VirtAddr;

use super::{Answer, Arguments};
use crate::errno::{Errno, Result};
use crate::memory::{PAGE, user};
use crate::process::find;
use crate::space::Space;
use crate::task::current;

/// Bytes that are copied in one go.
const PIECE: u64 = 64 << 10;

pub(super) fn call(number: u32, a: &Arguments) -> Answer {
    Some(match number {
        __NR_process_vm_readv => transfer(a, false),
        __NR_process_vm_writev => transfer(a, true),
        _ => return None,
    })
}

/// Pieces of memory: where, and how many bytes.
fn vectors(at: u64, count: u64) -> Result<Vec<(u64, u64)>> {
    if count > 1024 {
        return Err(Errno::EINVAL);
    }
    let one = |index| user::get::<[u64; 2]>(at + 16 * index).map(|[start, length]| (start, length));
    (0..count).map(one).collect()
}

fn transfer(a: &Arguments, write: bool) -> Result<u64> {
    let [pid, here, here_count, there, there_count, flags] = *a;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let (mut here, there) = (vectors(here, here_count)?.into_iter(), vectors(there, there_count)?);
    // Linux looks for the process only if there is something to transfer.
    if there.iter().all(|(_, length)| *length == 0) {
        return Ok(0);
    }
    let space = find(pid as u32).ok_or(Errno::ESRCH)?.space()?;
    let (mut at, mut left) = (0, 0);
    let mut done = 0;
    for (mut from, mut length) in there {
        while length > 0 {
            while left == 0 {
                let Some(next) = here.next() else { return Ok(done) };
                (at, left) = next;
            }
            let count = length.min(left).min(PIECE);
            let moved = piece(&space, from, at, count, write);
            let moved = match moved {
                Ok(moved) => moved,
                Err(error) if done == 0 => return Err(error),
                Err(_) => return Ok(done),
            };
            (from, length) = (from + moved, length - moved);
            (at, left) = (at + moved, left - moved);
            done += moved;
            if moved < count {
                return Ok(done);
            }
        }
    }
    Ok(done)
}

/// Copies between memory of the other process's and of the caller's.
fn piece(space: &Arc<Space>, there: u64, here: u64, count: u64, write: bool) -> Result<u64> {
    let mut bytes = alloc::vec![0; count as usize];
    if write {
        user::read(here, &mut bytes)?;
        return reach(space, there, &mut bytes, true).map(|count| count as u64);
    }
    let count = reach(space, there, &mut bytes, false)?;
    user::write(here, &bytes[..count])?;
    Ok(count as u64)
}

/// Reads or writes memory of an address space that need not be loaded, as far as it goes.
///
/// # Errors
///
/// `EFAULT` and the like if the first byte cannot be had.
pub fn reach(space: &Arc<Space>, start: u64, bytes: &mut [u8], write: bool) -> Result<usize> {
    if !space.has_base(start, bytes.len() as u64) {
        let me = current();
        let mut task = me.task()?;
        let start = VirtAddr::new(start);
        let done = if write {
            space.engine().write_bytes(&mut task, start, bytes)
        } else {
            space.engine().read_bytes(&mut task, start, bytes)
        };
        return done.map_err(|error| error.errno().into());
    }
    let mut done = 0;
    while done < bytes.len() {
        let at = start + done as u64;
        let offset = (at % PAGE) as usize;
        let page = match space.pin_base(at, write) {
            Ok(page) => page,
            Err(refused) if done == 0 => return Err(refused.errno()),
            Err(_) => break,
        };
        let here = (PAGE as usize - offset).min(bytes.len() - done);
        let part = &mut bytes[done..done + here];
        if write {
            page.write(offset, part);
        } else {
            page.read(offset, part);
        }
        done += here;
    }
    Ok(done)
}
