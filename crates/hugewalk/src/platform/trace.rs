//! Tracepoints.

use crate::addr::{HugeFrame, VirtAddr};

/// Tracepoints. There is a default: nothing.
pub trait Trace {
    /// A tracepoint. Called with locks held, so it must be quick, and must neither sleep nor call
    /// back.
    #[inline(always)]
    fn trace(&self, event: Event) {
        let _ = event;
    }
}

/// Events inside the engine that a host may record: the tracepoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An address space began to share a table of another one.
    Shared {
        /// [`Mm::id`](crate::mm::Mm::id) of the address space.
        mm: u64,
        /// Start of the 1 GiB range.
        address: VirtAddr,
        /// How many address spaces use the table now.
        users: u64,
    },
    /// An address space stopped sharing a table.
    Unshared {
        /// [`Mm::id`](crate::mm::Mm::id) of the address space.
        mm: u64,
        /// Start of the 1 GiB range.
        address: VirtAddr,
        /// How many address spaces use the table now, at least 1.
        users: u64,
    },
    /// A gather flushed the TLB.
    Flushed {
        /// [`Mm::id`](crate::mm::Mm::id) of the address space.
        mm: u64,
        /// Tables unshared since the previous flush.
        unshared: u64,
        /// How many of these have one user left.
        last: u64,
    },
    /// A table was handed to RCU to be freed.
    TableRetired {
        /// [`Mm::id`](crate::mm::Mm::id) of the address space.
        mm: u64,
    },
    /// After many rounds, an entry still maps a page that was to be unmapped, or a migration entry
    /// is left. This is a bug in this crate; the operation goes on as well as it can. Linux:
    /// `VM_WARN_ON_ONCE_FOLIO()`.
    StillMapped {
        /// The page.
        frame: HugeFrame,
    },
}
