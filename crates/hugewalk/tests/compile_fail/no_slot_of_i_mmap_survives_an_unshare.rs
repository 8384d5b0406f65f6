//! `i_mmap` in write keeps everybody else from unsharing, and so a VMA found under it proves stable slots. Its holder may
//! unshare: what a slot from before changes then is another address space's.

use hugewalk::Task;
use hugewalk::addr::VirtAddr;
use hugewalk::file::IMmapWriteGuard;
use hugewalk::gather::Gather;
use hugewalk::platform::Platform;
use hugewalk::share::huge_pmd_unshare;
use hugewalk::vma::VmaWriteGuard;
use hugewalk::walk::huge_pte_offset;

fn found_before_the_scope<P: Platform>(
    vma_lock: &mut VmaWriteGuard<'_, P>,
    i_mmap: &mut IMmapWriteGuard<'_, P>,
    task: &Task<P>,
    address: VirtAddr,
) {
    let mm = vma_lock.vma().mm();
    for proof in i_mmap.vmas(0..1) {
        let vma = proof.vma();
        if let Ok(Some(slot)) = huge_pte_offset(&proof, vma.mm(), vma.start(), vma.size()) {
            let _ = Gather::scope(mm, i_mmap, |gather| huge_pmd_unshare(vma_lock, address, gather, task));
            slot.lock(task).mark_used(true);
        }
    }
}

fn found_within_the_scope<P: Platform>(
    vma_lock: &mut VmaWriteGuard<'_, P>,
    i_mmap: &mut IMmapWriteGuard<'_, P>,
    task: &Task<P>,
    address: VirtAddr,
) {
    Gather::scope(vma_lock.vma().mm(), i_mmap, |gather| {
        for proof in gather.vmas(0..1) {
            let vma = proof.vma();
            if let Ok(Some(slot)) = huge_pte_offset(&proof, vma.mm(), vma.start(), vma.size()) {
                let _ = huge_pmd_unshare(vma_lock, address, gather, task);
                slot.lock(task).mark_used(true);
            }
        }
    });
}

fn taken_out_of_the_scope<P: Platform>(
    vma_lock: &VmaWriteGuard<'_, P>,
    i_mmap: &mut IMmapWriteGuard<'_, P>,
    task: &Task<P>,
) {
    let mut kept = None;
    Gather::scope(vma_lock.vma().mm(), i_mmap, |gather| kept = gather.vmas(0..1).next());
    if let Some(proof) = kept {
        let vma = proof.vma();
        if let Ok(Some(slot)) = huge_pte_offset(&proof, vma.mm(), vma.start(), vma.size()) {
            slot.lock(task).mark_used(true);
        }
    }
}

fn found_under_a_guard_that_is_lent_out<P: Platform>(
    vma_lock: &VmaWriteGuard<'_, P>,
    i_mmap: &IMmapWriteGuard<'_, P>,
) {
    Gather::scope(vma_lock.vma().mm(), i_mmap, |_| ());
}

fn main() {}
