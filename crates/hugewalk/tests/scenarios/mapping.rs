//! Mappings: cut, moved, filled, counted.

use super::World;
use super::common::{AddressSpace, Bench, GIB, M2, RW, at, giant, small};
use hugewalk::error::Errno;
use hugewalk::file::HugeFile;
use hugewalk::mm::{Advice, Backing, MapError, MapFlags, MapRequest, Placement, RemapTo};
use hugewalk::vma::{Protection, VmaFlags};

const HERE: u64 = 4 * GIB;
const SHARED: MapFlags = MapFlags::SHARED;

#[test]
fn residency_counts_the_pages_of_each_mapping_and_not_those_of_its_neighbours_in_the_table() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 3 * M2, SHARED);
    for page in 0..3 {
        world.store(&space, HERE + page * M2, 1);
    }
    space.mprotect(&mut world.task, at(HERE + 2 * M2), M2, Protection::READ).unwrap();
    let mut found = Vec::new();
    space.residency(&mut world.task, |_, residency| found.push(residency.private)).unwrap();
    assert_eq!(found, [2, 1]);
}

#[test]
fn a_cut_through_a_huge_page_is_refused_and_changes_nothing() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, SHARED);
    let task = &mut world.task;
    for refused in [
        space.munmap(task, at(HERE + 0x1000), M2),
        space.munmap(task, at(HERE), M2 + 0x1000),
        space.mprotect(task, at(HERE), 0x1000, Protection::READ),
        space.madvise(task, at(HERE + 0x1000), M2, Advice::DontNeed),
        space.mremap(task, at(HERE), M2, M2, RemapTo::Fixed(at(GIB + 0x1000))).map(drop),
    ] {
        assert!(matches!(refused, Err(MapError::Unaligned { .. })), "{refused:?}");
    }
    assert_eq!(space.mmap_read(task).vmas().count(), 1);
}

#[test]
fn mremap_in_place_of_the_same_length_asks_nothing_of_what_it_keeps() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, SHARED);
    let stays = space.mremap(&mut world.task, at(HERE), 9 * M2, 9 * M2, RemapTo::InPlace);
    assert_eq!(stays, Ok(at(HERE)));
    let bounds = bounds(&mut world, &space);
    assert_eq!(bounds, [(HERE, 2, 0)]);
}

#[test]
fn advice_about_reading_splits_and_advice_about_reclaim_is_refused() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 4 * M2, SHARED);
    let advise = |world: &mut World, advice| space.madvise(&mut world.task, at(HERE + M2), M2, advice);
    for none in [Advice::Normal, Advice::WillNeed, Advice::KeepOnFork] {
        assert_eq!(advise(&mut world, none), Ok(()));
        assert_eq!(bounds(&mut world, &space).len(), 1);
    }
    for refused in [Advice::Cold, Advice::PageOut, Advice::Free, Advice::WipeOnFork] {
        assert_eq!(advise(&mut world, refused).map_err(|error| error.errno()), Err(Errno::EINVAL));
    }
    let hole = MapError::NotMapped { address: at(HERE + 4 * M2) };
    let past = space.madvise(&mut world.task, at(HERE), 5 * M2, Advice::WillNeed);
    assert_eq!(past, Err(hole));
    let flags = |world: &mut World| {
        let mmap = space.mmap_read(&mut world.task);
        mmap.vmas().map(|vma| vma.flags() - VmaFlags::SHARED).collect::<Vec<_>>()
    };
    let none = VmaFlags::empty();
    for (advice, flag) in [
        (Advice::Random, VmaFlags::RANDOM),
        (Advice::Sequential, VmaFlags::SEQUENTIAL),
        (Advice::Random, VmaFlags::RANDOM),
        (Advice::Normal, none),
    ] {
        assert_eq!(advise(&mut world, advice), Ok(()));
        assert_eq!(flags(&mut world), [none, flag, none]);
    }
}

/// Start, pages and offset of each mapping.
#[test]
fn advice_that_a_mapping_has_already_changes_nothing() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, SHARED);
    for (advice, flag) in [
        (Advice::DontDump, VmaFlags::DONTDUMP),
        (Advice::DontFork, VmaFlags::DONTFORK),
        (Advice::Random, VmaFlags::RANDOM),
    ] {
        for _ in 0..2 {
            space.madvise(&mut world.task, at(HERE), 2 * M2, advice).unwrap();
            let flags = space.mmap_read(&mut world.task).find(at(HERE)).unwrap().flags();
            assert!(flags.contains(flag), "{advice:?}");
        }
    }
}

#[test]
fn an_address_space_without_mappings_leaves_nothing_to_later_operations() {
    let mut world = World::new(4);
    let tables = world.hugetlb.platform().tables_in_use();
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, SHARED);
    space.munmap(&mut world.task, at(HERE), 2 * M2).unwrap();
    // What is unmapped, once its readers are gone.
    world.task.rcu_barrier();
    assert_eq!(world.hugetlb.platform().tables_in_use(), tables + 1);
    drop(space);
    assert_eq!(world.hugetlb.platform().tables_in_use(), tables);
}

fn bounds(world: &mut World, space: &AddressSpace) -> Vec<(u64, u64, u64)> {
    let mmap = space.mmap_read(&mut world.task);
    mmap.vmas().map(|vma| (vma.start().as_u64(), vma.pages(), vma.offset())).collect()
}

const THERE: RemapTo = RemapTo::Fixed(hugewalk::addr::VirtAddr::new(9 * GIB));

#[test]
fn a_move_that_keeps_the_length_goes_over_several_mappings_and_the_holes_behind_the_first() {
    let mut world = World::new(8);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, SHARED);
    world.map(&space, &file, HERE + 3 * M2, 3 * M2, MapFlags::empty());
    world.store(&space, HERE, 1);
    world.store(&space, HERE + 4 * M2, 2);
    // What lies in the way of a mapping goes, what lies in the way of a hole stays.
    world.map(&space, &file, 9 * GIB, 4 * M2, SHARED);
    // The holes count, also the last one; 4 KiB less than a page takes the page along.
    let length = 5 * M2 - 0x1000;
    assert_eq!(space.mremap(&mut world.task, at(HERE), length, length, THERE), Ok(at(9 * GIB)));
    let there = 9 * GIB;
    let expected = [(HERE + 5 * M2, 1, 2), (there, 2, 0), (there + 2 * M2, 1, 2), (there + 3 * M2, 2, 0)];
    assert_eq!(bounds(&mut world, &space), expected);
    assert_eq!((world.load(&space, there), world.load(&space, there + 4 * M2)), (1, 2));
    let back = space.mremap(&mut world.task, at(there), GIB, GIB, RemapTo::Fixed(at(HERE)));
    assert_eq!(back, Ok(at(HERE)));
    drop((space, file));
    world.finish();
}

#[test]
fn a_move_over_several_mappings_keeps_the_length_in_4_kib_pages_or_is_refused() {
    let mut world = World::new(8);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, SHARED);
    world.map(&space, &file, HERE + 2 * M2, 2 * M2, MapFlags::empty());
    let before = bounds(&mut world, &space);
    let task = &mut world.task;
    let bad = |address| Err(MapError::BadAddress { address: at(address) });
    // The same in huge pages, but not in those of 4 KiB: one mapping alone may be moved then.
    assert_eq!(space.mremap(task, at(HERE), 3 * M2 + 0x1000, 4 * M2, THERE), bad(HERE));
    assert_eq!(space.mremap(task, at(HERE), 4 * M2, 3 * M2, THERE), bad(HERE));
    // A hole in front.
    assert_eq!(space.mremap(task, at(HERE - M2), 3 * M2, 3 * M2, THERE), bad(HERE - M2));
    assert_eq!(bounds(&mut world, &space), before);
    let task = &mut world.task;
    assert_eq!(space.mremap(task, at(HERE), M2 + 0x1000, 2 * M2, THERE), Ok(at(9 * GIB)));
}

#[test]
fn a_move_that_shrinks_may_name_more_than_the_mapping_and_unmaps_all_of_that() {
    let mut world = World::new(8);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, SHARED);
    world.map(&space, &file, HERE + 4 * M2, 2 * M2, MapFlags::empty());
    assert_eq!(space.mremap(&mut world.task, at(HERE), 5 * M2, M2, THERE), Ok(at(9 * GIB)));
    assert_eq!(bounds(&mut world, &space), [(HERE + 5 * M2, 1, 1), (9 * GIB, 1, 0)]);
}

#[test]
fn mremap_finds_out_what_makes_no_sense_before_it_looks_what_is_mapped() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, 9 * GIB, 2 * M2, SHARED);
    let task = &mut world.task;
    let (nothing, top) = (at(HERE), space.mm().task_size());
    let fixed = |address| RemapTo::Fixed(at(address));
    let unaligned = |address| MapError::UnalignedAddress { address: at(address) };
    let there = 9 * GIB;
    for (old_length, new_length, to, refused) in [
        (M2, 0, THERE, MapError::ZeroLength),
        (M2, M2, fixed(there + 1), unaligned(there + 1)),
        (M2, M2, fixed(HERE), MapError::Overlaps),
        (0, 2 * M2, fixed(HERE - M2), MapError::Overlaps),
        (M2, M2, fixed(top.as_u64()), MapError::Overflow),
        (M2, 1 << 60, RemapTo::Anywhere, MapError::Overflow),
        (M2, u64::MAX, RemapTo::InPlace, MapError::ZeroLength),
        // All this depends on what is mapped.
        (0, M2, THERE, MapError::BadAddress { address: nothing }),
        (M2, M2, fixed(there + 0x1000), MapError::BadAddress { address: nothing }),
        (M2, 2 * M2, THERE, MapError::BadAddress { address: nothing }),
    ] {
        assert_eq!(space.mremap(task, nothing, old_length, new_length, to), Err(refused));
    }
    let mapped = at(there);
    for (old_length, to) in [(0, RemapTo::InPlace), (0, fixed(HERE)), (M2, fixed(HERE))] {
        assert_eq!(space.mremap(task, mapped, old_length, 2 * M2, to), Err(MapError::Grows));
    }
    assert_eq!(bounds(&mut world, &space), [(there, 2, 0)]);
}

#[test]
fn a_move_whose_tail_makes_no_sense_has_unmapped_its_target() {
    let mut world = World::new(8);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, SHARED);
    world.map(&space, &file, 9 * GIB, 2 * M2, SHARED);
    let moved = space.mremap(&mut world.task, at(9 * GIB), 1 << 60, M2, RemapTo::Fixed(at(HERE)));
    assert_eq!(moved, Err(MapError::Overflow));
    assert_eq!(bounds(&mut world, &space), [(HERE + M2, 1, 1), (9 * GIB, 2, 0)]);
}

#[test]
fn mremap_shrinks_moves_and_never_grows() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 4 * M2, SHARED);
    for page in 0..4 {
        world.store(&space, HERE + page * M2, page as u8 + 1);
    }
    let task = &mut world.task;
    let grows = space.mremap(task, at(HERE), 4 * M2, 5 * M2, RemapTo::Anywhere);
    assert_eq!(grows, Err(MapError::Grows));
    let overlaps = space.mremap(task, at(HERE), 4 * M2, 4 * M2, RemapTo::Fixed(at(HERE + M2)));
    assert_eq!(overlaps, Err(MapError::Overlaps));
    let to = RemapTo::Fixed(at(9 * GIB));
    assert_eq!(space.mremap(task, at(HERE + M2), 3 * M2, 2 * M2, to), Ok(at(9 * GIB)));
    assert_eq!((world.load(&space, 9 * GIB), world.load(&space, 9 * GIB + M2)), (2, 3));
    assert_eq!(world.load(&space, HERE), 1);
    assert_eq!(bounds(&mut world, &space), [(HERE, 1, 0), (9 * GIB, 2, 1)]);
    drop((space, file));
    world.finish();
}

#[test]
fn a_move_may_end_where_it_began_and_not_behind_the_last_address() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, M2, SHARED);
    world.store(&space, HERE, 7);
    for to in [HERE + M2, HERE, HERE - M2, HERE] {
        let from = space.mmap_read(&mut world.task).vmas().next().unwrap().start();
        let moved = space.mremap(&mut world.task, from, M2, M2, RemapTo::Fixed(at(to)));
        assert_eq!((moved, world.load(&space, to)), (Ok(at(to)), 7));
    }
    // It would fit before its length is rounded up to a page of the mapping.
    let top = space.mm().task_size().as_u64();
    let to = RemapTo::Fixed(at(top / M2 * M2));
    let refused = space.mremap(&mut world.task, at(HERE), M2, small().bytes() / 512, to);
    assert_eq!(refused, Err(MapError::Overflow));
    assert_eq!(bounds(&mut world, &space), [(HERE, 1, 0)]);
}

#[test]
fn a_move_of_private_pages_carries_them_across_table_boundaries() {
    let mut world = World::new(8);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 4 * M2, MapFlags::empty());
    for page in 0..4 {
        world.store(&space, HERE + page * M2, page as u8 + 1);
    }
    let to = 512 * GIB - 2 * M2;
    space.mremap(&mut world.task, at(HERE), 4 * M2, 4 * M2, RemapTo::Fixed(at(to))).unwrap();
    for page in 0..4 {
        assert_eq!(world.load(&space, to + page * M2), page as u8 + 1);
    }
    assert_eq!(world.counters(), (8, 4, 0, 0));
    drop((space, file));
    world.finish();
}

#[test]
fn populating_needs_the_right_it_is_named_after() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, SHARED);
    let task = &mut world.task;
    for (rights, read, write) in [
        (Protection::empty(), false, false),
        (Protection::READ, true, false),
        (Protection::WRITE, false, true),
        (RW, true, true),
    ] {
        space.mprotect(task, at(HERE), 2 * M2, rights).unwrap();
        for (advice, allowed) in [(Advice::PopulateRead, read), (Advice::PopulateWrite, write)] {
            let expected = if allowed { Ok(()) } else { Err(MapError::NotAllowed) };
            assert_eq!(space.madvise(task, at(HERE), 2 * M2, advice), expected);
        }
    }
}

#[test]
fn a_page_of_a_gib_is_not_cut_by_a_mapping_with_smaller_pages() {
    let mut world = World::new(4);
    world.hugetlb.resize_pool(giant(), 1);
    let large = HugeFile::new(&world.hugetlb, giant(), None).unwrap();
    let (file, space) = (world.file(), world.process());
    world.map(&space, &large, HERE, GIB, SHARED);
    let refused = super::common::map(&space, &mut world.task, &file, 0, HERE, M2, SHARED);
    assert!(matches!(refused, Err(MapError::Unaligned { size, .. }) if size == giant()));
    world.map(&space, &file, HERE, GIB, SHARED | MapFlags::NORESERVE);
    assert_eq!(space.mmap_read(&mut world.task).vmas().count(), 1);
}

#[test]
fn who_makes_two_mistakes_in_a_mapping_is_told_of_the_one_that_linux_finds_first() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, SHARED);
    let (exists, top) = (MapError::Exists { address: at(HERE) }, (1u64 << 47) - 0x1000);
    let unaligned = |value| MapError::Unaligned { value, size: small() };
    let far = (1 << 63) - M2;
    let keep = |address| Placement::FixedNoReplace(at(address));
    let replace = |address| Placement::Fixed(at(address));
    for (placement, length, offset, refused) in [
        (keep(HERE), 0, 17, unaligned(17)),
        (keep(HERE), 0, 0x1000, MapError::ZeroLength),
        (replace(HERE + 1), 1 << 48, 0x1000, MapError::NoRoom { length: 1 << 48 }),
        (replace(top), M2, 0, unaligned(top)),
        (replace(top.next_multiple_of(M2) - M2), M2, 0x1000, MapError::NoRoom { length: M2 }),
        (keep(HERE), M2, 0x1000, exists),
        (keep(HERE), M2, far, exists),
        (replace(HERE), M2, far, MapError::OffsetOverflow { offset: far }),
        (replace(HERE), M2, far + 0x1000, MapError::OffsetOverflow { offset: far + 0x1000 }),
    ] {
        let backing = Backing::File { file: &file, offset };
        let request = MapRequest { placement, length, protection: RW, flags: SHARED, backing };
        assert_eq!(space.mmap(&mut world.task, &request), Err(refused), "{placement:x?}, {offset:#x}");
        assert_eq!(bounds(&mut world, &space), [(HERE, 2, 0)]);
    }
    // Found last, when room has been made.
    let refused = super::common::map(&space, &mut world.task, &file, 0x1000, HERE, M2, SHARED);
    assert_eq!(refused, Err(unaligned(0x1000)));
    assert_eq!(bounds(&mut world, &space), [(HERE + M2, 1, 1)]);
    drop((space, file));
    world.finish();
}

#[test]
fn a_move_makes_a_table_only_where_there_is_something_to_move() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, SHARED);
    world.store(&space, HERE, 1);
    space.madvise(&mut world.task, at(HERE), M2, Advice::DontNeed).unwrap();
    assert_eq!(space.mremap(&mut world.task, at(HERE), 2 * M2, 2 * M2, THERE), Ok(at(9 * GIB)));
    assert_eq!(space.tables(&mut world.task), Ok(vec![]));
    // Across a boundary at the new place: the part behind it has an entry, the part before it has none.
    world.store(&space, 9 * GIB + M2, 1);
    let across = RemapTo::Fixed(at(5 * GIB - M2));
    space.mremap(&mut world.task, at(9 * GIB), 2 * M2, 2 * M2, across).unwrap();
    let tables = space.tables(&mut world.task).unwrap();
    let found: Vec<_> = tables.iter().map(|table| (table.start, table.leaves)).collect();
    assert_eq!(found, [(at(5 * GIB), 1)]);
}

/// A request for fresh pages.
fn fresh(placement: Placement, pages: u64) -> MapRequest<'static, Bench> {
    let backing = Backing::Anonymous(small());
    MapRequest { placement, length: pages * M2, protection: RW, flags: SHARED, backing }
}

#[test]
fn a_hint_is_cut_to_4_kib_and_then_rounded_up_to_a_huge_page() {
    let mut world = World::new(4);
    let space = world.process();
    for (hint, place) in [(HERE + 0xfff, HERE), (HERE + 0x1000, HERE + M2), (HERE + 2 * M2, HERE + 2 * M2)] {
        let placement = Placement::Hint(at(hint));
        assert_eq!(space.mmap(&mut world.task, &fresh(placement, 1)), Ok(at(place)));
    }
}

#[test]
fn what_is_replaced_keeps_the_reservations_of_its_file_until_the_new_mapping_is_decided() {
    let mut world = World::new(2);
    let space = world.process();
    space.mmap(&mut world.task, &fresh(Placement::Fixed(at(HERE)), 1)).unwrap();
    let refused = space.mmap(&mut world.task, &fresh(Placement::Fixed(at(HERE)), 2));
    assert!(matches!(refused, Err(MapError::NoPage(_))), "{refused:?}");
    // It is gone all the same, and the reservation with it.
    assert_eq!(bounds(&mut world, &space), []);
    assert_eq!(space.mmap(&mut world.task, &fresh(Placement::Fixed(at(HERE)), 2)), Ok(at(HERE)));
}

#[test]
fn what_is_replaced_keeps_the_reservations_of_its_file_until_the_new_mapping_is_populated() {
    let mut world = World::new(1);
    let space = world.process();
    space.mmap(&mut world.task, &fresh(Placement::Fixed(at(HERE)), 1)).unwrap();
    let populated = SHARED | MapFlags::NORESERVE | MapFlags::POPULATE;
    let again = MapRequest { flags: populated, ..fresh(Placement::Fixed(at(HERE)), 1) };
    // The only page is still reserved for the file that goes.
    space.mmap(&mut world.task, &again).unwrap();
    assert_eq!(space.mm().resident(), 0);
    space.mmap(&mut world.task, &again).unwrap();
    assert_eq!(space.mm().resident(), 1);
}

#[test]
fn the_last_addresses_there_are_can_be_unmapped_and_none_behind_them() {
    let mut world = World::new(1);
    let space = world.process();
    let last = at(space.mm().task_size().as_u64() - 4096);
    assert_eq!(space.munmap(&mut world.task, last, 4096), Ok(()));
    assert_eq!(space.munmap(&mut world.task, last, 2 * 4096), Err(MapError::Overflow));
    drop(space);
    world.finish();
}
