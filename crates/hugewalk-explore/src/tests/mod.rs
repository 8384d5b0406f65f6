//! Programs of this crate's own types.

mod programs;
