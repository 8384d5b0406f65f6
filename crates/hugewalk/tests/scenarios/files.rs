//! Files: truncation, holes, preallocation, the end of the file.

use super::World;
use super::common::{GIB, M2, at, cpu, map};
use hugewalk::fault::FaultError;
use hugewalk::mm::{Advice, MapFlags};
use hugewalk::vma::Protection;

const HERE: u64 = 4 * GIB;
const SHARED: MapFlags = MapFlags::SHARED;

#[test]
fn a_fault_beyond_the_end_of_the_file_is_an_error() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 4 * M2, SHARED);
    world.store(&space, HERE + 3 * M2, 1);
    file.truncate(&mut world.task, 2 * M2).unwrap();
    let beyond = cpu::load(&space, &mut world.task, at(HERE + 2 * M2));
    assert_eq!(beyond, Err(FaultError::BeyondEof { index: 2 }));
    assert!(beyond.is_err_and(|error| error.is_bus_error()));
    assert_eq!(world.counters(), (4, 4, 2, 0));
    drop((space, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn truncation_that_makes_a_file_longer_drops_what_lay_beyond_its_new_end() {
    let mut world = World::new(8);
    let (file, space) = (world.file(), world.process());
    file.allocate(&mut world.task, M2, 3 * M2, true).unwrap();
    assert_eq!((file.size(), file.pages()), (0, 3));
    file.truncate(&mut world.task, 2 * M2).unwrap();
    assert_eq!((file.size(), file.pages()), (2 * M2, 1));
    // Promises too: a mapping that cannot be written makes them without making the file longer.
    let request = hugewalk::mm::MapRequest {
        placement: hugewalk::mm::Placement::Fixed(at(HERE)),
        length: 6 * M2,
        protection: Protection::READ,
        flags: SHARED,
        backing: hugewalk::mm::Backing::File { file: &file, offset: 0 },
    };
    space.mmap(&mut world.task, &request).unwrap();
    assert_eq!(world.counters(), (8, 7, 5, 0));
    file.truncate(&mut world.task, 3 * M2).unwrap();
    assert_eq!(world.counters(), (8, 7, 2, 0));
    drop((space, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn a_file_that_grows_keeps_its_tables_shared() {
    let mut world = World::new(4);
    let file = world.file();
    let (one, two) = (world.process(), world.process());
    for space in [&one, &two] {
        world.map(space, &file, HERE, GIB, SHARED | MapFlags::NORESERVE);
        world.store(space, HERE, 1);
    }
    file.truncate(&mut world.task, 2 * GIB).unwrap();
    assert_eq!(world.users(&one), [2]);
}

#[test]
fn a_hole_takes_private_copies_too() {
    let mut world = World::new(8);
    let (file, space) = (world.file(), world.process());
    file.truncate(&mut world.task, 2 * M2).unwrap();
    world.map(&space, &file, HERE, 2 * M2, MapFlags::empty());
    world.store(&space, HERE, 7);
    file.punch_hole(&mut world.task, 0, M2).unwrap();
    assert_eq!(world.load(&space, HERE), 0);
}

#[test]
fn a_hole_smaller_than_a_page_zeroes_bytes_and_frees_nothing() {
    let mut world = World::new(4);
    let file = world.file();
    file.write_at(&mut world.task, M2 - 2, &[1, 2, 3, 4]).unwrap();
    file.punch_hole(&mut world.task, M2 - 1, 2).unwrap();
    let mut bytes = [9; 4];
    assert_eq!((file.read_at(M2 - 2, &mut bytes), bytes), (Ok(4), [1, 0, 0, 4]));
    assert_eq!(file.pages(), 2);
    // All of its bytes, and no other.
    file.write_at(&mut world.task, 2 * M2 - 8, &[7; 8]).unwrap();
    file.punch_hole(&mut world.task, 2 * M2 - 7, 6).unwrap();
    let mut bytes = [9; 8];
    assert_eq!((file.read_at(2 * M2 - 8, &mut bytes), bytes), (Ok(8), [7, 0, 0, 0, 0, 0, 0, 7]));
}

#[test]
fn a_hole_can_be_punched_through_a_shared_mapping_that_is_read_only_or_locked() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, SHARED | MapFlags::LOCKED);
    assert_eq!(file.pages(), 2);
    space.mprotect(&mut world.task, at(HERE), 2 * M2, Protection::READ).unwrap();
    space.madvise(&mut world.task, at(HERE), M2, Advice::Remove).unwrap();
    assert_eq!(file.pages(), 1);
}

#[test]
fn locked_pages_can_be_dropped() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, M2, MapFlags::LOCKED);
    world.store(&space, HERE, 5);
    space.madvise(&mut world.task, at(HERE), M2, Advice::DontNeed).unwrap();
    assert_eq!(world.load(&space, HERE), 0);
}

#[test]
fn allocation_past_what_the_pool_has_keeps_what_it_got_and_the_size() {
    let mut world = World::new(2);
    let file = world.file();
    let refused = file.allocate(&mut world.task, 0, 3 * M2, false);
    assert_eq!(refused.map_err(|error| error.errno().name()), Err("ENOSPC"));
    assert_eq!((file.pages(), file.size()), (2, 0));
}

#[test]
fn a_page_that_the_file_ends_in_the_middle_of_cannot_be_touched_unless_it_is_there() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    file.allocate(&mut world.task, 0, M2 + 1, false).unwrap();
    file.punch_hole(&mut world.task, M2, M2).unwrap();
    assert_eq!((file.size(), file.pages()), (M2 + 1, 1));
    let request = hugewalk::mm::MapRequest {
        placement: hugewalk::mm::Placement::Fixed(at(HERE)),
        length: 2 * M2,
        protection: Protection::READ,
        flags: SHARED,
        backing: hugewalk::mm::Backing::File { file: &file, offset: 0 },
    };
    space.mmap(&mut world.task, &request).unwrap();
    assert_eq!(world.load(&space, HERE), 0);
    let beyond = cpu::load(&space, &mut world.task, at(HERE + M2));
    assert_eq!(beyond, Err(FaultError::BeyondEof { index: 1 }));
}

#[test]
fn a_hole_punched_by_address_lies_where_that_address_is_in_the_file() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    // The second, third and fourth page of the file.
    map(&space, &mut world.task, &file, M2, HERE, 3 * M2, SHARED).unwrap();
    for (page, value) in (0..).zip([1, 2, 3]) {
        world.store(&space, HERE + page * M2, value);
    }
    space.madvise(&mut world.task, at(HERE + M2), M2, Advice::Remove).unwrap();
    assert_eq!([0, 1, 2].map(|page| world.load(&space, HERE + page * M2)), [1, 0, 3]);
    drop((space, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn a_hole_is_taken_from_a_long_mapping_that_a_short_one_came_after() {
    let mut world = World::new(8);
    let (file, long, short) = (world.file(), world.process(), world.process());
    world.map(&long, &file, HERE, 8 * M2, SHARED);
    world.map(&short, &file, HERE, M2, SHARED);
    world.store(&long, HERE + 7 * M2, 1);
    file.punch_hole(&mut world.task, 7 * M2, M2).unwrap();
    assert!(cpu::peek(&long, &world.task, at(HERE + 7 * M2)).is_none());
    assert_eq!(world.load(&long, HERE + 7 * M2), 0);
    drop((long, short, file));
    world.task.finish_drops();
    world.finish();
}
