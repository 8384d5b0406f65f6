//! What the driver and a process of a program say to each other: one datagram of words each way.

/// Words of the longest datagram.
pub(super) const LONGEST: usize = 768;

/// The requests. The first word of a datagram; arguments follow.
pub(super) mod op {
    /// `address, length, protection, flags, descriptor or -1, offset` of `mmap(2)`
    pub(in crate::kernel) const MAP: u64 = 1;
    /// `address, length`
    pub(in crate::kernel) const UNMAP: u64 = 2;
    /// `address, length, protection`
    pub(in crate::kernel) const PROTECT: u64 = 3;
    /// `address, old length, new length, flags, new address`
    pub(in crate::kernel) const REMAP: u64 = 4;
    /// `address, length, advice`
    pub(in crate::kernel) const ADVISE: u64 = 5;
    /// The place of the child.
    pub(in crate::kernel) const FORK: u64 = 6;
    /// Nothing; there is no answer.
    pub(in crate::kernel) const EXIT: u64 = 7;
    /// `address`
    pub(in crate::kernel) const LOAD: u64 = 8;
    /// `address, byte`
    pub(in crate::kernel) const STORE: u64 = 9;
    /// `address, end, step`: loads on the way
    pub(in crate::kernel) const SWEEP: u64 = 10;
    /// `address, length`: a summary, see `mincore` in `process.rs`
    pub(in crate::kernel) const MINCORE: u64 = 11;
    /// `number of pages, number of offsets, pages, offsets`
    pub(in crate::kernel) const LOOK: u64 = 12;
    /// Makes a memory file at this descriptor.
    pub(in crate::kernel) const MEMFD: u64 = 13;
    /// `descriptor, size or NONE, min_size or NONE`: mounts at this descriptor.
    pub(in crate::kernel) const MOUNT: u64 = 14;
    /// `descriptor, descriptor of the mount`: makes a file on a mount.
    pub(in crate::kernel) const CREATE: u64 = 15;
    /// `descriptor`
    pub(in crate::kernel) const CLOSE: u64 = 16;
    /// `descriptor, size`
    pub(in crate::kernel) const TRUNCATE: u64 = 17;
    /// `descriptor, mode, offset, length`
    pub(in crate::kernel) const ALLOCATE: u64 = 18;
    /// `descriptor, offset, length`: the bytes follow the answer, one a word
    pub(in crate::kernel) const READ: u64 = 19;
    /// `descriptor`: size and blocks follow the answer
    pub(in crate::kernel) const STAT: u64 = 20;
    /// `descriptor, offset, byte`
    pub(in crate::kernel) const WRITE: u64 = 23;
    /// `process, address, length`: `process_vm_readv(2)`; the bytes follow the answer, one a word
    pub(in crate::kernel) const PEEK: u64 = 40;
    /// `process, address, length, byte`: `process_vm_writev(2)`
    pub(in crate::kernel) const POKE: u64 = 41;
    /// `descriptor, features`: opens a userfaultfd there.
    pub(in crate::kernel) const UFFD_OPEN: u64 = 50;
    /// `descriptor, operation, words`: an operation of a userfaultfd, see `userfault.rs`
    pub(in crate::kernel) const UFFD: u64 = 51;
    /// `length, flags`: `shmget(2)`; its number
    pub(in crate::kernel) const SEGMENT: u64 = 42;
    /// `number of the segment`: `IPC_RMID`
    pub(in crate::kernel) const REMOVE: u64 = 43;
    /// `number of the segment, address, flags`
    pub(in crate::kernel) const ATTACH: u64 = 44;
    /// `address`
    pub(in crate::kernel) const DETACH: u64 = 45;
    /// `address, length, 1 to move`: the statuses of `move_pages(2)` follow the answer
    pub(in crate::kernel) const NODES: u64 = 60;
    /// `address, length, 1 to lock on fault, 0 to lock, 2 to let go`: `mlock2(2)` or `munlock(2)`
    pub(in crate::kernel) const LOCK: u64 = 61;
    /// `flags, or 0 to let go`: `mlockall(2)` or `munlockall(2)`
    pub(in crate::kernel) const LOCK_ALL: u64 = 62;
    /// `address, length, mode, nodes`: `mbind(2)`
    pub(in crate::kernel) const BIND: u64 = 63;
    /// `address, end, categories that must be there, flags`: `PAGEMAP_SCAN`; where it ended follows the answer, and three words for
    /// each region
    pub(in crate::kernel) const SCAN: u64 = 70;
    /// Asks the warden for the first process of a program.
    pub(in crate::kernel) const BEGIN: u64 = 21;
    /// Asks the warden to end whatever is left of a program.
    pub(in crate::kernel) const END: u64 = 22;
}

/// No number.
pub(super) const NONE: u64 = u64::MAX;

/// Words before what follows an answer: the result or an error number below 0, the signal or 0, its code, its address,
/// minor faults.
pub(super) const ANSWER: usize = 5;

/// What a `LOOK` answers for each page: what pagemap says, what mincore says ([`RESIDENT`], [`ABSENT`] or [`UNMAPPED`]), the
/// mode of its policy or [`NONE`], and the nodes of it; then, for each offset, the byte there or [`NONE`].
pub(super) const LOOKED: usize = 4;

pub(super) const ABSENT: u64 = 0;
pub(super) const RESIDENT: u64 = 1;
pub(super) const UNMAPPED: u64 = 2;
/// The 4 KiB pages of a huge page do not agree.
pub(super) const MIXED: u64 = 3;

/// The bit of pagemap that says that a page is there.
pub(super) const PM_PRESENT: u64 = 1 << 63;

/// Descriptors of a program: mounts from the first on, files from the second on, the handlers of each process from the
/// third on.
pub(super) const MOUNT_FD: i32 = 300;
pub(super) const FILE_FD: i32 = 310;
pub(super) const UFFD_FD: i32 = 320;
