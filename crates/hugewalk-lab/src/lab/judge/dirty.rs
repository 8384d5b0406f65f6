//! A page that a processor has stored to is dirty in its entry, whenever the lock of the table is let go (I13). So it is in the
//! entry that stands for it while it is moved. Of a group it is enough that one member is.
//!
//! The engine keeps no account of dirty pages beside the entries: their contents are nowhere but in memory, so nothing is
//! written back, and with the entry the bit goes. What it promises is that an entry which stays loses no bit that a processor sets.

use std::cell::RefCell;

use hugewalk::addr::{HugeFrame, TableFrame};
use hugewalk::arch::Entry;

use super::{Access, Judge, PageUse};
use crate::explore::is_moving;
use crate::lab::ground::{MEMBER_SHIFT, Place, RawEntry, world};
use crate::lab::property::Property;
use crate::lab::trace;

/// Entries through which processors have stored, and which are still there.
const STORED: usize = 32;

/// An entry through which a processor has stored, and the page that it stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stored {
    table: TableFrame,
    index: usize,
    page: HugeFrame,
    /// The numbers of members in a group.
    group: usize,
}

/// The entries that are to be dirty.
#[derive(Default)]
pub(super) struct Dirty(RefCell<[Option<Stored>; STORED]>);

thread_local! {
    static DIRTY: &'static Dirty = Box::leak(Box::default());
}

fn dirty() -> &'static Dirty {
    DIRTY.with(|dirty| *dirty)
}

/// The page that an entry stands for, as it is or on its way, and whether the entry says that it is dirty.
fn page_of(entry: RawEntry) -> Option<(HugeFrame, bool)> {
    match entry.decode() {
        Entry::Leaf(leaf) => Some((leaf.frame, leaf.is_dirty())),
        Entry::Migration(away) => Some((away.frame, away.dirty)),
        _ => None,
    }
}

impl Judge for Dirty {
    fn begin_run() {
        *dirty().0.borrow_mut() = [None; STORED];
    }

    fn pieces(each: &mut dyn FnMut(*mut u8, usize)) {
        each(std::ptr::from_ref(dirty()).cast_mut().cast(), size_of::<Self>());
    }

    fn uses_page(used: &PageUse) {
        if !used.stores || !world().judges(Property::I13) {
            return;
        }
        let group = 1 << (used.page.span - MEMBER_SHIFT);
        let index = (used.address >> MEMBER_SHIFT & 511) as usize & !(group - 1);
        let stored = Stored { table: used.page.table, index, page: used.page.frame, group };
        // By a translation that is stale it stores to what has no entry: that is another judge's.
        let is_there = page_of(world().peek_raw(stored.table, index as u64)).map(|(page, _)| page);
        let mut known = dirty().0.borrow_mut();
        if is_there == Some(stored.page) && !known.iter().flatten().any(|other| *other == stored) {
            *known.iter_mut().find(|place| place.is_none()).expect("fewer entries") = Some(stored);
        }
    }

    fn accesses(access: &Access) {
        let Place::Entry(table, index) = access.place else { return };
        if !access.writes || !world().judges(Property::I13) {
            return;
        }
        let now = page_of(RawEntry::from_bits(access.after)).map(|(page, _)| page);
        for place in dirty().0.borrow_mut().iter_mut() {
            let is_it = |stored: &mut Stored| {
                stored.table == table && (stored.index..stored.index + stored.group).contains(&index)
            };
            // The entry does not stay.
            place.take_if(|stored| is_it(stored) && now != Some(stored.page));
        }
    }

    fn spins(place: Place, what: &str) {
        let Place::Record(table, _) = place else { return };
        if what != "unlocks" || !is_moving() {
            return;
        }
        let forgets = |stored: &Stored| {
            let says = |index: usize| page_of(world().peek_raw(table, index as u64));
            let is_dirty = |index| says(index).is_none_or(|(page, dirty)| page != stored.page || dirty);
            stored.table == table && !(stored.index..stored.index + stored.group).any(is_dirty)
        };
        let lost = dirty().0.borrow().iter().flatten().copied().find(forgets);
        if let Some(lost) = lost {
            let name = world().name_of(table, lost.index);
            trace::is_about(table, false);
            let text = format!("{name} is not dirty, and a processor has stored to its page");
            world().violated(Property::I13, &text);
        }
    }
}
