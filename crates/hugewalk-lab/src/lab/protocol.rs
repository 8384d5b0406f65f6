//! The protocol of the run that is under way, as the engine asks for it.

use std::cell::Cell;

use hugewalk::protocol::Step;

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
    static WITHOUT: Cell<u64> = const { Cell::new(0) };
    static UNDER_VMA_LOCK: Cell<bool> = const { Cell::new(false) };
    static CHECKS: Cell<bool> = const { Cell::new(true) };
}

pub(super) fn select(settings: &Settings) {
    WITHOUT.set(settings.without);
    UNDER_VMA_LOCK.set(settings.walkers == Walkers::Vma);
    CHECKS.set(settings.checks());
}

/// Does the protocol of the run that is under way on this OS thread have this step?
pub(super) fn keeps(step: Step) -> bool {
    match step {
        Step::VmaLock if world().unlocked.get() != 0 => {
            in_thread().is_none_or(|thread| world().unlocked.get() & 1 << thread == 0)
        }
        Step::WalkUnlocked => !UNDER_VMA_LOCK.get(),
        // What a fault has seen says something only if it was checked.
        Step::UsePresent => CHECKS.get(),
        // A first round, and one more that is the last.
        Step::LookManyTimes => false,
        Step::WaitForBusyVmas => !world().in_place_at_once.get(),
        // What the quarantine does not keep is not let go.
        Step::HoldVma if !quarantine().keeps_what_is_met() => true,
        _ => WITHOUT.get() & bit(step) == 0,
    }
}
