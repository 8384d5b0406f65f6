//! Others hold `i_mmap` in read to look for a table to share, and count themselves as its users.

use hugewalk::Task;
use hugewalk::addr::VirtAddr;
use hugewalk::file::IMmapReadGuard;
use hugewalk::gather::Gather;
use hugewalk::platform::Platform;
use hugewalk::share::huge_pmd_unshare;
use hugewalk::vma::VmaWriteGuard;

fn with_i_mmap_in_read<P: Platform>(
    vma_lock: &mut VmaWriteGuard<'_, P>,
    i_mmap: &mut IMmapReadGuard<'_, P>,
    task: &Task<P>,
    address: VirtAddr,
) {
    let mm = vma_lock.vma().mm();
    let _ = Gather::scope(mm, i_mmap, |gather| huge_pmd_unshare(vma_lock, address, gather, task));
}

fn without_i_mmap<P: Platform>(vma_lock: &mut VmaWriteGuard<'_, P>, task: &Task<P>, address: VirtAddr) {
    let _ = huge_pmd_unshare(vma_lock, address, &mut (), task);
}

fn main() {}
