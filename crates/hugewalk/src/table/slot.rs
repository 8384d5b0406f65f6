//! Slots: the place of one entry, and the operations that a walk's proof allows on it.

use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::sync::atomic::Ordering;

use thiserror::Error;

use super::{TableRef, index_of, read};
use crate::addr::{HugeSize, TableFrame, VirtAddr};
use crate::arch::{Entry, RawEntry};
use crate::platform::{Platform, Protocol, Step};
use crate::sync::Word;
use crate::task::{Task, TaskStaysOnItsThread};

mod sealed {
    pub trait Sealed {}
}

/// What a proof says of the table a slot lies in: [`Stable`] or [`Alive`].
pub trait Kind: sealed::Sealed {}

/// The table stays where it is in the address space: a lock excludes unsharing.
#[derive(Debug)]
pub enum Stable {}

/// The table is not freed, but it may be unshared at any moment. So each access checks whether it still
/// belongs to the address space.
///
/// Such a slot stays on the thread of its read section. Its lock relies on that section to keep the task
/// from sleeping; on another thread it would be the wrong task.
#[derive(Debug)]
pub struct Alive(PhantomData<TaskStaysOnItsThread>);

impl sealed::Sealed for Stable {}
impl sealed::Sealed for Alive {}
impl Kind for Stable {}
impl Kind for Alive {}

/// The table was taken out of the address space since the walk. Walk again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the table was unshared since the walk")]
pub struct Unshared;

/// Where a walk ended: an entry, and the parent entry through which its table was found.
pub(crate) struct Place<'p, P: Platform> {
    pub(crate) table: TableRef<'p, P>,
    /// The entry.
    pub(crate) word: &'p P::Word,
    pub(crate) parent: &'p P::Word,
    /// What the parent entry said.
    pub(crate) parent_entry: RawEntry,
}

impl<P: Platform> Clone for Place<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P: Platform> Copy for Place<'_, P> {}

impl<'p, P: Platform> Place<'p, P> {
    /// Reads the entry, as it is just now.
    #[inline]
    pub(crate) fn read(&self) -> RawEntry {
        read(self.word)
    }

    /// Does the parent entry still point to the table? Compares the table's frame alone: the processor may have set
    /// the accessed bit meanwhile.
    ///
    /// Acquire: in a confirmation, the loads keep their order (P3). Under the table lock the lock has
    /// ordered them already, since a parent entry is only cleared under it (P2).
    #[inline]
    fn is_attached(&self) -> bool {
        let now = RawEntry::from_bits(self.parent.load(Ordering::Acquire));
        now == self.parent_entry || now.table() == Some(self.table.frame())
    }

    /// Makes the entry, which is empty, point to a table. The caller holds the lock that populating the entry takes.
    pub(crate) fn attach(&self, table: TableFrame) {
        // Release: a walker that follows the entry sees the table's record and its entries. Pairs with the Acquire of
        // `TableRef::read`.
        self.word.store(RawEntry::from(Entry::Table(table)).bits(), Ordering::Release);
    }

    /// Clears the parent entry of the table, which the caller has locked, then counts the table's generation up. P3 relies
    /// on this order.
    ///
    /// Linux: `pud_clear()` in `huge_pmd_unshare()`; Linux has no generation.
    pub(crate) fn detach(&self) {
        if !P::Protocol::keeps(Step::BumpAfterClear) {
            self.table.bump_generation();
        }
        // Release, as for every store to an entry. P3 rests on the Release of the counting that follows, which
        // pairs with the Acquire in `generation`.
        self.parent.store(0, Ordering::Release);
        if P::Protocol::keeps(Step::BumpAfterClear) {
            self.table.bump_generation();
        }
    }

    /// Locks the table. Spins; nothing may sleep until the guard is gone (it keeps `task` borrowed).
    pub(crate) fn lock<'s>(self, task: &'s Task<P>) -> LockedSlot<'s, P>
    where
        'p: 's,
    {
        let _ = task;
        self.lock_in_section()
    }

    /// As [`lock`](Self::lock), for a `'p` that lies inside a read section. The section keeps the task
    /// borrowed already.
    fn lock_in_section<'s>(self) -> LockedSlot<'s, P>
    where
        'p: 's,
    {
        self.table.lock_raw();
        // INVARIANT: locked just above.
        LockedSlot { place: self, _stays: TaskStaysOnItsThread::MARK }
    }
}

/// The place of one entry. Linux: `pte_t *`.
///
/// A slot is reached only through a proof, and cannot outlive the lock or the read section it was found
/// under. What it allows depends on the kind of proof; see [`walk`](crate::walk).
pub struct Slot<'p, P: Platform, K: Kind> {
    place: Place<'p, P>,
    kind: PhantomData<K>,
}

impl<'p, P: Platform, K: Kind> Slot<'p, P, K> {
    /// The caller's proof is of kind `K` and lasts for `'p`.
    pub(crate) fn new(place: Place<'p, P>) -> Self {
        Self { place, kind: PhantomData }
    }
}

impl<'p, P: Platform> Slot<'p, P, Stable> {
    /// Reads the entry. The table belongs to the address space; the entry itself may change at any moment,
    /// unless the table lock is held too.
    #[inline]
    #[must_use]
    pub fn read(&self) -> Entry {
        self.place.read().decode()
    }

    /// Locks the table. Spins; nothing may sleep until the guard is gone (it keeps `task` borrowed). `task` should be one of
    /// this system: see [`task`](crate::task#a-task-of-another-system).
    pub fn lock<'s>(&self, task: &'s Task<P>) -> LockedSlot<'s, P>
    where
        'p: 's,
    {
        self.place.lock(task)
    }

    /// How many address spaces use the table besides this one.
    #[must_use]
    pub fn sharers(&self) -> u64 {
        self.place.table.users()
    }

    /// Reads another entry of the same table.
    pub(crate) fn read_beside(&self, index: usize) -> Entry {
        self.place.table.read(index).decode()
    }

    /// A number that tells tables apart, as long as they live.
    pub(crate) fn table_identity(&self) -> u64 {
        self.place.table.frame().0
    }

    /// Works on this slot with its table locked. The table may be the one that `held` has locked already.
    pub(crate) fn lock_beside<R>(
        &self,
        held: &LockedSlot<'_, P>,
        task: &Task<P>,
        work: impl FnOnce(&LockedSlot<'_, P>) -> R,
    ) -> R {
        if self.place.table.frame() != held.place.table.frame() {
            return work(&self.place.lock(task));
        }
        // INVARIANT: locked by `held`, which outlives the call and unlocks it.
        work(&*ManuallyDrop::new(LockedSlot { place: self.place, _stays: TaskStaysOnItsThread::MARK }))
    }
}

impl<'p, P: Platform> Slot<'p, P, Alive> {
    /// Reads the entry, confirmed: it belonged to this address space at the moment it was read (P3).
    ///
    /// # Errors
    ///
    /// [`Unshared`]: the table was taken away meanwhile; walk again.
    #[inline]
    pub fn read(&self) -> Result<Entry, Unshared> {
        self.peek()?.confirm()
    }

    /// Reads the entry without confirming it yet, for a caller that must do something in between, such as
    /// taking a reference to the page. Only [`Unconfirmed::confirm`] gives out what was read.
    ///
    /// # Errors
    ///
    /// [`Unshared`]: the table was taken away since the walk; walk again.
    #[inline]
    pub fn peek(&self) -> Result<Unconfirmed<'_, P>, Unshared> {
        // The generation first, then the parent entry. If an unshare has counted up before this, the
        // cleared parent entry is seen here; if it counts up later, the confirmation sees the new
        // generation.
        let confirmed = P::Protocol::keeps(Step::ConfirmGeneration);
        let note = || if confirmed { self.place.table.generation() } else { 0 };
        let first = P::Protocol::keeps(Step::NoteGenerationFirst).then(note);
        if P::Protocol::keeps(Step::ConfirmParent) && !self.place.is_attached() {
            return Err(Unshared);
        }
        let generation = first.unwrap_or_else(note);
        let entry = self.place.read();
        Ok(Unconfirmed { place: &self.place, generation, entry })
    }

    /// Moves on to the entry for another address in the same table; `size` is that of the table's leaves.
    pub(crate) fn move_to(&mut self, address: VirtAddr, size: HugeSize) {
        self.place.word = self.place.table.entry(index_of(address, size.shift()));
    }

    /// How many others used the table a moment ago.
    pub(crate) fn sharers_hint(&self) -> u64 {
        self.place.table.users()
    }

    /// Locks the table and checks that it still belongs to the address space (P2). Spins.
    ///
    /// # Errors
    ///
    /// [`Unshared`]: the table was taken away since the walk; walk again.
    pub fn lock(&self) -> Result<LockedSlot<'_, P>, Unshared> {
        let locked = self.place.lock_in_section();
        // A detach takes the lock that was just taken, so the answer holds as long as the lock is held.
        if P::Protocol::keeps(Step::Revalidate) && !self.place.is_attached() {
            return Err(Unshared);
        }
        Ok(locked)
    }
}

/// An entry that was read without a lock and not yet confirmed.
#[must_use = "an entry read under RCU means nothing until it is confirmed"]
pub struct Unconfirmed<'s, P: Platform> {
    place: &'s Place<'s, P>,
    generation: u64,
    entry: RawEntry,
}

impl<P: Platform> Unconfirmed<'_, P> {
    /// The entry, if the table has belonged to the address space from before the read until now.
    ///
    /// # Errors
    ///
    /// [`Unshared`]: it has not; walk again.
    #[inline]
    pub fn confirm(self) -> Result<Entry, Unshared> {
        self.check()?;
        Ok(self.entry.decode())
    }

    /// What was read, not confirmed: good for taking a reference to the page and for nothing else. The page
    /// may be a foreign one; only [`confirm_unchanged`](Self::confirm_unchanged) tells, afterwards.
    #[inline]
    pub(crate) fn unconfirmed(&self) -> Entry {
        self.entry.decode()
    }

    /// As [`confirm`](Self::confirm), and also checks that the entry has not changed since it was read.
    ///
    /// # Errors
    ///
    /// [`Unshared`]: one of the two has changed; walk again.
    #[inline]
    pub fn confirm_unchanged(self) -> Result<Entry, Unshared> {
        // SeqCst, as is the exchange in `LockedSlot::replace_entry`. Either the task that pinned the page before
        // this load sees that the entry has lost the right to write, or the task that took this right away
        // sees the pin (see `mm::fork`).
        let now = self.place.word.load(Ordering::SeqCst);
        if P::Protocol::keeps(Step::ConfirmEntry) && RawEntry::from_bits(now) != self.entry {
            return Err(Unshared);
        }
        self.confirm()
    }

    #[inline]
    fn check(&self) -> Result<(), Unshared> {
        // The loads before this one are Acquire, so none of them is delayed past it; parent, then generation.
        if P::Protocol::keeps(Step::ConfirmParentFirst) {
            self.check_parent()?;
            self.check_generation()
        } else {
            self.check_generation()?;
            self.check_parent()
        }
    }

    #[inline]
    fn check_parent(&self) -> Result<(), Unshared> {
        if P::Protocol::keeps(Step::ConfirmParent) && !self.place.is_attached() {
            return Err(Unshared);
        }
        Ok(())
    }

    #[inline]
    fn check_generation(&self) -> Result<(), Unshared> {
        if P::Protocol::keeps(Step::ConfirmGeneration) && self.place.table.generation() != self.generation {
            return Err(Unshared);
        }
        Ok(())
    }
}

/// A slot whose table is locked. The table belongs to the address space as long as the lock is held. Dropping it releases the
/// lock.
///
/// Neither `Send` nor `Sync`: the task that locked the table must not sleep, and is the one that unlocks
/// it.
///
/// # Invariants
///
/// The lock of the table is held by this guard.
#[must_use = "the table is unlocked when this is dropped"]
pub struct LockedSlot<'s, P: Platform> {
    place: Place<'s, P>,
    _stays: TaskStaysOnItsThread,
}

impl<'s, P: Platform> LockedSlot<'s, P> {
    /// The entry.
    #[must_use]
    pub fn read(&self) -> Entry {
        self.raw().decode()
    }

    /// How many address spaces use the table besides this one.
    #[must_use]
    pub fn sharers(&self) -> u64 {
        self.place.table.users()
    }

    pub(crate) fn raw(&self) -> RawEntry {
        self.place.read()
    }

    pub(crate) fn place(&self) -> &Place<'s, P> {
        &self.place
    }

    /// Replaces the entry by what `next` makes of it, and returns what it was: the one way in which an entry that maps a
    /// page is changed. Only [`entries`](crate::entries) calls it, and says there what a change has to observe.
    ///
    /// `seen` is what the caller has read while it held this lock. If a processor has set a bit since, `next` is called
    /// again, with the value that is there.
    #[inline]
    pub(crate) fn replace_entry(&self, mut seen: Entry, next: impl Fn(Entry) -> Entry) -> Entry {
        let word = self.place.word;
        let mut now = RawEntry::from(seen);
        loop {
            let wanted = RawEntry::from(next(seen));
            if !now.is_present() {
                // Processors never write to an entry that they cannot use, and this guard keeps tasks out. So nothing
                // can be lost, and a plain store is enough.
                if cfg!(debug_assertions) {
                    // AcqRel: the Release of the store below, and a look at what was there.
                    let before = RawEntry::from_bits(word.swap(wanted.bits(), Ordering::AcqRel));
                    debug_assert!(before == now, "{before:?}, seen as {now:?}, is replaced by {wanted:?}");
                } else {
                    // Release: pairs with the Acquire of the entry's readers (`TableRef::read`), which then see the
                    // page or table behind it as it was made.
                    word.store(wanted.bits(), Ordering::Release);
                }
                return seen;
            }
            // On success: Release for the page or table behind the new entry, which pairs with the Acquire
            // of its readers (`TableRef::read`); Acquire for what the maker of the old entry did; SeqCst
            // for the reason given in `confirm_unchanged`.
            //
            // On failure: Acquire, as for any read, since the caller may go on to use what the entry says.
            match word.compare_exchange(now.bits(), wanted.bits(), Ordering::SeqCst, Ordering::Acquire) {
                Ok(_) => return seen,
                Err(other) => now = RawEntry::from_bits(other),
            }
            seen = now.decode();
        }
    }

    /// Moves on to another entry of the same table.
    pub(crate) fn move_to(&mut self, index: usize) {
        self.place.word = self.place.table.entry(index);
    }
}

impl<P: Platform> Drop for LockedSlot<'_, P> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: by the type invariants the lock is held, by this guard.
        unsafe { self.place.table.unlock_raw() };
    }
}
