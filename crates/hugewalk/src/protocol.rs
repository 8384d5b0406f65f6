//! Which steps of the protocols are carried out: all of them.
//!
//! A checker that runs the engine under every interleaving (`hugewalk-lab`) leaves steps out, one at a time, to show which race
//! each of them closes. It builds this crate with the feature `weaker-protocols`, under which a platform is asked. Without the
//! feature `keeps` is a constant, and so it is for every platform that does not answer for itself.
//!
//! What a weaker protocol needs `unsafe` for is here, and in no other room.

use core::ops::Deref;
use core::ptr::NonNull;

use crate::addr::TableFrame;
use crate::platform::Platform;
use crate::rcu::{Rcu, RcuHead};
use crate::sync::Arc;

/// A step that a weaker protocol can leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// P1: a table is freed after a grace period.
    RcuFree,
    /// P2: an RCU walker that has locked a table rechecks that its parent entry still points there.
    Revalidate,
    /// P3: a lockless reader re-reads its parent entry.
    ConfirmParent,
    /// P3: a lockless reader compares the table's generation.
    ConfirmGeneration,
    /// Unsharing increments the generation.
    BumpGeneration,
    /// The TLB is flushed for what was unmapped or unshared.
    Flush,
    /// P3: the generation is noted first, and then the parent entry is seen to point to the table.
    NoteGenerationFirst,
    /// P3: at the end the parent entry is read first, and then the generation.
    ConfirmParentFirst,
    /// The generation is incremented after the parent entry was cleared.
    BumpAfterClear,
    /// GUP-fast rechecks that the entry is unchanged, after it has taken its reference to the page.
    ConfirmEntry,
    /// A parent entry is cleared under the lock of the table it points to.
    DetachLocked,
    /// The flush for a table that was unshared covers the table's whole range.
    FlushWholeTable,
    /// The flush for tables that went tells the platform so.
    FlushTables,
    /// The flush comes before `i_mmap` is released.
    FlushUnderIMmap,
    /// Unsharing first decrements the share count, and then asks whether the table has one user
    /// left.
    CountThenTell,
    /// A walker that keeps a slot while it may sleep holds the VMA lock in read.
    VmaLock,
    /// An operation that holds `i_mmap` only tries the VMA lock.
    TryVmaLock,
    /// For a private mapping, truncation waits for the lock of its reservations, which stands in
    /// for the VMA lock.
    ReserveLock,
    /// Sharing a table and making one fill the parent entry under the same lock.
    PopulateLock,
    /// The entry that leads to a table is loaded once.
    LoadOnce,
    /// A VMA whose table is unshared for good is replaced in its file's tree before `i_mmap` is released.
    ExchangeUnderIMmap,
    /// A VMA that is unmapped leaves its file's tree before `i_mmap` is released.
    LeaveUnderIMmap,
    /// An operation that holds `i_mmap` already does not look for a table to share.
    ShareWithoutIMmap,
    /// A task that waits first queues itself and then checks the condition.
    QueueThenLook,
    /// The fault mutex, which is the page lock, comes before `i_mmap`.
    MutexFirst,
    /// A fault that maps a new private page, which is in no cache, rechecks that the page lies
    /// within the file.
    RecheckSize,
    /// An operation that waits for a VMA's lock holds a reference to the VMA if nothing else keeps
    /// it. If this step is left out, the platform must keep the memory of VMAs that are gone.
    HoldVma,
    /// An operation that has waited for a VMA lock rechecks that the VMA is still in its file's
    /// tree.
    LookAgain,
    /// Truncation keeps a VMA lock that it has waited for while it goes on.
    KeepLock,
    /// A fault that meets a migration entry sleeps until the page has arrived.
    SleepOnMigration,
    /// An operation that has locked a table without a mapping that keeps the table rechecks that the
    /// table is attached still.
    PopulateAttached,
    /// A table is freed only if no entry of it points to another table.
    CountBelow,
    /// An entry that processors must forget before they find the next one is made busy, and flushed, before it is replaced.
    BreakFirst,
    /// A reader of a biased lock marks its line first, and then sees the lock biased still: the light barrier.
    MarkThenLook,
    /// A writer takes the bias of a lock away first, and then looks for marks: the heavy barrier.
    RevokeThenScan,
    /// A reader of a biased lock clears its mark first, and then looks whether a writer waits.
    LeaveThenLook,
    /// A task that faults pages in together holds the fault mutex of each.
    RunMutexes,
    /// It looks whether anything is mapped with the mutexes held.
    RunLooksAgain,
    /// It rereads each entry with the table locked.
    RunRecheck,
    /// Secondary MMUs are told of a change before it.
    NotifyStart,
    /// They are told that it is over after the flush.
    NotifyEndLast,
    /// They are told of the whole range of a table that may be shared.
    NotifyWholeTable,
    /// Those of each address space that uses a table are told of a change in it.
    NotifySharers,
    /// A handler that has copied from a source which faulted, with no lock held, looks again whether the mappings are changing.
    LookAfterCopy,
    /// Walkers hold no VMA lock around their read sections. They need none; Linux has held it since 6.3. GUP-fast does not, even
    /// then.
    WalkUnlocked,
    /// A fault that finds at its first look that the entry allows the access, and notes it, takes neither the fault mutex nor
    /// the VMA lock. Linux takes both.
    UsePresent,
    /// An operation looks many times whether a reference is gone that somebody holds for a short time, before it gives up. A
    /// checker that runs every interleaving has no use for many of the same rounds.
    LookManyTimes,
    /// Reverse mapping waits some rounds for VMA locks that are busy, before it changes entries in tables that are still shared.
    WaitForBusyVmas,
}

/// Is this step carried out? A constant, so that the compiler removes the question.
#[cfg(not(feature = "weaker-protocols"))]
#[allow(clippy::extra_unused_type_parameters)] // asked with the feature
#[inline(always)]
pub(crate) const fn keeps<P: Platform>(_: Step) -> bool {
    true
}

/// Is this step carried out? The platform's answer, which is a constant unless it is a checker's.
#[cfg(feature = "weaker-protocols")]
#[inline(always)]
pub(crate) fn keeps<P: Platform>(step: Step) -> bool {
    P::keeps(step)
}

/// How often an operation looks again whether a reference is gone that somebody holds for a short time, before it gives up.
pub(crate) fn patience<P: Platform>() -> u32 {
    if keeps::<P>(Step::LookManyTimes) { 100 } else { 2 }
}

/// How many rounds reverse mapping waits for VMA locks that are busy, before it changes entries in tables that are still shared.
pub(crate) fn polite_rounds<P: Platform>() -> u32 {
    if keeps::<P>(Step::WaitForBusyVmas) { 8 } else { 0 }
}

/// Hands a callback to RCU.
///
/// # Safety
///
/// As for [`Rcu::call`].
pub(crate) unsafe fn call<P: Platform>(rcu: &P::Rcu, platform: &P, head: NonNull<RcuHead>) {
    #[cfg(feature = "weaker-protocols")]
    if !keeps::<P>(Step::RcuFree) {
        // SAFETY: the callback is the caller's to run. That nobody uses what it frees is what this protocol leaves out; the
        // checker's memory is never used for anything else.
        return unsafe { RcuHead::invoke(head) };
    }
    // SAFETY: passed on to the caller.
    unsafe { rcu.call(platform, head) };
}

/// The table that an entry led to when it was loaded: `loaded`.
#[inline(always)]
pub(crate) fn loaded_once<P: Platform>(
    loaded: TableFrame,
    again: impl FnOnce() -> Option<TableFrame>,
) -> TableFrame {
    if keeps::<P>(Step::LoadOnce) { loaded } else { again().unwrap_or(TableFrame(0)) }
}

/// Flushes, with a lock held that must not be released before.
pub(crate) fn flush_under<P: Platform>(
    held: &P::SleepRwLock,
    parker: impl FnOnce() -> Arc<P::Parker>,
    flush: impl FnOnce(),
) {
    #[cfg(feature = "weaker-protocols")]
    if !keeps::<P>(Step::FlushUnderIMmap) {
        use crate::sleep::RawSleepRwLock;
        // SAFETY: the guard holds the lock, and it is taken again below before the guard can release it.
        unsafe { RawSleepRwLock::<P::Parker>::unlock_exclusive(held) };
        flush();
        return held.lock_exclusive(&*parker());
    }
    let _ = (held, parker);
    flush();
}

/// Something that a task waits for while nothing else keeps it. It may be out of use before the task goes on, so the task holds
/// a reference.
pub(crate) enum Awaited<T> {
    Held(Arc<T>),
    /// It may be gone.
    #[cfg(feature = "weaker-protocols")]
    Unheld(NonNull<T>),
}

impl<T> Awaited<T> {
    #[cfg_attr(not(feature = "weaker-protocols"), allow(clippy::extra_unused_type_parameters))]
    pub(crate) fn new<P: Platform>(awaited: &Arc<T>) -> Self {
        #[cfg(feature = "weaker-protocols")]
        if !keeps::<P>(Step::HoldVma) {
            return Self::Unheld(NonNull::from(&**awaited));
        }
        Self::Held(awaited.clone())
    }
}

impl<T> Deref for Awaited<T> {
    type Target = T;
    fn deref(&self) -> &T {
        match self {
            Self::Held(awaited) => awaited,
            // SAFETY: the checker keeps the memory of what is gone.
            #[cfg(feature = "weaker-protocols")]
            Self::Unheld(awaited) => unsafe { awaited.as_ref() },
        }
    }
}
