//! Takes pages and reserves ranges, and keeps region map, mount and pool in step.

use core::ops::Range;

use super::charged::Charged;
use super::{RegionMap, SubPool};
use crate::addr::{HugeFrame, HugeSize};
use crate::error::{NoPage, OutOfMemory};
use crate::file::HugeFile;
use crate::hugetlb::Hugetlb;
use crate::page::{Page, PageRef};
use crate::platform::{Event, Platform};
use crate::pool::{Short, Supply};
use crate::sleep::BiasedRwSem;
use crate::sync::{Arc, SpinLock, SpinLockGuard};

/// The reservations of a private mapping. The process that made the mapping owns them. Linux:
/// `struct resv_map` of a VMA.
///
/// The map has the opposite meaning of a file's: an offset in it has used its reservation.
pub(crate) struct PrivateReserve<P: Platform> {
    /// Stands in for the VMA lock, which private mappings do not have.
    pub(crate) lock: BiasedRwSem<P, ()>,
    pub(crate) used: SpinLock<P, RegionMap>,
}

impl<P: Platform> PrivateReserve<P> {
    /// No reservation is used.
    ///
    /// # Safety
    ///
    /// The system is alive as long as this is used.
    pub(crate) unsafe fn new(hugetlb: &Hugetlb<P>) -> Result<Arc<Self>, OutOfMemory> {
        // SAFETY: passed on to the caller.
        let lock = unsafe { BiasedRwSem::new(hugetlb, ()) };
        Arc::try_new(Self { lock, used: SpinLock::<P, _>::new(RegionMap::new()) })
    }

    /// Restores the reservations of the pages at these offsets, which are about to be freed. True if all of them had used one, and
    /// they are restored; else nothing has changed. Without memory to note that, the reservations stay used.
    ///
    /// Linux: `vma_needs_reservation()` and `vma_add_reservation()` in `__unmap_hugepage_range()`,
    /// from 6.12 on.
    pub(crate) fn restore(&self, Range { start, end }: Range<u64>, room: Room) -> bool {
        let used = match room {
            Room::MayGrow => lock_regions::<P>(&self.used, |map| map.del_splits(start, end)),
            Room::AsItIs => Ok(self.used.lock()),
        };
        used.is_ok_and(|mut used| used.missing(start, end) == 0 && used.del_in_place(start, end).is_ok())
    }
}

/// May a change allocate?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// No spinning lock is held, so more room may be allocated.
    MayGrow,
    /// A spinning lock may be held, so nothing may be allocated.
    AsItIs,
}

/// Locks a region map. If `changes` says that there will be a change, the map has room for it then,
/// so that the change cannot fail.
pub(crate) fn lock_regions<P: Platform>(
    map: &SpinLock<P, RegionMap>,
    changes: impl Fn(&RegionMap) -> bool,
) -> Result<SpinLockGuard<'_, P, RegionMap>, OutOfMemory> {
    let mut regions = map.lock();
    if changes(&regions) && !regions.has_room() {
        drop(regions);
        let room = RegionMap::room()?;
        regions = map.lock();
        regions.take_room(room);
    }
    Ok(regions)
}

/// Takes one offset out of a region map, and returns how many were in it: 1 or 0.
pub(crate) fn unlist<P: Platform>(map: &SpinLock<P, RegionMap>, index: u64) -> Result<u64, OutOfMemory> {
    let end = index.saturating_add(1);
    lock_regions::<P>(map, |map| map.del_splits(index, end))?.del_in_place(index, end)
}

/// Whose reservations a fault may use.
pub(crate) enum Reservations<'a, P: Platform> {
    /// Those of the file. An offset in the map is reserved.
    File(&'a SpinLock<P, RegionMap>),
    /// Those of a private mapping that this process made itself. An offset in the map has used its
    /// reservation.
    Owner(&'a PrivateReserve<P>),
    /// None: a private mapping inherited by fork, or one made without reservations.
    Nobody,
}

/// Reserves the part of `from..to` that the file has no reservation for yet. May sleep. Linux:
/// `hugetlb_reserve_pages()`.
pub(crate) fn reserve_range<P: Platform>(
    hugetlb: &Hugetlb<P>,
    size: HugeSize,
    map: Option<&SpinLock<P, RegionMap>>,
    subpool: Option<&Arc<SubPool<P>>>,
    from: u64,
    to: u64,
) -> Result<(), NoPage> {
    let mut wanted = 0;
    let reserved = Supply::retry(hugetlb, size, |supply| {
        let mut reserve = |pages| match subpool {
            Some(subpool) => subpool.reserve(supply, pages),
            None => hugetlb.pool(size).reserve(supply, pages).map_err(Short::from),
        };
        let Some(map) = map else {
            wanted = to.saturating_sub(from);
            return reserve(wanted);
        };
        let mut map = lock_regions::<P>(map, |_| true)?;
        wanted = map.missing(from, to);
        reserve(wanted)?;
        // Cannot fail: room was made above, and the lock has been held since then.
        map.add(from, to)?;
        Ok(())
    });
    if reserved.is_ok() {
        hugetlb.platform().trace(Event::Reserved { size, pages: wanted });
    }
    reserved
}

/// Takes back `pages` reservations that no page has used. Linux: the end of
/// `hugetlb_unreserve_pages()`.
pub(crate) fn release_range<P: Platform>(
    hugetlb: &Hugetlb<P>,
    size: HugeSize,
    subpool: Option<&Arc<SubPool<P>>>,
    pages: u64,
) {
    hugetlb.platform().trace(Event::Unreserved { size, pages });
    match subpool {
        Some(subpool) => subpool.unreserve(pages),
        None => hugetlb.pool(size).unreserve(hugetlb, pages),
    }
}

/// What taking a page changed in the reservations. It is undone if the page is not used after all.
pub(super) enum Undo<'a, P: Platform> {
    Nothing,
    /// The offset was added to the file's map.
    Added(&'a SpinLock<P, RegionMap>),
    /// The owner's reservation was marked used.
    Used(&'a PrivateReserve<P>),
}

impl<P: Platform> Clone for Undo<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P: Platform> Copy for Undo<'_, P> {}

/// A page that was taken from the pool and is not yet in use. Dropping it gives back the page, and
/// the reservation that it used.
pub(crate) struct NewPage<'a, P: Platform> {
    // Dropped before the reference to the page, which frees it.
    taken: Taken<'a, P>,
    page: PageRef<'a, P>,
}

/// What is undone for a page that was not used.
struct Taken<'a, P: Platform> {
    page: &'a Page<P>,
    undo: Undo<'a, P>,
    index: u64,
}

impl<'a, P: Platform> NewPage<'a, P> {
    /// Takes a page for offset `index`. The contents are whatever was there before. May sleep.
    ///
    /// `avoid_reserve`: the owner copies a page that its children share. It must not use its
    /// reservation for that while other pages are available.
    ///
    /// Linux: `alloc_huge_page()` in mm/hugetlb.c.
    pub(crate) fn take(
        hugetlb: &'a Hugetlb<P>,
        size: HugeSize,
        reservations: &Reservations<'a, P>,
        subpool: Option<&Arc<SubPool<P>>>,
        index: u64,
        avoid_reserve: bool,
    ) -> Result<Self, NoPage> {
        let end = index.saturating_add(1);
        // Under the locks of the reservations; the host is asked without them.
        let attempt = |supply: &mut Supply<'_, P>| -> Result<_, Short<NoPage>> {
            let pool = hugetlb.pool(size);
            let unreserved = |supply: &mut Supply<'_, P>| match subpool {
                Some(subpool) => subpool.take_page(supply),
                None => pool.take(supply, false).map_err(Short::from),
            };
            Ok(match *reservations {
                _ if avoid_reserve => (unreserved(supply)?, false, Undo::Nothing),
                Reservations::Nobody => (unreserved(supply)?, false, Undo::Nothing),
                Reservations::File(lock) => {
                    let mut map = lock_regions::<P>(lock, |map| !map.contains(index))?;
                    if map.contains(index) {
                        (pool.take(supply, true)?, true, Undo::Nothing)
                    } else {
                        let frame = unreserved(supply)?;
                        map.add(index, end)?;
                        (frame, false, Undo::Added(lock))
                    }
                }
                Reservations::Owner(reserve) => {
                    let mut used = lock_regions::<P>(&reserve.used, |used| !used.contains(index))?;
                    if used.contains(index) {
                        (unreserved(supply)?, false, Undo::Nothing)
                    } else {
                        let frame = pool.take(supply, true)?;
                        used.add(index, end)?;
                        (frame, true, Undo::Used(reserve))
                    }
                }
            })
        };
        // Before the locks of the reservations: the host may sleep.
        let charge = Charged::try_new(hugetlb, size, 1)?;
        // The frame, whether freeing it before its first use restores a reservation, and what else
        // to undo.
        let (frame, restore, undo) = Supply::retry(hugetlb, size, attempt)?;
        // SAFETY: just taken from the pool, so this caller has exclusive access.
        unsafe { hugetlb.page(frame).hand_out(subpool.cloned(), charge.spend(1), restore) };
        // SAFETY: the reference that `hand_out` set up is ours.
        let page = unsafe { PageRef::from_raw(hugetlb, frame, size) };
        Ok(Self::taken(page, undo, index))
    }

    /// A page that was taken for offset `index`, with what that changed.
    pub(super) fn taken(page: PageRef<'a, P>, undo: Undo<'a, P>, index: u64) -> Self {
        Self { taken: Taken { page: page.page(), undo, index }, page }
    }

    pub(crate) fn frame(&self) -> HugeFrame {
        self.page.frame()
    }

    pub(crate) fn page(&self) -> &PageRef<'a, P> {
        &self.page
    }

    /// Notes that the page is for a private mapping of `file`, at the offset it was taken for.
    pub(crate) fn set_private(&self, file: &Arc<HugeFile<P>>) {
        self.page.set_private(file, self.taken.index);
    }

    /// Marks the page as in use: its reservation is used. It belongs to its file already, or is
    /// about to be mapped in a table that the caller has locked. The reference of this value passes
    /// to the caller.
    #[inline]
    pub(crate) fn commit(self) -> PageRef<'a, P> {
        let Self { mut taken, page } = self;
        taken.undo = Undo::Nothing;
        taken.page.put_to_use();
        page
    }
}

impl<P: Platform> Drop for Taken<'_, P> {
    fn drop(&mut self) {
        let undone = match self.undo {
            Undo::Nothing => Ok(0),
            Undo::Added(map) => unlist::<P>(map, self.index),
            Undo::Used(reserve) => unlist::<P>(&reserve.used, self.index),
        };
        if undone.is_err() {
            // Removing one offset from the middle of a range makes two ranges. That needs room, and
            // the room that adding the offset left behind may have been used meanwhile. Then:
            //
            // - A private mapping's reservation counts as used, and the page goes back without one.
            // - In a file's map the offset stays, which says that it is reserved. So the page goes
            //   back with its reservation restored.
            match self.undo {
                Undo::Added(_) => self.page.restore_reserve(),
                Undo::Used(_) | Undo::Nothing => self.page.forget_reserve(),
            }
        }
    }
}
