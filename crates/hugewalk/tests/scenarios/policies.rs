//! mbind: policies split mappings and travel with them, and have no say in sharing.

use super::World;
use super::common::{AddressSpace, GIB, M2, at};
use hugewalk::mm::{MapError, MapFlags, RemapTo};
use hugewalk::vma::{Nodes, Policy};

const HERE: u64 = 4 * GIB;
const NORESERVE: MapFlags = MapFlags::SHARED.union(MapFlags::NORESERVE);
const BIND: Policy = Policy::Bind(Nodes::PRESENT);
const LOCAL: Policy = Policy::Local;

/// Start, in pages from here, and policy of each mapping.
fn policies(world: &mut World, space: &AddressSpace) -> Vec<(u64, Policy)> {
    let mmap = space.mmap_read(&mut world.task);
    mmap.vmas().map(|vma| (vma.start().as_u64().wrapping_sub(HERE) / M2, vma.policy())).collect()
}

#[test]
fn a_policy_for_a_part_splits_the_mapping_and_takes_its_table_away() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * GIB, NORESERVE);
    world.store(&space, HERE, 1);
    world.store(&space, HERE + GIB, 1);
    let child = space.fork(&mut world.task).unwrap();
    world.load(&child, HERE);
    world.load(&child, HERE + GIB);
    child.mbind(&mut world.task, at(HERE), M2, BIND).unwrap();
    assert_eq!(policies(&mut world, &child), [(0, BIND), (1, Policy::Default)]);
    assert_eq!(world.users(&child), [2], "the second GiB's alone");
    assert_eq!(policies(&mut world, &space), [(0, Policy::Default)]);
    drop((file, space, child));
    world.finish();
}

#[test]
fn a_policy_for_a_whole_mapping_takes_no_table_away_and_keeps_none_from_being_shared() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, GIB, NORESERVE);
    world.store(&space, HERE, 1);
    let child = space.fork(&mut world.task).unwrap();
    world.load(&child, HERE);
    child.mbind(&mut world.task, at(HERE), GIB, BIND).unwrap();
    assert_eq!(world.users(&child), [2]);
    let grandchild = child.fork(&mut world.task).unwrap();
    assert_eq!(policies(&mut world, &grandchild), [(0, BIND)]);
    grandchild.mbind(&mut world.task, at(HERE), GIB, LOCAL).unwrap();
    world.load(&grandchild, HERE);
    assert_eq!(world.users(&grandchild), [3]);
    drop((file, space, child, grandchild));
    world.finish();
}

#[test]
fn what_has_the_policy_already_is_not_split() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 4 * M2, NORESERVE);
    let task = &mut world.task;
    space.mbind(task, at(HERE + M2), M2, Policy::Default).unwrap();
    space.mbind(task, at(HERE), 2 * M2, BIND).unwrap();
    // With nodes that are not there besides.
    space.mbind(task, at(HERE + M2), M2, Policy::Bind(Nodes::from_bits_retain(9))).unwrap();
    assert_eq!(policies(&mut world, &space), [(0, BIND), (2, Policy::Default)]);
    // Huge-page mappings are not joined again.
    space.mbind(&mut world.task, at(HERE), 4 * M2, LOCAL).unwrap();
    assert_eq!(policies(&mut world, &space), [(0, LOCAL), (2, LOCAL)]);
    drop((file, space));
    world.finish();
}

#[test]
fn holes_matter_unless_the_policy_is_the_default() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, M2, NORESERVE);
    world.map(&space, &file, HERE + 2 * M2, M2, NORESERVE);
    let hole = Err(MapError::NoPolicy { address: at(HERE + M2) });
    assert_eq!(space.mbind(&mut world.task, at(HERE), 3 * M2, BIND), hole);
    space.mbind(&mut world.task, at(HERE), M2, BIND).unwrap();
    space.mbind(&mut world.task, at(HERE - M2), 9 * M2, Policy::Default).unwrap();
    assert_eq!(policies(&mut world, &space), [(0, Policy::Default), (2, Policy::Default)]);
}

#[test]
fn a_policy_moves_with_its_mapping() {
    let mut world = World::new(4);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, 2 * M2, NORESERVE);
    space.mbind(&mut world.task, at(HERE), 2 * M2, BIND).unwrap();
    let to = RemapTo::Fixed(at(HERE + 4 * M2));
    space.mremap(&mut world.task, at(HERE), 2 * M2, 2 * M2, to).unwrap();
    assert_eq!(policies(&mut world, &space), [(4, BIND)]);
    drop((file, space));
    world.finish();
}
