//! A count of users is never taken below none (I4). Whether it is right is looked at when `i_mmap` is free: `audit.rs`.

use super::{Access, Judge};
use crate::explore::{in_thread, is_judged, violation};
use crate::lab::ground::{Place, USERS};
use crate::lab::property::Property;
use crate::lab::trace;

pub(super) struct Counts;

impl Judge for Counts {
    fn accesses(access: &Access) {
        if let Place::Record(frame, USERS) = access.place
            && access.subtracts
            && access.after > access.before
            && in_thread().is_some()
            && is_judged()
        {
            trace::is_about(frame, false);
            let text = format!("I4: a user of T{} is counted out, and there is one left", frame.0);
            violation(text, Property::I4);
        }
    }
}
