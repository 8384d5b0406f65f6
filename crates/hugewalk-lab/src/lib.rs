//! The lab: runs the engine under every interleaving.
pub mod explore;
