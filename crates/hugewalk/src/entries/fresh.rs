//! Fresh pages for a mapping: taken, filled, and noted as its own.

use crate::addr::{HugeSize, VirtAddr};
use crate::error::{BadSource, FaultError, MapError, MemoryError};
use crate::file::NotInserted;
use crate::hugetlb::Hugetlb;
use crate::page::PageRef;
use crate::platform::Platform;
use crate::reserve::{NewPage, NoPage, Reservations};
use crate::source::{Room, Source};
use crate::task::Task;
use crate::vma::Vma;

/// What a fresh page holds.
pub(crate) enum Contents<'c, P: Platform> {
    Zeroes,
    /// The same as a page of the same size.
    Of(&'c PageRef<'c, P>),
}

/// Why there is no fresh page. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotFresh {
    NoPage(NoPage),
    /// The page to be copied has a hardware error.
    BadSource,
}

impl NotFresh {
    /// As a fault at this address of `vma` reports it. Linux: `VM_FAULT_HWPOISON_LARGE` of `hugetlb_wp()`.
    pub(crate) fn of_fault<P: Platform>(self, vma: &Vma<P>, address: VirtAddr) -> FaultError {
        match self {
            Self::NoPage(error) => error.into(),
            Self::BadSource => FaultError::Hwpoison { address, size: vma.size() },
        }
    }

    /// As fork reports it. Linux: `copy_hugetlb_page_range()`.
    pub(crate) fn of_fork(self, address: VirtAddr) -> MapError {
        match self {
            Self::NoPage(error) => error.into(),
            Self::BadSource => MapError::Hwpoison { address },
        }
    }
}

impl From<NoPage> for NotFresh {
    fn from(error: NoPage) -> Self {
        Self::NoPage(error)
    }
}

impl From<MemoryError> for NotFresh {
    fn from(_: MemoryError) -> Self {
        Self::BadSource
    }
}

/// A page with its contents, for one offset of a mapping. Neither an entry nor the file has it yet. Dropping it gives it
/// back, and the reservation that it used.
pub(crate) struct FreshPage<'v, P: Platform> {
    page: NewPage<'v, P>,
    vma: &'v Vma<P>,
    index: u64,
}

impl<'v, P: Platform> FreshPage<'v, P> {
    /// Takes a page for offset `index` of the file of `vma`, fills it, and notes the file as its owner if the mapping is
    /// private. Does not sleep. No table is locked meanwhile.
    ///
    /// `avoid_reserve` is as for [`NewPage::take`].
    #[inline]
    pub(crate) fn new(
        vma: &'v Vma<P>,
        index: u64,
        contents: &Contents<'_, P>,
        avoid_reserve: bool,
    ) -> Result<Self, NotFresh> {
        let (file, size) = (vma.file(), vma.size());
        let hugetlb = file.hugetlb();
        let page = NewPage::take(hugetlb, size, &vma.reservations(), file.subpool(), index, avoid_reserve)?;
        let (platform, frame) = (hugetlb.platform(), page.frame());
        match *contents {
            // SAFETY: taken above, with this size.
            Contents::Zeroes => unsafe { platform.zero_huge(frame, size) },
            // SAFETY: both are held, and of the file's size; this one was taken above, so they are two.
            Contents::Of(other) => unsafe { platform.copy_huge(other.frame(), frame, size) }?,
        }
        Ok(Self::filled(page, vma, index))
    }

    /// As [`new`](Self::new), filled with what a source has from `offset` on. `None` if that has to be faulted in first.
    pub(crate) fn from_source(
        vma: &'v Vma<P>,
        index: u64,
        (source, offset): (&mut dyn Source<P>, u64),
        avoid_reserve: bool,
    ) -> Result<Option<Self>, NoPage> {
        let (file, size) = (vma.file(), vma.size());
        let hugetlb = file.hugetlb();
        let page = NewPage::take(hugetlb, size, &vma.reservations(), file.subpool(), index, avoid_reserve)?;
        // SAFETY: taken above, with this size, and kept as long as there is room to fill.
        let mut room = unsafe { Room::of_page(hugetlb.platform(), page.frame(), 0, size.bytes()) };
        source.copy_nofault(offset, &mut room);
        Ok((room.left() == 0).then(|| Self::filled(page, vma, index)))
    }

    /// A page that was taken for offset `index`, and filled since.
    pub(crate) fn filled(page: NewPage<'v, P>, vma: &'v Vma<P>, index: u64) -> Self {
        if !vma.is_shared() {
            page.set_private(vma.file());
        }
        Self { page, vma, index }
    }

    /// Puts the page into the file of a shared mapping. It belongs to the file then, whether it can be mapped or not.
    #[inline]
    pub(crate) fn into_file(self) -> Result<PageRef<'v, P>, NotInserted> {
        self.vma.file().insert_page(self.index, self.page.frame())?;
        Ok(self.page.commit())
    }

    /// The page is about to be mapped, in a table that the caller has locked. The reference is for the entry.
    #[inline]
    pub(crate) fn commit(self) -> PageRef<'v, P> {
        self.page.commit()
    }
}

/// A page with what a source had, on its way to one that a mapping has a right to: it uses no reservation and belongs to no
/// file. Dropping it gives it back.
pub(crate) struct CopiedPage<'h, P: Platform> {
    page: NewPage<'h, P>,
    size: HugeSize,
}

/// Why there is no copy. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotCopied {
    NoPage(NoPage),
    BadSource(BadSource),
}

impl<'h, P: Platform> CopiedPage<'h, P> {
    /// Takes a page that nobody has reserved, and fills it with what the source has from `offset` on. Sleeps; the caller holds
    /// no lock.
    ///
    /// A page that was taken for an offset of a file cannot be kept for as long: its reservation is noted as used, which
    /// truncation would count without the fault mutex.
    ///
    /// Linux: `alloc_hugetlb_folio_vma()` in `hugetlb_mfill_atomic_pte()`.
    pub(crate) fn new(
        hugetlb: &'h Hugetlb<P>,
        size: HugeSize,
        source: &mut dyn Source<P>,
        offset: u64,
        task: &mut Task<P>,
    ) -> Result<Self, NotCopied> {
        let page = NewPage::take(hugetlb, size, &Reservations::Passing, None, 0, false);
        let page = page.map_err(NotCopied::NoPage)?;
        // SAFETY: taken above, with this size, and kept as long as there is room to fill.
        let mut room = unsafe { Room::of_page(hugetlb.platform(), page.frame(), 0, size.bytes()) };
        let copied = source.copy(offset, &mut room, task).and_then(|()| room.full());
        copied.map_err(NotCopied::BadSource)?;
        Ok(Self { page, size })
    }

    pub(crate) fn size(&self) -> HugeSize {
        self.size
    }

    /// The same contents, for a fresh page.
    pub(crate) fn contents(&self) -> Contents<'_, P> {
        Contents::Of(self.page.page())
    }
}
