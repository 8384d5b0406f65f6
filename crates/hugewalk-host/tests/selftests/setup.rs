//! A machine with a pool of huge pages, and what a C program would do with it.

use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::arch::{PMD_SIZE, X86_64};
use hugewalk::mm::{Backing, MapError, MapFlags, MapRequest, Placement};
use hugewalk::pool::PoolCounters;
use hugewalk::vma::Protection;
use hugewalk::{AddressSpace, Task};
use hugewalk_host::{Cpu, Host};

use crate::pages::{self, File, RW, SMALL, Space, System};

pub(crate) const MIB2: u64 = PMD_SIZE;
pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const SHARED: MapFlags = MapFlags::SHARED;
pub(crate) const PRIVATE: MapFlags = MapFlags::empty();
pub(crate) const NORESERVE: MapFlags = MapFlags::NORESERVE;
/// Where mappings are made.
pub(crate) const BASE: VirtAddr = VirtAddr::new(8 * GIB);

/// The machine, and the thread that runs the test.
pub(crate) struct Machine {
    pub(crate) hugetlb: System,
    pub(crate) task: Task<Host>,
}

impl Machine {
    pub(crate) fn new(pages: u64) -> Self {
        let (hugetlb, task) = pages::system(pages);
        Self { hugetlb, task }
    }

    /// `HugePages_Free` and its like.
    pub(crate) fn counters(&self) -> PoolCounters {
        pages::counters(&self.hugetlb)
    }

    pub(crate) fn free(&self) -> u64 {
        self.counters().free
    }

    /// Total, free, reserved, surplus.
    pub(crate) fn four(&self) -> (u64, u64, u64, u64) {
        let PoolCounters { total, free, reserved, surplus } = self.counters();
        (total, free, reserved, surplus)
    }

    pub(crate) fn process(&self) -> Space {
        AddressSpace::new(&self.hugetlb).unwrap()
    }

    pub(crate) fn file(&mut self, pages: u64) -> File {
        pages::file(&mut self.task, pages)
    }

    /// Maps the start of a file, readable and writable.
    pub(crate) fn map(&mut self, space: &Space, file: &File, at: VirtAddr, length: u64, flags: MapFlags) {
        self.try_map(space, file, at, length, flags).unwrap();
    }

    pub(crate) fn try_map(
        &mut self,
        space: &Space,
        file: &File,
        at: VirtAddr,
        length: u64,
        flags: MapFlags,
    ) -> Result<VirtAddr, MapError> {
        let backing = Backing::File { file, offset: 0 };
        self.mmap(space, Placement::Fixed(at), length, RW, flags, backing)
    }

    pub(crate) fn anonymous(&mut self, space: &Space, at: VirtAddr, length: u64, flags: MapFlags) {
        let backing = Backing::Anonymous(SMALL);
        self.mmap(space, Placement::Fixed(at), length, RW, flags, backing).unwrap();
    }

    pub(crate) fn mmap(
        &mut self,
        space: &Space,
        placement: Placement,
        length: u64,
        protection: Protection,
        flags: MapFlags,
        backing: Backing<'_, Host>,
    ) -> Result<VirtAddr, MapError> {
        space.mmap(&mut self.task, &MapRequest { placement, length, protection, flags, backing })
    }

    /// The test is over: all of the pool is free again.
    pub(crate) fn end(mut self) {
        pages::assert_unused(&self.hugetlb, &mut self.task);
    }
}

pub(crate) fn at(page: u64) -> VirtAddr {
    after(BASE, page * MIB2)
}

pub(crate) fn after(start: VirtAddr, bytes: u64) -> VirtAddr {
    start.checked_add(bytes).unwrap()
}

pub(crate) fn cpu(space: &Space) -> Cpu {
    pages::cpu(space)
}

/// What a page holds: its number, and then each byte its own number.
fn pattern(number: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..=255).cycle().take(MIB2 as usize).collect();
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Writes every byte of a range.
pub(crate) fn write_bytes(cpu: &mut Cpu, task: &mut Task<Host>, start: VirtAddr, length: u64) {
    let mut page = pattern(0);
    for number in 0..length / MIB2 {
        page[..8].copy_from_slice(&number.to_le_bytes());
        cpu.write_bytes(task, after(start, number * MIB2), &page).unwrap();
    }
}

/// Reads every byte of a range back.
pub(crate) fn check_bytes(cpu: &mut Cpu, task: &mut Task<Host>, start: VirtAddr, length: u64) {
    let (mut expected, mut page) = (pattern(0), vec![0; MIB2 as usize]);
    for number in 0..length / MIB2 {
        expected[..8].copy_from_slice(&number.to_le_bytes());
        cpu.read_bytes(task, after(start, number * MIB2), &mut page).unwrap();
        assert!(page == expected, "page {number} is not what was written");
    }
}

/// Touches each page of a range.
pub(crate) fn read_fault(cpu: &mut Cpu, task: &mut Task<Host>, start: VirtAddr, pages: u64) {
    for page in 0..pages {
        cpu.load(task, after(start, page * MIB2)).unwrap();
    }
}

/// Writes to each page of a range.
pub(crate) fn write_fault(cpu: &mut Cpu, task: &mut Task<Host>, start: VirtAddr, pages: u64) {
    for page in 0..pages {
        cpu.store(task, after(start, page * MIB2), page as u8 + 1).unwrap();
    }
}

pub(crate) const LARGE: HugeSize = X86_64::SIZE_1G;
