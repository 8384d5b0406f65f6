//! Which verdict each scenario must have under each protocol: the table that the lab is checked against.

use super::Scenario;
use crate::lab::Settings;

/// The verdict that a scenario must have under a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A counterexample is found.
    Race,
    /// None is found, in every interleaving.
    Safe,
    /// The scenario says nothing about the protocol; here is why.
    DoesNotApply(&'static str),
}

/// A scenario of the matrix, and its line in the table of verdicts.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) scenario: Scenario,
    pub(super) verdicts: Verdicts,
}

/// A line of the table.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdicts {
    /// These protocols have the race, all others are safe.
    Races(&'static [&'static str]),
    /// The first have the race; of the second there is nothing to be said, because of this; all others are safe.
    RacesBut(&'static [&'static str], &'static [&'static str], &'static str),
    /// A mistake: these protocols have the race with it; it is nothing that the others could make, or do otherwise.
    Mistake(&'static [&'static str]),
}

/// A mistake in a step that every protocol has.
pub(super) const EVERY_MISTAKE: Verdicts = Verdicts::Mistake(&[
    "legacy",
    "rfc",
    "rfc-ptl",
    "vma-lock",
    "ipi-each",
    "ipi-last",
    "sync-rcu",
    "ipi-implied",
    "ipi-targeted",
    "unshare-rcu",
    "hugewalk",
]);

/// The protocols that are not the engine's own.
pub(super) const OTHERS: &[&str] = &[
    "legacy",
    "rfc",
    "rfc-ptl",
    "vma-lock",
    "ipi-each",
    "ipi-last",
    "sync-rcu",
    "ipi-implied",
    "ipi-targeted",
    "unshare-rcu",
];

/// Safe in the engine's own protocol, and asked of no other: it takes long, and what becomes of shared tables has no part in it.
pub(super) const OWN: Verdicts =
    Verdicts::RacesBut(&[], OTHERS, "it takes long, and what becomes of shared tables has no part in it");

/// All safe.
pub(super) const NONE: Verdicts = Verdicts::Races(&[]);

/// A mistake in the engine's own protocol.
pub(super) const MISTAKE: Verdicts = Verdicts::Mistake(&["hugewalk"]);

const NOT_ITS_MISTAKE: &str = "the mistake is shown in the steps of another protocol";

impl Verdicts {
    fn under(self, protocol: &str) -> Expected {
        let races = |race| if race { Expected::Race } else { Expected::Safe };
        match self {
            Self::RacesBut(_, not, because) if not.contains(&protocol) => Expected::DoesNotApply(because),
            Self::Races(racing) | Self::RacesBut(racing, ..) => races(racing.contains(&protocol)),
            Self::Mistake(racing) if racing.contains(&protocol) => Expected::Race,
            Self::Mistake(_) => Expected::DoesNotApply(NOT_ITS_MISTAKE),
        }
    }
}

/// The verdict that the scenario of this name must have under a protocol of [`Settings::ALL`]. `None` for a scenario of
/// somebody else's, and for a protocol of which something was changed: what comes of that is to be found out.
#[must_use]
pub fn expected(id: &str, settings: &Settings) -> Option<Expected> {
    let row = super::rows().find(|row| row.scenario.id == id)?;
    Settings::ALL.contains(settings).then(|| row.verdicts.under(settings.name))
}

/// For each step of the engine's protocol that can be left out, the scenario that has a race without it, and the protocol:
/// no step is there without one.
pub const PROOFS: [(&str, &str, Settings); 44] = [
    ("rcu-free", "S1", Settings::HUGEWALK),
    ("revalidate", "S8", Settings::HUGEWALK),
    ("confirm-parent", "S7", Settings::HUGEWALK),
    ("confirm-generation", "S30", Settings::HUGEWALK),
    ("bump-generation", "S30", Settings::HUGEWALK),
    ("flush", "S11", Settings::HUGEWALK),
    ("note-generation-first", "S30", Settings::HUGEWALK),
    ("confirm-parent-first", "S30", Settings::HUGEWALK),
    ("bump-after-clear", "S30", Settings::HUGEWALK),
    ("confirm-entry", "S31", Settings::HUGEWALK),
    ("detach-locked", "S8", Settings::HUGEWALK),
    ("flush-whole-table", "S11", Settings::HUGEWALK),
    ("flush-tables", "S74", Settings::HUGEWALK),
    ("flush-under-i-mmap", "S11", Settings::HUGEWALK),
    ("vma-lock", "S13", Settings::HUGEWALK),
    ("try-vma-lock", "S25", Settings::HUGEWALK),
    ("reserve-lock", "S24", Settings::HUGEWALK),
    ("populate-lock", "S18", Settings::HUGEWALK),
    ("load-once", "S28", Settings::HUGEWALK),
    ("exchange-under-i-mmap", "S14", Settings::HUGEWALK),
    ("leave-under-i-mmap", "S22", Settings::HUGEWALK),
    ("share-without-i-mmap", "S23", Settings::HUGEWALK),
    ("queue-then-look", "S19", Settings::HUGEWALK),
    ("mutex-first", "S27", Settings::HUGEWALK),
    ("recheck-size", "S32", Settings::HUGEWALK),
    ("hold-vma", "S21", Settings::HUGEWALK),
    ("look-again", "S21/rmap", Settings::HUGEWALK),
    ("keep-lock", "S33", Settings::HUGEWALK),
    ("sleep-on-migration", "S5", Settings::HUGEWALK),
    ("populate-attached", "S70", Settings::HUGEWALK),
    ("count-below", "S71", Settings::HUGEWALK),
    ("mark-then-look", "S80", Settings::HUGEWALK),
    ("revoke-then-scan", "S80", Settings::HUGEWALK),
    ("leave-then-look", "S81", Settings::HUGEWALK),
    ("break-first", "S90", Settings::HUGEWALK),
    ("run-mutexes", "S95", Settings::HUGEWALK),
    ("run-looks-again", "S95/private", Settings::HUGEWALK),
    ("run-recheck", "S96", Settings::HUGEWALK),
    ("notify-start", "S91", Settings::HUGEWALK),
    ("notify-end-last", "S92", Settings::HUGEWALK),
    ("notify-whole-table", "S93", Settings::HUGEWALK),
    ("notify-sharers", "S94", Settings::HUGEWALK),
    ("look-after-copy", "S45/copy-fork", Settings::HUGEWALK),
    // Only who broadcasts wants to know who was the last.
    ("count-then-tell", "S10", Settings::IPI_LAST),
];
