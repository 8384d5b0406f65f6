//! Resolving faults: the handler brings pages, or says that the file's pages can be mapped.

use core::ops::Range;

use super::place::{Bytes, Filled, Filling, fill_page};
use super::{ContinueMode, CopyMode, PoisonMode, Stopped, Userfault, UserfaultError, check_aligned};
use crate::addr::{HugeSize, VirtAddr};
use crate::entries::CopiedPage;
use crate::platform::{Event, Platform};
use crate::protocol::{Step, keeps};
use crate::source::Source;
use crate::sync::Arc;
use crate::task::Task;
use crate::vma::held::KeepsVma as _;
use crate::vma::{MmapLocked, Vma, VmaFlags};

/// What a range is filled with.
enum With<'b, P: Platform> {
    /// Fresh pages with the bytes of a source, mapped write-protected if the handler wants that.
    Copies(&'b mut dyn Source<P>, bool),
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
        let mut source = bytes;
        self.copy_from(task, start, bytes.len() as u64, &mut source, mode)
    }

    /// Fills missing pages with what a source has, which may have to be faulted in, and wakes the faults that wait for them.
    /// Sleeps.
    ///
    /// Each page is first copied as [`copy`](Self::copy) does, under the locks that it takes, if the source has all of its bytes. Else
    /// the locks are given up. The source fills a page that the pool has free and unreserved, and then everything is looked
    /// at again: what is registered then is filled.
    ///
    /// Linux: `UFFDIO_COPY`, `mfill_atomic_hugetlb()` in mm/userfaultfd.c.
    ///
    /// # Errors
    ///
    /// As for [`copy`](Self::copy); [`UserfaultError::BadSource`] if the source fails. The pages before the one it happened at
    /// are filled then, and nothing else is changed.
    pub fn copy_from(
        &self,
        task: &mut Task<P>,
        start: VirtAddr,
        length: u64,
        source: &mut dyn Source<P>,
        mode: CopyMode,
    ) -> Result<(), Stopped> {
        let known = CopyMode::all().contains(mode);
        let with = With::Copies(source, mode.contains(CopyMode::WP));
        self.fill(task, start, length, with, known, !mode.contains(CopyMode::DONTWAKE))
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
        let with = With::OfFile(mode.contains(ContinueMode::WP));
        self.fill(task, start, length, with, known, !mode.contains(ContinueMode::DONTWAKE))
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
        self.fill(task, start, length, With::Poison, known, !mode.contains(PoisonMode::DONTWAKE))
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
        self.fill(task, start, length, With::Zeroes, true, false)
    }

    fn fill(
        &self,
        task: &mut Task<P>,
        start: VirtAddr,
        length: u64,
        mut with: With<'_, P>,
        known_mode: bool,
        wake: bool,
    ) -> Result<(), Stopped> {
        task.enter(self.space.mm().hugetlb()).map_err(UserfaultError::from)?;
        self.check_alive()?;
        let range = self.checked_range(start, length)?;
        if !known_mode {
            return Err(UserfaultError::UnknownFlags.into());
        }
        let mut done = 0;
        let filled = self.fill_range(task, &range, &mut with, &mut done);
        if done > 0 {
            let mm = self.space.mm();
            let filled = Event::HandlerFilled { mm: mm.id(), address: start, length: done };
            mm.hugetlb().platform().trace(filled);
        }
        if done > 0 && wake {
            self.context.wake(&(start..start.plus(done)));
        }
        filled.map_err(|error| Stopped { done, error })
    }

    /// Counts in `done` the bytes that are filled.
    ///
    /// Linux: `mfill_atomic_hugetlb()` in mm/userfaultfd.c.
    fn fill_range(
        &self,
        task: &mut Task<P>,
        range: &Range<VirtAddr>,
        with: &mut With<'_, P>,
        done: &mut u64,
    ) -> Result<(), UserfaultError> {
        let hugetlb = self.space.mm().hugetlb();
        let mut copied = None;
        while let Some(size) = self.fill_until_fault(task, range, with, done, copied.take())? {
            if let With::Copies(source, _) = with {
                copied = Some(CopiedPage::new(hugetlb, size, *source, *done, task)?);
            }
        }
        Ok(())
    }

    /// Fills the range from `done` on, its next page with what was `copied`. Stops before a page that the source has to fault in,
    /// and returns the size of that page.
    fn fill_until_fault(
        &self,
        task: &mut Task<P>,
        range: &Range<VirtAddr>,
        with: &mut With<'_, P>,
        done: &mut u64,
        mut copied: Option<CopiedPage<'_, P>>,
    ) -> Result<Option<HugeSize>, UserfaultError> {
        let mmap = self.space.mmap_read(task);
        let looks = copied.is_none() || keeps::<P>(Step::LookAfterCopy);
        // Checked again, now that no operation can begin to change the mappings. S45/copy-fork: one may have begun while the
        // source was copied.
        if looks {
            self.check_alive()?;
        }
        // Set before it is known whether the mapping is registered, as in Linux since 6.9
        // (`uffd_lock_vma()`): from now on, a fork copies the entries of a private mapping.
        if let Some(vma) = mmap.find(range.start).filter(|vma| !vma.is_shared()) {
            vma.set_anon();
        }
        let vma = Self::find_registered(&mmap, range)?;
        let protect = matches!(with, With::Copies(_, true) | With::OfFile(true));
        if protect && !vma.flags().contains(VmaFlags::UFFD_WP) {
            return Err(UserfaultError::NotProtectable { address: range.start });
        }
        if matches!(with, With::Zeroes) {
            return Err(UserfaultError::Unsupported);
        }
        check_aligned(vma, range)?;
        let size = vma.size();
        while *done < range.end.offset_from(range.start) {
            let address = range.start.plus(*done);
            // A mapping of pages of another size may have taken the place of the first one.
            let copied = copied.take().filter(|copied| copied.size() == size);
            let filling = match with {
                With::Copies(source, protect) => {
                    let from_source = Bytes::Source(*source, *done);
                    Filling::Copy(copied.as_ref().map_or(from_source, Bytes::Copied), *protect)
                }
                With::OfFile(protect) => Filling::OfFile(*protect),
                With::Poison => Filling::Poison,
                With::Zeroes => return Err(UserfaultError::Unsupported),
            };
            match fill_page(&mmap.held, vma, address, filling, task)? {
                Filled::Done => *done += size.bytes(),
                Filled::MustFault => return Ok(Some(size)),
            }
        }
        Ok(None)
    }
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
    let mut source: &[u8] = if let Fill::Copy(bytes) = fill { bytes } else { &[] };
    let filling = match fill {
        Fill::Copy(bytes) if bytes.len() as u64 == size.bytes() => {
            Filling::Copy(Bytes::Source(&mut source, 0), false)
        }
        Fill::Copy(bytes) => {
            return Err(UserfaultError::BadRange { start: address, length: bytes.len() as u64 });
        }
        Fill::Continue => Filling::OfFile(false),
        Fill::Poison => Filling::Poison,
    };
    if !vma.is_shared() {
        // As in `fill_until_fault`.
        vma.set_anon();
    }
    // Bytes of a whole page are there.
    fill_page(mmap, vma, address, filling, task).map(drop)
}
