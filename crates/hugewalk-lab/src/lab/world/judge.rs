//! What a run is judged by, and the judgements on tables: whether one that is touched is alive, whose it is, how many use it.

use std::sync::atomic::Ordering;

use hugewalk::addr::TableFrame;

use super::{Life, Place, USERS, Watch, World};
use crate::explore::{in_thread, is_judged, violation};
use crate::lab::{Word, trace};

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
        }
    }
}

/// A processor as drawings name it, or who works when none does.
pub(in crate::lab) fn in_words(cpu: Option<usize>) -> String {
    cpu.map_or_else(|| "the setup".to_owned(), |cpu| format!("CPU {}", char::from(b'A' + cpu as u8)))
}

impl World {
    /// Reports a violation if the scenario is judged by this property.
    pub(in crate::lab) fn violated(&self, property: Property, text: &str) {
        if self.judged.get() & 1 << property as u16 != 0 {
            violation(format!("{property:?}: {text}"), property);
        }
    }

    /// The thread touches a table, or its lock, now.
    pub(in crate::lab) fn check_alive(&self, place: Place, lock: bool, what: &str) {
        let (Place::Entry(frame, _) | Place::Record(frame, _)) = place else { return };
        let state = self.state.borrow()[frame.0 as usize];
        let life = if lock { state.lock } else { state.life };
        if life == Life::Unused && in_thread().is_some() {
            let text = format!("{} {what} T{}, which has never been a table", in_words(in_thread()), frame.0);
            self.violated(Property::I1, &text);
        }
        if let Life::Dead(by) = life
            && let Some(thread) = in_thread()
        {
            let (who, by) = (in_words(Some(thread)), in_words(by.map(usize::from)));
            let part = if lock { "the lock of T" } else { "T" };
            trace::is_about(frame, lock);
            self.violated(
                Property::I1,
                &format!("use after free: {who} {what} {part}{}, freed by {by}", frame.0),
            );
        }
    }

    /// An entry is read or written by a thread whose walk is watched.
    pub(in crate::lab) fn check_own(&self, frame: TableFrame, index: usize, writes: bool) {
        let Some(thread) = in_thread() else { return };
        let watch = self.watch.borrow()[thread];
        if watch.on && !writes && (watch.root == Some(frame) || self.roots().any(|root| root == frame)) {
            // A walk begins.
            let root = if watch.everywhere { Some(frame) } else { watch.root };
            self.watch.borrow_mut()[thread] = Watch { root, own: None, ..watch };
        }
        let Some(root) = watch.root else { return };
        let address = watch.address.as_u64();
        let pud = self.peek(root, address >> 39);
        if index != (address >> 21 & 511) as usize || frame == root || pud == Some(frame) {
            return;
        }
        let own = pud.and_then(|pud| self.peek(pud, address >> 30)) == Some(frame);
        if writes {
            if !own {
                let who = in_words(Some(thread));
                let text = format!("{who} writes to T{}, which is not its own any more", frame.0);
                trace::is_about(frame, false);
                self.violated(Property::I2, &text);
            }
        } else {
            self.watch.borrow_mut()[thread].own.get_or_insert(own);
        }
    }

    /// A watched thread acts on the entry it has read last.
    pub(in crate::lab) fn told(&self) {
        if let Some(thread) = in_thread()
            && self.watch.borrow()[thread].own == Some(false)
        {
            let who = in_words(Some(thread));
            let text = format!("{who} is told of an entry that was not its own when it was read");
            self.violated(Property::I3, &text);
        }
    }

    /// A word goes down. If it is the count of a table's users, it must not go below none (I4).
    pub(in crate::lab) fn check_count(&self, word: &Word, by: u64) {
        if let Place::Record(frame, USERS) = self.place(std::ptr::from_ref(word).addr())
            && let before = word.raw().load(Ordering::Relaxed)
            && before < by
            && in_thread().is_some()
            && is_judged()
        {
            trace::is_about(frame, false);
            let text = format!("I4: a user of T{} is counted out, and there is one left", frame.0);
            violation(text, Property::I4);
        }
    }
}
