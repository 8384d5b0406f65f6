//! Sealed mappings: what they refuse, what they still allow, and what ends them.

use super::World;
use super::common::{AddressSpace, Bench, GIB, M2, RW, at};
use hugewalk::error::Errno;
use hugewalk::mm::{Advice, Backing, MapError, MapFlags, MapRequest, Placement, RemapTo};
use hugewalk::vma::Protection;

const HERE: u64 = 4 * GIB;
const THERE: u64 = 8 * GIB;

/// Start, pages and rights of each mapping.
fn mappings(world: &mut World, space: &AddressSpace) -> Vec<(u64, u64, Protection)> {
    let mmap = space.mmap_read(&mut world.task);
    mmap.vmas().map(|vma| (vma.start().as_u64(), vma.pages(), vma.protection())).collect()
}

#[test]
fn a_sealed_mapping_is_not_unmapped_replaced_moved_shrunk_or_given_other_rights() {
    let mut world = World::new(8);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 4 * M2, MapFlags::SHARED);
    world.map(&space, &file, THERE, M2, MapFlags::SHARED);
    space.mseal(&mut world.task, at(HERE + M2), M2).unwrap();
    let before = mappings(&mut world, &space);
    assert_eq!(before.len(), 4);

    let task = &mut world.task;
    let fixed: MapRequest<'_, Bench> = MapRequest {
        placement: Placement::Fixed(at(HERE)),
        length: 2 * M2,
        protection: RW,
        flags: MapFlags::SHARED,
        backing: Backing::File { file: &file, offset: 0 },
    };
    for refused in [
        space.munmap(task, at(HERE), 4 * M2),
        space.munmap(task, at(HERE + M2 + 0x1000), 0x1000),
        space.mprotect(task, at(HERE + M2), M2, RW),
        space.mmap(task, &fixed).map(drop),
        space.mremap(task, at(HERE + M2), M2, M2, RemapTo::Fixed(at(GIB))).map(drop),
        space.mremap(task, at(THERE), M2, M2, RemapTo::Fixed(at(HERE + M2))).map(drop),
    ] {
        assert!(matches!(refused, Err(MapError::Sealed { .. })), "{refused:?}");
        assert_eq!(refused.unwrap_err().errno(), Errno::EPERM);
    }
    // Linux looks at one mapping after the other: the cut in the first is met before the seal of the second.
    let cut = space.munmap(task, at(HERE + 0x1000), 2 * M2);
    assert!(matches!(cut, Err(MapError::Unaligned { .. })), "{cut:?}");
    assert_eq!(mappings(&mut world, &space), before);
}

#[test]
fn mprotect_changes_what_lies_before_a_seal() {
    let mut world = World::new(8);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 3 * M2, MapFlags::SHARED);
    space.mseal(&mut world.task, at(HERE + M2), M2).unwrap();
    let refused = space.mprotect(&mut world.task, at(HERE), 3 * M2, Protection::READ);
    assert_eq!(refused, Err(MapError::Sealed { address: at(HERE + M2) }));
    let rights: Vec<_> = mappings(&mut world, &space).into_iter().map(|(_, _, rights)| rights).collect();
    assert_eq!(rights, [Protection::READ, RW, RW]);
}

#[test]
fn a_hole_is_not_sealed_pages_of_sealed_mappings_may_be_dropped_and_exit_ends_them() {
    let mut world = World::new(8);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, MapFlags::SHARED);
    let hole = space.mseal(&mut world.task, at(HERE), 3 * M2);
    assert_eq!(hole, Err(MapError::NotMapped { address: at(HERE + 2 * M2) }));
    space.mprotect(&mut world.task, at(HERE), M2, RW).unwrap();
    space.mseal(&mut world.task, at(HERE), 2 * M2).unwrap();
    world.store(&space, HERE, 1);
    space.madvise(&mut world.task, at(HERE), 2 * M2, Advice::Remove).unwrap();
    assert_eq!(world.counters().1, 8);

    let child = space.fork(&mut world.task).unwrap();
    let refused = child.munmap(&mut world.task, at(HERE), M2);
    assert_eq!(refused, Err(MapError::Sealed { address: at(HERE) }));
    space.exit(&mut world.task).unwrap();
    child.exit(&mut world.task).unwrap();
    drop((space, child, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn the_balance_of_a_process_that_clears_the_pages_of_others_is_below_zero() {
    let mut world = World::new(512);
    let (file, [parent, child]) = (world.file(), [world.process(), world.process()]);
    for space in [&parent, &child] {
        world.map(space, &file, HERE, GIB, MapFlags::SHARED);
    }
    for page in 0..4 {
        world.store(&parent, HERE + page * M2, 1);
    }
    // It takes the table up, with all four pages in it.
    assert_eq!(world.load(&child, HERE), 1);
    // The parent gives the table up first; what is cleared of it then is cleared by the child.
    parent.madvise(&mut world.task, at(HERE), 2 * M2, Advice::Remove).unwrap();
    let balances = [&parent, &child].map(|space| space.mm().resident_balance() / M2 as i64);
    assert_eq!(balances, [4, -2]);
    assert_eq!(child.mm().resident_bytes(), 0);
}
