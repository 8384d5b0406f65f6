//! The configuration of a host.

use hugewalk::arch::{Paging, X86_64};

/// Do huge pages have contents?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Contents {
    /// They are memory: a memory file, mapped once, which can be handed to a virtual machine.
    /// Memory is used only where it is touched.
    #[default]
    Memory,
    /// They are only numbers. Zeroing, copying and storing do nothing, and loading gives zeroes. A
    /// terabyte of them costs only the memory of its records.
    Nothing,
}

/// What the host does with the engine's tracepoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tracing {
    /// They are dropped, at the cost of one predictable branch.
    #[default]
    Off,
    /// They are counted: [`Host::event_counts`](crate::Host::event_counts).
    Count,
    /// They are counted, and those [of tables](hugewalk::platform::Event::is_of_tables) kept for
    /// [`Host::take_events`](crate::Host::take_events).
    Record,
    /// They are counted, and all of them kept.
    RecordAll,
}

/// How to build a [`Host`](crate::Host). The defaults make a machine of 64 GiB of huge pages with room for a million
/// tables; both are address space, not memory, until they are used.
#[derive(Clone, Debug)]
pub struct HostConfig<F: Paging = X86_64> {
    pub(crate) paging: F,
    pub(crate) mmap_min_addr: u64,
    pub(crate) huge_bytes: u64,
    pub(crate) max_tables: u64,
    pub(crate) contents: Contents,
    pub(crate) tracing: Tracing,
    pub(crate) membarrier: bool,
    pub(crate) notes_use: bool,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            paging: X86_64::FOUR_LEVELS,
            mmap_min_addr: 64 << 10,
            huge_bytes: 64 * X86_64::SIZE_1G.bytes(),
            max_tables: 1 << 20,
            contents: Contents::Memory,
            tracing: Tracing::Off,
            membarrier: true,
            notes_use: true,
        }
    }
}

impl HostConfig {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl<F: Paging> HostConfig<F> {
    /// The format of the page tables. [`X86_64::FOUR_LEVELS`] by default.
    #[must_use]
    pub fn paging<G: Paging>(self, paging: G) -> HostConfig<G> {
        let Self {
            paging: _,
            mmap_min_addr,
            huge_bytes,
            max_tables,
            contents,
            tracing,
            membarrier,
            notes_use,
        } = self;
        HostConfig { paging, mmap_min_addr, huge_bytes, max_tables, contents, tracing, membarrier, notes_use }
    }

    /// Do the processors note accesses and stores in the entries by themselves? They do by default. Otherwise an access that
    /// would have to be noted faults: arm64 without FEAT_HAFDBS, riscv64 with Svade.
    #[must_use]
    pub fn notes_use(mut self, notes_use: bool) -> Self {
        self.notes_use = notes_use;
        self
    }

    /// The lowest address that can be mapped. 64 KiB by default.
    #[must_use]
    pub fn mmap_min_addr(mut self, address: u64) -> Self {
        self.mmap_min_addr = address;
        self
    }

    /// Bytes of huge pages for all pools together, rounded down to the smallest size.
    #[must_use]
    pub fn huge_bytes(mut self, bytes: u64) -> Self {
        self.huge_bytes = bytes;
        self
    }

    /// How many page tables there can be at a time.
    #[must_use]
    pub fn max_tables(mut self, tables: u64) -> Self {
        self.max_tables = tables;
        self
    }

    /// Do huge pages have contents?
    #[must_use]
    pub fn contents(mut self, contents: Contents) -> Self {
        self.contents = contents;
        self
    }

    /// What the host does with the engine's tracepoints.
    #[must_use]
    pub fn tracing(mut self, tracing: Tracing) -> Self {
        self.tracing = tracing;
        self
    }

    /// May the host use `membarrier(2)`, if the kernel has it? Without it every read section costs
    /// a full fence.
    #[must_use]
    pub fn membarrier(mut self, allowed: bool) -> Self {
        self.membarrier = allowed;
        self
    }
}
