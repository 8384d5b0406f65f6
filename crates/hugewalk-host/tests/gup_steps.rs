//! get_user_pages without a lock, with everything that others can do happening between any two of its steps.
//!
//! Each test tries every access in turn: see `stepped`.

mod stepped;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{PUD_SIZE, X86_64};
use hugewalk::fault::Access;
use hugewalk::file::HugeFile;
use hugewalk::gup::{GupFlags, PinnedPage, SystemRef};
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Placement};
use hugewalk::platform::Pages as _;
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk_host::{Host, HostConfig};

use stepped::{Footprint, Stepped, Steps, footprint, interrupt};

type Hugetlb = hugewalk::Hugetlb<Stepped>;
type AddressSpace = hugewalk::AddressSpace<Stepped>;
type Task = hugewalk::Task<Stepped>;
type File = HugeFile<Stepped>;

const MIB2: u64 = X86_64::SIZE_2M.bytes();
const BASE: VirtAddr = VirtAddr::new(8 << 30);
const POOL: u64 = 16;
/// The page that is looked at.
const HERE: u64 = 400;
const OWN: u8 = 0xaa;
const FOREIGN: u8 = 0xbb;

// The world.

fn at(page: u64) -> VirtAddr {
    BASE.checked_add(page * MIB2).unwrap()
}

fn system() -> Arc<Hugetlb> {
    let config = HostConfig::new().huge_bytes(64 * MIB2).max_tables(1000);
    let hugetlb = Hugetlb::new(Stepped(Host::new(&config).unwrap())).unwrap();
    hugetlb.resize_pool(X86_64::SIZE_2M, POOL);
    hugetlb
}

fn all_is_free(hugetlb: &Hugetlb) -> bool {
    let counters = hugetlb.pool(X86_64::SIZE_2M).counters();
    (counters.free, counters.reserved) == (POOL, 0)
}

fn map(space: &AddressSpace, task: &mut Task, file: &Arc<File>) {
    let request = MapRequest {
        placement: Placement::Fixed(BASE),
        length: file.size(),
        protection: Protection::READ | Protection::WRITE,
        flags: MapFlags::SHARED | MapFlags::NORESERVE,
        backing: Backing::File { file, offset: 0 },
    };
    space.mmap(task, &request).unwrap();
}

/// A private page at the place that is looked at, with this byte in it.
fn map_private(space: &AddressSpace, task: &mut Task, byte: u8) {
    let request = MapRequest {
        placement: Placement::Fixed(at(HERE)),
        length: MIB2,
        protection: Protection::READ | Protection::WRITE,
        flags: MapFlags::empty(),
        backing: Backing::Anonymous(X86_64::SIZE_2M),
    };
    space.mmap(task, &request).unwrap();
    space.write_bytes(task, at(HERE), &[byte]).unwrap();
}

/// What a look without a lock came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Refused,
    Byte(u8),
}

fn look(space: &AddressSpace, task: &Task, flags: GupFlags) -> Look {
    match space.pin_page_fast(task, at(HERE), flags) {
        None => Look::Refused,
        Some(page) => {
            let mut byte = [0];
            page.read(0, &mut byte).unwrap();
            Look::Byte(byte[0])
        }
    }
}

/// Looks with `others` having their turn before each access in turn, in a fresh world each time. The world has one process
/// with a private page that holds `OWN`, and in the end room for what must outlive the look. Returns how often the look
/// came to something, and how often it was refused; the last look, which nobody interrupted, is not counted.
fn at_each_access<T: Send>(others: impl Fn(&Arc<AddressSpace>, &mut Task) -> T + Sync) -> (u32, u32) {
    let (mut found, mut refused) = (0, 0);
    for number in 0.. {
        let hugetlb = system();
        let mut task = hugewalk_host::task(&hugetlb).unwrap();
        let space = AddressSpace::new(&hugetlb).unwrap();
        map_private(&space, &mut task, OWN);
        let mut left = None;
        let turn = || left = Some(others(&space, &mut hugewalk_host::task(&hugetlb).unwrap()));
        let (look, interrupted) =
            interrupt(number, Steps::Words, turn, || look(&space, &task, GupFlags::PIN));
        match look {
            Look::Byte(OWN) => found += 1,
            Look::Refused => refused += 1,
            Look::Byte(other) => panic!("{other:#x} at access {number}"),
        }
        drop(left);
        task.finish_drops();
        space.exit(&mut task).unwrap();
        drop(space);
        assert!(all_is_free(&hugetlb), "at access {number}");
        if !interrupted {
            assert_eq!(look, Look::Byte(OWN));
            return (found - 1, refused);
        }
    }
    unreachable!("it has an end");
}

// The tests.

/// Scenario S9: the table is unshared, and becomes another process's own, who puts a foreign page there.
#[test]
fn a_look_never_gives_a_page_of_the_process_that_the_table_went_to() {
    let (mut found, mut refused) = (0, 0);
    for number in 0.. {
        let hugetlb = system();
        let mut task = hugewalk_host::task(&hugetlb).unwrap();
        let file = HugeFile::new(&hugetlb, X86_64::SIZE_2M, None).unwrap();
        file.truncate(&mut task, PUD_SIZE).unwrap();
        file.write_at(&mut task, HERE * MIB2, &[OWN]).unwrap();
        let (space, other) = (AddressSpace::new(&hugetlb).unwrap(), AddressSpace::new(&hugetlb).unwrap());
        for space in [&space, &other] {
            map(space, &mut task, &file);
            space.fault(&mut task, at(HERE), Access::Read).unwrap();
        }
        assert_eq!(space.tables(&mut task).unwrap()[0].users, 2);
        let turn = || {
            let mut task = hugewalk_host::task(&hugetlb).unwrap();
            space.madvise(&mut task, BASE, PUD_SIZE, Advice::DontNeed).unwrap();
            other.munmap(&mut task, at(256), 256 * MIB2).unwrap();
            map_private(&other, &mut task, FOREIGN);
        };
        let (look, interrupted) =
            interrupt(number, Steps::Words, turn, || look(&space, &task, GupFlags::PIN));
        match look {
            Look::Byte(OWN) => found += 1,
            Look::Refused => refused += 1,
            Look::Byte(other) => panic!("{other:#x} at access {number}"),
        }
        space.exit(&mut task).unwrap();
        other.exit(&mut task).unwrap();
        drop((file, space, other));
        assert!(all_is_free(&hugetlb), "at access {number}");
        if !interrupted {
            assert_eq!(look, Look::Byte(OWN));
            break;
        }
    }
    assert!(found > 1 && refused > 1, "{found} {refused}");
}

#[test]
fn a_look_never_gives_a_page_that_was_freed_and_given_to_another_process() {
    let (found, refused) = at_each_access(|space, task| {
        space.munmap(task, at(HERE), MIB2).unwrap();
        let other = AddressSpace::new(task.hugetlb()).unwrap();
        // The very page, unless the look has hold of it already: the pool hands out first what came back last.
        map_private(&other, task, FOREIGN);
        other
    });
    assert!(found > 0 && refused > 1, "{found} {refused}");
}

#[test]
fn a_look_never_gives_a_page_that_was_thrown_away_and_replaced() {
    let (found, refused) = at_each_access(|space, task| {
        space.madvise(task, at(HERE), MIB2, Advice::DontNeed).unwrap();
        let other = AddressSpace::new(task.hugetlb()).unwrap();
        map_private(&other, task, FOREIGN);
        space.write_bytes(task, at(HERE), &[OWN]).unwrap();
        other
    });
    assert!(found > 0 && refused > 1, "{found} {refused}");
}

#[test]
fn a_look_at_a_page_that_moves_finds_it_where_it_was_or_moved_or_is_refused() {
    let (found, refused) = at_each_access(|space, task| {
        let frame = space.follow_page(task, at(HERE), GupFlags::empty()).unwrap().unwrap().frame();
        let hugetlb = task.hugetlb().clone();
        // It stays where it is if the look has hold of it.
        let moved = hugetlb.migrate(task, frame).is_ok();
        let other = AddressSpace::new(&hugetlb).unwrap();
        if moved {
            map_private(&other, task, FOREIGN);
        }
        other
    });
    assert!(found > 0 && refused > 1, "{found} {refused}");
}

/// Either fork finds the pin, and the page stays the parent's; or the look finds that a child shares the page.
#[test]
fn what_is_stored_after_a_pin_that_met_a_fork_is_seen_through_the_pin() {
    // The page is writable, or write-protected and its process's alone: then nothing but counts tells.
    for writable in [true, false] {
        for fork_first in [true, false] {
            let (mut found, mut refused) = (0, 0);
            for number in 0.. {
                let hugetlb = system();
                let mut task = hugewalk_host::task(&hugetlb).unwrap();
                let space = AddressSpace::new(&hugetlb).unwrap();
                map_private(&space, &mut task, OWN);
                if !writable {
                    space.fork(&mut task).unwrap().exit(&mut task).unwrap();
                }
                let pin = |task: &Task| space.pin_page_fast(task, at(HERE), GupFlags::PIN);
                let fork = |task: &mut Task| space.fork(task).unwrap();
                let (child, pinned, interrupted);
                if fork_first {
                    let mut got = None;
                    let turn = || got = pin(&hugewalk_host::task(&hugetlb).unwrap());
                    (child, interrupted) = interrupt(number, Steps::Words, turn, || fork(&mut task));
                    let child: Arc<AddressSpace> = child;
                    pinned = if interrupted { got } else { pin(&task) };
                    check(&space, &child, &mut task, pinned, &mut found, &mut refused);
                } else {
                    let mut got = None;
                    let turn = || got = Some(fork(&mut hugewalk_host::task(&hugetlb).unwrap()));
                    (pinned, interrupted) = interrupt(number, Steps::Words, turn, || pin(&task));
                    let child = got.unwrap_or_else(|| fork(&mut task));
                    check(&space, &child, &mut task, pinned, &mut found, &mut refused);
                }
                space.exit(&mut task).unwrap();
                assert!(all_is_free(&hugetlb), "at access {number}");
                if !interrupted {
                    break;
                }
            }
            assert!(found > 1 && refused > 1, "{found} {refused}");
        }
    }
}

fn check(
    space: &AddressSpace,
    child: &AddressSpace,
    task: &mut Task,
    pinned: Option<PinnedPage<Stepped, SystemRef<'_, Stepped>>>,
    found: &mut u32,
    refused: &mut u32,
) {
    let mut byte = [0];
    match pinned {
        Some(pinned) => {
            space.write_bytes(task, at(HERE), &[1]).unwrap();
            pinned.read(0, &mut byte).unwrap();
            assert_eq!(byte, [1]);
            *found += 1;
        }
        None => *refused += 1,
    }
    child.read_bytes(task, at(HERE), &mut byte).unwrap();
    assert_eq!(byte, [OWN], "the child has what was there when it was forked");
    child.exit(task).unwrap();
}

/// While a page that a child shares is moved, its entries are migration entries one after the other. The parent does not
/// have the page to itself meanwhile, whatever is left of its mappings.
#[test]
fn what_is_stored_after_a_pin_that_met_a_move_is_seen_through_the_pin() {
    for forked in [true, false] {
        for from_child in [true, false] {
            let (mut found, mut refused) = (0, 0);
            for number in 0.. {
                let hugetlb = system();
                let mut task = hugewalk_host::task(&hugetlb).unwrap();
                let space = AddressSpace::new(&hugetlb).unwrap();
                map_private(&space, &mut task, OWN);
                let child = space.fork(&mut task).unwrap();
                if !forked {
                    child.write_bytes(&mut task, at(HERE), &[OWN]).unwrap();
                    space.write_bytes(&mut task, at(HERE), &[OWN]).unwrap();
                }
                let (here, there) = if from_child { (&child, &space) } else { (&space, &child) };
                let frame =
                    here.follow_page(&task, at(HERE), GupFlags::empty()).unwrap().map(|page| page.frame());
                let mut pinned = None;
                let turn = || {
                    let task = hugewalk_host::task(&hugetlb).unwrap();
                    pinned = here.pin_page_fast(&task, at(HERE), GupFlags::PIN);
                };
                let (moved, interrupted) =
                    interrupt(number, Steps::Words, turn, || hugetlb.migrate(&mut task, frame.unwrap()));
                assert!(moved.is_ok() || pinned.is_some(), "{moved:?} at access {number}");
                check(here, there, &mut task, pinned, &mut found, &mut refused);
                here.exit(&mut task).unwrap();
                assert!(all_is_free(&hugetlb), "at access {number}");
                if !interrupted {
                    break;
                }
            }
            assert!(refused > 5 && (forked || found > 5), "{found} {refused}");
            assert!(!forked || found == 0, "nobody has it to himself");
        }
    }
}

/// What two threads do at once is as fast as alone if neither writes a cache line that the other touches.
#[test]
fn looks_at_two_pages_of_one_table_write_no_cache_line_that_both_touch() {
    let footprints = two_looks(HERE, HERE + 1);
    assert_eq!(contended(&footprints), Vec::<usize>::new());
    for (page, footprint) in &footprints {
        // The slot in which a task says that it is in a read section; a line of its own, for the other did not touch it.
        let mut others: Vec<_> = footprint.written.iter().map(|&word| line(word)).collect();
        others.retain(|&written| written != line(*page));
        others.dedup();
        assert_eq!(others.len(), 1);
    }
}

#[test]
fn looks_at_one_page_contend_for_its_count_alone() {
    let footprints = two_looks(HERE, HERE);
    assert_eq!(contended(&footprints), [line(footprints[0].0)]);
}

/// Two tasks look at a page each and let go of it; where the record of its page lies, and what they touched.
fn two_looks(first: u64, second: u64) -> [(usize, Footprint); 2] {
    let hugetlb = system();
    let mut task = hugewalk_host::task(&hugetlb).unwrap();
    let file = File::new(&hugetlb, X86_64::SIZE_2M, None).unwrap();
    file.truncate(&mut task, PUD_SIZE).unwrap();
    let space = AddressSpace::new(&hugetlb).unwrap();
    map(&space, &mut task, &file);
    for page in [first, second] {
        space.fault(&mut task, at(page), Access::Write).unwrap();
    }
    // The table is shared, so that there is something to confirm.
    let sharer = space.fork(&mut task).unwrap();
    sharer.fault(&mut task, at(first), Access::Read).unwrap();
    // Both tasks are there before the first look, so that neither has the slot that the other had.
    // SAFETY: the host's RCU is the engine's own, which knows readers and not threads; nothing here waits.
    let lookers = [first, second].map(|page| (page, unsafe { Task::new(&hugetlb) }.unwrap()));
    let looked = lookers.map(|(page, task)| {
        footprint(|| {
            let page = space.pin_page_fast(&task, at(page), GupFlags::PIN | GupFlags::WRITE);
            let page = page.expect("it is mapped");
            // SAFETY: the page is pinned.
            unsafe { hugetlb.platform().page_record(page.frame()) }.addr().get()
        })
    });
    sharer.exit(&mut task).unwrap();
    space.exit(&mut task).unwrap();
    looked
}

fn line(address: usize) -> usize {
    address / 64
}

/// The cache lines that one writes and the other touches.
fn contended([(_, one), (_, other)]: &[(usize, Footprint); 2]) -> Vec<usize> {
    let touched = |by: &Footprint| by.read.union(&by.written).map(|&word| line(word)).collect::<Vec<_>>();
    let meets = |one: &Footprint, other: &Footprint| {
        let touched = touched(other);
        let written = one.written.iter().map(|&word| line(word));
        written.filter(|line| touched.contains(line)).collect::<Vec<_>>()
    };
    let mut lines = [meets(one, other), meets(other, one)].concat();
    lines.sort_unstable();
    lines.dedup();
    lines
}
