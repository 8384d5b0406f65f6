//! Is a table that is touched alive, and its lock (I1)?

use super::{Access, Judge};
use crate::explore::in_thread;
use crate::lab::ground::{Life, Place, world};
use crate::lab::property::{Property, in_words};
use crate::lab::trace;

pub(super) struct Tables;

impl Judge for Tables {
    fn accesses(access: &Access) {
        check(access.place, false, if access.writes { "writes" } else { "reads" });
    }

    fn spins(place: Place, what: &str) {
        check(place, true, what);
    }
}

/// The thread touches a table, or its lock, now.
fn check(place: Place, lock: bool, what: &str) {
    let (Place::Entry(frame, _) | Place::Record(frame, _)) = place else { return };
    match (world().life(frame, lock), in_thread()) {
        (Life::Unused, Some(thread)) => {
            let text =
                format!("{} {what} T{}, which has never been a table", in_words(Some(thread)), frame.0);
            world().violated(Property::I1, &text);
        }
        (Life::Dead(by), Some(thread)) => {
            let (who, by) = (in_words(Some(thread)), in_words(by.map(usize::from)));
            let part = if lock { "the lock of T" } else { "T" };
            trace::is_about(frame, lock);
            let text = format!("use after free: {who} {what} {part}{}, freed by {by}", frame.0);
            world().violated(Property::I1, &text);
        }
        _ => {}
    }
}
