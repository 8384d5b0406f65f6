//! The record of a huge page: references, mappings, flags. What Linux keeps in `struct folio`.
//!
//! The memory of a record is never used for anything else, so that a lockless lookup may try to take a reference to a
//! page it read out of an entry, and only then find out whether the entry still says so.

use core::cell::UnsafeCell;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::addr::{HugeFrame, HugeSize};
use crate::file::HugeFile;
use crate::hugetlb::Hugetlb;
use crate::platform::{PageRecord, Platform, fits};
use crate::pool::Links;
use crate::reserve::SubPool;
use crate::sync::{Arc, Unowned, Word};

/// Allocating the page used a reservation up, and freeing it unused brings the reservation back.
/// Linux: `HPageRestoreReserve`.
const RESTORE_RESERVE: u64 = 1 << 0;
/// The page belongs to private mappings, not to a file's page cache. Linux: `PageAnon`.
const ANON: u64 = 1 << 1;
/// Memory failure hit the page.
const HWPOISON: u64 = 1 << 2;
/// The page is where it was taken for, in an entry or a file. Without it, it is on its way there. Linux: `HPageMigratable`.
const IN_USE: u64 = 1 << 3;
/// The page belongs to the pool of pages of 2 MiB, or of 1 GiB. Without either nobody may rely on the record.
const POOLED_2M: u64 = 1 << 4;
const POOLED_1G: u64 = 1 << 5;
/// The pool lost the page as one of its surplus pages.
const LOST_SURPLUS: u64 = 1 << 6;
/// The list of its pool that the page is in: see [`Listed`].
const FREE: u64 = 1 << 7;
const OWED: u64 = 1 << 8;
const LOST: u64 = 1 << 9;
const LISTED: u64 = FREE | OWED | LOST;
/// What outlives the page's use.
const KEPT: u64 = HWPOISON | POOLED_2M | POOLED_1G;

/// The lists of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    /// The page is in use, or on its way.
    Nowhere,
    /// It may be handed out.
    Free,
    /// Memory failure has hit it, and reservations rest on it all the same.
    Owed,
    /// Memory failure has hit it, and the pool does not count it any more.
    Lost,
}

/// `refs` counts references in its lower half and pins in its upper half: one atomic step takes, or gives back, a pin
/// together with the reference that belongs to it. Linux: `GUP_PIN_COUNTING_BIAS`, `compound_pincount`.
const REFERENCE: u64 = 1;
const PIN: u64 = 1 << 32;
/// Set when half of either count is used up. Then no more are given out to pins: the rest is for mappings, of which there
/// are never more than memory has entries. Linux: `try_get_page()` refuses a count gone negative.
const CROWDED: u64 = (1 << 31) | (1 << 63);

/// `mappings` counts leaf entries in its lower half and migration entries in its upper half.
const MAPPING: u64 = 1;
const MIGRATION: u64 = 1 << 32;

/// The record of a huge page.
///
/// # Invariants
///
/// - While `refs` is 0 the page is free, and its pool alone touches `subpool`; the one who takes the page out of the
///   pool, or drops the last reference, has it to itself as well.
/// - `links`, and the flags that say in which list of its pool the page is, are touched under that pool's lock, or by one
///   who has the page to itself.
/// - A page with a reference belongs to one pool, and the flags say to which. It goes to the platform, and may come back
///   as a page of another size, only while it has none.
/// - Each pin in the upper half of `refs` comes with a reference in the lower half.
/// - The lower half of `mappings` is the number of leaf entries that map the page, or did and have not been flushed from
///   every processor; each of them holds one of `refs`. A table shared by many counts once.
/// - Its upper half is the number of migration entries that name the page. They hold none of `refs`: there are such
///   entries only while the one who moves the page holds it. While an entry changes from one to the other it counts as
///   both, so the two together are never too small, at no moment.
/// - `owner` is touched under the page's owner lock, or by the one who has the page to itself; see [`rmap`](crate::rmap).
#[repr(C, align(64))]
pub struct Page<P: Platform> {
    refs: P::Word,
    mappings: P::Word,
    flags: P::Word,
    subpool: UnsafeCell<Option<Arc<SubPool<P>>>>,
    owner: UnsafeCell<Owner<P>>,
    links: UnsafeCell<Links>,
    /// The address of the system whose pool has the page. A plain atomic: nothing but the pools writes it, and the Release of
    /// `flags` publishes it.
    system: AtomicUsize,
}

/// The file and the offset in it that a page belongs to.
///
/// # Invariants
///
/// If the page is anonymous, `file` accounts for a reference to the file. All-zero bytes are "nobody's".
#[repr(C)]
pub(crate) struct Owner<P: Platform> {
    pub(crate) file: Option<Unowned<HugeFile<P>>>,
    pub(crate) index: u64,
}

// SAFETY: the atomics are made to be shared; `subpool`, `owner` and `links` have one user at a time by the type invariants.
unsafe impl<P: Platform> Sync for Page<P> {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl<P: Platform> Send for Page<P> {}

impl<P: Platform> Page<P> {
    /// The page has just come from the platform into this system's pool of this size.
    pub(crate) fn reset(&self, system: &Hugetlb<P>, size: HugeSize) {
        self.system.store(ptr::from_ref(system).addr(), Ordering::Relaxed);
        // Relaxed: the page is the pool's, whose lock orders these before whoever takes the page out; the two are what they were
        // when it came back the last time, or zero.
        self.refs.store(0, Ordering::Relaxed);
        self.mappings.store(0, Ordering::Relaxed);
        let pooled = match size {
            HugeSize::Size2M => POOLED_2M,
            HugeSize::Size1G => POOLED_1G,
        };
        // Release: pairs with the Acquire in `pooled`, for those who come from a frame and hold no lock of the pool.
        self.flags.store(pooled, Ordering::Release);
    }

    /// The page goes back to the platform.
    pub(crate) fn retire(&self) {
        // Release: pairs with the Acquire in `pooled`. Whoever sees it sees the page's last use over.
        self.flags.store(0, Ordering::Release);
    }

    /// The size of the pool that the page belongs to, if it does to any.
    pub(crate) fn pooled(&self) -> Option<HugeSize> {
        match self.flags.load(Ordering::Acquire) {
            flags if flags & POOLED_2M != 0 => Some(HugeSize::Size2M),
            flags if flags & POOLED_1G != 0 => Some(HugeSize::Size1G),
            _ => None,
        }
    }

    /// Where the page stands in a list of its pool; see the invariants for who may look.
    pub(crate) fn links(&self) -> *mut Links {
        self.links.get()
    }

    /// The page has come into a list, or gone out of one. The caller has the pool's lock, or the page to itself.
    pub(crate) fn set_listed(&self, list: Listed) {
        let list = match list {
            Listed::Nowhere => 0,
            Listed::Free => FREE,
            Listed::Owed => OWED,
            Listed::Lost => LOST,
        };
        // Nobody else changes the flags of a page that is free. Release: as in `reset`, whose value this takes over.
        let others = self.flags.load(Ordering::Relaxed) & !LISTED;
        self.flags.store(others | list, Ordering::Release);
    }

    /// The list that the page is in, of this system's pool of this size. The caller has that pool's lock.
    pub(crate) fn listed(&self, system: &Hugetlb<P>, size: HugeSize) -> Listed {
        // What it says of this pool was written under its lock; a page of another pool is in no list of this one. Acquire: if
        // another system's pool wrote it, `is_of` sees that.
        let flags = self.flags.load(Ordering::Acquire);
        let pooled = match size {
            HugeSize::Size2M => POOLED_2M,
            HugeSize::Size1G => POOLED_1G,
        };
        match flags & LISTED {
            _ if flags & pooled == 0 || !self.is_of(system) => Listed::Nowhere,
            FREE => Listed::Free,
            OWED => Listed::Owed,
            LOST => Listed::Lost,
            _ => Listed::Nowhere,
        }
    }

    /// A page of another system's pool becomes one of this system's. The caller dropped the last reference.
    pub(crate) fn adopt(&self, system: &Hugetlb<P>) {
        self.system.store(ptr::from_ref(system).addr(), Ordering::Relaxed);
    }

    /// Does the page belong to a pool of this system? Stays as it is while the page is held.
    pub(crate) fn is_of(&self, system: &Hugetlb<P>) -> bool {
        self.pooled().is_some() && self.system.load(Ordering::Relaxed) == ptr::from_ref(system).addr()
    }

    /// Leaf entries that map the page.
    #[must_use]
    pub fn mapcount(&self) -> u64 {
        // Acquire: pairs with the Release of `remove_mapping`: who finds the page mapped by no entry comes after the flush that each
        // entry's maker made before it counted down.
        self.mappings.load(Ordering::Acquire) & (MIGRATION - 1)
    }

    /// References: mappings, the page cache, pins.
    #[must_use]
    pub fn references(&self) -> u64 {
        self.refs.load(Ordering::Acquire) & (PIN - 1)
    }

    /// Pins: references whose holders read or write the contents past the page tables, and rely on the address space
    /// that they had the page from to go on seeing the same page. Linux: `folio_maybe_dma_pinned()`.
    #[must_use]
    pub fn pins(&self) -> u64 {
        // SeqCst: see `mm::fork`, which makes a page shared and looks here, while `gup` pins and looks whether it is shared.
        self.refs.load(Ordering::SeqCst) / PIN
    }

    /// Does one entry alone map the page, a page that belongs to private mappings? Then the address space that has the
    /// entry has the page to itself. An entry that will map it again when a move is done counts too. Linux:
    /// `PageAnonExclusive`.
    pub(crate) fn is_exclusive(&self) -> bool {
        // SeqCst: as for `pins`. One load, so that both counts are of the same moment.
        self.is_anon() && self.mappings.load(Ordering::SeqCst) == MAPPING
    }

    /// Does it belong to private mappings, rather than to a file?
    #[must_use]
    pub fn is_anon(&self) -> bool {
        self.flags.load(Ordering::Acquire) & ANON != 0
    }

    /// Has memory failure hit it?
    #[must_use]
    pub fn is_hwpoison(&self) -> bool {
        self.flags.load(Ordering::Acquire) & HWPOISON != 0
    }

    /// See [`rmap`](crate::rmap), which sets the owner along with it.
    pub(crate) fn set_anon(&self) {
        // Release: pairs with the Acquire in `is_anon`. All changes of flags are read-modify-writes, so no bit is lost; where one
        // says that something else was done before, as this one of the owner, the pair carries it over.
        self.flags.fetch_or(ANON, Ordering::AcqRel);
    }

    /// Has it arrived where it was taken for?
    pub(crate) fn is_in_use(&self) -> bool {
        self.flags.load(Ordering::Acquire) & IN_USE != 0
    }

    /// Memory failure hit the page. False if it had before.
    pub(crate) fn poison(&self) -> bool {
        // AcqRel: pairs with the Acquire in `is_hwpoison`. That a fault does not map the page in between is the fault mutex's
        // doing, and that the pool sees it, the pool's lock's or the reference's.
        self.flags.fetch_or(HWPOISON, Ordering::AcqRel) & HWPOISON == 0
    }

    /// The page is sound after all. The caller has the pool's lock, and the page is free.
    pub(crate) fn heal(&self) {
        self.flags.fetch_and(!(HWPOISON | LOST_SURPLUS), Ordering::AcqRel);
    }

    /// Notes that the pool lost the page as a surplus one. The caller has the pool's lock.
    pub(crate) fn set_lost_surplus(&self) {
        self.flags.fetch_or(LOST_SURPLUS, Ordering::AcqRel);
    }

    pub(crate) fn is_lost_surplus(&self) -> bool {
        self.flags.load(Ordering::Acquire) & LOST_SURPLUS != 0
    }

    /// Migration entries that name the page.
    pub(crate) fn moving(&self) -> u64 {
        // Acquire: pairs with the Release of `remove_migration`.
        self.mappings.load(Ordering::Acquire) / MIGRATION
    }

    /// A migration entry more names the page. Before the entry is stored.
    pub(crate) fn add_migration(&self) {
        // The store of the entry comes after it by its own Release, and that is what readers pair with (`TableRef::read`).
        self.mappings.fetch_add(MIGRATION, Ordering::AcqRel);
    }

    /// A migration entry less. After the entry was cleared.
    pub(crate) fn remove_migration(&self) {
        // Release: pairs with the Acquire in `moving`: the mover, who waits for zero, finds the entries changed.
        self.mappings.fetch_sub(MIGRATION, Ordering::AcqRel);
    }

    /// Takes all references at once, if there are so many and no pins: nobody gets another until
    /// [`thaw`](Self::thaw). The caller owns them all, or holds the lock that their other owner needs for giving them up.
    ///
    /// Linux: `folio_ref_freeze()`.
    pub(crate) fn freeze(&self, references: u64) -> bool {
        // SeqCst: who moves the page has taken it out of the entries before; who takes a reference without a lock, and
        // before this, re-reads the entry afterwards. One of the two finds out.
        self.refs.compare_exchange(references, 0, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// Ends what [`freeze`](Self::freeze) began.
    pub(crate) fn thaw(&self, references: u64) {
        // Release: pairs with the Acquire half of the exchange in `try_hold`: whoever takes a reference after this finds the page
        // as the holder of the frozen one has left it.
        self.refs.store(references, Ordering::Release);
    }

    /// Where the owner is noted; see the invariants for who may look.
    pub(crate) fn owner(&self) -> *mut Owner<P> {
        self.owner.get()
    }

    /// Makes this page what `old` was: its charge and its kind pass on. The owner does not.
    ///
    /// # Safety
    ///
    /// The caller has frozen `old`, and has this page, which was never in use, to itself.
    pub(crate) unsafe fn succeed(&self, old: &Self) {
        // SAFETY: frozen, so nobody else touches it.
        let subpool = unsafe { (*old.subpool.get()).take() };
        // SAFETY: the caller has this one to itself.
        unsafe { *self.subpool.get() = subpool };
        let kind = old.flags.fetch_and(KEPT, Ordering::AcqRel) & (ANON | IN_USE);
        self.flags.fetch_or(kind, Ordering::AcqRel);
    }

    /// One leaf entry more maps the page; the caller, who has a reference, adds one for the entry.
    pub(crate) fn add_mapping(&self) {
        // Relaxed: as in `hold`.
        self.refs.fetch_add(REFERENCE, Ordering::Relaxed);
        // SeqCst: as for `pins`.
        self.mappings.fetch_add(MAPPING, Ordering::SeqCst);
    }

    /// One leaf entry less; its reference passes to the caller.
    pub(crate) fn remove_mapping(&self) {
        // Release: pairs with the loads in `mapcount` (Acquire) and `is_exclusive` (SeqCst). The flush comes before it: who finds the
        // page mapped once may take it for its own.
        self.mappings.fetch_sub(MAPPING, Ordering::AcqRel);
    }

    /// Adds a reference. The caller holds one already, or the lock under which another holder would give its own up.
    pub(crate) fn hold(&self) {
        // Relaxed: the reference, or the lock, that the caller has keeps the page and orders what is in it. The new one is
        // given up by the AcqRel in `put`.
        self.refs.fetch_add(REFERENCE, Ordering::Relaxed);
    }

    /// Adds a reference, and a pin if `pin`, unless the page is free. See [`Speculative`].
    fn try_hold(&self, pin: bool) -> Result<(), NotHeld> {
        let weight = if pin { PIN + REFERENCE } else { REFERENCE };
        let mut now = self.refs.load(Ordering::Relaxed);
        loop {
            if now == 0 {
                return Err(NotHeld::Free);
            }
            if now & CROWDED != 0 {
                return Err(NotHeld::Crowded);
            }
            // SeqCst: as for `pins`. Its Acquire half pairs with the Release in `hand_out`, and with those of the puts before:
            // if this is the page's next life, the entry that was cleared before it is seen cleared.
            match self.refs.compare_exchange(now, now + weight, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => now = other,
            }
        }
    }

    /// The page goes from the pool to its first holder, for whom it has one reference.
    ///
    /// # Safety
    ///
    /// The caller took the page out of the pool and has it to itself.
    pub(crate) unsafe fn hand_out(&self, subpool: Option<Arc<SubPool<P>>>, restore_reserve: bool) {
        // SAFETY: by the type invariants nobody else touches it while the page has no reference.
        unsafe { *self.subpool.get() = subpool };
        self.flags.fetch_and(KEPT, Ordering::Relaxed);
        self.flags.fetch_or(if restore_reserve { RESTORE_RESERVE } else { 0 }, Ordering::Relaxed);
        // Release: who takes a reference after this sees the fields above.
        self.refs.store(REFERENCE, Ordering::Release);
    }

    /// Freeing the page makes a reservation of it.
    pub(crate) fn restore_reserve(&self) {
        // Read by `strip`, after the last reference is gone: ordered by the AcqRel of `put`. So is `forget_reserve`.
        self.flags.fetch_or(RESTORE_RESERVE, Ordering::AcqRel);
    }

    /// The page is in use: freeing it later does not bring its reservation back.
    pub(crate) fn forget_reserve(&self) {
        self.flags.fetch_and(!RESTORE_RESERVE, Ordering::AcqRel);
    }

    /// The page has arrived where it was taken for.
    pub(crate) fn set_in_use(&self) {
        // AcqRel: pairs with the Acquire in `is_in_use`: the page is where it was taken for, its note included.
        self.flags.fetch_or(IN_USE, Ordering::AcqRel);
    }

    /// Takes from a page without references what goes back to the pool with it, and the file that it kept.
    ///
    /// # Safety
    ///
    /// The caller dropped the last reference.
    unsafe fn strip(&self) -> Stripped<P> {
        // SAFETY: by the type invariants nobody else touches it while the page has no reference.
        let subpool = unsafe { (*self.subpool.get()).take() };
        // SAFETY: likewise.
        let owner = unsafe { (*self.owner.get()).file.take() };
        let flags = self.flags.fetch_and(KEPT, Ordering::AcqRel);
        // SAFETY: by the invariants of `Owner` an anonymous page accounts for a reference, and the note of it is gone.
        let file = owner.filter(|_| flags & ANON != 0).map(|file| unsafe { file.reclaim() });
        Stripped { size: size_of_pool(flags), subpool, unused: flags & RESTORE_RESERVE != 0, file }
    }
}

/// The size that the flags of a page which somebody holds speak of: by the invariants of [`Page`] it is of one pool.
fn size_of_pool(flags: u64) -> HugeSize {
    debug_assert!(flags & (POOLED_2M | POOLED_1G) != 0, "a page is held that is of no pool");
    if flags & POOLED_1G == 0 { HugeSize::Size2M } else { HugeSize::Size1G }
}

impl<P: Platform> Hugetlb<P> {
    /// The record of a page.
    pub(crate) fn page(&self, frame: HugeFrame) -> &Page<P> {
        const { assert!(fits::<Page<P>, PageRecord>()) };
        // SAFETY: callers have the frame from the pool, from an entry, or from `has_page_record`.
        let record = unsafe { self.platform().page_record(frame) };
        // SAFETY: by the contract of `Platform` the record's memory is a record for ever, all-zero (which is a free page)
        // before its first use.
        unsafe { record.cast().as_ref() }
    }

    /// Gives one reference up. The last one puts the page back into its pool. Does not sleep.
    pub(crate) fn put_page(&self, frame: HugeFrame) {
        self.put(frame, REFERENCE, |_| false);
    }

    /// As [`put_page`](Self::put_page); if it was the last reference to a private page, `restore` is asked whether the page
    /// is reserved again, by the offset that it was taken for. Does not sleep.
    ///
    /// Linux: `folio_set_hugetlb_restore_reserve()` in `__unmap_hugepage_range()`, which decides before it knows.
    pub(crate) fn put_page_promised(&self, frame: HugeFrame, restore: impl FnOnce(u64) -> bool) {
        self.put(frame, REFERENCE, restore);
    }

    /// Gives a pin up with its reference. Linux: `unpin_user_page()`.
    pub(crate) fn unpin_page(&self, frame: HugeFrame) {
        self.put(frame, PIN + REFERENCE, |_| false);
    }

    /// The reference goes back to whatever the page is now (P4). No caller says what size that is: a page that was held on a
    /// guess may have come to another pool since the guess.
    fn put(&self, frame: HugeFrame, weight: u64, restore: impl FnOnce(u64) -> bool) {
        let page = self.page(frame);
        // AcqRel: the uses of all holders come before the page's next life.
        if page.refs.fetch_sub(weight, Ordering::AcqRel) != weight {
            return;
        }
        // SAFETY: that was the last reference, so the owner is ours to look at.
        let index = unsafe { (*page.owner.get()).index };
        let promised = page.is_anon() && restore(index);
        // SAFETY: that was the last reference.
        let Stripped { size, subpool, unused, file } = unsafe { page.strip() };
        let restore = unused || promised;
        // Linux: free_huge_page() in mm/hugetlb.c. A page that used a reservation up and was never used brings it back
        // as it is; else the sub-pool may want it to keep its minimum.
        match &subpool {
            Some(subpool) if !restore => subpool.free_page(frame),
            _ => self.pool(size).free(self, frame, restore),
        }
        // It may have been the last thing that kept the file, which frees pages in its turn, but none that keeps a file.
        drop(file);
    }
}

/// What a page that nobody holds any more leaves behind.
struct Stripped<P: Platform> {
    /// Of the pool that it goes back to.
    size: HugeSize,
    subpool: Option<Arc<SubPool<P>>>,
    /// It used a reservation up, and was never used.
    unused: bool,
    file: Option<Arc<HugeFile<P>>>,
}

/// Why a page could not be taken hold of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotHeld {
    /// Nobody holds it: it is on its way back to the pool, or there.
    Free,
    /// So many hold it that the count might overflow.
    Crowded,
}

/// A page on the way from the pool to its first use, or one that somebody looks at: one reference.
///
/// # Invariants
///
/// The page has a reference that this value owns.
pub(crate) struct PageRef<'h, P: Platform> {
    hugetlb: &'h Hugetlb<P>,
    frame: HugeFrame,
    size: HugeSize,
}

impl<'h, P: Platform> PageRef<'h, P> {
    /// # Safety
    ///
    /// The caller owns a reference to the page, and hands it over.
    pub(crate) unsafe fn from_raw(hugetlb: &'h Hugetlb<P>, frame: HugeFrame, size: HugeSize) -> Self {
        Self { hugetlb, frame, size }
    }

    pub(crate) fn frame(&self) -> HugeFrame {
        self.frame
    }

    pub(crate) fn page(&self) -> &'h Page<P> {
        self.hugetlb.page(self.frame)
    }

    pub(crate) fn size(&self) -> HugeSize {
        self.size
    }

    /// A second reference.
    pub(crate) fn another(&self) -> Self {
        self.page().hold();
        Self { hugetlb: self.hugetlb, frame: self.frame, size: self.size }
    }
}

impl<P: Platform> Drop for PageRef<'_, P> {
    fn drop(&mut self) {
        self.hugetlb.put_page(self.frame);
    }
}

/// A reference that was taken on a guess: the frame was read out of an entry, or named, and may have become a page in its
/// next life before the reference was taken, and of another size.
///
/// So this says nothing of the page. It is *confirmed*, by who looks again at what led to the frame, or dropped, which gives
/// the reference back to whatever the page is by then (P4).
///
/// # Invariants
///
/// The page of `frame` has a reference that this value owns, and a pin if `pin`.
#[must_use = "the guess is to be confirmed"]
pub(crate) struct Speculative<P: Platform, H: Deref<Target = Hugetlb<P>>> {
    system: H,
    frame: HugeFrame,
    pin: bool,
}

impl<P: Platform, H: Deref<Target = Hugetlb<P>>> Speculative<P, H> {
    /// Takes a reference, and a pin if `pin`, unless the page is free.
    ///
    /// Linux: `try_grab_folio()` in mm/gup.c.
    #[inline]
    pub(crate) fn take(system: H, frame: HugeFrame, pin: bool) -> Result<Self, NotHeld> {
        system.page(frame).try_hold(pin)?;
        // INVARIANT: taken just now.
        Ok(Self { system, frame, pin })
    }

    /// The record. What it says is true of the page that is held, which need not be the one that was meant.
    #[inline]
    pub(crate) fn page(&self) -> &Page<P> {
        self.system.page(self.frame)
    }

    /// Ends the guess: the caller has looked again, and this is the page that was meant. The reference, and the pin, pass to
    /// the caller.
    #[inline]
    pub(crate) fn confirmed(self) -> (H, HugeFrame) {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped, so it is read out once.
        (unsafe { ptr::read(&raw const this.system) }, this.frame)
    }
}

impl<'h, P: Platform> Speculative<P, &'h Hugetlb<P>> {
    /// The reference by itself, by a caller who wants whatever page is there now. It says of which size that is.
    pub(crate) fn into_page(self) -> PageRef<'h, P> {
        debug_assert!(!self.pin, "a pin would stay behind");
        let size = size_of_pool(self.page().flags.load(Ordering::Acquire));
        let (hugetlb, frame) = self.confirmed();
        // SAFETY: the reference passes over. While it is held the page stays of this size.
        unsafe { PageRef::from_raw(hugetlb, frame, size) }
    }
}

impl<P: Platform, H: Deref<Target = Hugetlb<P>>> Drop for Speculative<P, H> {
    #[inline]
    fn drop(&mut self) {
        if self.pin {
            self.system.unpin_page(self.frame);
        } else {
            self.system.put_page(self.frame);
        }
    }
}
