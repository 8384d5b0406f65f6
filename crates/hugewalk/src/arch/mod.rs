//! Entry formats of the processors.
//!
//! There is one format so far: x86-64, stage 1, the tables that CR3 points to. AMD's nested tables have the
//! same format. Intel's EPT does not, so a hypervisor cannot use these tables as EPT.
//!
//! The rest of the engine speaks [`Entry`]; only this module knows bits.

mod x86_64;

pub use self::x86_64::{Entry, Leaf, LeafFlags, Level, Migration, RawEntry};
