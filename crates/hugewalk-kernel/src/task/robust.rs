//! Locks of a program that are given up when the thread that holds them ends: robust futexes.
//!
//! The list of them is in the program's memory, and may say anything. It is walked once, as long as the longest that Linux
//! walks; what cannot be read ends it. Source of facts: Documentation/locking/robust-futex-ABI.rst, `exit_robust_list()` and
//! `handle_futex_death()` in kernel/futex/core.c.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use linux_raw_sys::general::{FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};

use super::{Thread, current, futex};
use crate::errno::{Errno, Result};
use crate::memory::user;
use crate::process;

/// Bytes of `struct robust_list_head`: the first lock, where in each the word is, and the one that is being taken.
const HEAD: u64 = 24;
/// Locks that are looked at, at most.
const LONGEST: usize = 2048;

/// `set_robust_list`.
///
/// # Errors
///
/// `EINVAL` for a head of another size.
pub fn set(head: u64, size: u64) -> Result<u64> {
    if size != HEAD {
        return Err(Errno::EINVAL);
    }
    // Relaxed: the thread itself reads it, or somebody who does not care when it was set.
    current().robust_list.store(head, Relaxed);
    Ok(0)
}

/// `get_robust_list`: of the running thread, or of another.
///
/// # Errors
///
/// `ESRCH`, `EFAULT`.
pub fn of(tid: u32, head: u64, size: u64) -> Result<u64> {
    let is_it = |thread: &Arc<Thread>| thread.tid == tid;
    let list = match tid {
        0 => current().robust_list.load(Relaxed),
        _ => process::all()
            .iter()
            .find_map(|process| process.threads().into_iter().find(is_it))
            .ok_or(Errno::ESRCH)?
            .robust_list
            .load(Relaxed),
    };
    user::put(size, &HEAD)?;
    user::put(head, &list)?;
    Ok(0)
}

/// The running thread ends, or begins another program: the locks that it holds have no owner any more. Sleeps.
pub fn release_all() {
    let head = current().robust_list.swap(0, Relaxed);
    if head != 0 {
        // The program's list is wrong: what was reached is done.
        let _ = release(head);
    }
}

fn release(head: u64) -> Result<()> {
    // Bit 0 of a link marks a lock that hands its priority on.
    let [mut at, offset, taken]: [u64; 3] = user::get(head)?;
    let word = |link: u64| (link & !1).wrapping_add(offset);
    for _ in 0..LONGEST {
        if at & !1 == head {
            break;
        }
        // Read before the lock is given up: its next owner may use the link.
        let next = user::get(at & !1);
        if at & !1 != taken & !1 {
            give_up(word(at), at & 1 != 0, false)?;
        }
        at = next?;
    }
    if taken & !1 != 0 {
        give_up(word(taken), taken & 1 != 0, true)?;
    }
    Ok(())
}

/// Marks a lock as its owner's who has died, if it is the running thread's, and wakes one waiter.
fn give_up(address: u64, inherits: bool, taken: bool) -> Result<()> {
    if !address.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    loop {
        let old: u32 = user::get(address)?;
        if taken && !inherits && old == 0 {
            // It was let go, and nobody was woken yet.
            futex::wake_at(address);
            return Ok(());
        }
        if old & FUTEX_TID_MASK != current().tid {
            return Ok(());
        }
        let new = old & FUTEX_WAITERS | FUTEX_OWNER_DIED;
        if user::exchange(address, old, new)? {
            if !inherits && old & FUTEX_WAITERS != 0 {
                futex::wake_at(address);
            }
            return Ok(());
        }
    }
}
