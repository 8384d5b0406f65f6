//! Pools of huge pages, one for each size. A pool counts its pages, and which of them are free,
//! reserved and surplus.
//!
//! # Protocol
//!
//! One spinning lock guards the counters and the lists. No other lock is taken under it, and the
//! platform is neither asked for pages nor given any while it is held. Callers may hold spinning locks of their own, so a pool
//! that needs a page of the host's says so, and its caller gets one without them (`Supply`).
//!
//! The counters always satisfy `reserved <= free <= total` and `surplus <= total`. So a page is
//! always left for each reservation.
//!
//! The lists run through the records of the pages. So a free page needs no memory of its own, and
//! is found in its list without a search.
//!
//! # Memory failure
//!
//! A free page that memory failure hits is never allocated again.
//!
//! - It is *dissolved* if the pool has a free page that is not reserved: the pool counts it neither
//!   as free nor as its own, until the page turns out to be sound.
//! - If every free page is reserved, it is only *poisoned* at first: it still counts as free,
//!   because a reservation counts on it. It is dissolved when one reservation is given back. Until
//!   then an allocation that needs the last page fails with [`PoolEmpty`].
//!
//! Linux: `struct hstate` in include/linux/hugetlb.h; the counters of /proc/meminfo;
//! `dissolve_free_huge_page()` in mm/hugetlb.c.

mod list;
mod supply;

pub use crate::error::PoolEmpty;

use self::list::PageList;
pub(crate) use self::supply::{Short, Supply};
use crate::addr::{HugeFrame, HugeSize};
use crate::arch::Paging;
use crate::hugetlb::Hugetlb;
use crate::page::{Freed, Listed};
use crate::platform::Platform;
use crate::sync::SpinLock;

/// What a pool holds, in pages. Linux: `HugePages_*` in /proc/meminfo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounters {
    /// Pages of the pool, surplus ones included.
    pub total: u64,
    /// Pages that are not in use.
    pub free: u64,
    /// Free pages that are reserved, for mappings that have not touched them yet.
    pub reserved: u64,
    /// Pages above the configured size. They go back to the host when they are freed.
    pub surplus: u64,
}

/// How many pages are moved before the pool's lock is released for a moment.
const BATCH: u64 = 64;

/// The huge pages of one size.
///
/// # Invariants
///
/// Each page in one of the lists came from the platform with this size and has no reference.
pub struct HugePool<P: Platform> {
    size: HugeSize,
    state: SpinLock<P, State>,
}

/// # Invariants
///
/// - `free` has the pages that may be allocated.
/// - `poisoned` has pages that memory failure has hit and that still count as free, because they
///   are reserved. While there are any, no page is available without a reservation.
/// - `dissolved` has pages that memory failure has hit and that the pool no longer counts.
struct State {
    free: PageList,
    poisoned: PageList,
    dissolved: PageList,
    total: u64,
    reserved: u64,
    surplus: u64,
    overcommit: u64,
}

impl State {
    fn free(&self) -> u64 {
        self.free.len() + self.poisoned.len()
    }

    fn available(&self) -> u64 {
        self.free() - self.reserved
    }

    /// The pages that are not surplus.
    fn configured(&self) -> u64 {
        self.total - self.surplus
    }

    /// Counts a page out of the pool. Surplus pages go first. True if it counted as one of them.
    fn count_out(&mut self) -> bool {
        self.total -= 1;
        let was_surplus = self.surplus > 0;
        self.surplus -= u64::from(was_surplus);
        was_surplus
    }

    /// Dissolves poisoned pages, as far as reservations no longer need them.
    fn dissolve_unreserved<P: Platform>(&mut self, hugetlb: &Hugetlb<P>) {
        while self.poisoned.len() > 0 && self.available() > 0 {
            // Any of them will do: a reservation is for any page of the pool.
            let Some(frame) = self.poisoned.pop(hugetlb) else { return };
            // SAFETY: it was in a list of this pool.
            unsafe { self.dissolved.push(hugetlb, frame) };
            if self.count_out() {
                hugetlb.page(frame).set_dissolved_surplus();
            }
        }
    }

    /// Moves a free page to the poisoned ones, and dissolves it if no reservation needs it.
    ///
    /// # Safety
    ///
    /// It is in the list of free pages.
    unsafe fn poison<P: Platform>(&mut self, hugetlb: &Hugetlb<P>, frame: HugeFrame) {
        // SAFETY: by the contract of this function.
        unsafe { self.free.remove(hugetlb, frame) };
        // SAFETY: it was in a list of this pool.
        unsafe { self.poisoned.push(hugetlb, frame) };
        self.dissolve_unreserved(hugetlb);
    }

    /// Adds a page that has just come from the platform.
    ///
    /// # Safety
    ///
    /// It came from the platform with the pool's size, and the caller has exclusive access to it.
    unsafe fn add<P: Platform>(&mut self, hugetlb: &Hugetlb<P>, frame: HugeFrame) {
        // SAFETY: by the contract of this function.
        unsafe { self.free.push(hugetlb, frame) };
        self.total += 1;
    }

    /// Takes back a page without references; with `restore`, its reservation is restored too. Returns
    /// a page that leaves the pool for it, to be given to the platform.
    fn take_back<P: Platform>(
        &mut self,
        hugetlb: &Hugetlb<P>,
        frame: HugeFrame,
        restore: bool,
    ) -> Option<HugeFrame> {
        let page = hugetlb.page(frame);
        let foreign = !page.is_of(hugetlb);
        if foreign {
            // A lockless walker of this system took a reference to a page that had meanwhile gone
            // to another system on the same platform, and dropped the last one. The page becomes a
            // surplus page here, which goes to the host.
            page.adopt(hugetlb);
            self.total += 1;
            self.surplus += 1;
        }
        // SAFETY: its last reference is gone, and it belongs to this pool: the caller looked into
        // the record.
        unsafe { self.free.push(hugetlb, frame) };
        if restore && !foreign {
            self.reserved += 1;
        }
        // Read under the pool's lock. Memory failure that hits a page in use holds it until the
        // page is marked, so the mark is seen here.
        if page.is_hwpoison() {
            // SAFETY: put in above.
            unsafe { self.poison(hugetlb, frame) };
            return None;
        }
        self.dissolve_unreserved(hugetlb);
        let leaving = if self.surplus > 0 { self.shrink(hugetlb) } else { None };
        self.surplus -= u64::from(leaving.is_some());
        leaving
    }

    /// Takes a free page out of the pool, to be given to the platform. `None` if every free page is
    /// reserved.
    fn shrink<P: Platform>(&mut self, hugetlb: &Hugetlb<P>) -> Option<HugeFrame> {
        if self.available() == 0 {
            return None;
        }
        let frame = self.free.pop(hugetlb)?;
        self.total -= 1;
        Some(frame)
    }
}

/// What became of a free page that memory failure hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Poisoned {
    /// It is dissolved: the pool no longer counts it.
    Dissolved,
    /// It will never be allocated, but still counts as free, because every free page is reserved.
    Reserved,
    /// It was hit before.
    Already,
}

impl<P: Platform> HugePool<P> {
    pub(crate) const fn new(size: HugeSize) -> Self {
        let state = State {
            free: PageList::new(Listed::Free),
            poisoned: PageList::new(Listed::Poisoned),
            dissolved: PageList::new(Listed::Dissolved),
            total: 0,
            reserved: 0,
            surplus: 0,
            overcommit: 0,
        };
        Self { size, state: SpinLock::<P, State>::new(state) }
    }

    /// Takes a page from the platform that is in no pool yet, and checks that an entry can name it.
    ///
    /// # Panics
    ///
    /// If the platform broke its contract. Using such a page would set reserved bits in entries, or
    /// map part of another page.
    fn take_from_platform(&self, hugetlb: &Hugetlb<P>) -> Option<HugeFrame> {
        let size = self.size;
        let frame = hugetlb.platform().alloc_huge(size)?;
        assert!(
            frame.fits(size),
            "the platform broke its contract: alloc_huge({size:?}) returned {frame:?}, which no entry can name"
        );
        hugetlb.page(frame).reset(hugetlb, self.size);
        Some(frame)
    }

    /// Returns a page to the platform.
    ///
    /// # Safety
    ///
    /// It was in a list of this pool, or came from
    /// [`take_from_platform`](Self::take_from_platform), and the caller has exclusive access to it.
    unsafe fn give_back(&self, hugetlb: &Hugetlb<P>, frame: HugeFrame) {
        hugetlb.page(frame).retire();
        // SAFETY: by the invariants of `HugePool` it came from there with this size and nobody refers to it.
        unsafe { hugetlb.platform().free_huge(frame, self.size) };
    }

    /// Returns the pages of a list to the platform.
    fn give_all_back(&self, hugetlb: &Hugetlb<P>, mut pages: PageList) {
        // As many as it counts: a list that had a page twice would lead round in circles.
        for _ in 0..pages.len() {
            let Some(frame) = pages.pop(hugetlb) else { return };
            // SAFETY: by the invariants of `PageList` this list has exclusive access to the page.
            // Lists here hold pages of this pool's size only.
            unsafe { self.give_back(hugetlb, frame) };
        }
    }

    /// The size of its pages.
    #[must_use]
    pub fn size(&self) -> HugeSize {
        self.size
    }

    /// The counters, all of one moment.
    #[must_use]
    pub fn counters(&self) -> PoolCounters {
        let state = self.state.lock();
        PoolCounters {
            total: state.total,
            free: state.free(),
            reserved: state.reserved,
            surplus: state.surplus,
        }
    }

    /// How many surplus pages there may be. Linux: `nr_overcommit_hugepages`.
    #[must_use]
    pub fn overcommit(&self) -> u64 {
        self.state.lock().overcommit
    }

    /// Allows that many surplus pages from now on. Surplus pages that exist stay until they are
    /// freed.
    pub fn set_overcommit(&self, pages: u64) {
        self.state.lock().overcommit = pages;
    }

    /// Makes the pool `pages` large, surplus pages not counted, as far as that is possible. Returns
    /// the size reached. Sleeps where the host does to get a page.
    ///
    /// It grows while the host has huge pages. It never shrinks below what is in use or reserved:
    /// pages in use beyond the new size become surplus.
    ///
    /// Linux: `set_max_huge_pages()` in mm/hugetlb.c; writing `nr_hugepages`.
    pub(crate) fn resize(&self, hugetlb: &Hugetlb<P>, pages: u64) -> u64 {
        if !hugetlb.paging().has(self.size) {
            return 0;
        }
        let mut fresh = None;
        // As many attempts as pages are missing now: a caller that shrinks the pool meanwhile
        // cannot keep this loop going for ever.
        let missing = pages.saturating_sub(self.state.lock().configured());
        for _ in 0..=missing {
            let mut state = self.state.lock();
            // Surplus pages become configured ones before new ones are asked for.
            state.surplus -= state.surplus.min(pages.saturating_sub(state.configured()));
            if state.configured() >= pages {
                break;
            }
            if let Some(frame) = fresh.take() {
                // SAFETY: taken from the platform below.
                unsafe { state.add(hugetlb, frame) };
                state.dissolve_unreserved(hugetlb);
                if state.configured() >= pages {
                    break;
                }
            }
            drop(state);
            fresh = self.take_from_platform(hugetlb);
            if fresh.is_none() {
                break;
            }
        }
        if let Some(frame) = fresh {
            // SAFETY: taken from the platform, and not added.
            unsafe { self.give_back(hugetlb, frame) };
        }
        loop {
            let mut state = self.state.lock();
            if state.configured() <= pages {
                return state.configured();
            }
            let mut leaving = PageList::new(Listed::None);
            while leaving.len() < BATCH && state.configured() > pages {
                let Some(frame) = state.shrink(hugetlb) else {
                    // These pages are in use or reserved beyond the new size.
                    state.surplus += state.configured() - pages;
                    break;
                };
                // SAFETY: taken out of the pool just now.
                unsafe { leaving.push(hugetlb, frame) };
            }
            drop(state);
            self.give_all_back(hugetlb, leaving);
        }
    }

    /// Reserves `pages` more. If the pool has too few, it takes surplus pages out of `supply`, as far as
    /// `overcommit` allows.
    ///
    /// Linux: `gather_surplus_pages()` in mm/hugetlb.c.
    pub(crate) fn reserve(&self, supply: &mut Supply<'_, P>, pages: u64) -> Result<(), Short<PoolEmpty>> {
        let mut state = self.state.lock();
        let available = state.available();
        let needed = pages.saturating_sub(available);
        let refused = PoolEmpty { asked: pages, available };
        if needed > state.overcommit.saturating_sub(state.surplus) {
            return Err(Short::Refused(refused));
        }
        if needed > supply.len() {
            return Err(Short::Lacks(needed, refused));
        }
        let hugetlb = supply.hugetlb();
        for frame in (0..needed).map_while(|_| supply.pop()) {
            // SAFETY: by the invariants of `Supply`.
            unsafe { state.add(hugetlb, frame) };
        }
        state.surplus += needed;
        state.reserved += pages;
        Ok(())
    }

    /// Takes reservations back, and returns to the host the surplus pages that were taken for them.
    ///
    /// Linux: `return_unused_surplus_pages()` in mm/hugetlb.c.
    pub(crate) fn unreserve(&self, hugetlb: &Hugetlb<P>, pages: u64) {
        let mut state = self.state.lock();
        state.reserved = state.reserved.saturating_sub(pages);
        state.dissolve_unreserved(hugetlb);
        let mut left = pages.min(state.surplus);
        loop {
            let mut leaving = PageList::new(Listed::None);
            while leaving.len() < BATCH.min(left)
                && state.surplus > 0
                && let Some(frame) = state.shrink(hugetlb)
            {
                state.surplus -= 1;
                // SAFETY: taken out of the pool just now.
                unsafe { leaving.push(hugetlb, frame) };
            }
            drop(state);
            if leaving.len() == 0 {
                return;
            }
            left -= leaving.len();
            self.give_all_back(hugetlb, leaving);
            state = self.state.lock();
        }
    }

    /// Takes a page that has no reference yet.
    ///
    /// With `reserved` the caller has a reservation, which this uses. Otherwise it takes a free
    /// page that is not reserved, or a surplus page out of `supply`.
    ///
    /// Linux: `dequeue_huge_page_vma()` and `alloc_surplus_huge_page()` in mm/hugetlb.c.
    #[inline]
    pub(crate) fn take(
        &self,
        supply: &mut Supply<'_, P>,
        reserved: bool,
    ) -> Result<HugeFrame, Short<PoolEmpty>> {
        let mut state = self.state.lock();
        let available = state.available();
        let refused = PoolEmpty { asked: 1, available };
        if reserved || available > 0 {
            let taken = state.free.pop(supply.hugetlb());
            if reserved && taken.is_some() {
                state.reserved = state.reserved.saturating_sub(1);
            }
            return taken.ok_or(Short::Refused(refused));
        }
        if state.surplus >= state.overcommit {
            return Err(Short::Refused(refused));
        }
        let frame = supply.pop().ok_or(Short::Lacks(1, refused))?;
        state.total += 1;
        state.surplus += 1;
        Ok(frame)
    }

    /// As [`take`](Self::take), for as many pages as there are places, in one visit. Returns how many it took: fewer if the
    /// pool has no more. Does not ask the host for pages.
    pub(crate) fn take_run(&self, hugetlb: &Hugetlb<P>, reserved: bool, places: &mut [HugeFrame]) -> usize {
        let mut state = self.state.lock();
        let mut taken = 0;
        for place in places {
            if !reserved && state.available() == 0 {
                break;
            }
            let Some(frame) = state.free.pop(hugetlb) else { break };
            state.reserved = state.reserved.saturating_sub(u64::from(reserved));
            *place = frame;
            taken += 1;
        }
        taken
    }

    /// Frees a page without references; with `restore`, its reservation is restored too.
    ///
    /// Linux: `free_huge_page()` in mm/hugetlb.c. Linux gives a surplus page to the host even if
    /// its reservation has just been restored. Here it stays, so that `reserved <= free` always
    /// holds.
    pub(crate) fn free(&self, hugetlb: &Hugetlb<P>, frame: HugeFrame, restore: bool) {
        self.free_all(hugetlb, &[Freed { frame, restore }]);
    }

    /// As [`free`](Self::free), for many pages, which are freed in their order. The lock is released
    /// now and then.
    pub(crate) fn free_all(&self, hugetlb: &Hugetlb<P>, pages: &[Freed]) {
        for batch in pages.chunks(BATCH as usize) {
            let mut leaving = PageList::new(Listed::None);
            let mut state = self.state.lock();
            for &Freed { frame, restore } in batch {
                if let Some(frame) = state.take_back(hugetlb, frame, restore) {
                    // SAFETY: taken out of the pool just now.
                    unsafe { leaving.push_last(hugetlb, frame) };
                }
            }
            drop(state);
            self.give_all_back(hugetlb, leaving);
        }
    }

    /// Takes a page without references out of use, because memory failure hit it. `None` if it is
    /// in no list of the pool: it is on its way into use or out of it.
    ///
    /// Linux: `dissolve_free_huge_page()` in mm/hugetlb.c.
    pub(crate) fn poison(&self, hugetlb: &Hugetlb<P>, frame: HugeFrame) -> Option<Poisoned> {
        let mut state = self.state.lock();
        let page = hugetlb.page(frame);
        match page.listed(hugetlb, self.size) {
            Listed::None => return None,
            Listed::Poisoned | Listed::Dissolved => return Some(Poisoned::Already),
            Listed::Free => {}
        }
        page.poison();
        // SAFETY: it says so, and the lock is held.
        unsafe { state.poison(hugetlb, frame) };
        Some(if state.poisoned.len() > 0 { Poisoned::Reserved } else { Poisoned::Dissolved })
    }

    /// Takes back a free page that memory failure had hit and that turned out to be sound. It goes
    /// to the pool, or to the host if it was a surplus page. False if it is not such a page.
    ///
    /// Linux: `unpoison_memory()` in mm/memory-failure.c.
    pub(crate) fn unpoison(&self, hugetlb: &Hugetlb<P>, frame: HugeFrame) -> bool {
        let mut state = self.state.lock();
        let page = hugetlb.page(frame);
        let list = match page.listed(hugetlb, self.size) {
            Listed::Poisoned => &mut state.poisoned,
            Listed::Dissolved => {
                // The pool did not count it any more.
                state.total += 1;
                &mut state.dissolved
            }
            Listed::None | Listed::Free => return false,
        };
        // SAFETY: it says so, and the lock is held.
        unsafe { list.remove(hugetlb, frame) };
        let was_surplus = page.is_dissolved_surplus();
        page.heal();
        if was_surplus {
            state.total -= 1;
        } else {
            // SAFETY: taken out of a list of this pool just now.
            unsafe { state.free.push_last(hugetlb, frame) };
        }
        state.dissolve_unreserved(hugetlb);
        drop(state);
        if was_surplus {
            // SAFETY: taken out of a list of this pool, and put into none.
            unsafe { self.give_back(hugetlb, frame) };
        }
        true
    }

    /// Returns every page to the platform. The system is ending: no page is in use any more.
    pub(crate) fn release_all(&self, hugetlb: &Hugetlb<P>) {
        let mut state = self.state.lock();
        (state.reserved, state.total) = (0, 0);
        let empty = || PageList::new(Listed::None);
        let lists = [
            core::mem::replace(&mut state.free, empty()),
            core::mem::replace(&mut state.poisoned, empty()),
            core::mem::replace(&mut state.dissolved, empty()),
        ];
        drop(state);
        for list in lists {
            self.give_all_back(hugetlb, list);
        }
    }
}
