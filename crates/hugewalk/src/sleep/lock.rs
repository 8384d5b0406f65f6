//! The host's sleeping locks as the engine takes them: a lock that may block takes `&mut Task`.
//!
//! A host that watches its locks tells them apart by the place where they are taken, so that place is
//! passed on to it (`track_caller`). It is inlined, and costs other hosts nothing.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use super::raw::{RawSleepMutex, RawSleepRwLock};
use crate::platform::Platform;
use crate::task::Task;

/// Keeps a guard on its thread: a lock may ask to be released where it was taken.
type Stays = PhantomData<*mut ()>;

/// A sleeping lock.
pub(crate) struct SleepLock<P: Platform>(P::SleepMutex);

impl<P: Platform> SleepLock<P> {
    pub(crate) const fn new() -> Self {
        Self(<P::SleepMutex as RawSleepMutex<P::Parker>>::INIT)
    }

    /// Takes the lock. Sleeps.
    #[inline]
    #[track_caller]
    pub(crate) fn lock(&self, task: &mut Task<P>) -> SleepLockGuard<'_, P> {
        self.0.lock(task.parker());
        // INVARIANT: taken just now.
        SleepLockGuard { lock: &self.0, _stays: PhantomData }
    }

    /// Takes the lock if that needs no waiting.
    #[inline]
    #[track_caller]
    pub(crate) fn try_lock(&self) -> Option<SleepLockGuard<'_, P>> {
        // INVARIANT: taken just now, if it is.
        self.0.try_lock().then(|| SleepLockGuard { lock: &self.0, _stays: PhantomData })
    }
}

/// A sleeping lock, held.
///
/// # Invariants
///
/// The lock is held.
pub(crate) struct SleepLockGuard<'l, P: Platform> {
    lock: &'l P::SleepMutex,
    _stays: Stays,
}

// SAFETY: a shared guard allows nothing.
unsafe impl<P: Platform> Sync for SleepLockGuard<'_, P> {}

impl<P: Platform> Drop for SleepLockGuard<'_, P> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: by the type invariants.
        unsafe { RawSleepMutex::<P::Parker>::unlock(self.lock) };
    }
}

/// A sleeping reader/writer lock around `T`. Linux: `rw_semaphore`.
///
/// # Invariants
///
/// `value` is changed by holders in write only.
pub(crate) struct RwSem<P: Platform, T> {
    lock: P::SleepRwLock,
    value: UnsafeCell<T>,
}

// SAFETY: the lock hands `T` out as reader/writer locks do.
unsafe impl<P: Platform, T: Send + Sync> Sync for RwSem<P, T> {}

impl<P: Platform, T> RwSem<P, T> {
    pub(crate) const fn new(value: T) -> Self {
        let lock = <P::SleepRwLock as RawSleepRwLock<P::Parker>>::INIT;
        Self { lock, value: UnsafeCell::new(value) }
    }

    /// Takes the lock in read. Sleeps.
    #[inline]
    #[track_caller]
    pub(crate) fn read(&self, task: &mut Task<P>) -> ReadSem<'_, P, T> {
        self.lock.lock_shared(task.parker());
        // INVARIANT: taken just now.
        ReadSem { semaphore: self, _stays: PhantomData }
    }

    /// Takes the lock in write. Sleeps.
    #[inline]
    #[track_caller]
    pub(crate) fn write(&self, task: &mut Task<P>) -> WriteSem<'_, P, T> {
        self.lock.lock_exclusive(task.parker());
        // INVARIANT: taken just now.
        WriteSem { semaphore: self, _stays: PhantomData }
    }

    /// Takes the lock in write if that needs no waiting.
    #[inline]
    #[track_caller]
    pub(crate) fn try_write(&self) -> Option<WriteSem<'_, P, T>> {
        // INVARIANT: taken just now, if it is.
        self.lock.try_lock_exclusive().then(|| WriteSem { semaphore: self, _stays: PhantomData })
    }
}

/// A reader/writer lock, held in read.
///
/// # Invariants
///
/// The lock is held in read.
pub(crate) struct ReadSem<'l, P: Platform, T> {
    semaphore: &'l RwSem<P, T>,
    _stays: Stays,
}

// SAFETY: a shared guard gives out `&T` and nothing else.
unsafe impl<P: Platform, T: Sync> Sync for ReadSem<'_, P, T> {}

impl<P: Platform, T> Deref for ReadSem<'_, P, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: held in read, so nothing changes it.
        unsafe { &*self.semaphore.value.get() }
    }
}

impl<P: Platform, T> Drop for ReadSem<'_, P, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: by the type invariants.
        unsafe { RawSleepRwLock::<P::Parker>::unlock_shared(&self.semaphore.lock) };
    }
}

/// A reader/writer lock, held in write.
///
/// # Invariants
///
/// The lock is held in write.
pub(crate) struct WriteSem<'l, P: Platform, T> {
    semaphore: &'l RwSem<P, T>,
    _stays: Stays,
}

impl<P: Platform, T> WriteSem<'_, P, T> {
    /// The lock that is held.
    pub(crate) fn raw(&self) -> &P::SleepRwLock {
        &self.semaphore.lock
    }
}

// SAFETY: a shared guard gives out `&T` and nothing else.
unsafe impl<P: Platform, T: Sync> Sync for WriteSem<'_, P, T> {}

impl<P: Platform, T> Deref for WriteSem<'_, P, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: held in write, and borrowed.
        unsafe { &*self.semaphore.value.get() }
    }
}

impl<P: Platform, T> DerefMut for WriteSem<'_, P, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: held in write, and borrowed mutably.
        unsafe { &mut *self.semaphore.value.get() }
    }
}

impl<P: Platform, T> Drop for WriteSem<'_, P, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: by the type invariants.
        unsafe { RawSleepRwLock::<P::Parker>::unlock_exclusive(&self.semaphore.lock) };
    }
}
