//! What another processor does at the worst moment: work that runs once, inside a call of the engine's to its platform,
//! before that takes effect.

use core::cell::RefCell;
use std::collections::VecDeque;

/// The calls that can be interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// A TLB flush.
    Flush,
    /// A look at the record of a huge page.
    Record,
    /// A huge page is asked for.
    AllocHuge,
    /// Copying a huge page.
    Copy,
    /// The light barrier, as a read section is entered.
    Light,
    /// The heavy barrier of a grace period.
    Heavy,
    /// A table that comes back.
    FreeTable,
    /// A huge page that comes back.
    FreeHuge,
}

type Work = Box<dyn FnOnce()>;

thread_local! {
    static PENDING: RefCell<VecDeque<(At, Work)>> = const { RefCell::new(VecDeque::new()) };
    static BUSY: RefCell<bool> = const { RefCell::new(false) };
}

/// Runs `work` inside the next flush.
pub(crate) fn before_next_flush(work: impl FnOnce() + 'static) {
    before_next(At::Flush, work);
}

/// Runs `work` inside the next such call that is not made by such work, once what was asked for before has run.
pub(crate) fn before_next(at: At, work: impl FnOnce() + 'static) {
    PENDING.with(|pending| pending.borrow_mut().push_back((at, Box::new(work))));
}

/// Such a call is about to take effect.
pub(crate) fn reach(at: At) {
    if BUSY.with(|busy| *busy.borrow()) {
        return;
    }
    let work = PENDING.with(|pending| {
        let mut pending = pending.borrow_mut();
        if pending.front().is_some_and(|(first, _)| *first == at) { pending.pop_front() } else { None }
    });
    if let Some((_, work)) = work {
        /// Also if the work unwinds.
        struct Restore;
        impl Drop for Restore {
            fn drop(&mut self) {
                BUSY.with(|busy| *busy.borrow_mut() = false);
            }
        }
        BUSY.with(|busy| *busy.borrow_mut() = true);
        let _restore = Restore;
        work();
    }
}

/// The `count`-th such call from now on, counted from 0, unwinds.
pub(crate) fn unwind_at(at: At, count: usize) {
    for _ in 0..count {
        before_next(at, || {});
    }
    before_next(at, || std::panic::resume_unwind(Box::new("the platform unwinds")));
}

/// Is there work still to be done?
pub(crate) fn is_pending() -> bool {
    PENDING.with(|pending| !pending.borrow().is_empty())
}
