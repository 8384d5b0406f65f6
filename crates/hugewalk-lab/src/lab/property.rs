//! What a run is judged by.

use crate::explore::violation;

/// Properties that a run is judged by; docs/lab.md has the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Property {
    /// No access to a table, or its lock, after its death; nor to the lock in a VMA.
    I1,
    /// What a walker writes goes to a table of its own.
    I2,
    /// What a walker is told was its own entry.
    I3,
    /// The count of users is right whenever `i_mmap` is free.
    I4,
    /// Who shares a table may.
    I5,
    /// No TLB and no paging-structure cache reaches an unshared table.
    I6,
    /// Locks have an order.
    I7,
    /// Nobody makes way for others without end.
    I8,
    /// Nothing leaks.
    I9,
    /// No sleep in an atomic section.
    I10,
    /// No processor comes to a page that is not its address space's any more, nor stores to one that it may not.
    I11,
    /// A page is filled before anybody can come to it, and has not failed.
    I12,
    /// What was stored is in the page, and its entry says so.
    I13,
    /// References of a page are right.
    I14,
    /// Reservations are right, and a fault that has one gets a page.
    I15,
    /// What a report tells of an entry was so.
    I16,
    /// Whoever holds a lock in write holds it alone.
    I17,
    /// No processor has two translations of one address that differ.
    I18,
}

impl Property {
    /// What its violation is called.
    pub(crate) fn sort(self, of_lock: bool) -> &'static str {
        match (self, of_lock) {
            (Self::I1, false) => "table-use-after-free",
            (Self::I1, true) => "table-lock-use-after-free",
            (Self::I2, _) => "wrong-table-write",
            (Self::I3, _) => "foreign-entry",
            (Self::I4, _) => "miscounted-table",
            (Self::I5, _) => "shared-without-right",
            (Self::I6, _) => "stale-TLB-entry",
            (Self::I7, _) => "lock-order-violation",
            (Self::I8, _) => "starvation",
            (Self::I9, _) => "leak",
            (Self::I10, _) => "sleeping-in-atomic-section",
            (Self::I11, _) => "stale-translation",
            (Self::I12, _) => "unfilled-page",
            (Self::I14, _) => "miscounted-page",
            (Self::I13, _) => "lost-store",
            (Self::I15, _) => "miscounted-reservation",
            (Self::I16, _) => "untrue-report",
            (Self::I17, _) => "lock-not-exclusive",
            (Self::I18, _) => "TLB-conflict",
        }
    }

    /// Reports a violation, whatever the scenario asks for.
    pub(super) fn is_violated(self, text: &str) {
        violation(format!("{self:?}: {text}"), self);
    }
}

/// What a secondary MMU keeps has this number in place of a processor's.
pub(super) const SECONDARY: usize = usize::MAX;

/// A processor as drawings name it, or who works when none does.
pub(super) fn in_words(cpu: Option<usize>) -> String {
    if cpu == Some(SECONDARY) {
        return "a secondary MMU".to_owned();
    }
    cpu.map_or_else(|| "the setup".to_owned(), |cpu| format!("CPU {}", char::from(b'A' + cpu as u8)))
}
