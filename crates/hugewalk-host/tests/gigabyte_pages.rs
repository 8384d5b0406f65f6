//! The walkers on pages of 1 GiB, whose entries lie one level higher, in tables that nobody shares.

mod pages;

use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::arch::{Entry, PUD_SIZE, X86_64};
use hugewalk::fault::{Access, Fault, FaultError};
use hugewalk::file::HugeFile;
use hugewalk::gup::GupFlags;
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Placement, RemapTo};
use hugewalk::pagewalk::PageMap;
use hugewalk::rmap::Recovery;
use hugewalk::sync::Arc;
use hugewalk::uffd::{ContinueMode, CopyMode, Features, Message, Modes, ProtectMode, Userfault};
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Host, HostConfig};

use pages::{File, RW, Space, System, Worker, entry, frame};

const LARGE: HugeSize = X86_64::SIZE_1G;
/// The last page of one table, and the first of the next.
const BASE: VirtAddr = VirtAddr::new(511 * PUD_SIZE);
const POOL: u64 = 6;

struct World {
    hugetlb: System,
    task: Task<Host>,
    file: File,
    space: Space,
}

fn at(page: u64) -> VirtAddr {
    VirtAddr::new(BASE.as_u64() + page * PUD_SIZE)
}

impl World {
    /// A process that maps three pages, which lie in two tables.
    fn new(flags: MapFlags) -> Self {
        let config = HostConfig::new().huge_bytes(8 * PUD_SIZE).max_tables(1000).contents(Contents::Nothing);
        let hugetlb = Hugetlb::new(Host::new(&config).unwrap()).unwrap();
        assert_eq!(hugetlb.resize_pool(LARGE, POOL), POOL);
        let mut task = hugewalk_host::task(&hugetlb).unwrap();
        let file = HugeFile::new(&hugetlb, LARGE, None).unwrap();
        file.truncate(&mut task, 3 * PUD_SIZE).unwrap();
        let space = AddressSpace::new(&hugetlb).unwrap();
        let request = MapRequest {
            placement: Placement::Fixed(BASE),
            length: 3 * PUD_SIZE,
            protection: RW,
            flags,
            backing: Backing::File { file: &file, offset: 0 },
        };
        space.mmap(&mut task, &request).unwrap();
        Self { hugetlb, task, file, space }
    }

    fn touch(&mut self, page: u64, access: Access) {
        touch(&self.space, &mut self.task, page, access);
    }

    fn counters(&self) -> (u64, u64, u64) {
        let counters = self.hugetlb.pool(LARGE).counters();
        (counters.total, counters.free, counters.reserved)
    }

    fn end(self) {
        let Self { hugetlb, mut task, file, space } = self;
        space.exit(&mut task).unwrap();
        drop((space, file));
        task.rcu_barrier();
        let counters = hugetlb.pool(LARGE).counters();
        assert_eq!((counters.free, counters.reserved), (counters.total, 0));
        assert_eq!(hugetlb.platform().usage().tables, 0);
    }
}

/// As often as it takes: a fault that a handler resolved is tried again.
fn touch(space: &Space, task: &mut Task<Host>, page: u64, access: Access) {
    while space.fault(task, at(page), access).unwrap() == Fault::Raced {}
}

const KINDS: [MapFlags; 2] = [MapFlags::SHARED, MapFlags::empty()];

#[test]
fn reports_count_them_as_one_page_each() {
    for kind in KINDS {
        let mut world = World::new(kind);
        world.touch(0, Access::Write);
        world.touch(2, Access::Write);
        let (space, task) = (world.space.clone(), &mut world.task);
        let range = || at(0)..at(3);
        let map = space.pagemap(task, range()).unwrap();
        let present: Vec<_> = map.iter().map(|&(at, map)| (at, map.contains(PageMap::PRESENT))).collect();
        assert_eq!(present, [(at(0), true), (at(1), false), (at(2), true)]);
        // From inside a page: the page it lies in.
        let inside = VirtAddr::new(at(2).as_u64() + (5 << 20));
        assert_eq!(space.pagemap(task, inside..at(3)).unwrap(), map[2..]);
        let resident = space.mincore(task, range()).unwrap();
        assert_eq!(resident.iter().map(|page| page.1).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(space.numa_maps(task, range()).unwrap().pages, 2);
        assert_eq!(
            (space.sample_accessed(task, range()), space.sample_accessed(task, range())),
            (Ok(2), Ok(0))
        );
        space.clear_soft_dirty(task).unwrap();
        let map = space.pagemap(task, range()).unwrap();
        assert!(map.iter().all(|(_, map)| !map.contains(PageMap::SOFT_DIRTY)));
        drop(space);
        world.end();
    }
}

#[test]
fn they_are_pinned_moved_taken_out_of_use_and_fail() {
    for kind in KINDS {
        let mut world = World::new(kind);
        let pins = world
            .space
            .pin_pages(&mut world.task, BASE, 3 * PUD_SIZE, GupFlags::PIN | GupFlags::WRITE)
            .unwrap();
        assert_eq!((pins.pages().len(), pins.small_pages()), (3, 3 << 18));
        drop(pins);
        assert_eq!(world.counters(), (POOL, POOL - 3, 0));
        let first = frame(&world.task, &world.space, at(1));
        let second = world.hugetlb.migrate(&mut world.task, first).unwrap();
        assert_eq!(frame(&world.task, &world.space, at(1)), second);
        // Wherever in it the range begins.
        let inside = VirtAddr::new(at(1).as_u64() + (3 << 12));
        world.space.madvise(&mut world.task, inside, 4096, Advice::SoftOffline).unwrap();
        assert_eq!(world.counters(), (POOL - 1, POOL - 4, 0));
        let third = frame(&world.task, &world.space, at(1));
        let recovery = world.hugetlb.memory_failure(&mut world.task, third);
        assert_eq!(recovery, Ok(if kind == MapFlags::SHARED { Recovery::File } else { Recovery::Private }));
        let failed = world.space.fault(&mut world.task, inside, Access::Read).unwrap_err();
        assert_eq!(failed, FaultError::Hwpoison { address: at(1), size: LARGE });
        world.space.mremap(&mut world.task, at(1), PUD_SIZE, PUD_SIZE, RemapTo::Fixed(at(600))).unwrap();
        assert!(matches!(entry(&world.task, &world.space, at(600)), Entry::Hwpoison(_)));
        world.file.truncate(&mut world.task, PUD_SIZE).unwrap();
        for bad in [second, third] {
            world.hugetlb.unpoison(bad).unwrap();
        }
        assert_eq!(world.counters().0, POOL);
        world.end();
    }
}

/// Runs `access` beside the handler.
fn touched(world: &World, page: u64, access: Access) -> Worker<()> {
    let space = world.space.clone();
    Worker::start(&world.hugetlb, move |task| touch(&space, task, page, access))
}

fn fault_of(uffd: &Userfault<Host>, task: &mut Task<Host>) -> VirtAddr {
    match uffd.read_event(task).unwrap() {
        Message::Pagefault(fault) => fault.address,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_handler_brings_them_continues_with_them_and_protects_them() {
    for kind in KINDS {
        let mut world = World::new(kind);
        let uffd = Userfault::new(&world.space, Features::empty()).unwrap();
        uffd.register(&mut world.task, BASE, 3 * PUD_SIZE, Modes::MISSING | Modes::WP | Modes::MINOR)
            .unwrap();
        world.file.write_at(&mut world.task, PUD_SIZE, &[1]).unwrap();
        uffd.write_protect(&mut world.task, at(2), PUD_SIZE, ProtectMode::WP).unwrap();
        // Half a page is none.
        let half = uffd.write_protect(&mut world.task, at(1), PUD_SIZE / 2, ProtectMode::WP);
        assert!(half.is_err());

        let missing = touched(&world, 0, Access::Write);
        assert_eq!(fault_of(&uffd, &mut world.task), at(0));
        // Zeroes that are never touched take no memory.
        let zeroes = vec![0; PUD_SIZE as usize];
        uffd.copy(&mut world.task, at(0), &zeroes, CopyMode::empty()).unwrap();
        missing.result();

        let minor = touched(&world, 1, Access::Read);
        assert_eq!(fault_of(&uffd, &mut world.task), at(1));
        uffd.continue_range(&mut world.task, at(1), PUD_SIZE, ContinueMode::empty()).unwrap();
        minor.result();

        uffd.copy(&mut world.task, at(2), &zeroes, CopyMode::WP).unwrap();
        let protected = touched(&world, 2, Access::Write);
        assert_eq!(fault_of(&uffd, &mut world.task), at(2));
        uffd.write_protect(&mut world.task, at(2), PUD_SIZE, ProtectMode::empty()).unwrap();
        protected.result();
        uffd.unregister(&mut world.task, at(1), PUD_SIZE).unwrap();
        uffd.close(&mut world.task).unwrap();
        world.end();
    }
}

/// Nobody shares their tables, also where a whole one could be.
#[test]
fn their_tables_are_each_processs_own() {
    let mut world = World::new(MapFlags::SHARED);
    world.touch(0, Access::Write);
    let child: Arc<AddressSpace<Host>> = world.space.fork(&mut world.task).unwrap();
    child.fault(&mut world.task, at(0), Access::Read).unwrap();
    assert_eq!(frame(&world.task, &child, at(0)), frame(&world.task, &world.space, at(0)));
    for space in [&child, &world.space] {
        assert!(space.tables(&mut world.task).unwrap().iter().all(|table| table.users == 1));
    }
    let shared = frame(&world.task, &child, at(0));
    world.hugetlb.unmap_page(&mut world.task, shared).unwrap();
    assert_eq!(entry(&world.task, &child, at(0)), Entry::None);
    child.exit(&mut world.task).unwrap();
    drop(child);
    world.end();
}
