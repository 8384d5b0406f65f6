//! Reservations (I15): what the pool, a mount and a file count is right whenever the lock of the count is released, and their
//! sum when no operation is between its steps. (That a fault with a reservation gets a page is for a scenario to say, which knows
//! who has one.)
//!
//! # What is right when
//!
//! - At the release of the pool's lock: `reserved <= free <= total`, `surplus <= total`, and as many pages say that they are free.
//! - At the release of the pool's lock or a mount's: the pool has a reservation for each that a mount counts as its own. A mount
//!   whose lock is held is left out: the protocol is to hold it until the pool is changed too.
//! - When no thread holds a sleeping lock or one of the counts' locks, and no page is on its way into use or out of it: the pool's
//!   reservations are those that files, private mappings and mounts have and no page has used; and its pages are those that the
//!   machine has handed out, without those that memory failure took.
//!
//! Looked at in the very step that releases the lock, by nobody, as in `audit.rs`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use hugewalk::addr::HugeFrame;
use hugewalk::arch::X86_64;
use hugewalk::file::HugeFile;
use hugewalk::pool::{HugePool, PoolCounters};
use hugewalk::reserve::SubPool;
use hugewalk::sync::Arc;
use hugewalk::{AddressSpace, Hugetlb, Task};

use super::Judge;
use crate::explore::{MAX_THREADS, in_thread, is_judged, is_moving, quietly, violation};
use crate::lab::Lab;
use crate::lab::ground::{DISSOLVED, FLAGS, FREE, IN_USE, POISONED, Place, REFERENCES, SUBPOOL, world};
use crate::lab::property::Property;

/// Spinning locks besides those of tables that are held at a time.
const SPINNING: usize = 16;

/// What is counted, and a task to look with.
pub(crate) struct Reserved {
    pub(crate) task: Task<Lab>,
    pub(crate) hugetlb: Arc<Hugetlb<Lab>>,
    pub(crate) mounts: Vec<Arc<SubPool<Lab>>>,
    pub(crate) files: Vec<Arc<HugeFile<Lab>>>,
    /// Those whose mappings have reservations.
    pub(crate) processes: Vec<Arc<AddressSpace<Lab>>>,
}

#[derive(Default)]
struct State {
    looks: RefCell<Option<Rc<Reserved>>>,
    /// Addresses of spinning locks that are held, or 0.
    spinning: Cell<[usize; SPINNING]>,
    /// Sleeping locks that each thread holds.
    sleeping: Cell<[u32; MAX_THREADS]>,
}

thread_local! {
    static STATE: &'static State = Box::leak(Box::default());
}

fn state() -> &'static State {
    STATE.with(|state| *state)
}

/// Who looks, if the run is judged now.
fn looks() -> Option<Rc<Reserved>> {
    let looks = world().judges(Property::I15) && is_moving() && is_judged();
    looks.then(|| state().looks.borrow().clone()).flatten()
}

impl Judge for Reserved {
    fn begin_run() {
        let state = state();
        // What a run that was given up has left behind is in use on a stack that was abandoned.
        std::mem::forget(state.looks.take());
        state.spinning.set([0; SPINNING]);
        state.sleeping.set([0; MAX_THREADS]);
    }

    fn pieces(each: &mut dyn FnMut(*mut u8, usize)) {
        each(std::ptr::from_ref(state()).cast_mut().cast(), size_of::<State>());
    }

    fn took(_: usize) {
        change_sleeping(1);
    }

    fn let_go(_: usize) {
        change_sleeping(-1);
        if let Some(reserved) = looks() {
            reserved.look_at_sum();
        }
    }

    fn took_spin(place: Place, lock: usize) {
        if place == Place::Elsewhere && is_moving() {
            replace_spinning(0, lock);
        }
    }

    fn let_spin_go(place: Place, lock: usize) {
        if place != Place::Elsewhere {
            return;
        }
        if is_moving() {
            replace_spinning(lock, 0);
        }
        let Some(reserved) = looks() else { return };
        let pool = reserved.pool();
        if is_within(pool, lock) {
            reserved.look_at_pool();
        }
        if is_within(pool, lock) || reserved.mounts.iter().any(|mount| is_within(&**mount, lock)) {
            reserved.look_at_mounts();
        }
        reserved.look_at_sum();
    }
}

fn change_sleeping(change: i32) {
    if let Some(thread) = in_thread() {
        let mut sleeping = state().sleeping.get();
        sleeping[thread] = sleeping[thread].saturating_add_signed(change);
        state().sleeping.set(sleeping);
    }
}

fn replace_spinning(old: usize, new: usize) {
    let mut spinning = state().spinning.get();
    if let Some(place) = spinning.iter_mut().find(|place| **place == old) {
        *place = new;
    }
    state().spinning.set(spinning);
}

/// Does a lock lie in this?
fn is_within<T>(what: &T, lock: usize) -> bool {
    lock.wrapping_sub(std::ptr::from_ref(what).addr()) < size_of::<T>()
}

/// Is a lock in this held?
fn is_locked<T>(what: &T) -> bool {
    state().spinning.get().into_iter().any(|lock| lock != 0 && is_within(what, lock))
}

/// The flags and the references of a page.
fn record(page: HugeFrame) -> (u64, u64) {
    (world().peek_page(page, FLAGS), world().peek_page(page, REFERENCES))
}

/// Is the page on its way into use or out of it, or to the platform or from it?
fn is_on_its_way(page: HugeFrame) -> bool {
    match record(page) {
        (0, 0) => false,
        (flags, 0) => flags & (FREE | POISONED | DISSOLVED) == 0,
        (flags, _) => flags & IN_USE == 0,
    }
}

fn report(text: &str) {
    violation(format!("I15: {text}"), Property::I15);
}

impl Reserved {
    /// From now on it is looked at.
    pub(crate) fn begin(self) {
        if world().judges(Property::I15) {
            *state().looks.borrow_mut() = Some(Rc::new(self));
        }
    }

    /// The threads have ended: a last look, at the sum.
    pub(crate) fn end() {
        let reserved = state().looks.take();
        if let Some(reserved) = reserved.filter(|_| is_judged()) {
            reserved.look_at_sum();
        }
    }

    fn pool(&self) -> &HugePool<Lab> {
        self.hugetlb.pool(X86_64::SIZE_2M)
    }

    fn counters(&self) -> PoolCounters {
        quietly(|| self.pool().counters())
    }

    fn look_at_pool(&self) {
        let PoolCounters { total, free, reserved, surplus } = self.counters();
        let listed = world().pages().filter(|&page| record(page).0 & (FREE | POISONED) != 0).count() as u64;
        if reserved > free || free > total || surplus > total || listed != free {
            report(&format!(
                "the pool counts {total} pages, {free} of them free, {reserved} reserved, {surplus} surplus; {listed} are free"
            ));
        }
    }

    fn look_at_mounts(&self) {
        if is_locked(self.pool()) {
            return;
        }
        let free = self.mounts.iter().filter(|mount| !is_locked(&***mount));
        let own: u64 = quietly(|| free.map(|mount| mount.usage().1).sum());
        let reserved = self.counters().reserved;
        if own > reserved {
            report(&format!("mounts have {own} reservations of their own, and the pool has {reserved}"));
        }
    }

    /// If no operation is between its steps.
    fn look_at_sum(&self) {
        let state = state();
        let is_quiet = state.sleeping.get() == [0; MAX_THREADS] && state.spinning.get() == [0; SPINNING];
        if !is_quiet || world().pages().any(is_on_its_way) {
            return;
        }
        let counters = self.counters();
        // A task that waits to change an address space's mappings keeps others from looking at them.
        let Some(ours) = quietly(|| self.files_and_mappings()) else { return };
        let (used, own) = quietly(|| {
            let usage = self.mounts.iter().map(|mount| mount.usage());
            usage.fold((0, 0), |(used, own), (more, reserved)| (used + more, own + reserved))
        });
        let in_use = world().pages().filter(|&page| record(page).1 != 0);
        let of_mounts = in_use.filter(|&page| world().peek_page(page, SUBPOOL) != 0).count() as u64;
        if used + own < of_mounts || ours + (used + own - of_mounts) != counters.reserved {
            report(&format!(
                "{ours} pages are reserved for files and mappings, mounts count {used} used and {own} of their own, {of_mounts} pages are theirs, and the pool has {} reservations",
                counters.reserved
            ));
        }
        let counted = |page: HugeFrame| record(page).0 != 0 && record(page).0 & DISSOLVED == 0;
        let pages = world().pages().filter(|&page| counted(page)).count() as u64;
        if pages != counters.total {
            report(&format!("the pool counts {} pages, and has {pages}", counters.total));
        }
    }

    /// Reservations besides those of mounts that no page has used.
    fn files_and_mappings(&self) -> Option<u64> {
        let files = self.files.iter().filter(|file| file.subpool().is_none());
        let mut reserved = files.map(|file| file.reserved()).sum();
        for process in &self.processes {
            let mmap = process.mmap_try_read(&self.task)?;
            let vmas = mmap.vmas().filter(|vma| vma.file().subpool().is_none());
            reserved += vmas.map(|vma| vma.reserved()).sum::<u64>();
        }
        Some(reserved)
    }
}
