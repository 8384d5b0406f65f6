//! In which order the mappings of a file are met: a hole takes a shared table from one after the other, and works in place
//! on the last. The orders are those measured on Linux 6.18, by who of the users faults again after a hole.

use super::World;
use super::common::{AddressSpace, File, GIB, M2, RW, at};
use hugewalk::mm::MapFlags;
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;

const HERE: u64 = 4 * GIB;
const SHARED: MapFlags = MapFlags::SHARED.union(MapFlags::NORESERVE);

struct Users {
    world: World,
    file: Arc<File>,
    spaces: Vec<Arc<AddressSpace>>,
}

impl Users {
    fn new(count: usize) -> Self {
        let world = World::new(8);
        let (file, spaces) = (world.file(), (0..count).map(|_| world.process()).collect());
        Self { world, file, spaces }
    }

    fn map(&mut self, user: usize) {
        let space = self.spaces[user].clone();
        self.world.map(&space, &self.file, HERE, 2 * GIB, SHARED);
    }

    fn fork(&mut self, user: usize) {
        let child = self.spaces[user].fork(&mut self.world.task).unwrap();
        self.spaces.push(child);
    }

    fn protect(&mut self, user: usize, address: u64, length: u64, rights: Protection) {
        self.spaces[user].mprotect(&mut self.world.task, at(address), length, rights).unwrap();
    }

    /// All share the first table; a hole is punched: which users fault at a page beside it, one after the other?
    fn losers_of_a_hole(&mut self) -> Vec<usize> {
        self.world.store(&self.spaces[0], HERE, 1);
        self.world.store(&self.spaces[0], HERE + M2, 1);
        for space in &self.spaces {
            self.world.load(space, HERE + M2);
        }
        assert_eq!(self.world.users(&self.spaces[0]), [self.spaces.len() as u64]);
        self.file.punch_hole(&mut self.world.task, 0, M2).unwrap();
        let mut lost = |space| self.world.faults_to_read(space, HERE + M2, M2) == 1;
        (0..self.spaces.len()).filter(|&user| lost(&self.spaces[user])).collect()
    }

    /// The users, in the order in which who comes from the file meets their first mappings.
    fn order(&mut self) -> Vec<usize> {
        let i_mmap = self.file.i_mmap_read(&mut self.world.task);
        let of = |mm: u64| self.spaces.iter().position(|space| space.mm().id() == mm).unwrap();
        i_mmap.vmas(0..1).map(|proof| of(proof.vma().mm().id())).collect()
    }

    fn finish(self) {
        drop((self.spaces, self.file));
        self.world.finish();
    }
}

#[test]
fn who_maps_last_keeps_the_table_however_young_the_process() {
    let mut users = Users::new(2);
    users.map(1);
    users.map(0);
    assert_eq!(users.losers_of_a_hole(), [1]);
    users.finish();
}

#[test]
fn a_mapping_that_is_replaced_by_another_is_the_last() {
    let mut users = Users::new(2);
    users.map(0);
    users.map(1);
    users.map(0);
    assert_eq!(users.losers_of_a_hole(), [1]);
    users.finish();
}

#[test]
fn a_mapping_that_is_cut_in_two_goes_to_the_end() {
    let mut users = Users::new(2);
    users.map(0);
    users.map(1);
    users.protect(0, HERE + GIB, GIB, Protection::READ);
    assert_eq!(users.losers_of_a_hole(), [1]);
    users.finish();
}

#[test]
fn a_mapping_that_is_protected_as_a_whole_keeps_its_place() {
    let mut users = Users::new(2);
    users.map(0);
    users.map(1);
    users.protect(0, HERE, 2 * GIB, Protection::READ);
    users.protect(0, HERE, 2 * GIB, RW);
    assert_eq!(users.losers_of_a_hole(), [0]);
    users.finish();
}

#[test]
fn the_copy_that_fork_makes_comes_right_behind_its_original() {
    let mut users = Users::new(3);
    (0..3).for_each(|user| users.map(user));
    users.fork(0);
    assert_eq!(users.order(), [0, 3, 1, 2]);
    assert_eq!(users.losers_of_a_hole(), [0, 1, 3]);
    users.finish();
}

#[test]
fn there_is_room_for_any_number_of_copies_behind_an_original() {
    let mut users = Users::new(2);
    users.map(0);
    users.map(1);
    (0..100).for_each(|_| users.fork(0));
    // The youngest copy first.
    let expected: Vec<_> = [0].into_iter().chain((2..102).rev()).chain([1]).collect();
    assert_eq!(users.order(), expected);
    users.finish();
}
