//! userfaultfd on huge pages.

use super::{Held, Part, Row, giant_rows, markdown};
use crate::known::Kernels;

const SHARED: &str =
    "pool 8; open f0 memory; truncate f0 4p; p0 map f0 at=1g length=4p rights=rw shared fixed; p0 uffd open";
const PRIVATE: &str =
    "pool 12; open f0 memory; truncate f0 4p; p0 map f0 at=1g length=4p rights=rw fixed; p0 uffd open";
const ASYNC: &str = "pool 8; open f0 memory; truncate f0 4p; p0 map f0 at=1g length=4p rights=rw shared fixed; p0 uffd open async; \
                     p0 uffd register 1g 4p wp";
/// Two processes that map the same GiB of a file, each with a handler of its own.
const TWO: &str = "pool 8; open f0 memory; truncate f0 1g; p0 fork p1; p0 map f0 at=1g length=1g rights=rw shared noreserve fixed; \
                   p1 map f0 at=1g length=1g rights=rw shared noreserve fixed; p0 uffd open; p1 uffd open";

/// What the source packages of Debian 12 and 13 have.
const BOTH: &str = "6.1, 6.12";
const NEW: &str = "6.12";

const fn row(
    says: &'static str,
    setup: &'static str,
    steps: &'static str,
    answers: &'static [&'static str],
) -> Row {
    Row { says, setup, steps, answers, kernels: Kernels::since(6, 1), read_in: BOTH }
}

const fn since(minor: u32, row: Row) -> Row {
    Row { kernels: Kernels::since(6, minor), read_in: NEW, ..row }
}

/// What no source at hand has.
const fn run_only(minor: u32, row: Row) -> Row {
    Row { kernels: Kernels::since(6, minor), read_in: "-", ..row }
}

/// What userfaultfd does on huge pages.
pub const UFFD: &[Part] = &[
    Part {
        heading: "Registering",
        text: "Missing mode alone leaves page tables shared between processes. Write protection and minor mode unshare them, and each \
               process has its own from then on: docs/conform.md counts the faults of both.",
        rows: &[
            since(
                6,
                row(
                    "All three modes go together. Which operations a range allows: poison since 6.6",
                    SHARED,
                    "p0 uffd register 1g 4p missing+wp+minor",
                    &["wake, copy, write-protect, continue, poison"],
                ),
            ),
            row(
                "A private mapping can have minor faults too",
                PRIVATE,
                "p0 uffd register 1g 4p minor; p0 uffd unregister 1g 4p",
                &["done"],
            ),
            row(
                "A range starts and ends where huge pages do",
                SHARED,
                "p0 uffd register 1g+4096 1p missing; p0 uffd register 1g 4096 missing",
                &["EINVAL", "EINVAL"],
            ),
            row(
                "A range has one handler",
                SHARED,
                "p0 uffd2 open; p0 uffd register 1g 4p missing; p0 uffd2 register 1g 1p missing",
                &["EBUSY"],
            ),
            run_only(
                17,
                row(
                    "Only the handler that has a range can unregister it, since 6.17; before, any handler of the process can",
                    SHARED,
                    "p0 uffd2 open; p0 uffd register 1g 4p missing; p0 uffd2 unregister 1g 4p",
                    &["EINVAL"],
                ),
            ),
            row(
                "There is no huge page of zeroes",
                SHARED,
                "p0 uffd register 1g 4p missing; p0 uffd zero 1g 1p",
                &["EINVAL"],
            ),
        ],
    },
    Part {
        heading: "Missing pages",
        text: "`SIGBUS` stands for a fault that is the handler's: the programs open their handlers with `UFFD_FEATURE_SIGBUS`. Without it the \
               access waits, and the handler reads a message.",
        rows: &[
            row(
                "A page that is nowhere is the handler's, for loads and stores",
                SHARED,
                "p0 uffd register 1g 4p missing; p0 load 1g; p0 store 1g+1p 7",
                &["SIGBUS", "SIGBUS"],
            ),
            row(
                "A page that the file has is not missing, whoever brought it: it is mapped without a question",
                SHARED,
                "allocate f0 0 1p; p0 uffd register 1g 4p missing; p0 load 1g",
                &["0"],
            ),
            row(
                "Copies are of whole huge pages",
                SHARED,
                "p0 uffd register 1g 4p missing; p0 uffd copy 1g 4096 7; p0 uffd copy 1g 1p 7; p0 load 1g",
                &["EINVAL", "1p", "7"],
            ),
            row(
                "A copy into a shared mapping is into the file: it fails if the file has the page, mapped or not",
                SHARED,
                "allocate f0 0 1p; p0 uffd register 1g 4p missing; p0 uffd copy 1g 1p 7",
                &["EEXIST"],
            ),
            row(
                "A copy that meets a page after some went well stops there, and says how far it got",
                SHARED,
                "p0 store 1g+2p 1; p0 uffd register 1g 4p missing; p0 uffd copy 1g 4p 7",
                &["EAGAIN after 2p"],
            ),
            row(
                "A copy beyond the end of the file fails",
                SHARED,
                "truncate f0 1p; p0 uffd register 1g 4p missing; p0 uffd copy 1g+1p 1p 7",
                &["EFAULT"],
            ),
            run_only(
                18,
                row(
                    "A copy that finds the pool empty fails with EEXIST, as if the page had come meanwhile: do not take that for success. In the \
                     sources of 6.1 and 6.12 it fails with ENOMEM, as on the engine",
                    "pool 0; p0 map fresh at=1g length=4p rights=rw shared noreserve fixed; p0 uffd open",
                    "p0 uffd register 1g 4p missing; p0 uffd copy 1g 1p 7",
                    &["EEXIST"],
                ),
            ),
            row(
                "read(2) of the file does not ask the handler: a hole reads as zeroes",
                SHARED,
                "p0 uffd register 1g 4p missing; read f0 0 4",
                &["4 bytes [00, 00, 00, 00]"],
            ),
            row(
                "What MADV_DONTNEED drops from a shared mapping stays in the file, and is not missing",
                SHARED,
                "p0 uffd register 1g 4p missing; p0 uffd copy 1g 1p 7; p0 advise 1g 1p dontneed; p0 load 1g",
                &["7"],
            ),
            row(
                "What it drops from a private mapping is missing again",
                PRIVATE,
                "p0 uffd register 1g 4p missing; p0 uffd copy 1g 1p 7; p0 advise 1g 1p dontneed; p0 load 1g",
                &["SIGBUS"],
            ),
            row(
                "A hole in the file makes the page missing again",
                SHARED,
                "p0 uffd register 1g 4p missing; p0 uffd copy 1g 1p 7; punch f0 0 1p; p0 load 1g",
                &["SIGBUS"],
            ),
        ],
    },
    Part {
        heading: "Minor faults",
        text: "For pages that the file has and the process does not map: another process, or a second mapping of the file, has filled them.",
        rows: &[
            row(
                "A page of the file that is not mapped is the handler's, and continuing maps it",
                SHARED,
                "allocate f0 0 1p; p0 uffd register 1g 4p minor; p0 load 1g; p0 uffd continue 1g 1p; p0 load 1g",
                &["SIGBUS", "1p", "0"],
            ),
            row(
                "Minor mode alone leaves pages that are nowhere to the kernel",
                SHARED,
                "p0 uffd register 1g 4p minor; p0 load 1g",
                &["0"],
            ),
            row(
                "Continuing after a hole fails: the page that the fault was about is gone",
                SHARED,
                "allocate f0 0 1p; p0 uffd register 1g 4p minor; p0 load 1g; punch f0 0 1p; p0 uffd continue 1g 1p",
                &["EFAULT"],
            ),
            row(
                "Continuing where the page is mapped already fails",
                SHARED,
                "p0 store 1g 1; p0 uffd register 1g 4p minor; p0 uffd continue 1g 1p",
                &["EEXIST"],
            ),
            row(
                "MADV_DONTNEED makes a minor fault of a page that was mapped",
                SHARED,
                "p0 store 1g 1; p0 uffd register 1g 4p minor; p0 advise 1g 1p dontneed; p0 load 1g",
                &["SIGBUS"],
            ),
            row(
                "A private mapping continues with the file's page, and a store copies it: the file keeps its own",
                PRIVATE,
                "allocate f0 0 1p; p0 uffd register 1g 4p minor; p0 uffd continue 1g 1p; p0 store 1g 7; read f0 0 1",
                &["done", "1 bytes [00]"],
            ),
            since(
                4,
                row(
                    "Continuing write-protected needs a range that is registered for that too (since 6.4)",
                    SHARED,
                    "allocate f0 0 1p; p0 uffd register 1g 4p minor; p0 uffd continue-wp 1g 1p; p0 uffd register 1g 4p minor+wp; \
                 p0 uffd continue-wp 1g 1p; p0 store 1g 7",
                    &["EINVAL", "wake, copy, write-protect, continue, poison", "1p", "SIGBUS"],
                ),
            ),
        ],
    },
    Part {
        heading: "Write protection",
        text: "By huge page, since 5.19. A protection is a bit of the page-table entry. Where there is no page it is an entry of its own, a marker.",
        rows: &[
            row(
                "Stores to a protected page are the handler's, loads go on",
                SHARED,
                "p0 store 1g 1; p0 uffd register 1g 4p wp; p0 uffd protect 1g 1p; p0 load 1g; p0 store 1g 2; p0 uffd unprotect 1g 1p; \
                 p0 store 1g 2",
                &["1", "SIGBUS", "done", "done"],
            ),
            row(
                "A page that is not there can be protected: it comes protected, by a load too",
                SHARED,
                "p0 uffd register 1g 4p wp; p0 uffd protect 1g 2p; p0 load 1g; p0 store 1g 2; p0 store 1g+1p 2",
                &["0", "SIGBUS", "SIGBUS"],
            ),
            row(
                "A part of a huge page cannot be protected",
                SHARED,
                "p0 uffd register 1g 4p wp; p0 uffd protect 1g 4096",
                &["EINVAL"],
            ),
            row(
                "Protecting what is registered for other modes only fails",
                SHARED,
                "p0 uffd register 1g 4p missing; p0 uffd protect 1g 1p",
                &["ENOENT"],
            ),
            row(
                "A copy can come protected",
                SHARED,
                "p0 uffd register 1g 4p missing+wp; p0 uffd copy 1g 1p 7 wp; p0 load 1g; p0 store 1g 8",
                &["7", "SIGBUS"],
            ),
            row(
                "MADV_DONTNEED drops the page, not its protection",
                SHARED,
                "p0 store 1g 1; p0 uffd register 1g 4p wp; p0 uffd protect 1g 1p; p0 advise 1g 1p dontneed; p0 store 1g 2",
                &["SIGBUS"],
            ),
            row(
                "So does a hole in the file",
                SHARED,
                "p0 store 1g 1; p0 uffd register 1g 4p wp; p0 uffd protect 1g 1p; punch f0 0 1p; p0 store 1g 2",
                &["SIGBUS"],
            ),
            row(
                "Truncation drops both",
                SHARED,
                "p0 store 1g 1; p0 uffd register 1g 4p wp; p0 uffd protect 1g 1p; truncate f0 0; truncate f0 4p; p0 store 1g 2",
                &["done"],
            ),
            row(
                "mprotect leaves protections alone",
                SHARED,
                "p0 store 1g 1; p0 uffd register 1g 4p wp; p0 uffd protect 1g 1p; p0 protect 1g 4p r; p0 protect 1g 4p rw; p0 store 1g 2",
                &["SIGBUS"],
            ),
            row(
                "Unregistering takes protections away",
                SHARED,
                "p0 store 1g 1; p0 uffd register 1g 4p wp; p0 uffd protect 1g 1p; p0 uffd unregister 1g 4p; p0 store 1g 2",
                &["done"],
            ),
            row(
                "A protection is one process's: another that maps the file (vhost-user) stores past it",
                TWO,
                "p0 store 1g 1; p0 uffd register 1g 1g wp; p0 uffd protect 1g 1p; p1 store 1g 2; p0 load 1g; p0 store 1g 3",
                &["done", "2", "SIGBUS"],
            ),
        ],
    },
    Part {
        heading: "Asynchronous write protection",
        text: "`UFFD_FEATURE_WP_ASYNC` and `PAGEMAP_SCAN`, since 6.7: what was written since the last look, without a handler that answers. \
               `scan ... written protect` is `PM_SCAN_WP_MATCHING` for `PAGE_IS_WRITTEN`.\n\n\
               **Do not scan with `PM_SCAN_WP_MATCHING` and an empty mask.** Where a mapping has no page table yet, the scan waits for ever for a \
               lock that it holds. The source of 6.12 as Debian 13 has it is mended (`pagemap_scan_hugetlb_hole_wp()`); not all are, and the \
               programs here keep from it. With `PAGE_IS_WRITTEN` in the mask such places do not match.",
        rows: &[
            since(
                7,
                row(
                    "A store takes the protection off and goes on; a scan finds the page, and protects it again in the same step",
                    ASYNC,
                    "p0 store 1g 1; p0 store 1g+1p 1; p0 uffd protect 1g 4p; p0 store 1g+1p 2; p0 scan 1g 4p written protect; \
                 p0 scan 1g 4p written",
                    &["1g+1p to 1g+2p: allowed written file present huge", "nothing"],
                ),
            ),
            since(
                7,
                row(
                    "Pages that were there before the first protection count as written",
                    ASYNC,
                    "p0 store 1g 1; p0 scan 1g 4p written",
                    &["1g to 1g+1p: allowed written file present huge"],
                ),
            ),
            since(
                7,
                row(
                    "An empty entry is not written, and a scan does not protect it: a page that comes there later, by a load too, is written. \
                 Protect the whole range once with UFFDIO_WRITEPROTECT first",
                    ASYNC,
                    "p0 store 1g 1; p0 scan 1g 4p written protect; p0 load 1g+1p; p0 scan 1g 4p written",
                    &["0", "1g+1p to 1g+2p: allowed written file present huge"],
                ),
            ),
            since(
                7,
                row(
                    "What UFFDIO_WRITEPROTECT has protected before it was there is not written by a load",
                    ASYNC,
                    "p0 uffd protect 1g 4p; p0 load 1g; p0 store 1g+1p 1; p0 scan 1g 4p written",
                    &["0", "done", "1g+1p to 1g+2p: allowed written file present huge"],
                ),
            ),
            since(
                7,
                row(
                    "A protection that waits for a page is 'swapped'; a place without a page table is not even huge",
                    ASYNC,
                    "p0 scan 1g 4p; p0 uffd protect 1g 1p; p0 scan 1g 2p",
                    &[
                        "1g to 1g+4p: allowed",
                        "done",
                        "1g to 1g+1p: allowed swapped huge, 1g+1p to 1g+2p: allowed huge",
                    ],
                ),
            ),
            since(
                7,
                row(
                    "It goes with missing mode: missing pages are the handler's, stores to protected ones are not",
                    ASYNC,
                    "p0 store 1g 1; p0 uffd register 1g 4p missing+wp; p0 uffd protect 1g 1p; p0 store 1g 2; p0 store 1g+1p 2",
                    &["done", "SIGBUS"],
                ),
            ),
            since(
                7,
                row(
                    "Other mappings are left out of a scan that protects, and refused by PM_SCAN_CHECK_WPASYNC",
                    SHARED,
                    "p0 store 1g 1; p0 uffd register 1g 4p wp; p0 scan 1g 4p written; p0 scan 1g 4p written protect; p0 scan 1g 4p check",
                    &["1g to 1g+1p: written file present huge", "nothing", "EPERM"],
                ),
            ),
            since(
                7,
                row(
                    "What another process stores through its own mapping is not found",
                    "pool 8; open f0 memory; truncate f0 4p; p0 fork p1; p0 map f0 at=1g length=4p rights=rw shared fixed; \
                 p1 map f0 at=1g length=4p rights=rw shared fixed; p0 uffd open async; p0 uffd register 1g 4p wp",
                    "p0 store 1g 1; p0 uffd protect 1g 4p; p1 store 1g 2; p0 scan 1g 4p written; p0 load 1g",
                    &["done", "nothing", "2"],
                ),
            ),
        ],
    },
    Part {
        heading: "Poison",
        text: "`UFFDIO_POISON`, since 6.6: for pages that were broken where a guest came from. Accesses get `SIGBUS`: with the code `BUS_MCEERR_AR` and the \
               size of the page if the kernel has `CONFIG_MEMORY_FAILURE`, else as any other.",
        rows: &[
            since(
                6,
                row(
                    "Loads and stores fail, and the handler is not asked",
                    SHARED,
                    "p0 uffd register 1g 4p missing; p0 uffd poison 1g 1p; p0 load 1g; p0 store 1g 1",
                    &["1p", "SIGBUS", "SIGBUS"],
                ),
            ),
            since(
                6,
                row(
                    "A copy takes its place",
                    SHARED,
                    "p0 uffd register 1g 4p missing; p0 uffd poison 1g 1p; p0 uffd copy 1g 1p 7; p0 load 1g",
                    &["1p", "7"],
                ),
            ),
            since(
                6,
                row(
                    "It goes where nothing is: not over a page, a protection that waits for one, or poison",
                    SHARED,
                    "p0 store 1g 1; p0 uffd register 1g 4p missing+wp; p0 uffd protect 1g+1p 1p; p0 uffd poison 1g 1p; p0 uffd poison 1g+1p 1p; \
                 p0 uffd poison 1g+2p 1p; p0 uffd poison 1g+2p 1p",
                    &["EEXIST", "EEXIST", "1p", "EEXIST"],
                ),
            ),
            since(
                6,
                row(
                    "It hides a page that the file has; the file can still be read",
                    SHARED,
                    "allocate f0 0 1p; p0 uffd register 1g 4p missing; p0 uffd poison 1g 1p; p0 load 1g; read f0 0 1",
                    &["SIGBUS", "1 bytes [00]"],
                ),
            ),
            since(
                6,
                row(
                    "Unregistering leaves it; MADV_DONTNEED takes it away",
                    SHARED,
                    "p0 uffd register 1g 4p missing; p0 uffd poison 1g 1p; p0 uffd unregister 1g 4p; p0 load 1g; p0 advise 1g 1p dontneed; p0 load 1g",
                    &["SIGBUS", "done", "0"],
                ),
            ),
            since(
                6,
                row(
                    "A child has the poison of a private mapping in which there were pages",
                    PRIVATE,
                    "p0 uffd register 1g 4p missing; p0 uffd copy 1g 1p 1; p0 uffd poison 1g+1p 1p; p0 fork p1; p1 load 1g+1p",
                    &["SIGBUS"],
                ),
            ),
            since(
                6,
                row(
                    "**Processes that share a page table share its poison.** Two that are registered for missing faults alone, on the same GiB of a \
                 file, may",
                    TWO,
                    "p0 uffd register 1g 1g missing; p1 uffd register 1g 1g missing; p0 uffd copy 1g 1p 1; p1 load 1g; p0 uffd poison 1g+1p 1p; \
                 p1 uffd unregister 1g 1g; p1 load 1g+1p",
                    &["1", "1p", "done", "SIGBUS"],
                ),
            ),
            since(
                7,
                row(
                    "A scan says of poison that it is written, each time",
                    ASYNC,
                    "p0 uffd poison 1g 1p; p0 scan 1g 1p written protect; p0 scan 1g 1p written protect",
                    &[
                        "1g to 1g+1p: allowed written swapped huge",
                        "1g to 1g+1p: allowed written swapped huge",
                    ],
                ),
            ),
        ],
    },
    Part {
        heading: "Fork",
        text: "Without `UFFD_FEATURE_EVENT_FORK`, which needs `CAP_SYS_PTRACE`. With it, the child has a handler of its own, and fork waits until the \
               handler has read the event.",
        rows: &[
            row(
                "A child has no handler: the kernel fills its missing pages",
                SHARED,
                "p0 uffd register 1g 4p missing; p0 fork p1; p1 load 1g; p0 load 1g+1p",
                &["0", "SIGBUS"],
            ),
            row(
                "A child has no write protections, in private mappings neither",
                PRIVATE,
                "p0 store 1g 1; p0 uffd register 1g 4p wp; p0 uffd protect 1g 1p; p0 fork p1; p1 store 1g 2; p0 store 1g 2",
                &["done", "SIGBUS"],
            ),
            row(
                "A child of a process with a shared mapping stores past the parent's protections",
                SHARED,
                "p0 store 1g 1; p0 uffd register 1g 4p wp; p0 uffd protect 1g 1p; p0 fork p1; p1 store 1g 2; p0 load 1g",
                &["done", "2"],
            ),
        ],
    },
];

const INTRODUCTION: &str = "\
# userfaultfd on huge pages of hugetlbfs

For authors of virtual machine monitors and of whatever else handles faults on huge pages. Each row is a sentence and the program \
that shows it, and each was run: on the kernel, with real processes, and on the engine, after each step of which all that can be \
observed is the same. The page is made by

```console
# hugewalk conform --table uffd > docs/uffd-hugetlb.md
```

on Linux 6.18.44, x86-64, without CONFIG_MEMORY_FAILURE; a test compares it with the running kernel wherever the pool can be taken over. What \
a row says of other kernels was read in the sources that its last column names, and not run there. `hugewalk conform --table uffd \
--format json` has the whole programs, each for `hugewalk conform --replay`.

Steps are those of docs/conform.md: `p0` and `p1` are processes, `f0` is a file of four huge pages which `p0` maps at `1g`, `1p` is one huge \
page of 2 MiB.
";

const GIANT: &str = "
## Pages of 1 GiB

Programs have pages of 2 MiB, so these are operations one after the other on one page of 1 GiB of a file, mapped shared. They are run on the engine, \
and on the kernel where it has such a page to spare (`echo 1 > /sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages` soon after boot; the command \
gives back what it took). Since 6.7, read in the source of 6.12. Page tables are never shared between processes here.

";

/// The page, with what became of each row, and what pages of 1 GiB came to on the kernel if it had one.
#[must_use]
pub fn page(held: &[Held], giant: Option<&[Vec<String>]>) -> String {
    format!("{INTRODUCTION}{}{GIANT}{}", markdown(UFFD, held.iter()), giant_rows(giant))
}
