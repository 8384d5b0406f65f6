//! What sort of fault a run shows, in the words of the field.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::explore::{Counterexample, Crash, Deadlock, Livelock, LockCycle};
use crate::lab::Property;

/// What sort of fault a run shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A table, its lock, or the lock in a VMA is used after its death (I1).
    UseAfterFree,
    /// A walker writes to a table that is not its own (I2).
    WrongWrite,
    /// A walker acts on an entry, and the page in it, that was not its own (I3).
    ForeignPage,
    /// The share count of a table is wrong (I4), the references of a page (I14), or reservations (I15).
    WrongCount,
    /// A process shares a table and has no mapping that may (I5).
    WrongSharing,
    /// A TLB or a paging-structure cache still reaches a table that was unshared (I6), or a page (I11).
    StaleTlb,
    /// Two locks are taken in both orders: a deadlock that has not happened yet (I7).
    LockOrder,
    /// Everybody waits, or somebody waits for what it holds itself.
    Deadlock,
    /// A loop that does not end.
    Livelock,
    /// Somebody makes way for others without end (I8).
    Starvation,
    /// Something is left at the end (I9).
    Leak,
    /// A sleep in an atomic section (I10).
    SleepInAtomic,
    /// A page can be seen before it is filled (I12).
    UnfilledPage,
    /// Something that was stored is not there, or nothing says that it is (I13).
    LostStore,
    /// A report tells of an entry what it never was during the call (I16).
    UntrueReport,
    /// A lock is held in write, and somebody else holds it too (I17).
    NotExclusive,
    /// A processor has two translations of one address that differ (I18).
    TlbConflict,
    /// A call fails that must not.
    FailedCall,
    /// A panic.
    Panic,
    /// What is explored uses memory that is not there, and would be ended by a signal.
    Crash,
}

impl Fault {
    /// What a counterexample shows.
    #[must_use]
    pub fn of(found: &Counterexample) -> Self {
        let what = &found.what;
        match (what.downcast_ref::<Property>(), what.downcast_ref::<LockCycle>()) {
            (Some(property), _) => (*property).into(),
            (_, Some(LockCycle::Own)) => Self::Deadlock,
            (_, Some(LockCycle::Orders)) => Self::LockOrder,
            _ if what.is::<Deadlock>() => Self::Deadlock,
            _ if what.is::<Livelock>() => Self::Livelock,
            _ if what.is::<Crash>() => Self::Crash,
            // A panic comes without anything: `explore` knows no more of it than its text.
            _ if what.is::<()>() => Self::Panic,
            _ => Self::FailedCall,
        }
    }

    /// In words: `use after free`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UseAfterFree => "use after free",
            Self::WrongWrite => "wrong write",
            Self::ForeignPage => "foreign page",
            Self::WrongCount => "wrong count",
            Self::WrongSharing => "wrong sharing",
            Self::StaleTlb => "stale TLB",
            Self::LockOrder => "lock order",
            Self::Deadlock => "deadlock",
            Self::Livelock => "livelock",
            Self::Starvation => "starvation",
            Self::Leak => "leak",
            Self::SleepInAtomic => "sleep in atomic context",
            Self::UnfilledPage => "unfilled page",
            Self::LostStore => "lost store",
            Self::UntrueReport => "untrue report",
            Self::NotExclusive => "lock not exclusive",
            Self::TlbConflict => "TLB conflict",
            Self::FailedCall => "failed call",
            Self::Panic => "panic",
            Self::Crash => "crash",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl From<Property> for Fault {
    fn from(property: Property) -> Self {
        match property {
            Property::I1 => Self::UseAfterFree,
            Property::I2 => Self::WrongWrite,
            Property::I3 => Self::ForeignPage,
            Property::I4 => Self::WrongCount,
            Property::I5 => Self::WrongSharing,
            Property::I6 => Self::StaleTlb,
            Property::I7 => Self::LockOrder,
            Property::I8 => Self::Starvation,
            Property::I9 => Self::Leak,
            Property::I10 => Self::SleepInAtomic,
            Property::I11 => Self::StaleTlb,
            Property::I12 => Self::UnfilledPage,
            Property::I13 => Self::LostStore,
            Property::I14 | Property::I15 => Self::WrongCount,
            Property::I16 => Self::UntrueReport,
            Property::I17 => Self::NotExclusive,
            Property::I18 => Self::TlbConflict,
        }
    }
}
