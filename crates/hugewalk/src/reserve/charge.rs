//! Taking pages and ranges: region map, mount and pool in step.

use thiserror::Error;

use super::{RegionMap, SubPool, SubPoolFull};
use crate::addr::{HugeFrame, HugeSize};
use crate::error::OutOfMemory;
use crate::file::HugeFile;
use crate::hugetlb::Hugetlb;
use crate::page::{Page, PageRef};
use crate::platform::Platform;
use crate::pool::PoolEmpty;
use crate::sync::{Arc, RwSem, SpinLock, SpinLockGuard, lock_with_room};

/// Why a page, or the promise of pages, could not be had. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoPage {
    /// No memory for bookkeeping.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// The pool has none left.
    #[error(transparent)]
    PoolEmpty(#[from] PoolEmpty),
    /// The mount's maximum is reached.
    #[error(transparent)]
    SubPoolFull(SubPoolFull),
}

/// The reservations of a private mapping, owned by the process that made it. Linux: `struct resv_map` of a VMA.
///
/// The map has the opposite meaning of a file's: a page offset that is in it has used its reservation up.
pub(crate) struct PrivateReserve<P: Platform> {
    /// Stands in for the VMA lock, which private mappings do not have.
    pub(crate) lock: RwSem<P, ()>,
    pub(crate) used: SpinLock<P, RegionMap>,
}

impl<P: Platform> PrivateReserve<P> {
    pub(crate) fn new() -> Result<Arc<Self>, OutOfMemory> {
        Arc::try_new(Self { lock: RwSem::new(()), used: SpinLock::<P, _>::new(RegionMap::new()) })
    }

    /// The page that was taken for an offset goes back to the pool: true if its promise was used up for it, and is there
    /// again. Without memory to note that, it stays used up.
    ///
    /// Linux: `vma_needs_reservation()` and `vma_add_reservation()` in `__unmap_hugepage_range()`, from 6.12 on.
    pub(crate) fn restore(&self, index: u64, room: Room) -> bool {
        let undone = match room {
            Room::MayGrow => unlist::<P>(&self.used, index),
            Room::AsItIs => self.used.lock().del_in_place(index, index.saturating_add(1)),
        };
        undone == Ok(1)
    }
}

/// May a change allocate?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// No spinning lock is held: there may be more room than there was.
    MayGrow,
    /// A spinning lock may be held, so nothing is allocated.
    AsItIs,
}

/// Locks a region map once it has room for one change, if `changes` says that there will be one: it cannot fail then.
fn lock_regions<P: Platform>(
    map: &SpinLock<P, RegionMap>,
    changes: impl Fn(&RegionMap) -> bool,
) -> Result<SpinLockGuard<'_, P, RegionMap>, OutOfMemory> {
    lock_with_room::<P, _, _>(map, RegionMap::ranges_mut, |map| usize::from(changes(map)))
}

/// Takes one offset out of a region map, and returns how many were in it: 1 or 0.
pub(crate) fn unlist<P: Platform>(map: &SpinLock<P, RegionMap>, index: u64) -> Result<u64, OutOfMemory> {
    let end = index.saturating_add(1);
    lock_regions::<P>(map, |map| map.del_splits(index, end))?.del_in_place(index, end)
}

/// Whose promises a fault may use.
pub(crate) enum Promises<'a, P: Platform> {
    /// Those of the file: the offset is in the map if it is promised.
    File(&'a SpinLock<P, RegionMap>),
    /// Those of the private mapping the process made itself: the offset is in the map if they were used.
    Owner(&'a PrivateReserve<P>),
    /// None: a private mapping inherited by fork, or one made without reservation.
    Nobody,
}

/// Promises the part of `from..to` of a file that is not promised yet. Linux: `hugetlb_reserve_pages()`.
pub(crate) fn reserve_range<P: Platform>(
    hugetlb: &Hugetlb<P>,
    size: HugeSize,
    map: Option<&SpinLock<P, RegionMap>>,
    subpool: Option<&Arc<SubPool<P>>>,
    from: u64,
    to: u64,
) -> Result<(), NoPage> {
    let reserve = |pages| match subpool {
        Some(subpool) => subpool.reserve(pages),
        None => hugetlb.pool(size).reserve(hugetlb, pages).map_err(NoPage::from),
    };
    let Some(map) = map else {
        return reserve(to.saturating_sub(from));
    };
    let mut map = lock_regions::<P>(map, |_| true)?;
    reserve(map.missing(from, to))?;
    // Cannot fail: room was made above, and the lock has been held since.
    map.add(from, to)?;
    Ok(())
}

/// Takes back promises for `pages` pages that nobody took up. Linux: the end of `hugetlb_unreserve_pages()`.
pub(crate) fn release_range<P: Platform>(
    hugetlb: &Hugetlb<P>,
    size: HugeSize,
    subpool: Option<&Arc<SubPool<P>>>,
    pages: u64,
) {
    match subpool {
        Some(subpool) => subpool.unreserve(pages),
        None => hugetlb.pool(size).unreserve(hugetlb, pages),
    }
}

/// What taking a page changed in the promises, to be undone if the page is not used after all.
enum Undo<'a, P: Platform> {
    Nothing,
    /// The offset was added to the file's map.
    Added(&'a SpinLock<P, RegionMap>),
    /// The owner's promise was marked used.
    Used(&'a PrivateReserve<P>),
}

/// A page taken from the pool and not yet in use. Dropped, it goes back with whatever it was charged to.
pub(crate) struct NewPage<'a, P: Platform> {
    page: PageRef<'a, P>,
    undo: Undo<'a, P>,
    index: u64,
}

impl<'a, P: Platform> NewPage<'a, P> {
    /// Takes a page for offset `index`. Does not sleep. The contents are whatever was there.
    ///
    /// `beside_reserve`: the owner copies a page that its children share, and shall not use its reservation for that if
    /// there are other pages.
    ///
    /// Linux: `alloc_huge_page()` in mm/hugetlb.c.
    pub(crate) fn take(
        hugetlb: &'a Hugetlb<P>,
        size: HugeSize,
        promises: &Promises<'a, P>,
        subpool: Option<&Arc<SubPool<P>>>,
        index: u64,
        beside_reserve: bool,
    ) -> Result<Self, NoPage> {
        let end = index.saturating_add(1);
        let promised = || hugetlb.pool(size).take(hugetlb, true).map_err(NoPage::from);
        let charged = || match subpool {
            Some(subpool) => subpool.take_page(),
            None => hugetlb.pool(size).take(hugetlb, false).map_err(NoPage::from),
        };
        // The frame; whether freeing it unused restores a promise; what else to undo.
        let (frame, restore, undo) = match *promises {
            _ if beside_reserve => (charged()?, false, Undo::Nothing),
            Promises::Nobody => (charged()?, false, Undo::Nothing),
            Promises::File(lock) => {
                let mut map = lock_regions::<P>(lock, |map| !map.contains(index))?;
                if map.contains(index) {
                    (promised()?, true, Undo::Nothing)
                } else {
                    let frame = charged()?;
                    map.add(index, end)?;
                    (frame, false, Undo::Added(lock))
                }
            }
            Promises::Owner(reserve) => {
                let mut used = lock_regions::<P>(&reserve.used, |used| !used.contains(index))?;
                if used.contains(index) {
                    (charged()?, false, Undo::Nothing)
                } else {
                    let frame = promised()?;
                    used.add(index, end)?;
                    (frame, true, Undo::Used(reserve))
                }
            }
        };
        // SAFETY: just taken from the pool: ours alone.
        unsafe { hugetlb.page(frame).hand_out(subpool.cloned(), restore) };
        // SAFETY: the reference that `hand_out` set up is ours.
        let page = unsafe { PageRef::from_raw(hugetlb, frame, size) };
        Ok(Self { page, undo, index })
    }

    pub(crate) fn frame(&self) -> HugeFrame {
        self.page.frame()
    }

    pub(crate) fn page(&self) -> &'a Page<P> {
        self.page.page()
    }

    /// The page is for a private mapping of `file`, at the offset it was taken for.
    pub(crate) fn set_private(&self, file: &Arc<HugeFile<P>>) {
        self.page.set_private(file, self.index);
    }

    /// The page is in use now, by holders with references of their own: its promise is used up. The reference that came
    /// with it goes on to the caller.
    pub(crate) fn commit(mut self) -> PageRef<'a, P> {
        self.undo = Undo::Nothing;
        self.page().forget_reserve();
        self.page().set_in_use();
        self.page.another()
    }
}

impl<P: Platform> Drop for NewPage<'_, P> {
    fn drop(&mut self) {
        let undone = match self.undo {
            Undo::Nothing => Ok(0),
            Undo::Added(map) => unlist::<P>(map, self.index),
            Undo::Used(reserve) => unlist::<P>(&reserve.used, self.index),
        };
        if undone.is_err() {
            // Taking one offset out of the middle of a range needs room for a second range, and somebody else has used
            // the room that adding it left behind. An owner's promise then counts as used, and the page as unpromised. In
            // a file's map the offset stays, which says that it is promised: so the page goes back as a promise.
            match self.undo {
                Undo::Added(_) => self.page().restore_reserve(),
                Undo::Used(_) | Undo::Nothing => self.page().forget_reserve(),
            }
        }
    }
}
