//! Values that do not share a cache line with others.

use core::ops::{Deref, DerefMut};

/// A value in cache lines of its own: what is written often is not to be in the way of what every walk reads, nor of what
/// another processor writes.
#[repr(align(64))]
pub(crate) struct Apart<T>(pub(crate) T);

impl<T> Deref for Apart<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Apart<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
