//! Who waits has put itself into the queue when it looks. Whatever sleeps there may use up the very wake-up that it waits
//! for, and it waits for ever (scenario S19: the look of `userfaultfd_huge_must_wait`, made safe by taking the VMA lock).

use hugewalk::addr::VirtAddr;
use hugewalk::error::OutOfMemory;
use hugewalk::fault::Access;
use hugewalk::mm::MmapReadGuard;
use hugewalk::platform::Platform;
use hugewalk::sleep::WaitQueue;
use hugewalk::uffd::Userfault;
use hugewalk::vma::Vma;
use hugewalk::{AddressSpace, Task};

fn the_vma_lock<P: Platform>(
    task: &mut Task<P>,
    queue: &WaitQueue<P>,
    mmap: &MmapReadGuard<'_, P>,
    vma: &Vma<P>,
) -> Result<bool, OutOfMemory> {
    queue.wait(task, |task| Some(mmap.lock_vma(vma, task).is_some()))
}

fn the_mmap_lock<P: Platform>(
    task: &mut Task<P>,
    queue: &WaitQueue<P>,
    space: &AddressSpace<P>,
    address: VirtAddr,
) -> Result<(), OutOfMemory> {
    queue.wait(task, |task| space.mmap_read(task).find(address).is_none().then_some(()))
}

fn another_queue<P: Platform>(
    task: &mut Task<P>,
    queue: &WaitQueue<P>,
    other: &WaitQueue<P>,
) -> Result<(), OutOfMemory> {
    queue.wait(task, |task| other.wait(task, |_| Some(())).ok())
}

fn a_fault<P: Platform>(
    task: &mut Task<P>,
    queue: &WaitQueue<P, VirtAddr>,
    space: &AddressSpace<P>,
    address: VirtAddr,
) -> Result<(), OutOfMemory> {
    queue.wait_as(address, task, |task| space.fault(task, address, Access::Read).ok().map(drop))
}

fn a_message<P: Platform>(
    task: &mut Task<P>,
    queue: &WaitQueue<P>,
    uffd: &Userfault<P>,
) -> Result<(), OutOfMemory> {
    queue.wait(task, |task| uffd.read_event(task).ok().map(drop))
}

fn the_task_of_the_waiter<P: Platform>(task: &mut Task<P>, queue: &WaitQueue<P>) -> Result<(), OutOfMemory> {
    queue.wait(task, |_| {
        task.synchronize();
        Some(())
    })
}

fn main() {}
