//! Page walks and what is built on them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{Entry, PMD_SIZE, PUD_SIZE, X86_64};
use hugewalk::fault::{Access, FaultError};
use hugewalk::file::HugeFile;
use hugewalk::mm::{Advice, Backing, MapError, MapFlags, MapRequest, Placement, Residency};
use hugewalk::pagewalk::{Found, Next, PageMap, Resched, SleepingVisitor, Visitor};
use hugewalk::sync::Arc;
use hugewalk::vma::{Protection, Vma};
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Cpu, Host, HostConfig};

const START: u64 = 4 * PUD_SIZE;
const READ_WRITE: Protection = Protection::READ.union(Protection::WRITE);

fn page(n: u64) -> VirtAddr {
    VirtAddr::new(START + n * PMD_SIZE)
}

fn system(pages: u64) -> (Arc<Hugetlb<Host>>, Task<Host>) {
    let config = HostConfig::new().huge_bytes(4 * PUD_SIZE).contents(Contents::Nothing);
    let hugetlb = Hugetlb::new(Host::new(&config).unwrap()).unwrap();
    assert_eq!(hugetlb.resize_pool(X86_64::SIZE_2M, pages), pages);
    let task = hugewalk_host::task(&hugetlb).unwrap();
    (hugetlb, task)
}

fn map(task: &mut Task<Host>, space: &AddressSpace<Host>, at: VirtAddr, pages: u64, flags: MapFlags) {
    let request = MapRequest {
        placement: Placement::Fixed(at),
        length: pages * PMD_SIZE,
        protection: READ_WRITE,
        flags,
        backing: Backing::Anonymous(X86_64::SIZE_2M),
    };
    space.mmap(task, &request).unwrap();
}

/// Notes how often each page is visited, as an entry or in a hole.
#[derive(Default)]
struct Count {
    visits: BTreeMap<VirtAddr, u32>,
    leaves: u32,
}

impl Visitor<Host> for Count {
    fn entry(&mut self, found: &Found<'_, Host>) {
        *self.visits.entry(found.address()).or_default() += 1;
        self.leaves += u32::from(matches!(found.entry(), Entry::Leaf(_)));
    }

    fn hole(&mut self, _vma: &Vma<Host>, range: std::ops::Range<VirtAddr>) {
        let mut at = range.start.as_u64();
        while at < range.end.as_u64() {
            *self.visits.entry(VirtAddr::new(at)).or_default() += 1;
            at += PMD_SIZE;
        }
    }
}

#[test]
fn a_walk_visits_each_page_once_and_names_the_first_that_is_not_mapped() {
    let (hugetlb, mut task) = system(16);
    let space = AddressSpace::new(&hugetlb).unwrap();
    map(&mut task, &space, page(0), 3, MapFlags::empty());
    map(&mut task, &space, page(5), 2, MapFlags::empty());
    space.fault(&mut task, page(1), Access::Write).unwrap();
    let mut count = Count::default();
    let unmapped = space.walk_range(&mut task, page(0)..page(7), &mut count).unwrap();
    assert_eq!(unmapped, Some(page(3)));
    assert_eq!(count.leaves, 1);
    let visited: Vec<_> = count.visits.into_iter().collect();
    assert_eq!(visited, [0, 1, 2, 5, 6].map(|n| (page(n), 1)));
}

#[test]
fn a_walk_neither_misses_nor_repeats_an_entry_while_its_table_is_unshared() {
    let (hugetlb, mut task) = system(512);
    let parent = AddressSpace::new(&hugetlb).unwrap();
    map(&mut task, &parent, page(0), 512, MapFlags::SHARED | MapFlags::POPULATE);
    let child = parent.fork(&mut task).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut task = hugewalk_host::task(&hugetlb).unwrap();
            while !stop.load(Ordering::Relaxed) {
                child.fault(&mut task, page(7), Access::Read).unwrap();
                child.madvise(&mut task, page(7), PMD_SIZE, Advice::DontNeed).unwrap();
            }
        });
        for _ in 0..500 {
            let mut count = Count::default();
            assert_eq!(child.walk_range(&mut task, page(0)..page(512), &mut count), Ok(None));
            assert_eq!(count.visits.len(), 512);
            assert!(count.visits.values().all(|&visits| visits == 1));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Wants every page, as a device driver does that mirrors the range (hmm).
#[derive(Default)]
struct Mirror {
    seen: Vec<VirtAddr>,
    failed: Vec<VirtAddr>,
}

impl SleepingVisitor<Host> for Mirror {
    fn entry(
        &mut self,
        resched: &mut Resched<'_, Host>,
        _vma: &Vma<Host>,
        address: VirtAddr,
        entry: Entry,
    ) -> Next {
        // It may.
        resched.synchronize();
        resched.cond_resched();
        if entry == Entry::None {
            return Next::Fault(Access::Read);
        }
        self.seen.push(address);
        Next::Go
    }

    fn fault_failed(&mut self, address: VirtAddr, _error: FaultError) -> Next {
        self.failed.push(address);
        Next::Go
    }
}

#[test]
fn a_visitor_that_faults_comes_back_to_the_same_entry() {
    let (hugetlb, mut task) = system(16);
    let space = AddressSpace::new(&hugetlb).unwrap();
    map(&mut task, &space, page(0), 4, MapFlags::empty());
    space.fault(&mut task, page(2), Access::Write).unwrap();
    let mut mirror = Mirror::default();
    space.walk_range_sleeping(&mut task, page(0)..page(4), &mut mirror).unwrap();
    assert_eq!(mirror.seen, [0, 1, 2, 3].map(page));
    assert!(mirror.failed.is_empty());
}

/// Wants every page of a range whose tables others keep taking away.
#[derive(Default)]
struct Eager {
    seen: Vec<VirtAddr>,
    faults: u32,
}

impl SleepingVisitor<Host> for Eager {
    fn entry(
        &mut self,
        _resched: &mut Resched<'_, Host>,
        _vma: &Vma<Host>,
        address: VirtAddr,
        entry: Entry,
    ) -> Next {
        if entry == Entry::None {
            self.faults += 1;
            return Next::Fault(Access::Read);
        }
        self.seen.push(address);
        Next::Go
    }
}

#[test]
fn a_visitor_that_faults_neither_misses_nor_repeats_an_entry_while_its_table_is_unshared() {
    let (hugetlb, mut task) = system(512);
    let parent = AddressSpace::new(&hugetlb).unwrap();
    map(&mut task, &parent, page(0), 512, MapFlags::SHARED | MapFlags::POPULATE);
    let child = parent.fork(&mut task).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut task = hugewalk_host::task(&hugetlb).unwrap();
            while !stop.load(Ordering::Relaxed) {
                child.madvise(&mut task, page(7), PMD_SIZE, Advice::DontNeed).unwrap();
            }
        });
        let mut taken_away_within = 0;
        while taken_away_within < 20 {
            let mut eager = Eager::default();
            child.walk_range_sleeping(&mut task, page(0)..page(512), &mut eager).unwrap();
            assert_eq!(eager.seen, (0..512).map(page).collect::<Vec<_>>());
            // Once may be at the first entry.
            taken_away_within += u32::from(eager.faults > 1);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_visitor_learns_of_the_fault_that_failed_and_goes_on_behind_it() {
    let (hugetlb, mut task) = system(2);
    let space = AddressSpace::new(&hugetlb).unwrap();
    map(&mut task, &space, page(0), 4, MapFlags::NORESERVE);
    let mut mirror = Mirror::default();
    space.walk_range_sleeping(&mut task, page(0)..page(4), &mut mirror).unwrap();
    assert_eq!(mirror.seen, [0, 1].map(page));
    assert_eq!(mirror.failed, [2, 3].map(page));
}

#[test]
fn pagemap_tells_present_exclusive_and_file_pages_apart() {
    let (hugetlb, mut task) = system(16);
    let space = AddressSpace::new(&hugetlb).unwrap();
    map(&mut task, &space, page(0), 2, MapFlags::empty());
    map(&mut task, &space, page(2), 1, MapFlags::SHARED);
    space.fault(&mut task, page(1), Access::Read).unwrap();
    space.fault(&mut task, page(2), Access::Write).unwrap();
    let alone = space.pagemap(&mut task, page(0)..page(3)).unwrap();
    let file = PageMap::PRESENT | PageMap::EXCLUSIVE | PageMap::FILE | PageMap::SOFT_DIRTY;
    let expected = [PageMap::empty(), PageMap::PRESENT | PageMap::EXCLUSIVE, file];
    assert_eq!(alone.iter().map(|(_, map)| *map).collect::<Vec<_>>(), expected);

    let child = space.fork(&mut task).unwrap();
    let forked = space.pagemap(&mut task, page(1)..page(2)).unwrap();
    assert_eq!(forked, [(page(1), PageMap::PRESENT)]);
    drop(child);
}

#[test]
fn a_page_is_shared_that_other_entries_map_or_that_lies_in_a_table_of_others() {
    let (hugetlb, mut task) = system(1024);
    let space = AddressSpace::new(&hugetlb).unwrap();
    map(&mut task, &space, page(0), 512, MapFlags::SHARED);
    map(&mut task, &space, page(512), 2, MapFlags::POPULATE);
    space.fault(&mut task, page(3), Access::Write).unwrap();
    let smaps = |space: &AddressSpace<Host>, task: &mut Task<Host>| {
        let mut found = Vec::new();
        space.residency(task, |_, Residency { shared, private }| found.push((shared, private))).unwrap();
        found
    };
    let exclusive = |space: &AddressSpace<Host>, task: &mut Task<Host>| {
        space.pagemap(task, page(3)..page(4)).unwrap()[0].1.contains(PageMap::EXCLUSIVE)
    };
    assert_eq!(smaps(&space, &mut task), [(0, 1), (0, 2)]);
    assert!(exclusive(&space, &mut task));
    // The child's entries map the private pages too; of the shared one it has no entry yet.
    let child = space.fork(&mut task).unwrap();
    assert_eq!(smaps(&space, &mut task), [(0, 1), (2, 0)]);
    assert_eq!(smaps(&child, &mut task), [(0, 0), (2, 0)]);
    // It takes the table up: one entry, two processes.
    child.fault(&mut task, page(3), Access::Read).unwrap();
    let one_entry = space.numa_maps(&mut task, page(0)..page(512)).unwrap();
    assert_eq!((one_entry.pages, one_entry.mapmax), (1, 1));
    for either in [&space, &child] {
        assert_eq!(smaps(either, &mut task)[0], (1, 0));
        assert!(!exclusive(either, &mut task));
    }
    // It gives the table up, and then has an entry of its own.
    child.mprotect(&mut task, page(3), PMD_SIZE, Protection::READ).unwrap();
    assert_eq!((smaps(&space, &mut task)[0], exclusive(&space, &mut task)), ((0, 1), true));
    child.fault(&mut task, page(3), Access::Read).unwrap();
    assert_eq!(smaps(&space, &mut task)[0], (1, 0));
    assert_eq!(space.numa_maps(&mut task, page(0)..page(512)).unwrap().mapmax, 2);
    assert!(!exclusive(&space, &mut task) && !exclusive(&child, &mut task));
}

#[test]
fn soft_dirty_says_what_was_written_since_it_was_cleared() {
    let (hugetlb, mut task) = system(16);
    let space = AddressSpace::new(&hugetlb).unwrap();
    for flags in [MapFlags::empty(), MapFlags::SHARED] {
        map(&mut task, &space, page(0), 3, flags);
        let mut cpu = Cpu::new(&space).unwrap();
        for n in 0..3 {
            cpu.store(&mut task, page(n), 1).unwrap();
        }
        space.clear_soft_dirty(&mut task).unwrap();
        cpu.load(&mut task, page(0)).unwrap();
        cpu.store(&mut task, page(1), 2).unwrap();
        let map = space.pagemap(&mut task, page(0)..page(3)).unwrap();
        let dirty: Vec<_> = map.iter().map(|(_, map)| map.contains(PageMap::SOFT_DIRTY)).collect();
        assert_eq!(dirty, [false, true, false]);
    }
}

#[test]
fn what_is_stored_after_the_right_to_write_came_back_is_soft_dirty() {
    let (hugetlb, mut task) = system(16);
    let space = AddressSpace::new(&hugetlb).unwrap();
    for flags in [MapFlags::empty(), MapFlags::SHARED] {
        map(&mut task, &space, page(0), 1, flags);
        let mut cpu = Cpu::new(&space).unwrap();
        cpu.store(&mut task, page(0), 1).unwrap();
        space.clear_soft_dirty(&mut task).unwrap();
        for rights in [Protection::READ, READ_WRITE] {
            space.mprotect(&mut task, page(0), PMD_SIZE, rights).unwrap();
        }
        cpu.store(&mut task, page(0), 2).unwrap();
        let map = space.pagemap(&mut task, page(0)..page(1)).unwrap();
        assert!(map[0].1.contains(PageMap::SOFT_DIRTY), "{flags:?}");
    }
}

#[test]
fn mincore_finds_mapped_pages_and_those_in_the_page_cache() {
    let (hugetlb, mut task) = system(1030);
    let space = AddressSpace::new(&hugetlb).unwrap();
    map(&mut task, &space, page(0), 512, MapFlags::SHARED);
    space.fault(&mut task, page(3), Access::Write).unwrap();
    let child = space.fork(&mut task).unwrap();
    let resident = child.mincore(&mut task, page(2)..page(5)).unwrap();
    assert_eq!(resident, [(page(2), false), (page(3), true), (page(4), false)]);
    let hole = child.mincore(&mut task, page(510)..page(514));
    assert_eq!(hole, Err(MapError::NotMapped { address: page(512) }));
    // With a table of its own, though not with this page in it, the child is asked what it maps.
    child.mprotect(&mut task, page(0), page(512).offset_from(page(0)), Protection::READ).unwrap();
    child.fault(&mut task, page(4), Access::Read).unwrap();
    let resident = child.mincore(&mut task, page(2)..page(5)).unwrap();
    assert_eq!(resident, [(page(2), false), (page(3), false), (page(4), true)]);
}

#[test]
fn mincore_finds_pages_of_the_file_that_a_private_mapping_has_not_touched() {
    let (hugetlb, mut task) = system(16);
    let file = HugeFile::new(&hugetlb, X86_64::SIZE_2M, None).unwrap();
    file.write_at(&mut task, PMD_SIZE, &[1]).unwrap();
    let space = AddressSpace::new(&hugetlb).unwrap();
    let request = MapRequest {
        placement: Placement::Fixed(page(0)),
        length: 3 * PMD_SIZE,
        protection: READ_WRITE,
        flags: MapFlags::empty(),
        backing: Backing::File { file: &file, offset: 0 },
    };
    space.mmap(&mut task, &request).unwrap();
    let resident = space.mincore(&mut task, page(0)..page(3)).unwrap();
    assert_eq!(resident, [(page(0), false), (page(1), true), (page(2), false)]);
}

#[test]
fn access_sampling_counts_what_was_touched_since_the_last_sample() {
    let (hugetlb, mut task) = system(16);
    let space = AddressSpace::new(&hugetlb).unwrap();
    map(&mut task, &space, page(0), 8, MapFlags::POPULATE);
    assert_eq!(space.sample_accessed(&mut task, page(0)..page(8)), Ok(8));
    assert_eq!(space.sample_accessed(&mut task, page(0)..page(8)), Ok(0));
    let mut cpu = Cpu::new(&space).unwrap();
    cpu.load(&mut task, page(2)).unwrap();
    cpu.load(&mut task, page(5)).unwrap();
    assert_eq!(space.sample_accessed(&mut task, page(0)..page(8)), Ok(2));
}

#[test]
fn numa_maps_adds_the_pages_up() {
    let (hugetlb, mut task) = system(16);
    let space = AddressSpace::new(&hugetlb).unwrap();
    map(&mut task, &space, page(0), 4, MapFlags::POPULATE);
    map(&mut task, &space, page(4), 2, MapFlags::SHARED | MapFlags::POPULATE);
    let child = space.fork(&mut task).unwrap();
    let totals = space.numa_maps(&mut task, page(0)..page(6)).unwrap();
    assert_eq!((totals.pages, totals.anon, totals.dirty, totals.mapmax), (6, 4, 6, 2));
    drop(child);
}
