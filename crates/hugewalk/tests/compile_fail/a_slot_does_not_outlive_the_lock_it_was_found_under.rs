//! The table may be unshared as soon as the lock is released.

use hugewalk::addr::VirtAddr;
use hugewalk::arch::X86_64;
use hugewalk::file::{FileProof, IMmapReadGuard};
use hugewalk::mm::MmapReadGuard;
use hugewalk::platform::Platform;
use hugewalk::vma::{Vma, VmaReadGuard, VmaWriteGuard};
use hugewalk::walk::huge_pte_offset;
use hugewalk::{AddressSpace, Task};

fn the_vma_lock_in_read<P: Platform>(vma_lock: VmaReadGuard<'_, P>, address: VirtAddr) {
    let mm = vma_lock.vma().mm();
    if let Ok(Some(slot)) = huge_pte_offset(&vma_lock, mm, address, X86_64::SIZE_2M) {
        drop(vma_lock);
        let _ = slot.read();
    }
}

fn the_vma_lock_in_write<P: Platform>(vma_lock: VmaWriteGuard<'_, P>, task: &Task<P>, address: VirtAddr) {
    let mm = vma_lock.vma().mm();
    if let Ok(Some(slot)) = huge_pte_offset(&vma_lock, mm, address, X86_64::SIZE_2M) {
        let table_locked = slot.lock(task);
        drop(vma_lock);
        table_locked.mark_used(true);
    }
}

fn i_mmap<P: Platform>(i_mmap: IMmapReadGuard<'_, P>, address: VirtAddr) {
    for proof in i_mmap.vmas(0..1) {
        let proof: FileProof<'_, P> = proof;
        if let Ok(Some(slot)) = huge_pte_offset(&proof, proof.vma().mm(), address, X86_64::SIZE_2M) {
            drop(i_mmap);
            let _ = slot.read();
            return;
        }
    }
}

fn the_mmap_lock_that_keeps_the_vma<P: Platform>(
    mmap: MmapReadGuard<'_, P>,
    vma: &Vma<P>,
    task: &mut Task<P>,
) {
    let vma_lock = mmap.lock_vma(vma, task);
    drop(mmap);
    drop(vma_lock);
}

fn the_address_space<P: Platform>(space: hugewalk::sync::Arc<AddressSpace<P>>, task: &mut Task<P>) {
    let mmap = space.mmap_read(task);
    drop(space);
    drop(mmap);
}

fn main() {}
