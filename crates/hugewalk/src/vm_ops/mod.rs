//! Operations on one VMA, for hosts that have a set of VMAs and an mmap lock of their own.
//!
//! A kernel has mappings of many kinds. Those of huge pages are in its own set, under its own mmap lock, beside all others. It
//! calls the functions of this module for one VMA at a time, as `mm/` calls mm/hugetlb.c in Linux. Hosts without a set of their
//! own use [`AddressSpace`](crate::AddressSpace), which is built on the same functions.
//!
//! Each process has an [`Mm`](crate::mm::Mm). Each mapping of huge pages in the host's set keeps an
//! `Arc<`[`Vma`]`>` of the engine's.
//!
//! | the host | calls | mmap lock | Linux |
//! |---|---|---|---|
//! | maps a range | [`map`] | write | `hugetlbfs_file_mmap()` |
//! | has a page fault | [`hugetlb_fault`](crate::fault::hugetlb_fault) | read | `hugetlb_fault()` |
//! | wants a page that is mapped | [`hugetlb_follow_page`](crate::gup::hugetlb_follow_page) | read | `hugetlb_follow_page_mask()` |
//! | pins pages, faulting them in | [`follow_hugetlb_page`](crate::gup::follow_hugetlb_page) | read | `follow_hugetlb_page()` |
//! | brings a page for a handler of its own | [`hugetlb_mfill_atomic`](crate::uffd::hugetlb_mfill_atomic) | read | `hugetlb_mfill_atomic_pte()` |
//! | drops pages of a range | [`zap`] | read | `zap_page_range_single()` |
//! | unmaps, or exits | [`unmap`], then [`free_tables`] | write | `unmap_hugepage_range()`, `hugetlb_free_pgd_range()`, `hugetlb_vm_op_close()` |
//! | cuts a mapping in two | [`split`] | write | `hugetlb_vm_op_split()`, `hugetlb_split()` |
//! | changes rights | [`protect`] | write | `hugetlb_change_protection()` |
//! | moves a mapping | [`remap`], then [`free_tables`] | write | `move_hugetlb_page_tables()` |
//! | forks | [`copy`] for each VMA | write, of both | `copy_hugetlb_page_range()` |
//! | begins to keep translations of its own | [`settle`] for each VMA | write | `mmu_notifier_register()` |
//! | has base pages in the same tree | [`base`](crate::base#a-host-with-a-set-of-its-own) | read | `pmd_alloc()`, `pmd_populate()` |
//!
//! # Protocol
//!
//! The mmap lock is the host's. The functions take a value that stands for it: [`MmapLocked`], or [`MmapLockedForWrite`], made
//! by an `unsafe fn` in whose contract the host answers for the lock. It comes first in the lock order, and must be one under
//! which a task may sleep.
//!
//! A VMA never changes. [`split`], [`protect`] and [`remap`] return others, which are in the file's tree in place of the old
//! one. The host puts them into its set before it releases the mmap lock. An operation on a VMA that was replaced or unmapped
//! does nothing: a function that gets one says so.
//!
//! The engine does not see the host's set. So the host answers for what is free: two VMAs that overlap would unshare tables
//! under each other's locks. Functions that put something where nothing may be are `unsafe`, and so is [`free_tables`].
//!
//! Walks from the file's side (truncation, migration, memory failure) find the VMAs in the file's tree. They need nothing of
//! the host's.
//!
//! # What is left out
//!
//! What is about many VMAs is the host's: the search for a free range, populating, mlock, madvise other than dropping pages.
//! userfaultfd is the host's too, up to the fill of a page: it knows which mappings have a handler, and asks that before it has a
//! fault resolved. Write protections of userfaultfd are there for an [`AddressSpace`](crate::AddressSpace) alone.

mod copy;
mod exchange;
mod map;
mod remap;
mod settle;
mod split;
mod unlisted;
mod unmap;
mod zap;

pub use self::copy::copy;
pub(crate) use self::copy::{copy_if_needed, link_copy};
pub use self::exchange::protect;
pub(crate) use self::exchange::{change_entries, exchange};
pub(crate) use self::map::NewMapping;
pub use self::map::map;
pub use self::remap::remap;
pub(crate) use self::remap::{make_tables, take_place};
pub use self::settle::settle;
pub(crate) use self::settle::wait_for_changes;
pub(crate) use self::split::Cut;
pub use self::split::split;
pub use self::unmap::{Unmapped, free_tables, unmap};
pub(crate) use self::unmap::{empty, free_tables_unless, return_reservation, try_empty};
pub use self::zap::zap;
pub(crate) use self::zap::zap_pages;

use crate::addr::HugeSize;
use crate::error::MapError;
use crate::platform::Platform;
use crate::task::Task;
#[cfg(doc)]
use crate::vma::MmapLockedForWrite;
use crate::vma::held::KeepsVma as _;
use crate::vma::{MmapLocked, Vma};

/// Refuses a number that is not a multiple of the size.
pub(crate) fn align_error(size: HugeSize, value: u64) -> Result<(), MapError> {
    if size.is_aligned(value) { Ok(()) } else { Err(MapError::Unaligned { value, size }) }
}

/// The first step of an operation on a VMA. Refuses a VMA that was replaced or unmapped, or that belongs to another address
/// space.
fn enter<P: Platform>(mmap: &MmapLocked<'_, P>, vma: &Vma<P>, task: &mut Task<P>) -> Result<(), MapError> {
    task.enter(mmap.mm().hugetlb())?;
    if mmap.keeps(vma) { Ok(()) } else { Err(stale(vma)) }
}

const fn stale<P: Platform>(vma: &Vma<P>) -> MapError {
    MapError::NotMapped { address: vma.start() }
}
