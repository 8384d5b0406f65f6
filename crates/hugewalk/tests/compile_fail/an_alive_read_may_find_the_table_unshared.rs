//! In a read section a table may be unshared at any moment: what a slot gives is an entry only if it still is one.

use hugewalk::arch::Entry;
use hugewalk::platform::Platform;
use hugewalk::walk::{Alive, LockedSlot, Slot};

fn a_read<P: Platform>(slot: &Slot<'_, P, Alive>) -> Entry {
    slot.read()
}

fn a_lock<'s, P: Platform>(slot: &'s Slot<'_, P, Alive>) -> LockedSlot<'s, P> {
    slot.lock()
}

fn a_write_through_a_lock<P: Platform>(slot: &Slot<'_, P, Alive>) {
    slot.lock().mark_used(true);
}

fn main() {}
