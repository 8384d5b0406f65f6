//! The state of the machine at one moment.

use hugewalk::addr::TableFrame;
use hugewalk::arch::X86_64;

use super::{Record, names};
use crate::lab::ground::{GENERATION, Kept, USERS, world};
use crate::story::{Cached, Entry, Holds, Life, Process, State, Table};

impl Record {
    /// What the tables, locks and caches look like now. Touches nothing.
    pub(super) fn state(&mut self) -> State {
        let processes = (0..self.processes.len()).map(|number| self.process(number)).collect();
        let tables = self.leaf_tables.iter().map(|&frame| self.table(frame)).collect();
        State { processes, tables, holds: self.holds(), tlb: self.tlb() }
    }

    fn process(&mut self, number: usize) -> Process {
        let root = self.processes[number].root;
        let mut pud = Vec::new();
        for (above, raw) in filled(root) {
            let Some(puds) = crate::lab::ground::RawEntry::from_bits(raw).table() else { continue };
            for (index, raw) in filled(puds) {
                if let Some(table) = crate::lab::ground::RawEntry::from_bits(raw).table() {
                    self.leaf_tables.insert(table);
                }
                pud.push(Entry { index: above * X86_64::ENTRIES + index, entry: names::entry(raw) });
            }
        }
        Process { name: format!("P{}", number + 1), pud }
    }

    fn table(&self, frame: TableFrame) -> Table {
        let entry = |(index, raw)| Entry { index, entry: names::entry(raw) };
        let life = match (self.freed.contains_key(&frame), self.retired.contains(&frame)) {
            (true, _) => Life::Freed,
            (false, true) => Life::Retired,
            (false, false) => Life::Alive,
        };
        let name = format!("T{}", frame.0);
        let lock = format!("lock of {name}");
        let holder = self.holds.iter().position(|held| held.iter().any(|(_, held)| *held == lock));
        Table {
            life,
            lock_freed: self.lock_freed.contains_key(&frame) || life == Life::Freed,
            users: world().peek_record(frame, USERS),
            generation: world().peek_record(frame, GENERATION),
            lock: holder.filter(|&cpu| cpu != super::SETUP).map(letter),
            entries: filled(frame).map(entry).collect(),
            name,
        }
    }

    fn holds(&self) -> Vec<Holds> {
        let held = |cpu: usize| {
            let rcu = self.sections[cpu].map(|section| section.name().to_owned());
            let locks: Vec<_> =
                rcu.into_iter().chain(self.holds[cpu].iter().map(|(_, name)| name.clone())).collect();
            (!locks.is_empty()).then_some(Holds { cpu, locks })
        };
        (0..self.sections.len()).filter_map(held).collect()
    }

    fn tlb(&self) -> Vec<Cached> {
        let cached = |cached: Kept| {
            let of = self.processes.iter().position(|process| process.context == cached.context)?;
            let range = format!("{:x}-{:x}", cached.range.start, cached.range.end);
            Some(Cached { process: format!("P{}", of + 1), range, to: cached.to })
        };
        world().cached.kept().into_iter().filter_map(cached).collect()
    }
}

/// The letter of a processor.
pub(super) fn letter(cpu: usize) -> char {
    char::from(b'A' + cpu as u8)
}

/// The entries of a table that are not empty.
fn filled(table: TableFrame) -> impl Iterator<Item = (usize, u64)> {
    (0..X86_64::ENTRIES).filter_map(move |index| {
        let raw = world().peek_raw(table, index as u64).bits();
        (raw != 0).then_some((index, raw))
    })
}
