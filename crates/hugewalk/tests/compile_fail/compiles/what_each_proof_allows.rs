//! The right way for each of the tests beside this one. It compiles: what they lack is what their messages say.

use hugewalk::addr::VirtAddr;
use hugewalk::arch::{Entry, X86_64};
use hugewalk::fault::Access;
use hugewalk::file::HugeFile;
use hugewalk::gather::Gather;
use hugewalk::gup::GupFlags;
use hugewalk::mm::Mm;
use hugewalk::platform::Platform;
use hugewalk::share::{Unsharing, huge_pmd_unshare};
use hugewalk::walk::{LockedSlot, Slot, Stable, Unshared, WrongProof, huge_pte_offset, leaf_offset};
use hugewalk::{AddressSpace, Task};

/// In a read section: every answer may be `Unshared`.
fn a_read_section<P: Platform>(task: &mut Task<P>, mm: &Mm<P>, address: VirtAddr) -> Result<Entry, Unshared> {
    let read_section = task.rcu_read_lock();
    let Ok(Some(slot)) = huge_pte_offset(&read_section, mm, address, X86_64::SIZE_2M) else {
        return Ok(Entry::None);
    };
    let seen: Entry = slot.read()?;
    let confirmed: Entry = slot.peek()?.confirm()?;
    let table_locked: LockedSlot<'_, P> = slot.lock()?;
    table_locked.mark_used(true);
    let entry = if seen == confirmed { table_locked.read() } else { confirmed };
    drop(table_locked);
    drop(read_section);
    // Out of the section one may sleep.
    task.synchronize();
    task.rcu_barrier();
    Ok(entry)
}

/// Under the VMA lock: the slot stays, and one may sleep as long as no table is locked.
fn the_vma_lock<P: Platform>(
    task: &mut Task<P>,
    space: &AddressSpace<P>,
    address: VirtAddr,
) -> Result<u64, WrongProof> {
    let mmap = space.mmap_read(task);
    let Some(vma_lock) = mmap.find(address).and_then(|vma| mmap.lock_vma(vma, task)) else {
        return Ok(0);
    };
    task.synchronize();
    let Some((slot, _size)) = leaf_offset(&vma_lock, space.mm(), address)? else {
        return Ok(0);
    };
    let slot: Slot<'_, P, Stable> = slot;
    let table_locked = slot.lock(task);
    table_locked.mark_used(false);
    drop(table_locked);
    task.synchronize();
    Ok(slot.sharers())
}

/// Under `i_mmap`, in read: the slots of every VMA that is found in it.
fn i_mmap_in_read<P: Platform>(task: &mut Task<P>, file: &HugeFile<P>) -> Result<u64, WrongProof> {
    let i_mmap = file.i_mmap_read(task);
    let mut mapped = 0;
    for proof in i_mmap.vmas(0..1) {
        let vma = proof.vma();
        if let Some(slot) = huge_pte_offset(&proof, vma.mm(), vma.start(), vma.size())? {
            mapped += u64::from(!slot.read().is_none());
        }
    }
    Ok(mapped)
}

/// Unsharing: both locks in write, and the gather finished before they are released. Until the holder unshares, its locks prove
/// stable slots for itself, too.
fn unshares<P: Platform>(
    task: &mut Task<P>,
    space: &AddressSpace<P>,
    address: VirtAddr,
) -> Result<bool, WrongProof> {
    let mmap = space.mmap_read(task);
    let Some(vma) = mmap.find(address) else { return Ok(false) };
    let Some(mut vma_lock) = mmap.lock_vma_write(vma, task) else { return Ok(false) };
    let mut i_mmap = vma.file().i_mmap_write(task);
    if let Some(slot) = huge_pte_offset(&vma_lock, space.mm(), address, X86_64::SIZE_2M)? {
        let slot: Slot<'_, P, Stable> = slot;
        drop(slot.lock(task));
    }
    for proof in i_mmap.vmas(0..1) {
        let vma = proof.vma();
        let _: Option<Slot<'_, P, Stable>> = huge_pte_offset(&proof, vma.mm(), vma.start(), vma.size())?;
    }
    let unsharing = Gather::scope(space.mm(), &mut i_mmap, |gather| {
        for proof in gather.vmas(0..1) {
            let vma = proof.vma();
            let _: Option<Slot<'_, P, Stable>> = huge_pte_offset(&proof, vma.mm(), vma.start(), vma.size())?;
        }
        huge_pmd_unshare(&mut vma_lock, address, gather, task)
    })?;
    // Both are proofs again.
    let found = huge_pte_offset(&vma_lock, space.mm(), address, X86_64::SIZE_2M)?;
    drop(found.map(|slot| slot.read()));
    drop(i_mmap.vmas(0..1).count());
    drop(i_mmap);
    Ok(unsharing == Unsharing::Unshared)
}

/// A fault sleeps, so it comes after the section that found the entry empty.
fn walks_and_faults<P: Platform>(task: &mut Task<P>, space: &AddressSpace<P>, address: VirtAddr) -> bool {
    let empty = {
        let read_section = task.rcu_read_lock();
        match huge_pte_offset(&read_section, space.mm(), address, X86_64::SIZE_2M) {
            Ok(Some(slot)) => slot.read() == Ok(Entry::None),
            _ => true,
        }
    };
    !empty || space.fault(task, address, Access::Read).is_ok()
}

/// Who must not sleep has ways that do not: no more than a shared borrow of the task is asked for.
fn pins_in_a_read_section<P: Platform>(task: &Task<P>, space: &AddressSpace<P>, address: VirtAddr) -> bool {
    let read_section = task.rcu_read_lock();
    let flags = GupFlags::PIN | GupFlags::WRITE;
    let fast = space.pin_page_fast(task, address, flags).is_some();
    let locked = space.pin_pages_nowait(task, address, 1, flags).is_ok();
    drop(read_section);
    fast || locked
}

/// What crosses threads is the address space; each thread has a task of its own.
fn to_another_thread<T: Send>(_: T) {}

fn an_address_space<P: Platform>(space: &AddressSpace<P>) {
    to_another_thread(space);
}

fn main() {}
