//! No processor has two translations of one address that differ (I18).
//!
//! A processor may keep a group of entries as one translation, whichever member it has read, and it may walk the tables at any moment, also for
//! an address that it has a translation of. What it does with two that do not agree is nothing that anybody has defined: it may report a conflict, use
//! either of them, or an amalgamation. So an entry is broken, and forgotten, before another one is made in its place, where the page
//! or the rights of a group change.
//!
//! Arm ARM (DDI 0487), "Using break-before-make when updating translation table entries", "TLB conflict aborts".

use super::Judge;
use crate::explore::in_thread;
use crate::lab::ground::{Cached, To, world};
use crate::lab::property::{Property, in_words};
use crate::lab::trace;

pub(super) struct Conflicts;

impl Judge for Conflicts {
    fn keeps(cached: &Cached) {
        let To::Page(page) = cached.to else { return };
        if !world().judges(Property::I18) {
            return;
        }
        let other = world().cached.find(|other| {
            let To::Page(known) = other.to else { return false };
            let span = page.span.max(known.span);
            (other.cpu, other.context) == (cached.cpu, cached.context)
                && (other.start ^ cached.start) >> span == 0
                && (known.frame, known.writable) != (page.frame, page.writable)
        });
        if let Some(To::Page(known)) = other.map(|other| other.to) {
            trace::is_about(page.table, false);
            let (who, address) = (in_words(in_thread()), cached.start);
            let in_words = |frame: u64, writable: bool| {
                let rights = if writable { "" } else { ", read-only" };
                format!("page {}{rights}", frame >> 9)
            };
            let (old, new) = (in_words(known.frame.0, known.writable), in_words(page.frame.0, page.writable));
            let text = format!("{who} has two translations of {address:x}: {old}; and {new}");
            world().violated(Property::I18, &text);
        }
    }
}
