//! What another processor does at the worst moment: work that runs once, inside the next TLB flush, before it takes effect.

use core::cell::RefCell;

type Work = Box<dyn FnOnce()>;

thread_local! {
    static PENDING: RefCell<Option<Work>> = const { RefCell::new(None) };
}

/// Runs `work` inside the next flush.
pub(crate) fn before_next_flush(work: impl FnOnce() + 'static) {
    PENDING.with(|pending| *pending.borrow_mut() = Some(Box::new(work)));
}

/// A flush is about to happen.
pub(crate) fn flushing() {
    let work = PENDING.with(|pending| pending.borrow_mut().take());
    if let Some(work) = work {
        work();
    }
}

/// Is the work still to be done?
pub(crate) fn is_pending() -> bool {
    PENDING.with(|pending| pending.borrow().is_some())
}
