//! What is reserved is paid for by whoever reserves it, and given back when the reservation goes. What is taken without having
//! been reserved is paid for as if it had been.

mod common;

use std::sync::Barrier;

use common::interrupt::{At, before_next, is_pending};
use common::{
    AddressSpace, Bench, File, GIB, Group, Hugetlb, LIMIT_REACHED, M2, PAYER, RESERVABLE_LEFT, Task, at, cpu,
    map, small, system,
};
use hugewalk::error::{BadSource, Errno, LimitReached};
use hugewalk::fault::{Access, FaultError};
use hugewalk::file::FileError;
use hugewalk::gup::GupFlags;
use hugewalk::mm::{Advice, MapError, MapFlags, RemapTo};
use hugewalk::reserve::{NoPage, SubPool};
use hugewalk::source::{Room, Source};
use hugewalk::sync::Arc;
use hugewalk::uffd::{CopyMode, Features, Modes, Userfault};

#[global_allocator]
static HEAP: common::heap::Heap = common::heap::Heap;

const ONE: Group = Group(1);
const OTHER: Group = Group(2);
const START: u64 = 4 * GIB;
const SHARED: MapFlags = MapFlags::SHARED;
const PRIVATE: MapFlags = MapFlags::empty();

/// A pool of 16 pages, and a file.
struct World {
    hugetlb: Arc<Hugetlb>,
    task: Task,
    file: Arc<File>,
}

impl World {
    fn new() -> Self {
        let (hugetlb, task) = system(16);
        let file = File::new(&hugetlb, small(), None).unwrap();
        Self { hugetlb, task, file }
    }

    fn process(&self) -> Arc<AddressSpace> {
        AddressSpace::new(&self.hugetlb).unwrap()
    }

    /// A group maps these pages of the file.
    fn map(
        &mut self,
        group: Group,
        space: &AddressSpace,
        offset: u64,
        pages: u64,
        flags: MapFlags,
    ) -> Result<(), MapError> {
        let (file, task) = (self.file.clone(), &mut self.task);
        let start = START + offset * M2;
        paid_by(group, || map(space, task, &file, offset * M2, start, pages * M2, flags).map(drop))
    }

    /// What either group has paid for as reserved.
    fn charged(&self) -> [u64; 2] {
        [ONE, OTHER].map(|group| self.hugetlb.platform().charged_reserved(small(), group))
    }

    /// Pages that are in use, and pages that are reserved and not in use.
    fn counters(&self) -> (u64, u64) {
        let counters = self.hugetlb.pool(small()).counters();
        (counters.total - counters.free, counters.reserved)
    }
}

/// Does something that this group pays for.
fn paid_by<R>(group: Group, work: impl FnOnce() -> R) -> R {
    PAYER.set(Some(group));
    let result = work();
    PAYER.set(None);
    result
}

/// Does something with a limit that leaves so many pages to be reserved.
fn within<R>(pages: u64, work: impl FnOnce() -> R) -> R {
    RESERVABLE_LEFT.set(Some(pages));
    let result = work();
    RESERVABLE_LEFT.set(None);
    LIMIT_REACHED.set(false);
    result
}

/// Alone it becomes one with no other range, though all of the run would have.
#[test]
fn a_run_for_which_the_pool_has_too_few_pages_is_noted_without_the_heap() {
    let mut world = World::new();
    let space = world.process();
    world.map(ONE, &space, 0, 7, SHARED | MapFlags::NORESERVE).unwrap();
    space.fault(&mut world.task, at(START + 6 * M2), Access::Write).unwrap();
    // Three of 16 are left.
    let rest = File::new(&world.hugetlb, small(), None).unwrap();
    rest.reserve(&mut world.task, 0, 12 * M2).unwrap();
    space.madvise(&mut world.task, at(START), 6 * M2, Advice::PopulateWrite).unwrap_err();
    assert_eq!(world.counters(), (4, 12));
}

#[test]
fn a_mapping_beyond_the_limit_is_refused_and_nothing_has_changed() {
    let mut world = World::new();
    let space = world.process();
    for flags in [SHARED, PRIVATE] {
        let refused = within(3, || world.map(ONE, &space, 0, 4, flags)).unwrap_err();
        assert_eq!(refused, MapError::NoPage(NoPage::LimitReached(LimitReached { asked: 4 })));
        assert_eq!(refused.errno(), Errno::ENOMEM);
        assert_eq!((world.charged(), world.counters(), world.file.reserved()), ([0, 0], (0, 0), 0));
        assert!(world.file.size() == 0 && space.mmap_read(&mut world.task).vmas().next().is_none());
    }
    let file = world.file.clone();
    let refused = within(3, || paid_by(ONE, || file.reserve(&mut world.task, 0, 4 * M2))).unwrap_err();
    assert_eq!(refused.errno(), Errno::ENOMEM);
    assert_eq!((world.charged(), world.counters()), ([0, 0], (0, 0)));
    // What is there or reserved already costs nothing.
    paid_by(OTHER, || file.allocate(&mut world.task, 0, M2, true)).unwrap();
    world.map(OTHER, &world.process(), 1, 1, SHARED).unwrap();
    within(2, || world.map(ONE, &space, 0, 4, SHARED)).unwrap();
    assert_eq!((world.charged(), world.counters()), ([2, 2], (1, 3)));
}

#[test]
fn a_mapping_that_takes_the_place_of_another_may_cost_what_that_gives_back() {
    let mut world = World::new();
    let space = world.process();
    within(4, || {
        world.map(ONE, &space, 0, 4, PRIVATE).unwrap();
        // Refused while the old one is there. The limit of these tests only counts what is charged, so it is set anew.
        let hugetlb = world.hugetlb.clone();
        before_next(At::Charge, || {});
        before_next(At::Charge, move || {
            assert_eq!(hugetlb.platform().charged_reserved(small(), ONE), 0, "the old one has gone");
            RESERVABLE_LEFT.set(Some(4));
        });
        world.map(ONE, &space, 0, 4, PRIVATE).unwrap();
    });
    assert!(!is_pending());
    assert_eq!((world.charged(), world.counters()), ([4, 0], (0, 4)));
}

#[test]
fn what_fails_after_the_charge_gives_it_back() {
    let mut world = World::new();
    let space = world.process();
    // The pool, then a mount.
    for flags in [SHARED, PRIVATE] {
        let refused = world.map(ONE, &space, 0, 17, flags).unwrap_err();
        assert!(matches!(refused, MapError::NoPage(NoPage::PoolEmpty(_))), "{refused:?}");
        assert_eq!(world.charged(), [0, 0]);
    }
    let mount = SubPool::new(&world.hugetlb, small(), Some(4), Some(2)).unwrap();
    assert_eq!(world.charged(), [0, 0], "nobody pays for the minimum");
    world.file = File::new(&world.hugetlb, small(), Some(&mount)).unwrap();
    for flags in [SHARED, PRIVATE] {
        let refused = world.map(ONE, &space, 0, 5, flags).unwrap_err();
        assert!(matches!(refused, MapError::NoPage(NoPage::SubPoolFull(_))), "{refused:?}");
        assert_eq!(world.charged(), [0, 0]);
    }
    // What the minimum covers is paid for as the rest is.
    world.map(ONE, &space, 0, 4, SHARED).unwrap();
    assert_eq!(world.charged(), [4, 0]);
    let file = world.file.clone();
    let refused = paid_by(OTHER, || file.allocate(&mut world.task, 4 * M2, M2, true)).unwrap_err();
    assert!(matches!(refused, FileError::SubPoolFull(_)));
    assert_eq!(world.charged(), [4, 0]);
}

#[test]
fn two_groups_that_reserve_parts_of_a_file_get_back_what_each_has_paid() {
    let mut world = World::new();
    let (one, other) = (world.process(), world.process());
    world.map(ONE, &one, 0, 4, SHARED).unwrap();
    // Side by side, and over what the first has reserved.
    world.map(OTHER, &other, 2, 6, SHARED).unwrap();
    world.map(ONE, &one, 10, 2, SHARED).unwrap();
    assert_eq!((world.charged(), world.counters()), ([6, 4], (0, 10)));
    // The reservations are the file's, and outlive the processes.
    one.exit(&mut world.task).unwrap();
    drop(one);
    assert_eq!(world.charged(), [6, 4]);
    // Pages that come leave the charges as they are, whoever touches them.
    paid_by(OTHER, || other.madvise(&mut world.task, at(START + 2 * M2), 6 * M2, Advice::PopulateWrite))
        .unwrap();
    assert_eq!((world.charged(), world.counters()), ([6, 4], (6, 4)));
    let file = world.file.clone();
    file.truncate(&mut world.task, 6 * M2).unwrap();
    assert_eq!(world.charged(), [4, 2]);
    file.truncate(&mut world.task, 3 * M2).unwrap();
    assert_eq!((world.charged(), world.counters()), ([3, 0], (1, 2)));
    drop((other, file));
    world.file = File::new(&world.hugetlb, small(), None).unwrap();
    world.task.finish_drops();
    assert_eq!((world.charged(), world.counters()), ([0, 0], (0, 0)));
}

#[test]
fn a_hole_in_a_range_gives_back_to_the_group_that_has_paid_for_it() {
    let mut world = World::new();
    let space = world.process();
    world.map(ONE, &space, 0, 4, SHARED).unwrap();
    world.map(OTHER, &space, 4, 4, SHARED).unwrap();
    space.madvise(&mut world.task, at(START + M2), 2 * M2, Advice::PopulateWrite).unwrap();
    let file = world.file.clone();
    // In the middle of the range of one, which becomes two.
    paid_by(OTHER, || file.punch_hole(&mut world.task, M2, M2)).unwrap();
    assert_eq!((world.charged(), world.counters()), ([3, 4], (1, 6)));
    // Reservations without pages, across the ranges of both.
    paid_by(ONE, || file.unreserve(&mut world.task, 2 * M2, 4 * M2)).unwrap();
    assert_eq!((world.charged(), world.counters()), ([2, 2], (1, 3)), "the page that has come stays");
    // The hole is reserved by another, between two ranges of the first.
    paid_by(OTHER, || file.reserve(&mut world.task, 0, 4 * M2)).unwrap();
    assert_eq!((world.charged(), world.counters()), ([2, 4], (1, 5)));
    file.punch_hole(&mut world.task, 0, 8 * M2).unwrap();
    assert_eq!((world.charged(), world.counters()), ([1, 4], (0, 5)), "only the page goes");
    file.unreserve(&mut world.task, 0, 8 * M2).unwrap();
    assert_eq!((world.charged(), world.counters()), ([0, 0], (0, 0)));
}

#[test]
fn a_private_mapping_is_paid_for_whole_until_it_goes() {
    let mut world = World::new();
    let space = world.process();
    world.map(ONE, &space, 0, 8, PRIVATE).unwrap();
    cpu::store(&space, &mut world.task, at(START + M2), 1).unwrap();
    assert_eq!((world.charged(), world.counters()), ([8, 0], (1, 7)));
    // A page that is given back has its reservation again, and is paid for all the while.
    space.madvise(&mut world.task, at(START + M2), M2, Advice::DontNeed).unwrap();
    cpu::store(&space, &mut world.task, at(START + M2), 1).unwrap();
    assert_eq!((world.charged(), world.counters()), ([8, 0], (1, 7)));
    // A part of it goes, used or not.
    space.munmap(&mut world.task, at(START), 3 * M2).unwrap();
    assert_eq!((world.charged(), world.counters()), ([5, 0], (0, 5)));
    // It moves, and loses its end.
    let (source, target) = (at(START + 3 * M2), RemapTo::Fixed(at(2 * START)));
    paid_by(OTHER, || space.mremap(&mut world.task, source, 5 * M2, 4 * M2, target)).unwrap();
    assert_eq!((world.charged(), world.counters()), ([4, 0], (0, 4)));
    // The middle of it moves by itself.
    let (source, target) = (at(2 * START + M2), RemapTo::Fixed(at(3 * START)));
    space.mremap(&mut world.task, source, M2, M2, target).unwrap();
    assert_eq!(world.charged(), [4, 0]);
    space.munmap(&mut world.task, at(2 * START), GIB).unwrap();
    assert_eq!(world.charged(), [1, 0]);
    paid_by(OTHER, || space.exit(&mut world.task)).unwrap();
    assert_eq!((world.charged(), world.counters()), ([0, 0], (0, 0)));
}

#[test]
fn a_child_pays_for_what_it_copies_and_for_nothing_else() {
    let mut world = World::new();
    let parent = world.process();
    world.map(ONE, &parent, 0, 4, PRIVATE).unwrap();
    cpu::store(&parent, &mut world.task, at(START), 1).unwrap();
    let child = paid_by(OTHER, || parent.fork(&mut world.task)).unwrap();
    assert_eq!(world.charged(), [4, 0]);
    // A copy of a page, and one of nothing.
    for page in [0, 1] {
        paid_by(OTHER, || cpu::store(&child, &mut world.task, at(START + page * M2), 2)).unwrap();
    }
    assert_eq!((world.charged(), world.counters()), ([4, 2], (3, 3)));
    parent.exit(&mut world.task).unwrap();
    assert_eq!((world.charged(), world.counters()), ([0, 2], (2, 0)));
    child.munmap(&mut world.task, at(START), M2).unwrap();
    assert_eq!(world.charged(), [0, 1]);
    child.exit(&mut world.task).unwrap();
    assert_eq!(world.charged(), [0, 0]);
}

#[test]
fn an_owner_that_copies_pays_once_more_or_takes_its_page_from_the_child() {
    let mut world = World::new();
    let parent = world.process();
    world.map(ONE, &parent, 0, 2, PRIVATE).unwrap();
    for page in [0, 1] {
        cpu::store(&parent, &mut world.task, at(START + page * M2), 1).unwrap();
    }
    let child = parent.fork(&mut world.task).unwrap();
    // The copy uses no reservation.
    paid_by(ONE, || cpu::store(&parent, &mut world.task, at(START), 2)).unwrap();
    assert_eq!((world.charged(), world.counters()), ([3, 0], (3, 0)));
    within(0, || paid_by(ONE, || cpu::store(&parent, &mut world.task, at(START + M2), 2))).unwrap();
    assert_eq!((world.charged(), world.counters()), ([3, 0], (3, 0)));
    assert!(matches!(cpu::load(&child, &mut world.task, at(START + M2)), Err(FaultError::TakenAway { .. })));
    drop((parent, child));
    world.task.finish_drops();
    assert_eq!((world.charged(), world.counters()), ([0, 0], (0, 0)));
}

#[test]
fn a_page_that_nobody_has_reserved_is_paid_for_until_it_is_free() {
    let mut world = World::new();
    let space = world.process();
    for flags in [SHARED | MapFlags::NORESERVE, PRIVATE | MapFlags::NORESERVE] {
        world.map(OTHER, &space, 0, 4, flags).unwrap();
        assert_eq!((world.charged(), world.counters()), ([0, 0], (0, 0)));
        paid_by(ONE, || space.fault(&mut world.task, at(START), Access::Write)).unwrap();
        // Several at once.
        let rest = || space.madvise(&mut world.task, at(START), 4 * M2, Advice::PopulateWrite);
        paid_by(OTHER, rest).unwrap();
        assert_eq!((world.charged(), world.counters()), ([1, 3], (4, 0)));
        // It moves, is pinned, and outlives its mapping.
        let frame = cpu::peek(&space, &world.task, at(START)).unwrap().0.frame;
        world.hugetlb.migrate(&mut world.task, frame).unwrap();
        let pin = space.pin_page_fast(&world.task, at(START), GupFlags::PIN).unwrap().into_owned();
        space.munmap(&mut world.task, at(START), 4 * M2).unwrap();
        let file = world.file.clone();
        file.truncate(&mut world.task, 0).unwrap();
        assert_eq!((world.charged(), world.counters()), ([1, 0], (1, 0)));
        drop(pin);
        assert_eq!((world.charged(), world.counters()), ([0, 0], (0, 0)));
    }
}

#[test]
fn a_page_beyond_the_limit_ends_the_fault_and_nothing_has_changed() {
    let mut world = World::new();
    let space = world.process();
    world.map(ONE, &space, 0, 8, SHARED | MapFlags::NORESERVE).unwrap();
    within(2, || {
        paid_by(ONE, || {
            let populated = space.madvise(&mut world.task, at(START), 4 * M2, Advice::PopulateWrite);
            // One at a time, as the run of all is refused.
            let Err(MapError::Fault(refused)) = populated else { panic!("{populated:?}") };
            assert_eq!(refused, FaultError::LimitReached(LimitReached { asked: 1 }));
            assert!(refused.is_bus_error());
            let refused = world.file.allocate(&mut world.task, 4 * M2, M2, true).unwrap_err();
            assert!(matches!(refused, FileError::LimitReached(_)) && refused.errno() == Errno::ENOSPC);
        });
    });
    assert_eq!((world.charged(), world.counters(), world.file.reserved()), ([2, 0], (2, 0), 0));
    // As pages in use they were paid for, and given back where that was refused.
    assert_eq!(world.hugetlb.platform().charged(small(), ONE), 2);
}

#[test]
fn a_page_that_comes_while_a_mapping_is_paid_for_is_not_paid_for_twice() {
    let mut world = World::new();
    let (one, other) = (world.process(), world.process());
    world.map(OTHER, &other, 0, 8, SHARED | MapFlags::NORESERVE).unwrap();
    world.file.truncate(&mut world.task, 8 * M2).unwrap();
    // A fault of the other's needs no lock that mapping holds while it asks.
    let hugetlb = world.hugetlb.clone();
    before_next(At::Charge, move || {
        let mut task = common::task(&hugetlb);
        paid_by(OTHER, || other.fault(&mut task, at(START + 2 * M2), Access::Write)).unwrap();
        PAYER.set(Some(ONE));
    });
    world.map(ONE, &one, 0, 4, SHARED).unwrap();
    assert!(!is_pending());
    assert_eq!((world.charged(), world.counters()), ([3, 1], (1, 3)));
    let file = world.file.clone();
    file.truncate(&mut world.task, 0).unwrap();
    assert_eq!((world.charged(), world.counters()), ([0, 0], (0, 0)));
}

/// Bytes that take their time, and cannot be had in the end. Whoever asks for them has noted its page in the file meanwhile, and
/// takes it out again before [`copy`](Source::copy).
struct Slow(Arc<Barrier>);

impl Source<Bench> for Slow {
    fn copy_nofault(&mut self, _: u64, _: &mut Room<'_, Bench>) {
        self.0.wait();
        self.0.wait();
    }

    fn copy(&mut self, _: u64, _: &mut Room<'_, Bench>, _: &mut Task) -> Result<(), BadSource> {
        self.0.wait();
        self.0.wait();
        Err(BadSource)
    }
}

/// Otherwise a group that is near its limit would be refused what it may have.
#[test]
fn a_mapping_that_has_to_pay_for_more_after_all_gives_back_first_what_it_has_paid() {
    let mut world = World::new();
    let (one, other) = (world.process(), world.process());
    world.map(OTHER, &other, 0, 8, SHARED | MapFlags::NORESERVE).unwrap();
    world.file.truncate(&mut world.task, 8 * M2).unwrap();
    // Two threads that take turns.
    let turn = Arc::try_new(Barrier::new(2)).unwrap();
    let (hugetlb, slow) = (world.hugetlb.clone(), Slow(turn.clone()));
    let filling = std::thread::spawn(move || {
        let (mut task, mut slow) = (common::task(&hugetlb), slow);
        let uffd = Userfault::new(&other, Features::empty()).unwrap();
        uffd.register(&mut task, at(START), 8 * M2, Modes::MISSING).unwrap();
        let copy = || uffd.copy_from(&mut task, at(START + 2 * M2), M2, &mut slow, CopyMode::empty());
        paid_by(OTHER, copy).unwrap_err();
    });
    turn.wait();
    let (hugetlb, to_other) = (world.hugetlb.clone(), turn.clone());
    before_next(At::Charge, move || {
        to_other.wait();
        to_other.wait();
        // The page that the mapping has counted on is gone.
    });
    before_next(At::Charge, move || assert_eq!(hugetlb.platform().charged_reserved(small(), ONE), 0));
    world.map(ONE, &one, 0, 4, SHARED).unwrap();
    assert!(!is_pending());
    turn.wait();
    filling.join().unwrap();
    assert_eq!((world.charged(), world.counters()), ([4, 0], (0, 4)));
}

#[test]
fn a_reservation_that_comes_while_a_fault_is_paid_for_is_used() {
    let mut world = World::new();
    let (one, other) = (world.process(), world.process());
    world.map(ONE, &one, 0, 4, SHARED | MapFlags::NORESERVE).unwrap();
    world.file.truncate(&mut world.task, 4 * M2).unwrap();
    let (hugetlb, file) = (world.hugetlb.clone(), world.file.clone());
    before_next(At::Charge, move || {
        let mut task = common::task(&hugetlb);
        paid_by(OTHER, || map(&other, &mut task, &file, 0, START, 4 * M2, SHARED)).unwrap();
        PAYER.set(Some(ONE));
    });
    paid_by(ONE, || one.fault(&mut world.task, at(START + M2), Access::Write)).unwrap();
    assert!(!is_pending());
    assert_eq!((world.charged(), world.counters()), ([0, 4], (1, 3)));
}

/// Bytes that have to be faulted in before they can be copied, with a limit that nothing is left of.
struct FaultedIn;

impl Source<Bench> for FaultedIn {
    fn copy_nofault(&mut self, _: u64, _: &mut Room<'_, Bench>) {}

    fn copy(&mut self, _: u64, room: &mut Room<'_, Bench>, _: &mut Task) -> Result<(), BadSource> {
        assert_eq!(RESERVABLE_LEFT.get(), Some(1), "the copy is paid for");
        room.write(&vec![7; M2 as usize]);
        Ok(())
    }
}

#[test]
fn a_page_for_a_handlers_copy_is_paid_for_by_nobody() {
    let mut world = World::new();
    let space = world.process();
    world.map(ONE, &space, 0, 4, SHARED | MapFlags::NORESERVE).unwrap();
    let uffd = Userfault::new(&space, Features::empty()).unwrap();
    uffd.register(&mut world.task, at(START), 4 * M2, Modes::MISSING).unwrap();
    within(2, || {
        let copy = || uffd.copy_from(&mut world.task, at(START), M2, &mut FaultedIn, CopyMode::empty());
        paid_by(ONE, copy).unwrap();
    });
    assert_eq!((world.charged(), world.counters()), ([1, 0], (1, 0)));
    assert_eq!(world.hugetlb.platform().charged(small(), ONE), 1);
}
