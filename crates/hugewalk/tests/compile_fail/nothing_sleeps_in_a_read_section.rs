//! A grace period waits for every read section: who sleeps in one holds all of them up, for ever if it waits for one.

use hugewalk::addr::VirtAddr;
use hugewalk::fault::Access;
use hugewalk::file::HugeFile;
use hugewalk::mm::{Advice, MapRequest, MmapReadGuard};
use hugewalk::platform::Platform;
use hugewalk::vma::{Protection, Vma};
use hugewalk::{AddressSpace, Task};

fn waiting_for_a_grace_period<P: Platform>(task: &mut Task<P>) {
    let read_section = task.rcu_read_lock();
    task.synchronize();
    drop(read_section);
}

fn waiting_for_all_callbacks<P: Platform>(task: &mut Task<P>) {
    let read_section = task.rcu_read_lock();
    task.rcu_barrier();
    drop(read_section);
}

fn the_mmap_lock<P: Platform>(task: &mut Task<P>, space: &AddressSpace<P>) {
    let read_section = task.rcu_read_lock();
    drop(space.mmap_read(task));
    drop(read_section);
}

fn the_vma_lock_in_read<P: Platform>(task: &mut Task<P>, mmap: &MmapReadGuard<'_, P>, vma: &Vma<P>) {
    let read_section = task.rcu_read_lock();
    drop(mmap.lock_vma(vma, task));
    drop(read_section);
}

fn the_vma_lock_in_write<P: Platform>(task: &mut Task<P>, mmap: &MmapReadGuard<'_, P>, vma: &Vma<P>) {
    let read_section = task.rcu_read_lock();
    drop(mmap.lock_vma_write(vma, task));
    drop(read_section);
}

fn i_mmap_in_read<P: Platform>(task: &mut Task<P>, file: &HugeFile<P>) {
    let read_section = task.rcu_read_lock();
    drop(file.i_mmap_read(task));
    drop(read_section);
}

fn i_mmap_in_write<P: Platform>(task: &mut Task<P>, file: &HugeFile<P>) {
    let read_section = task.rcu_read_lock();
    drop(file.i_mmap_write(task));
    drop(read_section);
}

fn a_fault<P: Platform>(task: &mut Task<P>, space: &AddressSpace<P>, address: VirtAddr) {
    let read_section = task.rcu_read_lock();
    let _ = space.fault(task, address, Access::Read);
    drop(read_section);
}

fn system_calls<P: Platform>(
    task: &mut Task<P>,
    space: &AddressSpace<P>,
    request: &MapRequest<'_, P>,
    address: VirtAddr,
) {
    let read_section = task.rcu_read_lock();
    let _ = space.mmap(task, request);
    let _ = space.munmap(task, address, 1 << 30);
    let _ = space.mprotect(task, address, 1 << 30, Protection::READ);
    let _ = space.madvise(task, address, 1 << 30, Advice::DontNeed);
    let _ = space.fork(task);
    space.exit(task);
    drop(read_section);
}

fn calls_on_files<P: Platform>(task: &mut Task<P>, file: &HugeFile<P>) {
    let read_section = task.rcu_read_lock();
    let _ = file.truncate(task, 0);
    let _ = file.punch_hole(task, 0, 1 << 21);
    let _ = file.allocate(task, 0, 1 << 21, false);
    let _ = file.write_at(task, 0, b"x");
    drop(read_section);
}

fn the_end_of_the_task<P: Platform>(task: Task<P>) {
    let read_section = task.rcu_read_lock();
    drop(task);
    drop(read_section);
}

fn main() {}
