//! Whoever unshares through `i_mmap` (truncation, reverse mapping) does not take the mmap lock.

use hugewalk::AddressSpace;
use hugewalk::Task;
use hugewalk::addr::VirtAddr;
use hugewalk::arch::X86_64;
use hugewalk::platform::Platform;
use hugewalk::walk::huge_pte_offset;

fn walks<P: Platform>(space: &AddressSpace<P>, task: &mut Task<P>, address: VirtAddr) {
    let mmap = space.mmap_read(task);
    let _ = huge_pte_offset(&mmap, space.mm(), address, X86_64::SIZE_2M);
}

fn main() {}
