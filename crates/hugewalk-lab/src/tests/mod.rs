//! Small programs on what the lab adds to the explorer: RCU, interrupts, flushes, page tables.

mod compare;
mod corpus;
mod memory;
