//! The table may be freed as soon as the section is left.

use hugewalk::Task;
use hugewalk::addr::VirtAddr;
use hugewalk::arch::X86_64;
use hugewalk::mm::Mm;
use hugewalk::platform::Platform;
use hugewalk::walk::{Unshared, huge_pte_offset};

fn a_slot<P: Platform>(task: &Task<P>, mm: &Mm<P>, address: VirtAddr) -> Result<(), Unshared> {
    let read_section = task.rcu_read_lock();
    let Ok(Some(slot)) = huge_pte_offset(&read_section, mm, address, X86_64::SIZE_2M) else {
        return Ok(());
    };
    drop(read_section);
    slot.read()?;
    Ok(())
}

fn a_locked_slot<P: Platform>(task: &Task<P>, mm: &Mm<P>, address: VirtAddr) -> Result<(), Unshared> {
    let read_section = task.rcu_read_lock();
    let Ok(Some(slot)) = huge_pte_offset(&read_section, mm, address, X86_64::SIZE_2M) else {
        return Ok(());
    };
    let table_locked = slot.lock()?;
    drop(read_section);
    table_locked.mark_used(true);
    Ok(())
}

fn an_unconfirmed_entry<P: Platform>(task: &Task<P>, mm: &Mm<P>, address: VirtAddr) -> Result<(), Unshared> {
    let read_section = task.rcu_read_lock();
    let Ok(Some(slot)) = huge_pte_offset(&read_section, mm, address, X86_64::SIZE_2M) else {
        return Ok(());
    };
    let unconfirmed = slot.peek()?;
    drop(read_section);
    unconfirmed.confirm()?;
    Ok(())
}

fn main() {}
