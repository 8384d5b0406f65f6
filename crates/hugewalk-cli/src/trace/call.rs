//! The calls that make, change and end mappings, with their arguments as numbers.

use std::ops::Range;

use super::flags::{
    CloneFlags, FallocateFlags, MapFlags, MemfdFlags, MlockallFlags, MremapFlags, OpenFlags, Prot, ShmFlags,
    ShmatFlags, UffdContinueMode, UffdCopyMode, UffdFeatures, UffdModes, UffdProtectMode,
};
use super::strace::Signal;

/// A descriptor, with the path that `strace -y` prints beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number; -1 for none, -100 for the working directory.
    pub number: i32,
    /// What it is open on, if the recording says so.
    pub path: Option<Box<str>>,
    /// Whether that has been deleted: its path is the one that it had.
    pub deleted: bool,
}

/// A call that matters to huge pages.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are the arguments of the call, under their names in its manual page"
)]
pub enum Call {
    /// `execve` and `execveat`; `program` is empty if its path cannot be read.
    Execve {
        program: Box<str>,
    },
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
        opened: Option<Descriptor>,
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
        fd: Descriptor,
        cloexec: bool,
    },
    Unlink {
        directory: Option<Descriptor>,
        path: Box<str>,
    },
    /// `rename`, `renameat` and `renameat2`; with `exchange`, the names change places.
    Rename {
        from_directory: Option<Descriptor>,
        from: Box<str>,
        to_directory: Option<Descriptor>,
        to: Box<str>,
        exchange: bool,
    },
    /// `link` and `linkat`: a file gets another name.
    Link {
        from_directory: Option<Descriptor>,
        from: Box<str>,
        to_directory: Option<Descriptor>,
        to: Box<str>,
    },
    Chdir {
        path: Box<str>,
    },
    Fchdir {
        fd: Descriptor,
    },
    /// `statfs` of a file on hugetlbfs, with the size of its pages.
    Statfs {
        path: Box<str>,
        page: u64,
    },
    /// `fstatfs`, likewise.
    Fstatfs {
        fd: Descriptor,
        page: u64,
    },
    /// `sendmsg` and `sendmmsg`, with the descriptors that are sent along: those of each message.
    Send {
        socket: Descriptor,
        sent: Vec<Vec<Descriptor>>,
    },
    /// `recvmsg` and `recvmmsg`, with the descriptors that came along.
    Receive {
        socket: Descriptor,
        received: Vec<Vec<Descriptor>>,
        cloexec: bool,
    },
    /// `pidfd_open`; the result refers to the process.
    PidfdOpen {
        pid: u32,
    },
    /// `pidfd_getfd`; the result is a copy of the other process's descriptor.
    PidfdGetfd {
        pidfd: Descriptor,
        fd: i32,
    },
    /// `mseal`: the mappings in the range change no more.
    Mseal {
        address: u64,
        length: u64,
    },
    Mount {
        target: Box<str>,
        kind: Box<str>,
        options: Box<str>,
    },
    MemfdCreate {
        name: Box<str>,
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
    /// `mlock` and `mlock2`, whose flags make no difference for huge pages.
    Mlock {
        address: u64,
        length: u64,
    },
    Mlockall {
        flags: MlockallFlags,
    },
    Munlockall,
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
    /// `userfaultfd`, and `USERFAULTFD_IOC_NEW` of /dev/userfaultfd.
    Userfaultfd {
        cloexec: bool,
    },
    UffdApi {
        fd: Descriptor,
        features: UffdFeatures,
    },
    /// What is done with a userfaultfd to a range.
    Uffd {
        fd: Descriptor,
        start: u64,
        length: u64,
        handling: Handling,
    },
    /// `process_vm_readv` and `process_vm_writev`; `length` is that of the local ranges, all told.
    ProcessVm {
        write: bool,
        pid: u32,
        length: u64,
        remote: Vec<Range<u64>>,
    },
}

impl Call {
    /// Its name, as reports print it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Execve { .. } => "execve",
            Self::Clone { .. } => "clone",
            Self::Exit { .. } => "exit",
            Self::Open { .. } => "open",
            Self::Close { .. } => "close",
            Self::CloseRange { .. } => "close_range",
            Self::Dup { .. } => "dup",
            Self::Unlink { .. } => "unlink",
            Self::Rename { .. } => "rename",
            Self::Link { .. } => "link",
            Self::Chdir { .. } => "chdir",
            Self::Fchdir { .. } => "fchdir",
            Self::Statfs { .. } => "statfs",
            Self::Fstatfs { .. } => "fstatfs",
            Self::Send { .. } => "sendmsg",
            Self::Receive { .. } => "recvmsg",
            Self::PidfdOpen { .. } => "pidfd_open",
            Self::PidfdGetfd { .. } => "pidfd_getfd",
            Self::Mseal { .. } => "mseal",
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
            Self::Munlockall => "munlockall",
            Self::Fallocate { .. } => "fallocate",
            Self::Ftruncate { .. } => "ftruncate",
            Self::Truncate { .. } => "truncate",
            Self::Userfaultfd { .. } => "userfaultfd",
            Self::UffdApi { .. } => "ioctl(UFFDIO_API)",
            Self::Uffd { handling, .. } => match handling {
                Handling::Register(_) => "ioctl(UFFDIO_REGISTER)",
                Handling::Unregister => "ioctl(UFFDIO_UNREGISTER)",
                Handling::Copy(_) => "ioctl(UFFDIO_COPY)",
                Handling::Continue(_) => "ioctl(UFFDIO_CONTINUE)",
                Handling::Zeropage => "ioctl(UFFDIO_ZEROPAGE)",
                Handling::Writeprotect(_) => "ioctl(UFFDIO_WRITEPROTECT)",
                Handling::Wake => "ioctl(UFFDIO_WAKE)",
            },
            Self::ProcessVm { write: false, .. } => "process_vm_readv",
            Self::ProcessVm { write: true, .. } => "process_vm_writev",
        }
    }
}

/// What the handler of faults does to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// `UFFDIO_REGISTER`
    Register(UffdModes),
    /// `UFFDIO_UNREGISTER`
    Unregister,
    /// `UFFDIO_COPY`
    Copy(UffdCopyMode),
    /// `UFFDIO_CONTINUE`
    Continue(UffdContinueMode),
    /// `UFFDIO_ZEROPAGE`
    Zeropage,
    /// `UFFDIO_WRITEPROTECT`
    Writeprotect(UffdProtectMode),
    /// `UFFDIO_WAKE`
    Wake,
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
    /// `MADV_DONTDUMP`
    DontDump,
    /// `MADV_DODUMP`
    DoDump,
    /// `MADV_DONTFORK`
    DontFork,
    /// `MADV_DOFORK`
    DoFork,
    /// `MADV_NORMAL`
    Normal,
    /// `MADV_RANDOM`
    Random,
    /// `MADV_SEQUENTIAL`
    Sequential,
    /// `MADV_HWPOISON`: the pages fail.
    Hwpoison,
    /// `MADV_SOFT_OFFLINE`: the pages are taken out of use.
    SoftOffline,
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
    /// It ended with this signal: an access.
    Signal(Signal),
    /// It never returned, or the recording does not say how it ended.
    Unknown,
}

impl Outcome {
    /// The value returned, if one was.
    #[must_use]
    pub fn value(&self) -> Option<u64> {
        match self {
            Self::Returned(value) => Some(*value),
            Self::Failed(_) | Self::Signal(_) | Self::Unknown => None,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Returned(value) if *value < 4096 => write!(f, "{value}"),
            Self::Returned(value) => write!(f, "{value:#x}"),
            Self::Failed(errno) => f.write_str(errno),
            Self::Signal(signal) => f.write_str(signal.name()),
            Self::Unknown => f.write_str("?"),
        }
    }
}
