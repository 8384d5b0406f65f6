//! Names of bits and numbers.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::arch::numbers::*;
use linux_raw_sys::ioctl::*;

use crate::memory::user;
use crate::process::signal::Info;

/// Names of the bits of a word, or of its values.
pub(super) struct Flags {
    /// The bits that hold a value of its own, which has a name even if it is 0.
    value: u64,
    values: &'static [(u64, &'static str)],
    bits: &'static [(u64, &'static str)],
}

impl Flags {
    /// As strace prints them: names, then what has none as a number.
    pub(super) fn show(&self, word: u64) -> String {
        let mut names: Vec<String> = Vec::new();
        let value = word & self.value;
        match self.values.iter().find(|known| known.0 == value) {
            Some((_, name)) => names.push((*name).to_string()),
            None if value != 0 => names.push(format!("{value:#x}")),
            None => {}
        }
        let mut rest = word & !self.value;
        for (bits, name) in self.bits {
            if rest & bits == *bits {
                names.push((*name).to_string());
                rest &= !bits;
            }
        }
        if rest != 0 {
            names.push(format!("{rest:#x}"));
        }
        if names.is_empty() { "0".to_string() } else { names.join("|") }
    }
}

macro_rules! names {
    ($($name:ident)*) => {
        &[$(($name as u64, stringify!($name))),*]
    };
}

pub(super) const PROT: &Flags =
    &Flags { value: u64::MAX << 63, values: &[], bits: names!(PROT_READ PROT_WRITE PROT_EXEC) };
pub(super) const MAP: &Flags = &Flags {
    value: MAP_TYPE as u64,
    values: names!(MAP_SHARED MAP_PRIVATE MAP_SHARED_VALIDATE),
    bits: names!(MAP_FIXED MAP_ANONYMOUS MAP_GROWSDOWN MAP_DENYWRITE MAP_LOCKED MAP_NORESERVE MAP_POPULATE MAP_NONBLOCK MAP_STACK
        MAP_HUGETLB MAP_SYNC MAP_FIXED_NOREPLACE),
};
pub(super) const ADVICE: &Flags = &Flags {
    value: u64::MAX,
    values: names!(MADV_NORMAL MADV_RANDOM MADV_SEQUENTIAL MADV_WILLNEED MADV_DONTNEED MADV_FREE MADV_REMOVE MADV_DONTFORK
        MADV_DOFORK MADV_HWPOISON MADV_SOFT_OFFLINE MADV_MERGEABLE MADV_UNMERGEABLE MADV_HUGEPAGE MADV_NOHUGEPAGE MADV_DONTDUMP
        MADV_DODUMP MADV_WIPEONFORK MADV_KEEPONFORK MADV_COLD MADV_PAGEOUT MADV_POPULATE_READ MADV_POPULATE_WRITE
        MADV_DONTNEED_LOCKED MADV_COLLAPSE),
    bits: &[],
};
pub(super) const OPEN: &Flags = &Flags {
    value: O_ACCMODE as u64,
    values: names!(O_RDONLY O_WRONLY O_RDWR),
    bits: names!(O_CREAT O_EXCL O_NOCTTY O_TRUNC O_APPEND O_NONBLOCK O_DIRECT O_LARGEFILE O_TMPFILE O_DIRECTORY O_NOFOLLOW O_CLOEXEC
        O_PATH),
};
pub(super) const MREMAP: &Flags =
    &Flags { value: 0, values: &[], bits: names!(MREMAP_MAYMOVE MREMAP_FIXED MREMAP_DONTUNMAP) };
pub(super) const FALLOCATE: &Flags = &Flags {
    value: 0,
    values: &[],
    bits: names!(FALLOC_FL_KEEP_SIZE FALLOC_FL_PUNCH_HOLE FALLOC_FL_COLLAPSE_RANGE FALLOC_FL_ZERO_RANGE),
};
pub(super) const MEMFD: &Flags = &Flags {
    value: 0,
    values: &[],
    bits: &[
        (1, "MFD_CLOEXEC"),
        (2, "MFD_ALLOW_SEALING"),
        (4, "MFD_HUGETLB"),
        (8, "MFD_NOEXEC_SEAL"),
        (16, "MFD_EXEC"),
        (21 << 26, "MFD_HUGE_2MB"),
        (30 << 26, "MFD_HUGE_1GB"),
    ],
};
pub(super) const CLONE: &Flags = &Flags {
    value: 0,
    values: &[],
    bits: names!(CLONE_VM CLONE_FS CLONE_FILES CLONE_SIGHAND CLONE_PTRACE CLONE_VFORK CLONE_PARENT CLONE_THREAD CLONE_NEWNS
        CLONE_SYSVSEM CLONE_SETTLS CLONE_PARENT_SETTID CLONE_CHILD_CLEARTID CLONE_DETACHED CLONE_UNTRACED CLONE_CHILD_SETTID),
};
pub(super) const FCNTL: &Flags = &Flags {
    value: u64::MAX,
    values: names!(F_DUPFD F_GETFD F_SETFD F_GETFL F_SETFL F_DUPFD_CLOEXEC F_ADD_SEALS F_GET_SEALS),
    bits: &[],
};
pub(super) const SHMGET: &Flags = &Flags {
    value: 0,
    values: &[],
    bits: &[
        (0o1000, "IPC_CREAT"),
        (0o2000, "IPC_EXCL"),
        (0o4000, "SHM_HUGETLB"),
        (0o10000, "SHM_NORESERVE"),
        (21 << 26, "21<<SHM_HUGE_SHIFT"),
    ],
};
pub(super) const SHMCTL: &Flags = &Flags {
    value: u64::MAX,
    values: &[(0, "IPC_RMID"), (1, "IPC_SET"), (2, "IPC_STAT"), (13, "SHM_STAT"), (14, "SHM_INFO")],
    bits: &[],
};
const FEATURES: &Flags = &Flags {
    value: 0,
    values: &[],
    bits: &[
        (1 << 0, "UFFD_FEATURE_PAGEFAULT_FLAG_WP"),
        (1 << 1, "UFFD_FEATURE_EVENT_FORK"),
        (1 << 2, "UFFD_FEATURE_EVENT_REMAP"),
        (1 << 3, "UFFD_FEATURE_EVENT_REMOVE"),
        (1 << 4, "UFFD_FEATURE_MISSING_HUGETLBFS"),
        (1 << 5, "UFFD_FEATURE_MISSING_SHMEM"),
        (1 << 6, "UFFD_FEATURE_EVENT_UNMAP"),
        (1 << 7, "UFFD_FEATURE_SIGBUS"),
        (1 << 8, "UFFD_FEATURE_THREAD_ID"),
        (1 << 9, "UFFD_FEATURE_MINOR_HUGETLBFS"),
        (1 << 10, "UFFD_FEATURE_MINOR_SHMEM"),
        (1 << 11, "UFFD_FEATURE_EXACT_ADDRESS"),
        (1 << 12, "UFFD_FEATURE_WP_HUGETLBFS_SHMEM"),
    ],
};
const REGISTER: &Flags = &Flags {
    value: 0,
    values: &[],
    bits: &[
        (1, "UFFDIO_REGISTER_MODE_MISSING"),
        (2, "UFFDIO_REGISTER_MODE_WP"),
        (4, "UFFDIO_REGISTER_MODE_MINOR"),
    ],
};
const COPY: &Flags =
    &Flags { value: 0, values: &[], bits: &[(1, "UFFDIO_COPY_MODE_DONTWAKE"), (2, "UFFDIO_COPY_MODE_WP")] };
const PROTECT: &Flags = &Flags {
    value: 0,
    values: &[],
    bits: &[(1, "UFFDIO_WRITEPROTECT_MODE_WP"), (2, "UFFDIO_WRITEPROTECT_MODE_DONTWAKE")],
};
const CONTINUE: &Flags = &Flags { value: 0, values: &[], bits: &[(1, "UFFDIO_CONTINUE_MODE_DONTWAKE")] };
const ZEROPAGE: &Flags = &Flags { value: 0, values: &[], bits: &[(1, "UFFDIO_ZEROPAGE_MODE_DONTWAKE")] };

type Show = fn(u64) -> String;

fn words<const N: usize>(at: u64) -> [u64; N] {
    user::get(at).unwrap_or([0; N])
}

fn range(at: u64) -> String {
    let [start, length] = words(at);
    format!("{{start={start:#x}, len={length:#x}}}")
}

fn range_and_mode(at: u64, mode: &Flags) -> String {
    let [_, _, bits] = words(at);
    format!("{{range={}, mode={}}}", range(at), mode.show(bits))
}

/// The requests of a userfaultfd, and how their argument is printed when the call begins.
pub(super) static UFFDIO: &[(u32, &str, Show)] = &[
    (UFFDIO_API, "UFFDIO_API", |at| {
        let [api, features] = words(at);
        format!("{{api={api:#x}, features={}}}", FEATURES.show(features))
    }),
    (UFFDIO_REGISTER, "UFFDIO_REGISTER", |at| range_and_mode(at, REGISTER)),
    (UFFDIO_UNREGISTER, "UFFDIO_UNREGISTER", range),
    (UFFDIO_WAKE, "UFFDIO_WAKE", range),
    (UFFDIO_COPY, "UFFDIO_COPY", |at| {
        let [to, from, length, mode] = words(at);
        format!("{{dst={to:#x}, src={from:#x}, len={length:#x}, mode={}}}", COPY.show(mode))
    }),
    (UFFDIO_ZEROPAGE, "UFFDIO_ZEROPAGE", |at| range_and_mode(at, ZEROPAGE)),
    (UFFDIO_CONTINUE, "UFFDIO_CONTINUE", |at| range_and_mode(at, CONTINUE)),
    (UFFDIO_WRITEPROTECT, "UFFDIO_WRITEPROTECT", |at| range_and_mode(at, PROTECT)),
];

const SIGNALS: &str = "SIG_0 SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2 SIGPIPE \
    SIGALRM SIGTERM SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGXCPU SIGXFSZ SIGVTALRM SIGPROF SIGWINCH \
    SIGIO SIGPWR SIGSYS";

/// The name of a signal.
pub fn signal_name(signal: u32) -> &'static str {
    SIGNALS.split_ascii_whitespace().nth(signal as usize).unwrap_or("SIGRT")
}

/// The name of a signal's code.
pub(super) fn code_name(info: &Info) -> String {
    let name = match (info.signal, info.code) {
        (SIGSEGV, 1) => "SEGV_MAPERR",
        (SIGSEGV, 2) => "SEGV_ACCERR",
        (SIGBUS, 2) => "BUS_ADRERR",
        (SIGBUS, 4) => "BUS_MCEERR_AR",
        (_, 0) => "SI_USER",
        (_, 0x80) => "SI_KERNEL",
        (_, -6) => "SI_TKILL",
        (SIGCHLD, 1) => "CLD_EXITED",
        (SIGCHLD, 2) => "CLD_KILLED",
        (SIGCHLD, 3) => "CLD_DUMPED",
        (_, code) => return code.to_string(),
    };
    name.to_string()
}
