//! The reservations of private mappings.

use core::borrow::{Borrow, BorrowMut};
use core::ops::Range;

use super::charged::Charged;
use super::reservation::{Room, lock_regions, release_range, reserve_pages};
use super::{RegionMap, SubPool};
use crate::addr::HugeSize;
use crate::error::{NoPage, OutOfMemory};
use crate::hugetlb::Hugetlb;
use crate::platform::{Event, Platform};
use crate::sleep::BiasedRwSem;
use crate::sync::{Arc, SpinLock};

/// The reservations of a private mapping. The process that made the mapping owns them. Linux:
/// `struct resv_map` of a VMA.
///
/// The map has the opposite meaning of a file's: an offset in it has used its reservation.
pub(crate) struct PrivateReserve<P: Platform> {
    /// Stands in for the VMA lock, which private mappings do not have.
    pub(crate) lock: BiasedRwSem<P, ()>,
    pub(crate) used: SpinLock<P, Used<P>>,
}

/// Which reservations of a private mapping are used, and who has paid for all of them.
pub(crate) struct Used<P: Platform> {
    pub(crate) map: RegionMap,
    /// Who has paid for each page of the mapping, whether its reservation is used or not: the `css` of Linux's `struct resv_map`.
    charge: Option<P::Charge>,
}

impl<P: Platform> Borrow<RegionMap> for Used<P> {
    fn borrow(&self) -> &RegionMap {
        &self.map
    }
}

impl<P: Platform> BorrowMut<RegionMap> for Used<P> {
    fn borrow_mut(&mut self) -> &mut RegionMap {
        &mut self.map
    }
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
        Arc::try_new(Self { lock, used: SpinLock::<P, _>::new(Used { map: RegionMap::new(), charge: None }) })
    }

    /// Reserves `pages`, which are all of the mapping. May sleep. Linux: `hugetlb_reserve_pages()`.
    pub(crate) fn reserve(
        &self,
        hugetlb: &Hugetlb<P>,
        size: HugeSize,
        subpool: Option<&Arc<SubPool<P>>>,
        pages: u64,
    ) -> Result<(), NoPage> {
        let charge = Charged::retry(hugetlb, size, |supply, charged| {
            charged.cover(pages)?;
            reserve_pages(hugetlb, size, subpool, supply, pages)?;
            Ok(charged.spend(pages))
        })?;
        if charge.is_some() {
            self.used.lock().charge = charge;
        }
        hugetlb.platform().trace(Event::Reserved { size, pages });
        Ok(())
    }

    /// Gives back what a mapping at these offsets has left of the reservation, and what was paid for all of its pages, whether
    /// they have used their reservations or not.
    ///
    /// Linux: `hugetlb_vm_op_close()` and `hugetlb_cgroup_uncharge_counter()`.
    pub(crate) fn give_back(
        &self,
        hugetlb: &Hugetlb<P>,
        size: HugeSize,
        subpool: Option<&Arc<SubPool<P>>>,
        offsets: Range<u64>,
    ) {
        let (unused, charge) = {
            let used = self.used.lock();
            (used.map.missing(offsets.start, offsets.end), used.charge.clone())
        };
        hugetlb.uncharge_reserved(charge, size, offsets.end - offsets.start);
        release_range(hugetlb, size, subpool, unused);
    }

    /// Restores the reservations of the pages at these offsets, which are about to be freed. True if all of them had used one, and
    /// they are restored; else nothing has changed. Without memory to note that, the reservations stay used.
    ///
    /// Linux: `vma_needs_reservation()` and `vma_add_reservation()` in `__unmap_hugepage_range()`,
    /// from 6.12 on.
    pub(crate) fn restore(&self, Range { start, end }: Range<u64>, room: Room) -> bool {
        let used = match room {
            Room::MayGrow => {
                lock_regions::<P, _, _>(&self.used, |map| usize::from(map.del_splits(start, end)))
            }
            Room::AsItIs => Ok(self.used.lock()),
        };
        used.is_ok_and(|mut used| {
            used.map.missing(start, end) == 0 && used.map.del_in_place(start, end).is_ok()
        })
    }
}

/// Takes one offset out of the map of what is used of a private mapping's reservations.
pub(super) fn unuse<P: Platform>(reserve: &PrivateReserve<P>, index: u64) -> Result<u64, OutOfMemory> {
    let end = index.saturating_add(1);
    let mut used = lock_regions::<P, _, _>(&reserve.used, |map| usize::from(map.del_splits(index, end)))?;
    used.map.del_in_place(index, end)
}
