//! What a thread is doing: which callbacks, read sections and locks it is in.

use core::cell::{Cell, RefCell};
use core::panic::Location;
use std::sync::Arc;

use super::locks::Order;
use super::report::{Finding, Log};

/// The records of one checked platform, which its locks and calls write.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) log: Log,
    pub(super) order: Order,
}

thread_local! {
    /// The platform that this thread called last. Locks do not know which platform they belong to.
    static CURRENT: RefCell<Option<Arc<Ledger>>> = const { RefCell::new(None) };
    static CALLBACK: Cell<Option<&'static str>> = const { Cell::new(None) };
    static SECTIONS: Cell<usize> = const { Cell::new(0) };
    static SPINNING: Cell<usize> = const { Cell::new(0) };
}

/// From now on this thread works on the platform of this ledger.
pub(super) fn works_on(ledger: &Arc<Ledger>) {
    CURRENT.with_borrow_mut(|current| {
        if !current.as_ref().is_some_and(|current| Arc::ptr_eq(current, ledger)) {
            *current = Some(ledger.clone());
        }
    });
}

/// The ledger of the platform that this thread works on, if it works on one.
pub(super) fn with_ledger(tell: impl FnOnce(&Ledger)) {
    // Cloned, since `tell` may come back here. There is none while the thread ends.
    let current = CURRENT.try_with(|current| current.try_borrow().ok()?.clone());
    if let Ok(Some(ledger)) = current {
        tell(&ledger);
    }
}

/// A callback of the platform, which must not call back, until this is dropped.
pub(super) struct Callback(Option<&'static str>);

impl Callback {
    pub(super) fn enter(name: &'static str, caller: &'static Location<'static>) -> Self {
        may_call(name, caller);
        Self(CALLBACK.replace(Some(name)))
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        CALLBACK.set(self.0);
    }
}

/// Checks that `call` may enter the engine: not from a callback.
pub(super) fn may_call(call: &'static str, caller: &'static Location<'static>) {
    if let Some(from) = CALLBACK.get() {
        with_ledger(|ledger| ledger.log.add(Finding::CalledBack { from }, call, caller));
    }
}

/// Callbacks that may sleep.
const SLEEPING: [&str; 7] = [
    "alloc_table",
    "alloc_huge",
    "zero_huge",
    "copy_huge",
    "invalidate_range_start",
    "try_charge",
    "try_charge_reserved",
];

/// Checks that sleeping in `call` is allowed.
pub(super) fn may_sleep_in(call: &'static str, caller: &'static Location<'static>) {
    if CALLBACK.get().is_some() && SLEEPING.contains(&call) {
        // Reported as a call back into the platform.
        return;
    }
    let inside = match (CALLBACK.get(), SECTIONS.get(), SPINNING.get()) {
        (Some(name), ..) if !SLEEPING.contains(&name) => format!("in {name}(), which must not sleep"),
        (_, 1.., _) => "in an RCU read section".to_owned(),
        (_, 0, 1..) => "with a spinning lock held".to_owned(),
        (_, 0, 0) => return,
    };
    with_ledger(|ledger| ledger.log.add(Finding::Slept { inside }, call, caller));
}

pub(super) fn enter_section() {
    SECTIONS.set(SECTIONS.get() + 1);
}

pub(super) fn leave_section() {
    SECTIONS.set(SECTIONS.get().saturating_sub(1));
}

pub(super) fn spins(begins: bool) {
    // The thread may be ending.
    let _ = SPINNING.try_with(|count| {
        count.set(if begins { count.get() + 1 } else { count.get().saturating_sub(1) });
    });
}
