//! mlock: what it faults in, and what it leaves alone.

use super::World;
use super::common::interrupt::{At, before_next, is_pending};
use super::common::{AddressSpace, GIB, M2, RW, at, cpu, map, task};
use hugewalk::arch::LeafFlags;
use hugewalk::fault::FaultError;
use hugewalk::mm::{LockAll, MapError, MapFlags};
use hugewalk::vma::Protection;

const HERE: u64 = 4 * GIB;
const SHARED: MapFlags = MapFlags::SHARED;
const NORESERVE: MapFlags = SHARED.union(MapFlags::NORESERVE);

fn mlock(world: &mut World, space: &AddressSpace, start: u64, length: u64) -> Result<(), MapError> {
    space.mlock(&mut world.task, at(start), length)
}

#[test]
fn locking_a_part_of_shared_memory_takes_no_table_away() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, GIB, NORESERVE);
    world.store(&space, HERE, 1);
    let child = space.fork(&mut world.task).unwrap();
    world.load(&child, HERE);
    mlock(&mut world, &child, HERE + M2, 2 * M2).unwrap();
    assert_eq!((world.users(&child), file.pages()), (vec![2], 3));
    assert_eq!(child.mmap_read(&mut world.task).vmas().count(), 1);
    child.munlock(&mut world.task, at(HERE), GIB).unwrap();
    assert_eq!(world.users(&child), [2]);
    drop((file, space, child));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn private_memory_that_can_be_written_gets_its_copies_when_it_is_locked() {
    let mut world = World::new(8);
    let (file, space) = (world.file(), world.process());
    file.allocate(&mut world.task, 0, 2 * M2, false).unwrap();
    world.map(&space, &file, HERE, 2 * M2, MapFlags::empty());
    mlock(&mut world, &space, HERE, 2 * M2).unwrap();
    // Two of the file, two of its own.
    assert_eq!(world.counters(), (8, 4, 0, 0));
    let reader = world.process();
    world.map(&reader, &file, HERE, 2 * M2, MapFlags::empty());
    reader.mprotect(&mut world.task, at(HERE), 2 * M2, Protection::READ).unwrap();
    mlock(&mut world, &reader, HERE, 2 * M2).unwrap();
    assert_eq!(world.counters(), (8, 4, 2, 0));
    drop((file, space, reader));
    world.finish();
}

#[test]
fn locking_takes_whole_pages_around_a_range_and_stops_where_there_is_none() {
    let mut world = World::new(2);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 4 * M2, NORESERVE);
    mlock(&mut world, &space, HERE + M2 - 1, 2).unwrap();
    assert_eq!(file.pages(), 2);
    let refused = mlock(&mut world, &space, HERE, 4 * M2).unwrap_err();
    assert!(matches!(refused, MapError::Lock(FaultError::PoolEmpty(_))), "{refused:?}");
    assert_eq!(refused.errno().name(), "ENOMEM");
    drop((file, space));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn a_range_with_a_hole_is_not_locked_at_all() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, M2, SHARED);
    world.map(&space, &file, HERE + 2 * M2, M2, SHARED);
    let hole = Err(MapError::NotMapped { address: at(HERE + M2) });
    assert_eq!(mlock(&mut world, &space, HERE, 3 * M2), hole);
    assert_eq!(space.munlock(&mut world.task, at(HERE), 3 * M2), hole);
    assert_eq!(file.pages(), 0);
}

#[test]
fn what_allows_nothing_cannot_be_locked() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    for (page, flags) in [(0, SHARED), (1, MapFlags::empty())] {
        map(&space, &mut world.task, &file, page * M2, HERE + page * M2, M2, flags).unwrap();
        space.mprotect(&mut world.task, at(HERE + page * M2), M2, Protection::empty()).unwrap();
        let refused = FaultError::Protection { address: at(HERE + page * M2) };
        assert_eq!(mlock(&mut world, &space, HERE + page * M2, M2), Err(MapError::Lock(refused)));
    }
    assert_eq!(file.pages(), 0);
}

#[test]
fn what_is_locked_from_now_on_is_faulted_in_when_it_is_mapped() {
    let mut world = World::new(8);
    let (file, space) = (world.file(), world.process());
    space.mlockall(&mut world.task, LockAll::FUTURE | LockAll::ONFAULT).unwrap();
    world.map(&space, &file, HERE, 2 * M2, SHARED);
    assert_eq!(file.pages(), 2);
    let child = space.fork(&mut world.task).unwrap();
    map(&child, &mut world.task, &file, 2 * M2, 5 * GIB, M2, SHARED).unwrap();
    assert_eq!(file.pages(), 2, "a child starts without");
    space.munlockall(&mut world.task).unwrap();
    map(&space, &mut world.task, &file, 3 * M2, 5 * GIB, M2, SHARED).unwrap();
    assert_eq!(file.pages(), 2);
    drop((file, space, child));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn locking_all_that_is_mapped_leaves_out_what_cannot_be_had() {
    let mut world = World::new(8);
    let (file, space) = (world.file(), world.process());
    for (page, address) in [(0, HERE), (1, HERE + 2 * M2), (2, 9 * GIB)] {
        map(&space, &mut world.task, &file, page * M2, address, M2, SHARED).unwrap();
    }
    space.mprotect(&mut world.task, at(HERE + 2 * M2), M2, Protection::empty()).unwrap();
    space.mlockall(&mut world.task, LockAll::CURRENT).unwrap();
    assert_eq!(file.pages(), 2);
    space.mprotect(&mut world.task, at(HERE + 2 * M2), M2, RW).unwrap();
    map(&space, &mut world.task, &file, 3 * M2, 10 * GIB, M2, SHARED).unwrap();
    assert_eq!(file.pages(), 2, "that was said of what was mapped then");
    drop((file, space));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn a_lock_on_everything_names_what_is_mapped_or_what_will_be_and_nothing_unknown() {
    let mut world = World::new(4);
    let space = world.process();
    let unknown = LockAll::from_bits_retain(1 << 7);
    for what in [LockAll::empty(), LockAll::ONFAULT, unknown, LockAll::CURRENT | unknown] {
        assert_eq!(space.mlockall(&mut world.task, what), Err(MapError::NotAllowed), "{what:?}");
    }
    for what in [LockAll::CURRENT, LockAll::FUTURE | LockAll::ONFAULT, LockAll::CURRENT | LockAll::FUTURE] {
        assert_eq!(space.mlockall(&mut world.task, what), Ok(()), "{what:?}");
    }
}

#[test]
fn the_last_byte_of_a_mapping_can_be_locked_by_itself() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, M2, SHARED);
    assert_eq!(mlock(&mut world, &space, HERE + M2 - 1, 1), Ok(()));
    assert_eq!(space.munlock(&mut world.task, at(HERE + M2 - 1), 1), Ok(()));
    assert_eq!(file.pages(), 1);
    let hole = Err(MapError::NotMapped { address: at(HERE + M2) });
    assert_eq!(space.munlock(&mut world.task, at(HERE + M2 - 1), 2), hole);
}

/// Which of so many pages are mapped dirty. All of them are mapped.
fn dirty(world: &World, space: &AddressSpace, pages: u64) -> Vec<bool> {
    let leaf = |page| cpu::peek(space, &world.task, at(HERE + page * M2)).unwrap().0;
    (0..pages).map(|page| leaf(page).flags.contains(LeafFlags::DIRTY)).collect()
}

#[test]
fn shared_memory_is_populated_by_loads_and_private_memory_by_stores() {
    // One page is left to a fault, several are mapped ahead: those that the file has, and fresh ones.
    for (pages, cached) in [(1, true), (1, false), (3, true), (3, false)] {
        for (flags, stores) in [(SHARED, false), (MapFlags::empty(), true)] {
            let mut world = World::new(6);
            let (file, space) = (world.file(), world.process());
            if cached {
                file.allocate(&mut world.task, 0, pages * M2, false).unwrap();
            }
            world.map(&space, &file, HERE, pages * M2, flags | MapFlags::POPULATE);
            assert_eq!(
                dirty(&world, &space, pages),
                vec![stores; pages as usize],
                "{pages}, {cached}, {flags:?}"
            );
            drop((file, space));
            world.task.finish_drops();
            world.finish();
        }
    }
}

#[test]
fn what_another_thread_changes_between_two_pages_is_looked_at_again() {
    type Change = fn(&AddressSpace, &mut super::Task) -> Result<(), MapError>;
    let unmapped: Change = |space, task| space.munmap(task, at(HERE + M2), M2);
    let protected: Change = |space, task| space.mprotect(task, at(HERE + M2), 2 * M2, Protection::READ);
    for (change, resident) in [(unmapped, 2), (protected, 3)] {
        let mut world = World::new(4);
        let (file, space) = (world.file(), world.process());
        world.map(&space, &file, HERE, 3 * M2, MapFlags::empty());
        // The first page is mapped, so a fault looks at it. The next ones would be mapped for stores.
        world.store(&space, HERE, 1);
        let (hugetlb, other) = (world.hugetlb.clone(), space.clone());
        before_next(At::Faulted, move || change(&other, &mut task(&hugetlb)).unwrap());
        assert_eq!(mlock(&mut world, &space, HERE, 3 * M2), Ok(()));
        assert!(!is_pending());
        assert_eq!(space.mm().resident(), resident);
        drop((file, space));
        world.task.finish_drops();
        world.finish();
    }
}
