//! Takes pages and reserves ranges, and keeps region map, mount and pool in step.

use core::borrow::BorrowMut;

use super::charged::{Charged, InUse, Reserved, Stop};
use super::private::{PrivateReserve, unuse};
use super::{RegionMap, SubPool};
use crate::addr::{HugeFrame, HugeSize};
use crate::error::{NoPage, OutOfMemory};
use crate::file::HugeFile;
use crate::hugetlb::Hugetlb;
use crate::page::{Charges, Page, PageRef};
use crate::platform::{Event, Limits, Platform};
use crate::pool::{Short, Supply};
use crate::sync::{Arc, SpinLock, SpinLockGuard};

/// May a change allocate?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// No spinning lock is held, so more room may be allocated.
    MayGrow,
    /// A spinning lock may be held, so nothing may be allocated.
    AsItIs,
}

/// The reservations of a file, and who has paid for each. A page that was taken without a reservation is in the map as well, and
/// nobody has paid for it here: its record says who has paid.
///
/// Linux: `struct resv_map` of an inode.
pub(crate) type FileMap<P> = RegionMap<Option<<P as Limits>::Charge>>;

/// Locks a region map, with room for as many further elements as `more` says, so that the change that needs them cannot fail.
#[inline]
pub(crate) fn lock_regions<P, T, M>(
    lock: &SpinLock<P, M>,
    more: impl Fn(&RegionMap<T>) -> usize,
) -> Result<SpinLockGuard<'_, P, M>, OutOfMemory>
where
    P: Platform,
    T: Clone + Eq + Default,
    M: BorrowMut<RegionMap<T>>,
{
    let guard = lock.lock();
    let map: &RegionMap<T> = (*guard).borrow();
    let more_now = more(map);
    if more_now <= map.room_left() {
        return Ok(guard);
    }
    let lacking = more_now - map.room_left();
    drop(guard);
    lock_with_more_room::<P, T, M>(lock, lacking, more)
}

/// As [`lock_regions`], for a map that lacked room for so many elements a moment ago.
#[cold]
fn lock_with_more_room<P, T, M>(
    lock: &SpinLock<P, M>,
    mut lacking: usize,
    more: impl Fn(&RegionMap<T>) -> usize,
) -> Result<SpinLockGuard<'_, P, M>, OutOfMemory>
where
    P: Platform,
    T: Clone + Eq + Default,
    M: BorrowMut<RegionMap<T>>,
{
    loop {
        let rooms = RegionMap::rooms(lacking)?;
        let mut guard = lock.lock();
        let map: &mut RegionMap<T> = (*guard).borrow_mut();
        map.take_rooms(rooms);
        // Others may have changed the map.
        lacking = more(map).saturating_sub(map.room_left());
        if lacking == 0 {
            return Ok(guard);
        }
    }
}

/// Takes one offset out of a file's map, and returns how many were in it: 1 or 0. What was paid for it there is given back.
pub(crate) fn unlist<P: Platform>(
    hugetlb: &Hugetlb<P>,
    size: HugeSize,
    map: &SpinLock<P, FileMap<P>>,
    index: u64,
) -> Result<u64, OutOfMemory> {
    let end = index.saturating_add(1);
    lock_regions::<P, _, _>(map, |map| usize::from(map.del_splits(index, end)))?.del_in_place_with(
        index,
        end,
        |charge, pages| hugetlb.uncharge_reserved(charge.clone(), size, pages),
    )
}

/// Whose reservations a fault may use.
pub(crate) enum Reservations<'a, P: Platform> {
    /// Those of the file. An offset in the map is reserved.
    File(&'a SpinLock<P, FileMap<P>>),
    /// Those of a private mapping that this process made itself. An offset in the map has used its
    /// reservation.
    Owner(&'a PrivateReserve<P>),
    /// None: a private mapping inherited by fork, or one made without reservations.
    Nobody,
    /// None, and nobody pays for the page: it only passes contents on to one that a mapping gets.
    Passing,
}

/// Reserves the part of `from..to` that the file has no reservation for yet. May sleep. Linux:
/// `hugetlb_reserve_pages()`.
pub(crate) fn reserve_range<P: Platform>(
    hugetlb: &Hugetlb<P>,
    size: HugeSize,
    map: &SpinLock<P, FileMap<P>>,
    subpool: Option<&Arc<SubPool<P>>>,
    from: u64,
    to: u64,
) -> Result<(), NoPage> {
    let wanted = Charged::retry(hugetlb, size, |supply, charged| {
        let mut map = lock_regions::<P, _, _>(map, |map| map.elements_for(from, to, charged.payer()))?;
        let wanted = map.missing(from, to);
        charged.cover(wanted)?;
        reserve_pages(hugetlb, size, subpool, supply, wanted)?;
        // Cannot fail: room was made above, and the lock has been held since then.
        map.add_with(from, to, charged.payer())?;
        charged.spend(wanted);
        Ok(wanted)
    })?;
    hugetlb.platform().trace(Event::Reserved { size, pages: wanted });
    Ok(())
}

/// Reserves `pages` from the mount, or from the pool.
pub(super) fn reserve_pages<P: Platform>(
    hugetlb: &Hugetlb<P>,
    size: HugeSize,
    subpool: Option<&Arc<SubPool<P>>>,
    supply: &mut Supply<'_, P>,
    pages: u64,
) -> Result<(), Short<NoPage>> {
    match subpool {
        Some(subpool) => subpool.reserve(supply, pages),
        None => hugetlb.pool(size).reserve(supply, pages).map_err(Short::from),
    }
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
    Added(&'a SpinLock<P, FileMap<P>>),
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
    hugetlb: &'a Hugetlb<P>,
    size: HugeSize,
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
        let attempt =
            |supply: &mut Supply<'_, P>, charged: &mut Charged<'_, P, Reserved>| -> Result<_, Short<Stop>> {
                let pool = hugetlb.pool(size);
                // A page that nobody has reserved is paid for as if it were.
                let mut unreserved = || -> Result<_, Short<Stop>> {
                    charged.cover(1)?;
                    let frame = match subpool {
                        Some(subpool) => subpool.take_page(supply)?,
                        None => pool.take(supply, false)?,
                    };
                    Ok((frame, charged.spend(1)))
                };
                Ok(match *reservations {
                    _ if avoid_reserve => (unreserved()?, false, Undo::Nothing),
                    Reservations::Nobody => (unreserved()?, false, Undo::Nothing),
                    Reservations::Passing => ((pool.take(supply, false)?, None), false, Undo::Nothing),
                    Reservations::File(lock) => {
                        let more = |map: &FileMap<P>| match map.contains(index) {
                            true => 0,
                            false => map.elements_for(index, end, &None),
                        };
                        let mut map = lock_regions::<P, _, _>(lock, more)?;
                        if map.contains(index) {
                            ((pool.take(supply, true)?, None), true, Undo::Nothing)
                        } else {
                            let taken = unreserved()?;
                            map.add_with(index, end, &None)?;
                            (taken, false, Undo::Added(lock))
                        }
                    }
                    Reservations::Owner(reserve) => {
                        let more = |map: &RegionMap| usize::from(!map.contains(index));
                        let mut used = lock_regions::<P, _, _>(&reserve.used, more)?;
                        if used.map.contains(index) {
                            (unreserved()?, false, Undo::Nothing)
                        } else {
                            let frame = pool.take(supply, true)?;
                            used.map.add(index, end)?;
                            ((frame, None), true, Undo::Used(reserve))
                        }
                    }
                })
            };
        // Before the locks of the reservations: the host may sleep.
        let mut in_use = match reservations {
            Reservations::Passing => Charged::<_, InUse>::none(hugetlb, size),
            _ => Charged::try_new(hugetlb, size, 1)?,
        };
        // The frame and who has paid for it as reserved, whether freeing it before its first use restores a reservation, and
        // what else to undo.
        let ((frame, reserved), restore, undo) = Charged::retry(hugetlb, size, attempt)?;
        let charges = Charges { in_use: in_use.spend(1), reserved };
        // SAFETY: just taken from the pool, so this caller has exclusive access.
        unsafe { hugetlb.page(frame).hand_out(subpool.cloned(), charges, restore) };
        // SAFETY: the reference that `hand_out` set up is ours.
        let page = unsafe { PageRef::from_raw(hugetlb, frame, size) };
        Ok(Self::taken(page, undo, index))
    }

    /// A page that was taken for offset `index`, with what that changed.
    pub(super) fn taken(page: PageRef<'a, P>, undo: Undo<'a, P>, index: u64) -> Self {
        let taken = Taken { hugetlb: page.hugetlb(), size: page.size(), page: page.page(), undo, index };
        Self { taken, page }
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
    #[inline]
    fn drop(&mut self) {
        if !matches!(self.undo, Undo::Nothing) {
            self.undo();
        }
    }
}

impl<P: Platform> Taken<'_, P> {
    #[cold]
    fn undo(&self) {
        let undone = match self.undo {
            Undo::Nothing => Ok(0),
            Undo::Added(map) => unlist(self.hugetlb, self.size, map, self.index),
            Undo::Used(reserve) => unuse(reserve, self.index),
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
