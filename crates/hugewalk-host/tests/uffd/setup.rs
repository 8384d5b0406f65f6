//! A process with a mapping, and a thread that handles its faults.

use std::time::{Duration, Instant};

use hugewalk::addr::VirtAddr;
use hugewalk::arch::X86_64;
use hugewalk::error::Errno;
use hugewalk::fault::FaultError;
use hugewalk::file::HugeFile;
use hugewalk::mm::{Backing, MapFlags, MapRequest, Placement};
use hugewalk::sync::Arc;
use hugewalk::uffd::{Features, Message, Modes, Pagefault, Userfault, UserfaultError};
use hugewalk::vma::Protection;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Contents, Cpu, Host, HostConfig};

pub(crate) const MIB2: u64 = X86_64::SIZE_2M.bytes();
pub(crate) const GIB: u64 = X86_64::SIZE_1G.bytes();
pub(crate) const BASE: VirtAddr = VirtAddr::new(8 << 30);
pub(crate) const READ_WRITE: Protection = Protection::READ.union(Protection::WRITE);
/// How the two kinds of mapping are made.
pub(crate) const KINDS: [MapFlags; 2] = [MapFlags::empty(), MapFlags::SHARED];

pub(crate) type Space = Arc<AddressSpace<Host>>;
pub(crate) type File = Arc<HugeFile<Host>>;

/// The address of a byte of a page of the mapping.
pub(crate) fn at(page: u64, offset: u64) -> VirtAddr {
    BASE.checked_add(page * MIB2 + offset).unwrap()
}

pub(crate) fn system(contents: Contents) -> Arc<Hugetlb<Host>> {
    let config = HostConfig::new().huge_bytes(8 * GIB).max_tables(4000).contents(contents);
    let hugetlb = Hugetlb::new(Host::new(&config).unwrap()).unwrap();
    hugetlb.resize_pool(X86_64::SIZE_2M, 2048);
    hugetlb
}

pub(crate) fn file_of(task: &mut Task<Host>, pages: u64) -> File {
    let file = HugeFile::new(task.hugetlb(), X86_64::SIZE_2M, None).unwrap();
    file.truncate(task, pages * MIB2).unwrap();
    file
}

pub(crate) fn map_at(space: &Space, task: &mut Task<Host>, file: &File, start: VirtAddr, flags: MapFlags) {
    let request = MapRequest {
        placement: Placement::Fixed(start),
        length: file.size(),
        protection: READ_WRITE,
        flags,
        backing: Backing::File { file, offset: 0 },
    };
    space.mmap(task, &request).unwrap();
}

/// A process that maps all of a file at `BASE`, and a handle on its faults.
pub(crate) struct World {
    pub(crate) hugetlb: Arc<Hugetlb<Host>>,
    pub(crate) task: Task<Host>,
    pub(crate) file: File,
    pub(crate) space: Space,
    pub(crate) uffd: Userfault<Host>,
    pub(crate) pages: u64,
}

impl World {
    pub(crate) fn new(pages: u64, flags: MapFlags, features: Features) -> Self {
        Self::with_contents(Contents::Memory, pages, flags, features)
    }

    pub(crate) fn with_contents(contents: Contents, pages: u64, flags: MapFlags, features: Features) -> Self {
        let hugetlb = system(contents);
        let mut task = hugewalk_host::task(&hugetlb).unwrap();
        let file = file_of(&mut task, pages);
        let space = AddressSpace::new(&hugetlb).unwrap();
        map_at(&space, &mut task, &file, BASE, flags);
        let uffd = Userfault::new(&space, features).unwrap();
        Self { hugetlb, task, file, space, uffd, pages }
    }

    /// Registers the whole mapping.
    pub(crate) fn registered(pages: u64, flags: MapFlags, modes: Modes) -> Self {
        let mut world = Self::new(pages, flags, Features::empty());
        world.register(modes);
        world
    }

    pub(crate) fn register(&mut self, modes: Modes) {
        self.uffd.register(&mut self.task, BASE, self.pages * MIB2, modes).unwrap();
    }

    pub(crate) fn cpu(&self) -> Cpu {
        Cpu::new(&self.space).unwrap()
    }

    /// Runs `work` as another thread of the process, while `handler` goes on here; returns what both say.
    pub(crate) fn beside<R: Send, S>(
        &mut self,
        work: impl FnOnce(&mut Cpu, &mut Task<Host>) -> R + Send,
        handler: impl FnOnce(&mut Task<Host>, &Userfault<Host>) -> S,
    ) -> (R, S) {
        let Self { hugetlb, task, space, uffd, .. } = self;
        std::thread::scope(|scope| {
            let other = scope.spawn(move || {
                let mut task = hugewalk_host::task(hugetlb).unwrap();
                work(&mut Cpu::new(space).unwrap(), &mut task)
            });
            let handled = handler(task, uffd);
            (other.join().unwrap(), handled)
        })
    }

    /// Ends the process, and sees that everything it had went back.
    pub(crate) fn end(mut self) {
        self.space.exit(&mut self.task).unwrap();
        let Self { hugetlb, task, file, space, uffd, .. } = self;
        drop((uffd, space, file));
        let mut task = task;
        task.rcu_barrier();
        let counters = hugetlb.pool(X86_64::SIZE_2M).counters();
        assert_eq!(
            (counters.free, counters.reserved),
            (counters.total, 0),
            "pages or reservations were lost"
        );
    }
}

/// A page filled with a byte.
pub(crate) fn page_of(byte: u8) -> Vec<u8> {
    vec![byte; MIB2 as usize]
}

pub(crate) fn read_fault(uffd: &Userfault<Host>, task: &mut Task<Host>) -> Pagefault {
    match uffd.read_event(task).unwrap() {
        Message::Pagefault(fault) => fault,
        other => panic!("not a fault: {other:?}"),
    }
}

/// Waits for something that takes no more than a moment.
pub(crate) fn until(mut what: impl FnMut() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(60), "it did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Gives another thread time to do what it should not do.
pub(crate) fn a_while() {
    std::thread::sleep(Duration::from_millis(30));
}

pub(crate) fn errno<T: std::fmt::Debug>(result: Result<T, UserfaultError>) -> Errno {
    result.unwrap_err().errno()
}

/// What a load says.
pub(crate) fn load(cpu: &mut Cpu, task: &mut Task<Host>, page: u64) -> Result<u8, FaultError> {
    cpu.load(task, at(page, 5))
}

/// What a store says.
pub(crate) fn store(cpu: &mut Cpu, task: &mut Task<Host>, page: u64, value: u8) -> Result<(), FaultError> {
    cpu.store(task, at(page, 5), value)
}
