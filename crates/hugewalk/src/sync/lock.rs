//! The host's locks, with the task in their signatures: a lock that may block takes `&mut Task`.
//!
//! A host that watches its locks tells them apart by the place where they are taken, so that place is
//! passed on to it (`track_caller`). It is inlined, and costs other hosts nothing.

use alloc::vec::Vec;

use lock_api::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::OutOfMemory;
use crate::platform::{Barriers, Platform};
use crate::task::Task;

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
pub(crate) fn lock_with_room<P: Platform, T, E>(
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

/// A sleeping lock.
pub(crate) struct SleepLock<P: Platform>(Mutex<P::SleepMutex, ()>);

pub(crate) type SleepLockGuard<'l, P> = MutexGuard<'l, <P as Platform>::SleepMutex, ()>;

impl<P: Platform> SleepLock<P> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(()))
    }

    /// Takes the lock. Sleeps.
    #[inline]
    #[track_caller]
    pub(crate) fn lock(&self, _task: &mut Task<P>) -> SleepLockGuard<'_, P> {
        self.0.lock()
    }
}

/// A sleeping reader/writer lock around `T`. Linux: `rw_semaphore`.
pub(crate) struct RwSem<P: Platform, T>(RwLock<P::SleepRwLock, T>);

pub(crate) type ReadSem<'l, P, T> = RwLockReadGuard<'l, <P as Platform>::SleepRwLock, T>;
pub(crate) type WriteSem<'l, P, T> = RwLockWriteGuard<'l, <P as Platform>::SleepRwLock, T>;

impl<P: Platform, T> RwSem<P, T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(RwLock::new(value))
    }

    /// Takes the lock in read. Sleeps.
    #[inline]
    #[track_caller]
    pub(crate) fn read(&self, _task: &mut Task<P>) -> ReadSem<'_, P, T> {
        self.0.read()
    }

    /// Takes the lock in write. Sleeps.
    #[inline]
    #[track_caller]
    pub(crate) fn write(&self, _task: &mut Task<P>) -> WriteSem<'_, P, T> {
        self.0.write()
    }

    /// As [`write`](Self::write), for a weaker protocol that sleeps where nothing may sleep.
    #[inline]
    #[track_caller]
    pub(crate) fn write_against_the_order(&self) -> WriteSem<'_, P, T> {
        self.0.write()
    }

    /// Takes the lock in read if that needs no waiting.
    #[inline]
    #[track_caller]
    pub(crate) fn try_read(&self) -> Option<ReadSem<'_, P, T>> {
        self.0.try_read()
    }

    /// Takes the lock in write if that needs no waiting.
    #[inline]
    #[track_caller]
    pub(crate) fn try_write(&self) -> Option<WriteSem<'_, P, T>> {
        self.0.try_write()
    }

    pub(crate) fn inner_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}
