//! A small host for tests: one thread, frames from the heap, contents that are real but sparse, and nothing hidden. What
//! a real machine would forgive is a panic here: a lock that would block, a frame freed twice, an access to a page or a
//! table that is free.

// Each test binary uses its own part of this.
#![allow(dead_code)]

pub(crate) mod cpu;
pub(crate) mod heap;
pub(crate) mod inject;
pub(crate) mod interrupt;
mod locks;
mod memory;
mod platform;
pub(crate) mod secondary;
mod tables;

pub(crate) use self::platform::Bench;
#[allow(unused_imports, reason = "not every test binary changes it")]
pub(crate) use self::platform::{
    CHARGES_LEFT, Group, LIMIT_REACHED, PAYER, READER_BIAS, RESERVABLE_LEFT, SIGNALLED, Told,
};

use std::sync::OnceLock;

use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::arch::{Aarch64, AnyPaging, Granule, Paging, Riscv64, Sv, X86_64};
use hugewalk::error::OutOfMemory;
use hugewalk::file::HugeFile;
use hugewalk::mm::{Backing, MapError, MapFlags, MapRequest, Placement};
use hugewalk::sync::Arc;
use hugewalk::vma::Protection;

pub(crate) type Hugetlb = hugewalk::Hugetlb<Bench>;
pub(crate) type Task = hugewalk::Task<Bench>;
pub(crate) type AddressSpace = hugewalk::AddressSpace<Bench>;
pub(crate) type File = HugeFile<Bench>;

pub(crate) const M2: u64 = 2 << 20;
pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const SMALL: HugeSize = X86_64::SIZE_2M;
pub(crate) const RW: Protection = Protection::READ.union(Protection::WRITE);

/// Names the format of the tables, one of [`FORMATS`], for all tests of a binary: x86-64 if it is not set.
pub(crate) const FORMAT: &str = "HUGEWALK_TEST_FORMAT";
pub(crate) const FORMATS: [&str; 7] =
    ["x86-64", "x86-64-5", "arm64-4k", "arm64-16k", "arm64-64k", "riscv64-sv39", "riscv64-sv48"];

/// The format of the tables.
pub(crate) fn paging() -> AnyPaging {
    static PAGING: OnceLock<AnyPaging> = OnceLock::new();
    *PAGING.get_or_init(|| inject::exempt(|| paging_of(&std::env::var(FORMAT).unwrap_or_default())))
}

fn paging_of(name: &str) -> AnyPaging {
    let arm = |granule, bits| Aarch64::new(granule, bits).unwrap().with_memory_type(1).into();
    match name {
        "" | "x86-64" => X86_64::FOUR_LEVELS.into(),
        "x86-64-5" => X86_64::FIVE_LEVELS.encrypted(47).unwrap().into(),
        "arm64-4k" => arm(Granule::K4, 48),
        "arm64-16k" => arm(Granule::K16, 48),
        "arm64-64k" => arm(Granule::K64, 48),
        "riscv64-sv39" => Riscv64::new(Sv::Sv39).into(),
        "riscv64-sv48" => Riscv64::new(Sv::Sv48).with_svnapot().into(),
        _ => panic!("{name} is none of {FORMATS:?}"),
    }
}

/// The size of 2 MiB, which all formats have.
pub(crate) fn small() -> HugeSize {
    paging().of_shift(21).unwrap()
}

/// The size of 1 GiB, which all but one have.
pub(crate) fn giant() -> HugeSize {
    paging().of_shift(30).unwrap()
}

pub(crate) const fn at(address: u64) -> VirtAddr {
    VirtAddr::new(address)
}

/// A task for one of the threads of a test, all of which this one plays.
pub(crate) fn task(hugetlb: &Arc<Hugetlb>) -> Task {
    try_task(hugetlb).unwrap()
}

pub(crate) fn try_task(hugetlb: &Arc<Hugetlb>) -> Result<Task, OutOfMemory> {
    // SAFETY: this host uses the engine's own RCU, which knows readers and not threads. Where one of them waits for the
    // other, the host panics.
    unsafe { Task::new(hugetlb) }
}

/// A system with so many pages of 2 MiB, and a task.
pub(crate) fn system(pages: u64) -> (Arc<Hugetlb>, Task) {
    let hugetlb = Hugetlb::new(Bench::new()).unwrap();
    assert_eq!(hugetlb.resize_pool(small(), pages), pages);
    let task = task(&hugetlb);
    (hugetlb, task)
}

/// Maps a file at a fixed address.
pub(crate) fn map(
    space: &AddressSpace,
    task: &mut Task,
    file: &Arc<File>,
    offset: u64,
    address: u64,
    length: u64,
    flags: MapFlags,
) -> Result<VirtAddr, MapError> {
    let request = MapRequest {
        placement: Placement::Fixed(at(address)),
        length,
        protection: RW,
        flags,
        backing: Backing::File { file, offset },
    };
    space.mmap(task, &request)
}

/// Pages that all of these processes have installed.
pub(crate) fn resident(processes: &[Option<Arc<AddressSpace>>]) -> u64 {
    processes.iter().flatten().map(|space| space.mm().resident()).sum()
}
