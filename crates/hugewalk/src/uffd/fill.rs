//! Resolving faults: the handler brings pages, or says that the file's pages can be mapped.

use core::ops::Range;

use super::{ContinueMode, CopyMode, PoisonMode, Stopped, Userfault, UserfaultError, check_aligned};
use crate::addr::VirtAddr;
use crate::arch::Entry;
use crate::entries::{At, Contents, FreshPage, Install, install_if};
use crate::error::OutOfMemory;
use crate::file::NotInserted;
use crate::page::PageRef;
use crate::platform::Platform;
use crate::share::huge_pte_alloc;
use crate::sync::Arc;
use crate::table::{Slot, Stable};
use crate::task::Task;
use crate::vma::held::KeepsVma as _;
use crate::vma::{MmapLocked, Vma, VmaFlags, VmaReadGuard};

/// What a range is filled with.
#[derive(Clone, Copy)]
enum Filling<'b> {
    /// Fresh pages with these bytes, mapped write-protected if the handler wants that.
    Bytes(&'b [u8], bool),
    /// The file's own pages, mapped write-protected if the handler wants that.
    OfFile(bool),
    Zeroes,
    /// No page: accesses fail from now on.
    Poison,
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
        let filling = Filling::OfFile(mode.contains(ContinueMode::WP));
        self.fill(task, start, length, filling, known, !mode.contains(ContinueMode::DONTWAKE))
    }

    /// Says that the contents of a range where nothing is mapped are lost: accesses fail with
    /// [`FaultError::Hwpoison`](crate::fault::FaultError::Hwpoison), and the faults that wait are woken. Sleeps.
    ///
    /// What says so is an entry of the page table. So it goes with the entry ([`MADV_DONTNEED`](crate::mm::Advice::DontNeed), a
    /// hole in the file, `munmap`), and [`copy`](Self::copy) and [`continue_range`](Self::continue_range) replace it. A child
    /// of fork has it too, if fork copies the entries of the mapping. **Processes that share the table share it**: a mapping that
    /// is registered for [`Modes::MISSING`](super::Modes::MISSING) alone may.
    ///
    /// Takes what [`copy`](Self::copy) takes.
    ///
    /// Linux: `UFFDIO_POISON`, since 6.6.
    ///
    /// # Errors
    ///
    /// As for [`copy`](Self::copy); [`UserfaultError::Exists`] also where a write protection waits for a page.
    pub fn poison(
        &self,
        task: &mut Task<P>,
        start: VirtAddr,
        length: u64,
        mode: PoisonMode,
    ) -> Result<(), Stopped> {
        let known = PoisonMode::all().contains(mode);
        self.fill(task, start, length, Filling::Poison, known, !mode.contains(PoisonMode::DONTWAKE))
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
        let protect = matches!(filling, Filling::Bytes(_, true) | Filling::OfFile(true));
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
            fill_page(&mmap.held, vma, address, filling, task).map_err(|error| Stopped { done, error })?;
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
    mmap: &MmapLocked<'_, P>,
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
        Filling::OfFile(protect) => place.take_up(protect, task),
        Filling::Poison => place.poison(task),
        Filling::Zeroes => Err(UserfaultError::Unsupported),
    };
    drop(guard);
    drop(mutex);
    filled
}

/// What [`hugetlb_mfill_atomic`] brings into a place where nothing is mapped.
#[derive(Clone, Copy, Debug)]
pub enum Fill<'b> {
    /// A fresh page with these bytes, which are a whole page. Linux: `MFILL_ATOMIC_COPY`.
    Copy(&'b [u8]),
    /// The page that the file has. Linux: `MFILL_ATOMIC_CONTINUE`.
    Continue,
    /// No page: accesses fail from now on. Linux: `MFILL_ATOMIC_POISON`.
    Poison,
}

/// Fills one page of a VMA where nothing is mapped, for hosts with [a set of VMAs of their own](crate::vm_ops), which have userfaultfd
/// themselves: they know who waits, and wake them afterwards. Sleeps.
///
/// Holds: the mmap lock in read. Takes the fault mutex, the VMA lock in read, `i_mmap` in read to share a table, and the table lock.
///
/// Linux: `hugetlb_mfill_atomic_pte()` in mm/hugetlb.c.
///
/// # Errors
///
/// [`UserfaultError::NotRegistered`] if the address does not lie in the VMA, or the VMA was replaced or unmapped;
/// [`UserfaultError::Unaligned`] if it is not the start of a page; [`UserfaultError::BadRange`] if the bytes are not a page;
/// [`UserfaultError::Exists`], [`UserfaultError::NotInFile`], [`UserfaultError::Hwpoison`], [`UserfaultError::NoPage`],
/// [`UserfaultError::OutOfMemory`], [`UserfaultError::WrongSystem`].
pub fn hugetlb_mfill_atomic<P: Platform>(
    mmap: &MmapLocked<'_, P>,
    vma: &Arc<Vma<P>>,
    address: VirtAddr,
    fill: Fill<'_>,
    task: &mut Task<P>,
) -> Result<(), UserfaultError> {
    task.enter(mmap.mm().hugetlb())?;
    let size = vma.size();
    if !vma.contains(address) || !mmap.keeps(vma) {
        return Err(UserfaultError::NotRegistered { address });
    }
    if !size.is_aligned(address.as_u64()) {
        return Err(UserfaultError::Unaligned { value: address.as_u64(), size });
    }
    let filling = match fill {
        Fill::Copy(bytes) if bytes.len() as u64 == size.bytes() => Filling::Bytes(bytes, false),
        Fill::Copy(bytes) => {
            return Err(UserfaultError::BadRange { start: address, length: bytes.len() as u64 });
        }
        Fill::Continue => Filling::OfFile(false),
        Fill::Poison => Filling::Poison,
    };
    if !vma.is_shared() {
        // As in `fill_range`.
        vma.set_anon();
    }
    fill_page(mmap, vma, address, filling, task)
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
        if !self.slot.read().may_be_filled() || (vma.is_shared() && file.find_page(index).is_some()) {
            return Err(exists);
        }
        // A private mapping may go on past the end of the file. A shared mapping has no place for a page there: no
        // reservation is used or noted meanwhile, since truncation may be counting them. As in Linux, there has to be a
        // page all the same.
        let no_place = vma.is_shared() && !file.has_index(index);
        let page = FreshPage::new(vma, index, &Contents::Bytes(bytes), no_place)
            .map_err(|error| UserfaultError::of_fresh(error, address))?;
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
        // If truncation has moved the end to before the page meanwhile, this fill comes after it.
        if self.install_with(|| page.commit(), true, protect, task) { Ok(()) } else { Err(exists) }
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
