//! Fault mutexes of pages side by side, held by one task.

use super::{FAULT_MUTEXES, Hugetlb, mutex_of};
use crate::platform::Platform;
use crate::protocol::{Step, keeps};
use crate::sleep::SleepLockGuard;

/// How many pages a task faults in together at most. While it fills them, their fault mutexes keep faults on other pages waiting
/// that have a mutex in common with one of them. So these are a few of the mutexes there are.
pub(crate) const RUN: usize = 16;

/// The fault mutexes of pages that a task faults in together.
///
/// They have the place of one fault mutex in the lock order. The task *tries* each of them and waits for none, so no two tasks wait for
/// one another. Pages may have a mutex in common.
pub(crate) struct FaultMutexes<'h, P: Platform> {
    hugetlb: &'h Hugetlb<P>,
    /// Which are held, a bit for each.
    held: u64,
    guards: [Option<SleepLockGuard<'h, P>>; RUN],
    free: usize,
}

impl<'h, P: Platform> FaultMutexes<'h, P> {
    /// None yet.
    pub(crate) fn new(hugetlb: &'h Hugetlb<P>) -> Self {
        Self { hugetlb, held: 0, guards: [const { None }; RUN], free: RUN }
    }

    /// Takes the mutex of page `index` of file `file` too. False if somebody else has it, or so many are held already.
    #[inline]
    pub(crate) fn try_add(&mut self, file: u64, index: u64) -> bool {
        const { assert!(FAULT_MUTEXES <= u64::BITS as usize) };
        let mutex = mutex_of(file, index);
        if self.held & 1 << mutex != 0 || !keeps::<P>(Step::RunMutexes) {
            return true;
        }
        let Some(place) = self.free.checked_sub(1) else { return false };
        let Some(guard) = self.hugetlb.fault_mutexes[mutex].0.try_lock() else { return false };
        self.guards[place] = Some(guard);
        self.free = place;
        self.held |= 1 << mutex;
        true
    }
}
