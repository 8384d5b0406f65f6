//! What ends the sharing of a table, and what it costs: faults that a process takes to reach again what it had.
//!
//! The numbers are those measured on Linux 6.18 with a child of a process that has 2 GiB of shared memory at a 1 GiB
//! boundary, all of it touched.

use super::World;
use super::common::{AddressSpace, File, GIB, M2, RW, at};
use hugewalk::mm::{Advice, MapFlags, RemapTo};
use hugewalk::platform::Event;
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;

const HERE: u64 = 4 * GIB;
const THERE: u64 = 8 * GIB;

struct Family {
    world: World,
    file: Arc<File>,
    parent: Arc<AddressSpace>,
    child: Arc<AddressSpace>,
}

impl Family {
    /// A parent that has touched each page of 2 GiB, and a child that shares both tables.
    fn new() -> Self {
        let mut world = World::new(1024);
        let (file, parent) = (world.file(), world.process());
        world.map(&parent, &file, HERE, 2 * GIB, MapFlags::SHARED);
        for page in 0..1024 {
            world.store(&parent, HERE + page * M2, page as u8);
        }
        let child = parent.fork(&mut world.task).unwrap();
        assert_eq!(world.faults_to_read(&child, HERE, 2 * GIB), 2);
        assert_eq!(world.users(&child), [2, 2]);
        world.hugetlb.platform().take_events();
        Self { world, file, parent, child }
    }

    /// The address spaces and GiB that lost a table since the last question.
    fn unshared(&mut self) -> Vec<(u64, u64)> {
        let events = self.world.hugetlb.platform().take_events();
        let unshared = events.iter().filter_map(|event| match event {
            Event::Unshared { mm, address, .. } => Some((*mm, address.as_u64() / GIB)),
            _ => None,
        });
        unshared.collect()
    }

    fn child_faults(&mut self, gib: u64) -> usize {
        self.world.faults_to_read(&self.child, gib * GIB, GIB)
    }

    /// The parent has lost nothing, and nothing leaks.
    fn finish(mut self) {
        assert_eq!(self.world.faults_to_read(&self.parent, HERE, 2 * GIB), 0);
        assert_eq!(self.world.load(&self.parent, HERE + 3 * M2), 3);
        drop((self.parent, self.child, self.file));
        self.world.finish();
    }
}

#[test]
fn mprotect_of_one_page_costs_the_child_512_faults_in_that_gib_and_none_in_the_other() {
    let mut family = Family::new();
    family.child.mprotect(&mut family.world.task, at(HERE), M2, Protection::READ).unwrap();
    assert_eq!(family.unshared(), [(family.child.mm().id(), 4)]);
    assert_eq!(family.world.users(&family.child), [2]);
    assert_eq!((family.child_faults(4), family.child_faults(5)), (512, 0));
    assert_eq!(family.world.users(&family.child), [1, 2]);
    family.finish();
}

#[test]
fn munmap_of_one_page_costs_the_child_511_faults() {
    let mut family = Family::new();
    family.child.munmap(&mut family.world.task, at(HERE), M2).unwrap();
    assert_eq!(family.unshared(), [(family.child.mm().id(), 4)]);
    assert_eq!(family.world.faults_to_read(&family.child, HERE + M2, GIB - M2), 511);
    assert_eq!(family.child_faults(5), 0);
    family.finish();
}

#[test]
fn a_mapping_over_one_page_costs_the_child_511_faults() {
    let mut family = Family::new();
    let other = family.world.file();
    family.world.map(&family.child, &other, HERE + 7 * M2, M2, MapFlags::SHARED | MapFlags::NORESERVE);
    assert_eq!(family.unshared(), [(family.child.mm().id(), 4)]);
    let before = family.world.faults_to_read(&family.child, HERE, 7 * M2);
    let behind = family.world.faults_to_read(&family.child, HERE + 8 * M2, GIB - 8 * M2);
    assert_eq!(before + behind, 511);
    family.finish();
}

#[test]
fn mprotect_to_read_only_and_back_costs_one_fault_a_gib() {
    let mut family = Family::new();
    let child = family.child.clone();
    child.mprotect(&mut family.world.task, at(HERE), 2 * GIB, Protection::READ).unwrap();
    child.mprotect(&mut family.world.task, at(HERE), 2 * GIB, RW).unwrap();
    let id = child.mm().id();
    assert_eq!(family.unshared(), [(id, 4), (id, 5)]);
    assert_eq!((family.child_faults(4), family.child_faults(5)), (1, 1));
    assert_eq!(family.world.users(&child), [2, 2]);
    drop(child);
    family.finish();
}

#[test]
fn dontneed_of_one_page_costs_one_fault() {
    let mut family = Family::new();
    family.child.madvise(&mut family.world.task, at(HERE), M2, Advice::DontNeed).unwrap();
    assert_eq!(family.unshared(), [(family.child.mm().id(), 4)]);
    assert_eq!((family.child_faults(4), family.child_faults(5)), (1, 0));
    assert_eq!(family.world.users(&family.child), [2, 2]);
    family.finish();
}

#[test]
fn mremap_to_another_aligned_place_costs_one_fault_a_gib() {
    let mut family = Family::new();
    let to = RemapTo::Fixed(at(THERE));
    family.child.mremap(&mut family.world.task, at(HERE), 2 * GIB, 2 * GIB, to).unwrap();
    let id = family.child.mm().id();
    assert_eq!(family.unshared(), [(id, 4), (id, 5)]);
    assert_eq!((family.child_faults(8), family.child_faults(9)), (1, 1));
    assert_eq!(family.world.users(&family.child), [2, 2]);
    assert_eq!(family.world.load(&family.child, THERE + 5 * M2), 5);
    family.finish();
}

#[test]
fn mremap_to_a_place_that_is_not_aligned_costs_a_fault_for_each_page() {
    let mut family = Family::new();
    let to = RemapTo::Fixed(at(THERE + M2));
    family.child.mremap(&mut family.world.task, at(HERE), 2 * GIB, 2 * GIB, to).unwrap();
    assert_eq!(family.world.faults_to_read(&family.child, THERE + M2, 2 * GIB), 1024);
    assert_eq!(family.world.users(&family.child), [1, 1, 1]);
    family.finish();
}

#[test]
fn a_split_at_a_gib_boundary_costs_nothing() {
    let mut family = Family::new();
    family.child.mprotect(&mut family.world.task, at(HERE + GIB), GIB, Protection::READ).unwrap();
    assert_eq!(family.unshared(), [(family.child.mm().id(), 5)]);
    assert_eq!(family.child_faults(4), 0);
    family.finish();
}

#[test]
fn a_split_within_a_gib_ends_the_sharing_of_that_gib() {
    let mut family = Family::new();
    // What gets other rights lies in the second GiB and the end of the first; the cut is in the first.
    family.child.mprotect(&mut family.world.task, at(HERE + GIB - M2), GIB + M2, Protection::READ).unwrap();
    let id = family.child.mm().id();
    assert_eq!(family.unshared(), [(id, 4), (id, 5)]);
    assert_eq!(family.child_faults(4), 512);
    family.finish();
}

#[test]
fn a_hole_that_is_punched_takes_the_table_from_one_of_the_two_and_the_page_from_both() {
    let mut family = Family::new();
    family.file.punch_hole(&mut family.world.task, 9 * M2, M2).unwrap();
    assert_eq!(family.unshared().len(), 1);
    assert_eq!((family.file.pages(), family.world.counters().1), (1023, 1));
    let Family { mut world, file, parent, child } = family;
    // The one that lost the table shares it again, at its first fault.
    let faults = [&parent, &child].map(|space| {
        world.faults_to_read(space, HERE, 9 * M2) + world.faults_to_read(space, HERE + 10 * M2, 502 * M2)
    });
    assert_eq!((faults[0].min(faults[1]), faults[0].max(faults[1])), (0, 1));
    assert_eq!(world.load(&child, HERE + 9 * M2), 0);
    world.store(&parent, HERE + 9 * M2, 77);
    assert_eq!(world.load(&child, HERE + 9 * M2), 77);
    drop((parent, child, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn a_hole_that_the_child_punches_costs_the_parent_511_faults_once_the_child_is_gone() {
    let mut family = Family::new();
    family.file.punch_hole(&mut family.world.task, 0, M2).unwrap();
    // The parent's mapping comes first, and gives the table up; the child's, alone by then, loses one page.
    assert_eq!(family.unshared(), [(family.parent.mm().id(), 4)]);
    family.child.exit(&mut family.world.task).unwrap();
    assert_eq!(family.world.faults_to_read(&family.parent, HERE + M2, GIB - M2), 511);
    let Family { world, file, parent, child } = family;
    drop((parent, child, file));
    world.finish();
}

#[test]
fn truncation_takes_the_pages_from_everybody() {
    let mut family = Family::new();
    family.file.truncate(&mut family.world.task, GIB + M2).unwrap();
    // One of the two lost its table for the second GiB, the other is alone with it then and works in place.
    assert_eq!(family.unshared().len(), 1);
    assert_eq!((family.child_faults(4), family.file.pages()), (0, 513));
    let Family { mut world, file, parent, child } = family;
    for space in [&parent, &child] {
        assert_eq!(world.load(space, HERE + GIB), 512u64 as u8);
        let beyond = super::cpu::load(space, &mut world.task, at(HERE + GIB + M2));
        assert!(matches!(beyond, Err(hugewalk::fault::FaultError::BeyondEof { index: 513 })));
    }
    drop((parent, child, file));
    world.task.finish_drops();
    world.finish();
}

#[test]
fn the_last_user_of_a_table_works_on_it_in_place() {
    let mut family = Family::new();
    family.parent.exit(&mut family.world.task).unwrap();
    family.unshared();
    family.child.madvise(&mut family.world.task, at(HERE), M2, Advice::DontNeed).unwrap();
    assert_eq!(family.unshared(), []);
    assert_eq!(family.child_faults(4), 1);
    drop((family.parent, family.child, family.file));
    family.world.finish();
}
