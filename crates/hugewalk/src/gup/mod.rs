//! get_user_pages: references to the pages behind a range of addresses, for callers that read or
//! write the contents without the page tables: a device, another process, a core dump.
//!
//! # Protocol
//!
//! Everything here walks under RCU. There are two ways to take a reference at the end of a walk:
//!
//! - *Locked.* The slot is alive. The walker locks its table, which fails if the table was unshared
//!   since the walk (P2 in [`walk`](crate::walk)). Under the lock the entry keeps its page, so a
//!   reference can be taken.
//! - *Fast*, without a lock. The order of the steps must not change: read the entry; take a
//!   reference to the page it names, unless that page is free; recheck that the entry is unchanged;
//!   confirm (P3) that the table has belonged to this address space since before the read.
//!
//! The two rechecks of the fast way close two races. Between the read and the reference the page
//! may be freed and reused; then the entry has changed. And the table may be unshared, so that the
//! entry that was read is no longer this address space's own (CVE-2025-38085); then the
//! confirmation fails. In both cases the walker drops the reference and falls back on the locked
//! way. If both succeed, the entry was the address space's own when it was read, and the reference
//! is to the page that it named.
//!
//! Pages of one table are taken together, 16 at a time. They share the walk, and the lock of the
//! table or the read section. Each is still looked at, taken and confirmed by itself.
//!
//! The mmap lock, in read, adds what entries do not say: whether there is a mapping, and whether it
//! allows the access. It is taken before the read section. A page that is not mapped yet is faulted
//! in with no lock held, and then looked up again. A caller that must not sleep
//! ([`AddressSpace::pin_pages_nowait`]) gets an error instead. It cannot sleep, since it has only a
//! `&Task`.
//!
//! # Pins and copy-on-write
//!
//! A reference keeps a page from being freed. It does not keep the address space from replacing the
//! page by a copy. A caller must *pin* the page ([`GupFlags::PIN`]) if it wants to see what the
//! process stores later, or the process to see what it stores:
//!
//! - A page of a private mapping is pinned only if the address space has it to itself: the entry is
//!   writable, or is the only one that maps the page. Otherwise the page is copied first
//!   ("unsharing"), even if it is only to be read. (A page of the file that a private mapping has
//!   not copied yet is pinned for reading as it is, as in Linux 6.1.)
//! - fork does not share a pinned page. The child gets a copy at once. The parent keeps the page,
//!   and the right to write.
//!
//! So a store after the pin never replaces the page. fork may race with a lockless pin. Each does
//! its own step first and then looks for the other's, in sequentially consistent order, so at least
//! one of them notices and gives way (`make_shared` in `entries/copy.rs`).
//!
//! Linux: mm/gup.c; `follow_hugetlb_page()`, `hugetlb_follow_page_mask()` (6.1:
//! `follow_huge_pmd_pte()`) and `__follow_hugetlb_must_fault()` in mm/hugetlb.c.

mod follow;
mod locked;
mod pinned;
mod transfer;

use core::ops::Deref;

use bitflags::bitflags;

pub use self::locked::{Followed, follow_hugetlb_page, hugetlb_follow_page};
pub use self::pinned::{PinnedPage, PinnedRef, Pins, SystemRef};
pub use crate::error::{GupError, NotPinnedForWriting, TransferError};

use self::follow::{Follow, Missing, Want};
use crate::addr::VirtAddr;
use crate::fault::{Access, Fault};
use crate::hugetlb::Hugetlb;
use crate::page::PageRef;
use crate::platform::Platform;
use crate::root::Mm;
use crate::space::AddressSpace;
use crate::task::Task;
use crate::vma::{Protection, Vma, VmaReadGuard};

bitflags! {
    /// What the caller wants a page for. Linux: `FOLL_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct GupFlags: u32 {
        /// To write to the page. A page of a private mapping is copied first (`FOLL_WRITE`).
        const WRITE = 1 << 0;
        /// For a core dump: a missing page is not allocated; it is an error (`FOLL_DUMP`).
        const DUMP = 1 << 1;
        /// The contents are accessed without the page tables (`FOLL_PIN`): see [the module](self).
        const PIN = 1 << 2;
        /// A pin that user space holds for as long as it likes (`FOLL_LONGTERM`). Only together
        /// with `PIN`. Linux moves such pages out of memory that must stay movable. This crate does
        /// not know which memory is movable, and leaves the page where it is.
        const LONGTERM = 1 << 3;
    }
}

impl<P: Platform> AddressSpace<P> {
    /// Takes references to the pages of `length` bytes from `address` on. Missing pages are faulted
    /// in. Sleeps.
    ///
    /// Neither number needs to be aligned. The result has as many pages as possible, from the first
    /// on; [`Pins::stopped_by`] says what stopped it. A length of 0 gives no page and no error.
    ///
    /// Takes the mmap lock in read and table locks, for 16 pages of a table at a time, and the locks
    /// that a fault takes.
    ///
    /// Linux: `get_user_pages_unlocked()`, `pin_user_pages_unlocked()` in mm/gup.c.
    ///
    /// # Errors
    ///
    /// [`GupError`] if not even the first page could be taken.
    pub fn pin_pages(
        &self,
        task: &mut Task<P>,
        address: VirtAddr,
        length: u64,
        flags: GupFlags,
    ) -> Result<Pins<P>, GupError> {
        self.check(task, flags)?;
        let mut pins = Pins::new(task.hugetlb().clone(), address, length, Want::of(flags));
        pins.fill(|at, pins| self.pin_run(task, at, flags, pins))?;
        Ok(pins)
    }

    /// As [`pin_pages`](Self::pin_pages), without sleeping: takes only pages that are mapped
    /// already, with the access that is wanted.
    ///
    /// Tries the mmap lock in read; takes table locks.
    ///
    /// Linux: `FOLL_NOWAIT`. If no page can be taken, Linux returns 0 pages and no error.
    ///
    /// # Errors
    ///
    /// [`GupError::WouldSleep`] if taking the first page needs sleeping; any other [`GupError`].
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
        pins.fill(|at, pins| {
            let vma = mmap.find(at).ok_or(GupError::NotMapped { address: at })?;
            check_rights(vma, at, flags)?;
            match self.mm().follow_run(task, SystemRef::of(self), at..vma.end(), pins)? {
                Follow::Page(()) => Ok(()),
                Follow::Missing(Missing::Hole) if flags.contains(GupFlags::DUMP) && !is_cached(vma, at) => {
                    Err(GupError::NoPage { address: at })
                }
                Follow::Missing(_) => Err(GupError::WouldSleep),
            }
        })?;
        Ok(pins)
    }

    /// As [`pin_pages`](Self::pin_pages), but takes no lock for a page that is mapped already with
    /// the access that is wanted. May sleep for the other pages.
    ///
    /// The references borrow the system, so none of its cache lines is written.
    /// [`PinnedPage::into_owned`] makes one that may outlive the address space.
    ///
    /// The entries decide here, not the mapping: a mapping that can be written and not read can be
    /// read, as by the processor.
    ///
    /// Linux: `get_user_pages_fast()`, `pin_user_pages_fast()` in mm/gup.c.
    ///
    /// # Errors
    ///
    /// [`GupError::OutOfRange`] if the range does not lie within the addresses of a process (Linux
    /// 6.1 returns 0 pages and no error if the range wraps around); [`GupError::BadFlags`] for
    /// `DUMP` too; otherwise as for [`pin_pages`](Self::pin_pages).
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
        let limit = self.mm().task_size();
        if address.checked_add(length).is_none_or(|end| end > limit) {
            return Err(GupError::OutOfRange { address, length });
        }
        let system = SystemRef::of(self);
        let mut pins = Pins::new(system, address, length, Want::of(flags));
        pins.fill(|at, pins| {
            if self.follow_fast_run(task, system, at, pins) {
                return Ok(());
            }
            self.pin_run(task, at, flags, pins)
        })?;
        Ok(pins)
    }

    /// Takes a reference to one page without a lock. `None` if that is not possible: then
    /// [`pin_pages_fast`](Self::pin_pages_fast), which may sleep, gives the page or the error. Does
    /// not sleep. `None` too if the task belongs to another system.
    ///
    /// The only shared cache line it writes is that of the page's own count.
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

    /// Takes a reference to the page that is mapped at `address` now. `None` if there is none, if
    /// it is being moved, or if it needs a fault first. Does not sleep.
    ///
    /// Takes the table lock. The entry decides about the access here, not the mapping.
    ///
    /// Linux: `hugetlb_follow_page_mask()` in mm/hugetlb.c.
    ///
    /// # Errors
    ///
    /// [`GupError::Hwpoison`], [`GupError::TooManyReferences`], [`GupError::BadFlags`],
    /// [`GupError::WrongSystem`].
    pub fn follow_page(
        &self,
        task: &Task<P>,
        address: VirtAddr,
        flags: GupFlags,
    ) -> Result<Option<PinnedPage<P>>, GupError> {
        self.check(task, flags)?;
        Ok(match self.mm().follow(task, task.hugetlb().clone(), address, Want::of(flags))? {
            Follow::Page(page) => Some(page),
            Follow::Missing(_) => None,
        })
    }

    /// Takes pages from `address` on, one or more, and faults in the first if necessary. Sleeps.
    fn pin_run<H: Deref<Target = Hugetlb<P>>>(
        &self,
        task: &mut Task<P>,
        address: VirtAddr,
        flags: GupFlags,
        pins: &mut Pins<P, H>,
    ) -> Result<(), GupError> {
        let system = SystemRef::of(self);
        self.pin_with(task, address, flags, |task, end| {
            self.mm().follow_run(task, system, address..end, pins)
        })
    }

    /// Takes the page at `address`, and faults it in if necessary. Sleeps.
    fn pin_page<'h>(
        &self,
        task: &mut Task<P>,
        system: SystemRef<'h, P>,
        address: VirtAddr,
        flags: GupFlags,
    ) -> Result<PinnedPage<P, SystemRef<'h, P>>, GupError> {
        self.pin_with(task, address, flags, |task, _| {
            self.mm().follow(task, system, address, Want::of(flags))
        })
    }

    /// Takes the page at `address` as `follow` does, which is given the end of the VMA, and faults it in if necessary. Sleeps.
    fn pin_with<T>(
        &self,
        task: &mut Task<P>,
        address: VirtAddr,
        flags: GupFlags,
        mut follow: impl FnMut(&Task<P>, VirtAddr) -> Result<Follow<T>, GupError>,
    ) -> Result<T, GupError> {
        loop {
            let mmap = self.mmap_read(task);
            let vma = mmap.find(address).ok_or(GupError::NotMapped { address })?;
            check_rights(vma, address, flags)?;
            let locked = VmaReadGuard::beside_section(&mmap.held, vma, task);
            let followed = follow(task, vma.end())?;
            drop(locked);
            let unshare = match followed {
                Follow::Page(page) => return Ok(page),
                Follow::Missing(Missing::Hole)
                    if flags.contains(GupFlags::DUMP) && !is_cached(vma, address) =>
                {
                    return Err(GupError::NoPage { address });
                }
                Follow::Missing(Missing::Hole | Missing::MustFault) => false,
                Follow::Missing(Missing::MustUnshare) => true,
            };
            // The fault takes the mmap lock again, and looks for the VMA again.
            drop(mmap);
            let access = if flags.contains(GupFlags::WRITE) { Access::Write } else { Access::Read };
            let fault =
                if unshare { self.unshare_page(task, address)? } else { self.fault(task, address, access)? };
            if fault == Fault::Raced {
                task.pause();
            }
        }
    }

    /// Takes a plain reference to the page at `address`, for the engine itself, and faults it in if
    /// necessary. Sleeps.
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
        check(self.mm(), task, flags)
    }
}

fn check<P: Platform>(mm: &Mm<P>, task: &Task<P>, flags: GupFlags) -> Result<(), GupError> {
    if !are_valid(flags) {
        return Err(GupError::BadFlags);
    }
    Ok(task.check(mm.hugetlb())?)
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

/// Would a fault find the page in the file instead of allocating one? Linux:
/// `hugetlbfs_pagecache_present()`.
pub(crate) fn is_cached<P: Platform>(vma: &Vma<P>, address: VirtAddr) -> bool {
    vma.file().find_page(vma.offset_of(address)).is_some()
}
