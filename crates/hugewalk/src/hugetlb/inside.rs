//! References to a system by its own parts. [`end`](crate::end) has the protocol.

use core::fmt;
use core::ops::Deref;
use core::sync::atomic::{Ordering, fence};

use super::Hugetlb;
use crate::platform::Platform;
use crate::rcu::Rcu;
use crate::sync::{Arc, Orphan, Unowned, Word};

/// A reference to a system by a part of it. It is not a handle.
///
/// # Invariants
///
/// Accounts for one of `inside` of the system, which is alive until that count is zero.
pub(crate) struct Inside<P: Platform>(Unowned<Hugetlb<P>>);

impl<P: Platform> Inside<P> {
    pub(crate) fn new(hugetlb: &Arc<Hugetlb<P>>) -> Self {
        // Relaxed: there is a handle, so the count is above zero, and the increment publishes
        // nothing.
        hugetlb.inside.fetch_add(1, Ordering::Relaxed);
        // INVARIANT: counted above.
        Self(Arc::unowned(hugetlb))
    }

    /// Another handle.
    ///
    /// # Safety
    ///
    /// A handle exists during the call.
    pub(crate) unsafe fn another_handle(&self) -> Arc<Hugetlb<P>> {
        // SAFETY: by the contract of this function.
        unsafe { self.0.another() }
    }

    /// A handle, if one still exists.
    pub(crate) fn handle(&self) -> Option<Arc<Hugetlb<P>>> {
        // SAFETY: by the type invariants the memory is there.
        unsafe { self.0.upgrade() }
    }
}

impl<P: Platform> fmt::Debug for Inside<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<P: Platform> Deref for Inside<P> {
    type Target = Hugetlb<P>;
    #[inline]
    fn deref(&self) -> &Hugetlb<P> {
        // SAFETY: by the type invariants it is alive as long as this value.
        unsafe { self.0.get() }
    }
}

impl<P: Platform> Drop for Inside<P> {
    fn drop(&mut self) {
        leave(self.0);
    }
}

/// Drops one of `inside`. The caller accounts for it.
pub(crate) fn leave<P: Platform>(system: Unowned<Hugetlb<P>>) {
    // SAFETY: the caller accounts for one of `inside`.
    let inside = unsafe { &system.get().inside };
    if inside.fetch_sub(1, Ordering::Release) == 1 {
        // Synchronises with the Release decrements above: all other uses come before the end.
        fence(Ordering::Acquire);
        // SAFETY: all handles together count as one, so they are gone, the orphan was abandoned,
        // and no reference is left.
        end(unsafe { system.end() });
    }
}

/// Ends a system. No task, address space or file is left. Callbacks that they gave to RCU may be.
///
/// This works through shared references only. Callbacks have pointers to the system that were made
/// from shared references. A `drop` of `Hugetlb` would hold it exclusively meanwhile, which would
/// invalidate those pointers by the rules of the language.
fn end<P: Platform>(system: Orphan<Hugetlb<P>>) {
    // SAFETY: no task is left, so there is no section, and no table lock is held, since holding one
    // needs a task.
    unsafe { system.rcu.barrier(system.platform()) };
    for size in system.sizes() {
        system.pool(size).release_all(&system);
    }
    drop(system);
}
