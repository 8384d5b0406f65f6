//! What callers must not pass in, for every operation: the error that Linux returns, and nothing changes.
//!
//! Each row of the tables is one call. Before and after it everything that can be seen of the system is compared: counters,
//! page tables, mappings, what is known of each page, files. Where Linux has no such mistake (a task or a file of another
//! system; only a host can have two) the error is `EINVAL`.

mod file;
mod foreign;
mod gup;
mod mm;
mod pagewalk;
#[path = "../pages/mod.rs"]
mod pages;
mod rmap;
mod uffd;

use hugewalk::addr::{HugeFrame, VirtAddr};
use hugewalk::arch::PMD_SIZE;
use hugewalk::error::Errno;
use hugewalk::mm::{Backing, MapFlags, MapRequest, Placement};
use hugewalk::pagewalk::PageMap;
use hugewalk::pool::PoolCounters;
use hugewalk::uffd::{Features, Modes, Userfault};
use hugewalk::vma::{Nodes, Policy, Protection, VmaFlags};
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Host, HostConfig};

use pages::{File, RW, SMALL, Space, System, frame, page};

/// What is called, the error it has to return, and the call.
type Case = (&'static str, Errno, fn(&mut World) -> Option<Errno>);

/// The number of an error, if it is one.
macro_rules! errno {
    ($result:expr) => {
        $result.err().map(|error| error.errno())
    };
}
use errno;

/// Two pages of a file, shared; a hole; two pages to be read only, private; a hole; a page that may not be touched; a hole;
/// and from page 8 on two pages of a file, whose missing pages are a handler's.
struct World {
    hugetlb: System,
    task: Task<Host>,
    file: File,
    handled: File,
    space: Space,
    uffd: Userfault<Host>,
    /// Another handler of the same process.
    rival: Userfault<Host>,
    /// Another process, and the handler of its faults.
    other: Space,
    others: Userfault<Host>,
    /// A page that was used and is free.
    free: HugeFrame,
    foreign: Foreign,
}

/// Another system.
struct Foreign {
    hugetlb: System,
    task: Task<Host>,
    file: File,
}

const READ_ONLY: u64 = 3;
const UNTOUCHABLE: u64 = 6;
const HANDLED: u64 = 8;
const HOLE: u64 = 2;

fn host() -> System {
    let config = HostConfig::new().huge_bytes(64 * PMD_SIZE).max_tables(1000);
    let hugetlb = Hugetlb::new(Host::new(&config).unwrap()).unwrap();
    hugetlb.resize_pool(SMALL, 16);
    hugetlb
}

fn map(task: &mut Task<Host>, space: &Space, at: u64, protection: Protection, flags: MapFlags, file: &File) {
    let request = MapRequest {
        placement: Placement::Fixed(page(at)),
        length: file.size(),
        protection,
        flags,
        backing: Backing::File { file, offset: 0 },
    };
    space.mmap(task, &request).unwrap();
}

impl World {
    fn new() -> Self {
        let hugetlb = host();
        let mut task = hugewalk_host::task(&hugetlb).unwrap();
        let [file, private, handled] = [2, 2, 2].map(|pages| pages::file(&mut task, pages));
        let hidden = pages::file(&mut task, 1);
        let (space, other) = (AddressSpace::new(&hugetlb).unwrap(), AddressSpace::new(&hugetlb).unwrap());
        map(&mut task, &space, 0, RW, MapFlags::SHARED, &file);
        map(&mut task, &space, READ_ONLY, Protection::READ, MapFlags::empty(), &private);
        map(&mut task, &space, UNTOUCHABLE, Protection::empty(), MapFlags::SHARED, &hidden);
        map(&mut task, &space, HANDLED, RW, MapFlags::SHARED, &handled);
        map(&mut task, &other, 0, RW, MapFlags::SHARED, &file);
        let mut cpu = pages::cpu(&space);
        cpu.store(&mut task, page(0), 1).unwrap();
        cpu.load(&mut task, page(READ_ONLY)).unwrap();
        cpu.store(&mut task, page(HANDLED), 2).unwrap();
        let free = {
            let (space, file) = (AddressSpace::new(&hugetlb).unwrap(), pages::file(&mut task, 1));
            map(&mut task, &space, 0, RW, MapFlags::SHARED, &file);
            pages::cpu(&space).store(&mut task, page(0), 1).unwrap();
            frame(&task, &space, page(0))
        };
        let handler = |space| Userfault::new(space, Features::empty()).unwrap();
        let (uffd, rival, others) = (handler(&space), handler(&space), handler(&other));
        uffd.register(&mut task, page(HANDLED), 2 * PMD_SIZE, Modes::MISSING).unwrap();
        let foreign = {
            let hugetlb = host();
            // SAFETY: the first does nothing meanwhile, and every call refuses this one before it sleeps, enters or locks.
            let mut task = unsafe { Task::new(&hugetlb) }.unwrap();
            let file = pages::file(&mut task, 2);
            Foreign { hugetlb, task, file }
        };
        Self { hugetlb, task, file, handled, space, uffd, rival, other, others, free, foreign }
    }

    /// The frame of a page in use.
    fn frame(&self, number: u64) -> HugeFrame {
        frame(&self.task, &self.space, page(number))
    }

    fn look(&mut self) -> Look {
        let task = &mut self.task;
        let of_space = |space: &Space, task: &mut Task<Host>| {
            let mmap = space.mmap_read(task);
            let vmas: Vec<_> = mmap
                .vmas()
                .map(|vma| {
                    let place = (vma.start(), vma.pages(), vma.offset());
                    (place, vma.protection(), vma.flags(), vma.policy())
                })
                .collect();
            drop(mmap);
            (vmas, space.pagemap(task, page(0)..page(512)).unwrap())
        };
        let of_file = |file: &File| {
            let mut bytes = [0; 8];
            let read = file.read_at(0, &mut bytes).unwrap();
            (file.size(), file.pages(), read, bytes)
        };
        Look {
            counters: [&self.hugetlb, &self.foreign.hugetlb].map(pages::counters),
            tables: [&self.hugetlb, &self.foreign.hugetlb].map(|system| system.platform().usage().tables),
            spaces: [of_space(&self.space, task), of_space(&self.other, task)],
            files: [&self.file, &self.handled, &self.foreign.file].map(of_file),
            messages: [&self.uffd, &self.rival, &self.others].map(Userfault::poll),
        }
    }
}

type Mapping = ((VirtAddr, u64, u64), Protection, VmaFlags, Policy);

/// What can be seen of a world.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    counters: [PoolCounters; 2],
    tables: [u64; 2],
    spaces: [(Vec<Mapping>, Vec<(VirtAddr, PageMap)>); 2],
    files: [(u64, u64, usize, [u8; 8]); 3],
    messages: [bool; 3],
}

/// Makes each call in a world that stands as long as nothing changes it, which nothing may.
fn refuses(cases: &[Case]) {
    let mut world = World::new();
    let before = world.look();
    for &(name, expected, call) in cases {
        assert_eq!(call(&mut world), Some(expected), "{name}");
        assert_eq!(world.look(), before, "{name} has changed something");
    }
    // And what is right still works, on the same system.
    let mut cpu = pages::cpu(&world.space);
    assert_eq!(cpu.load(&mut world.task, page(0)), Ok(1));
    assert_eq!(cpu.store(&mut world.task, page(1), 3), Ok(()));
}

#[test]
fn pins_and_transfers_refuse_what_linux_refuses() {
    refuses(gup::CASES);
}

#[test]
fn page_walks_refuse_what_linux_refuses() {
    refuses(pagewalk::CASES);
}

#[test]
fn operations_on_pages_refuse_what_linux_refuses() {
    refuses(rmap::CASES);
}

#[test]
fn operations_on_files_refuse_what_linux_refuses() {
    refuses(file::CASES);
}

#[test]
fn handlers_of_faults_are_refused_what_linux_refuses() {
    refuses(uffd::CASES);
}

#[test]
fn operations_on_address_spaces_refuse_what_linux_refuses() {
    refuses(mm::CASES);
}

#[test]
fn every_operation_refuses_a_task_of_another_system() {
    let cases: Vec<Case> = foreign::CASES.iter().map(|&(name, call)| (name, Errno::EINVAL, call)).collect();
    refuses(&cases);
}

/// A length of 0 is no mistake for these, wherever it is; and it does nothing.
#[test]
fn nothing_is_done_to_ranges_of_length_0() {
    let mut world = World::new();
    let before = world.look();
    let World { task, space, .. } = &mut world;
    for at in [page(0), page(HOLE), VirtAddr::new(!4095)] {
        assert_eq!(space.pin_pages(task, at, 0, gup::PIN).unwrap().bytes(), 0);
        assert_eq!(space.pin_pages_nowait(task, at, 0, gup::PIN).unwrap().bytes(), 0);
        assert_eq!(space.read_bytes(task, at, &mut []), Ok(0));
        assert_eq!(space.write_bytes(task, at, &[]), Ok(0));
        assert_eq!(space.pagemap(task, at..at), Ok(vec![]));
        assert_eq!(space.mincore(task, at..at), Ok(vec![]));
        assert_eq!(space.sample_accessed(task, at..at), Ok(0));
        for advice in mm::ADVICE {
            assert_eq!(space.madvise(task, at, 0, advice), Ok(()));
        }
        assert_eq!(space.mprotect(task, at, 0, Protection::empty()), Ok(()));
        assert_eq!(space.mlock(task, at, 0), Ok(()));
        assert_eq!(space.munlock(task, at, 0), Ok(()));
        assert_eq!(space.mbind(task, at, 0, Policy::Bind(Nodes::empty())), Ok(()));
    }
    world.file.write_at(&mut world.task, u64::MAX, &[]).unwrap();
    assert_eq!(world.look(), before);
}

/// mmap(2) is older than the checks of its flags.
#[test]
fn a_mapping_with_unknown_rights_and_flags_is_one_without_them() {
    let World { mut task, space, file, .. } = World::new();
    let request = MapRequest {
        placement: Placement::Fixed(page(20)),
        length: PMD_SIZE,
        protection: RW | Protection::from_bits_retain(1 << 7),
        flags: MapFlags::SHARED | MapFlags::from_bits_retain(1 << 30),
        backing: Backing::File { file: &file, offset: 0 },
    };
    space.mmap(&mut task, &request).unwrap();
    let mmap = space.mmap_read(&mut task);
    let (known, unknown) = (mmap.find(page(0)).unwrap(), mmap.find(page(20)).unwrap());
    assert_eq!((known.protection(), known.flags()), (unknown.protection(), unknown.flags()));
}
