//! What the tests of rmap, migration, memory failure and truncation have in common.
#![allow(dead_code, reason = "each test crate uses a part")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use hugewalk::addr::{HugeFrame, HugeSize, VirtAddr};
use hugewalk::arch::{Entry, Leaf, PMD_SIZE, PUD_SIZE, X86_64};
use hugewalk::file::HugeFile;
use hugewalk::mm::{Backing, MapFlags, MapRequest, Placement};
use hugewalk::pool::PoolCounters;
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk::walk::leaf_offset;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Cpu, Host, HostConfig, Tracing};

pub(crate) type System = Arc<Hugetlb<Host>>;
pub(crate) type Space = Arc<AddressSpace<Host>>;
pub(crate) type File = Arc<HugeFile<Host>>;

pub(crate) const SMALL: HugeSize = X86_64::SIZE_2M;
pub(crate) const RW: Protection = Protection::READ.union(Protection::WRITE);
/// Where the tests map: one table covers what they use.
pub(crate) const START: u64 = 4 * PUD_SIZE;

/// A system with so many pages of 2 MiB, and a task of it.
pub(crate) fn system(pages: u64) -> (System, Task<Host>) {
    system_with(X86_64::FOUR_LEVELS, pages)
}

/// The same with tables of so many levels.
pub(crate) fn system_with(levels: X86_64, pages: u64) -> (System, Task<Host>) {
    let config =
        HostConfig::new().paging(levels).huge_bytes(4 * PUD_SIZE).max_tables(10_000).tracing(Tracing::Count);
    let hugetlb = Hugetlb::new(Host::new(&config).unwrap()).unwrap();
    assert_eq!(hugetlb.resize_pool(SMALL, pages), pages);
    let task = hugewalk_host::task(&hugetlb).unwrap();
    (hugetlb, task)
}

/// A task for a thread that exists in the story of a test only: the test plays its part itself, beside its own.
pub(crate) fn another(hugetlb: &System) -> Task<Host> {
    // SAFETY: the host's RCU is the engine's own, which knows readers and not threads: two readers on one thread are to it
    // what two threads are. A test in which one of them waits for the other hangs.
    unsafe { Task::new(hugetlb) }.unwrap()
}

/// Takes down what was dropped. Any task of the system does; that of the test may be borrowed.
pub(crate) fn finish_drops(hugetlb: &System) {
    thread::scope(|scope| {
        scope.spawn(|| hugewalk_host::task(hugetlb).unwrap().finish_drops()).join().unwrap();
    });
}

pub(crate) fn space(hugetlb: &System) -> Space {
    AddressSpace::new(hugetlb).unwrap()
}

pub(crate) fn cpu(space: &Space) -> Cpu {
    Cpu::new(space).unwrap()
}

pub(crate) fn file(task: &mut Task<Host>, pages: u64) -> File {
    let file = HugeFile::new(task.hugetlb(), SMALL, None).unwrap();
    file.truncate(task, pages * PMD_SIZE).unwrap();
    file
}

/// The address of a page of the range that [`map`] maps.
pub(crate) fn page(number: u64) -> VirtAddr {
    VirtAddr::new(START + number * PMD_SIZE)
}

/// Maps the whole of a file at [`START`].
pub(crate) fn map(task: &mut Task<Host>, space: &Space, file: &File, flags: MapFlags) {
    map_at(task, space, file, VirtAddr::new(START), file.size(), flags);
}

pub(crate) fn map_at(
    task: &mut Task<Host>,
    space: &Space,
    file: &File,
    at: VirtAddr,
    length: u64,
    flags: MapFlags,
) {
    let request = MapRequest {
        placement: Placement::Fixed(at),
        length,
        protection: RW,
        flags,
        backing: Backing::File { file, offset: 0 },
    };
    space.mmap(task, &request).unwrap();
}

/// A file of a gigabyte, mapped shared by so many address spaces that use one table, with its first page touched by all.
pub(crate) fn sharers(hugetlb: &System, task: &mut Task<Host>, count: usize) -> (File, Vec<Space>) {
    let file = file(task, 512);
    let spaces: Vec<Space> = (0..count).map(|_| space(hugetlb)).collect();
    for space in &spaces {
        map(task, space, &file, MapFlags::SHARED | MapFlags::NORESERVE);
        cpu(space).store(task, page(0), 1).unwrap();
    }
    assert_eq!(users(task, &spaces[0]), count as u64);
    (file, spaces)
}

/// How many address spaces use the table of the tests' range.
pub(crate) fn users(task: &mut Task<Host>, space: &Space) -> u64 {
    space.tables(task).unwrap().first().map_or(0, |table| table.users)
}

/// What the entry at an address says.
pub(crate) fn entry(task: &Task<Host>, space: &Space, address: VirtAddr) -> Entry {
    let section = task.rcu_read_lock();
    loop {
        match leaf_offset(&section, space.mm(), address).unwrap() {
            None => return Entry::None,
            Some((slot, _)) => {
                if let Ok(entry) = slot.read() {
                    return entry;
                }
            }
        }
    }
}

pub(crate) fn leaf(task: &Task<Host>, space: &Space, address: VirtAddr) -> Leaf {
    match entry(task, space, address) {
        Entry::Leaf(leaf) => leaf,
        other => panic!("{other:?} at {address:?}"),
    }
}

pub(crate) fn frame(task: &Task<Host>, space: &Space, address: VirtAddr) -> HugeFrame {
    leaf(task, space, address).frame
}

pub(crate) fn counters(hugetlb: &System) -> PoolCounters {
    finish_drops(hugetlb);
    hugetlb.pool(SMALL).counters()
}

/// Nothing is in use: all pages are free, no table is left, nothing is reserved.
pub(crate) fn assert_unused(hugetlb: &System, task: &mut Task<Host>) {
    task.rcu_barrier();
    let now = counters(hugetlb);
    assert_eq!((now.free, now.reserved), (now.total, 0), "{now:?}");
    assert_eq!(hugetlb.platform().usage().tables, 0);
}

/// Waits until something is so; fails the test if it takes too long.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}: waited in vain");
        thread::yield_now();
    }
}

/// Tells threads to stop when it goes out of scope, also when the test fails.
pub(crate) struct StopAtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A thread with a task of its own, and the news that it is done.
pub(crate) struct Worker<R> {
    done: Receiver<R>,
    thread: thread::JoinHandle<()>,
}

impl<R: Send + 'static> Worker<R> {
    pub(crate) fn start(hugetlb: &System, work: impl FnOnce(&mut Task<Host>) -> R + Send + 'static) -> Self {
        let (send, done) = channel();
        let hugetlb = hugetlb.clone();
        let thread = thread::spawn(move || {
            let mut task = hugewalk_host::task(&hugetlb).unwrap();
            let result = work(&mut task);
            drop(task);
            drop(hugetlb);
            let _ = send.send(result);
        });
        Self { done, thread }
    }

    /// Has it come to an end?
    pub(crate) fn is_done(&self) -> bool {
        self.thread.is_finished()
    }

    /// Is it still at work after a while?
    pub(crate) fn is_waiting(&self) -> bool {
        self.done.recv_timeout(Duration::from_millis(30)).is_err()
    }

    /// What it came to; fails the test if it takes too long.
    pub(crate) fn result(self) -> R {
        self.done.recv_timeout(Duration::from_secs(60)).expect("a thread hangs, or panicked")
    }
}
