//! What was read without a lock may be an entry of the table's next owner, until the generation has been compared.

use hugewalk::arch::Entry;
use hugewalk::platform::Platform;
use hugewalk::walk::{Alive, Slot, Unshared};

fn used_as_it_is<P: Platform>(slot: &Slot<'_, P, Alive>) -> Result<Entry, Unshared> {
    Ok(slot.peek()?)
}

fn taken_out<P: Platform>(slot: &Slot<'_, P, Alive>) -> Result<Entry, Unshared> {
    Ok(slot.peek()?.entry.decode())
}

fn confirmed_without_looking<P: Platform>(slot: &Slot<'_, P, Alive>) -> Result<Entry, Unshared> {
    Ok(slot.peek()?.confirm())
}

fn main() {}
