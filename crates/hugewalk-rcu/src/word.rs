//! The one atomic in use, as a trait.
//!
//! A host supplies it so that a checker can put a scheduling point before each access, and so that a model checker of
//! memory orderings can bring its own atomics. On real machines it is [`core::sync::atomic::AtomicU64`] and costs
//! nothing.

use core::sync::atomic::{AtomicU64, Ordering};

/// A 64-bit atomic.
///
/// # Safety
///
/// - The operations must be atomic and give the orderings that are asked for, as those of [`AtomicU64`] do.
/// - Whoever makes words of memory that was filled by others may ask for more: the size, alignment and representation of a
///   `u64`, with all-zero bytes as the value 0. What a `Platform` of the crate `hugewalk` uses for page tables has them.
pub unsafe trait Word: Send + Sync + 'static {
    /// A word of this value.
    fn new(value: u64) -> Self;
    /// Atomic load.
    fn load(&self, order: Ordering) -> u64;
    /// Atomic store.
    fn store(&self, value: u64, order: Ordering);
    /// Atomic exchange; returns the value before.
    fn swap(&self, value: u64, order: Ordering) -> u64;
    /// Atomic addition (wrapping); returns the value before.
    fn fetch_add(&self, value: u64, order: Ordering) -> u64;
    /// Atomic subtraction (wrapping); returns the value before.
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64;
    /// Atomic bitwise or; returns the value before.
    fn fetch_or(&self, value: u64, order: Ordering) -> u64;
    /// Atomic bitwise and; returns the value before.
    fn fetch_and(&self, value: u64, order: Ordering) -> u64;
    /// Atomic compare and exchange; never fails spuriously.
    ///
    /// # Errors
    ///
    /// The value found, if it was not `current`.
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64>;
}

// SAFETY: `AtomicU64` is the definition of what the trait asks for, and has the layout of a `u64`.
unsafe impl Word for AtomicU64 {
    #[inline]
    fn new(value: u64) -> Self {
        Self::new(value)
    }
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        Self::load(self, order)
    }
    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        Self::store(self, value, order);
    }
    #[inline]
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        Self::swap(self, value, order)
    }
    #[inline]
    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        Self::fetch_add(self, value, order)
    }
    #[inline]
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        Self::fetch_sub(self, value, order)
    }
    #[inline]
    fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        Self::fetch_or(self, value, order)
    }
    #[inline]
    fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
        Self::fetch_and(self, value, order)
    }
    #[inline]
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        Self::compare_exchange(self, current, new, success, failure)
    }
}
