//! Table pages: entries, and beside them a record with the lock, the share count and the generation.
//!
//! # Life of a table
//!
//! One address space makes a table; no other thread can reach it yet.
//!
//! - It is *published* when its parent entry is stored: from then on walkers find it.
//! - It is *shared* when another address space stores it in a parent entry of its own.
//! - It is *detached* when a parent entry is cleared, under the table's lock. The generation goes up after
//!   that.
//! - It is *retired* when its last user has detached it: the table goes to RCU, which frees it after a
//!   grace period, together with its record (lock, counts and all). This is P1 of [the rule](crate::walk).

mod group;
mod slot;

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use lock_api::RawMutex;

pub use self::slot::{Alive, Kind, LockedSlot, Slot, Stable, Unconfirmed, Unshared};
pub(crate) use self::slot::{LockedTable, Place};

use crate::addr::TableFrame;
use crate::arch::{EMPTY, Paging};
use crate::error::OutOfMemory;
use crate::hugetlb::Hugetlb;
use crate::platform::{Barriers, Event, Platform, TableRecord, fits};
use crate::protocol::{self, Step, keeps};
use crate::rcu::RcuHead;
use crate::sync::Word;
use crate::task::Task;

/// The record of a table page: what Linux keeps in `struct ptdesc`.
///
/// Every walker reads the first cache line; only sharing and unsharing write it. The lock, which every
/// fault writes, has a line of its own.
///
/// # Invariants
///
/// - `users`, the share count, is the number of parent entries that point to the table, less one, whenever
///   `i_mmap` of the file it maps is free. A table is shared only while it holds leaves whose size says so.
/// - `below` is never less than the number of tables, the engine's and the host's, that its entries point to. It is that
///   number whenever the table is locked, unless an entry is just being cleared.
/// - `generation` goes up after each clearing of a parent entry and never comes back to a value it had.
/// - `rcu` is touched only by the gather that owns the retired table, and by RCU.
/// - `hugetlb` points to the system that made the table, which outlives it.
#[repr(C, align(64))]
pub(crate) struct Table<P: Platform> {
    rcu: UnsafeCell<RcuHead>,
    generation: P::Word,
    users: P::Word,
    frame: TableFrame,
    hugetlb: NonNull<Hugetlb<P>>,
    below: P::Word,
    lock: OwnLine<P::TableLock>,
}

#[repr(align(64))]
struct OwnLine<T>(T);

// SAFETY: the atomics and the lock are made to be shared; `rcu` has one owner at a time by the type invariants; the
// system behind `hugetlb` is `Sync`.
unsafe impl<P: Platform> Sync for Table<P> {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl<P: Platform> Send for Table<P> {}

/// A table that is alive for `'a`.
///
/// # Invariants
///
/// The table page and its record stay allocated for `'a`: by a proof, by ownership, or because it is a root. `entries` is the
/// first of the entries of the page, which are atomics.
pub(crate) struct TableRef<'a, P: Platform> {
    record: &'a Table<P>,
    entries: NonNull<P::Word>,
    page: PhantomData<&'a [P::Word]>,
}

// SAFETY: it stands for shared references to the record and to the entries, both of which are `Sync`.
unsafe impl<P: Platform> Send for TableRef<'_, P> {}
// SAFETY: likewise.
unsafe impl<P: Platform> Sync for TableRef<'_, P> {}

impl<P: Platform> Clone for TableRef<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P: Platform> Copy for TableRef<'_, P> {}

impl<'a, P: Platform> TableRef<'a, P> {
    /// The table in `frame`.
    ///
    /// # Safety
    ///
    /// `frame` holds a table made by [`OwnedTable::new`] of this platform, and it is not freed during `'a`.
    #[inline]
    pub(crate) unsafe fn from_frame(platform: &'a P, frame: TableFrame) -> Self {
        // SAFETY: the frame is allocated, by this function's contract.
        let (record, entries) =
            (unsafe { platform.table_record(frame) }, unsafe { platform.table_entries(frame) });
        // SAFETY: by the contract of `Platform` the record's memory is valid; the engine wrote it when it made the table.
        let record = unsafe { record.cast().as_ref() };
        // INVARIANT: by the contract of this function and of `Platform`.
        Self { record, entries, page: PhantomData }
    }

    #[inline]
    pub(crate) fn entry(self, paging: &P::Paging, index: usize) -> &'a P::Word {
        // The processor masks the index in the same way.
        let index = index & (paging.geometry().table_entries() - 1);
        // SAFETY: by the type invariants, and the contract of `Platform`, a table page has this many entries.
        let entry = unsafe { self.entries.add(index) };
        // SAFETY: as above; entries are atomics, and stay for `'a`.
        unsafe { entry.as_ref() }
    }

    /// The index of an entry of this table.
    pub(crate) fn index_of(self, entry: &P::Word) -> usize {
        (core::ptr::from_ref(entry).addr() - self.entries.as_ptr().addr()) / size_of::<P::Word>()
    }

    pub(crate) fn frame(self) -> TableFrame {
        self.record.frame
    }

    /// The share count: how many parent entries point here, less one.
    pub(crate) fn users(self) -> u64 {
        // SeqCst: see `add_below`. As an Acquire it pairs with `add_user` and `remove_user`. A caller that acts on the answer holds `i_mmap`
        // in write, or the table's lock with the mmap lock in write; either orders it already. To other
        // callers it is a hint.
        self.record.users.load(Ordering::SeqCst)
    }

    /// Raises the share count by one; returns the new count. The caller holds `i_mmap` in read, under which
    /// the count does not fall.
    pub(crate) fn add_user(self) -> u64 {
        // Several tasks may count up at a time under `i_mmap` in read, and each has to see the others'
        // counts: any read-modify-write does. `i_mmap` orders it against `remove_user`. SeqCst for `add_below`.
        self.record.users.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Lowers the share count by one; returns how many address spaces still use the table.
    pub(crate) fn remove_user(self) -> u64 {
        // The count leaves one user out, so its old value is the number of users that are left.
        //
        // Release: pairs with the Acquire of `users` in a user that finds itself alone, and with that of
        // the next `remove_user`. So what this user did to the table comes before the last user retires it.
        // `i_mmap` orders it too, except in `share`, which takes back its own count under `i_mmap` in read.
        self.record.users.fetch_sub(1, Ordering::AcqRel)
    }

    /// How many tables its entries point to. While the table is locked, the number only falls.
    pub(crate) fn below(self) -> u64 {
        // SeqCst: see `add_below`. As an Acquire it pairs with the Release in `remove_below`: a caller that sees 0 sees the
        // entries cleared.
        self.record.below.load(Ordering::SeqCst)
    }

    /// Counts one more table that an entry is about to point to. The caller has locked this table.
    pub(crate) fn add_below(self) {
        // SeqCst, like `add_user`, and the loads of the other count that follow each of the two: a table that becomes
        // shared and gets a table of the host's at the same time is noticed by one of them at least.
        self.record.below.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts a table out, once the entry that pointed to it was cleared.
    pub(crate) fn remove_below(self) {
        // Release: pairs with the Acquire in `below`.
        self.record.below.fetch_sub(1, Ordering::AcqRel);
    }

    /// See P3 in [`walk`](crate::walk). Acquire: pairs with the Release in [`TableRef::bump_generation`].
    #[inline]
    pub(crate) fn generation(self) -> u64 {
        self.record.generation.load(Ordering::Acquire)
    }

    /// Counts the generation up. The caller has just cleared the parent entry, with the table lock held.
    ///
    /// Release: pairs with the Acquire in [`generation`](TableRef::generation), so a reader that sees the
    /// new count sees the parent entry cleared.
    pub(crate) fn bump_generation(self) {
        if keeps::<P>(Step::BumpGeneration) {
            self.record.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub(crate) fn lock_raw(self) {
        self.record.lock.0.lock();
    }

    /// # Safety
    ///
    /// The caller holds the table's lock.
    pub(crate) unsafe fn unlock_raw(self) {
        // SAFETY: passed on to the caller.
        unsafe { self.record.lock.0.unlock() };
    }
}

/// A table that only its maker can reach. Dropping it frees it at once: no walker can have found it.
///
/// # Invariants
///
/// `frame` is allocated, its record is initialised, and no parent entry points to it.
pub(crate) struct OwnedTable<'h, P: Platform> {
    hugetlb: &'h Hugetlb<P>,
    frame: TableFrame,
}

impl<'h, P: Platform> OwnedTable<'h, P> {
    /// A table of empty entries. Sleeps, as the platform may have to for memory.
    pub(crate) fn new(hugetlb: &'h Hugetlb<P>, _task: &mut Task<P>) -> Result<Self, OutOfMemory> {
        Self::root(hugetlb)
    }

    /// The root of a new address space, which is made without a task.
    pub(crate) fn root(hugetlb: &'h Hugetlb<P>) -> Result<Self, OutOfMemory> {
        let platform = hugetlb.platform();
        let frame = platform.alloc_table().ok_or(OutOfMemory)?;
        // A frame that is too large would set a reserved bit of an entry.
        assert!(
            frame.fits(),
            "the platform broke its contract: alloc_table() returned {frame:?}, which no entry can name"
        );
        // SAFETY: allocated just now.
        let (place, entries) =
            (unsafe { platform.table_record(frame) }, unsafe { platform.table_entries(frame) });
        debug_assert!(
            // SAFETY: only this function can reach the entries yet, so many are in a table page, and they have the
            // representation of a `u64`.
            unsafe {
                NonNull::slice_from_raw_parts(
                    entries.cast::<u64>(),
                    hugetlb.paging().geometry().table_entries(),
                )
                .as_ref()
            }
            .iter()
            .all(|&entry| entry == EMPTY),
            "the platform broke its contract: alloc_table() returned {frame:?}, whose entries are not all zero"
        );
        let record = Table {
            rcu: UnsafeCell::new(RcuHead::new(free_table::<P>)),
            generation: <P as Barriers>::Word::new(0),
            users: <P as Barriers>::Word::new(0),
            frame,
            hugetlb: NonNull::from(hugetlb),
            below: <P as Barriers>::Word::new(0),
            lock: OwnLine(P::TableLock::INIT),
        };
        const {
            assert!(fits::<Table<P>, TableRecord>(), "a table lock has at most 64 bytes: see `TableRecord`");
        };
        // SAFETY: by the contract of `Platform`, only this function can reach the record of a frame just
        // allocated; a `Table` fits.
        unsafe { place.cast().write(record) };
        // INVARIANT: allocated and initialised above, stored nowhere yet.
        Ok(Self { hugetlb, frame })
    }

    pub(crate) fn frame(&self) -> TableFrame {
        self.frame
    }

    /// The frame, for the entry that publishes the table. From then on the owner of that entry detaches and
    /// retires it.
    pub(crate) fn into_frame(self) -> TableFrame {
        let frame = self.frame;
        core::mem::forget(self);
        frame
    }
}

impl<P: Platform> Drop for OwnedTable<'_, P> {
    fn drop(&mut self) {
        // SAFETY: by the type invariants no parent entry points to it, so no walker has found it.
        unsafe { self.hugetlb.platform().free_table(self.frame) };
    }
}

/// Tables that their last user has detached, on their way to RCU. The links lie in the tables' own records,
/// so adding one needs no memory.
///
/// # Invariants
///
/// Each table in the list was detached by its last user, is in no other list, and is alive.
pub(crate) struct Retired {
    first: *mut RcuHead,
}

impl Retired {
    pub(crate) const fn new() -> Self {
        Self { first: core::ptr::null_mut() }
    }

    /// # Safety
    ///
    /// The caller detached `table` as its last user: no parent entry points to it, and none ever will.
    pub(crate) unsafe fn push<P: Platform>(&mut self, hugetlb: &Hugetlb<P>, table: TableRef<'_, P>) {
        // The pointer is made from the platform's pointer to the whole record, not from a reference to the
        // head in it, because the callback goes back from the head to the record. The head is the first
        // field of a `repr(C)` struct, so the addresses are the same.
        // SAFETY: by the invariants of `TableRef`, the frame is allocated and its record stays.
        let head = unsafe { hugetlb.platform().table_record(table.frame()) }.cast::<RcuHead>().as_ptr();
        // SAFETY: by this function's contract and the invariants of `Table`, this list owns the head now.
        unsafe { (*head).next = self.first };
        self.first = head;
    }

    /// Hands all of them to RCU. The translations that led to them have been flushed already.
    pub(crate) fn free_after_grace_period<P: Platform>(&mut self, hugetlb: &Hugetlb<P>, mm: u64) {
        while let Some(head) = NonNull::new(self.first) {
            // SAFETY: by the type invariants the head is alive, and this list owns it.
            self.first = unsafe { (*head.as_ptr()).next };
            hugetlb.platform().trace(Event::TableRetired { mm });
            // SAFETY: the record stays until its callback, which may run on any thread, frees it.
            unsafe { protocol::call(hugetlb.rcu(), hugetlb.platform(), head) };
        }
    }
}

/// The callback of a retired table.
///
/// # Safety
///
/// `head` is the `rcu` of a [`Table`] of `P` whose grace period is over.
unsafe fn free_table<P: Platform>(head: NonNull<RcuHead>) {
    // `Retired::push` made it from a pointer to the record.
    let record = head.cast::<Table<P>>();
    // SAFETY: the record lives until `free_table` below.
    let Table { hugetlb, frame, .. } = *unsafe { record.as_ref() };
    // SAFETY: by the invariants of `Table` its system outlives it: the system's drop waits for RCU.
    let hugetlb = unsafe { hugetlb.as_ref() };
    // SAFETY: the grace period is over and the table was detached by its last user.
    unsafe { hugetlb.platform().free_table(frame) };
}

/// Reads an entry. Acquire: pairs with the Release of every store to an entry (`LockedSlot::replace_entry`,
/// `Place::attach` and `detach`). So the table or page found behind it is seen as it was published.
#[inline]
pub(crate) fn read<W: Word>(entry: &W) -> u64 {
    entry.load(Ordering::Acquire)
}
