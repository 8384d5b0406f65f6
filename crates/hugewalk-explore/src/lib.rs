//! Runs a concurrent program under every interleaving, in a test.
//!
//! What it does not cover: memory orderings weaker than sequential consistency.

pub mod explorer;
