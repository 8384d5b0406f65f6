//! The rule: what a walk to an entry needs, and what it may do with the entry once it is there.
//!
//! A walk from the root reaches a table that another thread may *unshare*. A third process may then free
//! that table, or fill it with entries of its own.
//!
//! So [`huge_pte_offset`] asks for a **proof**. What the [`Slot`] it returns allows depends on which proof
//! it was:
//!
//! | proof | what it excludes | the slot |
//! |---|---|---|
//! | [`VmaReadGuard`](crate::vma::VmaReadGuard): the VMA lock in read | unsharing | [`Stable`]: `read`, `lock` |
//! | [`VmaWriteGuard`](crate::vma::VmaWriteGuard): the VMA lock in write | unsharing by others | [`Stable`], until the holder unshares |
//! | [`FileProof`](crate::file::FileProof): `i_mmap` of the file in read | unsharing, which needs `i_mmap` in write | [`Stable`] |
//! | [`FileProof`](crate::file::FileProof): `i_mmap` of the file in write | unsharing by others | [`Stable`], until the holder unshares |
//! | the mmap lock, for a VMA that cannot share (the VMA guards stand for that too) | sharing | [`Stable`] |
//! | [`RcuReadGuard`]: a read section | the table being freed | [`Alive`]: `read`, `lock`, which may fail with [`Unshared`] |
//! | nothing | nothing | does not compile |
//!
//! The borrow checker enforces *until the holder unshares*. A slot borrows its proof, and unsharing borrows
//! both locks mutably (see [`share`](crate::share)). So no slot survives an unshare by its own holder
//! either.
//!
//! Three facts make *alive* sound. RCU keeps the memory; validation keeps the meaning.
//!
//! - **P1.** A table is freed after a grace period, together with its lock, its counts and its generation.
//! - **P2.** A lock taken through an RCU walk is revalidated: with the table locked, the walker checks that
//!   its own parent entry still points there. Every detach (any clearing of a parent entry) happens under
//!   the table lock. So an RCU walker never writes to a table that was unshared between its walk and its
//!   lock.
//! - **P3.** A value read without the lock is confirmed. Each detach counts the table's *generation* up
//!   after it has cleared the parent entry. The reader notes the generation and sees its parent entry point
//!   at the table. It reads the entry. Then it checks, in this order, that its parent entry and the
//!   generation are unchanged; else it starts over. So the value was an entry of the reader's own at the
//!   moment it was read. A recheck of the parent entry alone is not enough: the table can go to another
//!   process, hold a foreign page, and come back.
//!
//! So unsharing waits for nobody. It clears the parent entry, counts the generation up and the share count
//! down, and flushes the TLB before `i_mmap` is released.
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
//! # use hugewalk::{platform::Platform, mm::Mm, addr::VirtAddr, arch::X86_64};
//! # fn f<P: Platform>(mm: &Mm<P>, address: VirtAddr) {
//! hugewalk::walk::huge_pte_offset(&(), mm, address, X86_64::SIZE_2M);
//! # }
//! ```

use thiserror::Error;

use crate::addr::{HugeSize, VirtAddr};
use crate::arch::{Paging, for_each_level};
use crate::platform::Platform;
use crate::protocol::loaded_once;
use crate::root::Mm;
use crate::table::{Place, TableRef, read};
use crate::task::RcuReadGuard;

pub use crate::table::{Alive, Kind, LockedSlot, Slot, Stable, Unconfirmed, Unshared};

pub(crate) mod sealed {
    #[allow(unnameable_types)]
    #[diagnostic::on_unimplemented(
        message = "`{Self}` cannot be made a proof: only this crate's locks and read sections are proofs"
    )]
    pub trait Sealed {}
}

/// What has to be held for a walk: see the table in [the module](self).
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not prove that the tables on the way stay where they are",
    label = "this does not keep a page table from being unshared or freed",
    note = "for a slot that is stable, hold the VMA lock (`MmapReadGuard::lock_vma`), or `i_mmap` of the file and walk in a VMA found there (`HugeFile::i_mmap_read`, `IMmapReadGuard::vmas`)",
    note = "for a slot that is alive, whose reads and locks may fail with `Unshared`, be in an RCU read section (`Task::rcu_read_lock`)",
    note = "the mmap lock is not enough: MADV_DONTNEED holds it in read, truncation and reverse mapping not at all"
)]
pub trait Proof<P: Platform>: sealed::Sealed {
    /// Whether it proves that tables stay in place, or only that they stay allocated.
    type Kind: Kind;

    /// Does it prove this for the tables that `mm` has at `address`?
    #[doc(hidden)]
    fn covers(&self, mm: &Mm<P>, address: VirtAddr) -> bool;
}

impl<P: Platform> sealed::Sealed for RcuReadGuard<'_, P> {}
impl<P: Platform> Proof<P> for RcuReadGuard<'_, P> {
    type Kind = Alive;
    #[inline]
    fn covers(&self, mm: &Mm<P>, _address: VirtAddr) -> bool {
        // A read section holds off the grace periods of its own system only.
        self.task().check(mm.hugetlb()).is_ok()
    }
}

/// The proof is of the right kind, but for another VMA or another system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the lock or read section held does not cover this address of this address space")]
pub struct WrongProof;

/// Walks to the entry that maps `address` with pages of `size`: `None` if there is no table for it, or the processors have
/// no such size. Where a group of entries stands for a page, it is the entry for this address.
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
    if !mm.paging().has(size) {
        return Ok(None);
    }
    // SAFETY: the proof holds off the freeing of this address space's tables at `address`, for `'p`.
    let place = unsafe { descend(mm, address, size.level()) };
    Ok(place.map(|place| Slot::new(place, size)))
}

/// As [`huge_pte_offset`], for a caller that does not know which size of page is mapped. Returns the slot
/// of the leaf and its size. If the walk ends at an empty entry, it returns that slot and the size a leaf
/// would have there.
///
/// Linux: `huge_pte_offset()` with the page size of the VMA, which Linux looks up first.
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
    Ok(unsafe { descend_to_leaf(mm, address) }.map(|(place, size)| (Slot::new(place, size), size)))
}

/// Has the tree tables of this level? The compiler knows it of all levels but those that some trees of the format have and
/// others have not.
#[inline(always)]
fn has_level<P: Platform>(mm: &Mm<P>, level: u8) -> bool {
    let (fewest, most) = const { (*P::Paging::LEVELS.start(), *P::Paging::LEVELS.end()) };
    level < fewest || level < most && level < mm.geometry().levels
}

/// Walks from the root to the entry for `address` in its table of `level`.
///
/// Linux: `pgd_offset()`, `p4d_offset()`, `pud_offset()` and `pmd_offset()`, one after the other.
///
/// # Safety
///
/// For `'p`, no table of `mm` that a walk to `address` can meet is freed.
#[inline(always)]
pub(crate) unsafe fn descend<'p, P: Platform>(
    mm: &'p Mm<P>,
    address: VirtAddr,
    level: u8,
) -> Option<Place<'p, P>> {
    if address >= mm.task_size() {
        return None;
    }
    let (platform, paging, format) = (mm.hugetlb().platform(), mm.paging(), *mm.paging());
    // All that is kept of a table on the way is the entry in it: `step_down` loads each one once.
    let mut above: Option<&'p P::Word> = None;
    for_each_level!(at {
        if has_level(mm, at) {
            above = Some(match above {
                None if at == level => return Some(root_place(mm, address, at)),
                None => root_word(mm, address, at),
                Some(word) => {
                    // SAFETY: passed on to the caller.
                    let place = unsafe { step_in(platform, paging, format, word, address, at) }?;
                    if at == level {
                        return Some(place);
                    }
                    place.word
                }
            });
        }
    });
    // No tree has a table of that level.
    let _ = above;
    None
}

/// Walks from the root to the leaf for `address`, or to the entry at which the walk ends. Returns the size of the leaf; that
/// of one that could be there, if the entry is none. `None` if the walk ends above all leaves.
///
/// # Safety
///
/// As for [`descend`].
#[inline(always)]
unsafe fn descend_to_leaf<'p, P: Platform>(
    mm: &'p Mm<P>,
    address: VirtAddr,
) -> Option<(Place<'p, P>, HugeSize)> {
    if address >= mm.task_size() {
        return None;
    }
    let lowest = mm.paging().leaves().first()?.level();
    let (platform, paging, format) = (mm.hugetlb().platform(), mm.paging(), *mm.paging());
    let mut above: Option<&'p P::Word> = None;
    let mut found: Option<Place<'p, P>> = None;
    for_each_level!(at {
        if has_level(mm, at) && at >= lowest {
            above = Some(match above {
                None => root_word(mm, address, at),
                Some(word) => {
                    // SAFETY: passed on to the caller.
                    let Some(place) = (unsafe { step_in(platform, paging, format, word, address, at) }) else {
                        // The entry points to no table.
                        return size_at(found.unwrap_or_else(|| root_place(mm, address, at + 1)));
                    };
                    found = Some(place);
                    place.word
                }
            });
        }
    });
    let _ = above;
    size_at(found.unwrap_or_else(|| root_place(mm, address, lowest)))
}

/// The size of the leaf that an entry is, or could be. `None` where no leaf can be.
#[inline(always)]
fn size_at<P: Platform>(place: Place<'_, P>) -> Option<(Place<'_, P>, HugeSize)> {
    let mapped = if P::Paging::GROUPS { place.paging.leaf_size(read(place.word), place.level) } else { None };
    let of_level = || place.paging.leaves().iter().copied().find(|size| size.level() == place.level);
    mapped.or_else(of_level).map(|size| (place, size))
}

/// The entry of the root, whose level this is, for an address.
#[inline(always)]
fn root_word<P: Platform>(mm: &Mm<P>, address: VirtAddr, level: u8) -> &P::Word {
    mm.root().entry(mm.paging(), mm.geometry().index_below(address, level))
}

/// The place of that entry. The root is never detached, so an entry of it stands for its own parent.
#[inline(always)]
pub(crate) fn root_place<P: Platform>(mm: &Mm<P>, address: VirtAddr, level: u8) -> Place<'_, P> {
    let word = root_word(mm, address, level);
    Place { paging: mm.paging(), table: mm.root(), level, word, parent: word, parent_entry: read(word) }
}

/// Goes from an entry to the table behind it, of `level`, if there is one.
///
/// # Safety
///
/// As for [`descend`].
#[inline(always)]
pub(crate) unsafe fn step_down<'p, P: Platform>(
    mm: &'p Mm<P>,
    parent: &'p P::Word,
    address: VirtAddr,
    level: u8,
) -> Option<Place<'p, P>> {
    let (platform, paging) = (mm.hugetlb().platform(), mm.paging());
    // SAFETY: passed on to the caller.
    unsafe { step_in(platform, paging, *paging, parent, address, level) }
}

/// As [`step_down`], where the caller has found platform and format already. `format` is a copy of `paging`: a walk that
/// keeps it in registers need not look at the address space again at each level.
///
/// # Safety
///
/// As for [`descend`].
#[inline(always)]
unsafe fn step_in<'p, P: Platform>(
    platform: &'p P,
    paging: &'p P::Paging,
    format: P::Paging,
    parent: &'p P::Word,
    address: VirtAddr,
    level: u8,
) -> Option<Place<'p, P>> {
    let parent_entry = read(parent);
    let frame = format.next_table(parent_entry, level + 1)?;
    let frame = loaded_once::<P>(frame, || format.next_table(read(parent), level + 1));
    // SAFETY: the entry points to a table, which the caller keeps.
    let table = unsafe { TableRef::from_frame(platform, frame) };
    // SAFETY: likewise; the index was masked.
    let word = unsafe { platform.table_entry(frame, format.geometry().index_below(address, level)) };
    // SAFETY: by the contract of `Platform` it lies in the table page; entries are atomics.
    Some(Place { paging, table, level, word: unsafe { word.as_ref() }, parent, parent_entry })
}
