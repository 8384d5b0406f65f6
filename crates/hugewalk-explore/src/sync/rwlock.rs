//! Locks with one writer, or many readers.

use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, TryLockError, TryLockResult};

use crate::explorer::RwLock as Raw;
use crate::state::{self, Id};

/// A reader/writer lock in which a writer that waits holds up later readers. A reader that got in before it is a run of its own,
/// so nothing is lost by that; and a thread that reads twice is found where another one writes in between, as it should be.
/// It is never poisoned. Outside of an exploration nobody can wait for it: a thread that would have to panics.
pub struct RwLock<T: ?Sized> {
    id: Id,
    raw: Raw,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached by one writer or by readers only.
unsafe impl<T: ?Sized + Send> Send for RwLock<T> {}
// SAFETY: as above; readers on several threads share it.
unsafe impl<T: ?Sized + Send + Sync> Sync for RwLock<T> {}

/// Holds a [`RwLock`] in read until it is dropped.
#[must_use = "the lock is released as soon as this is dropped"]
pub struct RwLockReadGuard<'l, T: ?Sized> {
    lock: &'l RwLock<T>,
    not_send: PhantomData<*const ()>,
}

/// Holds a [`RwLock`] in write until it is dropped.
#[must_use = "the lock is released as soon as this is dropped"]
pub struct RwLockWriteGuard<'l, T: ?Sized> {
    lock: &'l RwLock<T>,
    not_send: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives a shared value.
unsafe impl<T: ?Sized + Sync> Sync for RwLockReadGuard<'_, T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Sync> Sync for RwLockWriteGuard<'_, T> {}

impl<T> RwLock<T> {
    /// A lock around a value.
    pub const fn new(value: T) -> Self {
        Self { id: Id::new(), raw: <Raw as lock_api::RawRwLock>::INIT, value: UnsafeCell::new(value) }
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

impl<T: ?Sized> RwLock<T> {
    /// Waits until nobody writes or waits to write, and reads.
    ///
    /// # Errors
    ///
    /// None: no lock is poisoned.
    #[track_caller]
    pub fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        let object = self.id.object();
        self.raw.lock_shared_as(object);
        Ok(self.reads("read #"))
    }

    /// Waits until nobody reads or writes, and writes.
    ///
    /// # Errors
    ///
    /// None: no lock is poisoned.
    #[track_caller]
    pub fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        let object = self.id.object();
        self.raw.lock_exclusive_as(object);
        Ok(self.writes("write #"))
    }

    /// Reads if nobody writes or waits to write.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if somebody does.
    #[track_caller]
    pub fn try_read(&self) -> TryLockResult<RwLockReadGuard<'_, T>> {
        let object = self.id.object();
        if self.raw.try_lock_shared_as(object) {
            return Ok(self.reads("read #"));
        }
        self.refused();
        Err(TryLockError::WouldBlock)
    }

    /// Writes if nobody reads or writes.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if somebody does.
    #[track_caller]
    pub fn try_write(&self) -> TryLockResult<RwLockWriteGuard<'_, T>> {
        let object = self.id.object();
        if self.raw.try_lock_exclusive_as(object) {
            return Ok(self.writes("write #"));
        }
        self.refused();
        Err(TryLockError::WouldBlock)
    }

    /// The value, of which there is one user by type.
    ///
    /// # Errors
    ///
    /// None.
    pub fn get_mut(&mut self) -> LockResult<&mut T> {
        Ok(self.value.get_mut())
    }

    #[track_caller]
    fn told(&self, text: &str) {
        let object = self.id.object();
        state::seen_changed_by_readers(object);
        state::tell(object, || text.to_owned());
    }

    #[track_caller]
    fn reads(&self, text: &str) -> RwLockReadGuard<'_, T> {
        self.told(text);
        RwLockReadGuard { lock: self, not_send: PhantomData }
    }

    #[track_caller]
    fn writes(&self, text: &str) -> RwLockWriteGuard<'_, T> {
        self.told(text);
        RwLockWriteGuard { lock: self, not_send: PhantomData }
    }

    #[track_caller]
    fn refused(&self) {
        self.told("# is locked");
    }

    fn released(&self, text: &str) {
        let object = self.id.object();
        state::changed(object);
        state::tell_of_drop(object, || text.to_owned());
    }
}

impl<T: ?Sized> Drop for RwLockReadGuard<'_, T> {
    fn drop(&mut self) {
        let object = self.lock.id.object();
        // SAFETY: the guard holds the lock in read.
        unsafe { self.lock.raw.unlock_shared_as(object) };
        self.lock.released("done reading #");
    }
}

impl<T: ?Sized> Drop for RwLockWriteGuard<'_, T> {
    fn drop(&mut self) {
        let object = self.lock.id.object();
        // SAFETY: the guard holds the lock in write.
        unsafe { self.lock.raw.unlock_exclusive_as(object) };
        self.lock.released("done writing #");
    }
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: nobody writes while the guard is there.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard is the only one, and is lent shared.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard is the only one, and is lent alone.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLockReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLockWriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized> fmt::Debug for RwLock<T> {
    /// Nothing of the value: to look at it would be a step.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RwLock").finish_non_exhaustive()
    }
}

impl<T: Default> Default for RwLock<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}
