//! Sharing and unsharing of tables: of those that hold leaves of a size that [shares them](crate::addr::HugeSize::shares_tables), such as
//! 2 MiB on x86-64.
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

use crate::addr::VirtAddr;
use crate::error::OutOfMemory;
use crate::gather::Gather;
use crate::platform::{Event, Invalidation, Platform};
use crate::protocol::{Step, keeps};
use crate::root::Mm;
use crate::table::{LockedSlot, Place, Slot, Stable, TableRef};
use crate::task::Task;
use crate::tree::{alloc_down_to, detach, populate};
use crate::vma::{Vma, VmaReadGuard, VmaWriteGuard};
use crate::walk::{Proof, WrongProof, descend, huge_pte_offset};

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
    /// The table was shared, and no longer belongs to this address space. Skip to the end of its
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
/// The flush is left to `gather`, which is finished before `i_mmap` is released. Secondary MMUs are told of the change
/// before, without sleeping, and of its end when `gather` is finished.
///
/// `vma` is borrowed mutably because a guard in write also proves stable slots. None of them survives this
/// call.
///
/// ```compile_fail,E0502
/// # use hugewalk::{Task, addr::VirtAddr, arch::X86_64, gather::Gather, platform::Platform, vma::VmaWriteGuard};
/// # use hugewalk::{share::huge_pmd_unshare, walk::huge_pte_offset};
/// # fn f<P: Platform>(vma: &mut VmaWriteGuard<'_, P>, at: VirtAddr, gather: &mut Gather<'_, P>, task: &Task<P>) {
/// let slot = huge_pte_offset(vma, vma.vma().mm(), at, X86_64::SIZE_2M);
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
    if !is_own || !gather.is_for(vma.vma()) || !vma.vma().size().shares_tables() {
        return Err(WrongProof);
    }
    if !vma.vma().contains(address) {
        return Err(WrongProof);
    }
    gather.announce_at_once(vma.vma(), &vma.vma().page_around(address), Invalidation::Clear);
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
    let _locked = keeps::<P>(Step::DetachLocked).then_some(locked);
    let too_early = (!keeps::<P>(Step::CountThenTell)).then(|| place.table.users() + 1);
    // SAFETY: the VMA lock, held in write, keeps the tables on the way.
    unsafe { detach(gather.mm(), &place, address) };
    let users = place.table.remove_user();
    gather.unshared(address, too_early.unwrap_or(users));
    Ok(())
}

/// Walks to the slot for `address`, and makes the tables that are missing on the way.
///
/// A table is shared with another mapping of the same file where that is possible, if the
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
    let size = vma.size();
    if let Some(guard) = share_under
        && size.shares_tables()
    {
        let above = alloc_down_to(proof, mm, address, size.level() + 1, task)?;
        if above.is_none() {
            share(guard, address, above, task);
        }
        return Ok(Slot::new(populate(proof, mm, above, address, task)?, size));
    }
    Ok(Slot::new(alloc_down_to(proof, mm, address, size.level(), task)?, size))
}

/// Looks for another mapping of the same file whose table fits. Stores that table in the entry above, `parent`, if the
/// entry is still empty.
///
/// Holds: the VMA lock in read. Takes `i_mmap` in read. Sleeps.
///
/// Linux: `huge_pmd_share()` and `page_table_shareable()` in mm/hugetlb.c.
fn share<P: Platform>(
    guard: &VmaReadGuard<'_, P>,
    address: VirtAddr,
    parent: Place<'_, P>,
    task: &mut Task<P>,
) {
    let vma = guard.vma();
    if !vma.may_share_at(address) {
        return;
    }
    let offset = vma.offset_of(address);
    let i_mmap = vma.file().i_mmap_read_within(task);
    let table = i_mmap.vmas(offset..offset + 1).find_map(|partner| {
        let other: &Vma<P> = partner.vma();
        let there = other.addresses_of(&(offset..offset + 1))?.start;
        let fits = !core::ptr::eq(other, vma)
            && same_place_in_table(vma, there, address)
            && other.agrees_with(vma)
            && other.may_share_at(there);
        if !fits {
            return None;
        }
        let table = partner_table(&partner, there)?;
        // Counted while `i_mmap` is held: the partner cannot unshare before it can see this count.
        let users = table.add_user() + 1;
        // Nothing of the host's is mapped where the partner maps all that the table covers. If the host has put a table
        // there all the same, it is the partner's alone.
        if table.below() > 0 {
            table.remove_user();
            return None;
        }
        Some((table.frame(), users))
    });
    let Some((frame, users)) = table else { return };
    let mm = vma.mm();
    // SAFETY: its count includes the user taken above, and `i_mmap` has been held since.
    let table = unsafe { TableRef::from_frame(mm.hugetlb().platform(), frame) };
    // The lock that `populate` takes as well.
    let locked = if keeps::<P>(Step::PopulateLock) { parent } else { Place { table, ..parent } };
    let locked = locked.lock(task);
    let empty = parent.is_none();
    if empty {
        parent.attach(frame);
    }
    drop(locked);
    if empty {
        let event = Event::Shared { mm: mm.id(), address: vma.table_range(address).start, users };
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
    unsafe { descend(mm, address, partner.vma().size().level()) }.map(|place| place.table)
}

/// Would the two addresses have the same index in a shared table?
fn same_place_in_table<P: Platform>(vma: &Vma<P>, one: VirtAddr, other: VirtAddr) -> bool {
    let covers = vma.mm().geometry().table_bytes(vma.size().level());
    (one.as_u64() ^ other.as_u64()) & (covers - 1) == 0
}
