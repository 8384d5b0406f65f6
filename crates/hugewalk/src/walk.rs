//! The rule: who may walk to an entry, and what may be done with it there.
//!
//! A walk from the root reaches a table that another thread may *unshare* and a third process may then free, or fill
//! with entries of its own. So [`huge_pte_offset`] asks for a **proof**, and what the [`Slot`] it returns allows
//! depends on which:
//!
//! | proof | what it excludes | the slot |
//! |---|---|---|
//! | [`VmaReadGuard`]: the VMA lock in read | unsharing | [`Stable`]: `read`, `lock` |
//! | [`VmaWriteGuard`]: the VMA lock in write | unsharing by others | [`Stable`], until the holder unshares |
//! | [`FileProof`]: `i_mmap` of the file in read | unsharing, which needs `i_mmap` in write | [`Stable`] |
//! | [`FileProof`]: `i_mmap` of the file in write | unsharing by others | [`Stable`], until the holder unshares |
//! | the mmap lock, for a VMA that cannot share (the VMA guards stand for that too) | sharing | [`Stable`] |
//! | [`RcuReadGuard`]: a read section | the table being freed | [`Alive`]: `read`, `lock`, which may fail with [`Unshared`] |
//! | nothing | nothing | does not compile |
//!
//! *Until the holder unshares* is a matter of borrows: a slot borrows its proof, and unsharing borrows both locks mutably
//! (see [`share`](crate::share)). So no slot survives an unshare by its own holder either.
//!
//! Three facts make *alive* sound: RCU keeps the memory, validation keeps the meaning.
//!
//! - **P1.** A table is freed after a grace period, together with its lock, its counts and its generation.
//! - **P2.** A lock taken through an RCU walk is revalidated: with the table locked, the walker checks that its own
//!   parent entry still points there. Every detach, which is any clearing of a parent entry, happens under the table
//!   lock. So an RCU walker never writes to a table that is no longer its own (scenario S8).
//! - **P3.** A value read without the lock is confirmed. Each detach counts the table's *generation* up after it has
//!   cleared the parent entry. The reader notes the generation and sees its parent entry point at the table; reads; and
//!   then sees, in this order, its parent entry and the generation unchanged. Else it starts over. What it got was an
//!   entry of its own at the moment it was read. The parent alone is not enough: the table can go to another process,
//!   hold a foreign page, and come back (scenario S30).
//!
//! So unsharing waits for nobody. It clears the parent entry, counts the generation up and the users down, and has the
//! TLB flushed before `i_mmap` is let go.
//!
//! # Lock order
//!
//! mmap lock > inode lock > fault mutex > VMA lock > `i_mmap` > page lock > table lock > the spinning locks of page cache,
//! region maps, mount and pool. (The page lock is the fault mutex of the page's place: see [`rmap`](crate::rmap).) Code that
//! comes from the file or the page side may only *try* the VMA lock, or drops everything and starts over.
//!
//! # The types at work
//!
//! A walk without a proof:
//!
//! ```compile_fail,E0277
//! # use hugewalk::{platform::Platform, mm::Mm, addr::{HugeSize, VirtAddr}};
//! # fn f<P: Platform>(mm: &Mm<P>, address: VirtAddr) {
//! hugewalk::walk::huge_pte_offset(&(), mm, address, HugeSize::Size2M);
//! # }
//! ```

use thiserror::Error;

use crate::addr::{HugeSize, TableFrame, VirtAddr};
use crate::arch::{Entry, Level};
use crate::file::FileProof;
use crate::mm::Mm;
use crate::platform::{Levels, Platform, Protocol, Step};
use crate::table::{Place, TableRef, index_of};
use crate::task::RcuReadGuard;
use crate::vma::{VmaReadGuard, VmaWriteGuard};

pub use crate::table::{Alive, Kind, LockedSlot, Slot, Stable, Unconfirmed, Unshared};

pub(crate) mod sealed {
    #[allow(unnameable_types)]
    #[diagnostic::on_unimplemented(
        message = "`{Self}` cannot be made a proof: what proves is a lock or a read section of this crate"
    )]
    pub trait Sealed {}
}

/// What has to be held for a walk: see the table in [the module](self).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no proof that the tables on the way stay where they are",
    label = "this does not keep a page table from being unshared or freed",
    note = "for a slot that is stable, hold the VMA lock (`MmapReadGuard::lock_vma`), or `i_mmap` of the file and walk in a VMA found there (`HugeFile::i_mmap_read`, `IMmapReadGuard::vmas`)",
    note = "for a slot that is alive, whose reads and locks may fail with `Unshared`, be in an RCU read section (`Task::rcu_read_lock`)",
    note = "the mmap lock is not enough: MADV_DONTNEED holds it in read, truncation and reverse mapping not at all"
)]
pub trait Proof<P: Platform>: sealed::Sealed {
    /// Whether what it proves is that tables stay in place, or only that they stay allocated.
    type Kind: Kind;

    /// Does it prove that for the tables that `mm` has at `address`?
    #[doc(hidden)]
    fn covers(&self, mm: &Mm<P>, address: VirtAddr) -> bool;
}

impl<P: Platform> sealed::Sealed for RcuReadGuard<'_, P> {}
impl<P: Platform> Proof<P> for RcuReadGuard<'_, P> {
    type Kind = Alive;
    #[inline]
    fn covers(&self, mm: &Mm<P>, _address: VirtAddr) -> bool {
        // A read section holds off the grace periods of its own system alone.
        self.task().check(mm.hugetlb()).is_ok()
    }
}

impl<P: Platform> sealed::Sealed for VmaReadGuard<'_, P> {}
impl<P: Platform> Proof<P> for VmaReadGuard<'_, P> {
    type Kind = Stable;
    #[inline]
    fn covers(&self, mm: &Mm<P>, address: VirtAddr) -> bool {
        core::ptr::eq::<Mm<P>>(&**self.vma().mm(), mm) && self.vma().contains(address)
    }
}

impl<P: Platform> sealed::Sealed for VmaWriteGuard<'_, P> {}
impl<P: Platform> Proof<P> for VmaWriteGuard<'_, P> {
    type Kind = Stable;
    #[inline]
    fn covers(&self, mm: &Mm<P>, address: VirtAddr) -> bool {
        core::ptr::eq::<Mm<P>>(&**self.vma().mm(), mm) && self.vma().contains(address)
    }
}

impl<P: Platform> sealed::Sealed for FileProof<'_, P> {}
impl<P: Platform> Proof<P> for FileProof<'_, P> {
    type Kind = Stable;
    #[inline]
    fn covers(&self, mm: &Mm<P>, address: VirtAddr) -> bool {
        core::ptr::eq::<Mm<P>>(&**self.vma().mm(), mm) && self.vma().contains(address)
    }
}

/// The proof is of the right kind, but for another VMA or another system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the lock or read section held does not cover this address of this address space")]
pub struct WrongProof;

/// Walks to the entry that maps `address` with pages of `size`: `None` if there is no table for it.
///
/// Holds: what `proof` stands for. Takes nothing, does not sleep.
///
/// Linux: `huge_pte_offset()` in mm/hugetlb.c.
///
/// # Errors
///
/// [`WrongProof`] if `proof` covers another VMA than the one at `address`, or belongs to another system.
#[inline]
pub fn huge_pte_offset<'p, P: Platform, W: Proof<P>>(
    proof: &'p W,
    mm: &'p Mm<P>,
    address: VirtAddr,
    size: HugeSize,
) -> Result<Option<Slot<'p, P, W::Kind>>, WrongProof> {
    if !proof.covers(mm, address) {
        return Err(WrongProof);
    }
    // SAFETY: the proof holds off the freeing of this address space's tables at `address`, for `'p`.
    Ok(unsafe { descend(mm, address, Level::of_leaf(size)) }.map(Slot::new))
}

/// As [`huge_pte_offset`], for who does not know which size of page is mapped: the slot of the leaf, whatever its size,
/// or of the empty entry where the walk ends, with the size it would have there.
///
/// # Errors
///
/// [`WrongProof`], as for [`huge_pte_offset`].
#[inline]
pub fn leaf_offset<'p, P: Platform, W: Proof<P>>(
    proof: &'p W,
    mm: &'p Mm<P>,
    address: VirtAddr,
) -> Result<Option<(Slot<'p, P, W::Kind>, HugeSize)>, WrongProof> {
    if !proof.covers(mm, address) {
        return Err(WrongProof);
    }
    // SAFETY: as above.
    let Some(pud) = (unsafe { descend(mm, address, Level::Pud) }) else {
        return Ok(None);
    };
    if matches!(pud.table.read(pud.index).decode(), Entry::Table(_)) {
        // SAFETY: as above.
        let pmd = unsafe { step_down(mm.hugetlb().platform(), (pud.table, pud.index), address, Level::Pmd) };
        return Ok(pmd.map(|place| (Slot::new(place), HugeSize::Size2M)));
    }
    Ok(Some((Slot::new(pud), HugeSize::Size1G)))
}

/// Walks from the root to the entry for `address` in its table of `level` (PMD, PUD or P4D).
///
/// # Safety
///
/// For `'p`, no table of `mm` that a walk to `address` can meet is freed.
#[inline(always)]
pub(crate) unsafe fn descend<'p, P: Platform>(
    mm: &'p Mm<P>,
    address: VirtAddr,
    level: Level,
) -> Option<Place<'p, P>> {
    if address >= mm.task_size() {
        return None;
    }
    let (platform, root) = (mm.hugetlb().platform(), mm.root());
    // Of the tables on the way there is no more than where they are: each entry is loaded once, by `step_down`.
    let above = match mm.levels() {
        Levels::Four => (root, index_of(address, Level::P4d.shift())),
        Levels::Five => {
            let pgd = (root, index_of(address, Level::Pgd.shift()));
            // SAFETY: passed on to the caller.
            let p4d = unsafe { step_down(platform, pgd, address, Level::P4d) }?;
            if level == Level::P4d {
                return Some(p4d);
            }
            (p4d.table, p4d.index)
        }
    };
    if level == Level::P4d {
        return Some(root_place(root, above.1));
    }
    // SAFETY: passed on to the caller.
    let pud = unsafe { step_down(platform, above, address, Level::Pud) }?;
    if level == Level::Pud {
        return Some(pud);
    }
    // SAFETY: passed on to the caller.
    unsafe { step_down(platform, (pud.table, pud.index), address, Level::Pmd) }
}

/// An entry of the root. Nobody detaches the root, so an entry of it stands for its own parent.
pub(crate) fn root_place<P: Platform>(root: TableRef<'_, P>, index: usize) -> Place<'_, P> {
    Place { table: root, index, parent: root.entry(index), parent_entry: root.read(index) }
}

/// From an entry, given by its table and its index there, to the table behind it, if there is one.
///
/// # Safety
///
/// As for [`descend`].
#[inline(always)]
pub(crate) unsafe fn step_down<'p, P: Platform>(
    platform: &'p P,
    (above, at): (TableRef<'p, P>, usize),
    address: VirtAddr,
    level: Level,
) -> Option<Place<'p, P>> {
    let parent_entry = above.read(at);
    let mut frame = parent_entry.table()?;
    if !P::Protocol::keeps(Step::LoadOnce) {
        frame = above.read(at).table().unwrap_or(TableFrame(0));
    }
    // SAFETY: the entry points to a table, which the caller keeps.
    let table = unsafe { TableRef::from_frame(platform, frame) };
    Some(Place { table, index: index_of(address, level.shift()), parent: above.entry(at), parent_entry })
}
