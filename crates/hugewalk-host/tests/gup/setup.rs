//! A process to get pages of.

use hugewalk::addr::VirtAddr;
use hugewalk::arch::X86_64;
use hugewalk::file::HugeFile;
use hugewalk::gup::{GupError, GupFlags, Pins};
use hugewalk::mm::{Backing, MapError, MapFlags, MapRequest, Placement};
use hugewalk::pool::PoolCounters;
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::{Cpu, Host, HostConfig};

pub(crate) const MIB2: u64 = X86_64::SIZE_2M.bytes();
pub(crate) const GIB: u64 = X86_64::SIZE_1G.bytes();
pub(crate) const BASE: VirtAddr = VirtAddr::new(8 << 30);
pub(crate) const POOL: u64 = 64;

pub(crate) const GET: GupFlags = GupFlags::empty();
pub(crate) const PIN: GupFlags = GupFlags::PIN;
pub(crate) const WRITE: GupFlags = GupFlags::WRITE;
pub(crate) const DUMP: GupFlags = GupFlags::DUMP;
pub(crate) const LONGTERM: GupFlags = GupFlags::LONGTERM;
pub(crate) const BOTH: Protection = Protection::READ.union(Protection::WRITE);

/// A system, and one process in it.
pub(crate) struct World {
    pub(crate) hugetlb: Arc<Hugetlb<Host>>,
    pub(crate) task: Task<Host>,
    pub(crate) space: Arc<AddressSpace<Host>>,
}

impl World {
    pub(crate) fn new() -> Self {
        // Plenty of tables: those that were freed wait for readers.
        Self::with(&HostConfig::new().huge_bytes(4 * GIB).max_tables(100_000))
    }

    pub(crate) fn with(config: &HostConfig) -> Self {
        let hugetlb = Hugetlb::new(Host::new(config).unwrap()).unwrap();
        hugetlb.resize_pool(X86_64::SIZE_2M, POOL);
        let task = hugewalk_host::task(&hugetlb).unwrap();
        let space = AddressSpace::new(&hugetlb).unwrap();
        Self { hugetlb, task, space }
    }

    pub(crate) fn counters(&self) -> PoolCounters {
        self.hugetlb.pool(X86_64::SIZE_2M).counters()
    }

    /// A file of `pages` pages, mapped at `BASE`.
    pub(crate) fn map_file(&mut self, pages: u64, flags: MapFlags) -> Arc<HugeFile<Host>> {
        let file = file_of(&mut self.task, pages);
        map(&self.space, &mut self.task, &file, BASE, flags).unwrap();
        file
    }

    /// `pages` private pages of no file that others know, at `BASE`.
    pub(crate) fn map_private(&mut self, pages: u64) {
        map_anonymous(&self.space, &mut self.task, pages, BOTH);
    }

    pub(crate) fn cpu(&self) -> Cpu {
        Cpu::new(&self.space).unwrap()
    }

    pub(crate) fn pin(&mut self, page: u64, flags: GupFlags) -> Result<Pins<Host>, GupError> {
        self.space.pin_pages(&mut self.task, at(page, 0), 1, flags)
    }
}

pub(crate) fn file_of(task: &mut Task<Host>, pages: u64) -> Arc<HugeFile<Host>> {
    let file = HugeFile::new(task.hugetlb(), X86_64::SIZE_2M, None).unwrap();
    file.truncate(task, pages * MIB2).unwrap();
    file
}

pub(crate) fn map(
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

pub(crate) fn map_anonymous(
    space: &AddressSpace<Host>,
    task: &mut Task<Host>,
    pages: u64,
    protection: Protection,
) {
    let request = MapRequest {
        placement: Placement::Fixed(BASE),
        length: pages * MIB2,
        protection,
        flags: MapFlags::empty(),
        backing: Backing::Anonymous(X86_64::SIZE_2M),
    };
    space.mmap(task, &request).unwrap();
}

pub(crate) fn at(page: u64, offset: u64) -> VirtAddr {
    BASE.checked_add(page * MIB2 + offset).unwrap()
}

/// The first byte of the first page.
pub(crate) fn byte<H>(pins: &Pins<Host, H>) -> u8
where
    H: core::ops::Deref<Target = Hugetlb<Host>>,
{
    let mut byte = [0];
    assert_eq!(pins.page(0).unwrap().read(0, &mut byte), Ok(1));
    byte[0]
}
