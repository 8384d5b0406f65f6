//! What needs a table to stay in place does not take a read section's word for it.

use hugewalk::platform::Platform;
use hugewalk::walk::{Alive, Slot, Stable};

fn sharers<P: Platform>(slot: &Slot<'_, P, Stable>) -> u64 {
    slot.sharers()
}

fn as_an_argument<P: Platform>(slot: &Slot<'_, P, Alive>) -> u64 {
    sharers(slot)
}

fn as_a_receiver<P: Platform>(slot: &Slot<'_, P, Alive>) -> u64 {
    slot.sharers()
}

fn main() {}
