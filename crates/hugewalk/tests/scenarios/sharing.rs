//! Who shares a table, and who does not.

use super::World;
use super::common::{GIB, M2, RW, at, giant, small};
use hugewalk::fault::{Access, Fault};
use hugewalk::file::HugeFile;
use hugewalk::mm::{Advice, Backing, MapError, MapFlags, MapRequest, Placement};
use hugewalk::platform::Event;
use hugewalk::vma::Protection;

const SHARED: MapFlags = MapFlags::SHARED;
const NORESERVE: MapFlags = MapFlags::SHARED.union(MapFlags::NORESERVE);

/// Two processes map a file, and touch its first page. How many use the table that the second one reaches it by?
fn users_of_second(first: (u64, u64, MapFlags), second: (u64, u64, MapFlags)) -> u64 {
    let mut world = World::new(512);
    let file = world.file();
    let (one, two) = (world.process(), world.process());
    for (space, (address, length, flags)) in [(&one, first), (&two, second)] {
        world.map(space, &file, address, length, flags);
        world.store(space, address, 1);
    }
    let users = world.users(&two);
    drop((one, two, file));
    world.task.finish_drops();
    world.finish();
    users[0]
}

#[test]
fn two_processes_that_map_a_whole_gib_of_a_file_share_its_table() {
    assert_eq!(users_of_second((4 * GIB, GIB, NORESERVE), (9 * GIB, GIB, NORESERVE)), 2);
}

#[test]
fn the_second_process_reaches_what_the_first_has_touched_without_a_fault_for_each_page() {
    let mut world = World::new(512);
    let file = world.file();
    let (one, two) = (world.process(), world.process());
    world.map(&one, &file, 4 * GIB, GIB, SHARED);
    world.map(&two, &file, 6 * GIB, GIB, SHARED);
    for page in 0..512 {
        world.store(&one, 4 * GIB + page * M2, page as u8);
    }
    world.hugetlb.platform().take_events();
    assert_eq!(world.faults(&two, 6 * GIB, Access::Read), [Fault::Present]);
    assert_eq!(
        world.hugetlb.platform().take_events(),
        [Event::Shared { mm: two.mm().id(), address: at(6 * GIB), users: 2 }]
    );
    assert_eq!(world.faults_to_read(&two, 6 * GIB, GIB), 0);
    assert_eq!(world.load(&two, 6 * GIB + 300 * M2), 300u64 as u8);
    // Linux, too, counts only what a process has installed itself.
    assert_eq!((one.mm().resident(), two.mm().resident()), (512, 0));
}

#[test]
fn a_child_shares_at_its_first_touch_and_not_before() {
    let mut world = World::new(4);
    let file = world.file();
    let parent = world.process();
    world.map(&parent, &file, 4 * GIB, GIB, NORESERVE);
    world.store(&parent, 4 * GIB, 1);
    let child = parent.fork(&mut world.task).unwrap();
    assert_eq!((world.users(&parent), world.users(&child)), (vec![1], vec![]));
    assert_eq!(world.load(&child, 4 * GIB), 1);
    assert_eq!((world.users(&parent), world.users(&child)), (vec![2], vec![2]));
}

#[test]
fn two_mappings_of_one_process_share_a_table_too() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, 4 * GIB, GIB, NORESERVE);
    world.map(&space, &file, 7 * GIB, GIB, NORESERVE);
    world.store(&space, 4 * GIB, 1);
    assert_eq!(world.load(&space, 7 * GIB), 1);
    assert_eq!(world.users(&space), [2, 2]);
    drop((space, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn locked_memory_shares_all_the_same() {
    let locked = SHARED | MapFlags::LOCKED;
    assert_eq!(users_of_second((4 * GIB, GIB, SHARED), (4 * GIB, GIB, locked)), 2);
}

#[test]
fn noreserve_keeps_tables_apart() {
    assert_eq!(users_of_second((4 * GIB, GIB, SHARED), (4 * GIB, GIB, NORESERVE)), 1);
}

#[test]
fn different_rights_keep_tables_apart() {
    let mut world = World::new(512);
    let file = world.file();
    let (one, two) = (world.process(), world.process());
    world.map(&one, &file, 4 * GIB, GIB, SHARED);
    world.store(&one, 4 * GIB, 1);
    world.map(&two, &file, 4 * GIB, GIB, SHARED);
    two.mprotect(&mut world.task, at(4 * GIB), GIB, Protection::READ).unwrap();
    assert_eq!(world.load(&two, 4 * GIB), 1);
    assert_eq!(world.users(&two), [1]);
    two.mprotect(&mut world.task, at(4 * GIB), GIB, RW).unwrap();
    // The table is there already, and stays.
    assert_eq!(world.users(&two), [1]);
}

#[test]
fn mappings_at_another_place_within_the_gib_do_not_share() {
    assert_eq!(users_of_second((4 * GIB, 2 * GIB, NORESERVE), (8 * GIB + M2, 2 * GIB, NORESERVE)), 1);
}

#[test]
fn a_mapping_that_lacks_one_page_of_the_gib_does_not_share() {
    assert_eq!(users_of_second((4 * GIB, GIB, NORESERVE), (4 * GIB, GIB - M2, NORESERVE)), 1);
    assert_eq!(users_of_second((4 * GIB, GIB - M2, NORESERVE), (4 * GIB, GIB, NORESERVE)), 1);
}

#[test]
fn the_aligned_part_of_a_mapping_shares_and_its_ends_do_not() {
    let mut world = World::new(16);
    let file = world.file();
    let (one, two) = (world.process(), world.process());
    for space in [&one, &two] {
        world.map(space, &file, 5 * GIB - M2, GIB + 2 * M2, NORESERVE);
        for page in [5 * GIB - M2, 5 * GIB, 6 * GIB] {
            world.store(space, page, 1);
        }
    }
    assert_eq!(world.users(&two), [1, 2, 1]);
}

#[test]
fn private_mappings_do_not_share() {
    let private = MapFlags::NORESERVE;
    assert_eq!(users_of_second((4 * GIB, GIB, private), (4 * GIB, GIB, private)), 1);
    assert_eq!(users_of_second((4 * GIB, GIB, NORESERVE), (4 * GIB, GIB, private)), 1);
}

#[test]
fn pages_of_a_gib_do_not_share() {
    let mut world = World::new(0);
    world.hugetlb.resize_pool(giant(), 2);
    let file = HugeFile::new(&world.hugetlb, giant(), None).unwrap();
    let (one, two) = (world.process(), world.process());
    // A part of what a table translates, and all of it.
    for (start, length, flags) in [(512, 2, SHARED), (1024, 512, SHARED | MapFlags::NORESERVE)] {
        for space in [&one, &two] {
            world.map(space, &file, start * GIB, length * GIB, flags);
            world.store(space, (start + 1) * GIB, 1);
        }
    }
    assert_eq!((world.users(&one), world.users(&two)), (vec![1; 2], vec![1; 2]));
    assert_eq!(two.tables(&mut world.task).unwrap()[0].size, giant());
    let mmap = one.mmap_read(&mut world.task);
    assert!(mmap.vmas().all(|vma| !vma.may_share_at(vma.start())));
}

#[test]
fn anonymous_shared_memory_shares_with_a_child() {
    let mut world = World::new(512);
    let parent = world.process();
    let request = MapRequest {
        placement: Placement::Fixed(at(4 * GIB)),
        length: GIB,
        protection: RW,
        flags: SHARED,
        backing: Backing::Anonymous(small()),
    };
    parent.mmap(&mut world.task, &request).unwrap();
    world.store(&parent, 4 * GIB, 7);
    let child = parent.fork(&mut world.task).unwrap();
    assert_eq!(world.load(&child, 4 * GIB), 7);
    assert_eq!(world.users(&child), [2]);
    drop((parent, child));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn tables_of_both_sizes_are_listed_once() {
    let mut world = World::new(4);
    world.hugetlb.resize_pool(giant(), 2);
    let large = HugeFile::new(&world.hugetlb, giant(), None).unwrap();
    let (file, space) = (world.file(), world.process());
    // One table of GiB, for the mappings on either side of the one with small pages.
    world.map(&space, &file, 512 * GIB, M2, SHARED);
    world.map(&space, &large, 513 * GIB, GIB, SHARED);
    world.map(&space, &file, 514 * GIB, M2, SHARED);
    world.map(&space, &large, 515 * GIB, GIB, SHARED);
    for address in [512 * GIB, 513 * GIB, 514 * GIB, 515 * GIB] {
        world.store(&space, address, 1);
    }
    let tables = space.tables(&mut world.task).unwrap();
    let found: Vec<_> =
        tables.iter().map(|table| (table.start.as_u64() / GIB, table.size, table.leaves)).collect();
    assert_eq!(found, [(512, small(), 1), (512, giant(), 2), (514, small(), 1)]);
}

#[test]
fn a_mapping_with_a_flag_of_its_own_shares_with_those_that_have_it_too() {
    for (on, off) in [
        (Advice::DontDump, Advice::DoDump),
        (Advice::DontFork, Advice::DoFork),
        (Advice::Random, Advice::Normal),
        (Advice::Sequential, Advice::Normal),
        // The one takes the place of the other, which is another flag.
        (Advice::Random, Advice::Sequential),
    ] {
        let mut world = World::new(512);
        let file = world.file();
        let spaces = [world.process(), world.process(), world.process()];
        for (space, marked) in spaces.iter().zip([false, true, true]) {
            world.map(space, &file, 4 * GIB, GIB, NORESERVE);
            if marked {
                space.madvise(&mut world.task, at(4 * GIB), GIB, on).unwrap();
            }
            world.store(space, 4 * GIB, 1);
        }
        assert_eq!(spaces.each_ref().map(|space| world.users(space)), [[1], [2], [2]]);
        // Taken off again: the table stays as it is, and the next one who comes finds both.
        spaces[1].madvise(&mut world.task, at(4 * GIB), GIB, off).unwrap();
        assert_eq!(world.users(&spaces[1]), [2]);
        // A part of the gigabyte alone: it is split, and what is split shares no table.
        spaces[2].madvise(&mut world.task, at(4 * GIB), M2, off).unwrap();
        assert_eq!(spaces.each_ref().map(|space| world.users(space)).concat(), [1, 1]);
        let hole = spaces[0].madvise(&mut world.task, at(4 * GIB), 2 * GIB, on);
        assert_eq!(hole, Err(MapError::NotMapped { address: at(5 * GIB) }));
        let cut = spaces[0].madvise(&mut world.task, at(4 * GIB), 4096, off);
        assert!(matches!(cut, Err(MapError::Unaligned { .. })), "{cut:?}");
        drop((spaces, file));
        world.task.finish_drops();
        world.finish();
    }
}

#[test]
fn a_mapping_left_out_of_forks_is_not_the_childs() {
    let mut world = World::new(8);
    let (file, parent) = (world.file(), world.process());
    world.map(&parent, &file, 4 * GIB, 4 * M2, SHARED);
    parent.madvise(&mut world.task, at(4 * GIB + M2), M2, Advice::DontFork).unwrap();
    let child = parent.fork(&mut world.task).unwrap();
    let mapped = |space: &super::common::AddressSpace, task: &mut super::common::Task| {
        let mmap = space.mmap_read(task);
        (0..4).map(|page| mmap.find(at(4 * GIB + page * M2)).is_some()).collect::<Vec<_>>()
    };
    assert_eq!(mapped(&child, &mut world.task), [true, false, true, true]);
    assert_eq!(mapped(&parent, &mut world.task), [true; 4]);
    parent.madvise(&mut world.task, at(4 * GIB), 4 * M2, Advice::DoFork).unwrap();
    let second = parent.fork(&mut world.task).unwrap();
    assert_eq!(mapped(&second, &mut world.task), [true; 4]);
    drop((second, child, parent, file));
    world.task.finish_drops();
    world.finish();
}
