//! The calls that make, change and end mappings, with their arguments as numbers.

use super::flags::{
    CloneFlags, FallocateFlags, MapFlags, MemfdFlags, MlockFlags, MlockallFlags, MremapFlags, OpenFlags,
    Prot, ShmFlags, ShmatFlags, UffdModes,
};

/// A descriptor, with the path that `strace -y` prints beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number; -1 for none, -100 for the working directory.
    pub number: i32,
    /// What it is open on, if the recording says so.
    pub path: Option<Box<str>>,
}

/// A call that matters to huge pages.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are the arguments of the call, under their names in its manual page"
)]
pub enum Call {
    Execve,
    /// `fork`, `vfork`, `clone` and `clone3`; the result is the child.
    Clone {
        flags: CloneFlags,
    },
    /// `exit`, or `exit_group` for all threads.
    Exit {
        group: bool,
    },
    /// `open`, `openat`, `openat2` and `creat`; `opened` is what `strace -y` says of the result.
    Open {
        directory: Option<Descriptor>,
        path: Box<str>,
        flags: OpenFlags,
        opened: Option<Box<str>>,
    },
    Close {
        fd: i32,
    },
    CloseRange {
        first: u32,
        last: u32,
        cloexec_only: bool,
    },
    /// `dup`, `dup2`, `dup3`, and `fcntl(F_DUPFD)`; the result is the copy.
    Dup {
        fd: i32,
    },
    Unlink {
        directory: Option<Descriptor>,
        path: Box<str>,
    },
    Mount {
        target: Box<str>,
        kind: Box<str>,
        options: Box<str>,
    },
    MemfdCreate {
        flags: MemfdFlags,
    },
    Shmget {
        key: u64,
        size: u64,
        flags: ShmFlags,
    },
    Shmat {
        id: u32,
        address: u64,
        flags: ShmatFlags,
    },
    Shmdt {
        address: u64,
    },
    ShmctlRemove {
        id: u32,
    },
    Mmap {
        address: u64,
        length: u64,
        prot: Prot,
        flags: MapFlags,
        fd: Descriptor,
        offset: u64,
    },
    Munmap {
        address: u64,
        length: u64,
    },
    /// `mprotect` and `pkey_mprotect`.
    Mprotect {
        address: u64,
        length: u64,
        prot: Prot,
    },
    Mremap {
        address: u64,
        old_length: u64,
        new_length: u64,
        flags: MremapFlags,
        new_address: u64,
    },
    Madvise {
        address: u64,
        length: u64,
        advice: Advice,
    },
    /// `mlock` and `mlock2`.
    Mlock {
        address: u64,
        length: u64,
        flags: MlockFlags,
    },
    Mlockall {
        flags: MlockallFlags,
    },
    Fallocate {
        fd: Descriptor,
        mode: FallocateFlags,
        offset: u64,
        length: u64,
    },
    Ftruncate {
        fd: Descriptor,
        length: u64,
    },
    Truncate {
        path: Box<str>,
        length: u64,
    },
    Userfaultfd,
    UffdRegister {
        fd: i32,
        start: u64,
        length: u64,
        modes: UffdModes,
    },
    UffdUnregister {
        fd: i32,
        start: u64,
        length: u64,
    },
}

impl Call {
    /// Its name, as reports print it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Execve => "execve",
            Self::Clone { .. } => "clone",
            Self::Exit { .. } => "exit",
            Self::Open { .. } => "open",
            Self::Close { .. } => "close",
            Self::CloseRange { .. } => "close_range",
            Self::Dup { .. } => "dup",
            Self::Unlink { .. } => "unlink",
            Self::Mount { .. } => "mount",
            Self::MemfdCreate { .. } => "memfd_create",
            Self::Shmget { .. } => "shmget",
            Self::Shmat { .. } => "shmat",
            Self::Shmdt { .. } => "shmdt",
            Self::ShmctlRemove { .. } => "shmctl(IPC_RMID)",
            Self::Mmap { .. } => "mmap",
            Self::Munmap { .. } => "munmap",
            Self::Mprotect { .. } => "mprotect",
            Self::Mremap { .. } => "mremap",
            Self::Madvise { .. } => "madvise",
            Self::Mlock { .. } => "mlock",
            Self::Mlockall { .. } => "mlockall",
            Self::Fallocate { .. } => "fallocate",
            Self::Ftruncate { .. } => "ftruncate",
            Self::Truncate { .. } => "truncate",
            Self::Userfaultfd => "userfaultfd",
            Self::UffdRegister { .. } => "ioctl(UFFDIO_REGISTER)",
            Self::UffdUnregister { .. } => "ioctl(UFFDIO_UNREGISTER)",
        }
    }
}

/// What `madvise` advises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advice {
    /// `MADV_DONTNEED`, also in its `LOCKED` form: the pages are unmapped.
    DontNeed,
    /// `MADV_REMOVE`: the pages are taken out of the file.
    Remove,
    /// `MADV_POPULATE_READ`
    PopulateRead,
    /// `MADV_POPULATE_WRITE`
    PopulateWrite,
    /// Any other, by name: it moves no huge page.
    Other(Box<str>),
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It returned this value.
    Returned(u64),
    /// It failed, with the error's name (`EFAULT`).
    Failed(Box<str>),
    /// It never returned, or was interrupted and will be started over.
    Unknown,
}

impl Outcome {
    /// The value returned, if one was.
    #[must_use]
    pub fn value(&self) -> Option<u64> {
        match self {
            Self::Returned(value) => Some(*value),
            Self::Failed(_) | Self::Unknown => None,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Returned(value) if *value < 4096 => write!(f, "{value}"),
            Self::Returned(value) => write!(f, "{value:#x}"),
            Self::Failed(errno) => f.write_str(errno),
            Self::Unknown => f.write_str("?"),
        }
    }
}
