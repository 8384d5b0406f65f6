//! Programs that use every part of a platform, each through a system of its own.
//!
//! They check for themselves what a platform can do wrong without a visible breach of its contract:
//! barriers that do not order, locks that do not exclude, contents that get lost.

mod memory;
mod threads;

use std::sync::Arc;

use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::arch::{PUD_SIZE, X86_64};
use hugewalk::fault::{Access, Fault};
use hugewalk::mm::{MapFlags, MapRequest};
use hugewalk::platform::Platform;
use hugewalk::{AddressSpace, Hugetlb, Task};

pub use self::memory::{
    copies_on_write, files_grow_and_shrink, flushes_reach_processors, many_pages_go_at_once, maps_and_exits,
    pages_move_and_fail, shares_and_unshares, the_pool_runs_out,
};
pub use self::threads::{
    barriers_are_barriers, faults_beside_unmapping, locks_exclude, sections_hold_grace_periods_up,
    tokens_wake_tasks, walks_beside_unsharing,
};

use super::Checked;

/// How many pages the programs need.
const PAGES: u64 = 32;
const PAGE: HugeSize = X86_64::SIZE_2M;
/// Where shared mappings lie, and private ones.
const SHARED: VirtAddr = VirtAddr::new(4 * PUD_SIZE);
const PRIVATE: VirtAddr = VirtAddr::new(8 * PUD_SIZE);

type Handle<P> = Arc<Checked<P>>;
type System<P> = hugewalk::Arc<Hugetlb<Handle<P>>>;
type Space<P> = hugewalk::Arc<AddressSpace<Handle<P>>>;

fn system<P: Platform>(platform: &Handle<P>) -> System<P> {
    let hugetlb = Hugetlb::new(platform.clone()).expect("there is memory");
    let pages = hugetlb.resize_pool(PAGE, PAGES);
    assert_eq!(pages, PAGES, "the programs need {PAGES} huge pages of 2 MiB");
    hugetlb
}

fn task<P: Platform>(hugetlb: &System<P>) -> Task<Handle<P>> {
    crate::task(hugetlb).expect("a thread has one")
}

fn space<P: Platform>(hugetlb: &System<P>) -> Space<P> {
    AddressSpace::new(hugetlb).expect("there is memory")
}

/// Maps a gigabyte without reservations.
fn map<P: Platform>(space: &Space<P>, at: VirtAddr, task: &mut Task<Handle<P>>) {
    let request = MapRequest::anonymous(PAGE, PUD_SIZE).at(at).with(MapFlags::NORESERVE);
    let request = if at == SHARED { request.shared() } else { request };
    assert_eq!(space.mmap(task, &request), Ok(at));
}

fn page(of: VirtAddr, number: u64) -> VirtAddr {
    VirtAddr::new(of.as_u64() + number * PAGE.bytes())
}

/// Faults a page in, for writing, and writes to it. False if the platform keeps no contents.
fn fill<P: Platform>(space: &Space<P>, at: VirtAddr, byte: u8, task: &mut Task<Handle<P>>) -> bool {
    let fault = space.fault(task, at, Access::Write).expect("there is a page");
    assert_ne!(fault, Fault::Raced);
    assert_eq!(space.write_bytes(task, at, &[byte; 100]), Ok(100));
    read(space, at, task) == byte
}

/// The byte at an address.
fn read<P: Platform>(space: &Space<P>, at: VirtAddr, task: &mut Task<Handle<P>>) -> u8 {
    let mut byte = [0xee];
    assert_eq!(space.read_bytes(task, at, &mut byte), Ok(1));
    byte[0]
}
