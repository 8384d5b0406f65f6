//! Pools of huge pages, one for each size: how many there are, how many are free, reserved, surplus.
//!
//! # Protocol
//!
//! One spinning lock guards the counters and the lists; nothing else is taken under it, and the platform is not asked for
//! pages, or given any, with it held. The counters always satisfy `reserved <= free <= total` and `surplus <= total`: a
//! reserved page is never given to anybody else.
//!
//! The lists run through the records of the pages, so that a page needs no memory to be free and is found without a
//! search.
//!
//! A free page that memory failure hits is never handed out again, and the pool loses it: it counts as neither free nor
//! part of the pool, until it is found to be sound after all. If every free page is reserved, the reservations rest on it
//! still: it counts as free until one of them is given back, and an allocation that needs the last page fails with
//! [`PoolEmpty`].
//!
//! Linux: `struct hstate` in include/linux/hugetlb.h; the counters of /proc/meminfo.

mod list;

use thiserror::Error;

pub(crate) use self::list::Links;

use self::list::PageList;
use crate::addr::{HugeFrame, HugeSize};
use crate::hugetlb::Hugetlb;
use crate::page::Listed;
use crate::platform::Platform;
use crate::sync::SpinLock;

/// What a pool holds, in pages. Linux: `HugePages_*` in /proc/meminfo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounters {
    /// Pages of the pool, surplus ones included.
    pub total: u64,
    /// Pages nobody uses.
    pub free: u64,
    /// Pages promised to mappings that have not touched them yet.
    pub reserved: u64,
    /// Pages above the configured size, which go back to the host when they are freed.
    pub surplus: u64,
}

/// The pool cannot promise as many pages as were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{asked} huge pages asked for, {available} available")]
pub struct PoolEmpty {
    /// Pages asked for beyond those the asker held reservations for.
    pub asked: u64,
    /// Pages free and promised to nobody, at that moment.
    pub available: u64,
}

/// How many pages go to the platform, or to a list, before the pool's lock is let go for a moment.
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
/// `free` has the pages that may be handed out; `owed` and `lost` those that memory failure has hit. The `owed` ones count
/// as free, and as part of the pool, because reservations rest on them; no page is available while there are such.
struct State {
    free: PageList,
    owed: PageList,
    lost: PageList,
    total: u64,
    reserved: u64,
    surplus: u64,
    overcommit: u64,
}

impl State {
    fn free(&self) -> u64 {
        self.free.len() + self.owed.len()
    }

    fn available(&self) -> u64 {
        self.free() - self.reserved
    }

    /// Pages but for the surplus ones.
    fn configured(&self) -> u64 {
        self.total - self.surplus
    }

    /// A page has left the pool. Surplus pages go first. True if it was one.
    fn lose(&mut self) -> bool {
        self.total -= 1;
        let was_surplus = self.surplus > 0;
        self.surplus -= u64::from(was_surplus);
        was_surplus
    }

    /// Lets go of bad pages that reservations rested on, as far as they do not any more.
    fn settle<P: Platform>(&mut self, hugetlb: &Hugetlb<P>) {
        while self.owed.len() > 0 && self.available() > 0 {
            // Which of them is all the same: the reservations rested on any of them.
            let Some(frame) = self.owed.pop(hugetlb) else { return };
            // SAFETY: it was in a list of this pool.
            unsafe { self.lost.push(hugetlb, frame) };
            if self.lose() {
                hugetlb.page(frame).set_lost_surplus();
            }
        }
    }

    /// Moves a free page to the bad ones; the pool loses it if no reservation rests on it.
    ///
    /// # Safety
    ///
    /// It is in the list of free pages.
    unsafe fn spoil<P: Platform>(&mut self, hugetlb: &Hugetlb<P>, frame: HugeFrame) {
        // SAFETY: by the contract of this function.
        unsafe { self.free.remove(hugetlb, frame) };
        // SAFETY: it was in a list of this pool.
        unsafe { self.owed.push(hugetlb, frame) };
        self.settle(hugetlb);
    }

    /// A page that the caller has from the platform becomes one of the pool's.
    ///
    /// # Safety
    ///
    /// It came from there with the pool's size, and the caller has it to itself.
    unsafe fn add<P: Platform>(&mut self, hugetlb: &Hugetlb<P>, frame: HugeFrame) {
        // SAFETY: by the contract of this function.
        unsafe { self.free.push(hugetlb, frame) };
        self.total += 1;
    }

    /// Takes a free page out of the pool, to be given to the platform; `None` if none may go.
    fn shrink<P: Platform>(&mut self, hugetlb: &Hugetlb<P>) -> Option<HugeFrame> {
        if self.available() == 0 {
            return None;
        }
        let frame = self.free.pop(hugetlb)?;
        self.total -= 1;
        Some(frame)
    }
}

/// What became of a page that memory failure hit while nobody used it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoilt {
    /// The pool has lost it.
    Lost,
    /// It is never handed out, but promises rest on it.
    Owed,
    /// It was hit before.
    Already,
}

impl<P: Platform> HugePool<P> {
    pub(crate) const fn new(size: HugeSize) -> Self {
        let state = State {
            free: PageList::new(Listed::Free),
            owed: PageList::new(Listed::Owed),
            lost: PageList::new(Listed::Lost),
            total: 0,
            reserved: 0,
            surplus: 0,
            overcommit: 0,
        };
        Self { size, state: SpinLock::<P, State>::new(state) }
    }

    /// A page of the platform's that is of no pool yet, one that an entry can name.
    ///
    /// # Panics
    ///
    /// If the platform broke its contract. To go on would set reserved bits in entries, or map part of another page.
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
    /// It was in a list of this pool, or came from [`take_from_platform`](Self::take_from_platform), and the caller has it to itself.
    unsafe fn give_back(&self, hugetlb: &Hugetlb<P>, frame: HugeFrame) {
        hugetlb.page(frame).retire();
        // SAFETY: by the invariants of `HugePool` it came from there with this size and nobody refers to it.
        unsafe { hugetlb.platform().free_huge(frame, self.size) };
    }

    /// Returns the pages of a list to the platform.
    fn give_all_back(&self, hugetlb: &Hugetlb<P>, mut pages: PageList) {
        while let Some(frame) = pages.pop(hugetlb) {
            // SAFETY: by the invariants of `PageList` nobody else has it; only pages of this pool's size are put in one here.
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

    /// Allows that many surplus pages from now on. Those that exist stay until they are freed.
    pub fn set_overcommit(&self, pages: u64) {
        self.state.lock().overcommit = pages;
    }

    /// Makes the pool `pages` large, surplus pages not counted, as far as that goes: it grows while the host has huge
    /// pages, and never shrinks below what is in use or reserved (what is in use beyond the new size turns surplus).
    /// Returns the size reached. Does not sleep.
    ///
    /// Linux: `set_max_huge_pages()` in mm/hugetlb.c; writing `nr_hugepages`.
    pub(crate) fn resize(&self, hugetlb: &Hugetlb<P>, pages: u64) -> u64 {
        let mut fresh = None;
        // As many as are missing now: somebody who makes the pool smaller meanwhile does not keep this going for ever.
        let missing = pages.saturating_sub(self.state.lock().configured());
        for _ in 0..=missing {
            let mut state = self.state.lock();
            // Surplus pages turn into proper ones before new ones are asked for.
            state.surplus -= state.surplus.min(pages.saturating_sub(state.configured()));
            if state.configured() >= pages {
                break;
            }
            if let Some(frame) = fresh.take() {
                // SAFETY: taken from the platform below.
                unsafe { state.add(hugetlb, frame) };
                state.settle(hugetlb);
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
            let mut leaving = PageList::new(Listed::Nowhere);
            while leaving.len() < BATCH && state.configured() > pages {
                let Some(frame) = state.shrink(hugetlb) else {
                    // What is in use or reserved beyond the new size.
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

    /// Reserves `pages` more; takes surplus pages from the host if the pool is too small.
    ///
    /// Linux: `gather_surplus_pages()` in mm/hugetlb.c.
    pub(crate) fn reserve(&self, hugetlb: &Hugetlb<P>, pages: u64) -> Result<(), PoolEmpty> {
        let mut fresh = PageList::new(Listed::Nowhere);
        let reserved = loop {
            let mut state = self.state.lock();
            let available = state.available();
            let needed = pages.saturating_sub(available);
            let refused = PoolEmpty { asked: pages, available };
            if needed > state.overcommit.saturating_sub(state.surplus) {
                break Err(refused);
            }
            if needed <= fresh.len() {
                for frame in (0..needed).map_while(|_| fresh.pop(hugetlb)) {
                    // SAFETY: taken from the platform below.
                    unsafe { state.add(hugetlb, frame) };
                }
                state.surplus += needed;
                state.reserved += pages;
                break Ok(());
            }
            // Asked for with the lock released, and counted again then.
            drop(state);
            while fresh.len() < needed
                && let Some(frame) = self.take_from_platform(hugetlb)
            {
                // SAFETY: it is ours alone.
                unsafe { fresh.push(hugetlb, frame) };
            }
            if fresh.len() < needed {
                break Err(refused);
            }
        };
        // What is not needed after all.
        self.give_all_back(hugetlb, fresh);
        reserved
    }

    /// Takes reservations back, and returns to the host the surplus pages that stood for them.
    ///
    /// Linux: `return_unused_surplus_pages()` in mm/hugetlb.c.
    pub(crate) fn unreserve(&self, hugetlb: &Hugetlb<P>, pages: u64) {
        let mut state = self.state.lock();
        state.reserved = state.reserved.saturating_sub(pages);
        state.settle(hugetlb);
        let mut left = pages.min(state.surplus);
        loop {
            let mut leaving = PageList::new(Listed::Nowhere);
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

    /// Takes a page: one that was reserved for the caller, or one that was reserved for nobody, or a surplus page. It has no
    /// reference yet.
    ///
    /// Linux: `dequeue_huge_page_vma()` and `alloc_surplus_huge_page()` in mm/hugetlb.c.
    pub(crate) fn take(&self, hugetlb: &Hugetlb<P>, promised: bool) -> Result<HugeFrame, PoolEmpty> {
        let mut fresh = None;
        let taken = loop {
            let mut state = self.state.lock();
            let available = state.available();
            let refused = PoolEmpty { asked: 1, available };
            if promised || available > 0 {
                let taken = state.free.pop(hugetlb);
                if promised && taken.is_some() {
                    state.reserved = state.reserved.saturating_sub(1);
                }
                break taken.ok_or(refused);
            }
            if state.surplus >= state.overcommit {
                break Err(refused);
            }
            if let Some(frame) = fresh.take() {
                state.total += 1;
                state.surplus += 1;
                break Ok(frame);
            }
            // Asked for with the lock released, and looked again then.
            drop(state);
            fresh = self.take_from_platform(hugetlb);
            if fresh.is_none() {
                break Err(refused);
            }
        };
        if let Some(frame) = fresh {
            // SAFETY: taken from the platform, and not added.
            unsafe { self.give_back(hugetlb, frame) };
        }
        taken
    }

    /// Takes a page without references back; with `restore`, the reservation it stood for as well.
    ///
    /// Linux: `free_huge_page()` in mm/hugetlb.c. Where Linux would give a surplus page to the host although it has
    /// just been reserved again, it stays here: `reserved <= free` holds always.
    pub(crate) fn free(&self, hugetlb: &Hugetlb<P>, frame: HugeFrame, restore: bool) {
        let mut state = self.state.lock();
        let page = hugetlb.page(frame);
        let foreign = !page.is_of(hugetlb);
        if foreign {
            // A lockless walker of this system took a page that went to another one of the platform's meanwhile, and dropped it
            // last. A surplus page goes to the host.
            page.adopt(hugetlb);
            state.total += 1;
            state.surplus += 1;
        }
        // SAFETY: its last reference is gone, and it is of this pool: the caller looked into the record.
        unsafe { state.free.push(hugetlb, frame) };
        if restore && !foreign {
            state.reserved += 1;
        }
        // With the pool's lock held: memory failure that hits a page in use has it seen here, for it holds the page until
        // it has marked it.
        if page.is_hwpoison() {
            // SAFETY: put in above.
            unsafe { state.spoil(hugetlb, frame) };
            return;
        }
        state.settle(hugetlb);
        let leaving = if state.surplus > 0 { state.shrink(hugetlb) } else { None };
        state.surplus -= u64::from(leaving.is_some());
        drop(state);
        if let Some(frame) = leaving {
            // SAFETY: taken out of the pool above.
            unsafe { self.give_back(hugetlb, frame) };
        }
    }

    /// Memory failure has hit a page that nobody has a reference to. `None` if it is not in a list of the pool's: it is on
    /// its way there or from there.
    ///
    /// Linux: `dissolve_free_huge_page()` in mm/hugetlb.c.
    pub(crate) fn poison(&self, hugetlb: &Hugetlb<P>, frame: HugeFrame) -> Option<Spoilt> {
        let mut state = self.state.lock();
        let page = hugetlb.page(frame);
        match page.listed(hugetlb, self.size) {
            Listed::Nowhere => return None,
            Listed::Owed | Listed::Lost => return Some(Spoilt::Already),
            Listed::Free => {}
        }
        page.poison();
        // SAFETY: it says so, and the lock is held.
        unsafe { state.spoil(hugetlb, frame) };
        Some(if state.owed.len() > 0 { Spoilt::Owed } else { Spoilt::Lost })
    }

    /// A page that memory failure had hit, and that is free, is sound after all: the pool gets it back, or the host, if it
    /// was a surplus page. False if it is not such a page.
    ///
    /// Linux: `unpoison_memory()` in mm/memory-failure.c.
    pub(crate) fn unpoison(&self, hugetlb: &Hugetlb<P>, frame: HugeFrame) -> bool {
        let mut state = self.state.lock();
        let page = hugetlb.page(frame);
        let list = match page.listed(hugetlb, self.size) {
            Listed::Owed => &mut state.owed,
            Listed::Lost => {
                // The pool did not count it.
                state.total += 1;
                &mut state.lost
            }
            Listed::Nowhere | Listed::Free => return false,
        };
        // SAFETY: it says so, and the lock is held.
        unsafe { list.remove(hugetlb, frame) };
        let was_surplus = page.is_lost_surplus();
        page.heal();
        if was_surplus {
            state.total -= 1;
        } else {
            // SAFETY: taken out of a list of this pool just now.
            unsafe { state.free.push_last(hugetlb, frame) };
        }
        state.settle(hugetlb);
        drop(state);
        if was_surplus {
            // SAFETY: taken out of a list of this pool, and put into none.
            unsafe { self.give_back(hugetlb, frame) };
        }
        true
    }

    /// Returns every page to the platform. The system is going away: nobody uses one any more.
    pub(crate) fn release_all(&self, hugetlb: &Hugetlb<P>) {
        let mut state = self.state.lock();
        (state.reserved, state.total) = (0, 0);
        let empty = || PageList::new(Listed::Nowhere);
        let lists = [
            core::mem::replace(&mut state.free, empty()),
            core::mem::replace(&mut state.owed, empty()),
            core::mem::replace(&mut state.lost, empty()),
        ];
        drop(state);
        for list in lists {
            self.give_all_back(hugetlb, list);
        }
    }
}
