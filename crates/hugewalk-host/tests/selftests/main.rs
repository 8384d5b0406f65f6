//! What the kernel's own tests of huge pages claim, each by its name, on the user-space platform.
//!
//! Written from what each test says that it checks (Linux 6.1, `tools/testing/selftests/vm`, and 6.12, `.../mm`; the Linux
//! Test Project; the test suite of libhugetlbfs), not from how it checks it. Sizes are those of the originals where the
//! claim depends on them.
//!
//! | kernel selftest | here |
//! |---|---|
//! | `hugepage-mmap` | [`hugepage_mmap`] |
//! | `hugepage-shm` | [`hugepage_shm`] |
//! | `map_hugetlb` | [`map_hugetlb`] |
//! | `hugepage-mremap` | [`hugepage_mremap`] |
//! | `hugetlb-madvise` | [`hugetlb_madvise`] |
//! | `thuge-gen` | [`thuge_gen`] |
//! | `hugepage-vmemmap` | none: it looks at the `struct page` of each small page of a huge one, whose memory Linux saves. Here a huge page has one record, of whatever size it is. What is left of the claim, that every small page leads to that record, is in [`thuge_gen`] |
//! | `hugetlb_madv_vs_map` | [`hugetlb_races`] |
//! | `hugetlb_fault_after_madv` | [`hugetlb_races`] |
//! | `hugetlb-read-hwpoison` | [`hugetlb_read_hwpoison`] |
//! | `userfaultfd hugetlb`, `userfaultfd hugetlb_shared`, `uffd-stress` | the stress part in `../uffd/stress.rs`, the rest in [`uffd_unit_tests`] |
//! | `uffd-unit-tests` | [`uffd_unit_tests`], which says for each where it is |
//! | `gup_test`, `gup_longterm` | [`gup_test`]; what pins keep and refuse in `../gup` |
//! | `cow` | `../gup/copying.rs`, `../gup/keeps.rs` |
//! | `hugetlb_dio` | [`mappings`] |
//! | `hugetlb-soft-offline` | `../inject_error.rs` |
//! | `migration` | `../migrate.rs` |
//! | `charge_reserved_hugetlb`, `hugetlb_reparenting_test` | none: there are no control groups |
//!
//! | LTP | here |
//! |---|---|
//! | `hugemmap01` (a mapping takes its pages), `hugemmap04` (all of the pool at once) | [`hugepage_mmap`] |
//! | `hugemmap02` (addresses that are not aligned) | [`map_hugetlb`] |
//! | `hugemmap05` (overcommit) | [`reservations`] |
//! | `hugemmap06` (threads that map, write and unmap) | [`races`] |
//! | the later `hugemmap*` | were taken over from libhugetlbfs: see there |
//! | `hugefork*` | [`mappings`] |
//! | `hugefallocate*` | [`reservations`], [`races`] |
//! | `hugeshmat*`, `hugeshmctl*`, `hugeshmdt*`, `hugeshmget*` | [`hugepage_shm`]; keys, permissions and `shmid_ds` are the host's |
//!
//! | libhugetlbfs | here |
//! |---|---|
//! | `alloc-instantiate-race`, `fallocate_stress` | [`races`] |
//! | `counters`, `quota`, `chunk-overcommit`, `noresv-*`, `truncate_reserve_wraparound`, `fallocate_basic`, `fallocate_align` | [`reservations`] |
//! | `fork-cow`, `mmap-cow`, `corrupt-by-cow-opt`, `private`, `shared`, `readback`, `direct`, `ptrace-write-hugepage`, `mprotect`, `mlock`, `truncate`, `truncate_above_4GB`, `map_high_truncate_2`, `truncate_sigbus_versus_oom` | [`mappings`] |
//! | `misalign`, `misaligned_offset`, `mmap-gettest`, `huge_at_4GB_normal_*`, `straddle_4GB`, `task-size-overrun` | [`map_hugetlb`] |
//! | `unlinked_fd` | [`hugepage_mmap`] |
//! | `shm-fork`, `shm-getraw`, `shm-gettest` | [`hugepage_shm`] |
//! | `madvise_reserve`, `fadvise_reserve`, `readahead_reserve` | none: there is no advice to read ahead |
//! | `linkhuge*`, `zero_filesize_segment`, `malloc*`, `heapshrink`, `heap-overflow`, `brk_near_huge`, `stack_grow_into_huge`, `mremap-*-near-*`, `find_path`, `meminfo_nohuge`, `icache-hygiene`, `slbpacaflush` | none: they are about the C library, mappings of small pages, or a processor's caches |

mod gup_test;
mod hugepage_mmap;
mod hugepage_mremap;
mod hugepage_shm;
mod hugetlb_madvise;
mod hugetlb_races;
mod hugetlb_read_hwpoison;
mod map_hugetlb;
mod mappings;
#[path = "../pages/mod.rs"]
mod pages;
mod races;
mod reservations;
mod setup;
#[path = "../stepped/mod.rs"]
mod stepped;
mod thuge_gen;
#[allow(dead_code, reason = "made for another test")]
#[path = "../uffd/setup.rs"]
mod uffd;
mod uffd_unit_tests;
