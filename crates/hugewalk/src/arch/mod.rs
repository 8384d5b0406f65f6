//! Entry formats of the processors.
//!
//! One format so far: x86-64, stage 1, what CR3 points to. AMD's nested tables have the same format; Intel's EPT does not, and a
//! hypervisor that wants EPT cannot use these tables for it.
//! The rest of the engine speaks [`Entry`]; only this room knows bits.

mod x86_64;

pub use self::x86_64::{Entry, Leaf, LeafFlags, Level, Migration, RawEntry};
