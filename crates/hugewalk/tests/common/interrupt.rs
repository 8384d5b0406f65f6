//! What another processor does at the worst moment: work that runs once, inside a call of the engine's to its platform,
//! before that takes effect.

use core::cell::{Cell, RefCell};
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
    /// Filling a huge page, with zeroes or with bytes.
    Fill,
    /// A moment that is waited for somebody else.
    Pause,
    /// The light barrier, as a read section is entered.
    Light,
    /// The heavy barrier of a grace period.
    Heavy,
    /// A table that comes back.
    FreeTable,
    /// A huge page that comes back.
    FreeHuge,
    /// Pages are charged as reserved.
    Charge,
    /// Secondary MMUs have been told that a range is about to change, or are about to be told that it has.
    Told,
    /// A fault is over, and holds nothing any more.
    Faulted,
    /// A handler of page faults is called: it has something to read.
    HandlerCalled,
}

/// The calls that are watched.
const WATCHED: [At; 6] = [At::Flush, At::AllocHuge, At::Copy, At::Fill, At::FreeHuge, At::Told];

/// Also if the work unwinds.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        BUSY.with(|busy| *busy.borrow_mut() = false);
    }
}

type Work = Box<dyn FnOnce()>;

thread_local! {
    static PENDING: RefCell<VecDeque<(At, Work)>> = const { RefCell::new(VecDeque::new()) };
    static BUSY: RefCell<bool> = const { RefCell::new(false) };
    static WATCH: Cell<Option<fn()>> = const { Cell::new(None) };
    static PAUSES: Cell<u32> = const { Cell::new(0) };
}

/// More pauses than any patience of the engine's.
const ENDLESS: u32 = 1000;

/// Runs `work` inside the next flush.
pub(crate) fn before_next_flush(work: impl FnOnce() + 'static) {
    before_next(At::Flush, work);
}

/// Runs `work` inside the next such call that is not made by such work, once what was asked for before has run.
pub(crate) fn before_next(at: At, work: impl FnOnce() + 'static) {
    PENDING.with(|pending| pending.borrow_mut().push_back((at, Box::new(work))));
}

/// From now on `watch` runs inside each call that changes a page or a translation, and is not made by it.
pub(crate) fn watch(watch: Option<fn()>) {
    WATCH.set(watch);
}

/// Such a call is about to take effect. Says whether there was work for it.
pub(crate) fn reach(at: At) -> bool {
    if BUSY.with(|busy| *busy.borrow()) {
        return false;
    }
    if let Some(watch) = WATCH.get().filter(|_| WATCHED.contains(&at)) {
        BUSY.with(|busy| *busy.borrow_mut() = true);
        let _restore = Restore;
        watch();
    }
    let work = PENDING.with(|pending| {
        let mut pending = pending.borrow_mut();
        if pending.front().is_some_and(|(first, _)| *first == at) { pending.pop_front() } else { None }
    });
    if let Some((_, work)) = work {
        BUSY.with(|busy| *busy.borrow_mut() = true);
        PAUSES.set(0);
        let _restore = Restore;
        work();
        return true;
    }
    false
}

/// The `count`-th such call from now on, counted from 0, unwinds.
pub(crate) fn unwind_at(at: At, count: usize) {
    for _ in 0..count {
        before_next(at, || {});
    }
    before_next(at, || std::panic::resume_unwind(Box::new("the platform unwinds")));
}

/// The engine waits a moment for somebody else. The interrupted call is all that such work can wait for, and only if it gives
/// up after a while; the test itself has nobody.
pub(crate) fn pause() {
    if reach(At::Pause) {
        return;
    }
    let waits_for_itself = PAUSES.replace(PAUSES.get() + 1) == ENDLESS || !BUSY.with(|busy| *busy.borrow());
    assert!(!waits_for_itself, "a grace period waits for this very thread");
}

/// Is there work still to be done?
pub(crate) fn is_pending() -> bool {
    PENDING.with(|pending| !pending.borrow().is_empty())
}

/// Forgets what has not come to be done.
pub(crate) fn forget() {
    PENDING.with(|pending| pending.borrow_mut().clear());
}
