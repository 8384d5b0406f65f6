//! Until the TLB is flushed, processors reach pages through the table that was unshared. Once `i_mmap` is released the
//! other users of the file may free these pages.

use hugewalk::Task;
use hugewalk::addr::VirtAddr;
use hugewalk::file::IMmapWriteGuard;
use hugewalk::gather::Gather;
use hugewalk::platform::Platform;
use hugewalk::share::huge_pmd_unshare;
use hugewalk::vma::VmaWriteGuard;

fn released_before_the_flush<P: Platform>(
    vma_lock: &mut VmaWriteGuard<'_, P>,
    mut i_mmap: IMmapWriteGuard<'_, P>,
    task: &Task<P>,
    address: VirtAddr,
) {
    let _ = Gather::scope(vma_lock.vma().mm(), &mut i_mmap, |gather| {
        let unsharing = huge_pmd_unshare(vma_lock, address, gather, task);
        drop(i_mmap);
        unsharing
    });
}

fn main() {}
