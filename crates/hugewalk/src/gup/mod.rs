//! get_user_pages: references to the pages behind a range of addresses, for those who read or write the contents past the
//! page tables: a device, another process, a core dump.
//!
//! # Protocol
//!
//! Everything here walks under RCU. There are two ways to take the reference at the end of a walk:
//!
//! - *Locked.* The slot is alive; its table is locked, which fails if it was unshared since the walk (P2 of the rule in
//!   [`walk`](crate::walk)). Under the lock the entry keeps its page, so the reference is there to be taken.
//! - *Fast*, without a lock, in an order that must not change: read the entry; take a reference to the page it names,
//!   unless that page is free, for it may have become anybody's meanwhile; and only then see that the entry has not
//!   changed and confirm (P3) that the table was this address space's own from before the read until now. Then the page
//!   was its own when it was read, and is the page that was referenced (scenarios S9, S30; CVE-2025-38085). Anything else
//!   gives the reference back and falls back on the locked way.
//!
//! The mmap lock, in read, adds what the entries do not say: is there a mapping at all, and does it allow this? It comes
//! before the read section. What is not mapped yet is faulted in with nothing held, and then looked for anew. Who must not
//! sleep ([`AddressSpace::pin_pages_nowait`]) gets an error in its place, and has no way to sleep: it has a `&Task`.
//!
//! # Pins and copy-on-write
//!
//! A reference keeps a page from being freed; it does not keep the address space from going over to another one. So who
//! wants to see what the process stores later, or the process to see what he stores, *pins*
//! ([`GupFlags::PIN`]):
//!
//! - A page of a private mapping is pinned only if the address space has it to itself: the entry is writable, or is the
//!   only one that maps the page. Else the page is copied first ("unsharing"), also if it is only to be read. (A page of the
//!   file that a private mapping has not copied yet is pinned for reading as it is, as in Linux 6.1.)
//! - fork does not share a pinned page. The child gets a copy at once; the parent keeps the page, and the right to write.
//!
//! So a store after the pin never copies the page away from under it. fork and a pin without a lock can meet; each makes its
//! own step first and looks for the other's then, all of it sequentially consistent, so one of them gives way
//! (`make_shared` in `mm/fork.rs`).
//!
//! Linux: mm/gup.c; `follow_hugetlb_page()`, `hugetlb_follow_page_mask()` (6.1: `follow_huge_pmd_pte()`) and
//! `__follow_hugetlb_must_fault()` in mm/hugetlb.c.

mod error;
mod follow;
mod pinned;
mod transfer;

use bitflags::bitflags;

pub use self::error::{GupError, NotPinnedForWriting, TransferError};
pub use self::pinned::{PinnedPage, PinnedRef, Pins, SystemRef};

use self::follow::{Follow, Want};
use crate::addr::VirtAddr;
use crate::fault::{Access, Fault};
use crate::mm::AddressSpace;
use crate::page::PageRef;
use crate::platform::Platform;
use crate::task::Task;
use crate::vma::{Protection, Vma, VmaReadGuard};

bitflags! {
    /// What a page is wanted for. Linux: `FOLL_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct GupFlags: u32 {
        /// To write to it; a page of a private mapping is copied first (`FOLL_WRITE`).
        const WRITE = 1 << 0;
        /// For a core dump: where there is no page, none is made; it is an error (`FOLL_DUMP`).
        const DUMP = 1 << 1;
        /// The contents are accessed past the page tables (`FOLL_PIN`): see [the module](self).
        const PIN = 1 << 2;
        /// A pin that user space holds for as long as it likes (`FOLL_LONGTERM`). Only together with `PIN`. Linux moves such
        /// pages out of memory that is meant to stay movable; this crate knows no such memory.
        const LONGTERM = 1 << 3;
    }
}

impl<P: Platform> AddressSpace<P> {
    /// References to the pages of `length` bytes from `address` on, faulted in where they are missing. Sleeps.
    ///
    /// Neither needs to be aligned. As many pages as can be had, from the first on: what stopped it is in
    /// [`Pins::stopped_by`]. A length of 0 gives no page and no error.
    ///
    /// Takes the mmap lock in read and table locks, one page at a time, and what faults take.
    ///
    /// Linux: `get_user_pages_unlocked()`, `pin_user_pages_unlocked()` in mm/gup.c.
    ///
    /// # Errors
    ///
    /// [`GupError`], if not even the first page could be had.
    pub fn pin_pages(
        &self,
        task: &mut Task<P>,
        address: VirtAddr,
        length: u64,
        flags: GupFlags,
    ) -> Result<Pins<P>, GupError> {
        self.check(task, flags)?;
        let mut pins = Pins::new(task.hugetlb().clone(), address, length, Want::of(flags));
        pins.fill(|at| self.pin_page(task, SystemRef::of(self), at, flags))?;
        Ok(pins)
    }

    /// As [`pin_pages`](Self::pin_pages), without sleeping: only what is mapped already, the way it is wanted.
    ///
    /// Tries the mmap lock in read; takes table locks.
    ///
    /// Linux: `FOLL_NOWAIT`; where no page can be had, Linux returns 0 pages and no error.
    ///
    /// # Errors
    ///
    /// [`GupError::WouldSleep`] if the first page could only be had by sleeping; any other [`GupError`].
    pub fn pin_pages_nowait(
        &self,
        task: &Task<P>,
        address: VirtAddr,
        length: u64,
        flags: GupFlags,
    ) -> Result<Pins<P>, GupError> {
        self.check(task, flags)?;
        let mut pins = Pins::new(task.hugetlb().clone(), address, length, Want::of(flags));
        let Some(mmap) = self.mmap_try_read(task) else {
            return if length == 0 { Ok(pins) } else { Err(GupError::WouldSleep) };
        };
        pins.fill(|at| {
            let vma = mmap.find(at).ok_or(GupError::NotMapped { address: at })?;
            check_rights(vma, at, flags)?;
            match self.follow(task, SystemRef::of(self), at, Want::of(flags))? {
                Follow::Page(page) => Ok(page),
                Follow::Hole if flags.contains(GupFlags::DUMP) && !is_cached(vma, at) => {
                    Err(GupError::NoPage { address: at })
                }
                Follow::Hole | Follow::MustFault | Follow::MustUnshare => Err(GupError::WouldSleep),
            }
        })?;
        Ok(pins)
    }

    /// As [`pin_pages`](Self::pin_pages), without a lock for each page that is mapped already, the way it is wanted. May
    /// sleep for the others. The references borrow the system, so that none of its cache lines is written;
    /// [`PinnedPage::into_owned`] makes them last longer than the address space.
    ///
    /// What the entries allow counts here, not what the mapping does: a mapping that can be written and not read can be
    /// read, as by the processor.
    ///
    /// Linux: `get_user_pages_fast()`, `pin_user_pages_fast()` in mm/gup.c.
    ///
    /// # Errors
    ///
    /// [`GupError::OutOfRange`] if the range does not lie within the addresses that a process can have (where Linux 6.1
    /// returns 0 pages and no error, if it wraps around the number range), [`GupError::BadFlags`] for `DUMP` too; else as
    /// for [`pin_pages`](Self::pin_pages).
    pub fn pin_pages_fast<'s>(
        &'s self,
        task: &mut Task<P>,
        address: VirtAddr,
        length: u64,
        flags: GupFlags,
    ) -> Result<Pins<P, SystemRef<'s, P>>, GupError> {
        self.check(task, flags)?;
        if flags.contains(GupFlags::DUMP) {
            return Err(GupError::BadFlags);
        }
        let limit = self.mm().levels().task_size();
        if address.checked_add(length).is_none_or(|end| end > limit) {
            return Err(GupError::OutOfRange { address, length });
        }
        let system = SystemRef::of(self);
        let mut pins = Pins::new(system, address, length, Want::of(flags));
        pins.fill(|at| match self.follow_fast(task, system, at, Want::of(flags)) {
            Some(page) => Ok(page),
            None => self.pin_page(task, system, at, flags),
        })?;
        Ok(pins)
    }

    /// A reference to one page without a lock, or `None` if that is not to be had: then
    /// [`pin_pages_fast`](Self::pin_pages_fast), which may sleep, has the page or the error. Does not sleep.
    ///
    /// Writes no cache line that others use but that of the page's own count.
    ///
    /// Linux: `get_user_pages_fast_only()`, `gup_huge_pmd()` in mm/gup.c.
    #[inline]
    #[must_use]
    pub fn pin_page_fast(
        &self,
        task: &Task<P>,
        address: VirtAddr,
        flags: GupFlags,
    ) -> Option<PinnedPage<P, SystemRef<'_, P>>> {
        if !are_valid(flags) || flags.contains(GupFlags::DUMP) {
            return None;
        }
        self.follow_fast(task, SystemRef::of(self), address, Want::of(flags))
    }

    /// A reference to the page that is mapped at `address` now, or `None` if there is none, it is being moved, or it cannot
    /// be had in this way without a fault. Does not sleep.
    ///
    /// Takes the table lock. What the entry allows counts here, not what the mapping does.
    ///
    /// Linux: `hugetlb_follow_page_mask()` in mm/hugetlb.c.
    ///
    /// # Errors
    ///
    /// [`GupError::Hwpoison`], [`GupError::TooManyReferences`], [`GupError::BadFlags`], [`GupError::WrongSystem`].
    pub fn follow_page(
        &self,
        task: &Task<P>,
        address: VirtAddr,
        flags: GupFlags,
    ) -> Result<Option<PinnedPage<P>>, GupError> {
        self.check(task, flags)?;
        Ok(match self.follow(task, task.hugetlb().clone(), address, Want::of(flags))? {
            Follow::Page(page) => Some(page),
            Follow::Hole | Follow::MustFault | Follow::MustUnshare => None,
        })
    }

    /// The page at `address`, faulted in if it must be. Sleeps.
    fn pin_page<'h>(
        &self,
        task: &mut Task<P>,
        system: SystemRef<'h, P>,
        address: VirtAddr,
        flags: GupFlags,
    ) -> Result<PinnedPage<P, SystemRef<'h, P>>, GupError> {
        loop {
            let mmap = self.mmap_read(task);
            let vma = mmap.find(address).ok_or(GupError::NotMapped { address })?;
            check_rights(vma, address, flags)?;
            let locked = VmaReadGuard::beside_section(&mmap, vma, task);
            let followed = self.follow(task, system, address, Want::of(flags))?;
            drop(locked);
            let unshare = match followed {
                Follow::Page(page) => return Ok(page),
                Follow::Hole if flags.contains(GupFlags::DUMP) && !is_cached(vma, address) => {
                    return Err(GupError::NoPage { address });
                }
                Follow::Hole | Follow::MustFault => false,
                Follow::MustUnshare => true,
            };
            // The fault takes it anew, and looks for the VMA anew.
            drop(mmap);
            let access = if flags.contains(GupFlags::WRITE) { Access::Write } else { Access::Read };
            let fault =
                if unshare { self.unshare_page(task, address)? } else { self.fault(task, address, access)? };
            if fault == Fault::Raced {
                task.pause();
            }
        }
    }

    /// A plain reference to the page at `address`, for the engine itself, faulted in if it must be. Sleeps.
    ///
    /// Linux: `get_user_pages_fast(address, 1, 0, &page)`.
    pub(crate) fn hold_page(
        &self,
        task: &mut Task<P>,
        address: VirtAddr,
    ) -> Result<PageRef<'_, P>, GupError> {
        let (system, flags) = (SystemRef::of(self), GupFlags::empty());
        let page = match self.follow_fast(task, system, address, Want::of(flags)) {
            Some(page) => page,
            None => self.pin_page(task, system, address, flags)?,
        };
        Ok(page.into_reference())
    }

    fn check(&self, task: &Task<P>, flags: GupFlags) -> Result<(), GupError> {
        if !are_valid(flags) {
            return Err(GupError::BadFlags);
        }
        Ok(task.check(self.mm().hugetlb())?)
    }
}

/// Linux: `is_valid_gup_flags()` in mm/gup.c.
const fn are_valid(flags: GupFlags) -> bool {
    let known = flags.bits() & !GupFlags::all().bits() == 0;
    known && (!flags.contains(GupFlags::LONGTERM) || flags.contains(GupFlags::PIN))
}

/// Linux: `check_vma_flags()` in mm/gup.c.
fn check_rights<P: Platform>(vma: &Vma<P>, address: VirtAddr, flags: GupFlags) -> Result<(), GupError> {
    let needed = if flags.contains(GupFlags::WRITE) { Protection::WRITE } else { Protection::READ };
    if vma.protection().contains(needed) { Ok(()) } else { Err(GupError::Protection { address }) }
}

/// Would a fault find the page in the file, rather than make one? Linux: `hugetlbfs_pagecache_present()`.
pub(crate) fn is_cached<P: Platform>(vma: &Vma<P>, address: VirtAddr) -> bool {
    vma.file().find_page(vma.offset_of(address)).is_some()
}
