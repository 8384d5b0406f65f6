//! What unsharing costs under each protocol.
//!
//! | protocol | who | per unshare |
//! |---|---|---|
//! | `ipi-each` | Linux since June 2025 | an interrupt to all processors for each table that is unshared |
//! | `ipi-last` | Linux since early 2026 | one for each batch in which a table came to have one user left |
//! | `hugewalk` | this engine | none |
//!
//! All three flush the TLB once for a batch. None of them waits for a grace period on the way: the broadcast stands in its
//! place for the first two, and the third confirms what it read instead.

use std::collections::BTreeMap;

use crate::report::{Protocol, Unshare, Unsharing};

/// Sums up what was unshared, for a machine of so many processors.
#[must_use]
pub(super) fn unsharing(events: Vec<Unshare>, cpus: u32) -> Unsharing {
    let mut by_call: BTreeMap<String, u64> = BTreeMap::new();
    for event in &events {
        *by_call.entry(event.call.to_owned()).or_default() += event.tables;
    }
    let sum = |of: fn(&Unshare) -> u64| events.iter().map(of).sum();
    let flushes = sum(|event| event.flushes);
    let protocol = |name, rule, broadcasts: u64| Protocol {
        name,
        rule,
        flushes,
        grace_periods: 0,
        broadcasts,
        processors_disturbed: broadcasts * u64::from(cpus - 1),
    };
    let protocols = vec![
        protocol("ipi-each", "one broadcast for each table unshared", sum(|event| event.tables)),
        protocol("ipi-last", "one for each batch that leaves a last user", sum(|event| event.last_flushes)),
        protocol("hugewalk", "none: walkers confirm what they read", 0),
    ];
    Unsharing { cpus, by_call, events, protocols }
}

impl Unshare {
    /// Adds what another copy of the same process did.
    pub(crate) fn add(&mut self, other: &Self) {
        self.tables += other.tables;
        self.last_sharers += other.last_sharers;
        self.flushes += other.flushes;
        self.last_flushes += other.last_flushes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_pays_for_what_it_broadcasts() {
        let event = |call, tables, last_flushes| Unshare {
            call,
            tables,
            last_sharers: last_flushes,
            flushes: 1,
            last_flushes,
            ..Unshare::default()
        };
        let events = vec![event("exit", 2, 0), event("exit", 2, 1), event("munmap", 3, 1)];
        let unsharing = unsharing(events, 8);
        assert_eq!(unsharing.by_call, BTreeMap::from([("exit".to_owned(), 4), ("munmap".to_owned(), 3)]));
        let costs: Vec<_> = unsharing
            .protocols
            .iter()
            .map(|protocol| (protocol.flushes, protocol.broadcasts, protocol.processors_disturbed))
            .collect();
        assert_eq!(costs, [(3, 7, 49), (3, 2, 14), (3, 0, 0)]);
    }
}
