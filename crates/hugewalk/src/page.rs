//! The record of a huge page: references, mappings, flags. What Linux keeps in `struct folio`.
//!
//! The memory of a record is never used for anything else. So a lockless lookup may try to take a
//! reference to a page whose frame it read out of an entry, and recheck the entry afterwards.

mod links;
mod put;
mod refs;
mod run;

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};

pub(crate) use self::links::{Link, Links};
pub(crate) use self::put::{Charges, Freed, PutBatch};
use self::put::{Stripped, take_home};
pub(crate) use self::refs::{NotHeld, PageRef, Speculative};
pub(crate) use self::run::PageRun;

use crate::addr::{HugeFrame, HugeSize};
use crate::file::HugeFile;
use crate::hugetlb::Hugetlb;
use crate::platform::{PageRecord, Platform, fits};
use crate::reserve::SubPool;
use crate::sync::{Arc, Unowned, Word};

/// Allocating the page used a reservation, and freeing the page before its first use restores that
/// reservation. Linux: `HPageRestoreReserve`.
const RESTORE_RESERVE: u64 = 1 << 0;
/// The page belongs to private mappings, not to a file's page cache. Linux: `PageAnon`.
const ANON: u64 = 1 << 1;
/// Memory failure hit the page.
const HWPOISON: u64 = 1 << 2;
/// The page has reached the entry or the file that it was allocated for. A page without this flag
/// is still on its way there. Linux: `HPageMigratable`.
const IN_USE: u64 = 1 << 3;
/// The page was dissolved, and the pool counted it as one of its surplus pages before.
const DISSOLVED_SURPLUS: u64 = 1 << 6;
/// Which list of its pool the page is in: see [`Listed`].
const FREE: u64 = 1 << 7;
const POISONED: u64 = 1 << 8;
const DISSOLVED: u64 = 1 << 9;
const LISTED: u64 = FREE | POISONED | DISSOLVED;
/// The page belongs to the pool of this [`HugeSize`]. If these bits are zero, it belongs to none, and the record says
/// nothing.
const POOLED: u64 = (u32::MAX as u64) << POOLED_SHIFT;
const POOLED_SHIFT: u32 = 32;
/// Flags that stay when the page is freed.
const KEPT: u64 = HWPOISON | POOLED;

/// The lists of a pool. Memory failure takes a free page out of use in two steps: see
/// [`pool`](crate::pool).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    /// The page is in no list: it is in use, or on its way into use or out of it.
    None,
    /// It may be allocated.
    Free,
    /// Memory failure hit it, and the pool still counts it as free, because every free page is
    /// reserved.
    Poisoned,
    /// Memory failure hit it, and the pool no longer counts it. Linux: a dissolved page.
    Dissolved,
}

/// `refs` counts references in its lower half and pins in its upper half. So one atomic operation
/// takes, or drops, a pin together with the reference that belongs to it. Linux:
/// `GUP_PIN_COUNTING_BIAS`, `compound_pincount`.
const REFERENCE: u64 = 1;
const PIN: u64 = 1 << 32;
/// These bits are set when either count has used half of its range. Then no speculative reference
/// and no pin is taken any more. The other half is for mappings, which are never more than the
/// entries that memory has room for.
///
/// Linux: `try_get_page()` refuses a count that has become negative.
const CROWDED: u64 = (1 << 31) | (1 << 63);

/// `mappings` counts leaf entries in its lower half and migration entries in its upper half.
const MAPPING: u64 = 1;
const MIGRATION: u64 = 1 << 32;

/// The record of a huge page.
///
/// # Invariants
///
/// - While `refs` is 0 the page is free, and only its pool touches `subpool` and `charges`. A caller that takes
///   the page out of the pool, or drops the last reference, has exclusive access to it as well.
/// - `links`, and the flags that name the list, are touched under the pool's lock, or with
///   exclusive access to the page.
/// - A page with a reference belongs to one pool, and the flags say which. Only without references
///   it goes to the platform, which may hand it out again as a page of another size.
/// - Each pin in the upper half of `refs` comes with a reference in the lower half.
/// - The lower half of `mappings` is the number of leaf entries that map the page, or did and have
///   not been flushed from every processor. Each of them holds one of `refs`. An entry in a shared
///   table counts once.
/// - The upper half of `mappings` is the number of migration entries that name the page. They hold
///   none of `refs`: such entries exist only while migration holds the page. While an entry changes
///   from one kind to the other it counts as both, so the sum is never too small.
/// - `owner` is touched under the page's owner lock, or with exclusive access to the page; see
///   [`rmap`](crate::rmap).
/// - `system` and `take_home` name the system that has the page. A pool with exclusive access to
///   the page writes them. That system may be of another type `P` than this code; then this code
///   does not touch `subpool`, `owner` and `charges`.
/// - `charges` has a value from the first reference of a use to the moment after the last.
#[repr(C, align(64))]
pub struct Page<P: Platform> {
    refs: P::Word,
    mappings: P::Word,
    flags: P::Word,
    subpool: UnsafeCell<Option<Arc<SubPool<P>>>>,
    owner: UnsafeCell<Owner<P>>,
    links: UnsafeCell<Links>,
    /// The address of the system whose pool has the page. A plain atomic suffices: only the pools
    /// write it, and the Release store to `flags` publishes it.
    system: AtomicUsize,
    /// How that system takes the page back.
    take_home: UnsafeCell<Option<TakeHome>>,
    /// Who has paid for the page, from `hand_out` to `strip`. Before that the bytes say nothing.
    charges: UnsafeCell<MaybeUninit<Charges<P>>>,
}

/// [`take_home`] for the type of the page's system. Handles to one platform are platforms of
/// different types. So a walker of a system of one type may drop the last reference to a page of a
/// system of another type. Only the page's own system knows the types of `subpool` and `owner`.
type TakeHome = unsafe fn(NonNull<()>, HugeFrame) -> bool;

/// The file and the offset in it that a page belongs to.
///
/// # Invariants
///
/// If the page is anonymous, `file` accounts for a reference to the file. All-zero bytes mean that
/// the page belongs to no file.
#[repr(C)]
pub(crate) struct Owner<P: Platform> {
    pub(crate) file: Option<Unowned<HugeFile<P>>>,
    pub(crate) index: u64,
}

// SAFETY: atomics may be shared. By the type invariants `subpool`, `owner` and `links` have one
// user at a time.
unsafe impl<P: Platform> Sync for Page<P> {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl<P: Platform> Send for Page<P> {}

impl<P: Platform> Page<P> {
    /// The page has just come from the platform into the pool of this system and size.
    pub(crate) fn reset(&self, system: &Hugetlb<P>, size: HugeSize) {
        self.adopt(system);
        // Relaxed: the page belongs to the pool now, and the pool's lock orders these stores before
        // the next user. Both counts are zero already, or were left so by the last use.
        self.refs.store(0, Ordering::Relaxed);
        self.mappings.store(0, Ordering::Relaxed);
        // Release: pairs with the Acquire in `pooled`, for callers that know only the frame and do
        // not hold the pool's lock.
        self.flags.store(size.bits() << POOLED_SHIFT, Ordering::Release);
    }

    /// The page goes back to the platform.
    pub(crate) fn retire(&self) {
        // Release: pairs with the Acquire in `pooled`. A caller that sees the flags cleared sees
        // the page's last use completed.
        self.flags.store(0, Ordering::Release);
    }

    /// The size of the pool that the page belongs to, if it belongs to one.
    pub(crate) fn pooled(&self) -> Option<HugeSize> {
        HugeSize::from_bits(self.flags.load(Ordering::Acquire) >> POOLED_SHIFT)
    }

    /// The page's links in a list of its pool; the invariants say who may touch them.
    pub(crate) fn links(&self) -> *mut Links {
        self.links.get()
    }

    /// Notes that the page was put into a list, or taken out of one. The caller holds the pool's
    /// lock, or has exclusive access to the page.
    pub(crate) fn set_listed(&self, list: Listed) {
        let list = match list {
            Listed::None => 0,
            Listed::Free => FREE,
            Listed::Poisoned => POISONED,
            Listed::Dissolved => DISSOLVED,
        };
        // Nothing else changes the flags of a free page. Release: as in `reset`, whose value this
        // store replaces.
        let others = self.flags.load(Ordering::Relaxed) & !LISTED;
        self.flags.store(others | list, Ordering::Release);
    }

    /// The list that the page is in, of this system's pool of this size. The caller holds that
    /// pool's lock.
    pub(crate) fn listed(&self, system: &Hugetlb<P>, size: HugeSize) -> Listed {
        // Flags that speak of this pool were written under its lock. A page of another pool is in
        // no list of this one. Acquire: if another system's pool wrote the flags, `is_of` sees
        // that.
        let flags = self.flags.load(Ordering::Acquire);
        match flags & LISTED {
            _ if flags & POOLED != size.bits() << POOLED_SHIFT || !self.is_of(system) => Listed::None,
            FREE => Listed::Free,
            POISONED => Listed::Poisoned,
            DISSOLVED => Listed::Dissolved,
            _ => Listed::None,
        }
    }

    /// Makes a page of the platform, or of another system's pool, one of this system. The caller
    /// has exclusive access to it.
    pub(crate) fn adopt(&self, system: &Hugetlb<P>) {
        // SAFETY: by the type invariants nobody else touches it while the page has no reference.
        unsafe { *self.take_home.get() = Some(take_home::<P>) };
        // Relaxed: the flags, which say that the page belongs to a pool, are stored afterwards,
        // with Release: see `is_of`.
        self.system.store(ptr::from_ref(system).addr(), Ordering::Relaxed);
    }

    /// Does the page belong to a pool of this system? The answer stays the same while the page is
    /// held.
    pub(crate) fn is_of(&self, system: &Hugetlb<P>) -> bool {
        // Relaxed: `pooled` acquires the flags, which `reset` stores after the system.
        self.pooled().is_some() && self.system.load(Ordering::Relaxed) == ptr::from_ref(system).addr()
    }

    /// Leaf entries that map the page.
    #[must_use]
    pub fn mapcount(&self) -> u64 {
        // Acquire: pairs with the Release in `remove_mapping`. A caller that finds the page
        // unmapped comes after the flush that preceded each decrement.
        self.mappings.load(Ordering::Acquire) & (MIGRATION - 1)
    }

    /// References: mappings, the page cache, pins.
    #[must_use]
    pub fn references(&self) -> u64 {
        // Acquire: pairs with the AcqRel in `put` and the Release in `thaw`. A caller that finds a reference gone comes
        // after what its holder did.
        self.refs.load(Ordering::Acquire) & (PIN - 1)
    }

    /// Pins: references whose holders read or write the contents without the page tables, and rely
    /// on the address space to keep seeing the same page. Linux: `folio_maybe_dma_pinned()`.
    #[must_use]
    pub fn pins(&self) -> u64 {
        // SeqCst: fork makes a page shared and then looks for pins; `gup` pins and then looks
        // whether the page is shared. See `mm::fork`.
        self.refs.load(Ordering::SeqCst) / PIN
    }

    /// Is this a page of private mappings that exactly one entry maps? Then the address space with
    /// that entry has the page to itself. A migration entry, which will map the page again, counts
    /// too.
    ///
    /// Linux: `PageAnonExclusive`.
    pub(crate) fn is_exclusive(&self) -> bool {
        // SeqCst: as for `pins`. One load reads both counts at the same moment.
        self.is_anon() && self.mappings.load(Ordering::SeqCst) == MAPPING
    }

    /// Does it belong to private mappings and not to a file?
    #[must_use]
    pub fn is_anon(&self) -> bool {
        // Acquire: pairs with the AcqRel in `set_anon`.
        self.flags.load(Ordering::Acquire) & ANON != 0
    }

    /// Has memory failure hit it?
    #[must_use]
    pub fn is_hwpoison(&self) -> bool {
        // Acquire: pairs with the AcqRel in `poison`.
        self.flags.load(Ordering::Acquire) & HWPOISON != 0
    }

    /// Marks the page as one of private mappings. [`rmap`](crate::rmap) sets the owner before.
    pub(crate) fn set_anon(&self) {
        // Release: pairs with the Acquire in `is_anon`, so a caller that sees the flag sees the
        // owner. All changes of flags are read-modify-writes, so no bit is lost.
        self.flags.fetch_or(ANON, Ordering::AcqRel);
    }

    /// Has it reached the entry or file that it was allocated for?
    pub(crate) fn is_in_use(&self) -> bool {
        // Acquire: pairs with the AcqRel in `put_to_use`.
        self.flags.load(Ordering::Acquire) & IN_USE != 0
    }

    /// Marks the page as hit by memory failure. False if it was marked before.
    pub(crate) fn poison(&self) -> bool {
        // AcqRel: pairs with the Acquire in `is_hwpoison`. The fault mutex keeps a fault from
        // mapping the page meanwhile. The pool sees the mark because of its own lock, or of the
        // reference that the caller holds.
        self.flags.fetch_or(HWPOISON, Ordering::AcqRel) & HWPOISON == 0
    }

    /// The page turned out to be sound. The caller holds the pool's lock, and the page is free.
    pub(crate) fn heal(&self) {
        // The pool's lock orders this, and the two functions below, against callers that hold it.
        // AcqRel: pairs with the Acquire in `is_hwpoison`, which is called without that lock.
        self.flags.fetch_and(!(HWPOISON | DISSOLVED_SURPLUS), Ordering::AcqRel);
    }

    /// Notes that the pool counted this dissolved page as a surplus page. The caller holds the
    /// pool's lock.
    pub(crate) fn set_dissolved_surplus(&self) {
        self.flags.fetch_or(DISSOLVED_SURPLUS, Ordering::AcqRel);
    }

    pub(crate) fn is_dissolved_surplus(&self) -> bool {
        self.flags.load(Ordering::Acquire) & DISSOLVED_SURPLUS != 0
    }

    /// Migration entries that name the page.
    pub(crate) fn moving(&self) -> u64 {
        // Acquire: pairs with the Release of `remove_migration`.
        self.mappings.load(Ordering::Acquire) / MIGRATION
    }

    /// Counts one more migration entry that names the page. Called before the entry is stored.
    pub(crate) fn add_migration(&self) {
        // The store of the entry comes after this by its own Release, which pairs with the reader's
        // Acquire (`TableRef::read`).
        self.mappings.fetch_add(MIGRATION, Ordering::AcqRel);
    }

    /// Counts one migration entry less. Called after the entry was cleared.
    pub(crate) fn remove_migration(&self) {
        // Release: pairs with the Acquire in `moving`. Migration, which waits for zero, sees the
        // entries changed.
        self.mappings.fetch_sub(MIGRATION, Ordering::AcqRel);
    }

    /// Takes all references at once, if there are exactly `references` and no pins. No new one can
    /// be taken until [`thaw`](Self::thaw). The caller owns all of them, or holds the lock under
    /// which their other owner would drop them.
    ///
    /// Linux: `folio_ref_freeze()`.
    pub(crate) fn freeze(&self, references: u64) -> bool {
        // SeqCst: migration took the page out of the entries before this. A lockless walker that
        // took its reference before this rechecks the entry afterwards. So one of the two notices
        // the other.
        self.refs.compare_exchange(references, 0, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// Ends what [`freeze`](Self::freeze) began.
    pub(crate) fn thaw(&self, references: u64) {
        // Release: pairs with the Acquire half of the exchange in `try_hold`. The next holder finds
        // the page as the holder of the frozen references left it.
        self.refs.store(references, Ordering::Release);
    }

    /// The note of the page's owner; the invariants say who may touch it.
    pub(crate) fn owner(&self) -> *mut Owner<P> {
        self.owner.get()
    }

    /// Passes `old`'s use on to this page: the mount that counts it, who has paid for it, and its kind. The owner is
    /// passed on separately.
    ///
    /// Linux: `move_hugetlb_state()` in mm/hugetlb.c.
    ///
    /// # Safety
    ///
    /// The caller has frozen `old`, and has exclusive access to this page, which was never in use.
    pub(crate) unsafe fn inherit(&self, old: &Self) {
        // SAFETY: `old` is frozen, so nothing else touches it.
        let subpool = unsafe { (*old.subpool.get()).take() };
        // SAFETY: the caller has exclusive access to this page.
        unsafe { *self.subpool.get() = subpool };
        // SAFETY: likewise for both; both have been handed out. Nobody has paid for this one.
        unsafe { ptr::swap(self.charges.get(), old.charges.get()) };
        // AcqRel: these pair with the Acquire in `is_anon` and `is_in_use`. No other code holds
        // either page, so only speculative lookups read the flags meanwhile.
        let kind = old.flags.fetch_and(KEPT, Ordering::AcqRel) & (ANON | IN_USE);
        self.flags.fetch_or(kind, Ordering::AcqRel);
    }

    /// Counts one more leaf entry that maps the page, and adds a reference for it. The caller holds
    /// a reference, and keeps it.
    pub(crate) fn add_mapping(&self) {
        self.hold();
        self.add_mapping_of_held();
    }

    /// Counts one more leaf entry that maps the page. A reference of the caller's becomes that entry's.
    fn add_mapping_of_held(&self) {
        // SeqCst: as for `pins`.
        self.mappings.fetch_add(MAPPING, Ordering::SeqCst);
    }

    /// Counts one leaf entry less. The entry's reference passes to the caller.
    pub(crate) fn remove_mapping(&self) {
        // Release: pairs with the loads in `mapcount` (Acquire) and `is_exclusive` (SeqCst). The
        // flush comes before this: a caller that finds the page mapped once may take it over.
        self.mappings.fetch_sub(MAPPING, Ordering::AcqRel);
    }

    /// Adds a reference. The caller holds one already, or the lock under which another holder would
    /// drop its own.
    pub(crate) fn hold(&self) {
        // Relaxed: the caller's reference, or its lock, keeps the page and orders its contents. The
        // AcqRel in `put` drops the new one.
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
            // SeqCst: as for `pins`. Its Acquire half pairs with the Release in `hand_out`, and
            // with those of earlier puts. So if this is the page's next life, the entry that was
            // cleared before is seen cleared.
            match self.refs.compare_exchange(now, now + weight, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => now = other,
            }
        }
    }

    /// Hands the page from the pool to its first holder, with one reference. `charges` say who has paid for it.
    ///
    /// # Safety
    ///
    /// The caller took the page out of the pool and has exclusive access to it.
    pub(crate) unsafe fn hand_out(
        &self,
        subpool: Option<Arc<SubPool<P>>>,
        charges: Charges<P>,
        restore_reserve: bool,
    ) {
        // SAFETY: by the type invariants nobody else touches it while the page has no reference.
        unsafe { *self.subpool.get() = subpool };
        // SAFETY: likewise. `strip` has taken the last value out.
        unsafe { *self.charges.get() = MaybeUninit::new(charges) };
        // Nothing else changes the flags of a page without references that is in no list. Relaxed: as
        // in `set_listed`, whose Release store this one replaces without changing what it published;
        // and the Release below orders it before the first reference.
        let kept = self.flags.load(Ordering::Relaxed) & KEPT;
        let restore = if restore_reserve { RESTORE_RESERVE } else { 0 };
        self.flags.store(kept | restore, Ordering::Release);
        // Release: a caller that takes a reference after this sees the fields above.
        self.refs.store(REFERENCE, Ordering::Release);
    }

    /// Freeing the page restores its reservation.
    pub(crate) fn restore_reserve(&self) {
        // `strip` reads the flag after the last reference is gone; the AcqRel of `put` orders the
        // two. The same holds for `forget_reserve` and `put_to_use`.
        self.flags.fetch_or(RESTORE_RESERVE, Ordering::AcqRel);
    }

    /// Freeing the page does not restore a reservation.
    pub(crate) fn forget_reserve(&self) {
        self.flags.fetch_and(!RESTORE_RESERVE, Ordering::AcqRel);
    }

    /// The page is in use: it has reached the file that it was allocated for, or the entry, whose
    /// table is locked. Freeing it later does not restore its reservation.
    pub(crate) fn put_to_use(&self) {
        let mut now = self.flags.load(Ordering::Relaxed);
        // AcqRel: pairs with the Acquire in `is_in_use`. A caller that sees the flag finds the owner
        // noted, and the page in place once it has the lock of that place.
        while let Err(other) = self.flags.compare_exchange(
            now,
            now & !RESTORE_RESERVE | IN_USE,
            Ordering::AcqRel,
            Ordering::Relaxed,
        ) {
            now = other;
        }
    }

    /// Takes out of a page without references what goes back to the pool with it, and the file that
    /// it kept alive.
    ///
    /// # Safety
    ///
    /// The caller dropped the last reference.
    unsafe fn strip(&self) -> Stripped<P> {
        // SAFETY: by the type invariants nobody else touches it while the page has no reference.
        let subpool = unsafe { (*self.subpool.get()).take() };
        // SAFETY: likewise.
        let charges = unsafe { &*self.charges.get() };
        // SAFETY: `hand_out` has put a value in, and it is not used again.
        let charges = unsafe { charges.assume_init_read() };
        // SAFETY: likewise.
        let owner = unsafe { &mut *self.owner.get() };
        let (file, index) = (owner.file.take(), owner.index);
        // Nothing else changes the flags of a page without references that is in no list. Relaxed: the
        // AcqRel of `put` orders it after the last holder's changes. Release: as in `reset`.
        let flags = self.flags.load(Ordering::Relaxed);
        self.flags.store(flags & KEPT, Ordering::Release);
        // SAFETY: by the invariants of `Owner` an anonymous page accounts for a reference, and its
        // note was taken out above.
        let file = file.filter(|_| flags & ANON != 0).map(|file| unsafe { file.reclaim() });
        Stripped {
            size: size_of_pool(flags),
            subpool,
            charges,
            restore: flags & RESTORE_RESERVE != 0,
            index: (flags & ANON != 0).then_some(index),
            file,
        }
    }
}

/// The size that the flags of a held page name. By the invariants of [`Page`] a held page belongs
/// to one pool.
fn size_of_pool(flags: u64) -> HugeSize {
    let size = HugeSize::from_bits(flags >> POOLED_SHIFT);
    debug_assert!(size.is_some(), "a held page belongs to no pool");
    size.unwrap_or(HugeSize::NONE)
}

impl<P: Platform> Hugetlb<P> {
    /// The record of a page.
    pub(crate) fn page(&self, frame: HugeFrame) -> &Page<P> {
        const { assert!(fits::<Page<P>, PageRecord>()) };
        // SAFETY: callers got the frame from the pool, from an entry, or from `has_page_record`.
        let record = unsafe { self.platform().page_record(frame) };
        // SAFETY: by the contract of `Platform` the memory stays a record for ever. It is all zero
        // before its first use, which means a free page.
        unsafe { record.cast().as_ref() }
    }
}
