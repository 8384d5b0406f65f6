//! A read section is left by the task that entered it, a table unlocked by the task that locked it. On another thread
//! there is another task, which nothing would keep from sleeping.

use hugewalk::Task;
use hugewalk::addr::VirtAddr;
use hugewalk::arch::X86_64;
use hugewalk::mm::Mm;
use hugewalk::platform::Platform;
use hugewalk::vma::VmaReadGuard;
use hugewalk::walk::huge_pte_offset;

fn to_another_thread<T: Send>(_: T) {}

fn a_task<P: Platform>(task: Task<P>) {
    to_another_thread(task);
}

fn a_task_by_reference<P: Platform>(task: &Task<P>) {
    to_another_thread(task);
}

fn an_rcu_guard<P: Platform>(task: &Task<P>) {
    to_another_thread(task.rcu_read_lock());
}

fn an_rcu_guard_by_reference<P: Platform>(task: &Task<P>) {
    to_another_thread(&task.rcu_read_lock());
}

fn a_slot_found_in_a_read_section<P: Platform>(task: &Task<P>, mm: &Mm<P>, address: VirtAddr) {
    let read_section = task.rcu_read_lock();
    if let Ok(Some(slot)) = huge_pte_offset(&read_section, mm, address, X86_64::SIZE_2M) {
        to_another_thread(slot);
    }
}

fn a_table_lock<P: Platform>(vma_lock: &VmaReadGuard<'_, P>, task: &Task<P>, address: VirtAddr) {
    if let Ok(Some(slot)) = huge_pte_offset(vma_lock, vma_lock.vma().mm(), address, X86_64::SIZE_2M) {
        to_another_thread(slot.lock(task));
    }
}

fn main() {}
