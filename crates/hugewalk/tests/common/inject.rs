//! Allocation failure, by number: while armed, the n-th allocation of this thread fails, once. The heap asks (in the test
//! binary that installs such an allocator), and so does the platform for its frames.

use core::cell::Cell;

thread_local! {
    /// How many allocations are left until the one that fails.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    static EXEMPT: Cell<u32> = const { Cell::new(0) };
    static FAILED: Cell<bool> = const { Cell::new(false) };
}

/// Arms the failure of the allocation that comes after `allowed` ones, until [`disarm`].
pub(crate) fn arm(allowed: u64) {
    FAILED.set(false);
    LEFT.set(Some(allowed));
}

/// Disarms. Has an allocation failed since it was armed?
pub(crate) fn disarm() -> bool {
    LEFT.set(None);
    FAILED.get()
}

/// May this allocation succeed?
pub(crate) fn permit() -> bool {
    if EXEMPT.get() > 0 {
        return true;
    }
    match LEFT.get() {
        None => true,
        Some(0) => {
            LEFT.set(None);
            FAILED.set(true);
            false
        }
        Some(left) => {
            LEFT.set(Some(left - 1));
            true
        }
    }
}

/// Runs work of the test's own, whose allocations do not count.
pub(crate) fn exempt<R>(work: impl FnOnce() -> R) -> R {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            EXEMPT.set(EXEMPT.get() - 1);
        }
    }
    EXEMPT.set(EXEMPT.get() + 1);
    let _leave = Leave;
    work()
}
