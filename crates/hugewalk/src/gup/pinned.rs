//! Values that hold pages.

use alloc::vec::Vec;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Deref;

use super::follow::Want;
use super::{GupError, NotPinnedForWriting};
use crate::addr::{HugeFrame, HugeSize, VirtAddr};
use crate::arch::Paging;
use crate::error::{MemoryError, OutOfMemory};
use crate::hugetlb::{Hugetlb, Inside, RUN};
use crate::page::{Page, PageRef};
use crate::platform::Platform;
use crate::root::Mm;
use crate::space::AddressSpace;
use crate::sync::Arc;

/// A borrowed system. Holding a page through it writes no reference count but the page's own.
///
/// # Invariants
///
/// Borrowed from an address space that has a reference for `'h`, or used while something else has a handle. So the system has a
/// handle for `'h`, or as long as the value lives.
#[derive(Debug)]
pub struct SystemRef<'h, P: Platform>(&'h Inside<P>);

impl<'h, P: Platform> SystemRef<'h, P> {
    #[inline]
    pub(super) fn of(space: &'h AddressSpace<P>) -> Self {
        // INVARIANT: an address space has a handle until its last reference is dropped.
        Self(space.mm().inside())
    }

    /// The system of `mm`, for the time of a call.
    ///
    /// # Safety
    ///
    /// There is a handle as long as the value and its clones live.
    pub(super) unsafe fn of_mm(mm: &'h Mm<P>) -> Self {
        // INVARIANT: by the contract of this function.
        Self(mm.inside())
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

/// A huge page that is held. It is not freed before this value is dropped, whatever happens to the
/// mapping, the file and the address space.
///
/// Linux: what `get_user_pages()` and `pin_user_pages()` return.
///
/// `H` says how it holds the system of the page: by a reference, which makes it independent of
/// everything else, or by a borrow ([`SystemRef`]). Dropping it does not sleep, unless it has the
/// last handle of the system.
///
/// # Invariants
///
/// The page of `frame`, of `size`, has a reference that this value owns, and a pin if `want.pin`.
#[must_use = "the page is released when this is dropped"]
pub struct PinnedPage<P: Platform, H: Deref<Target = Hugetlb<P>> = Arc<Hugetlb<P>>> {
    system: H,
    frame: HugeFrame,
    size: HugeSize,
    want: Want,
}

impl<P: Platform, H: Deref<Target = Hugetlb<P>>> PinnedPage<P, H> {
    /// # Safety
    ///
    /// The caller owns a reference to the page, and a pin if `want.pin`, and passes both on.
    /// `system` always dereferences to the same system, that of the page.
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

    /// May the page be written through this value?
    #[must_use]
    #[inline]
    pub fn is_writable(&self) -> bool {
        self.want.write
    }

    /// Copies bytes out of the page, from `offset` on, up to its end. Returns how many.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the memory of the page failed. `into` may hold anything then.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<usize, MemoryError> {
        let count = self.within(offset, into.len());
        if let Some(into) = into.get_mut(..count).filter(|into| !into.is_empty()) {
            // SAFETY: the page is held, and `within` keeps to it.
            unsafe { self.system.platform().read_huge(self.frame, offset, into) }?;
        }
        Ok(count)
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
    /// The same page, as the engine itself holds it. It must not be pinned.
    pub(super) fn into_reference(self) -> PageRef<'h, P> {
        debug_assert!(!self.want.pin, "a pin would stay behind");
        let (SystemRef(inside), frame, size) = (self.system, self.frame, self.size);
        core::mem::forget(self);
        // SAFETY: the reference that this value owned passes on.
        unsafe { PageRef::from_raw(inside, frame, size) }
    }

    /// The same page, held by a value that may outlive the address space. Writes the reference
    /// count of the system, which other processors may write too.
    pub fn into_owned(self) -> PinnedPage<P> {
        // SAFETY: by the invariants of `SystemRef` there is a handle.
        let system = unsafe { self.system.0.another_handle() };
        let (frame, size, want) = (self.frame, self.size, self.want);
        core::mem::forget(self);
        // INVARIANT: the reference, and the pin, pass on.
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

/// For how many pages memory is allocated at first: 4 KiB of it.
const AHEAD: usize = 256;

/// The pages of a range of addresses, or of its first part, in order. They are held until this
/// value is dropped. Dropping it does not sleep, unless it has the last handle of the system.
///
/// `H` says how it holds the system, as for [`PinnedPage`]. It does so once for all pages, so each
/// page costs only its own count.
///
/// # Invariants
///
/// - Each of `pages` has a reference that this value owns, and a pin if `want.pin`.
/// - They are pages of `system`, which always dereferences to the same system.
/// - `pages` has memory for `room` more.
#[must_use = "the pages are released when this is dropped"]
pub struct Pins<P: Platform, H: Deref<Target = Hugetlb<P>> = Arc<Hugetlb<P>>> {
    system: H,
    want: Want,
    start: VirtAddr,
    length: u64,
    bytes: u64,
    pages: Vec<(HugeFrame, HugeSize)>,
    room: usize,
    stopped_by: Option<GupError>,
}

impl<P: Platform, H: Deref<Target = Hugetlb<P>>> Pins<P, H> {
    pub(super) const fn new(system: H, start: VirtAddr, length: u64, want: Want) -> Self {
        Self { system, want, start, length, bytes: 0, pages: Vec::new(), room: 0, stopped_by: None }
    }

    /// Takes pages, a few at a time, until the range is full, or until `more` fails. It gets the address to go on from, there is
    /// [room](Self::push) for a page at least, and it takes one or more.
    pub(super) fn fill(
        &mut self,
        mut more: impl FnMut(VirtAddr, &mut Self) -> Result<(), GupError>,
    ) -> Result<(), GupError> {
        while let Some(at) = self.next() {
            match self.make_room().map_err(GupError::from).and_then(|()| more(at, self)) {
                Ok(()) => {}
                Err(error) if self.pages.is_empty() => return Err(error),
                Err(error) => {
                    self.stopped_by = Some(error);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The address of the next page that is wanted.
    fn next(&self) -> Option<VirtAddr> {
        // Past the end of the number range the last address stands in, which is not mapped either.
        let at = || self.start.checked_add(self.bytes).unwrap_or(VirtAddr::new(u64::MAX));
        (self.bytes < self.length).then(at)
    }

    /// Pages are taken under a lock, or in a read section: memory for a run of them is allocated ahead, and for as many runs as
    /// [`AHEAD`] says.
    fn make_room(&mut self) -> Result<(), OutOfMemory> {
        let smallest = self.system.sizes().next().map_or(1, HugeSize::bytes);
        // One more where the range begins in the middle of a page.
        let left = (self.length - self.bytes).div_ceil(smallest).saturating_add(1);
        let left = usize::try_from(left).map_or(AHEAD, |left| left.min(AHEAD));
        let run = left.min(RUN);
        self.pages.try_reserve(if self.pages.is_empty() { left } else { run })?;
        self.room = run;
        Ok(())
    }

    /// What the pages are taken for.
    pub(super) const fn want(&self) -> Want {
        self.want
    }

    /// Adds the page at the address that [`fill`](Self::fill) gave, or that the last call returned. Returns the address of the next
    /// one, if one is wanted and there is room for it.
    #[inline]
    pub(super) fn push(&mut self, page: PinnedPage<P, SystemRef<'_, P>>) -> Option<VirtAddr> {
        let at = self.next()?;
        self.room = self.room.checked_sub(1)?;
        let left = page.size.bytes() - (at.as_u64() & (page.size.bytes() - 1));
        self.bytes += left.min(self.length - self.bytes);
        self.pages.push((page.frame, page.size));
        // INVARIANT: the reference, and the pin, pass on.
        core::mem::forget(page);
        self.next().filter(|_| self.room > 0)
    }

    /// The address that was asked for.
    #[must_use]
    pub fn start(&self) -> VirtAddr {
        self.start
    }

    /// How many bytes from the start on lie in pages that are held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The same in base pages. The first and the last count as whole pages: the number that
    /// Linux returns.
    #[must_use]
    pub fn small_pages(&self) -> u64 {
        if self.bytes == 0 {
            return 0;
        }
        let base = self.system.paging().geometry().base_bytes();
        (self.start.as_u64() % base + self.bytes).div_ceil(base)
    }

    /// Why there are fewer pages than were asked for, if so.
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

    /// The pages, by address, each of which holds the system and may be kept as long as it is
    /// needed. Pages that are not taken out of the iterator are released with it.
    pub fn into_pages(mut self) -> impl ExactSizeIterator<Item = PinnedPage<P, H>>
    where
        H: Clone,
    {
        self.pages.reverse();
        IntoPages(self)
    }

    fn look_at(&self, (frame, size): (HugeFrame, HugeSize)) -> PinnedRef<'_, P> {
        // SAFETY: by the type invariants there is a reference. The value made here is never
        // dropped, so the reference stays with this list.
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

/// Its pages are in reverse order, so that `pop` yields the first.
struct IntoPages<P: Platform, H: Deref<Target = Hugetlb<P>>>(Pins<P, H>);

impl<P: Platform, H: Deref<Target = Hugetlb<P>> + Clone> Iterator for IntoPages<P, H> {
    type Item = PinnedPage<P, H>;

    fn next(&mut self) -> Option<Self::Item> {
        let (frame, size) = self.0.pages.pop()?;
        // SAFETY: by the invariants of `Pins` it owned a reference to the page, and a pin if
        // `want.pin`. Both pass on.
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
