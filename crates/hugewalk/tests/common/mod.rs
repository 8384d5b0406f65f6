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
mod tables;

pub(crate) use self::platform::Bench;

use hugewalk::addr::{HugeSize, VirtAddr};
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
pub(crate) const SMALL: HugeSize = HugeSize::Size2M;
pub(crate) const RW: Protection = Protection::READ.union(Protection::WRITE);

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
    assert_eq!(hugetlb.resize_pool(SMALL, pages), pages);
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
