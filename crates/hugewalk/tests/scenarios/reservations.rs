//! Which pages are reserved, and for which file or mapping.

use super::World;
use super::common::{GIB, M2, at, cpu, map, small};
use hugewalk::fault::{Access, FaultError};
use hugewalk::file::{FileError, HugeFile};
use hugewalk::mm::{Advice, MapError, MapFlags};
use hugewalk::pool::PoolEmpty;
use hugewalk::reserve::{NoPage, SubPool, SubPoolError};
use hugewalk::vma::Protection;
use hugewalk::walk::leaf_offset;

const HERE: u64 = 4 * GIB;
const SHARED: MapFlags = MapFlags::SHARED;
const PRIVATE: MapFlags = MapFlags::empty();
const NORESERVE: MapFlags = MapFlags::SHARED.union(MapFlags::NORESERVE);

#[test]
fn a_shared_mapping_reserves_the_holes_of_its_range_once() {
    let mut world = World::new(10);
    let file = world.file();
    let (one, two) = (world.process(), world.process());
    file.allocate(&mut world.task, M2, M2, false).unwrap();
    world.map(&one, &file, HERE, 4 * M2, SHARED);
    assert_eq!(world.counters(), (10, 9, 3, 0));
    world.map(&two, &file, HERE, 6 * M2, SHARED);
    assert_eq!(world.counters(), (10, 9, 5, 0));
    world.store(&two, HERE, 1);
    assert_eq!(world.counters(), (10, 8, 4, 0));
    // The reservations belong to the file, and stay when the mappings go.
    drop((one, two));
    world.task.finish_drops();
    assert_eq!(world.counters(), (10, 8, 4, 0));
    drop(file);
    assert_eq!(world.counters(), (10, 10, 0, 0));
    world.finish();
}

#[test]
fn a_file_reserves_pages_without_being_mapped_and_gives_unused_reservations_back() {
    let mut world = World::new(10);
    let (file, space) = (world.file(), world.process());
    file.allocate(&mut world.task, M2, M2, false).unwrap();
    file.reserve(&mut world.task, 0, 4 * M2).unwrap();
    assert_eq!(world.counters(), (10, 9, 3, 0));
    // Who maps the range needs no more; bytes are rounded to the pages that they touch.
    world.map(&space, &file, HERE, 4 * M2, SHARED);
    file.reserve(&mut world.task, 4 * M2 - 1, 2).unwrap();
    assert_eq!(world.counters(), (10, 9, 4, 0));
    world.store(&space, HERE, 1);
    assert_eq!(world.counters(), (10, 8, 3, 0));
    file.unreserve(&mut world.task, 0, 3 * M2).unwrap();
    assert_eq!(world.counters(), (10, 8, 2, 0));
    assert_eq!(file.pages(), 2, "pages that have come stay");
    // What was given back is had again by who asks for it, and a fault takes a free page without.
    world.store(&space, HERE + 2 * M2, 1);
    assert_eq!(world.counters(), (10, 7, 2, 0));
    file.unreserve(&mut world.task, 0, 1 << 62).unwrap();
    assert_eq!(world.counters(), (10, 7, 0, 0));
    file.reserve(&mut world.task, 0, 8 * M2).unwrap();
    assert_eq!(world.counters(), (10, 7, 5, 0));
    drop((space, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn pages_that_do_not_exist_are_not_reserved() {
    let mut world = World::new(4);
    let (file, other) = (world.file(), world.file());
    other.reserve(&mut world.task, 0, M2).unwrap();
    let error = file.reserve(&mut world.task, 0, 4 * M2).unwrap_err();
    assert!(matches!(error, MapError::NoPage(NoPage::PoolEmpty(_))), "{error:?}");
    assert_eq!(error.errno().name(), "ENOMEM");
    assert_eq!(world.counters(), (4, 4, 1, 0));
    assert_eq!(file.reserve(&mut world.task, 0, 0), Err(MapError::ZeroLength));
    assert_eq!(file.reserve(&mut world.task, M2, u64::MAX), Err(MapError::Overflow));
    assert_eq!(world.counters(), (4, 4, 1, 0));
    drop((file, other));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn private_mappings_reserve_pages_of_their_own_and_give_unused_reservations_back() {
    let mut world = World::new(10);
    let file = world.file();
    let (one, two) = (world.process(), world.process());
    world.map(&one, &file, HERE, 4 * M2, PRIVATE);
    world.map(&two, &file, HERE, 4 * M2, PRIVATE);
    assert_eq!(world.counters(), (10, 10, 8, 0));
    world.store(&one, HERE, 1);
    world.store(&one, HERE + M2, 1);
    assert_eq!(world.counters(), (10, 8, 6, 0));
    one.munmap(&mut world.task, at(HERE + M2), 2 * M2).unwrap();
    assert_eq!(world.counters(), (10, 9, 5, 0));
    one.exit(&mut world.task).unwrap();
    assert_eq!(world.counters(), (10, 10, 4, 0));
    drop((one, two, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn a_private_page_that_its_owner_drops_is_reserved_for_it_again() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, PRIVATE);
    for _ in 0..3 {
        world.store(&space, HERE, 1);
        assert_eq!(world.counters(), (4, 3, 1, 0));
        space.madvise(&mut world.task, at(HERE), M2, Advice::DontNeed).unwrap();
        assert_eq!(world.counters(), (4, 4, 2, 0));
    }
    // So nobody else gets what it needs for the next touch.
    let other = world.process();
    let refused = map(&other, &mut world.task, &file, 0, HERE, 3 * M2, PRIVATE);
    assert!(matches!(refused, Err(MapError::NoPage(NoPage::PoolEmpty(_)))));
    drop((space, other, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn a_hole_in_the_file_restores_the_reservations_of_owners_of_copies() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, PRIVATE);
    world.store(&space, HERE, 1);
    world.store(&space, HERE + M2, 1);
    file.punch_hole(&mut world.task, 0, M2).unwrap();
    assert_eq!(world.counters(), (4, 3, 1, 0));
    file.truncate(&mut world.task, 0).unwrap();
    assert_eq!(world.counters(), (4, 4, 2, 0));
    drop((space, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn the_reservation_of_a_private_page_that_a_child_shares_stays_used() {
    let mut world = World::new(4);
    let (file, parent) = (world.file(), world.process());
    world.map(&parent, &file, HERE, 2 * M2, PRIVATE);
    world.store(&parent, HERE, 1);
    let child = parent.fork(&mut world.task).unwrap();
    parent.madvise(&mut world.task, at(HERE), M2, Advice::DontNeed).unwrap();
    assert_eq!(world.counters(), (4, 3, 1, 0));
    child.exit(&mut world.task).unwrap();
    assert_eq!(world.counters(), (4, 4, 1, 0));
    world.store(&parent, HERE, 1);
    assert_eq!(world.counters(), (4, 3, 1, 0));
    drop((parent, child, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn while_there_are_surplus_pages_a_private_page_that_is_dropped_is_not_reserved_again() {
    let mut world = World::new(1);
    world.hugetlb.pool(small()).set_overcommit(1);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, PRIVATE);
    world.store(&space, HERE, 1);
    assert_eq!(world.counters(), (2, 1, 1, 1));
    space.madvise(&mut world.task, at(HERE), M2, Advice::DontNeed).unwrap();
    assert_eq!(world.counters(), (1, 1, 1, 0));
    drop((space, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn a_restored_reservation_still_counts_against_the_mount() {
    let mut world = World::new(8);
    let mount = SubPool::new(&world.hugetlb, small(), Some(3), Some(1)).unwrap();
    let file = HugeFile::new(&world.hugetlb, small(), Some(&mount)).unwrap();
    let space = world.process();
    world.map(&space, &file, HERE, 2 * M2, PRIVATE);
    world.store(&space, HERE, 1);
    let before = mount.usage();
    space.madvise(&mut world.task, at(HERE), M2, Advice::DontNeed).unwrap();
    assert_eq!((world.counters(), mount.usage()), ((8, 8, 2, 0), before));
    drop((space, file));
    world.task.finish_drops();
    assert_eq!((world.counters(), mount.usage()), ((8, 8, 1, 0), (0, 1)));
    drop(mount);
    world.finish();
}

#[test]
fn a_mapping_without_reservations_takes_pages_that_are_not_reserved() {
    let mut world = World::new(3);
    let (file, other, space) = (world.file(), world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, SHARED);
    world.map(&space, &other, HERE + GIB, 2 * M2, NORESERVE);
    assert_eq!(world.counters(), (3, 3, 2, 0));
    world.store(&space, HERE + GIB, 1);
    let refused = cpu::store(&space, &mut world.task, at(HERE + GIB + M2), 1);
    assert!(matches!(refused, Err(FaultError::PoolEmpty(empty)) if empty.available == 0));
    world.store(&space, HERE, 1);
    world.store(&space, HERE + M2, 1);
    assert_eq!(world.counters(), (3, 0, 0, 0));
    drop((space, file, other));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn a_mapping_that_cannot_reserve_its_pages_is_refused() {
    let mut world = World::new(3);
    let (file, space) = (world.file(), world.process());
    let refused = map(&space, &mut world.task, &file, 0, HERE, 4 * M2, SHARED);
    assert!(matches!(refused, Err(MapError::NoPage(NoPage::PoolEmpty(_)))));
    assert_eq!(world.counters(), (3, 3, 0, 0));
    assert_eq!(space.mmap_read(&mut world.task).vmas().count(), 0);
}

#[test]
fn a_mapping_may_take_the_reservations_of_the_one_it_replaces() {
    let mut world = World::new(4);
    let (file, other, space) = (world.file(), world.file(), world.process());
    world.map(&space, &file, HERE, 4 * M2, PRIVATE);
    world.map(&space, &file, HERE, 4 * M2, PRIVATE);
    assert_eq!(world.counters(), (4, 4, 4, 0));
    world.map(&space, &other, HERE, 4 * M2, SHARED);
    assert_eq!(world.counters(), (4, 4, 4, 0));
    // What is not enough even then is refused, with the old mapping gone, as in Linux.
    let refused = map(&space, &mut world.task, &file, 0, HERE, 5 * M2, PRIVATE);
    assert!(matches!(refused, Err(MapError::NoPage(NoPage::PoolEmpty(_)))));
    assert_eq!(space.mmap_read(&mut world.task).vmas().count(), 0);
    drop((space, file, other));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn holes_and_truncation_give_reservations_back() {
    let mut world = World::new(8);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 6 * M2, SHARED);
    world.store(&space, HERE, 1);
    world.store(&space, HERE + 5 * M2, 1);
    assert_eq!(world.counters(), (8, 6, 4, 0));
    // The reservation of a page that exists goes with the page; an unused one stays.
    file.punch_hole(&mut world.task, 0, 2 * M2).unwrap();
    assert_eq!(world.counters(), (8, 7, 4, 0));
    file.truncate(&mut world.task, 3 * M2).unwrap();
    assert_eq!(world.counters(), (8, 8, 2, 0));
    drop((space, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn preallocation_uses_the_reservations_of_mappings() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, SHARED);
    file.allocate(&mut world.task, M2, 2 * M2, false).unwrap();
    assert_eq!(world.counters(), (4, 2, 1, 0));
    drop((space, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn surplus_pages_come_with_reservations_and_go_with_them() {
    let mut world = World::new(2);
    world.hugetlb.pool(small()).set_overcommit(3);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 4 * M2, PRIVATE);
    assert_eq!(world.counters(), (4, 4, 4, 2));
    world.store(&space, HERE, 1);
    assert_eq!(world.counters(), (4, 3, 3, 2));
    let refused = map(&space, &mut world.task, &file, 0, HERE + GIB, 2 * M2, PRIVATE);
    assert!(matches!(refused, Err(MapError::NoPage(NoPage::PoolEmpty(_)))));
    assert_eq!(world.counters(), (4, 3, 3, 2));
    space.munmap(&mut world.task, at(HERE), 3 * M2).unwrap();
    assert_eq!(world.counters(), (2, 2, 1, 0));
    drop((space, file));
    world.task.finish_drops();
    world.finish();
}

/// What may be overcommitted, the host need not have. The pages that did come go back then, and nothing is reserved.
#[test]
fn surplus_pages_that_the_host_does_not_have_are_not_reserved() {
    let mut world = World::new(0);
    let all = world.hugetlb.resize_pool(small(), u64::MAX);
    let few = all - 2;
    assert_eq!(world.hugetlb.resize_pool(small(), few), few);
    world.hugetlb.pool(small()).set_overcommit(u64::MAX);
    let (file, space) = (world.file(), world.process());
    for kind in [PRIVATE, SHARED] {
        let refused = map(&space, &mut world.task, &file, 0, HERE, (all + 1) * M2, kind);
        let empty = PoolEmpty { asked: all + 1, available: few };
        assert_eq!(refused, Err(MapError::NoPage(NoPage::PoolEmpty(empty))));
        assert_eq!(world.counters(), (few, few, 0, 0));
        assert_eq!(world.hugetlb.platform().huge_in_use(small()) as u64, few, "the two went back");
    }
    world.map(&space, &file, HERE, all * M2, PRIVATE);
    assert_eq!(world.counters(), (all, all, all, 2));
    // Nor has it one for a fault without a reservation.
    let other = world.process();
    world.map(&other, &file, HERE, M2, NORESERVE);
    let refused = other.fault(&mut world.task, at(HERE), Access::Write);
    let empty = PoolEmpty { asked: 1, available: 0 };
    assert!(matches!(refused, Err(FaultError::PoolEmpty(e)) if e == empty), "{refused:?}");
    assert_eq!(world.counters(), (all, all, all, 2));
    drop((space, other, file));
    world.task.finish_drops();
    assert_eq!(world.counters(), (few, few, 0, 0));
    world.finish();
}

#[test]
fn a_pool_shrinks_to_what_is_in_use_or_reserved_and_the_rest_turns_surplus() {
    let mut world = World::new(6);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 4 * M2, SHARED);
    world.store(&space, HERE, 1);
    assert_eq!(world.hugetlb.resize_pool(small(), 1), 1);
    assert_eq!(world.counters(), (4, 3, 3, 3));
    assert_eq!(world.hugetlb.resize_pool(small(), 2), 2);
    assert_eq!(world.counters(), (4, 3, 3, 2));
    drop((space, file));
    world.task.finish_drops();
    assert_eq!(world.counters(), (2, 2, 0, 0));
    world.finish();
}

#[test]
fn a_mount_keeps_its_minimum_and_holds_to_its_maximum() {
    let mut world = World::new(8);
    let mount = SubPool::new(&world.hugetlb, small(), Some(4), Some(2)).unwrap();
    assert_eq!((world.counters(), mount.left()), ((8, 8, 2, 0), Some(4)));
    let file = HugeFile::new(&world.hugetlb, small(), Some(&mount)).unwrap();
    let space = world.process();
    // The minimum covers the first two.
    world.map(&space, &file, HERE, 3 * M2, SHARED);
    assert_eq!((world.counters(), mount.usage()), ((8, 8, 3, 0), (3, 0)));
    let refused = map(&space, &mut world.task, &file, 3 * M2, HERE + GIB, 2 * M2, SHARED);
    assert!(matches!(refused, Err(MapError::NoPage(NoPage::SubPoolFull(full))) if full.left == 1));
    world.store(&space, HERE, 1);
    assert_eq!((world.counters(), mount.left()), ((8, 7, 2, 0), Some(1)));
    let at_fault = map(&space, &mut world.task, &file, 3 * M2, HERE + GIB, 2 * M2, NORESERVE).unwrap();
    cpu::store(&space, &mut world.task, at_fault, 1).unwrap();
    let refused = cpu::store(&space, &mut world.task, at(HERE + GIB + M2), 1);
    assert!(matches!(refused, Err(FaultError::SubPoolFull(_))));
    drop((space, file));
    world.task.finish_drops();
    assert_eq!((world.counters(), mount.usage()), ((8, 8, 2, 0), (0, 2)));
    drop(mount);
    world.finish();
}

/// What is given back at once counts as a whole: from the first part on the mount is at its minimum, so the pool gets that back,
/// and the mount keeps the second. The other way round it would keep both. As measured on Linux 6.18.
#[test]
fn the_parts_of_a_mapping_give_their_reservations_back_from_the_first_to_the_last() {
    for exits in [true, false] {
        let mut world = World::new(8);
        let mount = SubPool::new(&world.hugetlb, small(), Some(6), Some(4)).unwrap();
        let file = HugeFile::new(&world.hugetlb, small(), Some(&mount)).unwrap();
        let space = world.process();
        world.map(&space, &file, GIB, 3 * M2, MapFlags::empty());
        file.allocate(&mut world.task, 0, 2 * M2, false).unwrap();
        space.mprotect(&mut world.task, at(GIB), M2, Protection::empty()).unwrap();
        assert_eq!(world.counters(), (8, 6, 3, 0));
        if exits {
            space.exit(&mut world.task).unwrap();
        } else {
            space.munmap(&mut world.task, at(GIB), 3 * M2).unwrap();
        }
        assert_eq!(world.counters(), (8, 6, 2, 0));
        drop((space, file, mount));
        world.task.finish_drops();
        world.finish();
    }
}

#[test]
fn a_mount_whose_minimum_cannot_be_reserved_is_refused() {
    let world = World::new(3);
    let refused = SubPool::new(&world.hugetlb, small(), None, Some(4));
    assert!(matches!(refused, Err(SubPoolError::PoolEmpty(_))));
    let refused = SubPool::new(&world.hugetlb, small(), Some(1), Some(2));
    assert!(matches!(refused, Err(SubPoolError::MinAboveMax { min: 2, max: 1 })));
    world.finish();
}

#[test]
fn a_file_lies_on_a_mount_of_its_own_system() {
    let (world, other) = (World::new(1), World::new(1));
    let mount = SubPool::new(&other.hugetlb, small(), Some(1), None).unwrap();
    let refused = HugeFile::new(&world.hugetlb, small(), Some(&mount));
    assert!(matches!(refused, Err(FileError::WrongSystem(_))));
    drop(mount);
    other.finish();
    world.finish();
}

/// A free surplus page that fails stays as long as a reservation needs it, and goes as the surplus page that it is.
#[test]
fn a_surplus_page_that_fails_is_no_surplus_any_more() {
    let mut world = World::new(0);
    world.hugetlb.pool(small()).set_overcommit(2);
    assert_eq!(world.hugetlb.pool(small()).overcommit(), 2);
    let mount = SubPool::new(&world.hugetlb, small(), None, Some(1)).unwrap();
    let file = HugeFile::new(&world.hugetlb, small(), Some(&mount)).unwrap();
    let space = world.process();
    world.map(&space, &file, HERE, M2, SHARED);
    world.store(&space, HERE, 1);
    let section = world.task.rcu_read_lock();
    let (slot, _) = leaf_offset(&section, space.mm(), at(HERE)).unwrap().unwrap();
    let frame = slot.read().unwrap().page().unwrap();
    drop(section);
    // The page is free again, and reserved for the mount's minimum.
    space.exit(&mut world.task).unwrap();
    drop((space, file));
    assert_eq!(world.counters(), (1, 1, 1, 1));
    let failed = world.hugetlb.memory_failure(&mut world.task, frame);
    assert_eq!((failed.is_ok(), world.counters()), (false, (1, 1, 1, 1)));
    drop(mount);
    assert_eq!(world.counters(), (0, 0, 0, 0));
    // It does not come back to a pool that has no room for it.
    world.hugetlb.unpoison(frame).unwrap();
    assert_eq!(world.counters(), (0, 0, 0, 0));
    world.finish();
}

#[test]
fn a_file_that_is_dropped_gives_back_its_own_reservations_and_no_others() {
    let mut world = World::new(6);
    let (file, other) = (world.file(), world.file());
    file.reserve(&mut world.task, 0, 3 * M2).unwrap();
    other.reserve(&mut world.task, 0, 3 * M2).unwrap();
    let space = world.process();
    world.map(&space, &file, HERE, 3 * M2, SHARED);
    world.store(&space, HERE, 1);
    assert_eq!(world.counters(), (6, 5, 5, 0));
    space.exit(&mut world.task).unwrap();
    // One of its three was used by a page, which goes with it.
    drop((space, file));
    assert_eq!(world.counters(), (6, 6, 3, 0));
    drop(other);
    world.finish();
}
