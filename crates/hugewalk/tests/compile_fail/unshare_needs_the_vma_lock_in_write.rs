//! Others hold the VMA lock in read too, and rely on their tables staying in place.

use hugewalk::Task;
use hugewalk::addr::VirtAddr;
use hugewalk::file::{FileProof, IMmapWriteGuard};
use hugewalk::gather::Gather;
use hugewalk::platform::Platform;
use hugewalk::share::huge_pmd_unshare;
use hugewalk::vma::VmaReadGuard;

fn with_the_vma_lock_in_read<P: Platform>(
    vma_lock: &mut VmaReadGuard<'_, P>,
    i_mmap: &mut IMmapWriteGuard<'_, P>,
    task: &Task<P>,
    address: VirtAddr,
) {
    let _ = Gather::scope(vma_lock.vma().mm(), i_mmap, |gather| {
        huge_pmd_unshare(vma_lock, address, gather, task)
    });
}

fn with_i_mmap_alone<P: Platform>(
    proof: &mut FileProof<'_, P>,
    i_mmap: &mut IMmapWriteGuard<'_, P>,
    task: &Task<P>,
    address: VirtAddr,
) {
    let _ = Gather::scope(proof.vma().mm(), i_mmap, |gather| {
        huge_pmd_unshare(proof, address, gather, task)
    });
}

fn main() {}
