//! Truncation and holes step by step: whatever others do to the page between any two steps, it is gone in the end, and nothing
//! is left of it.
//!
//! Each test tries every access in turn: see `stepped`.

mod stepped;

use hugewalk::addr::{HugeFrame, HugeSize, VirtAddr};
use hugewalk::arch::{Entry, X86_64};
use hugewalk::fault::{Access, FaultError};
use hugewalk::file::HugeFile;
use hugewalk::mm::{Backing, MapError, MapFlags, MapRequest, Placement};
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk::walk::leaf_offset;
use hugewalk_host::{Contents, Host, HostConfig};

use stepped::{Stepped, Steps, interrupt};

type Hugetlb = hugewalk::Hugetlb<Stepped>;
type AddressSpace = hugewalk::AddressSpace<Stepped>;
type Task = hugewalk::Task<Stepped>;
type File = HugeFile<Stepped>;

const SMALL: HugeSize = X86_64::SIZE_2M;
const MIB2: u64 = SMALL.bytes();
const BASE: VirtAddr = VirtAddr::new(8 << 30);
const KINDS: [MapFlags; 2] = [MapFlags::SHARED, MapFlags::empty()];

/// A process that maps the only page of a file.
#[derive(Clone)]
struct World {
    hugetlb: Arc<Hugetlb>,
    file: Arc<File>,
    space: Arc<AddressSpace>,
}

impl World {
    fn new(pages: u64, flags: MapFlags) -> (Self, Task) {
        let config = HostConfig::new().huge_bytes(16 * MIB2).max_tables(100).contents(Contents::Nothing);
        let hugetlb = Hugetlb::new(Stepped(Host::new(&config).unwrap())).unwrap();
        assert_eq!(hugetlb.resize_pool(SMALL, pages), pages);
        let mut task = hugewalk_host::task(&hugetlb).unwrap();
        let file = HugeFile::new(&hugetlb, SMALL, None).unwrap();
        let space = AddressSpace::new(&hugetlb).unwrap();
        map(&space, &mut task, &file, flags).unwrap();
        (Self { hugetlb, file, space }, task)
    }

    fn touch(&self, task: &mut Task) -> HugeFrame {
        self.space.fault(task, BASE, Access::Write).unwrap();
        entry(&self.space, task).page().unwrap()
    }

    /// Is there no page any more, and no place for one?
    fn is_cut_off(&self, task: &mut Task, when: &str) {
        assert_eq!(self.file.pages(), 0, "{when}");
        assert_eq!(entry(&self.space, task), Entry::None, "{when}");
        let error = FaultError::BeyondEof { index: 0 };
        assert_eq!(self.space.fault(task, BASE, Access::Write), Err(error), "{when}");
    }

    /// Ends the process. Nothing is left.
    fn finish(self, mut task: Task, when: &str) {
        self.space.exit(&mut task).unwrap();
        drop((self.space, self.file));
        task.finish_drops();
        let counters = self.hugetlb.pool(SMALL).counters();
        assert_eq!((counters.free, counters.reserved), (counters.total, 0), "{when}");
    }
}

fn map(
    space: &AddressSpace,
    task: &mut Task,
    file: &Arc<File>,
    flags: MapFlags,
) -> Result<VirtAddr, MapError> {
    let request = MapRequest {
        placement: Placement::Fixed(BASE),
        length: MIB2,
        protection: Protection::READ | Protection::WRITE,
        flags,
        backing: Backing::File { file, offset: 0 },
    };
    space.mmap(task, &request)
}

fn entry(space: &AddressSpace, task: &Task) -> Entry {
    let section = task.rcu_read_lock();
    let found = leaf_offset(&section, space.mm(), BASE).unwrap();
    found.map_or(Entry::None, |(slot, _)| slot.read().expect("nobody unshares"))
}

/// Does `work` in a new world, with `others` having their turn before each step of it in turn, and then looks whether all is
/// `well`.
fn at_each_step<T: Send>(
    what: &str,
    world: impl Fn() -> (World, Task),
    others: impl Fn(&World, &mut Task) -> T + Sync,
    work: impl Fn(&World, &mut Task),
    well: impl Fn(&World, &mut Task, T, &str),
) {
    for number in 0.. {
        let (world, mut task) = world();
        let mut result = None;
        let turn = || result = Some(others(&world, &mut hugewalk_host::task(&world.hugetlb).unwrap()));
        let ((), interrupted) = interrupt(number, Steps::WordsAndLocks, turn, || work(&world, &mut task));
        let when = format!("{what}, step {number}");
        if interrupted {
            well(&world, &mut task, result.expect("it has had its turn"), &when);
        }
        world.finish(task, &when);
        if !interrupted {
            assert!(number > 10, "{what} has more than {number} steps");
            return;
        }
    }
}

#[test]
fn a_page_that_a_fault_brings_does_not_outlive_the_truncation_that_it_meets() {
    for flags in KINDS {
        at_each_step(
            "a fault",
            || World::new(2, flags),
            |world, task| world.file.truncate(task, 0).unwrap(),
            |world, task| {
                let _ = world.space.fault(task, BASE, Access::Write);
            },
            |world, task, (), when| world.is_cut_off(task, when),
        );
    }
}

#[test]
fn truncation_leaves_no_page_that_came_while_it_was_under_way() {
    for flags in KINDS {
        at_each_step(
            "a truncation",
            || {
                let (world, mut task) = World::new(3, flags | MapFlags::NORESERVE);
                world.file.allocate(&mut task, 0, MIB2, false).unwrap();
                (world, task)
            },
            |world, task| {
                let _ = world.space.fault(task, BASE, Access::Write);
            },
            |world, task| world.file.truncate(task, 0).unwrap(),
            |world, task, (), when| world.is_cut_off(task, when),
        );
    }
}

/// An entry tells of a failure as long as the file has the page that failed: whoever makes the hole takes both away.
#[test]
fn a_hole_leaves_no_trace_of_a_page_that_failed_while_it_was_made() {
    at_each_step(
        "a hole",
        || {
            let (world, mut task) = World::new(3, MapFlags::SHARED | MapFlags::NORESERVE);
            world.touch(&mut task);
            (world, task)
        },
        |world, task| {
            // Mapped again, if it was unmapped already.
            world.space.fault(task, BASE, Access::Write).unwrap();
            let frame = entry(&world.space, task).page()?;
            world.hugetlb.memory_failure(task, frame).is_ok().then_some(frame)
        },
        |world, task| world.file.punch_hole(task, 0, MIB2).unwrap(),
        |world, task, failed, when| {
            if matches!(entry(&world.space, task), Entry::Hwpoison(_)) {
                assert_eq!(world.file.pages(), 1, "{when}");
            }
            world.file.punch_hole(task, 0, MIB2).unwrap();
            assert_eq!(entry(&world.space, task), Entry::None, "{when}");
            if let Some(frame) = failed {
                world.hugetlb.unpoison(frame).unwrap();
            }
        },
    );
}

/// A page belongs to the file that has it, however soon after it left another.
#[test]
fn the_next_file_of_a_page_stays_its_owner() {
    at_each_step(
        "a hole",
        || {
            let (world, mut task) = World::new(1, MapFlags::SHARED | MapFlags::NORESERVE);
            world.touch(&mut task);
            (world, task)
        },
        |world, task| {
            let next = HugeFile::new(&world.hugetlb, SMALL, None).unwrap();
            let has_it = next.allocate(task, 0, MIB2, false).is_ok();
            (next, has_it)
        },
        |world, task| world.file.punch_hole(task, 0, MIB2).unwrap(),
        |world, task, (next, has_it), when| {
            if has_it {
                assert!(map(&world.space, task, &next, MapFlags::SHARED).is_ok(), "{when}");
                let frame = world.touch(task);
                assert_eq!(world.hugetlb.unmap_page(task, frame), Ok(()), "{when}");
            }
        },
    );
}

/// A page that the file has is as good as a reservation for whoever maps it, but not one that is about to go. So whoever maps what is
/// being punched out waits until it is gone, and then has a reservation, which others leave alone. Whoever was there first
/// loses it with the page.
#[test]
fn whoever_maps_what_is_being_punched_out_has_a_reservation_of_its_own() {
    at_each_step(
        "a hole",
        || {
            let (world, mut task) = World::new(1, MapFlags::SHARED);
            world.touch(&mut task);
            (world, task)
        },
        |world, task| {
            let space = AddressSpace::new(&world.hugetlb).unwrap();
            map(&space, task, &world.file, MapFlags::SHARED).unwrap();
            let came_first = world.hugetlb.pool(SMALL).counters().free == 0;
            (space, came_first)
        },
        |world, task| world.file.punch_hole(task, 0, MIB2).unwrap(),
        |world, task, (space, came_first), when| {
            let reserved = u64::from(!came_first);
            assert_eq!(world.hugetlb.pool(SMALL).counters().reserved, reserved, "{when}");
            let greedy = HugeFile::new(&world.hugetlb, SMALL, None).unwrap();
            assert_eq!(greedy.allocate(task, 0, MIB2, false).is_ok(), came_first, "{when}");
            assert_eq!(space.fault(task, BASE, Access::Write).is_err(), came_first, "{when}");
            space.exit(task).unwrap();
        },
    );
}
