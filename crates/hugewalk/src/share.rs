//! Sharing and unsharing of the tables that hold 2 MiB entries.
//!
//! # Protocol
//!
//! Sharing needs `i_mmap` in read. Unsharing needs `i_mmap` in write, the VMA lock in write and the lock of
//! the table. So no table is unshared during the search for a partner, and a walker that holds any of the
//! three locks finds its parent entry unchanged.
//!
//! A parent entry is populated, by sharing or with a fresh table, under the lock of the table that the
//! entry lies in. The lock is the same for both, so a fault that shares and a fault that makes a table
//! cannot both store the entry.
//!
//! A lock held in write does not keep its own holder from unsharing. Borrows do. Unsharing takes the VMA's
//! guard and the gather by `&mut`, and the gather's scope takes the guard of `i_mmap` by `&mut`. A slot
//! borrows the guard it was found under, so the holder has no slot left when it unshares.
//!
//! The share count goes up *before* the new parent entry is stored, and down *after* the old one is
//! cleared. So it is never too small. It is separate from the page's reference count, which anybody may
//! raise for a moment and so make a table look shared (CVE-2024-57883).

use crate::addr::{HugeSize, PUD_SIZE, VirtAddr};
use crate::arch::Level;
use crate::error::OutOfMemory;
use crate::gather::Gather;
use crate::platform::{Event, Platform, Protocol, Step};
use crate::root::Mm;
use crate::table::{LockedSlot, OwnedTable, Place, Slot, Stable, TableRef, index_of};
use crate::task::Task;
use crate::vma::{Vma, VmaReadGuard, VmaWriteGuard};
use crate::walk::{Proof, WrongProof, descend, huge_pte_offset, root_place, step_down};

mod sealed {
    pub trait Sealed {}
}

/// A VMA lock held in write: half of what unsharing takes.
#[diagnostic::on_unimplemented(
    message = "unsharing needs the VMA lock in write; `{Self}` is not a VMA lock held in write",
    label = "hold a `VmaWriteGuard` here (`MmapReadGuard::lock_vma_write`)",
    note = "walkers hold the VMA lock in read to keep their tables from being unshared; take it in write to unshare"
)]
pub trait VmaLockedForWrite<P: Platform>: sealed::Sealed + Proof<P, Kind = Stable> {
    /// The VMA whose lock is held.
    fn vma(&self) -> &Vma<P>;
}

impl<P: Platform> sealed::Sealed for VmaWriteGuard<'_, P> {}
impl<P: Platform> VmaLockedForWrite<P> for VmaWriteGuard<'_, P> {
    fn vma(&self) -> &Vma<P> {
        VmaWriteGuard::vma(self)
    }
}

/// What [`huge_pmd_unshare`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsharing {
    /// The table was shared, and no longer belongs to this address space. Skip to the end of its 1 GiB
    /// range.
    Unshared,
    /// No other address space uses the table, or there is no table. Work on it in place.
    Alone,
}

/// Unshares the table around `address`: this address space stops using it, if others use it too.
///
/// Holds: the VMA lock in write (by `vma`) and `i_mmap` in write (by `gather`). Takes the table lock. Does
/// not sleep.
///
/// The flush is left to `gather`, which is finished before `i_mmap` is released.
///
/// `vma` is borrowed mutably because a guard in write also proves stable slots. None of them survives this
/// call.
///
/// ```compile_fail,E0502
/// # use hugewalk::{Task, addr::{HugeSize, VirtAddr}, gather::Gather, platform::Platform, vma::VmaWriteGuard};
/// # use hugewalk::{share::huge_pmd_unshare, walk::huge_pte_offset};
/// # fn f<P: Platform>(vma: &mut VmaWriteGuard<'_, P>, at: VirtAddr, gather: &mut Gather<'_, P>, task: &Task<P>) {
/// let slot = huge_pte_offset(vma, vma.vma().mm(), at, HugeSize::Size2M);
/// let _ = huge_pmd_unshare(vma, at, gather, task);
/// drop(slot);
/// # }
/// ```
///
/// Linux: `huge_pmd_unshare()` in mm/hugetlb.c.
///
/// # Errors
///
/// [`WrongProof`] if `vma` is not the VMA at `address`, `gather` is for another address space or another file, or `task`
/// belongs to another system.
pub fn huge_pmd_unshare<P, V>(
    vma: &mut V,
    address: VirtAddr,
    gather: &mut Gather<'_, P>,
    task: &Task<P>,
) -> Result<Unsharing, WrongProof>
where
    P: Platform,
    V: VmaLockedForWrite<P>,
{
    let is_own = task.check(vma.vma().mm().hugetlb()).is_ok();
    if !is_own || !gather.is_for(vma.vma()) || vma.vma().size() != HugeSize::Size2M {
        return Err(WrongProof);
    }
    Ok(match lock_own_table(vma, address, gather, task)? {
        OwnTable::Unshared => Unsharing::Unshared,
        OwnTable::Locked(_) | OwnTable::Missing => Unsharing::Alone,
    })
}

/// What [`lock_own_table`] found.
pub(crate) enum OwnTable<'s, P: Platform> {
    /// The table of the entry, locked. No other address space uses it.
    Locked(LockedSlot<'s, P>),
    /// The table was shared, and no longer belongs to this address space.
    Unshared,
    /// There is no table.
    Missing,
}

/// Walks to the entry for `address` and locks its table. A table that others use too is unshared instead.
///
/// Linux: `hugetlb_walk()`, `huge_pte_lock()` and `huge_pmd_unshare()`, as `__unmap_hugepage_range()` calls
/// them.
///
/// Holds: the VMA lock in write (by `vma`) and `i_mmap` in write (by `gather`). Takes the table lock. Does
/// not sleep.
///
/// # Errors
///
/// [`WrongProof`] if `vma` is not the VMA at `address`.
pub(crate) fn lock_own_table<'s, P, V>(
    vma: &'s mut V,
    address: VirtAddr,
    gather: &mut Gather<'_, P>,
    task: &'s Task<P>,
) -> Result<OwnTable<'s, P>, WrongProof>
where
    P: Platform,
    V: VmaLockedForWrite<P>,
{
    debug_assert!(gather.is_for(vma.vma()), "the gather is for another VMA");
    // No other slot borrows `vma` any more. This one does, and unsharing consumes it.
    let vma: &'s V = vma;
    let Some(slot) = huge_pte_offset(vma, vma.vma().mm(), address, vma.vma().size())? else {
        return Ok(OwnTable::Missing);
    };
    Ok(match unshare_locked(slot.lock(task), address, gather) {
        Ok(()) => OwnTable::Unshared,
        Err(alone) => OwnTable::Locked(alone),
    })
}

/// Unshares a locked table. Gives the lock back if no other address space uses the table.
///
/// Holds: the lock of the VMA at `address` in write, and `i_mmap` in write (by `gather`). The caller has no
/// other slot of this table.
pub(crate) fn unshare_locked<'s, P: Platform>(
    locked: LockedSlot<'s, P>,
    address: VirtAddr,
    gather: &mut Gather<'_, P>,
) -> Result<(), LockedSlot<'s, P>> {
    // `i_mmap` in write keeps others from sharing and unsharing, so the share count stands still.
    if locked.sharers() == 0 {
        return Err(locked);
    }
    let place = *locked.place();
    // Held until the end: a walker that has revalidated its lock may rely on the table as long as it holds
    // the lock.
    let _locked = P::Protocol::keeps(Step::DetachLocked).then_some(locked);
    let too_early = (!P::Protocol::keeps(Step::CountThenTell)).then(|| place.table.users() + 1);
    place.detach();
    let users = place.table.remove_user();
    gather.unshared(address, too_early.unwrap_or(users));
    Ok(())
}

/// Walks to the slot for `address`, and makes the tables that are missing on the way.
///
/// A table for 2 MiB entries is shared with another mapping of the same file where that is possible, if the
/// caller gives `share_under`: the VMA lock in read, with `i_mmap` not held, since the search for a partner
/// takes it.
///
/// Holds: the VMA lock in read or write. Takes `i_mmap` in read if it shares. May sleep.
///
/// Linux: `huge_pte_alloc()` in mm/hugetlb.c.
pub(crate) fn huge_pte_alloc<'p, P: Platform, W: Proof<P, Kind = Stable>>(
    proof: &'p W,
    vma: &'p Vma<P>,
    address: VirtAddr,
    share_under: Option<&VmaReadGuard<'_, P>>,
    task: &mut Task<P>,
) -> Result<Slot<'p, P, Stable>, OutOfMemory> {
    let mm: &'p Mm<P> = vma.mm();
    debug_assert!(proof.covers(mm, address), "the proof is for another VMA");
    if let Some(guard) = share_under
        && vma.size() == HugeSize::Size2M
    {
        let pud = alloc_down_to(proof, mm, address, Level::Pud, task)?;
        if pud.read().is_none() {
            share(guard, address, pud, task);
        }
        return Ok(Slot::new(populate(proof, mm, pud, address, Level::Pmd, task)?));
    }
    Ok(Slot::new(alloc_down_to(proof, mm, address, Level::of_leaf(vma.size()), task)?))
}

/// The place of the entry for `address` at `level`. Makes the tables on the way that are missing.
///
/// Linux: `p4d_alloc()`, `pud_alloc()` and `pmd_alloc()`, one after the other.
///
/// Holds: what `proof` stands for. `proof` covers the VMA at `address`.
fn alloc_down_to<'p, P: Platform, W: Proof<P, Kind = Stable>>(
    proof: &'p W,
    mm: &'p Mm<P>,
    address: VirtAddr,
    level: Level,
    task: &Task<P>,
) -> Result<Place<'p, P>, OutOfMemory> {
    // SAFETY: the proof keeps the tables at `address` where they are.
    if let Some(place) = unsafe { descend(mm, address, level) } {
        return Ok(place);
    }
    let (root, mut at) = (mm.root(), mm.levels().top());
    let mut place = root_place(root, root.entry(index_of(address, at.shift())));
    while let Some(below) = at.below().filter(|_| at > level) {
        place = populate(proof, mm, place, address, below, task)?;
        at = below;
    }
    Ok(place)
}

/// Goes from an entry to the table behind it, which is made if the entry is empty.
///
/// Linux: `pmd_alloc()`, and its like for the upper levels.
///
/// Holds: what `_proof` stands for. `_proof` covers the VMA at `address`.
fn populate<'p, P: Platform, W: Proof<P, Kind = Stable>>(
    _proof: &'p W,
    mm: &'p Mm<P>,
    above: Place<'p, P>,
    address: VirtAddr,
    level: Level,
    task: &Task<P>,
) -> Result<Place<'p, P>, OutOfMemory> {
    let platform = mm.hugetlb().platform();
    // SAFETY: the proof keeps the tables at `address` where they are.
    if let Some(place) = unsafe { step_down(platform, above.word, address, level) } {
        return Ok(place);
    }
    // Made before the lock is taken. If the entry turns out to be filled, the fresh table is dropped.
    let fresh = OwnedTable::new(mm.hugetlb())?;
    let locked = above.lock(task);
    if locked.raw().is_none() {
        above.attach(fresh.into_frame());
    }
    drop(locked);
    // SAFETY: as above. The entry is a table now, and is not cleared while the caller's proof holds.
    unsafe { step_down(platform, above.word, address, level) }.ok_or(OutOfMemory)
}

/// Looks for another mapping of the same file whose table fits. Stores that table in the PUD entry if the
/// entry is still empty.
///
/// Holds: the VMA lock in read. Takes `i_mmap` in read. Sleeps.
///
/// Linux: `huge_pmd_share()` and `page_table_shareable()` in mm/hugetlb.c.
fn share<P: Platform>(guard: &VmaReadGuard<'_, P>, address: VirtAddr, pud: Place<'_, P>, task: &mut Task<P>) {
    let vma = guard.vma();
    if !vma.may_share_at(address) {
        return;
    }
    let offset = vma.offset_of(address);
    let i_mmap = vma.file().i_mmap_read(task);
    let table = i_mmap.vmas(offset..offset + 1).find_map(|partner| {
        let other: &Vma<P> = partner.vma();
        let there = other.addresses_of(&(offset..offset + 1))?.start;
        let fits = !core::ptr::eq(other, vma)
            && same_place_in_table(there, address)
            && other.agrees_with(vma)
            && other.may_share_at(there);
        if !fits {
            return None;
        }
        let parent = partner_table(&partner, there)?;
        // Counted while `i_mmap` is held: the partner cannot unshare before it can see this count.
        let users = parent.add_user() + 1;
        Some((parent.frame(), users))
    });
    let Some((frame, users)) = table else { return };
    let mm = vma.mm();
    // SAFETY: its count includes the user taken above, and `i_mmap` has been held since.
    let table = unsafe { TableRef::from_frame(mm.hugetlb().platform(), frame) };
    // The lock that `populate` takes as well.
    let locked = if P::Protocol::keeps(Step::PopulateLock) { pud } else { Place { table, ..pud } };
    let locked = locked.lock(task);
    let empty = pud.read().is_none();
    if empty {
        pud.attach(frame);
    }
    drop(locked);
    if empty {
        let event = Event::Shared { mm: mm.id(), address: address.pud_floor(), users };
        mm.hugetlb().platform().trace(event);
    } else {
        table.remove_user();
    }
}

/// The table that a VMA has at `address`. The VMA was found in the file's tree.
///
/// Linux: `hugetlb_walk()` in `huge_pmd_share()`.
fn partner_table<'p, P: Platform>(
    partner: &'p crate::file::FileProof<'p, P>,
    address: VirtAddr,
) -> Option<TableRef<'p, P>> {
    let mm: &'p Mm<P> = partner.vma().mm();
    // SAFETY: `i_mmap` is held and the VMA is in its tree: its tables are neither unshared nor freed.
    unsafe { descend(mm, address, Level::Pmd) }.map(|place| place.table)
}

/// Would the two addresses have the same index in a shared table?
fn same_place_in_table(one: VirtAddr, other: VirtAddr) -> bool {
    one.as_u64() & (PUD_SIZE - 1) == other.as_u64() & (PUD_SIZE - 1)
}
