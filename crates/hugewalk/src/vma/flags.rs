//! What a mapping allows, what is special about it, and what a fault was about.

use bitflags::bitflags;

bitflags! {
    /// What a mapping allows. Linux: `PROT_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Protection: u8 {
        /// Loads.
        const READ = 1;
        /// Stores (which on x86-64 allow loads too).
        const WRITE = 2;
        /// Instruction fetches (likewise).
        const EXECUTE = 4;
    }
}

/// What the processor tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

bitflags! {
    /// What is special about a mapping. Linux: `VM_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct VmaFlags: u32 {
        /// Stores go to the file (`VM_SHARED`, `VM_MAYSHARE`).
        const SHARED = 1 << 0;
        /// No pages are reserved (`VM_NORESERVE`).
        const NORESERVE = 1 << 1;
        /// userfaultfd handles faults on missing pages.
        const UFFD_MISSING = 1 << 3;
        /// userfaultfd handles faults on pages that are in the file but not mapped.
        const UFFD_MINOR = 1 << 4;
        /// userfaultfd handles writes to protected pages.
        const UFFD_WP = 1 << 5;
        /// Any of the three: userfaultfd handles some faults.
        const UFFD = Self::UFFD_MISSING.bits() | Self::UFFD_MINOR.bits() | Self::UFFD_WP.bits();
        /// Left out of core dumps (`VM_DONTDUMP`).
        const DONTDUMP = 1 << 6;
        /// Left out of forked children (`VM_DONTCOPY`).
        const DONTFORK = 1 << 7;
        /// Cannot be changed until the address space ends (`VM_SEALED`).
        const SEALED = 1 << 8;
        /// Expected to be read in no particular order (`VM_RAND_READ`).
        const RANDOM = 1 << 9;
        /// Expected to be read from start to end (`VM_SEQ_READ`).
        const SEQUENTIAL = 1 << 10;
    }
}

/// Why the handler has to resolve a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// There is no page.
    Missing,
    /// The file has a page, which is not mapped.
    Minor,
    /// A store met the handler's write protection.
    Protected,
}

impl Reason {
    /// The flag of the VMAs whose handler resolves faults of this kind.
    pub(crate) const fn vma_flag(self) -> VmaFlags {
        match self {
            Self::Missing => VmaFlags::UFFD_MISSING,
            Self::Minor => VmaFlags::UFFD_MINOR,
            Self::Protected => VmaFlags::UFFD_WP,
        }
    }
}
