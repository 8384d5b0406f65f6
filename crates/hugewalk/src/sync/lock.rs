//! Spinning locks. They need no task, and destructors may take them.

use alloc::vec::Vec;

use lock_api::{Mutex, MutexGuard};

use super::Barriers;
use crate::error::OutOfMemory;

/// A leaf lock around a few fields: pool counters, a page cache, a region map. It is held for moments, and
/// the only lock taken under it is the pool's. So it needs no task, and destructors may take it.
pub(crate) type SpinLock<P, T> = Mutex<<P as Barriers>::SpinLock, T>;

pub(crate) type SpinLockGuard<'l, P, T> = MutexGuard<'l, <P as Barriers>::SpinLock, T>;

/// Locks `lock` once the list in it has room for as many further entries as `more` says.
///
/// The allocator is not called with a spinning lock held: it may want one of its own, or take its time. So
/// the new memory is allocated before the lock is taken, and the old memory is freed after the lock was
/// released.
///
/// # Errors
///
/// [`OutOfMemory`]; nothing has changed, and the lock is not held.
pub(crate) fn lock_with_room<P: Barriers, T, E>(
    lock: &SpinLock<P, T>,
    list: impl Fn(&mut T) -> &mut Vec<E>,
    more: impl Fn(&T) -> usize,
) -> Result<SpinLockGuard<'_, P, T>, OutOfMemory> {
    loop {
        let wanted = {
            let mut guard = lock.lock();
            let more = more(&guard);
            let list = list(&mut guard);
            if list.capacity() - list.len() >= more {
                return Ok(guard);
            }
            // Twice as much as before, so that growing by one is cheap on average.
            list.len().saturating_add(more).max(list.capacity().saturating_mul(2)).max(4)
        };
        let mut other = Vec::new();
        other.try_reserve_exact(wanted)?;
        let mut guard = lock.lock();
        let list = list(&mut guard);
        if other.capacity() > list.capacity() {
            other.append(list);
            core::mem::swap(list, &mut other);
        }
        // Unlocks first, then frees the memory that is no longer needed, or never was.
        drop(guard);
        drop(other);
    }
}
