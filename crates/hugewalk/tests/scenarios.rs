//! Directed cases: what must be shared, what ends it and what that costs, who gets a copy, and what is reserved for which mapping.

mod common;

#[path = "scenarios/copying.rs"]
mod copying;
#[path = "scenarios/files.rs"]
mod files;
#[path = "scenarios/locking.rs"]
mod locking;
#[path = "scenarios/mapping.rs"]
mod mapping;
#[path = "scenarios/placing.rs"]
mod placing;
#[path = "scenarios/policies.rs"]
mod policies;
#[path = "scenarios/reservations.rs"]
mod reservations;
#[path = "scenarios/sealing.rs"]
mod sealing;
#[path = "scenarios/sharing.rs"]
mod sharing;
#[path = "scenarios/spinning.rs"]
mod spinning;
#[path = "scenarios/turns.rs"]
mod turns;
#[path = "scenarios/unsharing.rs"]
mod unsharing;

use common::{AddressSpace, File, Hugetlb, SMALL, Task, at, cpu, map, system};
use hugewalk::fault::{Access, Fault};
use hugewalk::mm::MapFlags;
use hugewalk::pool::PoolCounters;
use hugewalk::sync::Arc;

#[global_allocator]
static HEAP: common::heap::Heap = common::heap::Heap;

/// A system, and what the tests ask of it.
struct World {
    hugetlb: Arc<Hugetlb>,
    task: Task,
}

impl World {
    fn new(pages: u64) -> Self {
        let (hugetlb, task) = system(pages);
        Self { hugetlb, task }
    }

    fn file(&self) -> Arc<File> {
        File::new(&self.hugetlb, SMALL, None).unwrap()
    }

    fn process(&self) -> Arc<AddressSpace> {
        AddressSpace::new(&self.hugetlb).unwrap()
    }

    /// Maps the start of a file.
    fn map(&mut self, space: &AddressSpace, file: &Arc<File>, address: u64, length: u64, flags: MapFlags) {
        map(space, &mut self.task, file, 0, address, length, flags).unwrap();
    }

    fn store(&mut self, space: &AddressSpace, address: u64, value: u8) {
        cpu::store(space, &mut self.task, at(address), value).unwrap();
    }

    fn load(&mut self, space: &AddressSpace, address: u64) -> u8 {
        cpu::load(space, &mut self.task, at(address)).unwrap()
    }

    /// The faults that an access takes.
    fn faults(&mut self, space: &AddressSpace, address: u64, access: Access) -> Vec<Fault> {
        let mut faults = Vec::new();
        cpu::translate(space, &mut self.task, at(address), access, &mut faults).unwrap();
        faults
    }

    /// How many faults it takes to load from each page of a range.
    fn faults_to_read(&mut self, space: &AddressSpace, start: u64, length: u64) -> usize {
        cpu::faults_to_read(space, &mut self.task, start, length)
    }

    /// Users of each table of leaves, by address.
    fn users(&mut self, space: &AddressSpace) -> Vec<u64> {
        space.tables(&mut self.task).unwrap().iter().map(|table| table.users).collect()
    }

    /// Total, free, reserved, surplus.
    fn counters(&self) -> (u64, u64, u64, u64) {
        let PoolCounters { total, free, reserved, surplus } = self.hugetlb.pool(SMALL).counters();
        (total, free, reserved, surplus)
    }

    /// Everything the test had is gone: nothing may be left of it.
    fn finish(mut self) {
        self.task.rcu_barrier();
        assert_eq!(self.hugetlb.platform().tables_in_use(), 0);
        let (total, free, reserved, surplus) = self.counters();
        assert_eq!((free, reserved, surplus), (total, 0, 0));
    }
}
