//! Private mappings: copies at stores, and pages taken from children.

use super::World;
use super::common::{GIB, M2, at, cpu, small};
use hugewalk::arch::LeafFlags;
use hugewalk::fault::{Access, Fault, FaultError};
use hugewalk::mm::{Advice, MapFlags};

const HERE: u64 = 4 * GIB;
const PRIVATE: MapFlags = MapFlags::empty();

#[test]
fn a_store_to_a_private_mapping_is_seen_by_nobody_else() {
    let mut world = World::new(8);
    let (file, space) = (world.file(), world.process());
    file.write_at(&mut world.task, 0, &[1]).unwrap();
    file.truncate(&mut world.task, M2).unwrap();
    world.map(&space, &file, HERE, M2, PRIVATE);
    assert_eq!(world.faults(&space, HERE, Access::Read), [Fault::Mapped]);
    assert_eq!(world.faults(&space, HERE, Access::Write), [Fault::Copied]);
    world.store(&space, HERE, 2);
    let mut byte = [0];
    assert_eq!((file.read_at(0, &mut byte), byte[0]), (Ok(1), 1));
    assert_eq!(world.load(&space, HERE), 2);
    drop((space, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn parent_and_child_each_have_their_own_after_a_store() {
    let mut world = World::new(8);
    let (file, parent) = (world.file(), world.process());
    world.map(&parent, &file, HERE, M2, PRIVATE);
    world.store(&parent, HERE, 1);
    let child = parent.fork(&mut world.task).unwrap();
    world.store(&child, HERE, 2);
    world.store(&parent, HERE, 3);
    assert_eq!((world.load(&parent, HERE), world.load(&child, HERE)), (3, 2));
    // The parent was alone with its page by then.
    assert_eq!(world.counters().1, 6);
    drop((parent, child, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn who_is_alone_with_a_page_again_writes_to_it_without_a_copy() {
    let mut world = World::new(1);
    let (file, parent) = (world.file(), world.process());
    world.map(&parent, &file, HERE, M2, PRIVATE);
    world.store(&parent, HERE, 1);
    let child = parent.fork(&mut world.task).unwrap();
    child.exit(&mut world.task).unwrap();
    assert_eq!(world.faults(&parent, HERE, Access::Write), [Fault::Reused]);
}

#[test]
fn the_owner_of_a_reservation_takes_the_page_from_its_child() {
    let mut world = World::new(2);
    let (file, parent) = (world.file(), world.process());
    world.map(&parent, &file, HERE, 2 * M2, PRIVATE);
    world.store(&parent, HERE, 1);
    world.store(&parent, HERE + M2, 2);
    let child = parent.fork(&mut world.task).unwrap();
    assert_eq!(world.load(&child, HERE), 1);
    // No page is left for a copy.
    assert_eq!(world.faults(&parent, HERE, Access::Write), [Fault::Reused]);
    world.store(&parent, HERE, 3);
    let robbed = cpu::load(&child, &mut world.task, at(HERE));
    assert_eq!(robbed, Err(FaultError::TakenAway { address: at(HERE) }));
    // What the child still has it keeps.
    assert_eq!(world.load(&child, HERE + M2), 2);
    drop((parent, child, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn a_robbed_mapping_finds_no_page_of_the_file_in_the_place_of_the_one_that_was_taken() {
    let mut world = World::new(1);
    let (file, parent) = (world.file(), world.process());
    world.map(&parent, &file, HERE, M2, PRIVATE);
    world.store(&parent, HERE, 1);
    let child = parent.fork(&mut world.task).unwrap();
    world.store(&parent, HERE, 2);
    assert_eq!(world.hugetlb.resize_pool(small(), 2), 2);
    file.allocate(&mut world.task, 0, M2, true).unwrap();
    let robbed = cpu::load(&child, &mut world.task, at(HERE));
    assert_eq!(robbed, Err(FaultError::TakenAway { address: at(HERE) }));
    drop((parent, child, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn a_robbed_mapping_stays_robbed_in_both_halves_of_a_split() {
    let mut world = World::new(2);
    let (file, parent) = (world.file(), world.process());
    world.map(&parent, &file, HERE, 2 * M2, PRIVATE);
    world.store(&parent, HERE, 1);
    world.store(&parent, HERE + M2, 2);
    let child = parent.fork(&mut world.task).unwrap();
    world.store(&parent, HERE, 3);
    child.madvise(&mut world.task, at(HERE + M2), M2, Advice::DontNeed).unwrap();
    child.mprotect(&mut world.task, at(HERE + M2), M2, hugewalk::vma::Protection::READ).unwrap();
    for address in [HERE, HERE + M2] {
        let robbed = cpu::load(&child, &mut world.task, at(address));
        assert_eq!(robbed, Err(FaultError::TakenAway { address: at(address) }));
    }
}

#[test]
fn a_child_without_a_reservation_finds_the_pool_empty() {
    let mut world = World::new(2);
    let (file, parent) = (world.file(), world.process());
    world.map(&parent, &file, HERE, 2 * M2, PRIVATE);
    world.store(&parent, HERE, 1);
    let child = parent.fork(&mut world.task).unwrap();
    // One page is free, and reserved for the parent.
    assert_eq!(world.counters(), (2, 1, 1, 0));
    let refused = cpu::store(&child, &mut world.task, at(HERE), 2);
    assert!(matches!(refused, Err(FaultError::PoolEmpty(_))));
    assert_eq!(world.load(&child, HERE), 1);
    drop((parent, child, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn a_copy_by_the_owner_leaves_its_other_reservations_alone() {
    let mut world = World::new(4);
    let (file, parent) = (world.file(), world.process());
    world.map(&parent, &file, HERE, 2 * M2, PRIVATE);
    world.store(&parent, HERE, 1);
    let child = parent.fork(&mut world.task).unwrap();
    assert_eq!(world.counters(), (4, 3, 1, 0));
    assert_eq!(world.faults(&parent, HERE, Access::Write), [Fault::Copied]);
    assert_eq!(world.counters(), (4, 2, 1, 0));
    drop((parent, child, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn a_store_that_finds_no_page_for_a_copy_leaves_the_files_page_mapped_for_reading() {
    let mut world = World::new(1);
    let (file, space) = (world.file(), world.process());
    file.write_at(&mut world.task, 0, &[7]).unwrap();
    file.truncate(&mut world.task, M2).unwrap();
    world.map(&space, &file, HERE, M2, MapFlags::NORESERVE);
    let refused = cpu::store(&space, &mut world.task, at(HERE), 1);
    assert!(matches!(refused, Err(FaultError::PoolEmpty(_))));
    let (leaf, _) = cpu::peek(&space, &world.task, at(HERE)).unwrap();
    assert!(!leaf.is_writable() && !leaf.flags.contains(LeafFlags::DIRTY));
    assert_eq!((space.mm().resident(), world.faults_to_read(&space, HERE, M2)), (1, 0));
    assert_eq!(world.load(&space, HERE), 7);
    drop((space, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn fork_copies_a_private_mapping_only_if_it_ever_had_a_page_of_its_own() {
    let mut world = World::new(4);
    let (file, parent) = (world.file(), world.process());
    file.write_at(&mut world.task, 0, &[1]).unwrap();
    file.allocate(&mut world.task, 0, 2 * M2, false).unwrap();
    world.map(&parent, &file, HERE, 2 * M2, PRIVATE);
    world.load(&parent, HERE);
    let child = parent.fork(&mut world.task).unwrap();
    assert_eq!((parent.mm().resident(), child.mm().resident()), (1, 0));
    assert_eq!(world.faults_to_read(&child, HERE, M2), 1);
    drop(child);
    world.task.finish_drops();
    // It counts for the whole mapping, also when the page is gone again.
    world.store(&parent, HERE + M2, 1);
    parent.madvise(&mut world.task, at(HERE + M2), M2, Advice::DontNeed).unwrap();
    parent.mprotect(&mut world.task, at(HERE), M2, hugewalk::vma::Protection::READ).unwrap();
    let child = parent.fork(&mut world.task).unwrap();
    assert_eq!((child.mm().resident(), world.faults_to_read(&child, HERE, M2)), (1, 0));
    drop((parent, child, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn a_store_that_finds_no_page_for_its_copy_fails_at_once_and_leaves_the_page_for_loads() {
    let mut world = World::new(1);
    let (file, space) = (world.file(), world.process());
    world.map(&space, &file, HERE, M2, MapFlags::SHARED | MapFlags::NORESERVE);
    world.store(&space, HERE, 1);
    let private = world.process();
    world.map(&private, &file, HERE, M2, MapFlags::NORESERVE);
    let fault = private.fault(&mut world.task, at(HERE), Access::Write);
    assert!(matches!(fault, Err(FaultError::PoolEmpty(_))), "{fault:?}");
    assert_eq!(private.fault(&mut world.task, at(HERE), Access::Read), Ok(Fault::Present));
}
