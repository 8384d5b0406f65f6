//! Slots: the place of one entry, and the operations that a walk's proof allows on it.

use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::sync::atomic::Ordering;

use thiserror::Error;

use super::{TableRef, read};
use crate::addr::{HugeSize, TableFrame, VirtAddr};
use crate::arch::{EMPTY, Entry, Paging};
use crate::platform::Platform;
use crate::protocol::{Step, keeps};
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
    /// The format of the tables.
    pub(crate) paging: &'p P::Paging,
    pub(crate) table: TableRef<'p, P>,
    /// The level of the table.
    pub(crate) level: u8,
    /// The entry.
    pub(crate) word: &'p P::Word,
    /// The entry that points to the table. A root has none; there it is the entry itself.
    pub(crate) parent: &'p P::Word,
    /// What the parent entry said.
    pub(crate) parent_entry: u64,
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
    pub(crate) fn read(&self) -> Entry {
        self.decode(read(self.word))
    }

    /// Is the entry empty just now?
    #[inline]
    pub(crate) fn is_none(&self) -> bool {
        read(self.word) == EMPTY
    }

    #[inline]
    fn decode(&self, bits: u64) -> Entry {
        self.paging.decode(bits, self.level)
    }

    /// Moves on to the entry for another address of the same table.
    #[inline]
    fn move_to(&mut self, address: VirtAddr) {
        let index = self.paging.geometry().index_below(address, self.level);
        self.word = self.table.entry(self.paging, index);
    }

    /// Does the parent entry still point to the table? Compares the table's frame alone: the processor may have set
    /// the accessed bit meanwhile.
    ///
    /// Acquire: in a confirmation, the loads keep their order (P3). Under the table lock the lock has
    /// ordered them already, since a parent entry is only cleared under it (P2).
    #[inline]
    pub(crate) fn is_attached(&self) -> bool {
        let now = self.parent.load(Ordering::Acquire);
        now == self.parent_entry || self.points_here(now)
    }

    /// Does this value of the parent entry point to the table? Nothing points to a root, which is never taken away.
    fn points_here(&self, parent: u64) -> bool {
        self.level == self.paging.geometry().root()
            || self.paging.next_table(parent, self.level + 1) == Some(self.table.frame())
    }

    /// Makes the entry, which is empty, point to a table. The caller holds the lock that populating the entry takes.
    pub(crate) fn attach(&self, table: TableFrame) {
        // Counted before the entry is stored, and uncounted after it was cleared: the count is never too small.
        self.table.add_below();
        self.point_to(Entry::Table(table));
    }

    fn point_to(&self, table: Entry) {
        // Release: a walker that follows the entry sees the table's record and its entries. Pairs with the Acquire of
        // `TableRef::read`.
        let bits = self.paging.encode(table, HugeSize::NONE, 0, 0);
        self.word.store(bits, Ordering::Release);
    }

    /// Clears the parent entry of the table, which the caller has locked, then counts the table's generation up. P3 relies
    /// on this order. `above` is the table that the parent entry lies in.
    ///
    /// Linux: `pud_clear()` in `huge_pmd_unshare()`; Linux has no generation.
    pub(crate) fn detach(&self, above: Option<TableRef<'_, P>>) {
        if !keeps::<P>(Step::BumpAfterClear) {
            self.table.bump_generation();
        }
        // Release, as for every store to an entry. P3 rests on the Release of the counting that follows, which
        // pairs with the Acquire in `generation`.
        self.parent.store(EMPTY, Ordering::Release);
        if keeps::<P>(Step::BumpAfterClear) {
            self.table.bump_generation();
        }
        if let Some(above) = above {
            above.remove_below();
        }
    }

    /// Locks the table. Spins; nothing may sleep until the guard is gone (it keeps `task` borrowed).
    pub(crate) fn lock<'s>(self, task: &'s Task<P>) -> LockedTable<'s, P>
    where
        'p: 's,
    {
        let _ = task;
        self.lock_in_section()
    }

    /// As [`lock`](Self::lock), for a `'p` that lies inside a read section. The section keeps the task
    /// borrowed already.
    fn lock_in_section<'s>(self) -> LockedTable<'s, P>
    where
        'p: 's,
    {
        self.table.lock_raw();
        // INVARIANT: locked just above.
        LockedTable { place: self, _stays: TaskStaysOnItsThread::MARK }
    }
}

/// A table that is locked, and an entry of it of whatever kind. Dropping it releases the lock.
///
/// # Invariants
///
/// The lock of the table is held by this guard.
pub(crate) struct LockedTable<'s, P: Platform> {
    place: Place<'s, P>,
    _stays: TaskStaysOnItsThread,
}

impl<'s, P: Platform> LockedTable<'s, P> {
    pub(crate) fn place(&self) -> &Place<'s, P> {
        &self.place
    }

    /// Moves on to the entry for another address.
    pub(crate) fn move_to(&mut self, address: VirtAddr) {
        self.place.move_to(address);
    }

    pub(crate) fn read(&self) -> Entry {
        self.place.read()
    }

    pub(crate) fn is_none(&self) -> bool {
        self.place.is_none()
    }

    /// How many address spaces use the table besides this one.
    pub(crate) fn sharers(&self) -> u64 {
        self.place.table.users()
    }

    /// How many tables the entries of this table point to. The number does not rise while the lock is held.
    pub(crate) fn tables_below(&self) -> u64 {
        self.place.table.below()
    }

    /// Makes the entry, which is empty, point to a table of the host's. False, and the entry stays empty, if other address spaces
    /// use the table that it lies in.
    pub(crate) fn attach_host(&self, table: TableFrame) -> bool {
        // Counted first, and looked for users then: whoever comes to share this table counts itself first, and looks for tables
        // below then (S97/put). See `TableRef::add_below`.
        self.place.table.add_below();
        if self.sharers() > 0 {
            self.place.table.remove_below();
            return false;
        }
        self.place.point_to(Entry::HostTable(table));
        true
    }

    /// Clears the entry if it points to a table of the host's, and returns that.
    pub(crate) fn detach_host(&self) -> Option<TableFrame> {
        let Entry::HostTable(table) = self.read() else { return None };
        // Release, as for every store to an entry. No bit is lost: processors set the accessed bit alone, and it was set.
        self.place.word.store(EMPTY, Ordering::Release);
        self.place.table.remove_below();
        Some(table)
    }
}

impl<P: Platform> Drop for LockedTable<'_, P> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: by the type invariants the lock is held, by this guard.
        unsafe { self.place.table.unlock_raw() };
    }
}

/// The place of one entry. Linux: `pte_t *`.
///
/// A slot is reached only through a proof, and cannot outlive the lock or the read section it was found
/// under. What it allows depends on the kind of proof; see [`walk`](crate::walk).
pub struct Slot<'p, P: Platform, K: Kind> {
    place: Place<'p, P>,
    size: HugeSize,
    kind: PhantomData<K>,
}

impl<'p, P: Platform, K: Kind> Slot<'p, P, K> {
    /// The caller's proof is of kind `K` and lasts for `'p`. `size` is that of the pages that the entry maps, a size of this
    /// format with leaves at the level of `place`.
    #[inline]
    pub(crate) fn new(place: Place<'p, P>, size: HugeSize) -> Self {
        Self { place, size, kind: PhantomData }
    }
}

impl<'p, P: Platform> Slot<'p, P, Stable> {
    /// Reads the entry. The table belongs to the address space; the entry itself may change at any moment,
    /// unless the table lock is held too.
    #[inline]
    #[must_use]
    pub fn read(&self) -> Entry {
        self.place.read()
    }

    /// Locks the table. Spins; nothing may sleep until the guard is gone (it keeps `task` borrowed). `task` should be one of
    /// this system: see [`task`](crate::task#a-task-of-another-system).
    pub fn lock<'s>(&self, task: &'s Task<P>) -> LockedSlot<'s, P>
    where
        'p: 's,
    {
        LockedSlot { table: self.place.lock(task), size: self.size }
    }

    /// How many address spaces use the table besides this one.
    #[must_use]
    pub fn sharers(&self) -> u64 {
        self.place.table.users()
    }

    /// Reads the entry for another address of the same table.
    pub(crate) fn read_beside(&self, address: VirtAddr) -> Entry {
        let mut place = self.place;
        place.move_to(address);
        place.read()
    }

    /// How many pages of the size the table maps. It may change at any moment.
    pub(crate) fn count_leaves(&self) -> u64 {
        let Place { paging, table, level, .. } = self.place;
        let is_leaf =
            |index: &usize| paging.leaf_size(read(table.entry(paging, *index)), level) == Some(self.size);
        let first_members = (0..paging.geometry().table_entries()).step_by(self.size.group().into());
        first_members.filter(is_leaf).count() as u64
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
        if self.place.table.frame() != held.place().table.frame() {
            return work(&self.lock(task));
        }
        // INVARIANT: locked by `held`, which outlives the call and unlocks it.
        let table = LockedTable { place: self.place, _stays: TaskStaysOnItsThread::MARK };
        work(&*ManuallyDrop::new(LockedSlot { table, size: self.size }))
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
        let confirmed = keeps::<P>(Step::ConfirmGeneration);
        let note = || if confirmed { self.place.table.generation() } else { 0 };
        let first = keeps::<P>(Step::NoteGenerationFirst).then(note);
        if keeps::<P>(Step::ConfirmParent) && !self.place.is_attached() {
            return Err(Unshared);
        }
        let generation = first.unwrap_or_else(note);
        let entry = read(self.place.word);
        Ok(Unconfirmed { place: &self.place, generation, entry })
    }

    /// Moves on to the entry for another address in the same table.
    pub(crate) fn move_to(&mut self, address: VirtAddr) {
        self.place.move_to(address);
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
        let locked = LockedSlot { table: self.place.lock_in_section(), size: self.size };
        // A detach takes the lock that was just taken, so the answer holds as long as the lock is held.
        if keeps::<P>(Step::Revalidate) && !self.place.is_attached() {
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
    entry: u64,
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
        Ok(self.unconfirmed())
    }

    /// What was read, not confirmed: good for taking a reference to the page and for nothing else. The page
    /// may be a foreign one; only [`confirm_unchanged`](Self::confirm_unchanged) tells, afterwards.
    #[inline]
    pub(crate) fn unconfirmed(&self) -> Entry {
        self.place.decode(self.entry)
    }

    /// The size of the page that the entry stands for: as unconfirmed as the entry itself. `size` is that of the walk. Where
    /// sizes share a level, the entry says which of them it is.
    #[inline]
    pub(crate) fn leaf_size_or(&self, size: HugeSize) -> HugeSize {
        if !P::Paging::GROUPS {
            return size;
        }
        self.leaf_size().unwrap_or(size)
    }

    /// The size of the page that the entry stands for, if it is a leaf: as unconfirmed as the entry itself, and good as soon as
    /// [`confirm`](Self::confirm) says that the entry is. Sizes may share a level; then only the entry tells which it is.
    #[inline]
    #[must_use]
    pub fn leaf_size(&self) -> Option<HugeSize> {
        self.place.paging.leaf_size(self.entry, self.place.level)
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
        if keeps::<P>(Step::ConfirmEntry) && now != self.entry {
            return Err(Unshared);
        }
        self.confirm()
    }

    #[inline]
    fn check(&self) -> Result<(), Unshared> {
        // The loads before this one are Acquire, so none of them is delayed past it; parent, then generation.
        if keeps::<P>(Step::ConfirmParentFirst) {
            self.check_parent()?;
            self.check_generation()
        } else {
            self.check_generation()?;
            self.check_parent()
        }
    }

    #[inline]
    fn check_parent(&self) -> Result<(), Unshared> {
        if keeps::<P>(Step::ConfirmParent) && !self.place.is_attached() {
            return Err(Unshared);
        }
        Ok(())
    }

    #[inline]
    fn check_generation(&self) -> Result<(), Unshared> {
        if keeps::<P>(Step::ConfirmGeneration) && self.place.table.generation() != self.generation {
            return Err(Unshared);
        }
        Ok(())
    }
}

/// A slot whose table is locked. The table belongs to the address space as long as the lock is held. Dropping it releases the
/// lock.
///
/// If a group of entries stands for the page, the slot is all of them: they are read and replaced together.
///
/// Neither `Send` nor `Sync`: the task that locked the table must not sleep, and is the one that unlocks
/// it.
#[must_use = "the table is unlocked when this is dropped"]
pub struct LockedSlot<'s, P: Platform> {
    table: LockedTable<'s, P>,
    size: HugeSize,
}

impl<'s, P: Platform> LockedSlot<'s, P> {
    /// The entry. A group counts as accessed, or dirty, if any of its members is.
    #[must_use]
    #[inline]
    pub fn read(&self) -> Entry {
        let entry = self.place().read();
        if self.is_group() { self.with_use_of_all(entry) } else { entry }
    }

    /// How many address spaces use the table besides this one.
    #[must_use]
    pub fn sharers(&self) -> u64 {
        self.place().table.users()
    }

    /// The size of the pages that the entry maps.
    pub(crate) fn size(&self) -> HugeSize {
        self.size
    }

    /// Goes by the size of the page that is mapped here, if one is, instead of that which the walk was for.
    pub(crate) fn resized_as_mapped(mut self) -> Self {
        if P::Paging::GROUPS {
            let place = self.place();
            self.size = place.paging.leaf_size(read(place.word), place.level).unwrap_or(self.size);
        }
        self
    }

    /// Is the entry empty?
    #[inline]
    pub(crate) fn is_none(&self) -> bool {
        self.place().is_none()
    }

    #[inline]
    pub(crate) fn place(&self) -> &Place<'s, P> {
        &self.table.place
    }

    /// Moves on to the entry for another address of the same table.
    pub(crate) fn move_to(&mut self, address: VirtAddr) {
        self.table.place.move_to(address);
    }

    /// Must processors have forgotten `old` before they may find `new` here?
    #[inline]
    pub(crate) fn needs_break(&self, old: Entry, new: Entry) -> bool {
        let usable = |entry| matches!(entry, Entry::Leaf(leaf) if leaf.is_accessible());
        usable(old)
            && usable(new)
            && self.place().paging.needs_break(self.encode(old), self.encode(new), self.place().level)
    }

    #[inline]
    fn encode(&self, entry: Entry) -> u64 {
        let paging = self.place().paging;
        paging.encode(entry, self.size, 0, paging.ordinary())
    }

    /// Replaces the entry, or all members of a group, by what `next` makes of it, and returns what it was: the one way in
    /// which an entry that maps a page is changed. Only [`entries`](crate::entries) calls it, and says there what a change has
    /// to observe.
    ///
    /// `seen` is what the caller has read while it held this lock. If a processor has set a bit since, `next` is called
    /// again, with the value that is there.
    #[inline]
    pub(crate) fn replace_entry(&self, seen: Entry, next: impl Fn(Entry) -> Entry) -> Entry {
        self.replace_carrying(seen, next, self.place().paging.ordinary())
    }

    /// The bits of the leaf here that mean nothing to the engine and stay with it. If there is no leaf, those of ordinary
    /// memory.
    pub(crate) fn carried(&self) -> u64 {
        let Place { paging, word, level, .. } = *self.place();
        let bits = read(word);
        match paging.decode(bits, level) {
            Entry::Leaf(_) => paging.carried(bits, level),
            _ => paging.ordinary(),
        }
    }

    /// As [`replace_entry`](Self::replace_entry). Where no leaf was, the new one carries `fresh`; otherwise what the old one did.
    #[inline]
    pub(crate) fn replace_carrying(
        &self,
        mut seen: Entry,
        next: impl Fn(Entry) -> Entry,
        fresh: u64,
    ) -> Entry {
        if self.is_group() {
            return self.replace_group(next, fresh);
        }
        let Place { paging, word, level, .. } = *self.place();
        let mut now = match seen {
            // What it carries is in the entry alone. No processor writes to it meanwhile.
            Entry::Leaf(leaf) if !leaf.is_accessible() => read(word),
            _ => self.encode(seen),
        };
        loop {
            let carried = if matches!(seen, Entry::Leaf(_)) { paging.carried(now, level) } else { fresh };
            let wanted = paging.encode(next(seen), self.size, 0, carried);
            if !paging.is_valid(now) {
                self.store(word, now, wanted);
                return seen;
            }
            // On success: Release for the page behind the new entry, which pairs with the Acquire
            // of its readers (`read`); Acquire for what the maker of the old entry did; SeqCst
            // for the reason given in `confirm_unchanged`.
            //
            // On failure: Acquire, as for any read, since the caller may go on to use what the entry says.
            match word.compare_exchange(now, wanted, Ordering::SeqCst, Ordering::Acquire) {
                Ok(_) => return seen,
                Err(other) => now = other,
            }
            seen = paging.decode(now, level);
        }
    }

    /// Replaces an entry that no processor can use. Processors never write to such an entry, and this guard keeps tasks
    /// out. So nothing can be lost, and a plain store is enough.
    #[inline]
    fn store(&self, word: &P::Word, now: u64, wanted: u64) {
        if cfg!(debug_assertions) {
            // AcqRel: the Release of the store below, and a look at what was there.
            let before = word.swap(wanted, Ordering::AcqRel);
            let decode = |bits| self.place().decode(bits);
            debug_assert!(
                before == now,
                "{:?}, seen as {:?}, is replaced by {:?}",
                decode(before),
                decode(now),
                decode(wanted)
            );
        } else {
            // Release: pairs with the Acquire of the entry's readers (`read`), which then see the
            // page or table behind it as it was made.
            word.store(wanted, Ordering::Release);
        }
    }
}
