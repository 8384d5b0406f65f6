//! Pools of huge pages, one for each size: how many there are, how many are free, reserved, surplus.
//!
//! # Protocol
//!
//! One spinning lock guards the counters and the free list; nothing else is taken under it. The counters always satisfy
//! `reserved <= free <= total` and `surplus <= total`: a page that somebody was promised is never given to another.
//!
//! A free page that memory failure hits is never handed out again, and the pool loses it: it counts as neither free nor
//! part of the pool, until it is found to be sound after all. If every free page is promised, the promises count on it
//! still: it counts as free until one of them is given back, and who calls on the last one finds the pool empty.
//!
//! Linux: `struct hstate` in include/linux/hugetlb.h; the counters of /proc/meminfo.

use alloc::vec::Vec;

use thiserror::Error;

use crate::addr::{HugeFrame, HugeSize};
use crate::error::OutOfMemory;
use crate::hugetlb::Hugetlb;
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

/// The huge pages of one size.
///
/// # Invariants
///
/// Each frame in the list came from the platform with this size and has no reference; the list's capacity is at least the
/// number of pages that are or were of the pool, so that freeing a page needs no memory.
pub struct HugePool<P: Platform> {
    size: HugeSize,
    state: SpinLock<P, State>,
}

/// # Invariants
///
/// - The first `bad` frames of `list` are those that memory failure has hit, the others those that may be handed out.
/// - `owed` of the bad ones count as free, and as part of the pool, because promises rest on them: `owed <= bad`, and
///   no page is available while there are such.
struct State {
    list: Vec<HugeFrame>,
    bad: usize,
    owed: u64,
    total: u64,
    reserved: u64,
    surplus: u64,
    overcommit: u64,
}

impl State {
    /// Pages that may be handed out.
    fn good(&self) -> u64 {
        (self.list.len() - self.bad) as u64
    }

    fn free(&self) -> u64 {
        self.good() + self.owed
    }

    fn available(&self) -> u64 {
        self.free() - self.reserved
    }

    /// A page that may be handed out.
    fn pop(&mut self) -> Option<HugeFrame> {
        if self.good() == 0 { None } else { self.list.pop() }
    }

    /// A page has left the pool. Surplus pages go first. True if it was one.
    fn lose(&mut self) -> bool {
        self.total -= 1;
        let was_surplus = self.surplus > 0;
        self.surplus -= u64::from(was_surplus);
        was_surplus
    }

    /// Lets go of bad pages that promises rested on, as far as they do not any more.
    fn settle<P: Platform>(&mut self, hugetlb: &Hugetlb<P>) {
        while self.owed > 0 && self.available() > 0 {
            self.owed -= 1;
            let was_surplus = self.lose();
            // Which of them is all the same: the promises rested on any of them.
            let frame = self.list.get(..self.bad).unwrap_or_default().get(self.owed as usize);
            if let Some(&frame) = frame
                && was_surplus
            {
                hugetlb.page(frame).set_lost_surplus();
            }
        }
    }

    /// Moves the frame at `at`, a good one, to the bad ones, which the pool loses if no promise rests on it.
    fn spoil<P: Platform>(&mut self, hugetlb: &Hugetlb<P>, at: usize) {
        // The bad ones that are owed come first.
        self.list.swap(at, self.bad);
        self.list.swap(self.bad, self.owed as usize);
        self.bad += 1;
        self.owed += 1;
        self.settle(hugetlb);
    }

    /// One page more from the platform, onto the free list.
    fn grow<P: Platform>(&mut self, hugetlb: &Hugetlb<P>, size: HugeSize) -> Result<(), OutOfMemory> {
        // Capacity for all pages at once, not for the free ones alone: see the invariants of `HugePool`.
        let in_use = self.total - self.free();
        self.list.try_reserve(in_use as usize + 1)?;
        let frame = from_platform(hugetlb, size).ok_or(OutOfMemory)?;
        hugetlb.page(frame).reset(size);
        self.list.push(frame);
        self.total += 1;
        Ok(())
    }

    /// One free page back to the platform; false if none may go.
    fn shrink<P: Platform>(&mut self, hugetlb: &Hugetlb<P>, size: HugeSize) -> bool {
        if self.available() == 0 {
            return false;
        }
        let Some(frame) = self.pop() else {
            return false;
        };
        self.total -= 1;
        // SAFETY: taken from the list.
        unsafe { give_back(hugetlb, frame, size) };
        true
    }
}

/// A frame from the platform, one that an entry can name.
///
/// # Panics
///
/// If the platform broke its contract. To go on would set reserved bits in entries, or map part of another page.
fn from_platform<P: Platform>(hugetlb: &Hugetlb<P>, size: HugeSize) -> Option<HugeFrame> {
    let frame = hugetlb.platform().alloc_huge(size)?;
    assert!(
        frame.fits(size),
        "the platform broke its contract: alloc_huge({size:?}) returned {frame:?}, which no entry can name"
    );
    Some(frame)
}

/// Returns a frame to the platform.
///
/// # Safety
///
/// It was in the list of the pool of this size: see the invariants of [`HugePool`].
unsafe fn give_back<P: Platform>(hugetlb: &Hugetlb<P>, frame: HugeFrame, size: HugeSize) {
    hugetlb.page(frame).retire();
    // SAFETY: by the invariants of `HugePool` it came from there with this size and nobody refers to it.
    unsafe { hugetlb.platform().free_huge(frame, size) };
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
        let state =
            State { list: Vec::new(), bad: 0, owed: 0, total: 0, reserved: 0, surplus: 0, overcommit: 0 };
        Self { size, state: SpinLock::<P, State>::new(state) }
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
        let mut state = self.state.lock();
        // Surplus pages turn into proper ones before new ones are asked for.
        while state.surplus > 0 && state.total - state.surplus < pages {
            state.surplus -= 1;
        }
        while state.total - state.surplus < pages && state.grow(hugetlb, self.size).is_ok() {
            state.settle(hugetlb);
        }
        while state.total - state.surplus > pages && state.shrink(hugetlb, self.size) {}
        while state.total - state.surplus > pages {
            state.surplus += 1;
        }
        state.total - state.surplus
    }

    /// Promises `pages` more; takes surplus pages from the host if the pool is too small.
    ///
    /// Linux: `gather_surplus_pages()` in mm/hugetlb.c.
    pub(crate) fn reserve(&self, hugetlb: &Hugetlb<P>, pages: u64) -> Result<(), PoolEmpty> {
        let mut state = self.state.lock();
        let available = state.available();
        let needed = pages.saturating_sub(available);
        if needed > state.overcommit.saturating_sub(state.surplus) {
            return Err(PoolEmpty { asked: pages, available });
        }
        for grown in 0..needed {
            if state.grow(hugetlb, self.size).is_err() {
                for _ in 0..grown {
                    state.shrink(hugetlb, self.size);
                }
                return Err(PoolEmpty { asked: pages, available });
            }
        }
        state.surplus += needed;
        state.reserved += pages;
        Ok(())
    }

    /// Takes promises back, and returns to the host the surplus pages that stood for them.
    ///
    /// Linux: `return_unused_surplus_pages()` in mm/hugetlb.c.
    pub(crate) fn unreserve(&self, hugetlb: &Hugetlb<P>, pages: u64) {
        let mut state = self.state.lock();
        state.reserved = state.reserved.saturating_sub(pages);
        state.settle(hugetlb);
        for _ in 0..pages.min(state.surplus) {
            if !state.shrink(hugetlb, self.size) {
                break;
            }
            state.surplus -= 1;
        }
    }

    /// Takes a page: one that was promised to the caller, or one that nobody was promised, or a surplus page. It has no
    /// reference yet.
    ///
    /// Linux: `dequeue_huge_page_vma()` and `alloc_surplus_huge_page()` in mm/hugetlb.c.
    pub(crate) fn take(&self, hugetlb: &Hugetlb<P>, promised: bool) -> Result<HugeFrame, PoolEmpty> {
        let mut state = self.state.lock();
        let available = state.available();
        if !promised && available == 0 {
            if state.surplus >= state.overcommit || state.grow(hugetlb, self.size).is_err() {
                return Err(PoolEmpty { asked: 1, available });
            }
            state.surplus += 1;
        }
        let frame = state.pop().ok_or(PoolEmpty { asked: 1, available })?;
        if promised {
            state.reserved = state.reserved.saturating_sub(1);
        }
        Ok(frame)
    }

    /// Takes a page without references back; with `restore`, the promise it stood for as well.
    ///
    /// Linux: `free_huge_page()` in mm/hugetlb.c. Where Linux would give a surplus page to the host although it has
    /// just been promised again, it stays here: `reserved <= free` holds always.
    pub(crate) fn free(&self, hugetlb: &Hugetlb<P>, frame: HugeFrame, restore: bool) {
        let mut state = self.state.lock();
        // Does not allocate: by the invariants there is room for every page of the pool.
        state.list.push(frame);
        if restore {
            state.reserved += 1;
        }
        // With the pool's lock held: who hits a page that is in use has it seen here, for he holds the page until he has.
        if hugetlb.page(frame).is_hwpoison() {
            let last = state.list.len() - 1;
            state.spoil(hugetlb, last);
            return;
        }
        state.settle(hugetlb);
        if state.surplus > 0 && state.shrink(hugetlb, self.size) {
            state.surplus -= 1;
        }
    }

    /// Memory failure has hit a page that nobody has a reference to. `None` if it is not in the pool's list: it is on its
    /// way there or from there.
    ///
    /// Linux: `dissolve_free_huge_page()` in mm/hugetlb.c.
    pub(crate) fn poison(&self, hugetlb: &Hugetlb<P>, frame: HugeFrame) -> Option<Spoilt> {
        let mut state = self.state.lock();
        let at = state.list.iter().position(|&free| free == frame)?;
        if !hugetlb.page(frame).poison() {
            return Some(Spoilt::Already);
        }
        state.spoil(hugetlb, at);
        Some(if state.owed > 0 { Spoilt::Owed } else { Spoilt::Lost })
    }

    /// A page that memory failure had hit, and that is free, is sound after all: the pool gets it back, or the host, if it
    /// was a surplus page. False if it is not such a page.
    ///
    /// Linux: `unpoison_memory()` in mm/memory-failure.c.
    pub(crate) fn unpoison(&self, hugetlb: &Hugetlb<P>, frame: HugeFrame) -> bool {
        let mut state = self.state.lock();
        let bad = state.list.get(..state.bad).unwrap_or_default();
        let Some(at) = bad.iter().position(|&bad| bad == frame) else {
            return false;
        };
        let page = hugetlb.page(frame);
        let was_surplus = page.is_lost_surplus();
        page.heal();
        let mut hole = at;
        let was_owed = (at as u64) < state.owed;
        if was_owed {
            state.owed -= 1;
            let last_owed = state.owed as usize;
            state.list.swap(hole, last_owed);
            hole = last_owed;
        }
        state.bad -= 1;
        let last_bad = state.bad;
        state.list.swap(hole, last_bad);
        if was_surplus {
            // Now a good one, and the first of them.
            let frame = state.list.swap_remove(last_bad);
            // SAFETY: taken from the list.
            unsafe { give_back(hugetlb, frame, self.size) };
        } else if !was_owed {
            state.total += 1;
        }
        state.settle(hugetlb);
        true
    }

    /// Returns every page to the platform. The system is going away: nobody uses one any more.
    pub(crate) fn release_all(&self, hugetlb: &Hugetlb<P>) {
        let mut state = self.state.lock();
        (state.reserved, state.bad, state.owed) = (0, 0, 0);
        while let Some(frame) = state.list.pop() {
            // SAFETY: taken from the list.
            unsafe { give_back(hugetlb, frame, self.size) };
        }
        state.total = 0;
    }
}
