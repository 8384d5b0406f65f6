//! The messages between the faulting side and the handler. The bits are those of Linux's
//! include/uapi/linux/userfaultfd.h.

use bitflags::bitflags;

use super::Userfault;
use crate::addr::VirtAddr;
use crate::platform::Platform;

bitflags! {
    /// What a handler asks for. Linux: `UFFD_FEATURE_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Features: u64 {
        /// Write protection is known.
        const PAGEFAULT_FLAG_WP = 1 << 0;
        /// Tell of forks: the child's ranges are registered too, with a handle of their own.
        const EVENT_FORK = 1 << 1;
        /// Tell of moves. Without it, a mapping that moves is no longer registered.
        const EVENT_REMAP = 1 << 2;
        /// Tell when pages are about to be dropped.
        const EVENT_REMOVE = 1 << 3;
        /// Missing mode on huge pages is known.
        const MISSING_HUGETLBFS = 1 << 4;
        /// Tell of unmaps.
        const EVENT_UNMAP = 1 << 6;
        /// Faults that the handler would get end with `SIGBUS` instead.
        const SIGBUS = 1 << 7;
        /// Messages name the faulting task.
        const THREAD_ID = 1 << 8;
        /// Minor mode on huge pages is known.
        const MINOR_HUGETLBFS = 1 << 9;
        /// Messages give the address of the access, not that of its page.
        const EXACT_ADDRESS = 1 << 11;
        /// Write protection on huge pages is known.
        const WP_HUGETLBFS_SHMEM = 1 << 12;
        /// Write protection of pages that are not there is known. On huge pages it always works so. Linux 6.4.
        const WP_UNPOPULATED = 1 << 13;
        /// Poison is known. Linux 6.6.
        const POISON = 1 << 14;
        /// A store to a protected page takes the protection off and goes on: the handler is not asked, but a
        /// [scan](crate::AddressSpace::scan_pages) tells which pages were written. Implies `WP_UNPOPULATED`. Linux 6.7.
        const WP_ASYNC = 1 << 15;
    }
}

bitflags! {
    /// Which faults of a range the handler gets. Linux: `UFFDIO_REGISTER_MODE_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Modes: u64 {
        /// Faults on pages that do not exist yet.
        const MISSING = 1 << 0;
        /// Stores to pages that the handler has write-protected.
        const WP = 1 << 1;
        /// Faults on pages that are in the file but not mapped.
        const MINOR = 1 << 2;
    }
}

bitflags! {
    /// What can be done with a registered range. Linux: the `ioctls` that `UFFDIO_REGISTER` returns.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Operations: u64 {
        /// [`Userfault::wake`].
        const WAKE = 1 << 2;
        /// [`Userfault::copy`].
        const COPY = 1 << 3;
        /// [`Userfault::write_protect`].
        const WRITEPROTECT = 1 << 6;
        /// [`Userfault::continue_range`].
        const CONTINUE = 1 << 7;
        /// [`Userfault::poison`].
        const POISON = 1 << 8;
    }
}

bitflags! {
    /// How to copy. Linux: `UFFDIO_COPY_MODE_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct CopyMode: u64 {
        /// Leave the faults that wait for the pages asleep.
        const DONTWAKE = 1 << 0;
        /// Map the pages write-protected.
        const WP = 1 << 1;
    }
}

bitflags! {
    /// How to continue. Linux: `UFFDIO_CONTINUE_MODE_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct ContinueMode: u64 {
        /// Leave the faults that wait for the pages asleep.
        const DONTWAKE = 1 << 0;
        /// Map the pages write-protected. Linux 6.4.
        const WP = 1 << 1;
    }
}

bitflags! {
    /// How to poison. Linux: `UFFDIO_POISON_MODE_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct PoisonMode: u64 {
        /// Leave the faults that wait for the pages asleep.
        const DONTWAKE = 1 << 0;
    }
}

bitflags! {
    /// Protect, or unprotect. Linux: `UFFDIO_WRITEPROTECT_MODE_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct ProtectMode: u64 {
        /// Protect. Without it, unprotect.
        const WP = 1 << 0;
        /// Leave the faults that wait for the right to write asleep. Goes with unprotecting only.
        const DONTWAKE = 1 << 1;
    }
}

bitflags! {
    /// Why the handler gets a fault. Linux: `UFFD_PAGEFAULT_FLAG_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct PagefaultFlags: u64 {
        /// It was a store.
        const WRITE = 1 << 0;
        /// It was to a page that the handler has write-protected.
        const WP = 1 << 1;
        /// The file has the page. Neither this nor `WP`: the page is missing.
        const MINOR = 1 << 2;
    }
}

/// A fault that waits for the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pagefault {
    /// Start of the page; with [`Features::EXACT_ADDRESS`], the address of the access.
    pub address: VirtAddr,
    /// Why the handler gets it.
    pub flags: PagefaultFlags,
    /// [`Task::id`](crate::Task::id) of the faulting task, with [`Features::THREAD_ID`].
    pub thread: Option<u64>,
}

/// What a handler reads. Linux: `struct uffd_msg`.
///
/// For every message but a page fault, the operation that caused it sleeps until the message has been read.
///
/// Dropping a message never sleeps, and answers nothing: a fault goes on waiting. The handle in [`Fork`](Self::Fork) is
/// dropped with it, and nobody handles the child's faults then.
#[derive(Debug)]
pub enum Message<P: Platform> {
    /// A fault waits (`UFFD_EVENT_PAGEFAULT`).
    Pagefault(Pagefault),
    /// The process has forked (`UFFD_EVENT_FORK`): the handle on the faults of the child.
    Fork(Userfault<P>),
    /// A mapping has moved (`UFFD_EVENT_REMAP`).
    Remap {
        /// Where it was.
        from: VirtAddr,
        /// Where it is.
        to: VirtAddr,
        /// Its length before the move.
        length: u64,
    },
    /// The pages of a range are about to be dropped (`UFFD_EVENT_REMOVE`).
    Remove {
        /// Its start.
        start: VirtAddr,
        /// Its end.
        end: VirtAddr,
    },
    /// A range has been unmapped (`UFFD_EVENT_UNMAP`).
    Unmap {
        /// Its start.
        start: VirtAddr,
        /// Its end.
        end: VirtAddr,
    },
}
