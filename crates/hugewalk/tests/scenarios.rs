//! Directed cases: what must be shared, what ends it and what that costs, who gets a copy, and what is reserved for which mapping.

mod common;

#[path = "scenarios/bad_memory.rs"]
mod bad_memory;
#[path = "scenarios/base_pages.rs"]
mod base_pages;
#[path = "scenarios/claiming.rs"]
mod claiming;
#[path = "scenarios/copying.rs"]
mod copying;
#[path = "scenarios/files.rs"]
mod files;
#[path = "scenarios/handlers.rs"]
mod handlers;
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

use common::{AddressSpace, FORMAT, FORMATS, File, Hugetlb, Task, at, cpu, map, small, system};
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
        File::new(&self.hugetlb, small(), None).unwrap()
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
        let PoolCounters { total, free, reserved, surplus } = self.hugetlb.pool(small()).counters();
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

/// What is said of one shape of tree only, and who has another. A name without a test stands for all of the module.
const SAID_OF_ONE_SHAPE: [(&[&str], &[&str]); 5] = [
    // Tables are counted from the root on: four levels.
    (
        &["x86-64-5", "riscv64-sv39"],
        &[
            "base_pages::a_mapping_that_moves_away_leaves_the_table_to_the_host",
            "base_pages::a_place_without_memory_leaves_no_empty_table_behind",
            "base_pages::huge_pages_and_base_pages_lie_in_one_gigabyte_and_stay_out_of_each_others_way",
            "base_pages::the_tables_above_go_with_the_last_that_needs_them_whoever_that_is",
        ],
    ),
    // Where x86-64's addresses end, with four levels, and with five.
    (
        &["x86-64-5", "arm64-4k", "arm64-16k", "arm64-64k", "riscv64-sv48"],
        &["mapping::who_makes_two_mistakes"],
    ),
    (&["arm64-4k", "arm64-16k", "arm64-64k", "riscv64-sv48"], &["placing::nothing_lies_above_47_bits"]),
    // Places beyond 256 GiB.
    (
        &["riscv64-sv39"],
        &[
            "base_pages::an_address_space_that_ends_with_tables_of_the_hosts",
            "mapping::a_move_of_private_pages_carries_them_across_table_boundaries",
            "sharing::pages_of_a_gib_do_not_share",
            "sharing::tables_of_both_sizes_are_listed_once",
        ],
    ),
    // Base pages of 4 KiB, and tables of 2 MiB leaves that cover 1 GiB and are shared. Other tables are shared in the model's
    // programs, which know no numbers.
    (
        &["arm64-16k", "arm64-64k"],
        &[
            "base_pages::",
            "claiming::",
            "sharing::",
            "unsharing::",
            "turns::",
            "files::a_file_that_grows_keeps_its_tables_shared",
            "locking::locking_a_part_of_shared_memory",
            "mapping::a_cut_through_a_huge_page",
            "mapping::a_hint_is_cut_to_4_kib",
            "mapping::a_page_of_a_gib",
            "mapping::mremap_finds_out_what_makes_no_sense",
            "mapping::the_last_addresses_there_are",
            "policies::a_policy_for_a_part",
            "policies::a_policy_for_a_whole_mapping",
            "sealing::a_sealed_mapping_is_not_unmapped",
            "sealing::the_balance_of_a_process",
        ],
    ),
];

/// The scenarios once more, in processes of their own, on tables of each format.
#[test]
fn the_scenarios_hold_on_tables_of_each_format() {
    if std::env::var_os(FORMAT).is_some() {
        return;
    }
    for format in &FORMATS[1..] {
        let mut tests = std::process::Command::new(std::env::current_exe().unwrap());
        tests.env(FORMAT, format);
        for (_, said) in SAID_OF_ONE_SHAPE.iter().filter(|(others, _)| others.contains(format)) {
            said.iter().for_each(|test| _ = tests.args(["--skip", test]));
        }
        let done = tests.output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "{format}: {said}");
        let passed = said.lines().filter(|line| line.ends_with(" ok")).count();
        assert!(passed > 70, "{format}: only {passed} were run\n{said}");
    }
}
