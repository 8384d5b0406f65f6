//! Two processes that share the table of a gigabyte of a file, on the stepped host.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{PUD_SIZE, X86_64};
use hugewalk::fault::Access;
use hugewalk::file::HugeFile;
use hugewalk::mm::{Backing, MapFlags, MapRequest, Placement};
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk_host::{Contents, Host, HostConfig};

use crate::stepped::Stepped;

pub(crate) type Hugetlb = hugewalk::Hugetlb<Stepped>;
pub(crate) type AddressSpace = hugewalk::AddressSpace<Stepped>;
pub(crate) type Task = hugewalk::Task<Stepped>;
pub(crate) type File = HugeFile<Stepped>;

pub(crate) const MIB2: u64 = X86_64::SIZE_2M.bytes();
pub(crate) const BASE: VirtAddr = VirtAddr::new(8 << 30);
const POOL: u64 = 8;

pub(crate) fn at(page: u64) -> VirtAddr {
    BASE.checked_add(page * MIB2).unwrap()
}

pub(crate) struct World {
    pub(crate) hugetlb: Arc<Hugetlb>,
    pub(crate) task: Task,
    pub(crate) file: Arc<File>,
    pub(crate) one: Arc<AddressSpace>,
    pub(crate) two: Arc<AddressSpace>,
}

pub(crate) fn map(
    space: &AddressSpace,
    task: &mut Task,
    start: VirtAddr,
    length: u64,
    flags: MapFlags,
    backing: Backing<'_, Stepped>,
) {
    let protection = Protection::READ | Protection::WRITE;
    let request = MapRequest { placement: Placement::Fixed(start), length, protection, flags, backing };
    space.mmap(task, &request).unwrap();
}

impl World {
    /// Both map the gigabyte; `one` has touched its first page, and if `shared`, `two` has as well.
    pub(crate) fn new(contents: Contents, shared: bool) -> Self {
        let config = HostConfig::new().huge_bytes(16 * MIB2).max_tables(200).contents(contents);
        let hugetlb = Hugetlb::new(Stepped(Host::new(&config).unwrap())).unwrap();
        hugetlb.resize_pool(X86_64::SIZE_2M, POOL);
        let mut task = hugewalk_host::task(&hugetlb).unwrap();
        let file = HugeFile::new(&hugetlb, X86_64::SIZE_2M, None).unwrap();
        file.truncate(&mut task, PUD_SIZE).unwrap();
        let (one, two) = (AddressSpace::new(&hugetlb).unwrap(), AddressSpace::new(&hugetlb).unwrap());
        for (space, touches) in [(&one, true), (&two, shared)] {
            let flags = MapFlags::SHARED | MapFlags::NORESERVE;
            map(space, &mut task, BASE, PUD_SIZE, flags, Backing::File { file: &file, offset: 0 });
            if touches {
                space.fault(&mut task, BASE, Access::Write).unwrap();
            }
        }
        Self { hugetlb, task, file, one, two }
    }

    pub(crate) fn users(&mut self, space: &AddressSpace) -> u64 {
        users(space, &mut self.task)
    }

    /// Everything is gone, and nothing is left behind.
    pub(crate) fn end(self, number: u64) {
        let Self { hugetlb, mut task, file, one, two } = self;
        one.exit(&mut task).unwrap();
        two.exit(&mut task).unwrap();
        drop((file, one, two));
        task.rcu_barrier();
        let counters = hugetlb.pool(X86_64::SIZE_2M).counters();
        assert_eq!((counters.free, counters.reserved), (POOL, 0), "at step {number}");
        assert_eq!(hugetlb.platform().0.usage().tables, 0, "at step {number}");
    }
}

/// How many address spaces use the table of the gigabyte; 0 if there is none.
pub(crate) fn users(space: &AddressSpace, task: &mut Task) -> u64 {
    space.tables(task).unwrap().first().map_or(0, |table| table.users)
}

/// Ends the tests if what it watches takes too long, which is for ever: threads that wait for each other could not even be
/// dropped.
pub(crate) struct Watchdog {
    _over: Sender<()>,
}

impl Watchdog {
    pub(crate) fn new(what: &'static str) -> Self {
        let (over, ended) = channel();
        thread::spawn(move || {
            // Ends when the sender is dropped.
            if ended.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{what} comes to no end");
                std::process::abort();
            }
        });
        Self { _over: over }
    }
}
