//! What unsharing costs under each protocol.
//!
//! | protocol | who | per unshare |
//! |---|---|---|
//! | `vma-lock` | Linux 6.3 to June 2025 | nothing, and GUP-fast may read a table that has become somebody else's |
//! | `ipi-each` | Linux since June 2025 | an interrupt to all processors for each table that is unshared |
//! | `ipi-last` | Linux since early 2026 | one for each batch in which a table came to have one user left |
//! | `sync-rcu` | Linux 7.1 | the same: its grace periods are for tables that are freed without memory for a batch |
//! | `ipi-implied` | proposed in 2026 | nothing besides the TLB flush |
//! | `ipi-targeted` | proposed in 2026 | an interrupt to processors that walk the address space; at its exit nobody does |
//! | `unshare-rcu` | suggested in 2026 | a grace period for each batch in which a table came to have one user left |
//! | `hugewalk` | this engine | none |
//!
//! All of them flush the TLB once for a batch. `docs/upstream.md` says where each is open.

use std::collections::BTreeMap;

use hugewalk::platform::Event;

use crate::report::{Protocol, Unshare, Unsharing};

/// Sums up what was unshared, for a machine of so many processors.
#[must_use]
pub(crate) fn unsharing(events: Vec<Unshare>, cpus: u32) -> Unsharing {
    let mut by_call: BTreeMap<String, u64> = BTreeMap::new();
    for event in &events {
        *by_call.entry(event.call.to_owned()).or_default() += event.tables;
    }
    let sum = |of: fn(&Unshare) -> u64| events.iter().map(of).sum();
    let flushes = sum(|event| event.flushes);
    let (each, last) = (sum(|event| event.tables), sum(|event| event.last_flushes));
    let others = u64::from(cpus - 1);
    // Nobody walks an address space at its exit.
    let while_alive: u64 =
        events.iter().filter(|event| event.call != "exit").map(|event| event.last_flushes).sum();
    let protocol = |name, rule, grace_periods, broadcasts, processors_disturbed| Protocol {
        name,
        rule,
        flushes,
        grace_periods,
        broadcasts,
        processors_disturbed,
    };
    let none = |name, rule| protocol(name, rule, 0, 0, 0);
    let broadcast = |name, rule, times: u64| protocol(name, rule, 0, times, times * others);
    let protocols = vec![
        none("vma-lock", "none: open to GUP-fast (CVE-2025-38085)"),
        broadcast("ipi-each", "one broadcast for each table unshared", each),
        broadcast("ipi-last", "one for each batch that leaves a last user", last),
        broadcast("sync-rcu", "as ipi-last", last),
        none("ipi-implied", "none besides the TLB flush"),
        protocol(
            "ipi-targeted",
            "at most: only processors that walk the address space",
            0,
            0,
            while_alive * others,
        ),
        protocol("unshare-rcu", "a grace period for each batch that leaves a last user", last, 0, 0),
        none("hugewalk", "none: walkers confirm what they read"),
    ];
    Unsharing { cpus, by_call, events, protocols }
}

impl Unshare {
    /// Counts what the engine reported meanwhile.
    pub(crate) fn count(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Unshared { users, .. } => {
                    self.tables += 1;
                    self.last_sharers += u64::from(*users == 1);
                }
                Event::Flushed { unshared: 1.., last, .. } => {
                    self.flushes += 1;
                    self.last_flushes += u64::from(*last > 0);
                }
                _ => {}
            }
        }
    }

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
            .map(|of| (of.name, of.flushes, of.grace_periods, of.broadcasts, of.processors_disturbed))
            .collect();
        let expected = [
            ("vma-lock", 3, 0, 0, 0),
            ("ipi-each", 3, 0, 7, 49),
            ("ipi-last", 3, 0, 2, 14),
            ("sync-rcu", 3, 0, 2, 14),
            ("ipi-implied", 3, 0, 0, 0),
            ("ipi-targeted", 3, 0, 0, 7),
            ("unshare-rcu", 3, 2, 0, 0),
            ("hugewalk", 3, 0, 0, 0),
        ];
        assert_eq!(costs, expected);
    }
}
