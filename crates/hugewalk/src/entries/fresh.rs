//! Fresh pages for a mapping: taken, filled, and noted as its own.

use crate::addr::VirtAddr;
use crate::error::{FaultError, MapError, MemoryError};
use crate::file::NotInserted;
use crate::page::PageRef;
use crate::platform::Platform;
use crate::reserve::{NewPage, NoPage};
use crate::vma::Vma;

/// What a fresh page holds.
pub(crate) enum Contents<'c, P: Platform> {
    Zeroes,
    /// The same as a page of the same size.
    Of(&'c PageRef<'c, P>),
    /// These bytes, one page at most.
    Bytes(&'c [u8]),
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
            // SAFETY: taken above; the bytes are one page at most.
            Contents::Bytes(bytes) => unsafe { platform.write_huge(frame, 0, bytes) },
        }
        if !vma.is_shared() {
            page.set_private(file);
        }
        Ok(Self { page, vma, index })
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
