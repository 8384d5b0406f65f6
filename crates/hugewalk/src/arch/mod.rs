//! Entry formats of the processors.
//!
//! One format so far: x86-64. The rest of the engine speaks [`Entry`]; only this room knows bits.

mod x86_64;

pub use self::x86_64::{Entry, Leaf, LeafFlags, Level, Migration, RawEntry};
