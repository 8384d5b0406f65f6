//! get_user_pages on the whole engine: what a pin keeps, what it refuses, and that no page is ever somebody else's.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use hugewalk::addr::{HugeSize, PUD_SIZE, VirtAddr};
use hugewalk::error::Errno;
use hugewalk::fault::{Access, FaultError};
use hugewalk::file::HugeFile;
use hugewalk::gup::{GupError, GupFlags, NotPinnedForWriting, Pins, TransferError};
use hugewalk::mm::{Advice, Backing, MapError, MapFlags, MapRequest, Placement};
use hugewalk::pool::PoolCounters;
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Cpu, Host, HostConfig};

const MIB2: u64 = HugeSize::Size2M.bytes();
const GIB: u64 = HugeSize::Size1G.bytes();
const BASE: VirtAddr = VirtAddr::new(8 << 30);
const POOL: u64 = 64;

const GET: GupFlags = GupFlags::empty();
const PIN: GupFlags = GupFlags::PIN;
const WRITE: GupFlags = GupFlags::WRITE;
const DUMP: GupFlags = GupFlags::DUMP;
const LONGTERM: GupFlags = GupFlags::LONGTERM;
const BOTH: Protection = Protection::READ.union(Protection::WRITE);

/// A system, and one process in it.
struct World {
    hugetlb: Arc<Hugetlb<Host>>,
    task: Task<Host>,
    space: Arc<AddressSpace<Host>>,
}

impl World {
    fn new() -> Self {
        // Plenty of tables: those that were freed wait for readers.
        Self::with(&HostConfig::new().huge_bytes(4 * GIB).max_tables(100_000))
    }

    fn with(config: &HostConfig) -> Self {
        let hugetlb = Hugetlb::new(Host::new(config).unwrap()).unwrap();
        hugetlb.resize_pool(HugeSize::Size2M, POOL);
        let task = Task::new(&hugetlb).unwrap();
        let space = AddressSpace::new(&hugetlb).unwrap();
        Self { hugetlb, task, space }
    }

    fn counters(&self) -> PoolCounters {
        self.hugetlb.pool(HugeSize::Size2M).counters()
    }

    /// A file of `pages` pages, mapped at `BASE`.
    fn map_file(&mut self, pages: u64, flags: MapFlags) -> Arc<HugeFile<Host>> {
        let file = file_of(&mut self.task, pages);
        map(&self.space, &mut self.task, &file, BASE, flags).unwrap();
        file
    }

    /// `pages` private pages of no file that others know, at `BASE`.
    fn map_private(&mut self, pages: u64) {
        map_anonymous(&self.space, &mut self.task, pages, BOTH);
    }

    fn cpu(&self) -> Cpu {
        Cpu::new(&self.space).unwrap()
    }

    fn pin(&mut self, page: u64, flags: GupFlags) -> Result<Pins<Host>, GupError> {
        self.space.pin_pages(&mut self.task, at(page, 0), 1, flags)
    }
}

fn file_of(task: &mut Task<Host>, pages: u64) -> Arc<HugeFile<Host>> {
    let file = HugeFile::new(task.hugetlb(), HugeSize::Size2M, None).unwrap();
    file.truncate(task, pages * MIB2).unwrap();
    file
}

fn map(
    space: &AddressSpace<Host>,
    task: &mut Task<Host>,
    file: &Arc<HugeFile<Host>>,
    start: VirtAddr,
    flags: MapFlags,
) -> Result<VirtAddr, MapError> {
    let request = MapRequest {
        placement: Placement::Fixed(start),
        length: file.size(),
        protection: BOTH,
        flags,
        backing: Backing::File { file, offset: 0 },
    };
    space.mmap(task, &request)
}

fn map_anonymous(space: &AddressSpace<Host>, task: &mut Task<Host>, pages: u64, protection: Protection) {
    let request = MapRequest {
        placement: Placement::Fixed(BASE),
        length: pages * MIB2,
        protection,
        flags: MapFlags::empty(),
        backing: Backing::Anonymous(HugeSize::Size2M),
    };
    space.mmap(task, &request).unwrap();
}

fn at(page: u64, offset: u64) -> VirtAddr {
    BASE.checked_add(page * MIB2 + offset).unwrap()
}

/// The first byte of the first page.
fn byte<H>(pins: &Pins<Host, H>) -> u8
where
    H: core::ops::Deref<Target = Hugetlb<Host>>,
{
    let mut byte = [0];
    assert_eq!(pins.pages()[0].read(0, &mut byte), 1);
    byte[0]
}

// What a pin keeps.

#[test]
fn a_pinned_page_survives_unmapping_truncation_fork_exit_and_the_end_of_all_who_knew_it() {
    let World { hugetlb, mut task, space } = World::new();
    let file = file_of(&mut task, 2);
    map(&space, &mut task, &file, BASE, MapFlags::SHARED).unwrap();
    Cpu::new(&space).unwrap().store(&mut task, BASE, 7).unwrap();
    let pins = space.pin_pages(&mut task, BASE, 1, PIN | WRITE).unwrap();
    let frame = pins.pages()[0].frame();

    space.munmap(&mut task, BASE, 2 * MIB2).unwrap();
    assert_eq!(byte(&pins), 7);
    file.truncate(&mut task, 0).unwrap();
    assert_eq!((byte(&pins), file.pages()), (7, 0));
    // Nobody is given the page meanwhile: not even the one who takes all that are free.
    map_anonymous(&space, &mut task, POOL - 1, BOTH);
    for page in 0..POOL - 1 {
        space.fault(&mut task, at(page, 0), Access::Write).unwrap();
        let other = space.follow_page(&task, at(page, 0), GET).unwrap().unwrap();
        assert_ne!(other.frame(), frame);
    }
    let child = space.fork(&mut task).unwrap();
    child.exit(&mut task);
    space.exit(&mut task);
    drop((file, child, space, task));
    assert_eq!(byte(&pins), 7);

    let free = || hugetlb.pool(HugeSize::Size2M).counters().free;
    assert_eq!(free(), POOL - 1);
    drop(pins);
    assert_eq!(free(), POOL);
}

#[test]
fn a_pinned_page_keeps_its_system_alive() {
    let World { hugetlb, mut task, space } = World::new();
    map_anonymous(&space, &mut task, 1, BOTH);
    let pins = space.pin_pages(&mut task, BASE, 1, PIN | WRITE).unwrap();
    let fast = space.pin_pages_fast(&mut task, BASE, 1, PIN | WRITE).unwrap();
    let [fast] = fast.into_pages().try_into().unwrap();
    let fast = fast.into_owned();
    drop((hugetlb, task, space));
    assert_eq!(pins.pages()[0].write(5, &[1, 2]), Ok(2));
    let mut bytes = [0; 3];
    assert_eq!(fast.read(5, &mut bytes), 3);
    assert_eq!(bytes, [1, 2, 0]);
    assert_eq!(fast.page().pins(), 2);
    drop(pins);
    assert_eq!((fast.page().pins(), fast.page().references()), (1, 1));
}

#[test]
fn contents_are_read_and_written_up_to_the_end_of_the_page_and_no_further() {
    let mut world = World::new();
    world.map_private(2);
    let pins = world.pin(0, PIN | WRITE).unwrap();
    let page = &pins.pages()[0];
    assert_eq!(page.write(MIB2 - 2, &[1, 2, 3]), Ok(2));
    let mut bytes = [9; 4];
    assert_eq!(page.read(MIB2 - 3, &mut bytes), 3);
    assert_eq!(bytes, [0, 1, 2, 9]);
    for offset in [MIB2, MIB2 + 1, u64::MAX] {
        assert_eq!(page.read(offset, &mut bytes), 0);
        assert_eq!(page.write(offset, &bytes), Ok(0));
    }
    let read_only = world.pin(0, PIN).unwrap();
    assert_eq!(read_only.pages()[0].write(0, &[1]), Err(NotPinnedForWriting));
    assert!(!read_only.pages()[0].is_writable());
}

#[test]
fn pins_and_references_are_counted_apart_and_both_given_back() {
    let mut world = World::new();
    world.map_private(1);
    let pinned = world.pin(0, PIN | WRITE).unwrap();
    let got = world.pin(0, GET).unwrap();
    let page = got.pages()[0].page();
    assert_eq!((page.pins(), page.references(), page.mapcount()), (1, 3, 1));
    drop(pinned);
    assert_eq!((page.pins(), page.references()), (0, 2));
    world.space.munmap(&mut world.task, BASE, MIB2).unwrap();
    assert_eq!((page.pins(), page.references(), page.mapcount()), (0, 1, 0));
    drop(got);
    assert_eq!(world.counters(), PoolCounters { total: POOL, free: POOL, reserved: 0, surplus: 0 });
}

// Ranges.

#[test]
fn a_range_gives_as_many_pages_as_it_touches() {
    let mut world = World::new();
    world.map_private(4);
    let pins = world.space.pin_pages(&mut world.task, at(0, MIB2 - 1), MIB2 + 2, PIN | WRITE).unwrap();
    assert_eq!((pins.pages().len(), pins.bytes(), pins.stopped_by()), (3, MIB2 + 2, None));
    assert_eq!(pins.small_pages(), 1 + 512 + 1);
    assert_eq!(pins.start(), at(0, MIB2 - 1));
    let frames: Vec<_> = pins.pages().iter().map(|page| page.frame()).collect();
    for (page, frame) in (0..).zip(frames) {
        let found = world.space.follow_page(&world.task, at(page, 99), GET).unwrap().unwrap();
        assert_eq!(found.frame(), frame);
    }
}

#[test]
fn a_range_that_ends_in_a_hole_gives_the_pages_before_it() {
    let mut world = World::new();
    world.map_private(2);
    for fast in [false, true] {
        let start = at(0, 4096);
        let (pages, bytes, stopped_by) = if fast {
            let pins = world.space.pin_pages_fast(&mut world.task, start, 8 * MIB2, PIN | WRITE).unwrap();
            (pins.small_pages(), pins.bytes(), pins.stopped_by())
        } else {
            let pins = world.space.pin_pages(&mut world.task, start, 8 * MIB2, PIN | WRITE).unwrap();
            (pins.small_pages(), pins.bytes(), pins.stopped_by())
        };
        assert_eq!((pages, bytes), (2 * 512 - 1, 2 * MIB2 - 4096));
        assert_eq!(stopped_by, Some(GupError::NotMapped { address: at(2, 0) }));
    }
    assert_eq!(world.pin(2, GET).unwrap_err(), GupError::NotMapped { address: at(2, 0) });
}

#[test]
fn a_range_across_mappings_stops_at_the_one_that_does_not_allow_it() {
    let mut world = World::new();
    world.map_private(3);
    world.space.mprotect(&mut world.task, at(1, 0), MIB2, Protection::READ).unwrap();
    world.space.mprotect(&mut world.task, at(2, 0), MIB2, Protection::WRITE).unwrap();
    let mut pin = |flags| world.space.pin_pages(&mut world.task, BASE, 3 * MIB2, flags).unwrap();
    let writing = pin(WRITE);
    assert_eq!(
        (writing.bytes(), writing.stopped_by()),
        (MIB2, Some(GupError::Protection { address: at(1, 0) }))
    );
    let reading = pin(GET);
    assert_eq!(reading.stopped_by(), Some(GupError::Protection { address: at(2, 0) }));
    assert_eq!(reading.stopped_by().unwrap().errno(), Errno::EFAULT);
    assert_eq!(reading.bytes(), 2 * MIB2);
}

#[test]
fn a_page_of_a_gigabyte_is_pinned_as_one() {
    let World { hugetlb, mut task, space } = World::new();
    assert_eq!(hugetlb.resize_pool(HugeSize::Size1G, 1), 1);
    let request = MapRequest {
        placement: Placement::Fixed(BASE),
        length: GIB,
        protection: BOTH,
        flags: MapFlags::SHARED,
        backing: Backing::Anonymous(HugeSize::Size1G),
    };
    space.mmap(&mut task, &request).unwrap();
    let pins = space.pin_pages(&mut task, at(3, 1), GIB - 3 * MIB2 - 1, PIN | WRITE).unwrap();
    assert_eq!((pins.pages().len(), pins.pages()[0].size()), (1, HugeSize::Size1G));
    assert!(space.pin_page_fast(&task, at(511, MIB2 - 1), PIN | WRITE).is_some());
    space.exit(&mut task);
    let free = || hugetlb.pool(HugeSize::Size1G).counters().free;
    assert_eq!(free(), 0);
    drop(pins);
    assert_eq!(free(), 1);
}

// Who must not sleep; who dumps core.

#[test]
fn who_must_not_sleep_gets_what_is_mapped_already_and_is_told_of_the_rest() {
    let mut world = World::new();
    world.map_private(3);
    world.space.fault(&mut world.task, at(0, 0), Access::Write).unwrap();
    world.space.fault(&mut world.task, at(1, 0), Access::Read).unwrap();
    let World { task, space, .. } = &world;
    let before = world.counters();
    let pins = space.pin_pages_nowait(task, at(0, 5), 3 * MIB2, PIN).unwrap();
    assert_eq!((pins.bytes(), pins.stopped_by()), (2 * MIB2 - 5, Some(GupError::WouldSleep)));
    let refused = |page, flags| space.pin_pages_nowait(task, at(page, 0), 1, flags).unwrap_err();
    assert_eq!(refused(2, PIN), GupError::WouldSleep);
    assert_eq!(refused(2, PIN).errno(), Errno::EAGAIN);
    assert_eq!(refused(2, DUMP), GupError::NoPage { address: at(2, 0) });
    assert_eq!(refused(3, PIN), GupError::NotMapped { address: at(3, 0) });
    // Mapped, but for a store it would have to be faulted once more.
    assert_eq!(refused(1, PIN | WRITE), GupError::WouldSleep);
    assert_eq!(world.counters(), before);
}

#[test]
fn who_must_not_sleep_does_not_wait_for_the_mmap_lock_either() {
    let mut world = World::new();
    world.map_private(1);
    world.space.fault(&mut world.task, BASE, Access::Write).unwrap();
    let World { hugetlb, task, space } = &world;
    let done = AtomicBool::new(false);
    let (mut had, mut refused) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut task = Task::new(hugetlb).unwrap();
            while !done.load(Ordering::Relaxed) {
                space.fork(&mut task).unwrap().exit(&mut task);
            }
        });
        while had < 100 || refused < 100 {
            match space.pin_pages_nowait(task, BASE, 1, GET) {
                Ok(pins) => had += pins.pages().len(),
                Err(error) => {
                    assert_eq!(error, GupError::WouldSleep);
                    refused += 1;
                }
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_core_dump_finds_holes_and_makes_no_pages() {
    let mut world = World::new();
    let file = world.map_file(3, MapFlags::SHARED);
    file.write_at(&mut world.task, MIB2, &[5]).unwrap();
    let before = world.counters();
    assert_eq!(world.pin(0, DUMP).unwrap_err(), GupError::NoPage { address: at(0, 0) });
    assert_eq!(world.pin(0, DUMP).unwrap_err().errno(), Errno::EFAULT);
    // The file has this page: it is mapped, and dumped.
    let pins = world.space.pin_pages(&mut world.task, at(1, 0), 2 * MIB2, DUMP).unwrap();
    assert_eq!((byte(&pins), pins.bytes()), (5, MIB2));
    assert_eq!(pins.stopped_by(), Some(GupError::NoPage { address: at(2, 0) }));
    assert_eq!((file.pages(), world.counters()), (1, before));
    // The table is there by now, and its entry is still empty.
    assert_eq!(world.pin(2, DUMP).unwrap_err(), GupError::NoPage { address: at(2, 0) });
}

// Copy-on-write.

#[test]
fn a_page_pinned_for_reading_is_copied_if_a_child_shares_it_and_stays_write_protected() {
    let mut world = World::new();
    world.map_private(1);
    let mut cpu = world.cpu();
    cpu.store(&mut world.task, BASE, 1).unwrap();
    let child = world.space.fork(&mut world.task).unwrap();
    let mut child_cpu = Cpu::new(&child).unwrap();

    // A mere reference is to the page that both have.
    let got = world.pin(0, GET).unwrap();
    assert_eq!(got.pages()[0].page().mapcount(), 2);
    // Without sleeping there is no way to copy it.
    let nowait = world.space.pin_pages_nowait(&world.task, BASE, 1, PIN);
    assert_eq!(nowait.unwrap_err(), GupError::WouldSleep);
    assert!(world.space.follow_page(&world.task, BASE, PIN).unwrap().is_none());
    assert!(world.space.pin_page_fast(&world.task, BASE, PIN).is_none());
    assert_eq!(got.pages()[0].page().pins(), 0);

    let pins = world.pin(0, PIN).unwrap();
    assert_ne!(pins.pages()[0].frame(), got.pages()[0].frame());
    assert_eq!((byte(&pins), pins.pages()[0].page().mapcount()), (1, 1));
    assert!(world.space.pin_page_fast(&world.task, BASE, PIN | WRITE).is_none(), "still write-protected");
    // What the process stores from now on is seen through the pin; by the child it is not.
    cpu.store(&mut world.task, BASE, 2).unwrap();
    assert_eq!((byte(&pins), byte(&got)), (2, 1));
    assert_eq!(child_cpu.load(&mut world.task, BASE), Ok(1));
    // The child has the old page to itself: no copy is needed for its pin.
    let pins = child.pin_pages(&mut world.task, BASE, 1, PIN).unwrap();
    assert_eq!(pins.pages()[0].frame(), got.pages()[0].frame());
}

#[test]
fn a_page_of_the_file_is_pinned_for_reading_as_it_is() {
    let mut world = World::new();
    let file = world.map_file(1, MapFlags::empty());
    file.write_at(&mut world.task, 0, &[3]).unwrap();
    let pins = world.pin(0, PIN).unwrap();
    assert_eq!((byte(&pins), pins.pages()[0].page().is_anon()), (3, false));
    // For writing it is copied.
    let copy = world.pin(0, PIN | WRITE).unwrap();
    copy.pages()[0].write(0, &[4]).unwrap();
    assert_eq!((byte(&copy), byte(&pins), copy.pages()[0].page().is_anon()), (4, 3, true));
    assert_eq!(world.cpu().load(&mut world.task, BASE), Ok(4));
}

#[test]
fn fork_leaves_a_pinned_page_to_the_parent_as_it_is_and_gives_the_child_a_copy() {
    let mut world = World::new();
    world.map_private(3);
    let mut cpu = world.cpu();
    for page in 0..3 {
        cpu.store(&mut world.task, at(page, 0), 10 + page as u8).unwrap();
    }
    let pins = world.pin(1, PIN).unwrap();
    let free = world.counters().free;
    let child = world.space.fork(&mut world.task).unwrap();
    assert_eq!(world.counters().free, free - 1);
    // Not even write-protected: a store needs no fault.
    let faults = cpu.stats().faults;
    cpu.store(&mut world.task, at(1, 0), 21).unwrap();
    assert_eq!((cpu.stats().faults, byte(&pins)), (faults, 21));
    assert_eq!(pins.pages()[0].page().mapcount(), 1);
    let mut child_cpu = Cpu::new(&child).unwrap();
    for page in 0..3 {
        assert_eq!(child_cpu.load(&mut world.task, at(page, 0)), Ok(10 + page as u8));
    }
    // The copy is the child's alone, and it may write to it at once.
    let own = child.follow_page(&world.task, at(1, 0), PIN | WRITE).unwrap().unwrap();
    assert_ne!(own.frame(), pins.pages()[0].frame());
    // The other pages are shared until somebody writes.
    assert!(child.follow_page(&world.task, at(0, 0), WRITE).unwrap().is_none());
    drop(own);
    child.exit(&mut world.task);
    assert_eq!(world.counters().free, free);
}

#[test]
fn a_mere_reference_does_not_keep_fork_from_sharing_the_page() {
    let mut world = World::new();
    world.map_private(1);
    let got = world.pin(0, WRITE).unwrap();
    let free = world.counters().free;
    let child = world.space.fork(&mut world.task).unwrap();
    assert_eq!((world.counters().free, got.pages()[0].page().mapcount()), (free, 2));
    child.exit(&mut world.task);
}

#[test]
fn a_fork_that_cannot_copy_a_pinned_page_leaves_nothing_behind() {
    let mut world = World::new();
    world.map_private(4);
    let mut cpu = world.cpu();
    for page in 0..4 {
        cpu.store(&mut world.task, at(page, 0), 1).unwrap();
    }
    let pins = world.space.pin_pages(&mut world.task, at(1, 0), 2 * MIB2, PIN).unwrap();
    // One page is left: enough for the first of the two copies.
    world.hugetlb.resize_pool(HugeSize::Size2M, 5);
    let (before, tables) = (world.counters(), world.hugetlb.platform().usage().tables);
    let error = world.space.fork(&mut world.task).unwrap_err();
    assert!(matches!(error, MapError::NoPage(_)), "{error:?}");
    assert_eq!(error.errno(), Errno::ENOMEM);
    world.task.rcu_barrier();
    assert_eq!((world.counters(), world.hugetlb.platform().usage().tables), (before, tables));
    for page in 0..4 {
        cpu.store(&mut world.task, at(page, 0), 2).unwrap();
    }
    assert_eq!((byte(&pins), world.counters()), (2, before), "all are the parent's alone again");
}

// Pages that fail, or move.

#[test]
fn a_page_with_a_hardware_error_is_an_error_of_its_own_in_every_way_to_ask() {
    let mut world = World::new();
    world.map_private(3);
    for page in 0..3 {
        world.cpu().store(&mut world.task, at(page, 0), 1).unwrap();
    }
    let held = world.pin(1, PIN).unwrap();
    let World { hugetlb, task, space } = &mut world;
    hugetlb.memory_failure(task, held.pages()[0].frame()).unwrap_err();
    let error = GupError::Hwpoison { address: at(1, 0), size: HugeSize::Size2M };
    assert_eq!(error.errno(), Errno::EHWPOISON);
    assert_eq!(space.pin_pages(task, at(1, 5), 1, PIN).unwrap_err(), error);
    assert_eq!(space.pin_pages(task, at(1, 5), 1, DUMP).unwrap_err(), error);
    assert_eq!(space.pin_pages_fast(task, at(1, 5), 1, GET).unwrap_err(), error);
    assert_eq!(space.pin_pages_nowait(task, at(1, 5), 1, WRITE).unwrap_err(), error);
    assert_eq!(space.follow_page(task, at(1, 5), GET).unwrap_err(), error);
    assert!(space.pin_page_fast(task, at(1, 5), GET).is_none());
    let pins = space.pin_pages(task, BASE, 3 * MIB2, PIN).unwrap();
    assert_eq!((pins.bytes(), pins.stopped_by()), (MIB2, Some(error)));
    // process_vm_readv knows one error only.
    let mut bytes = [0; 4];
    assert_eq!(space.read_bytes(task, at(1, 0), &mut bytes).unwrap_err().errno(), Errno::EFAULT);
    assert_eq!(space.read_bytes(task, at(0, MIB2 - 3), &mut bytes), Ok(3));
}

#[test]
fn a_pinned_page_does_not_move_and_one_that_moved_is_pinned_where_it_is() {
    let mut world = World::new();
    world.map_private(1);
    world.cpu().store(&mut world.task, BASE, 6).unwrap();
    for flags in [GET, PIN, PIN | LONGTERM | WRITE] {
        let pins = world.pin(0, flags).unwrap();
        let frame = pins.pages()[0].frame();
        let refused = world.hugetlb.migrate(&mut world.task, frame).unwrap_err();
        assert_eq!(refused.errno(), Errno::EBUSY);
        world.cpu().store(&mut world.task, BASE, 7).unwrap();
        assert_eq!(byte(&pins), 7);
        drop(pins);
        let moved = world.hugetlb.migrate(&mut world.task, frame).unwrap();
        let pins = world.pin(0, flags).unwrap();
        assert_eq!((pins.pages()[0].frame(), byte(&pins)), (moved, 7));
    }
}

// Fast GUP.

#[test]
fn fast_gup_takes_what_the_entry_allows_and_leaves_the_rest_to_the_slow_way() {
    let mut world = World::new();
    world.map_private(4);
    let World { task, space, .. } = &mut world;
    assert!(space.pin_page_fast(task, BASE, GET).is_none(), "no table yet");
    space.fault(task, at(0, 0), Access::Read).unwrap();
    space.fault(task, at(1, 0), Access::Write).unwrap();
    let fast = |page, flags| space.pin_page_fast(task, at(page, 77), flags).map(|page| page.is_writable());
    assert_eq!(fast(2, GET), None, "no page yet");
    assert_eq!((fast(0, GET), fast(0, PIN)), (Some(false), Some(false)));
    assert_eq!((fast(0, WRITE), fast(0, PIN | WRITE)), (None, None), "write-protected");
    assert_eq!((fast(1, WRITE), fast(1, PIN | LONGTERM | WRITE)), (Some(true), Some(true)));
    assert_eq!((fast(1, DUMP), fast(1, LONGTERM)), (None, None));
    assert_eq!(fast(1, GupFlags::from_bits_retain(1 << 20)), None);
    // The range: one page without a lock, two by way of a fault.
    let pins = space.pin_pages_fast(task, at(1, 0), 3 * MIB2, PIN | WRITE).unwrap();
    assert_eq!((pins.pages().len(), pins.stopped_by()), (3, None));
    drop(pins);
    space.mprotect(task, BASE, MIB2, Protection::empty()).unwrap();
    assert!(space.pin_page_fast(task, BASE, GET).is_none());
    let error = space.pin_pages_fast(task, BASE, 1, GET).unwrap_err();
    assert_eq!(error, GupError::Protection { address: BASE });
}

#[test]
fn fast_gup_of_the_highest_addresses_finds_nothing_and_faults_nothing() {
    let mut world = World::new();
    world.map_private(1);
    let World { task, space, .. } = &mut world;
    let top = space.mm().levels().task_size();
    for address in [top.as_u64() - 1, top.as_u64(), 1 << 63, u64::MAX] {
        assert!(space.pin_page_fast(task, VirtAddr::new(address), GET).is_none());
        assert!(space.follow_page(task, VirtAddr::new(address), GET).unwrap().is_none());
    }
}

// process_vm_readv, process_vm_writev.

#[test]
fn bytes_of_another_process_are_transferred_across_pages_up_to_the_first_that_is_not_there() {
    let mut world = World::new();
    world.map_private(2);
    let World { task, space, .. } = &mut world;
    let text: Vec<u8> = (0..20_000).map(|n| (n % 251) as u8).collect();
    assert_eq!(space.write_bytes(task, at(0, MIB2 - 10_001), &text), Ok(text.len()));
    let mut back = vec![0; text.len()];
    assert_eq!(space.read_bytes(task, at(0, MIB2 - 10_001), &mut back), Ok(text.len()));
    assert_eq!(back, text);
    assert_eq!(space.write_bytes(task, at(1, MIB2 - 3), &text), Ok(3));
    assert_eq!(space.read_bytes(task, at(1, MIB2 - 4), &mut back), Ok(4));
    assert_eq!(back[..4], [0, 0, 1, 2]);
    let error = space.read_bytes(task, at(2, 0), &mut back).unwrap_err();
    assert_eq!(error, TransferError::NoPage(GupError::NotMapped { address: at(2, 0) }));
    assert_eq!(error.errno(), Errno::EFAULT);
    for address in [u64::MAX, u64::MAX - 5, 1 << 47] {
        let error = space.read_bytes(task, VirtAddr::new(address), &mut back).unwrap_err();
        assert_eq!(error.errno(), Errno::EFAULT);
    }
    assert_eq!(space.read_bytes(task, at(7, 0), &mut []), Ok(0));
    space.exit(task);
    assert_eq!(space.read_bytes(task, BASE, &mut back), Err(TransferError::Exited));
    assert_eq!(space.write_bytes(task, BASE, &text).unwrap_err().errno(), Errno::ESRCH);
    assert_eq!(space.read_bytes(task, BASE, &mut []), Ok(0));
}

#[test]
fn writing_to_another_process_copies_what_it_shares_copy_on_write() {
    let mut world = World::new();
    world.map_private(1);
    let World { task, space, .. } = &mut world;
    space.write_bytes(task, BASE, &[1]).unwrap();
    let child = space.fork(task).unwrap();
    assert_eq!(child.write_bytes(task, BASE, &[2]), Ok(1));
    let mut byte = [0];
    space.read_bytes(task, BASE, &mut byte).unwrap();
    assert_eq!(byte, [1]);
    child.read_bytes(task, BASE, &mut byte).unwrap();
    assert_eq!(byte, [2]);
    space.mprotect(task, BASE, MIB2, Protection::READ).unwrap();
    assert_eq!(space.write_bytes(task, BASE, &[3]).unwrap_err().errno(), Errno::EFAULT);
    space.read_bytes(task, BASE, &mut byte).unwrap();
    assert_eq!(byte, [1]);
}

// What the kernel's own gup_test asks of a range: that all of it can be had in pieces of any size, for reading and for
// writing, touched before or not, private or shared; that what was pinned counts as pinned until it is given back.

#[test]
fn a_range_can_be_had_in_pieces_of_any_size_and_counts_as_pinned_until_it_is_given_back() {
    const PAGES: u64 = 8;
    for map_flags in [MapFlags::empty(), MapFlags::SHARED] {
        for flags in [GET, WRITE, PIN, PIN | WRITE, PIN | LONGTERM, PIN | LONGTERM | WRITE] {
            for (touched, small_pages) in [(true, 1), (false, 3), (true, 512), (false, 700), (true, 4096)] {
                let mut world = World::new();
                let start = world.counters();
                let file = world.map_file(PAGES, map_flags);
                if touched {
                    for page in 0..PAGES {
                        world.cpu().store(&mut world.task, at(page, 0), 1).unwrap();
                    }
                }
                let (mut slow, mut fast) = (Vec::new(), Vec::new());
                // Single small pages of a huge one are all alike: a few will do.
                let step = if small_pages == 1 { 100 } else { small_pages };
                for first in (0..PAGES * 512).step_by(step) {
                    let address = at(0, first * 4096);
                    let length = (small_pages as u64).min(PAGES * 512 - first) * 4096;
                    let pins = world.space.pin_pages(&mut world.task, address, length, flags).unwrap();
                    assert_eq!((pins.small_pages() * 4096, pins.stopped_by()), (length, None));
                    slow.push(pins);
                    let pins = world.space.pin_pages_fast(&mut world.task, address, length, flags).unwrap();
                    assert_eq!((pins.small_pages() * 4096, pins.stopped_by()), (length, None));
                    fast.push(pins);
                }
                for (slow, fast) in slow.iter().zip(&fast) {
                    for (slow, fast) in slow.pages().iter().zip(fast.pages()) {
                        assert_eq!(slow.frame(), fast.frame());
                        assert_eq!(slow.page().pins() > 0, flags.contains(PIN));
                    }
                }
                let first = world.space.follow_page(&world.task, BASE, GET).unwrap().unwrap();
                drop((slow, fast));
                assert_eq!(first.page().pins(), 0);
                drop(first);
                world.space.exit(&mut world.task);
                drop(file);
                assert_eq!(world.counters(), start);
            }
        }
    }
}

// Bad input, and no memory.

#[test]
fn what_linux_refuses_is_refused_and_nothing_changes() {
    let mut world = World::new();
    world.map_private(2);
    let other = World::new();
    let before = world.counters();
    let World { task, space, .. } = &mut world;
    let top = space.mm().levels().task_size().as_u64();

    for flags in [LONGTERM, LONGTERM | WRITE, GupFlags::from_bits_retain(1 << 31) | PIN] {
        let errors = [
            space.pin_pages(task, BASE, 1, flags).unwrap_err(),
            space.pin_pages_fast(task, BASE, 1, flags).unwrap_err(),
            space.pin_pages_nowait(task, BASE, 1, flags).unwrap_err(),
            space.follow_page(task, BASE, flags).unwrap_err(),
        ];
        assert_eq!(errors, [GupError::BadFlags; 4]);
    }
    assert_eq!(space.pin_pages_fast(task, BASE, 1, DUMP).unwrap_err().errno(), Errno::EINVAL);

    for length in [0, 1, u64::MAX] {
        let mut foreign = Task::new(&other.hugetlb).unwrap();
        assert_eq!(space.pin_pages(&mut foreign, BASE, length, PIN).unwrap_err(), GupError::WrongSystem);
        assert_eq!(space.pin_pages_fast(&mut foreign, BASE, length, PIN).unwrap_err(), GupError::WrongSystem);
        assert_eq!(space.pin_pages_nowait(&foreign, BASE, length, PIN).unwrap_err(), GupError::WrongSystem);
        assert_eq!(space.follow_page(&foreign, BASE, PIN).unwrap_err(), GupError::WrongSystem);
        assert!(space.pin_page_fast(&foreign, BASE, PIN).is_none());
        assert_eq!(space.read_bytes(&mut foreign, BASE, &mut [0]).unwrap_err().errno(), Errno::EINVAL);
    }

    // A length of 0 is no error, wherever it is.
    for address in [0, BASE.as_u64(), BASE.as_u64() + 1, top] {
        let address = VirtAddr::new(address);
        assert_eq!(space.pin_pages(task, address, 0, PIN).unwrap().small_pages(), 0);
        assert_eq!(space.pin_pages_fast(task, address, 0, PIN).unwrap().small_pages(), 0);
        assert_eq!(space.pin_pages_nowait(task, address, 0, PIN).unwrap().small_pages(), 0);
    }
    // Ranges that wrap, or begin where nothing can be mapped.
    for (address, length) in [(0, u64::MAX), (u64::MAX, u64::MAX), (u64::MAX, 1), (top, 1), (top - 1, 2)] {
        let address = VirtAddr::new(address);
        assert_eq!(space.pin_pages(task, address, length, PIN).unwrap_err().errno(), Errno::EFAULT);
        assert_eq!(space.pin_pages_nowait(task, address, length, PIN).unwrap_err().errno(), Errno::EFAULT);
        assert_eq!(space.pin_pages_fast(task, address, length, PIN).unwrap_err().errno(), Errno::EFAULT);
    }
    let error = space.pin_pages_fast(task, BASE, u64::MAX - 5, PIN).unwrap_err();
    assert_eq!(error, GupError::OutOfRange { address: BASE, length: u64::MAX - 5 });
    assert_eq!(world.counters(), before);
}

#[test]
fn a_page_that_cannot_be_faulted_in_is_an_error_and_costs_nothing() {
    let mut world = World::new();
    let file = world.map_file(2, MapFlags::SHARED | MapFlags::NORESERVE);
    file.truncate(&mut world.task, MIB2).unwrap();
    let pins = world.space.pin_pages(&mut world.task, BASE, 2 * MIB2, PIN).unwrap();
    let beyond = GupError::Fault(FaultError::BeyondEof { index: 1 });
    assert_eq!((pins.bytes(), pins.stopped_by()), (MIB2, Some(beyond)));
    assert_eq!(beyond.errno(), Errno::EFAULT);
    drop(pins);
    file.truncate(&mut world.task, 0).unwrap();
    file.truncate(&mut world.task, 2 * MIB2).unwrap();
    world.hugetlb.resize_pool(HugeSize::Size2M, 0);
    let error = world.pin(0, PIN).unwrap_err();
    assert!(matches!(error, GupError::Fault(FaultError::PoolEmpty(_))), "{error:?}");
    assert_eq!(world.counters(), PoolCounters::default());
}

#[test]
fn without_memory_for_tables_or_pages_there_is_an_error_and_nothing_is_lost() {
    for flags in [PIN, PIN | WRITE] {
        for allowed in 0..3 {
            let mut world = World::new();
            let file = world.map_file(1, MapFlags::SHARED);
            let before = (world.counters(), world.hugetlb.platform().usage());
            world.hugetlb.platform().fail_tables_after(Some(allowed));
            let result = world.pin(0, flags).map(drop);
            world.hugetlb.platform().fail_tables_after(None);
            match allowed {
                0 | 1 => assert_eq!(result.unwrap_err().errno(), Errno::ENOMEM),
                _ => assert_eq!(result, Ok(())),
            }
            assert_eq!(world.pin(0, flags).unwrap().pages().len(), 1);
            world.space.exit(&mut world.task);
            drop(file);
            world.task.rcu_barrier();
            let after = (world.counters(), world.hugetlb.platform().usage());
            assert_eq!(after.0, PoolCounters { reserved: 0, ..before.0 });
            assert_eq!(after.1.tables, before.1.tables);
        }
    }
}

#[test]
fn a_pin_for_reading_that_cannot_copy_is_an_error_and_the_page_stays_shared() {
    let mut world = World::new();
    world.map_private(1);
    world.cpu().store(&mut world.task, BASE, 1).unwrap();
    let child = world.space.fork(&mut world.task).unwrap();
    world.hugetlb.resize_pool(HugeSize::Size2M, 1);
    let before = world.counters();
    let error = child.pin_pages(&mut world.task, BASE, 1, PIN).unwrap_err();
    assert!(matches!(error, GupError::Fault(FaultError::PoolEmpty(_))), "{error:?}");
    let got = child.pin_pages(&mut world.task, BASE, 1, GET).unwrap();
    let page = got.pages()[0].page();
    assert_eq!((page.mapcount(), page.pins(), page.references()), (2, 0, 3));
    assert_eq!(world.counters(), before);
    // The owner of the reservation takes the page from the child, as for a store.
    let pins = world.pin(0, PIN).unwrap();
    assert_eq!((byte(&pins), pins.pages()[0].page().mapcount()), (1, 1));
    let error = child.pin_pages(&mut world.task, BASE, 1, PIN).unwrap_err();
    assert_eq!(error, GupError::Fault(FaultError::TakenAway { address: BASE }));
}

// Many threads.

/// Sets the flag also when its thread panics, so that the others end.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Scenarios S9 and S30. One process looks at one page of a shared file without locks, while it unshares the table, and a
/// second process makes the table its own, puts a foreign page in that place, and shares the table anew.
#[test]
fn fast_gup_never_gives_a_page_of_the_process_that_the_table_went_to() {
    const SPARSE: u64 = 400;
    const OWN: u8 = 0xaa;
    const FOREIGN: u8 = 0xbb;
    let World { hugetlb, mut task, space } = World::new();
    let file = file_of(&mut task, 512);
    let sparse = MapFlags::SHARED | MapFlags::NORESERVE;
    file.write_at(&mut task, SPARSE * MIB2, &[OWN]).unwrap();
    let other = AddressSpace::new(&hugetlb).unwrap();
    map(&space, &mut task, &file, BASE, sparse).unwrap();
    map(&other, &mut task, &file, BASE, sparse).unwrap();
    let done = AtomicBool::new(false);
    let (looks, unshared) = (AtomicU64::new(0), AtomicU64::new(0));
    let start = Barrier::new(3);
    thread::scope(|scope| {
        // Looks without a lock.
        scope.spawn(|| {
            let ended = Done(&done);
            let task = Task::new(&hugetlb).unwrap();
            start.wait();
            while !done.load(Ordering::Relaxed) {
                if let Some(page) = space.pin_page_fast(&task, at(SPARSE, 0), PIN) {
                    let mut byte = [0];
                    page.read(0, &mut byte);
                    assert_eq!(byte, [OWN]);
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            }
            drop(ended);
        });
        // Unshares the table of the one who looks, and takes it up again.
        scope.spawn(|| {
            let ended = Done(&done);
            let mut task = Task::new(&hugetlb).unwrap();
            start.wait();
            while !done.load(Ordering::Relaxed) {
                space.fault(&mut task, at(SPARSE, 0), Access::Read).unwrap();
                thread::yield_now();
                let users = space.tables(&mut task).unwrap().first().map_or(0, |table| table.users);
                space.madvise(&mut task, BASE, PUD_SIZE, Advice::DontNeed).unwrap();
                unshared.fetch_add(u64::from(users == 2), Ordering::Relaxed);
            }
            drop(ended);
        });
        let ended = Done(&done);
        start.wait();
        let mut rounds = 0;
        while !done.load(Ordering::Relaxed)
            && (rounds < 300 || unshared.load(Ordering::Relaxed) < 50)
            && rounds < 20_000
        {
            rounds += 1;
            other.fault(&mut task, at(SPARSE, 0), Access::Read).unwrap();
            thread::yield_now();
            other.munmap(&mut task, at(256, 0), 256 * MIB2).unwrap();
            let request = MapRequest {
                placement: Placement::FixedNoReplace(at(SPARSE, 0)),
                length: MIB2,
                protection: BOTH,
                flags: MapFlags::empty(),
                backing: Backing::Anonymous(HugeSize::Size2M),
            };
            other.mmap(&mut task, &request).unwrap();
            other.write_bytes(&mut task, at(SPARSE, 0), &[FOREIGN]).unwrap();
            map(&other, &mut task, &file, BASE, sparse).unwrap();
        }
        drop(ended);
    });
    assert!(looks.load(Ordering::Relaxed) > 0);
    assert!(unshared.load(Ordering::Relaxed) > 0, "the table was never shared");
    drop(file);
    space.exit(&mut task);
    other.exit(&mut task);
    assert_eq!(hugetlb.pool(HugeSize::Size2M).counters().free, POOL);
}

/// fork write-protects and shares; a pin without a lock must either be seen by it, or see it.
#[test]
fn what_is_stored_after_the_pin_is_seen_through_the_pin_however_often_others_fork() {
    for flags in [PIN, PIN | WRITE] {
        let mut world = World::new();
        world.map_private(1);
        let World { hugetlb, task, space } = &mut world;
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let ended = Done(&done);
                let mut task = Task::new(hugetlb).unwrap();
                for _ in 0..2_000 {
                    let child = space.fork(&mut task).unwrap();
                    thread::yield_now();
                    child.exit(&mut task);
                }
                drop(ended);
            });
            let mut cpu = Cpu::new(space).unwrap();
            let mut value = 0_u64;
            while !done.load(Ordering::Relaxed) {
                let pinned = space.pin_pages_fast(task, BASE, 1, flags).unwrap();
                for _ in 0..10 {
                    value += 1;
                    cpu.store_u64(task, BASE, value).unwrap();
                    let mut bytes = [0; 8];
                    pinned.pages()[0].read(0, &mut bytes);
                    assert_eq!(u64::from_ne_bytes(bytes), value);
                }
            }
        });
        world.space.exit(&mut world.task);
        assert_eq!(world.counters(), PoolCounters { total: POOL, free: POOL, reserved: 0, surplus: 0 });
    }
}

/// A page that is being moved is mapped nowhere for a while: who pins it waits, or has it in one of the two places.
#[test]
fn what_is_stored_after_the_pin_is_seen_through_the_pin_however_often_others_move_the_page() {
    let mut world = World::new();
    world.map_private(1);
    let World { hugetlb, task, space } = &mut world;
    let done = AtomicBool::new(false);
    let moves = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let ended = Done(&done);
            let mut task = Task::new(hugetlb).unwrap();
            for _ in 0..1_000 {
                let page = space.follow_page(&task, BASE, GET).unwrap().map(|page| page.frame());
                let moved = page.map(|frame| hugetlb.migrate(&mut task, frame));
                moves.fetch_add(u64::from(matches!(moved, Some(Ok(_)))), Ordering::Relaxed);
                thread::yield_now();
            }
            drop(ended);
        });
        let mut cpu = Cpu::new(space).unwrap();
        let mut value = 0_u64;
        while !done.load(Ordering::Relaxed) {
            let pinned = space.pin_pages_fast(task, BASE, 1, PIN).unwrap();
            for _ in 0..3 {
                value += 1;
                cpu.store_u64(task, BASE, value).unwrap();
                let mut bytes = [0; 8];
                pinned.pages()[0].read(0, &mut bytes);
                assert_eq!(u64::from_ne_bytes(bytes), value);
            }
            drop(pinned);
            thread::yield_now();
        }
    });
    assert!(moves.load(Ordering::Relaxed) > 0);
    world.space.exit(&mut world.task);
    assert_eq!(world.counters(), PoolCounters { total: POOL, free: POOL, reserved: 0, surplus: 0 });
}

#[test]
fn pins_from_many_threads_leave_the_counts_as_they_were() {
    let mut world = World::new();
    world.map_private(4);
    let World { hugetlb, space, .. } = &world;
    thread::scope(|scope| {
        for number in 0..4_u64 {
            scope.spawn(move || {
                let mut task = Task::new(hugetlb).unwrap();
                for round in 0..500 {
                    let flags = if (round + number) % 2 == 0 { PIN | WRITE } else { GET };
                    let page = (round + number) % 4;
                    let kept = space.pin_pages(&mut task, at(page, 0), 2 * MIB2, flags).unwrap();
                    let fast = space.pin_pages_fast(&mut task, at(page, 9), 1, flags).unwrap();
                    assert_eq!((kept.pages().len(), fast.pages().len()), (if page == 3 { 1 } else { 2 }, 1));
                    if number == 0 && round % 10 == 0 {
                        space.madvise(&mut task, BASE, 4 * MIB2, Advice::DontNeed).unwrap();
                    }
                }
            });
        }
    });
    world.space.exit(&mut world.task);
    assert_eq!(world.counters(), PoolCounters { total: POOL, free: POOL, reserved: 0, surplus: 0 });
}
