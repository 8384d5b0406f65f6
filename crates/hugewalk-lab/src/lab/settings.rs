//! The locking protocols there have been, as settings of one engine.

use hugewalk::protocol::Step;

/// What a walker holds that is not GUP-fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walkers {
    /// The mmap lock in read, which does not keep tables.
    Mmap,
    /// An RCU read section.
    Rcu,
    /// The VMA lock in read.
    Vma,
}

/// Whom unsharing waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broadcast {
    /// Nobody.
    None,
    /// All processors, each time a table is unshared.
    Each,
    /// All processors, once for a gather, if a table in it has one user left.
    Last,
    /// Nobody after the flush: each flush is an interrupt itself, to the processors that run its address space, and waits for
    /// those that have interrupts off.
    Implied,
    /// As `Last`, but only processors that say that they walk the gather's address space without locks.
    Targeted,
    /// A grace period, once for a gather, if a table in it has one user left.
    GracePeriod,
}

impl Broadcast {
    /// Does it matter whether a table has one user left?
    pub(crate) fn asks_for_last(self) -> bool {
        matches!(self, Self::Last | Self::Targeted | Self::GracePeriod)
    }
}

/// A locking protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name.
    pub name: &'static str,
    /// What walkers hold.
    pub walkers: Walkers,
    /// Whom unsharing waits for.
    pub broadcast: Broadcast,
    /// The table lock is freed as soon as its table is handed to RCU, not with it.
    pub lock_dies_at_once: bool,
    /// Tables that are handed to RCU wait for a grace period on every machine, batch or no batch.
    pub always_waits: bool,
    /// Tables that are handed to RCU are freed as soon as no processor has interrupts off: a machine whose flush is all
    /// there is to wait for.
    pub freed_at_once: bool,
    /// The count of a table's users is the count of references to its page, which whoever meets a page may take.
    pub users_are_references: bool,
    /// Readers of mmap and VMA locks mark them in a line of their own. Not in the protocols: their rows would explore
    /// this lock again and again, which has rows of its own.
    pub(crate) biased_readers: bool,
    /// Steps of the engine that are left out, a bit for each.
    pub(crate) without: u64,
}

/// What walkers must not miss that read without a lock.
const CONFIRMS: u64 = bit(Step::ConfirmParent) | bit(Step::ConfirmGeneration);

pub(super) const fn bit(step: Step) -> u64 {
    1 << step as u32
}

const UNCHECKED: u64 = bit(Step::Revalidate) | bit(Step::ConfirmParent) | bit(Step::ConfirmGeneration);

/// Names of the steps that can be left out.
const STEPS: [(&str, Step); 44] = [
    ("rcu-free", Step::RcuFree),
    ("revalidate", Step::Revalidate),
    ("confirm-parent", Step::ConfirmParent),
    ("confirm-generation", Step::ConfirmGeneration),
    ("bump-generation", Step::BumpGeneration),
    ("flush", Step::Flush),
    ("note-generation-first", Step::NoteGenerationFirst),
    ("confirm-parent-first", Step::ConfirmParentFirst),
    ("bump-after-clear", Step::BumpAfterClear),
    ("confirm-entry", Step::ConfirmEntry),
    ("detach-locked", Step::DetachLocked),
    ("flush-whole-table", Step::FlushWholeTable),
    ("flush-tables", Step::FlushTables),
    ("flush-under-i-mmap", Step::FlushUnderIMmap),
    ("count-then-tell", Step::CountThenTell),
    ("vma-lock", Step::VmaLock),
    ("try-vma-lock", Step::TryVmaLock),
    ("reserve-lock", Step::ReserveLock),
    ("populate-lock", Step::PopulateLock),
    ("load-once", Step::LoadOnce),
    ("exchange-under-i-mmap", Step::ExchangeUnderIMmap),
    ("leave-under-i-mmap", Step::LeaveUnderIMmap),
    ("share-without-i-mmap", Step::ShareWithoutIMmap),
    ("queue-then-look", Step::QueueThenLook),
    ("mutex-first", Step::MutexFirst),
    ("recheck-size", Step::RecheckSize),
    ("hold-vma", Step::HoldVma),
    ("look-again", Step::LookAgain),
    ("keep-lock", Step::KeepLock),
    ("sleep-on-migration", Step::SleepOnMigration),
    ("populate-attached", Step::PopulateAttached),
    ("count-below", Step::CountBelow),
    ("mark-then-look", Step::MarkThenLook),
    ("revoke-then-scan", Step::RevokeThenScan),
    ("leave-then-look", Step::LeaveThenLook),
    ("break-first", Step::BreakFirst),
    ("run-mutexes", Step::RunMutexes),
    ("run-looks-again", Step::RunLooksAgain),
    ("run-recheck", Step::RunRecheck),
    ("notify-start", Step::NotifyStart),
    ("notify-end-last", Step::NotifyEndLast),
    ("notify-whole-table", Step::NotifyWholeTable),
    ("notify-sharers", Step::NotifySharers),
    ("look-after-copy", Step::LookAfterCopy),
];

const fn mainline(name: &'static str, broadcast: Broadcast) -> Settings {
    Settings {
        name,
        walkers: Walkers::Vma,
        broadcast,
        lock_dies_at_once: true,
        always_waits: false,
        freed_at_once: false,
        users_are_references: false,
        biased_readers: false,
        without: UNCHECKED | bit(Step::BumpGeneration),
    }
}

impl Settings {
    /// Linux up to 6.0.
    pub const LEGACY: Self = Self { walkers: Walkers::Mmap, ..mainline("legacy", Broadcast::None) };
    /// The RFC of October 2022 as posted.
    pub const RFC: Self = Self { walkers: Walkers::Rcu, ..mainline("rfc", Broadcast::None) };
    /// The same, with the table lock freed together with the table.
    pub const RFC_PTL: Self = Self { name: "rfc-ptl", lock_dies_at_once: false, ..Self::RFC };
    /// Linux 6.3.
    pub const VMA_LOCK: Self = mainline("vma-lock", Broadcast::None);
    /// The fix of 2025.
    pub const IPI_EACH: Self = mainline("ipi-each", Broadcast::Each);
    /// The rework of January 2026.
    pub const IPI_LAST: Self = mainline("ipi-last", Broadcast::Last);
    /// Linux 7.1: a grace period takes the place of the broadcast where there is no memory for the batch of tables to be freed.
    pub const SYNC_RCU: Self = Self { always_waits: true, ..mainline("sync-rcu", Broadcast::Last) };
    /// Proposed in March 2026: a flush that was a broadcast counts as one.
    pub const IPI_IMPLIED: Self =
        Self { name: "ipi-implied", broadcast: Broadcast::Implied, ..Self::SYNC_RCU };
    /// Proposed in February 2026: interrupts only to processors that walk the gather's address space without locks.
    pub const IPI_TARGETED: Self =
        Self { name: "ipi-targeted", broadcast: Broadcast::Targeted, ..Self::SYNC_RCU };
    /// Suggested in answer to that: a grace period in place of the broadcast in unsharing, too.
    pub const UNSHARE_RCU: Self =
        Self { name: "unshare-rcu", broadcast: Broadcast::GracePeriod, ..Self::SYNC_RCU };
    /// This engine, whole.
    pub const HUGEWALK: Self = Self {
        name: "hugewalk",
        walkers: Walkers::Rcu,
        broadcast: Broadcast::None,
        lock_dies_at_once: false,
        always_waits: true,
        freed_at_once: false,
        users_are_references: false,
        biased_readers: false,
        without: 0,
    };

    /// All of them, oldest first.
    pub const ALL: [Self; 11] = [
        Self::LEGACY,
        Self::RFC,
        Self::RFC_PTL,
        Self::VMA_LOCK,
        Self::IPI_EACH,
        Self::IPI_LAST,
        Self::SYNC_RCU,
        Self::IPI_IMPLIED,
        Self::IPI_TARGETED,
        Self::UNSHARE_RCU,
        Self::HUGEWALK,
    ];

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|settings| settings.name == name)
    }

    /// Names of the steps that [`without`](Self::without) knows.
    pub fn steps() -> impl Iterator<Item = &'static str> {
        STEPS.iter().map(|&(name, _)| name)
    }

    /// Does the protocol have the step of this name?
    #[must_use]
    pub fn has(&self, step: &str) -> bool {
        // A protocol that does not wait once for a gather does not ask whether a table has one user left.
        let asks = |of| of != Step::CountThenTell || self.broadcast.asks_for_last();
        STEPS.iter().any(|&(name, of)| name == step && self.without & bit(of) == 0 && asks(of))
    }

    /// The same protocol without one step; `None` if there is no step of this name.
    #[must_use]
    pub fn without(mut self, step: &str) -> Option<Self> {
        self.without |= bit(STEPS.iter().find(|&&(name, _)| name == step)?.1);
        Some(self)
    }

    /// The same protocol with one step more; `None` if there is no step of this name.
    #[must_use]
    pub fn with(mut self, step: &str) -> Option<Self> {
        self.without &= !bit(STEPS.iter().find(|&&(name, _)| name == step)?.1);
        Some(self)
    }

    /// The same protocol with locks whose readers mark them in a line of their own.
    #[must_use]
    pub fn with_biased_readers(self) -> Self {
        Self { biased_readers: true, ..self }
    }

    /// Is the step of this name left out, so that [`with`](Self::with) adds it?
    #[must_use]
    pub fn lacks(&self, step: &str) -> bool {
        STEPS.iter().any(|&(name, of)| name == step && self.without & bit(of) != 0)
    }

    /// On a machine that frees tables right after the flush, which waits for interrupts: x86-64 without paravirtual flushes.
    #[must_use]
    pub fn freed_at_once(self) -> Self {
        // A protocol that does not wait for the grace period by itself relies on the machine to make it wait.
        Self { freed_at_once: !self.always_waits, ..self }
    }

    /// On a machine that has no memory for the batch of tables to be freed: it broadcasts to all processors, which waits for
    /// interrupts, and frees them.
    #[must_use]
    pub fn without_batches(self) -> Self {
        // It comes to the same. The engine links tables through their own records, and needs no memory to wait.
        self.freed_at_once()
    }

    /// The same protocol with the users of a table counted by references to its page.
    #[must_use]
    pub fn counting_references(self) -> Self {
        Self { users_are_references: true, ..self }
    }

    /// Does it do without a reference to a VMA that may go?
    pub(crate) fn loses_vmas(&self) -> bool {
        self.without & bit(Step::HoldVma) != 0
    }

    /// Is an entry that is returned promised to have been the walker's own when it was read?
    pub(crate) fn promises_own_entry(&self) -> bool {
        self.without & CONFIRMS != CONFIRMS
    }

    /// Does a walker check anything that it has found under RCU?
    pub(crate) fn checks(&self) -> bool {
        self.without & UNCHECKED != UNCHECKED
    }
}
