//! Pages for offsets side by side, taken together.

use super::charged::{Charged, InUse, Reserved, Stop};
use super::reservation::{FileMap, NewPage, Reservations, Undo, lock_regions};
use super::{RegionMap, SubPool};
use crate::addr::{HugeFrame, HugeSize};
use crate::hugetlb::{Hugetlb, RUN};
use crate::page::{Charges, Freed, PageRun};
use crate::platform::Platform;
use crate::pool::{Short, Supply};
use crate::sync::Arc;

/// Pages for offsets side by side, on their way into use: one visit to the reservations, and one to the pool. Those that are not
/// [taken out](Self::pop) are given back as a [`NewPage`] is.
pub(crate) struct NewRun<'a, P: Platform> {
    pages: PageRun<'a, P>,
    undo: Undo<'a, P>,
    from: u64,
}

impl<'a, P: Platform> NewRun<'a, P> {
    /// Takes pages for `pages` offsets from `from` on, or for the first of them if there are no more. The contents are whatever was there
    /// before. Does not sleep. The caller holds the fault mutex of each offset.
    ///
    /// `None` if there is none; and if some of the offsets have a reservation and some have not, or a mount has to be asked
    /// for each page. Then the caller takes them one by one.
    pub(crate) fn take(
        hugetlb: &'a Hugetlb<P>,
        size: HugeSize,
        reservations: &Reservations<'a, P>,
        subpool: Option<&Arc<SubPool<P>>>,
        from: u64,
        pages: usize,
    ) -> Option<Self> {
        let pages = pages.min(RUN);
        let mut frames = [HugeFrame(0); RUN];
        let places = frames.get_mut(..pages)?;
        let to = from.saturating_add(pages as u64);
        let pool = hugetlb.pool(size);
        let attempt =
            |_: &mut Supply<'_, P>, charged: &mut Charged<'_, P, Reserved>| -> Result<_, Short<Stop>> {
                // Pages that nobody has reserved are paid for as if they were.
                let unreserved = |places: &mut [HugeFrame]| match subpool {
                    Some(_) => Ok(0),
                    None => charged.cover(pages as u64).map(|()| pool.take_run(hugetlb, false, places)),
                };
                let (len, restore, undo) = match *reservations {
                    Reservations::Nobody => (unreserved(places)?, false, Undo::Nothing),
                    // Such pages are taken one by one.
                    Reservations::Passing => return Ok(None),
                    Reservations::File(lock) => {
                        // One range without a neighbour: the pool may have fewer pages, and those need not reach the one behind.
                        let more = |map: &FileMap<P>| usize::from(map.missing(from, to) > 0);
                        let mut map = lock_regions::<P, _, _>(lock, more)?;
                        match map.missing(from, to) {
                            0 => (pool.take_run(hugetlb, true, places), true, Undo::Nothing),
                            missing if missing == pages as u64 => {
                                let len = unreserved(places)?;
                                // Does not fail: there is room.
                                let added = map.add_with(from, from + len as u64, &None);
                                (
                                    given_back_unless(added.is_ok(), hugetlb, size, places, len, false),
                                    false,
                                    Undo::Added(lock),
                                )
                            }
                            _ => return Ok(None),
                        }
                    }
                    Reservations::Owner(reserve) => {
                        let more = |map: &RegionMap| usize::from(map.missing(from, to) > 0);
                        let mut used = lock_regions::<P, _, _>(&reserve.used, more)?;
                        if used.map.missing(from, to) < pages as u64 {
                            return Ok(None);
                        }
                        let len = pool.take_run(hugetlb, true, places);
                        // Does not fail: there is room.
                        let added = used.map.add(from, from + len as u64);
                        (
                            given_back_unless(added.is_ok(), hugetlb, size, places, len, true),
                            true,
                            Undo::Used(reserve),
                        )
                    }
                };
                let charge = if restore { None } else { charged.spend(len as u64) };
                Ok(Some((len, charge, restore, undo)))
            };
        let mut in_use = Charged::<_, InUse>::try_new(hugetlb, size, pages as u64).ok()?;
        let (len, reserved, restore, undo) = Charged::retry(hugetlb, size, attempt).ok()??;
        let in_use = in_use.spend(len as u64);
        for &frame in frames.get(..len)? {
            let charges = Charges { in_use: in_use.clone(), reserved: reserved.clone() };
            // SAFETY: just taken from the pool, so this caller has exclusive access.
            unsafe { hugetlb.page(frame).hand_out(subpool.cloned(), charges, restore) };
        }
        // SAFETY: `hand_out` set a reference up for each of them, which is ours.
        let pages = unsafe { PageRun::from_raw(hugetlb, size, frames, len) };
        (len > 0).then_some(Self { pages, undo, from })
    }

    /// Those that were not taken out yet.
    pub(crate) fn frames(&self) -> &[HugeFrame] {
        self.pages.frames()
    }

    /// Takes the first one out.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<NewPage<'a, P>> {
        let index = self.from + self.pages.taken_out() as u64;
        Some(NewPage::taken(self.pages.pop()?, self.undo, index))
    }

    /// The first `pages` belong to their file, and are marked as in use. Gives the others back.
    pub(crate) fn commit(mut self, hugetlb: &Hugetlb<P>, pages: usize) -> PageRun<'a, P> {
        for &frame in self.frames().iter().take(pages) {
            hugetlb.page(frame).put_to_use();
        }
        self.pages.split_off_front(pages)
    }
}

impl<P: Platform> Drop for NewRun<'_, P> {
    fn drop(&mut self) {
        while let Some(page) = self.pop() {
            drop(page);
        }
    }
}

/// Gives the pages back that could not be noted. Returns how many are left: `len`, or none.
fn given_back_unless<P: Platform>(
    noted: bool,
    hugetlb: &Hugetlb<P>,
    size: HugeSize,
    taken: &[HugeFrame],
    len: usize,
    restore: bool,
) -> usize {
    if noted {
        return len;
    }
    for &frame in taken.iter().take(len) {
        hugetlb.pool(size).free_all(hugetlb, &[Freed { frame, restore }]);
    }
    0
}
