//! A reference-counted pointer whose creation can fail.
//!
//! `alloc::sync::Arc` aborts when memory runs out, and its fallible constructor is not stable; an engine that promises
//! to survive every failed allocation cannot use it. This one has what the engine needs and no more: no weak
//! references, no unsized values.

use alloc::alloc::{alloc, dealloc};
use core::alloc::Layout;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering, fence};

use crate::error::OutOfMemory;

/// Shared ownership of a value, as `alloc::sync::Arc`, made by [`Arc::try_new`] only.
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

struct Inner<T> {
    count: AtomicUsize,
    value: T,
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
        // SAFETY: the layout is not zero-sized, since the count is part of it.
        let memory = unsafe { alloc(Layout::new::<Inner<T>>()) };
        let inner = NonNull::new(memory.cast::<Inner<T>>()).ok_or(OutOfMemory)?;
        // SAFETY: freshly allocated with the layout of `Inner<T>`, so valid for this write and owned by nobody else.
        unsafe {
            inner.write(Inner { count: AtomicUsize::new(1), value });
        };
        // INVARIANT: allocated and initialised above, with a count of one for the pointer returned.
        Ok(Self { inner, owns: PhantomData })
    }

    /// Do both point to the same value?
    #[must_use]
    pub fn ptr_eq(this: &Self, other: &Self) -> bool {
        this.inner == other.inner
    }

    /// The address of the value, good as an identity while somebody holds a reference.
    #[must_use]
    pub fn as_ptr(this: &Self) -> *const T {
        &raw const **this
    }

    fn inner(&self) -> &Inner<T> {
        // SAFETY: by the type invariants `inner` is alive as long as `self`.
        unsafe { self.inner.as_ref() }
    }
}

impl<T> Clone for Arc<T> {
    fn clone(&self) -> Self {
        // Relaxed: who clones has a reference already, nothing is published by the count. As in alloc::sync::Arc.
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
        // SAFETY: the count was one, ours: by the type invariants nobody else reaches the value any more.
        unsafe { self.inner.drop_in_place() };
        // SAFETY: by the type invariants it came from `alloc` with this layout.
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
        drop(first);
        assert_eq!(drops.get(), 0);
        drop(second);
        assert_eq!(drops.get(), 1);
    }
}
