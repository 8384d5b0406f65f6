//! Others hold `i_mmap` in read to look for a table to share, and count themselves as its users.

use hugewalk::Task;
use hugewalk::addr::VirtAddr;
use hugewalk::file::IMmapReadGuard;
use hugewalk::gather::Gather;
use hugewalk::platform::Platform;
use hugewalk::share::huge_pmd_unshare;
use hugewalk::vma::VmaWriteGuard;

fn with_i_mmap_in_read<P: Platform>(
    vma_lock: &VmaWriteGuard<'_, P>,
    i_mmap: &IMmapReadGuard<'_, P>,
    gather: &mut Gather<'_, P>,
    task: &Task<P>,
    address: VirtAddr,
) {
    let _ = huge_pmd_unshare(vma_lock, i_mmap, address, gather, task);
}

fn without_i_mmap<P: Platform>(
    vma_lock: &VmaWriteGuard<'_, P>,
    gather: &mut Gather<'_, P>,
    task: &Task<P>,
    address: VirtAddr,
) {
    let _ = huge_pmd_unshare(vma_lock, &(), address, gather, task);
}

fn a_gather_that_outlives_what_was_held_in_read<P: Platform>(
    vma_lock: &VmaWriteGuard<'_, P>,
    i_mmap: &IMmapReadGuard<'_, P>,
) {
    Gather::scope(vma_lock.vma().mm(), i_mmap, |_| ());
}

fn main() {}
