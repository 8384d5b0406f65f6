//! What a host brings as its sleeping locks.
//!
//! The task that waits is known to the lock by its [`Parker`], where the host keeps what belongs to the task. So a wait can
//! be killed. Every lock of [`lock_api`] is a sleeping lock too; its waits are not killed.

use lock_api::{RawMutex, RawRwLock};

use crate::error::Interrupted;
use crate::sync::Parker;

/// A sleeping mutual-exclusion lock, for tasks that sleep in a `K`. Linux: `struct mutex`.
///
/// # Safety
///
/// - One task has the lock at a time. What it did is visible to the next one.
/// - [`unlock`](Self::unlock) does not sleep.
pub unsafe trait RawSleepMutex<K: Parker>: Send + Sync + 'static {
    /// A lock that is free.
    const INIT: Self;

    /// Takes the lock. Sleeps.
    fn lock(&self, task: &K);

    /// Takes the lock, unless the task is [killed](Parker::is_killed) first. Sleeps.
    ///
    /// # Errors
    ///
    /// [`Interrupted`]: the task does not have the lock.
    ///
    /// Linux: `mutex_lock_killable()`.
    fn lock_killable(&self, task: &K) -> Result<(), Interrupted>;

    /// Takes the lock if that needs no waiting.
    fn try_lock(&self) -> bool;

    /// Releases the lock.
    ///
    /// # Safety
    ///
    /// The caller has the lock.
    unsafe fn unlock(&self);
}

/// A sleeping reader/writer lock, for tasks that sleep in a `K`. A queued writer may hold up later readers. Linux: `struct
/// rw_semaphore`.
///
/// # Safety
///
/// - While one task has the lock in write, nobody else has it. What it did is visible to those that have it afterwards, and what
///   readers did to the next writer.
/// - The two `unlock` do not sleep.
pub unsafe trait RawSleepRwLock<K: Parker>: Send + Sync + 'static {
    /// A lock that is free.
    const INIT: Self;

    /// Takes the lock in read. Sleeps.
    fn lock_shared(&self, task: &K);

    /// Takes the lock in read, unless the task is [killed](Parker::is_killed) first. Sleeps.
    ///
    /// # Errors
    ///
    /// [`Interrupted`]: the task does not have the lock.
    ///
    /// Linux: `down_read_killable()`.
    fn lock_shared_killable(&self, task: &K) -> Result<(), Interrupted>;

    /// Takes the lock in read if that needs no waiting.
    fn try_lock_shared(&self) -> bool;

    /// Releases the lock.
    ///
    /// # Safety
    ///
    /// The caller has the lock in read.
    unsafe fn unlock_shared(&self);

    /// Takes the lock in write. Sleeps.
    fn lock_exclusive(&self, task: &K);

    /// Takes the lock in write, unless the task is [killed](Parker::is_killed) first. Sleeps.
    ///
    /// # Errors
    ///
    /// [`Interrupted`]: the task does not have the lock.
    ///
    /// Linux: `down_write_killable()`.
    fn lock_exclusive_killable(&self, task: &K) -> Result<(), Interrupted>;

    /// Takes the lock in write if that needs no waiting.
    fn try_lock_exclusive(&self) -> bool;

    /// Releases the lock.
    ///
    /// # Safety
    ///
    /// The caller has the lock in write.
    unsafe fn unlock_exclusive(&self);
}

/// Has the task been killed before it began to wait? A lock that does not know the task asks no more than that.
#[inline]
fn alive<K: Parker>(task: &K) -> Result<(), Interrupted> {
    if task.is_killed() { Err(Interrupted) } else { Ok(()) }
}

// SAFETY: by the contract of `RawMutex`; the locks of hosts do not sleep in `unlock`.
unsafe impl<K: Parker, L: RawMutex + Send + Sync + 'static> RawSleepMutex<K> for L {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = L::INIT;

    #[inline]
    #[track_caller]
    fn lock(&self, _: &K) {
        RawMutex::lock(self);
    }
    #[inline]
    #[track_caller]
    fn lock_killable(&self, task: &K) -> Result<(), Interrupted> {
        alive(task)?;
        RawMutex::lock(self);
        Ok(())
    }
    #[inline]
    #[track_caller]
    fn try_lock(&self) -> bool {
        RawMutex::try_lock(self)
    }
    #[inline]
    unsafe fn unlock(&self) {
        // SAFETY: passed on to the caller.
        unsafe { RawMutex::unlock(self) };
    }
}

// SAFETY: by the contract of `RawRwLock`; the locks of hosts do not sleep in `unlock`.
unsafe impl<K: Parker, L: RawRwLock + Send + Sync + 'static> RawSleepRwLock<K> for L {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = L::INIT;

    #[inline]
    #[track_caller]
    fn lock_shared(&self, _: &K) {
        RawRwLock::lock_shared(self);
    }
    #[inline]
    #[track_caller]
    fn lock_shared_killable(&self, task: &K) -> Result<(), Interrupted> {
        alive(task)?;
        RawRwLock::lock_shared(self);
        Ok(())
    }
    #[inline]
    #[track_caller]
    fn try_lock_shared(&self) -> bool {
        RawRwLock::try_lock_shared(self)
    }
    #[inline]
    unsafe fn unlock_shared(&self) {
        // SAFETY: passed on to the caller.
        unsafe { RawRwLock::unlock_shared(self) };
    }
    #[inline]
    #[track_caller]
    fn lock_exclusive(&self, _: &K) {
        RawRwLock::lock_exclusive(self);
    }
    #[inline]
    #[track_caller]
    fn lock_exclusive_killable(&self, task: &K) -> Result<(), Interrupted> {
        alive(task)?;
        RawRwLock::lock_exclusive(self);
        Ok(())
    }
    #[inline]
    #[track_caller]
    fn try_lock_exclusive(&self) -> bool {
        RawRwLock::try_lock_exclusive(self)
    }
    #[inline]
    unsafe fn unlock_exclusive(&self) {
        // SAFETY: passed on to the caller.
        unsafe { RawRwLock::unlock_exclusive(self) };
    }
}
