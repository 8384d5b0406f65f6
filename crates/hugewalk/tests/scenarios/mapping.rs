//! Mappings: cut, moved, filled, counted.

use super::World;
use super::common::{GIB, M2, RW, at};
use hugewalk::addr::HugeSize;
use hugewalk::file::HugeFile;
use hugewalk::mm::{Advice, MapError, MapFlags, RemapTo};
use hugewalk::vma::Protection;

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
    space.residency(&mut world.task, |_, residency| found.push(residency.private));
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
    let moves = space.mremap(&mut world.task, at(HERE), 9 * M2, 9 * M2, RemapTo::Fixed(at(8 * GIB)));
    assert_eq!(moves, Err(MapError::BadAddress { address: at(HERE) }));
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
    let bounds: Vec<_> = {
        let mmap = space.mmap_read(&mut world.task);
        mmap.vmas().map(|vma| (vma.start().as_u64(), vma.pages(), vma.offset())).collect()
    };
    assert_eq!(bounds, [(HERE, 1, 0), (9 * GIB, 2, 1)]);
    drop((space, file));
    world.finish();
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
    world.hugetlb.resize_pool(HugeSize::Size1G, 1);
    let giant = HugeFile::new(&world.hugetlb, HugeSize::Size1G, None).unwrap();
    let (file, space) = (world.file(), world.process());
    world.map(&space, &giant, HERE, GIB, SHARED);
    let refused = super::common::map(&space, &mut world.task, &file, 0, HERE, M2, SHARED);
    assert!(matches!(refused, Err(MapError::Unaligned { size: HugeSize::Size1G, .. })));
    world.map(&space, &file, HERE, GIB, SHARED | MapFlags::NORESERVE);
    assert_eq!(space.mmap_read(&mut world.task).vmas().count(), 1);
}
