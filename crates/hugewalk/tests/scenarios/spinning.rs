//! What is not done with a spinning lock held, and what waits for whom. (That the heap is not used is seen by every test of this binary, in
//! `common/locks.rs`.)

use super::World;
use super::common::interrupt::{At, before_next, is_pending};
use super::common::{AddressSpace, Bench, File, GIB, M2, SIGNALLED, Task, at, map, small, system};
use hugewalk::error::{Interrupted, WaitError};
use hugewalk::fault::Access;
use hugewalk::mm::{MapFlags, MapRequest};
use hugewalk::pool::PoolCounters;
use hugewalk::sleep::{Signals, WaitQueue};
use hugewalk::sync::Arc;

/// What a task waits for; its end wakes the queue it was in.
struct Key(Arc<WaitQueue<Bench, Self>>);

impl Drop for Key {
    fn drop(&mut self) {
        self.0.wake_all();
    }
}

#[test]
fn a_key_is_dropped_with_its_queue_unlocked() {
    let mut world = World::new(0);
    let queue = Arc::try_new(WaitQueue::new()).unwrap();
    let waited = queue.wait_as(Key(queue.clone()), &mut world.task, |_: &Task| Some(queue.waiting()));
    assert_eq!((waited, queue.waiting()), (Ok(1), 0));
    world.finish();
}

#[test]
fn a_task_that_a_signal_wakes_leaves_the_queue() {
    let mut world = World::new(0);
    let queue = WaitQueue::new();
    SIGNALLED.set(true);
    let waited = queue.wait_unless((), Signals::Any, &mut world.task, |_| None::<()>);
    SIGNALLED.set(false);
    assert_eq!((waited, queue.waiting()), (Err(WaitError::Interrupted(Interrupted)), 0));
    world.finish();
}

#[test]
fn a_pool_asks_its_host_for_pages_and_gives_them_back_with_its_lock_released() {
    let (hugetlb, mut task) = system(0);
    let pool = hugetlb.pool(small());
    let look = |at| {
        let hugetlb = hugetlb.clone();
        before_next(at, move || assert!(hugetlb.pool(small()).counters().total <= 3));
    };
    // A pool that grows and shrinks, page by page.
    look(At::AllocHuge);
    look(At::AllocHuge);
    look(At::FreeHuge);
    assert_eq!(hugetlb.resize_pool(small(), 3), 3);
    assert_eq!(hugetlb.resize_pool(small(), 0), 0);
    assert!(!is_pending());
    // Surplus pages, for a reservation and for a fault without one.
    pool.set_overcommit(2);
    for flags in [MapFlags::SHARED, MapFlags::SHARED | MapFlags::NORESERVE] {
        let file = File::new(&hugetlb, small(), None).unwrap();
        let space = AddressSpace::new(&hugetlb).unwrap();
        look(At::AllocHuge);
        look(At::FreeHuge);
        map(&space, &mut task, &file, 0, GIB, 2 * M2, flags).unwrap();
        space.fault(&mut task, at(GIB), Access::Write).unwrap();
        drop(file);
        space.exit(&mut task).unwrap();
        assert!(!is_pending());
        assert_eq!(pool.counters(), PoolCounters::default());
    }
}

#[test]
fn a_pool_that_is_given_away_while_it_grows_has_the_size_that_was_asked_for() {
    let (hugetlb, _task) = system(1);
    let other = hugetlb.clone();
    before_next(At::AllocHuge, move || assert_eq!(other.resize_pool(small(), 4), 4));
    // The page that was on its way is one too many by then.
    assert_eq!(hugetlb.resize_pool(small(), 2), 2);
    assert_eq!(hugetlb.platform().huge_in_use(small()), 2);
    assert_eq!(
        hugetlb.pool(small()).counters(),
        PoolCounters { total: 2, free: 2, ..PoolCounters::default() }
    );
}

/// More surplus pages go than go at once. While some are on their way to the host, the pool is made as large as those that are left.
#[test]
fn surplus_pages_that_become_configured_ones_while_others_go_stay() {
    const PAGES: u64 = 100;
    let (hugetlb, mut task) = system(0);
    hugetlb.pool(small()).set_overcommit(PAGES);
    let space = AddressSpace::new(&hugetlb).unwrap();
    let start = space.mmap(&mut task, &MapRequest::anonymous(small(), PAGES * M2)).unwrap();
    let (other, left) = (hugetlb.clone(), PAGES - 64);
    before_next(At::FreeHuge, move || assert_eq!(other.resize_pool(small(), left), left));
    space.munmap(&mut task, start, PAGES * M2).unwrap();
    assert!(!is_pending());
    let counters = PoolCounters { total: left, free: left, ..PoolCounters::default() };
    assert_eq!(hugetlb.pool(small()).counters(), counters);
}

#[test]
fn truncation_waits_for_the_faults_of_no_other_file() {
    let (hugetlb, mut task) = system(1);
    hugetlb.pool(small()).set_overcommit(1);
    let [file, other] = [(); 2].map(|()| File::new(&hugetlb, small(), None).unwrap());
    let space = AddressSpace::new(&hugetlb).unwrap();
    other.allocate(&mut task, 0, M2, false).unwrap();
    map(&space, &mut task, &file, 0, GIB, M2, MapFlags::NORESERVE).unwrap();
    // In the middle of a fault, with its fault mutex and its VMA lock held: who waits for it waits for ever.
    let (truncated, system) = (other.clone(), hugetlb.clone());
    before_next(At::AllocHuge, move || {
        truncated.truncate(&mut super::common::task(&system), 0).unwrap();
    });
    space.fault(&mut task, at(GIB), Access::Write).unwrap();
    assert!(!is_pending());
    assert_eq!((other.size(), other.pages()), (0, 0));
}
