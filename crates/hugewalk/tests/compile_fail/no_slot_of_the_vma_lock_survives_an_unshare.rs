//! A VMA lock in write keeps everybody else from unsharing, and so it proves stable slots. Its holder may unshare: the other
//! users of the table may then free it, with everything that a slot reads and locks in it.

use hugewalk::Task;
use hugewalk::addr::VirtAddr;
use hugewalk::arch::X86_64;
use hugewalk::file::IMmapWriteGuard;
use hugewalk::gather::Gather;
use hugewalk::platform::Platform;
use hugewalk::share::huge_pmd_unshare;
use hugewalk::vma::VmaWriteGuard;
use hugewalk::walk::{huge_pte_offset, leaf_offset};

fn a_slot<P: Platform>(
    vma_lock: &mut VmaWriteGuard<'_, P>,
    i_mmap: &mut IMmapWriteGuard<'_, P>,
    task: &Task<P>,
    address: VirtAddr,
) {
    let mm = vma_lock.vma().mm();
    let slot = huge_pte_offset(vma_lock, mm, address, X86_64::SIZE_2M);
    let _ = Gather::scope(mm, i_mmap, |gather| huge_pmd_unshare(vma_lock, address, gather, task));
    if let Ok(Some(slot)) = slot {
        let _ = slot.read();
    }
}

fn a_locked_slot<P: Platform>(
    vma_lock: &mut VmaWriteGuard<'_, P>,
    gather: &mut Gather<'_, P>,
    task: &Task<P>,
    address: VirtAddr,
) {
    let mm = vma_lock.vma().mm();
    if let Ok(Some((slot, _size))) = leaf_offset(vma_lock, mm, address) {
        let table_locked = slot.lock(task);
        let _ = huge_pmd_unshare(vma_lock, address, gather, task);
        table_locked.mark_used(true);
    }
}

fn a_guard_that_is_lent_out<P: Platform>(
    vma_lock: &VmaWriteGuard<'_, P>,
    gather: &mut Gather<'_, P>,
    task: &Task<P>,
    address: VirtAddr,
) {
    let _ = huge_pmd_unshare(vma_lock, address, gather, task);
}

fn main() {}
