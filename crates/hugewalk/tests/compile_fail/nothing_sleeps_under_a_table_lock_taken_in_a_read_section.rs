//! Such a lock takes no task of its own: the read section it lies in keeps the task borrowed already.

use hugewalk::Task;
use hugewalk::addr::VirtAddr;
use hugewalk::arch::X86_64;
use hugewalk::mm::Mm;
use hugewalk::platform::Platform;
use hugewalk::walk::{Unshared, huge_pte_offset};

fn sleeps<P: Platform>(task: &mut Task<P>, mm: &Mm<P>, address: VirtAddr) -> Result<(), Unshared> {
    let read_section = task.rcu_read_lock();
    if let Ok(Some(slot)) = huge_pte_offset(&read_section, mm, address, X86_64::SIZE_2M) {
        let table_locked = slot.lock()?;
        task.synchronize();
        drop(table_locked);
    }
    Ok(())
}

fn main() {}
