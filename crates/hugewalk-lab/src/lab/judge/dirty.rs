//! A page that a processor has stored to is dirty in its entry, whenever the lock of the table is let go (I13). So it is in the
//! entry that stands for it while it is moved.
//!
//! The engine keeps no account of dirty pages beside the entries: their contents are nowhere but in memory, so nothing is
//! written back, and with the entry the bit goes. What it promises is that an entry which stays loses no bit that a processor sets.

use hugewalk::arch::Entry;

use super::Judge;
use crate::explore::is_moving;
use crate::lab::ground::{Place, To, world};
use crate::lab::property::Property;
use crate::lab::trace;

pub(super) struct Dirty;

impl Judge for Dirty {
    fn spins(place: Place, what: &str) {
        let Place::Record(table, _) = place else { return };
        if what != "unlocks" || !is_moving() {
            return;
        }
        let lost = world().cached.find(|cached| {
            let To::Page(page) = cached.to else { return false };
            let entry = world().peek_raw(table, cached.start >> 21).decode();
            let forgets = match entry {
                Entry::Leaf(leaf) => leaf.frame == page.frame && !leaf.is_dirty(),
                Entry::Migration(away) => away.frame == page.frame && !away.dirty,
                _ => false,
            };
            page.table == table && page.dirty && forgets
        });
        if let Some(lost) = lost {
            let name = world().name_of(table, (lost.start >> 21 & 511) as usize);
            trace::is_about(table, false);
            let text = format!("{name} is not dirty, and a processor has stored to its page");
            world().violated(Property::I13, &text);
        }
    }
}
