//! The host's sleeping locks, with the task in their signatures: a lock that may block takes `&mut Task`.
//!
//! A host that watches its locks tells them apart by the place where they are taken, so that place is
//! passed on to it (`track_caller`). It is inlined, and costs other hosts nothing.

use lock_api::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::platform::Platform;
use crate::task::Task;

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
