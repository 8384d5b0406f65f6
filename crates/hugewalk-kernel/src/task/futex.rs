//! Futexes: sleeping until a word of memory is woken.
//!
//! A word in private memory is named by its address space and its address; one in shared memory by its source. The list of
//! waiters is under a spinning lock, and the word is read under it too: a waiter is in the list before it lets the lock go, and a
//! waker changes the word before it takes the lock.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use spin::Mutex;

use super::wait::sleep;
use super::{Thread, current};
use crate::errno::{Errno, Result};
use crate::memory::user;
use crate::space::fault::Refused;

/// What a word is called.
type Key = (usize, u64);

struct Waiter {
    key: Key,
    thread: Arc<Thread>,
    bits: u32,
    woken: AtomicBool,
}

static WAITERS: Mutex<Vec<Arc<Waiter>>> = Mutex::new(Vec::new());

fn key(address: u64, private: bool) -> Result<Key> {
    if !address.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    let space = current().space();
    if private {
        return Ok((Arc::as_ptr(&space).addr(), address));
    }
    Ok(space.shared_key(address)?.unwrap_or((Arc::as_ptr(&space).addr(), address)))
}

/// `FUTEX_WAIT`, `FUTEX_WAIT_BITSET`: sleeps while the word is `expected`, until it is woken.
///
/// # Errors
///
/// `EAGAIN` if the word is something else, `EINTR`, `ETIMEDOUT`, `EFAULT`, `EINVAL`.
pub fn wait(address: u64, private: bool, expected: u32, bits: u32, deadline: Option<u64>) -> Result<u64> {
    if bits == 0 {
        return Err(Errno::EINVAL);
    }
    let key = key(address, private)?;
    let waiter = Arc::new(Waiter { key, thread: current().handle(), bits, woken: AtomicBool::new(false) });
    loop {
        let mut waiters = WAITERS.lock();
        match user::peek(address) {
            Some(found) if found != expected => return Err(Errno::EAGAIN),
            Some(_) => {
                waiters.push(waiter.clone());
                break;
            }
            None => {
                drop(waiters);
                current().space().fault(address, hugewalk::fault::Access::Read).map_err(Refused::errno)?;
            }
        }
    }
    let outcome = loop {
        if waiter.woken.load(Ordering::SeqCst) {
            break Ok(0);
        }
        if let Err(error) = sleep(deadline) {
            break Err(error);
        }
    };
    WAITERS.lock().retain(|other| !Arc::ptr_eq(other, &waiter));
    if waiter.woken.load(Ordering::SeqCst) { Ok(0) } else { outcome }
}

fn wake_key(key: Key, count: u32, bits: u32) -> u64 {
    let mut woken = Vec::new();
    {
        let mut waiters = WAITERS.lock();
        let mut at = 0;
        while at < waiters.len() && (woken.len() as u32) < count {
            if waiters[at].key == key && waiters[at].bits & bits != 0 {
                woken.push(waiters.remove(at));
            } else {
                at += 1;
            }
        }
    }
    for waiter in &woken {
        waiter.woken.store(true, Ordering::SeqCst);
        waiter.thread.unpark();
    }
    woken.len() as u64
}

/// `FUTEX_WAKE`, `FUTEX_WAKE_BITSET`: wakes as many. Returns how many.
///
/// # Errors
///
/// `EFAULT`, `EINVAL`.
pub fn wake(address: u64, private: bool, count: u32, bits: u32) -> Result<u64> {
    Ok(wake_key(key(address, private)?, count, bits))
}

/// Wakes one waiter at the end of a thread, whichever way it was named.
pub fn wake_at(address: u64) {
    for private in [true, false] {
        if let Ok(key) = key(address, private) {
            wake_key(key, 1, u32::MAX);
        }
    }
}

/// `FUTEX_REQUEUE`, `FUTEX_CMP_REQUEUE`: wakes some waiters, and makes others wait at another word.
///
/// # Errors
///
/// `EAGAIN` if the word is not what was expected; `EFAULT`, `EINVAL`.
pub fn requeue(
    from: u64,
    to: u64,
    private: bool,
    wake: u32,
    moved: u32,
    expected: Option<u32>,
) -> Result<u64> {
    let from_key = key(from, private)?;
    if let Some(expected) = expected
        && user::get::<u32>(from)? != expected
    {
        return Err(Errno::EAGAIN);
    }
    // A waiter that is to wait elsewhere may as well wake up, as if by chance: it looks at its word again.
    key(to, private)?;
    Ok(wake_key(from_key, wake.saturating_add(moved), u32::MAX))
}
