//! A reference-counted pointer whose creation can fail.
//!
//! `alloc::sync::Arc` aborts when memory runs out, and its fallible constructor is not stable. An engine
//! that survives every failed allocation cannot use it. This one has what the engine needs and no more: no
//! weak references, no unsized values.

use alloc::alloc::{alloc, dealloc};
use core::alloc::Layout;
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering, fence};

use crate::error::OutOfMemory;

/// Shared ownership of a value, as `alloc::sync::Arc`, made by [`Arc::try_new`] only.
///
/// Dropping the last reference drops the value, or does what its type says instead: see [`AddressSpace`](crate::AddressSpace)
/// and [`Hugetlb`](crate::Hugetlb).
///
/// # Invariants
///
/// `inner` came from the global allocator with the layout of `Inner<T>`, is initialised, and lives until the count
/// falls to zero; each `Arc` accounts for one of the count.
#[repr(transparent)]
pub struct Arc<T> {
    inner: NonNull<Inner<T>>,
    owns: PhantomData<Inner<T>>,
}

pub(super) struct Inner<T> {
    count: AtomicUsize,
    /// Gets the value when the last reference goes, instead of its being dropped.
    last: Option<fn(Orphan<T>)>,
    pub(super) value: T,
}

// SAFETY: by the type invariants an `Arc` is shared access to `T` plus the right to drop it, on whichever thread.
unsafe impl<T: Send + Sync> Send for Arc<T> {}
// SAFETY: as for `Send`.
unsafe impl<T: Send + Sync> Sync for Arc<T> {}

impl<T> Arc<T> {
    /// Moves `value` to the heap.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if the allocator has none; `value` is dropped.
    pub fn try_new(value: T) -> Result<Self, OutOfMemory> {
        Self::try_new_inner(|_| value, None)
    }

    /// As [`try_new`](Self::try_new). The drop of the last reference passes the value on to `last`, which
    /// may keep it.
    pub(crate) fn try_new_with_last(value: T, last: fn(Orphan<T>)) -> Result<Self, OutOfMemory> {
        Self::try_new_inner(|_| value, Some(last))
    }

    fn try_new_inner(
        make: impl FnOnce(Unowned<T>) -> T,
        last: Option<fn(Orphan<T>)>,
    ) -> Result<Self, OutOfMemory> {
        // SAFETY: the layout is not zero-sized, since the count is part of it.
        let memory = unsafe { alloc(Layout::new::<Inner<T>>()) };
        let inner = NonNull::new(memory.cast::<Inner<T>>()).ok_or(OutOfMemory)?;
        let value = make(Unowned { inner });
        // SAFETY: freshly allocated with the layout of `Inner<T>`. `make` has given away the pointer, but
        // it may not be used before the value is written.
        unsafe {
            inner.write(Inner { count: AtomicUsize::new(1), last, value });
        };
        // INVARIANT: allocated and initialised above, with a count of one for the pointer returned.
        Ok(Self { inner, owns: PhantomData })
    }

    /// Do both point to the same value?
    #[must_use]
    pub fn ptr_eq(this: &Self, other: &Self) -> bool {
        this.inner == other.inner
    }

    /// How many references there are at this moment.
    #[must_use]
    pub fn strong_count(this: &Self) -> usize {
        // Relaxed: it may be another one by the time it is returned.
        this.inner().count.load(Ordering::Relaxed)
    }

    /// The address of the value, good as an identity while somebody holds a reference.
    #[must_use]
    pub fn as_ptr(this: &Self) -> *const T {
        &raw const **this
    }

    /// Moves to the heap a value that is made of a pointer to itself.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if the allocator has none; `make` is not called then.
    pub(crate) fn try_new_with(make: impl FnOnce(Unowned<T>) -> T) -> Result<Self, OutOfMemory> {
        Self::try_new_inner(make, None)
    }

    /// The value, if this was the last reference: it is dropped neither then nor otherwise.
    pub(crate) fn into_orphan(self) -> Option<Orphan<T>> {
        let inner = self.inner;
        core::mem::forget(self);
        // SAFETY: the reference that was forgotten keeps it alive.
        let count = unsafe { &(*inner.as_ptr()).count };
        if count.fetch_sub(1, Ordering::Release) != 1 {
            return None;
        }
        // Synchronises with the Release above in every other drop: their last uses come before what is done next.
        fence(Ordering::Acquire);
        // INVARIANT: the count was one, ours.
        Some(Orphan { inner, owns: PhantomData })
    }

    /// A pointer that keeps nothing alive.
    pub(crate) fn unowned(this: &Self) -> Unowned<T> {
        Unowned { inner: this.inner }
    }

    /// Gives the reference away. [`Unowned::reclaim`] on the result takes it back.
    pub(crate) fn into_unowned(self) -> Unowned<T> {
        let inner = self.inner;
        core::mem::forget(self);
        Unowned { inner }
    }

    fn inner(&self) -> &Inner<T> {
        // SAFETY: by the type invariants `inner` is alive as long as `self`.
        unsafe { self.inner.as_ref() }
    }
}

impl<T> Clone for Arc<T> {
    fn clone(&self) -> Self {
        // Relaxed: the caller has a reference already, and the count publishes nothing. As in
        // alloc::sync::Arc.
        let before = self.inner().count.fetch_add(1, Ordering::Relaxed);
        // Two to the 63 references cannot be held in memory; only a leak loop gets here, and wrapping would free early.
        if before > usize::MAX / 2 {
            // A core without `std` cannot abort but by a second panic; saturating keeps the value alive for ever.
            self.inner().count.store(usize::MAX / 2, Ordering::Relaxed);
        }
        Self { inner: self.inner, owns: PhantomData }
    }
}

impl<T> Drop for Arc<T> {
    fn drop(&mut self) {
        if self.inner().count.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // Synchronises with the Release above in every other drop: their last uses come before the value's end.
        fence(Ordering::Acquire);
        let last = self.inner().last;
        // INVARIANT: the count was one, for this reference: by the type invariants no other reaches the
        // value any more.
        let orphan = Orphan { inner: self.inner, owns: PhantomData };
        match last {
            Some(last) => last(orphan),
            None => drop(orphan),
        }
    }
}

/// A value whose last reference is gone. The holder of this owns the value, which is dropped with it.
///
/// # Invariants
///
/// `inner` is that of an [`Arc`] whose count is zero; there is one `Orphan` for it, and nobody else reaches the value. (An
/// [`Unowned`] may look at the count.)
pub(crate) struct Orphan<T> {
    inner: NonNull<Inner<T>>,
    owns: PhantomData<Inner<T>>,
}

// SAFETY: as for `Arc`, whose last reference may be dropped on any thread.
unsafe impl<T: Send + Sync> Send for Orphan<T> {}

impl<T> Orphan<T> {
    /// A reference to the value, the first one again.
    pub(crate) fn adopt(self) -> Arc<T> {
        let inner = self.into_raw();
        // Relaxed: nobody else reaches the value. An `upgrade` that finds the count above zero acquires nothing that is new.
        // SAFETY: by the type invariants the value is alive.
        unsafe { &(*inner.as_ptr()).count }.store(1, Ordering::Relaxed);
        // INVARIANT: a count of one for the pointer returned.
        Arc { inner, owns: PhantomData }
    }

    /// Gives the value up. [`from_raw`](Self::from_raw) takes it back.
    pub(super) fn into_raw(self) -> NonNull<Inner<T>> {
        let inner = self.inner;
        core::mem::forget(self);
        inner
    }

    /// # Safety
    ///
    /// Once for each [`into_raw`](Self::into_raw).
    pub(super) unsafe fn from_raw(inner: NonNull<Inner<T>>) -> Self {
        // INVARIANT: that of the one it was made from.
        Self { inner, owns: PhantomData }
    }

    /// Gives the value up, until [`Unowned::end`] ends it.
    pub(crate) fn abandon(self) -> Unowned<T> {
        Unowned { inner: self.into_raw() }
    }
}

impl<T> Deref for Orphan<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: by the type invariants the value is alive, and nobody else has it.
        unsafe { &(*self.inner.as_ptr()).value }
    }
}

impl<T> DerefMut for Orphan<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: by the type invariants the value is alive, and nobody else has it.
        unsafe { &mut (*self.inner.as_ptr()).value }
    }
}

impl<T> Drop for Orphan<T> {
    fn drop(&mut self) {
        // SAFETY: by the type invariants nobody else reaches the value.
        unsafe { self.inner.drop_in_place() };
        // SAFETY: by the invariants of `Arc` it came from `alloc` with this layout.
        unsafe { dealloc(self.inner.as_ptr().cast(), Layout::new::<Inner<T>>()) };
    }
}

impl<T> Deref for Arc<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner().value
    }
}

impl<T: fmt::Debug> fmt::Debug for Arc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A pointer to the value of an [`Arc`] that keeps nothing alive.
#[repr(transparent)]
pub(crate) struct Unowned<T> {
    inner: NonNull<Inner<T>>,
}

// SAFETY: the pointer by itself gives access to nothing; what makes an `Arc` of it is bound as an `Arc` is.
unsafe impl<T: Send + Sync> Send for Unowned<T> {}
// SAFETY: as for `Send`.
unsafe impl<T: Send + Sync> Sync for Unowned<T> {}

impl<T> Clone for Unowned<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Unowned<T> {}

impl<T> Unowned<T> {
    /// A reference, unless the last one is gone already.
    ///
    /// # Safety
    ///
    /// The `Arc` has been made, and its memory is not freed during the call: the value's `drop` may be running, and has
    /// not returned.
    pub(crate) unsafe fn upgrade(self) -> Option<Arc<T>> {
        // Only the count is looked at: the value may be being dropped.
        // SAFETY: by the contract of this function the memory is there.
        let count = unsafe { &(*self.inner.as_ptr()).count };
        // Relaxed: a guess, which the exchange confirms.
        let mut now = count.load(Ordering::Relaxed);
        while now != 0 {
            // Acquire: the reference is as good as one that was handed over. Never from 0: the value may be
            // being dropped.
            match count.compare_exchange_weak(now, now + 1, Ordering::Acquire, Ordering::Relaxed) {
                // INVARIANT: counted above, while others kept the value.
                Ok(_) => return Some(Arc { inner: self.inner, owns: PhantomData }),
                Err(other) => now = other,
            }
        }
        None
    }

    /// Another reference.
    ///
    /// # Safety
    ///
    /// There is one during the call.
    pub(crate) unsafe fn another(self) -> Arc<T> {
        // INVARIANT: not counted, and so not to be dropped.
        let borrowed = ManuallyDrop::new(Arc { inner: self.inner, owns: PhantomData });
        Arc::clone(&borrowed)
    }

    /// The value.
    ///
    /// # Safety
    ///
    /// Something else keeps it alive for `'a`: a reference, or an agreement on which thread calls
    /// [`end`](Self::end).
    pub(crate) unsafe fn get<'a>(self) -> &'a T {
        // SAFETY: by the contract of this function.
        unsafe { &(*self.inner.as_ptr()).value }
    }

    /// Takes the value back that [`Orphan::abandon`] gave up.
    ///
    /// # Safety
    ///
    /// Once for each such call, and nobody else reaches the value any more.
    pub(crate) unsafe fn end(self) -> Orphan<T> {
        // INVARIANT: by the contract of this function.
        Orphan { inner: self.inner, owns: PhantomData }
    }

    /// Takes the reference back that [`Arc::into_unowned`] gave away.
    ///
    /// # Safety
    ///
    /// Once for each such call.
    pub(crate) unsafe fn reclaim(self) -> Arc<T> {
        // INVARIANT: by the contract of this function there is one of the count that nobody else accounts for.
        Arc { inner: self.inner, owns: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    struct CountsDrops<'a>(&'a Cell<u32>);
    impl Drop for CountsDrops<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    #[test]
    fn the_value_is_dropped_once_with_the_last_reference() {
        let drops = Cell::new(0);
        let first = Arc::try_new(CountsDrops(&drops)).unwrap();
        let second = first.clone();
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(Arc::strong_count(&first), 2);
        drop(first);
        assert_eq!(Arc::strong_count(&second), 1);
        assert_eq!(drops.get(), 0);
        drop(second);
        assert_eq!(drops.get(), 1);
    }

    #[test]
    fn a_pointer_that_keeps_nothing_alive_upgrades_while_others_do_and_not_from_the_drop() {
        struct Looks<'a> {
            me: Unowned<Self>,
            gone: &'a Cell<bool>,
        }
        impl Drop for Looks<'_> {
            fn drop(&mut self) {
                // SAFETY: the memory is there as long as this runs.
                self.gone.set(unsafe { self.me.upgrade() }.is_none());
            }
        }
        let gone = Cell::new(false);
        let first = Arc::try_new_with(|me| Looks { me, gone: &gone }).unwrap();
        // SAFETY: `first` keeps it.
        let second = unsafe { first.me.upgrade() }.unwrap();
        let given_away = second.into_unowned();
        drop(first);
        assert!(!gone.get());
        // SAFETY: given away above, and taken back once.
        drop(unsafe { given_away.reclaim() });
        assert!(gone.get());
    }
}
