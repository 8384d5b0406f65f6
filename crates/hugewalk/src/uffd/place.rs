//! The place of one page, which a handler fills.

use crate::addr::VirtAddr;
use crate::arch::Entry;
use crate::entries::{At, CopiedPage, FreshPage, Install, install_if};
use crate::error::OutOfMemory;
use crate::file::NotInserted;
use crate::page::PageRef;
use crate::platform::Platform;
use crate::share::huge_pte_alloc;
use crate::source::Source;
use crate::table::{Slot, Stable};
use crate::task::Task;
use crate::uffd::UserfaultError;
use crate::vma::{MmapLocked, Vma, VmaReadGuard};

/// What a page is filled with.
pub(super) enum Filling<'b, P: Platform> {
    /// A fresh page with these bytes, mapped write-protected if the handler wants that.
    Copy(Bytes<'b, P>, bool),
    /// The file's own page, mapped write-protected if the handler wants that.
    OfFile(bool),
    /// No page: accesses fail from now on.
    Poison,
}

/// Where the bytes of a page are.
pub(super) enum Bytes<'b, P: Platform> {
    /// With a source, from this offset on.
    Source(&'b mut dyn Source<P>, u64),
    /// In a page that was copied before.
    Copied(&'b CopiedPage<'b, P>),
}

/// What came of it, if nothing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    Done,
    /// Nothing was changed: the source has to be faulted in, with no lock held.
    MustFault,
}

/// Fills the page at an address of a VMA. Sleeps. Takes the fault mutex, the VMA lock in read, and the table lock.
pub(super) fn fill_page<P: Platform>(
    mmap: &MmapLocked<'_, P>,
    vma: &Vma<P>,
    address: VirtAddr,
    filling: Filling<'_, P>,
    task: &mut Task<P>,
) -> Result<Filled, UserfaultError> {
    let mutex = vma.mm().hugetlb().fault_mutex(task, vma.file().id(), vma.offset_of(address));
    let guard = mmap.lock_vma(vma, task).ok_or(UserfaultError::NotRegistered { address })?;
    let slot = huge_pte_alloc(&guard, vma, address, Some(&guard), task)?;
    let place = Place { guard: &guard, slot, address };
    let filled = match filling {
        Filling::Copy(bytes, protect) => place.copy(bytes, protect, task),
        Filling::OfFile(protect) => place.take_up(protect, task).map(|()| Filled::Done),
        Filling::Poison => place.poison(task).map(|()| Filled::Done),
    };
    drop(guard);
    drop(mutex);
    filled
}

/// The entry of a page, with the fault mutex and the VMA lock held.
struct Place<'g, 'v, P: Platform> {
    guard: &'g VmaReadGuard<'v, P>,
    slot: Slot<'g, P, Stable>,
    address: VirtAddr,
}

impl<P: Platform> Place<'_, '_, P> {
    fn copy(&self, bytes: Bytes<'_, P>, protect: bool, task: &Task<P>) -> Result<Filled, UserfaultError> {
        let (vma, address) = (self.guard.vma(), self.address);
        let (file, index) = (vma.file(), vma.offset_of(address));
        let exists = UserfaultError::Exists { address };
        if !self.slot.read().may_be_filled() || (vma.is_shared() && file.find_page(index).is_some()) {
            return Err(exists);
        }
        // A private mapping may go on past the end of the file. A shared mapping has no place for a page there: no
        // reservation is used or noted meanwhile, since truncation may be counting them. As in Linux, there has to be a
        // page all the same.
        let no_place = vma.is_shared() && !file.has_index(index);
        let page = match bytes {
            Bytes::Copied(copied) => FreshPage::new(vma, index, &copied.contents(), no_place)
                .map_err(|error| UserfaultError::of_fresh(error, address))?,
            Bytes::Source(source, offset) => {
                match FreshPage::from_source(vma, index, (source, offset), no_place)? {
                    Some(page) => page,
                    None => return Ok(Filled::MustFault),
                }
            }
        };
        if no_place {
            return Err(UserfaultError::NotInFile { address });
        }
        let is_mapped = if vma.is_shared() {
            let page = page.into_file().map_err(|error| match error {
                NotInserted::BeyondEof => UserfaultError::NotInFile { address },
                NotInserted::OutOfMemory => OutOfMemory.into(),
            })?;
            self.install(page, true, protect, task)
        } else {
            // If truncation has moved the end to before the page meanwhile, this fill comes after it.
            self.install_with(|| page.commit(), true, protect, task)
        };
        if is_mapped { Ok(Filled::Done) } else { Err(exists) }
    }

    /// Maps the page that the file has.
    fn take_up(&self, protect: bool, task: &Task<P>) -> Result<(), UserfaultError> {
        let (vma, address) = (self.guard.vma(), self.address);
        let page =
            vma.file().find_page(vma.offset_of(address)).ok_or(UserfaultError::NotInFile { address })?;
        if page.page().is_hwpoison() {
            return Err(UserfaultError::Hwpoison { address });
        }
        // A private mapping copies the file's page when it is written.
        let done = self.install(page, vma.is_shared(), protect, task);
        if done { Ok(()) } else { Err(UserfaultError::Exists { address }) }
    }

    /// Says that the page is lost. A marker counts as a page here, as in Linux.
    fn poison(&self, task: &Task<P>) -> Result<(), UserfaultError> {
        let (vma, address) = (self.guard.vma(), self.address);
        let locked = self.slot.lock(task);
        if At::new(&locked, vma, address).poison() { Ok(()) } else { Err(UserfaultError::Exists { address }) }
    }

    /// Maps a page if the entry is empty. The reference becomes the mapping's then; otherwise it is dropped. A
    /// marker goes: the page is protected only if the handler says so now.
    fn install(&self, page: PageRef<'_, P>, writable: bool, protect: bool, task: &Task<P>) -> bool {
        self.install_with(|| page, writable, protect, task)
    }

    /// As [`install`](Self::install). Only once the entry is known to be empty `page` is asked for the reference.
    fn install_with<'p>(
        &self,
        page: impl FnOnce() -> PageRef<'p, P>,
        writable: bool,
        protect: bool,
        task: &Task<P>,
    ) -> bool
    where
        P: 'p,
    {
        // Written from the start: the contents exist nowhere else.
        let how = |_| Install { writable, protected: protect, written: true };
        let place = (self.guard.vma(), self.address);
        install_if(&self.slot, place, Entry::may_be_filled, || true, page, how, task).is_some()
    }
}
