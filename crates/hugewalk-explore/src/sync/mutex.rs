//! Locks with one owner.

use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, TryLockError, TryLockResult};

use crate::explorer::Lock;
use crate::state::{self, Id};

/// A lock with one owner. It is never poisoned: a panic ends the run. Outside of an exploration nobody can wait for it: a thread
/// that finds it held panics.
pub struct Mutex<T: ?Sized> {
    id: Id,
    raw: Lock,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached by the one owner of the lock only.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

/// Holds a [`Mutex`] until it is dropped.
#[must_use = "the lock is released as soon as this is dropped"]
pub struct MutexGuard<'m, T: ?Sized> {
    pub(super) mutex: &'m Mutex<T>,
    /// The thread that took the lock releases it.
    not_send: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives a shared value.
unsafe impl<T: ?Sized + Sync> Sync for MutexGuard<'_, T> {}

impl<T> Mutex<T> {
    /// A lock around a value.
    pub const fn new(value: T) -> Self {
        Self { id: Id::new(), raw: <Lock as lock_api::RawMutex>::INIT, value: UnsafeCell::new(value) }
    }

    /// Takes the value out.
    ///
    /// # Errors
    ///
    /// None.
    pub fn into_inner(self) -> LockResult<T> {
        Ok(self.value.into_inner())
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits until the lock is free, and takes it.
    ///
    /// # Errors
    ///
    /// None: no lock is poisoned.
    #[track_caller]
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        let object = self.id.object();
        self.raw.lock_as(object);
        state::seen(object);
        state::tell(object, || "lock #".to_owned());
        Ok(MutexGuard { mutex: self, not_send: PhantomData })
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if it is held.
    #[track_caller]
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        let object = self.id.object();
        let taken = self.raw.try_lock_as(object);
        state::seen(object);
        state::tell(object, || if taken { "lock #" } else { "# is locked" }.to_owned());
        if taken {
            Ok(MutexGuard { mutex: self, not_send: PhantomData })
        } else {
            Err(TryLockError::WouldBlock)
        }
    }

    /// The value, of which there is one user by type.
    ///
    /// # Errors
    ///
    /// None.
    pub fn get_mut(&mut self) -> LockResult<&mut T> {
        Ok(self.value.get_mut())
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        let object = self.mutex.id.object();
        // SAFETY: the guard holds the lock.
        unsafe { self.mutex.raw.unlock_as(object) };
        state::changed(object);
        state::tell_of_drop(object, || "unlock #".to_owned());
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock, and is lent shared.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock, and is lent alone.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized> fmt::Debug for Mutex<T> {
    /// Nothing of the value: to look at it would be a step.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").finish_non_exhaustive()
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> From<T> for Mutex<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}
