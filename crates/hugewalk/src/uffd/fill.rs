//! Resolving faults: the handler brings pages, or says that the file's pages can be mapped.

use core::ops::Range;

use super::{ContinueMode, CopyMode, Stopped, Userfault, UserfaultError, check_aligned};
use crate::addr::VirtAddr;
use crate::entries::{Contents, FreshPage, Install, install_if};
use crate::error::OutOfMemory;
use crate::file::NotInserted;
use crate::page::PageRef;
use crate::platform::Platform;
use crate::share::huge_pte_alloc;
use crate::space::MmapReadGuard;
use crate::table::{Slot, Stable};
use crate::task::Task;
use crate::vma::{Vma, VmaFlags, VmaReadGuard};

/// What a range is filled with.
#[derive(Clone, Copy)]
enum Filling<'b> {
    /// Fresh pages with these bytes, mapped write-protected if the handler wants that.
    Bytes(&'b [u8], bool),
    /// The file's own pages.
    OfFile,
    Zeroes,
}

impl<P: Platform> Userfault<P> {
    /// Fills missing pages with `bytes`, a whole number of pages, and wakes the faults that wait for them.
    /// Pages of a shared mapping go into the file. Sleeps.
    ///
    /// Takes the mmap lock in read, and for each page the fault mutex, the VMA lock in read and the table lock.
    ///
    /// Linux: `UFFDIO_COPY`, `hugetlb_mcopy_atomic_pte()` in mm/hugetlb.c.
    ///
    /// # Errors
    ///
    /// [`UserfaultError::UnknownFlags`], [`UserfaultError::BadRange`], [`UserfaultError::Unaligned`],
    /// [`UserfaultError::NotRegistered`], [`UserfaultError::NotProtectable`], [`UserfaultError::Exists`],
    /// [`UserfaultError::NotInFile`], [`UserfaultError::NoPage`], [`UserfaultError::OutOfMemory`],
    /// [`UserfaultError::Changing`], [`UserfaultError::Exited`]. The pages before the one it happened at are filled then.
    pub fn copy(
        &self,
        task: &mut Task<P>,
        start: VirtAddr,
        bytes: &[u8],
        mode: CopyMode,
    ) -> Result<(), Stopped> {
        let known = CopyMode::all().contains(mode);
        let filling = Filling::Bytes(bytes, mode.contains(CopyMode::WP));
        self.fill(task, start, bytes.len() as u64, filling, known, !mode.contains(CopyMode::DONTWAKE))
    }

    /// Maps the pages that the file has in a range where nothing is mapped, and wakes the faults that wait for them. Sleeps.
    ///
    /// Takes what [`copy`](Self::copy) takes.
    ///
    /// Linux: `UFFDIO_CONTINUE`.
    ///
    /// # Errors
    ///
    /// As for [`copy`](Self::copy); [`UserfaultError::NotInFile`] where the file has no page, [`UserfaultError::Hwpoison`].
    pub fn continue_range(
        &self,
        task: &mut Task<P>,
        start: VirtAddr,
        length: u64,
        mode: ContinueMode,
    ) -> Result<(), Stopped> {
        let known = ContinueMode::all().contains(mode);
        self.fill(task, start, length, Filling::OfFile, known, !mode.contains(ContinueMode::DONTWAKE))
    }

    /// Always fails: there is no huge page of zeroes that could be mapped. The function exists so that a
    /// host can fail as Linux does.
    ///
    /// Linux: `UFFDIO_ZEROPAGE`.
    ///
    /// # Errors
    ///
    /// [`UserfaultError::Unsupported`], unless the range is refused for another reason first.
    pub fn zero(&self, task: &mut Task<P>, start: VirtAddr, length: u64) -> Result<(), Stopped> {
        self.fill(task, start, length, Filling::Zeroes, true, false)
    }

    fn fill(
        &self,
        task: &mut Task<P>,
        start: VirtAddr,
        length: u64,
        filling: Filling<'_>,
        known_mode: bool,
        wake: bool,
    ) -> Result<(), Stopped> {
        task.enter(self.space.mm().hugetlb()).map_err(UserfaultError::from)?;
        self.check_alive()?;
        let range = self.checked_range(start, length)?;
        if !known_mode {
            return Err(UserfaultError::UnknownFlags.into());
        }
        let filled = self.fill_range(task, &range, filling);
        let done = filled.map_or_else(|stopped| stopped.done, |()| length);
        if done > 0 && wake {
            self.context.wake(&(start..start.plus(done)));
        }
        filled
    }

    /// Linux: `__mcopy_atomic_hugetlb()` in mm/userfaultfd.c.
    fn fill_range(
        &self,
        task: &mut Task<P>,
        range: &Range<VirtAddr>,
        filling: Filling<'_>,
    ) -> Result<(), Stopped> {
        let mmap = self.space.mmap_read(task);
        // Checked again, now that no operation can begin to change the mappings.
        self.check_alive()?;
        // Set before it is known whether the mapping is registered, as in Linux since 6.9
        // (`uffd_lock_vma()`): from now on, a fork copies the entries of a private mapping.
        if let Some(vma) = mmap.find(range.start).filter(|vma| !vma.is_shared()) {
            vma.set_anon();
        }
        let vma = Self::find_registered(&mmap, range)?;
        let protect = matches!(filling, Filling::Bytes(_, true));
        if protect && !vma.flags().contains(VmaFlags::UFFD_WP) {
            return Err(UserfaultError::NotProtectable { address: range.start }.into());
        }
        if matches!(filling, Filling::Zeroes) {
            return Err(UserfaultError::Unsupported.into());
        }
        check_aligned(vma, range)?;
        let page_bytes = vma.size().bytes();
        let mut done = 0;
        while done < range.end.offset_from(range.start) {
            let address = range.start.plus(done);
            let filling = match filling {
                Filling::Bytes(bytes, protect) => Filling::Bytes(page_of(bytes, done, page_bytes), protect),
                other => other,
            };
            fill_page(&mmap, vma, address, filling, task).map_err(|error| Stopped { done, error })?;
            done += page_bytes;
        }
        Ok(())
    }
}

fn page_of(bytes: &[u8], from: u64, length: u64) -> &[u8] {
    let (from, length) = (from as usize, length as usize);
    bytes.get(from..from + length).unwrap_or_default()
}

fn fill_page<P: Platform>(
    mmap: &MmapReadGuard<'_, P>,
    vma: &Vma<P>,
    address: VirtAddr,
    filling: Filling<'_>,
    task: &mut Task<P>,
) -> Result<(), UserfaultError> {
    let mutex = vma.mm().hugetlb().fault_mutex(task, vma.file().id(), vma.offset_of(address));
    let guard = mmap.lock_vma(vma, task).ok_or(UserfaultError::NotRegistered { address })?;
    let slot = huge_pte_alloc(&guard, vma, address, Some(&guard), task)?;
    let place = Place { guard: &guard, slot, address };
    let filled = match filling {
        Filling::Bytes(bytes, protect) => place.copy(bytes, protect, task),
        Filling::OfFile => place.take_up(task),
        Filling::Zeroes => Err(UserfaultError::Unsupported),
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
    fn copy(&self, bytes: &[u8], protect: bool, task: &Task<P>) -> Result<(), UserfaultError> {
        let (vma, address) = (self.guard.vma(), self.address);
        let (file, index) = (vma.file(), vma.offset_of(address));
        let exists = UserfaultError::Exists { address };
        if !self.slot.read().is_free() || (vma.is_shared() && file.find_page(index).is_some()) {
            return Err(exists);
        }
        // A private mapping may go on past the end of the file. But what truncation cuts off, it cuts off here too.
        let was_within = file.has_index(index);
        // A shared mapping has no place for it there. No reservation is used or noted meanwhile, since truncation may be
        // counting them. As in Linux, there has to be a page all the same.
        let no_place = vma.is_shared() && !was_within;
        let page = FreshPage::new(vma, index, &Contents::Bytes(bytes), no_place)?;
        if no_place {
            return Err(UserfaultError::NotInFile { address });
        }
        if vma.is_shared() {
            let page = page.into_file().map_err(|error| match error {
                NotInserted::BeyondEof => UserfaultError::NotInFile { address },
                NotInserted::OutOfMemory => OutOfMemory.into(),
            })?;
            return if self.install(page, true, protect, task) { Ok(()) } else { Err(exists) };
        }
        let (mut cut_off, cut) = (false, UserfaultError::NotInFile { address });
        let still = || {
            cut_off = was_within && !file.still_has_index(index);
            !cut_off
        };
        if self.install_if(still, || page.commit(), true, protect, task) {
            return Ok(());
        }
        Err(if cut_off { cut } else { exists })
    }

    /// Maps the page that the file has.
    fn take_up(&self, task: &Task<P>) -> Result<(), UserfaultError> {
        let (vma, address) = (self.guard.vma(), self.address);
        let page =
            vma.file().find_page(vma.offset_of(address)).ok_or(UserfaultError::NotInFile { address })?;
        if page.page().is_hwpoison() {
            return Err(UserfaultError::Hwpoison { address });
        }
        // A private mapping copies the file's page when it is written.
        let done = self.install(page, vma.is_shared(), false, task);
        if done { Ok(()) } else { Err(UserfaultError::Exists { address }) }
    }

    /// Maps a page if the entry is empty. The reference becomes the mapping's then; otherwise it is dropped. A
    /// marker goes: the page is protected only if the handler says so now.
    fn install(&self, page: PageRef<'_, P>, writable: bool, protect: bool, task: &Task<P>) -> bool {
        self.install_if(|| true, || page, writable, protect, task)
    }

    /// As [`install`](Self::install), if `still` says so with the table locked. Only then `page` is asked for
    /// the reference.
    fn install_if<'p>(
        &self,
        still: impl FnOnce() -> bool,
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
        install_if(&self.slot, (self.guard.vma(), self.address), still, page, how, task).is_some()
    }
}
