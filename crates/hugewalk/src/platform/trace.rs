//! Tracepoints.

use crate::addr::{HugeFrame, HugeSize, VirtAddr};

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
    /// A fault was handled: [`AddressSpace::fault`](crate::AddressSpace::fault), and those of operations that fault pages in. Linux:
    /// `exceptions:page_fault_user`.
    Faulted {
        /// [`Mm::id`](crate::mm::Mm::id) of the address space.
        mm: u64,
        /// Where.
        address: VirtAddr,
        /// Was it a store?
        write: bool,
        /// May the access be tried again? Otherwise it failed.
        resolved: bool,
    },
    /// Huge pages were reserved, for a mapping or for a file.
    Reserved {
        /// The size of the pages.
        size: HugeSize,
        /// How many, which may be 0: all have been reserved before.
        pages: u64,
    },
    /// Reservations were given back that no page has used.
    Unreserved {
        /// The size of the pages.
        size: HugeSize,
        /// How many, which may be 0.
        pages: u64,
    },
    /// A page was to be moved. Linux: `migrate:mm_migrate_pages`.
    Migrated {
        /// Where it was.
        from: HugeFrame,
        /// Where it is now. `None` if it stays.
        to: Option<HugeFrame>,
    },
    /// A fault begins to wait for a handler (userfaultfd).
    HandlerAsked {
        /// [`Mm::id`](crate::mm::Mm::id) of the address space.
        mm: u64,
        /// Start of the page.
        address: VirtAddr,
    },
    /// The wait of a fault for a handler is over, whether the handler has done something or not.
    HandlerAnswered {
        /// [`Mm::id`](crate::mm::Mm::id) of the address space.
        mm: u64,
        /// Start of the page.
        address: VirtAddr,
    },
    /// A handler has filled a range, or said that its contents are lost.
    HandlerFilled {
        /// [`Mm::id`](crate::mm::Mm::id) of the address space.
        mm: u64,
        /// Start of the range.
        address: VirtAddr,
        /// Bytes that were filled.
        length: u64,
    },
    /// After many rounds, an entry still maps a page that was to be unmapped, or a migration entry
    /// is left. This is a bug in this crate; the operation goes on as well as it can. Linux:
    /// `VM_WARN_ON_ONCE_FOLIO()`.
    StillMapped {
        /// The page.
        frame: HugeFrame,
    },
}

impl Event {
    /// Is it about tables and their sharing? All others come as often as the operations that they tell of.
    #[must_use]
    pub fn is_of_tables(&self) -> bool {
        matches!(
            self,
            Self::Shared { .. }
                | Self::Unshared { .. }
                | Self::Flushed { .. }
                | Self::TableRetired { .. }
                | Self::StillMapped { .. }
        )
    }
}
