//! Which cache lines an operation writes that another thread writes too, doing the same with a page and a table of its own.
//!
//! What two threads do at once is as fast as alone where there is none. The list below is what is left: it may become
//! shorter, and says so when it is too long.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::thread;

use hugewalk::addr::{HugeFrame, TableFrame, VirtAddr};
use hugewalk::arch::{Entry, X86_64};
use hugewalk::fault::{Access, Fault};
use hugewalk::file::HugeFile;
use hugewalk::gup::GupFlags;
use hugewalk::mm::{Backing, MapFlags, MapRequest, Placement};
use hugewalk::platform::{PageRecord, Pages as _, TableRecord, Tables as _};
use hugewalk::sync::Arc;
use hugewalk::vma::{Protection, Vma};
use hugewalk::walk::huge_pte_offset;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Host, HostConfig, task};

#[global_allocator]
static HEAP: watch::Apart = watch::Apart;

const PUD_SIZE: u64 = X86_64::SIZE_1G.bytes();
const START: VirtAddr = VirtAddr::new(4 * PUD_SIZE);
const MIB2: u64 = X86_64::SIZE_2M.bytes();

/// What an operation writes of what others write: the thing, and how many of its cache lines.
type Shared = &'static [(&'static str, usize)];

/// What each operation writes that others write too.
const LIST: [(&str, Operation, Shared); 8] = [
    ("walk under RCU", walk_under_rcu, &[]),
    ("walk under the VMA lock", walk_under_vma_lock, &[]),
    ("fault of a mapped page", fault_of_a_mapped_page, &[]),
    ("fault of a mapped page, the same for both", fault_of_one_page, &[]),
    (
        "fault of a fresh page",
        fresh_fault,
        &[
            // The locks of the page cache and of the reservations, with what they guard.
            ("the file", 2),
            // The range of the reservations that both pages come into.
            ("an allocation of 64 bytes", 1),
            ("the pool", 1),
        ],
    ),
    ("pin without a lock", pin_fast, &[]),
    ("pin of 16 pages that borrows the system", pins_fast, &[]),
    // Pins that outlive the address space have a handle on the system: one for all pages.
    ("pin of 16 pages", pins, &[("the system", 1)]),
];

type Operation = fn(&World, &mut Task<Host>, u64);

fn walk_under_rcu(world: &World, task: &mut Task<Host>, number: u64) {
    let section = task.rcu_read_lock();
    let slot = huge_pte_offset(&section, world.space.mm(), page_of(number, 7), X86_64::SIZE_2M);
    assert!(matches!(slot.unwrap().unwrap().read(), Ok(Entry::Leaf(_))));
}

fn walk_under_vma_lock(world: &World, task: &mut Task<Host>, number: u64) {
    let mmap = world.space.mmap_read(task);
    let locked = mmap.lock_vma(&world.vma, task).unwrap();
    let slot = huge_pte_offset(&locked, world.space.mm(), page_of(number, 7), X86_64::SIZE_2M);
    assert!(matches!(slot.unwrap().unwrap().read(), Entry::Leaf(_)));
}

fn fault_of_a_mapped_page(world: &World, task: &mut Task<Host>, number: u64) {
    world.space.fault(task, page_of(number, 7), Access::Write).unwrap();
}

fn fault_of_one_page(world: &World, task: &mut Task<Host>, _: u64) {
    assert_eq!(world.space.fault(task, page_of(0, 7), Access::Write), Ok(Fault::Present));
}

/// Each call brings the page that comes after those that are there.
fn fresh_fault(world: &World, task: &mut Task<Host>, number: u64) {
    let mapped =
        |page: &u64| world.space.pin_page_fast(task, page_of(number, *page), GupFlags::PIN).is_some();
    let page = (PAGES..).find(|page| !mapped(page)).unwrap();
    world.space.fault(task, page_of(number, page), Access::Write).unwrap();
}

fn pin_fast(world: &World, task: &mut Task<Host>, number: u64) {
    assert!(world.space.pin_page_fast(task, page_of(number, 7), GupFlags::PIN).is_some());
}

fn pins_fast(world: &World, task: &mut Task<Host>, number: u64) {
    let pins = world.space.pin_pages_fast(task, page_of(number, 7), 16 * MIB2, GupFlags::PIN).unwrap();
    assert_eq!(pins.bytes(), 16 * MIB2);
}

fn pins(world: &World, task: &mut Task<Host>, number: u64) {
    let pins = world.space.pin_pages(task, page_of(number, 7), 16 * MIB2, GupFlags::PIN).unwrap();
    assert_eq!(pins.bytes(), 16 * MIB2);
}

/// One test, so that no other thread runs while stores are watched.
#[test]
fn two_threads_with_pages_and_tables_of_their_own_write_few_lines_that_both_write() {
    let each = LIST
        .iter()
        .flat_map(|&(name, operation, listed)| differences(name, listed, &World::new().shared(operation)));
    let wrong: Vec<String> = each.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A mapping of two gigabytes, whose pages are there where it says so.
struct World {
    hugetlb: Arc<Hugetlb<Host>>,
    file: Arc<HugeFile<Host>>,
    space: Arc<AddressSpace<Host>>,
    vma: Arc<Vma<Host>>,
}

impl World {
    fn new() -> Self {
        let config =
            HostConfig::new().huge_bytes(4 * PUD_SIZE).contents(Contents::Nothing).max_tables(MAX_TABLES);
        let hugetlb = Hugetlb::new(Host::new(&config).unwrap()).unwrap();
        assert_eq!(hugetlb.resize_pool(X86_64::SIZE_2M, POOL), POOL);
        let mut task = task(&hugetlb).unwrap();
        let file = HugeFile::new(&hugetlb, X86_64::SIZE_2M, None).unwrap();
        file.truncate(&mut task, 2 * PUD_SIZE).unwrap();
        let space = AddressSpace::new(&hugetlb).unwrap();
        let request = MapRequest {
            placement: Placement::Fixed(START),
            length: 2 * PUD_SIZE,
            protection: Protection::READ | Protection::WRITE,
            flags: MapFlags::SHARED | MapFlags::NORESERVE,
            backing: Backing::File { file: &file, offset: 0 },
        };
        space.mmap(&mut task, &request).unwrap();
        for number in [0, 1] {
            for page in 0..PAGES {
                space.fault(&mut task, page_of(number, page), Access::Write).unwrap();
            }
        }
        let vma = space.mmap_read(&mut task).find(START).unwrap().clone();
        drop(task);
        Self { hugetlb, file, space, vma }
    }

    /// What lies where. The allocations are told apart by their ends.
    fn names(&self) -> Vec<(usize, &'static str)> {
        let named = [
            (Arc::as_ptr(&self.space).addr(), "the address space"),
            (Arc::as_ptr(self.space.mm()).addr(), "the root of the address space"),
            (Arc::as_ptr(&self.vma).addr(), "the VMA"),
            (Arc::as_ptr(&self.file).addr(), "the file"),
            (Arc::as_ptr(&self.hugetlb).addr(), "the system"),
            (std::ptr::from_ref(self.hugetlb.pool(X86_64::SIZE_2M)).addr(), "the pool"),
        ];
        named.map(|(address, name)| (watch::allocation(address), name)).to_vec()
    }

    /// Does the same on two threads, one after the other, each with its gigabyte. Returns what both have written.
    fn shared(&self, work: impl Fn(&Self, &mut Task<Host>, u64) + Sync) -> BTreeMap<String, usize> {
        let own = self.platform_memory();
        let record = |number| {
            let mut task = task(&self.hugetlb).unwrap();
            // What is done for the first time only is done here.
            work(self, &mut task, number);
            let ((), lines) = watch::stores(&own, || work(self, &mut task, number));
            assert!(!lines.is_empty(), "nothing was seen");
            // The task stays until the other thread has had its turn: each has a slot of its own.
            (lines, task)
        };
        let (one, _task) = record(0);
        let other = thread::scope(|scope| scope.spawn(|| record(1).0).join().unwrap());
        let names: BTreeMap<usize, &str> = self.names().into_iter().collect();
        let mut found = BTreeMap::new();
        for line in one.intersection(&other) {
            let address = line * watch::LINE;
            let of_host = ["a record of a page", "a record of a table", "a table"];
            let own = of_host.iter().zip(&own).find(|(_, range)| range.contains(&address));
            let name = match (own, names.get(&watch::allocation(address))) {
                (Some((name, _)), _) | (None, Some(name)) => (*name).to_owned(),
                (None, None) => format!("an allocation of {} bytes", watch::bytes(address)),
            };
            *found.entry(name).or_insert(0) += 1;
        }
        found
    }

    /// The memory of the host: the records of pages, those of tables, and the tables.
    fn platform_memory(&self) -> Vec<Range<usize>> {
        let host = self.hugetlb.platform();
        let range = |start: usize, bytes: usize| start..start + bytes;
        // SAFETY: the first frame of the host is a page of the pool.
        let pages = unsafe { host.page_record(FIRST_PAGE) };
        // SAFETY: the first table is a root, and there is one.
        let records = unsafe { host.table_record(TableFrame(1)) };
        // SAFETY: likewise.
        let tables = unsafe { host.table_entries(TableFrame(1)) };
        vec![
            range(pages.addr().get(), POOL as usize * size_of::<PageRecord>()),
            range(records.addr().get(), (MAX_TABLES as usize - 1) * size_of::<TableRecord>()),
            range(tables.addr().get(), (MAX_TABLES as usize - 1) * 4096),
        ]
    }
}

/// Pages of each gigabyte that are there.
const PAGES: u64 = 64;
const POOL: u64 = 512;
const MAX_TABLES: u64 = 64;
/// The host's first frame of 2 MiB: its arena begins at 1 TiB.
const FIRST_PAGE: HugeFrame = HugeFrame((1 << 40) / 4096);

fn page_of(number: u64, page: u64) -> VirtAddr {
    START.checked_add(number * PUD_SIZE + page * MIB2).unwrap()
}

/// In what the list and what was found differ.
fn differences(name: &str, listed: Shared, all: &BTreeMap<String, usize>) -> Vec<String> {
    println!("{name}: {all:?}");
    let found = |thing: &str| all.get(thing).copied().unwrap_or(0);
    let listed: BTreeMap<&str, usize> = listed.iter().copied().collect();
    let things: BTreeSet<&str> = listed.keys().copied().chain(all.keys().map(String::as_str)).collect();
    let differ =
        things.into_iter().map(|thing| (thing, found(thing), listed.get(thing).copied().unwrap_or(0)));
    let differ = differ.filter(|(_, found, listed)| found != listed);
    differ
        .map(|(thing, found, listed)| format!("{name}: {found} lines of {thing}, and {listed} in the list"))
        .collect()
}
