//! Machines with a flaw: what the engine relies on, and a scenario takes away to show what comes of it.
//!
//! The engine is the same, and whole. A scenario that shows why the engine does something in one step, or in this order, runs it
//! on a machine where it is two steps, or comes in another order.

use std::cell::Cell;

/// What a machine does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A compare-and-swap of an entry, by the engine, is a load, and later a store: a mistake that a kernel makes which reads an
    /// entry, thinks, and writes it.
    TornExchange,
}

/// The flaws that the machine has in a run.
#[derive(Debug, Default)]
pub(in crate::lab) struct Flaws(Cell<u8>);

impl Flaws {
    pub(super) fn begin_run(&self) {
        self.0.set(0);
    }

    /// From now on the machine has this one.
    pub(in crate::lab) fn add(&self, flaw: Flaw) {
        self.0.set(self.0.get() | 1 << flaw as u8);
    }

    /// Does the machine have it?
    #[inline]
    pub(in crate::lab) fn has(&self, flaw: Flaw) -> bool {
        self.0.get() & 1 << flaw as u8 != 0
    }
}
