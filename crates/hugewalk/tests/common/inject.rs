//! Allocation failure, by number: once armed, the n-th allocation that the engine makes on this thread fails, once. The
//! heap asks (in the test binary that installs such an allocator), and so does the platform for its frames.

use core::cell::Cell;

thread_local! {
    /// How many allocations are left until the one that fails.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    /// Is the engine running, rather than the test?
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static FAILED: Cell<bool> = const { Cell::new(false) };
    /// Does the test run, called by the engine?
    static EXEMPT: Cell<bool> = const { Cell::new(false) };
    static ALL: Cell<bool> = const { Cell::new(false) };
    /// Do all fail that come after the one that fails?
    static AND_ALL_AFTER: Cell<bool> = const { Cell::new(false) };
}

/// Arms the failure of the allocation that comes after `allowed` ones, until [`disarm`].
pub(crate) fn arm(allowed: u64) {
    FAILED.set(false);
    LEFT.set(Some(allowed));
}

/// Arms the failure of the allocation that comes after `allowed` ones, and of all that follow, until [`disarm`].
pub(crate) fn arm_for_good_after(allowed: u64) {
    arm(allowed);
    AND_ALL_AFTER.set(true);
}

/// From now on every allocation fails, until [`disarm`].
pub(crate) fn arm_for_good() {
    FAILED.set(false);
    ALL.set(true);
}

/// Disarms.
pub(crate) fn disarm() {
    LEFT.set(None);
    ALL.set(false);
    AND_ALL_AFTER.set(false);
}

/// Has an allocation failed since the failure was armed?
pub(crate) fn has_failed() -> bool {
    FAILED.get()
}

/// May this allocation succeed?
pub(crate) fn permit() -> bool {
    if !INSIDE.get() {
        return true;
    }
    if ALL.get() {
        FAILED.set(true);
        return false;
    }
    match LEFT.get() {
        None => true,
        Some(0) => {
            LEFT.set(None);
            ALL.set(AND_ALL_AFTER.get());
            FAILED.set(true);
            false
        }
        Some(left) => {
            LEFT.set(Some(left - 1));
            true
        }
    }
}

/// Runs the engine, whose allocations count.
pub(crate) fn inside<R>(work: impl FnOnce() -> R) -> R {
    set_inside(true, false, work)
}

/// Runs work of the test's own within the engine's, whose allocations do not count.
pub(crate) fn exempt<R>(work: impl FnOnce() -> R) -> R {
    set_inside(false, true, work)
}

/// Is it the test's own work that runs within the engine's?
pub(crate) fn is_exempt() -> bool {
    EXEMPT.get()
}

fn set_inside<R>(inside: bool, exempt: bool, work: impl FnOnce() -> R) -> R {
    struct Restore(bool, bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            INSIDE.set(self.0);
            EXEMPT.set(self.1);
        }
    }
    let _restore = Restore(INSIDE.replace(inside), EXEMPT.replace(exempt));
    work()
}
