//! A table lock spins: who sleeps with one keeps processors busy doing nothing, and stands still for ever if what it
//! waits for needs one of them.

use hugewalk::addr::VirtAddr;
use hugewalk::fault::Access;
use hugewalk::file::HugeFile;
use hugewalk::mm::MmapReadGuard;
use hugewalk::platform::Platform;
use hugewalk::vma::Vma;
use hugewalk::walk::{Slot, Stable};
use hugewalk::{AddressSpace, Task};

fn waiting_for_a_grace_period<P: Platform>(task: &mut Task<P>, slot: &Slot<'_, P, Stable>) {
    let table_locked = slot.lock(task);
    task.synchronize();
    drop(table_locked);
}

fn waiting_for_all_callbacks<P: Platform>(task: &mut Task<P>, slot: &Slot<'_, P, Stable>) {
    let table_locked = slot.lock(task);
    task.rcu_barrier();
    drop(table_locked);
}

fn the_mmap_lock<P: Platform>(task: &mut Task<P>, slot: &Slot<'_, P, Stable>, space: &AddressSpace<P>) {
    let table_locked = slot.lock(task);
    drop(space.mmap_read(task));
    drop(table_locked);
}

fn the_vma_lock<P: Platform>(
    task: &mut Task<P>,
    slot: &Slot<'_, P, Stable>,
    mmap: &MmapReadGuard<'_, P>,
    vma: &Vma<P>,
) {
    let table_locked = slot.lock(task);
    drop(mmap.lock_vma(vma, task));
    drop(table_locked);
}

fn i_mmap<P: Platform>(task: &mut Task<P>, slot: &Slot<'_, P, Stable>, file: &HugeFile<P>) {
    let table_locked = slot.lock(task);
    drop(file.i_mmap_read(task));
    drop(table_locked);
}

fn a_fault<P: Platform>(
    task: &mut Task<P>,
    slot: &Slot<'_, P, Stable>,
    space: &AddressSpace<P>,
    address: VirtAddr,
) {
    let table_locked = slot.lock(task);
    let _ = space.fault(task, address, Access::Write);
    drop(table_locked);
}

fn main() {}
