//! Nothing sleeps in an atomic section (I10).

use super::Judge;
use crate::explore::in_thread;
use crate::lab::ground::world;
use crate::lab::property::Property;

pub(super) struct Sleep;

impl Judge for Sleep {
    fn may_sleep() {
        if let Some(thread) = in_thread()
            && world().atomic.borrow()[thread] > 0
        {
            world().violated(Property::I10, "sleeping in an atomic section");
        }
    }
}
