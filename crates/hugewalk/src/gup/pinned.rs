//! Pages that somebody holds.

use alloc::vec::Vec;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Deref;

use super::follow::Want;
use super::{GupError, NotPinnedForWriting};
use crate::addr::{HugeFrame, HugeSize, PAGE_SIZE, VirtAddr};
use crate::hugetlb::{Hugetlb, Inside};
use crate::mm::AddressSpace;
use crate::page::{Page, PageRef};
use crate::platform::Platform;
use crate::sync::{Arc, try_push};

/// A system that is borrowed, so that holding a page of it writes no reference count but the page's own.
///
/// # Invariants
///
/// Borrowed from an address space that somebody has a reference to, so there is a handle on the system for `'h`.
#[derive(Debug)]
pub struct SystemRef<'h, P: Platform>(&'h Inside<P>);

impl<'h, P: Platform> SystemRef<'h, P> {
    #[inline]
    pub(super) fn of(space: &'h AddressSpace<P>) -> Self {
        // INVARIANT: an address space has a handle until its last reference is gone.
        Self(space.mm().inside())
    }
}

impl<P: Platform> Clone for SystemRef<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P: Platform> Copy for SystemRef<'_, P> {}

impl<P: Platform> Deref for SystemRef<'_, P> {
    type Target = Hugetlb<P>;
    #[inline]
    fn deref(&self) -> &Hugetlb<P> {
        self.0
    }
}

/// A huge page that is held: it is not freed before this is dropped, whatever becomes of the mapping it was found through,
/// of the file and of the address space. Linux: what `get_user_pages()` and `pin_user_pages()` return.
///
/// `H` is how it holds the system that the page belongs to: by a reference, which makes it independent of everything else,
/// or by a borrow ([`SystemRef`]). Dropping it does not sleep, unless it is all that is left of the system.
///
/// # Invariants
///
/// The page of `frame`, of `size`, has a reference that this value owns, and a pin if `want.pin`.
#[must_use = "the page is given back when this is dropped"]
pub struct PinnedPage<P: Platform, H: Deref<Target = Hugetlb<P>> = Arc<Hugetlb<P>>> {
    system: H,
    frame: HugeFrame,
    size: HugeSize,
    want: Want,
}

impl<P: Platform, H: Deref<Target = Hugetlb<P>>> PinnedPage<P, H> {
    /// # Safety
    ///
    /// The caller owns a reference to the page, and a pin if `want.pin`, and hands both over. `system` always dereferences
    /// to the same system, that of the page.
    #[inline]
    pub(super) unsafe fn from_raw(system: H, frame: HugeFrame, size: HugeSize, want: Want) -> Self {
        Self { system, frame, size, want }
    }

    /// The frame of the huge page.
    #[must_use]
    #[inline]
    pub fn frame(&self) -> HugeFrame {
        self.frame
    }

    /// Its size.
    #[must_use]
    #[inline]
    pub fn size(&self) -> HugeSize {
        self.size
    }

    /// Its record.
    #[must_use]
    #[inline]
    pub fn page(&self) -> &Page<P> {
        self.system.page(self.frame)
    }

    /// May it be written through this value?
    #[must_use]
    #[inline]
    pub fn is_writable(&self) -> bool {
        self.want.write
    }

    /// Copies bytes out of the page, from `offset` on, up to its end. Returns how many.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> usize {
        let count = self.within(offset, into.len());
        if let Some(into) = into.get_mut(..count).filter(|into| !into.is_empty()) {
            // SAFETY: the page is held, and `within` keeps to it.
            unsafe { self.system.platform().read_huge(self.frame, offset, into) };
        }
        count
    }

    /// Copies bytes into the page, from `offset` on, up to its end. Returns how many.
    ///
    /// # Errors
    ///
    /// [`NotPinnedForWriting`], without [`GupFlags::WRITE`](super::GupFlags::WRITE).
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<usize, NotPinnedForWriting> {
        if !self.want.write {
            return Err(NotPinnedForWriting);
        }
        let count = self.within(offset, from.len());
        if let Some(from) = from.get(..count).filter(|from| !from.is_empty()) {
            // SAFETY: the page is held, and `within` keeps to it.
            unsafe { self.system.platform().write_huge(self.frame, offset, from) };
        }
        Ok(count)
    }

    /// How many of `length` bytes from `offset` on lie in the page.
    fn within(&self, offset: u64, length: usize) -> usize {
        let left = self.size.bytes().saturating_sub(offset);
        usize::try_from(left).map_or(length, |left| left.min(length))
    }
}

impl<'h, P: Platform> PinnedPage<P, SystemRef<'h, P>> {
    /// The same page, as the engine itself holds it. It was not pinned.
    pub(super) fn into_reference(self) -> PageRef<'h, P> {
        debug_assert!(!self.want.pin, "a pin would stay behind");
        let (SystemRef(inside), frame, size) = (self.system, self.frame, self.size);
        core::mem::forget(self);
        // SAFETY: the reference that this value owned passes over.
        unsafe { PageRef::from_raw(inside, frame, size) }
    }

    /// The same page, held by a value that may live longer than the address space. Writes the reference count of the
    /// system, which other processors may be writing too.
    pub fn into_owned(self) -> PinnedPage<P> {
        // SAFETY: by the invariants of `SystemRef` there is a handle.
        let system = unsafe { self.system.0.another_handle() };
        let (frame, size, want) = (self.frame, self.size, self.want);
        core::mem::forget(self);
        // INVARIANT: the reference, and the pin, pass over.
        PinnedPage { system, frame, size, want }
    }
}

impl<P: Platform, H: Deref<Target = Hugetlb<P>>> Drop for PinnedPage<P, H> {
    #[inline]
    fn drop(&mut self) {
        give_back(&self.system, self.frame, self.want);
    }
}

impl<P: Platform, H: Deref<Target = Hugetlb<P>>> fmt::Debug for PinnedPage<P, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedPage")
            .field("frame", &self.frame)
            .field("size", &self.size)
            .field("want", &self.want)
            .finish_non_exhaustive()
    }
}

/// The pages of a range of addresses, or of the first part of it, one after the other. They are held until this is dropped,
/// which does not sleep, unless it is all that is left of the system.
///
/// `H` is how it holds the system, as for [`PinnedPage`]; once for all pages, so that a page costs its own count and no more.
///
/// # Invariants
///
/// Each of `pages` has a reference that this value owns, and a pin if `want.pin`. They are pages of `system`, which always
/// dereferences to the same system.
#[must_use = "the pages are given back when this is dropped"]
pub struct Pins<P: Platform, H: Deref<Target = Hugetlb<P>> = Arc<Hugetlb<P>>> {
    system: H,
    want: Want,
    start: VirtAddr,
    length: u64,
    bytes: u64,
    pages: Vec<(HugeFrame, HugeSize)>,
    stopped_by: Option<GupError>,
}

impl<P: Platform, H: Deref<Target = Hugetlb<P>>> Pins<P, H> {
    pub(super) const fn new(system: H, start: VirtAddr, length: u64, want: Want) -> Self {
        Self { system, want, start, length, bytes: 0, pages: Vec::new(), stopped_by: None }
    }

    /// Takes one page after the other until the range is full or `page_at`, which gives pages of this system, fails.
    pub(super) fn fill<'h>(
        &mut self,
        mut page_at: impl FnMut(VirtAddr) -> Result<PinnedPage<P, SystemRef<'h, P>>, GupError>,
    ) -> Result<(), GupError>
    where
        P: 'h,
    {
        while self.bytes < self.length {
            // What lies after the last page of the number range is not mapped.
            let at = self.start.checked_add(self.bytes).unwrap_or(VirtAddr::new(u64::MAX));
            let next = page_at(at).and_then(|page| {
                let left = page.size().bytes() - (at.as_u64() & (page.size().bytes() - 1));
                try_push(&mut self.pages, (page.frame, page.size))?;
                // INVARIANT: the reference, and the pin, pass over.
                core::mem::forget(page);
                Ok(left)
            });
            match next {
                Ok(left) => self.bytes += left.min(self.length - self.bytes),
                Err(error) if self.pages.is_empty() => return Err(error),
                Err(error) => {
                    self.stopped_by = Some(error);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The address that was asked for.
    #[must_use]
    pub fn start(&self) -> VirtAddr {
        self.start
    }

    /// How many bytes from the start on lie in the pages held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The same in pages of 4 KiB, the first and the last as whole ones: the number that Linux returns.
    #[must_use]
    pub fn small_pages(&self) -> u64 {
        if self.bytes == 0 {
            return 0;
        }
        (self.start.as_u64() % PAGE_SIZE + self.bytes).div_ceil(PAGE_SIZE)
    }

    /// Why there are not more, if there are fewer than were asked for.
    #[must_use]
    pub fn stopped_by(&self) -> Option<GupError> {
        self.stopped_by
    }

    /// The pages, by address.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = PinnedRef<'_, P>> {
        self.pages.iter().map(|&page| self.look_at(page))
    }

    /// One of the pages, the first being 0.
    #[must_use]
    pub fn page(&self, index: usize) -> Option<PinnedRef<'_, P>> {
        self.pages.get(index).map(|&page| self.look_at(page))
    }

    /// The pages, by address, each to be kept as long as it is needed, with the system held for each. Those that are not asked
    /// for are given back with the iterator.
    pub fn into_pages(mut self) -> impl ExactSizeIterator<Item = PinnedPage<P, H>>
    where
        H: Clone,
    {
        self.pages.reverse();
        IntoPages(self)
    }

    fn look_at(&self, (frame, size): (HugeFrame, HugeSize)) -> PinnedRef<'_, P> {
        // SAFETY: by the type invariants there is a reference; the value made of it is never dropped, so it stays ours.
        let page = unsafe { PinnedPage::from_raw(&*self.system, frame, size, self.want) };
        PinnedRef(ManuallyDrop::new(page))
    }
}

impl<P: Platform, H: Deref<Target = Hugetlb<P>>> Drop for Pins<P, H> {
    fn drop(&mut self) {
        for (frame, _) in self.pages.drain(..) {
            give_back(&self.system, frame, self.want);
        }
    }
}

impl<P: Platform, H: Deref<Target = Hugetlb<P>>> fmt::Debug for Pins<P, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pins")
            .field("start", &self.start)
            .field("bytes", &self.bytes)
            .field("want", &self.want)
            .field("pages", &self.pages)
            .field("stopped_by", &self.stopped_by)
            .finish_non_exhaustive()
    }
}

/// A page that [`Pins`] hold.
#[derive(Debug)]
pub struct PinnedRef<'a, P: Platform>(ManuallyDrop<PinnedPage<P, &'a Hugetlb<P>>>);

impl<'a, P: Platform> Deref for PinnedRef<'a, P> {
    type Target = PinnedPage<P, &'a Hugetlb<P>>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// The last page comes first in here.
struct IntoPages<P: Platform, H: Deref<Target = Hugetlb<P>>>(Pins<P, H>);

impl<P: Platform, H: Deref<Target = Hugetlb<P>> + Clone> Iterator for IntoPages<P, H> {
    type Item = PinnedPage<P, H>;

    fn next(&mut self) -> Option<Self::Item> {
        let (frame, size) = self.0.pages.pop()?;
        // SAFETY: by the invariants of `Pins`; what it owned of the page passes over.
        Some(unsafe { PinnedPage::from_raw(self.0.system.clone(), frame, size, self.0.want) })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.pages.len(), Some(self.0.pages.len()))
    }
}

impl<P: Platform, H: Deref<Target = Hugetlb<P>> + Clone> ExactSizeIterator for IntoPages<P, H> {}

#[inline]
fn give_back<P: Platform>(system: &Hugetlb<P>, frame: HugeFrame, want: Want) {
    if want.pin {
        system.unpin_page(frame);
    } else {
        system.put_page(frame);
    }
}
