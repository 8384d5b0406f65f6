//! Interrupts of the calling processor.

use ::x86_64::instructions::interrupts as processor;

pub use self::processor::{are_enabled, disable, enable, without_interrupts};

/// Turns them on, and sleeps until one has come.
pub fn enable_and_wait() {
    processor::enable_and_hlt();
}

/// Sleeps until one comes, if they are on; for ever, if they are off.
pub fn wait() {
    ::x86_64::instructions::hlt();
}
