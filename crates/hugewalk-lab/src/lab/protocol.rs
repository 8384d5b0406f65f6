//! The protocol of the run that is under way, as the engine asks for it.

use std::cell::Cell;

use hugewalk::platform::{Protocol, Step};

use super::ground::world;
use super::judge::quarantine::quarantine;
use super::settings::{Settings, Walkers, bit};
use crate::explore::in_thread;

/// This thread does not hold VMA locks in read from now on, or does again.
pub(super) fn set_without_vma_lock(without: bool) {
    if let Some(thread) = in_thread() {
        let (threads, this) = (world().unlocked.get(), 1 << thread);
        world().unlocked.set(if without { threads | this } else { threads & !this });
    }
}

thread_local! {
    static WITHOUT: Cell<u32> = const { Cell::new(0) };
    static UNDER_VMA_LOCK: Cell<bool> = const { Cell::new(false) };
}

pub(super) fn select(settings: &Settings) {
    WITHOUT.set(settings.without);
    UNDER_VMA_LOCK.set(settings.walkers == Walkers::Vma);
}

/// The protocol of the run that is under way on this OS thread.
#[derive(Clone, Copy, Debug)]
pub struct Chosen;

// SAFETY: it is used by `Lab` alone, which never uses memory of tables or page records for anything else, keeps the VMAs that
// somebody does without a reference to, and runs one thread at a time.
unsafe impl Protocol for Chosen {
    fn keeps(step: Step) -> bool {
        if step == Step::VmaLock && world().unlocked.get() != 0 {
            return in_thread().is_none_or(|thread| world().unlocked.get() & 1 << thread == 0);
        }
        let left_out = WITHOUT.get() & bit(step) != 0;
        // What the quarantine does not keep is not let go.
        !left_out || step == Step::HoldVma && !quarantine().keeps_what_is_met()
    }
    fn walks_under_vma_lock() -> bool {
        UNDER_VMA_LOCK.get()
    }
    fn patience() -> u32 {
        // A first round, and one more that is the last.
        2
    }
}
