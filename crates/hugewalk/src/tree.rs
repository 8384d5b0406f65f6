//! The tables above the leaves: made where something needs them, freed as soon as nothing does.
//!
//! # Protocol
//!
//! A table is needed while a mapping of the engine's overlaps the range that it covers, or while an entry of it points to
//! another table: one of the engine's below it, or one [of the host's](crate::base). Each table counts the tables that its
//! entries point to, so that this is one look.
//!
//! - **Making one.** The entry that is to point to the new table is filled under the lock of the table that it lies in. Whoever
//!   has nothing mapped at the address finds out under that lock whether that table is attached still (P2 of
//!   [the rule](crate::walk)), and starts over if it is not. A mapping keeps its tables; see below.
//! - **Freeing one.** Under the lock of the table: it is attached, it counts no table below it, and nothing is mapped in its
//!   range. Then it is detached, and goes to RCU after the flush. The mmap lock, in read or in write, keeps the mappings as they
//!   are. So no fault is on its way to a table that is freed, and no stable slot of it exists.
//!
//! An empty table left behind would keep its range from being shared: tables are shared where the entry for them is empty. So
//! whoever takes away the last thing below a table frees the table, and those above it that are empty then.
//!
//! The count goes up under the table's lock, before the entry is stored. It goes down after the entry was cleared, for which
//! that lock is not needed. So it is never too small, and with the table locked it does not rise.

use core::ops::Range;

use crate::addr::VirtAddr;
use crate::error::OutOfMemory;
use crate::gather::Gather;
use crate::platform::Platform;
use crate::protocol::{Step, keeps};
use crate::root::Mm;
use crate::table::{LockedTable, OwnedTable, Place, Stable, TableRef};
use crate::task::Task;
use crate::walk::{Proof, descend, root_place, step_down};

/// The place of the entry for `address` at `level`. Makes the tables on the way that are missing.
///
/// Linux: `p4d_alloc()`, `pud_alloc()` and `pmd_alloc()`, one after the other.
///
/// Holds: what `proof` stands for. `proof` covers the VMA at `address`, which keeps the tables there.
pub(crate) fn alloc_down_to<'p, P: Platform, W: Proof<P, Kind = Stable>>(
    proof: &'p W,
    mm: &'p Mm<P>,
    address: VirtAddr,
    level: u8,
    task: &mut Task<P>,
) -> Result<Place<'p, P>, OutOfMemory> {
    // SAFETY: the proof keeps the tables at `address` where they are.
    if let Some(place) = unsafe { descend(mm, address, level) } {
        return Ok(place);
    }
    let mut place = root_place(mm, address, mm.geometry().root());
    while place.level > level {
        place = populate(proof, mm, place, address, task)?;
    }
    Ok(place)
}

/// Goes from an entry to the table behind it, which is made if the entry is empty.
///
/// Linux: `pmd_alloc()`, and its like for the upper levels.
///
/// Holds: what `_proof` stands for. `_proof` covers the VMA at `address`.
pub(crate) fn populate<'p, P: Platform, W: Proof<P, Kind = Stable>>(
    _proof: &'p W,
    mm: &'p Mm<P>,
    above: Place<'p, P>,
    address: VirtAddr,
    task: &mut Task<P>,
) -> Result<Place<'p, P>, OutOfMemory> {
    // Nothing asks for a table below the lowest level.
    let Some(level) = above.level.checked_sub(1) else { return Ok(above) };
    // SAFETY: the proof keeps the tables at `address` where they are.
    if let Some(place) = unsafe { step_down(mm, above.word, address, level) } {
        return Ok(place);
    }
    // Made before the lock is taken. If the entry turns out to be filled, the fresh table is dropped.
    let fresh = OwnedTable::new(mm.hugetlb(), task)?;
    let locked = above.lock(task);
    if locked.is_none() {
        above.attach(fresh.into_frame());
    }
    drop(locked);
    // SAFETY: as above. The entry is a table now, and is not cleared while the caller's proof holds.
    unsafe { step_down(mm, above.word, address, level) }.ok_or(OutOfMemory)
}

/// Calls `work` with the locked slot for `address` in its table of `level`. Makes the tables on the way that are missing.
/// `None` past the end of user addresses.
///
/// For callers that have nothing mapped at `address`, so that others may free the tables there, at any moment but under the
/// lock.
///
/// Takes the table lock. Sleeps.
pub(crate) fn with_slot<P: Platform, R>(
    mm: &Mm<P>,
    address: VirtAddr,
    level: u8,
    task: &mut Task<P>,
    work: impl FnOnce(&mut LockedTable<'_, P>) -> R,
) -> Result<Option<R>, OutOfMemory> {
    let mut fresh = None;
    loop {
        let section = task.rcu_read_lock();
        // SAFETY: the section keeps tables from being freed.
        let missing = match unsafe { reach(mm, address, level, &mut fresh, task) } {
            Reached::Slot(mut locked) => return Ok(Some(work(&mut locked))),
            Reached::Outside => return Ok(None),
            Reached::Missing => true,
            Reached::Lost => false,
        };
        // The section is left to wait for memory.
        drop(section);
        if missing {
            fresh = Some(OwnedTable::new(mm.hugetlb(), task)?);
        }
    }
}

/// As [`with_slot`], if the table is there. Does not sleep.
pub(crate) fn with_slot_if_there<P: Platform, R>(
    mm: &Mm<P>,
    address: VirtAddr,
    level: u8,
    task: &Task<P>,
    work: impl FnOnce(&mut LockedTable<'_, P>) -> R,
) -> Option<R> {
    loop {
        let _section = task.rcu_read_lock();
        // SAFETY: the section keeps tables from being freed.
        match unsafe { reach(mm, address, level, &mut None, task) } {
            Reached::Slot(mut locked) => return Some(work(&mut locked)),
            Reached::Outside | Reached::Missing => return None,
            Reached::Lost => {}
        }
    }
}

/// What an attempt to reach a slot has come to.
enum Reached<'p, P: Platform> {
    /// The slot, in a table that is attached.
    Slot(LockedTable<'p, P>),
    /// A table is missing.
    Missing,
    /// A table on the way was freed.
    Lost,
    /// User addresses end before.
    Outside,
}

/// Goes down to `level` as far as there are tables. Where one is missing, `fresh` is used, once.
///
/// # Safety
///
/// For `'p`, no table of `mm` that a walk to `address` can meet is freed.
unsafe fn reach<'p, P: Platform>(
    mm: &'p Mm<P>,
    address: VirtAddr,
    level: u8,
    fresh: &mut Option<OwnedTable<'_, P>>,
    task: &'p Task<P>,
) -> Reached<'p, P> {
    if address >= mm.task_size() {
        return Reached::Outside;
    }
    let mut place = root_place(mm, address, mm.geometry().root());
    while place.level > level {
        let below = place.level - 1;
        // SAFETY: passed on to the caller.
        let mut next = unsafe { step_down(mm, place.word, address, below) };
        if next.is_none() {
            let Some(fresh) = fresh.take() else { return Reached::Missing };
            let locked = place.lock(task);
            // The table that the entry lies in may have been freed, by whoever took away the last thing below it.
            if keeps::<P>(Step::PopulateAttached) && !locked.place().is_attached() {
                return Reached::Lost;
            }
            if locked.is_none() {
                place.attach(fresh.into_frame());
            }
            drop(locked);
            // SAFETY: passed on to the caller.
            next = unsafe { step_down(mm, place.word, address, below) };
        }
        let Some(next) = next else { return Reached::Lost };
        place = next;
    }
    let locked = place.lock(task);
    if keeps::<P>(Step::PopulateAttached) && !locked.place().is_attached() {
        return Reached::Lost;
    }
    Reached::Slot(locked)
}

/// Clears the entry that leads to the table of `place`, which the caller has locked.
///
/// Takes no lock; the table above may be any other thread's.
///
/// # Safety
///
/// The tables on the way to `address` stay allocated meanwhile.
pub(crate) unsafe fn detach<P: Platform>(mm: &Mm<P>, place: &Place<'_, P>, address: VirtAddr) {
    // SAFETY: passed on to the caller.
    place.detach(unsafe { table_above(mm, address, place.level) });
}

/// The table whose entry leads to the table of `level` around `address`.
///
/// # Safety
///
/// As for [`descend`].
unsafe fn table_above<P: Platform>(mm: &Mm<P>, address: VirtAddr, level: u8) -> Option<TableRef<'_, P>> {
    // SAFETY: passed on to the caller.
    unsafe { descend(mm, address, level + 1) }.map(|place| place.table)
}

/// Frees the tables around a range that nothing needs any more, level by level, lowest first. `is_mapped` says whether anything
/// is mapped in a range.
///
/// Takes table locks. Does not sleep. The flush is left to `gather`.
///
/// Linux: `free_pgd_range()` in mm/memory.c.
///
/// # Safety
///
/// - The tables on the way to the range stay allocated meanwhile: the caller is in a read section, or holds the mmap lock in
///   write.
/// - `is_mapped` is right about the mappings until this returns. None of them is in a file's tree that it denies.
pub(crate) unsafe fn free_unneeded<P: Platform>(
    mm: &Mm<P>,
    range: Range<VirtAddr>,
    is_mapped: impl Fn(&Range<VirtAddr>) -> bool,
    gather: &mut Gather<'_, P>,
    task: &Task<P>,
) {
    let geometry = mm.geometry();
    for level in mm.smallest().level()..geometry.root() {
        let mut start = range.start;
        while start < range.end {
            // Where there is no table above, there is none of this level either, for as far as that one would reach.
            // SAFETY: passed on to the caller.
            if unsafe { descend(mm, start, level + 1) }.is_none() {
                start = geometry.table_range(start, level + 1).end;
                continue;
            }
            let covered = geometry.table_range(start, level);
            start = covered.end;
            if !is_mapped(&covered) {
                // SAFETY: passed on to the caller.
                unsafe { free_if_empty(mm, level, covered, gather, task) };
            }
        }
    }
}

/// Detaches and retires the table of `level` that covers a range, if there is one and it is empty. Nothing is mapped in the
/// range.
///
/// Linux: `pud_clear()` and `pmd_free_tlb()` in `free_pmd_range()`, and their like for the upper levels.
///
/// Takes the table lock. Does not sleep.
///
/// # Safety
///
/// As for [`free_unneeded`].
unsafe fn free_if_empty<P: Platform>(
    mm: &Mm<P>,
    level: u8,
    covered: Range<VirtAddr>,
    gather: &mut Gather<'_, P>,
    task: &Task<P>,
) {
    // SAFETY: passed on to the caller.
    let Some(place) = (unsafe { descend(mm, covered.start, level) }) else {
        return;
    };
    let locked = place.lock(task);
    // Somebody else may have freed it since.
    if !place.is_attached() {
        return;
    }
    if keeps::<P>(Step::CountBelow) && place.table.below() > 0 {
        return;
    }
    // SAFETY: passed on to the caller.
    unsafe { detach(mm, &place, covered.start) };
    if locked.sharers() > 0 {
        // Not reached, since unmapping has unshared it. If it were, the others would keep the table.
        let users = place.table.remove_user();
        gather.unshared(covered.start, users);
        return;
    }
    drop(locked);
    // SAFETY: detached above by its only user, with no table below it; no VMA of the range is in a file's tree, so it cannot be
    // shared again.
    unsafe { gather.retire(covered, place.table) };
}
