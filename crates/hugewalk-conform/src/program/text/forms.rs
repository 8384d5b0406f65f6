//! The forms of steps, for people: what can be written, and what is near to what cannot.

/// A form that steps have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// As it is written. Numbers, places and lengths are examples; what stands in brackets may be left out.
    pub form: &'static str,
    /// What it does: the system call, or the file of sysfs.
    pub what: &'static str,
}

impl Form {
    /// The word that says which it is, and whether a process does it.
    pub(super) fn verb(&self) -> (&'static str, bool) {
        match self.form.strip_prefix("p0 ") {
            Some(call) => (first_word(call), true),
            None => (first_word(self.form), false),
        }
    }

    /// What a handler does, if this is one of a handler.
    pub(super) fn handling(&self) -> Option<&'static str> {
        self.form.strip_prefix("p0 uffd ").map(first_word)
    }
}

fn first_word(text: &'static str) -> &'static str {
    text.split(' ').next().unwrap_or(text)
}

const fn form(form: &'static str, what: &'static str) -> Form {
    Form { form, what }
}

/// All forms, in the order of `docs/conform.md`.
pub const FORMS: &[Form] = &[
    form("pool 12", "nr_hugepages"),
    form("overcommit 2", "nr_overcommit_hugepages"),
    form("mount m0 [size=3] [min=1]", "a hugetlbfs, with limits in pages"),
    form("unmount m0", "gives a mount up"),
    form("open f0 memory", "memfd_create"),
    form("open f1 m0", "a file on a mount"),
    form("open f2 segment=4p [noreserve]", "shmget with SHM_HUGETLB"),
    form("close f0", "close, or IPC_RMID of a segment"),
    form("truncate f0 4p", "ftruncate"),
    form("allocate f0 0 1p [keep]", "fallocate"),
    form("punch f0 0 1p", "fallocate with FALLOC_FL_PUNCH_HOLE"),
    form("read f0 0 8", "pread"),
    form("write f0 0 7", "pwrite of a byte; Linux refuses it"),
    form(
        "p0 map f0+0 at=1g length=2g rights=rw [shared] [fixed] [noreplace] [noreserve] [populate] [locked]",
        "mmap; fresh in place of a file is MAP_ANONYMOUS",
    ),
    form("p0 attach f2 1g [replace]", "shmat, with SHM_REMAP"),
    form("p0 detach 1g", "shmdt"),
    form("p0 unmap 1g 1p", "munmap"),
    form("p0 protect 1g 1p r", "mprotect; the rights are letters of rwx, or none"),
    form("p0 remap 1g 2p 1p [anywhere|to=3g]", "mremap"),
    form("p0 advise 1g 1p dontneed", "madvise"),
    form("p0 mincore 1g 1p", "mincore"),
    form("p0 mlock 1g 4p [onfault]", "mlock, mlock2"),
    form("p0 munlock 1g 4p", "munlock"),
    form("p0 mlockall [onfault]", "mlockall of what is mapped from then on (MCL_FUTURE)"),
    form("p0 munlockall", "munlockall"),
    form(
        "p0 mbind 1g 4p bind:0",
        "mbind; or preferred:0+1, preferred-many:0, interleave:none, local, default",
    ),
    form("p0 load 1g", "loads a byte"),
    form("p0 store 1g 7", "stores a byte"),
    form("p0 sweep 1g 4p", "loads a byte of each page"),
    form("p0 peek p1 1g 8", "process_vm_readv of another process's memory, or its own"),
    form("p0 poke p1 1g 8 7", "process_vm_writev"),
    form("p0 fork p1", "fork"),
    form("p0 exit", "exit"),
    form("p0 nodes 1g 4p [moved]", "move_pages of one address in each page"),
    form(
        "p0 scan 1g 4p [written] [protect] [check]",
        "PAGEMAP_SCAN: for PAGE_IS_WRITTEN, PM_SCAN_WP_MATCHING, PM_SCAN_CHECK_WPASYNC",
    ),
    form("p0 uffd open [async]", "userfaultfd, with UFFD_FEATURE_WP_ASYNC; uffd2 is a second one"),
    form("p0 uffd close", "closes it"),
    form("p0 uffd register 1g 4p missing+wp", "UFFDIO_REGISTER; missing, wp, minor or several of them"),
    form("p0 uffd unregister 1g 4p", "UFFDIO_UNREGISTER"),
    form("p0 uffd copy 1g 2p 7 [wp]", "UFFDIO_COPY, each byte 7"),
    form("p0 uffd continue 1g 2p", "UFFDIO_CONTINUE"),
    form("p0 uffd continue-wp 1g 2p", "UFFDIO_CONTINUE with UFFDIO_CONTINUE_MODE_WP"),
    form("p0 uffd protect 1g 2p", "UFFDIO_WRITEPROTECT with UFFDIO_WRITEPROTECT_MODE_WP"),
    form("p0 uffd unprotect 1g 2p", "UFFDIO_WRITEPROTECT without it"),
    form("p0 uffd zero 1g 2p", "UFFDIO_ZEROPAGE"),
    form("p0 uffd poison 1g 2p", "UFFDIO_POISON"),
    form("p0 uffd wake 1g 2p", "UFFDIO_WAKE"),
];

/// What is wrong with a word that no form has: the nearest that one has, or all there are.
pub(super) fn unknown(word: &str, kind: &str, known: impl Iterator<Item = &'static str> + Clone) -> String {
    let nearness = |other: &str| strsim::jaro_winkler(&word.to_lowercase(), other);
    let nearest =
        known.clone().map(|name| (nearness(name), name)).max_by(|one, other| one.0.total_cmp(&other.0));
    match nearest {
        Some((near, name)) if near > 0.7 => format!("unknown {kind} `{word}`, did you mean `{name}`?"),
        _ => {
            let mut all: Vec<&str> = Vec::new();
            known.for_each(|name| {
                if !all.contains(&name) {
                    all.push(name);
                }
            });
            format!("unknown {kind} `{word}`; there are {}", all.join(", "))
        }
    }
}
