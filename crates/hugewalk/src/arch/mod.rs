//! Entry formats of the processors. Only this module knows bits.
//!
//! [`Paging`] says what the tables of a processor look like, as data and pure functions: [`X86_64`], [`Aarch64`] with each
//! of its granules, and [`Riscv64`]. Nothing in there touches memory. A platform chooses one of them; the rest of the engine
//! speaks [`Entry`], and goes by levels and sizes as the format has them.
//!
//! All are stage 1, the tables that CR3, TTBR0_EL1 or satp point to. AMD's nested tables have the format of x86-64. Intel's
//! EPT does not, so a hypervisor cannot use these tables as EPT.
//!
//! # When a processor sees a store
//!
//! A processor reads tables by itself, at any time, and its reads are ordered with the stores of programs by rules of their
//! own. Acquire and Release say nothing about them. [`Hooks`] has the following as data:
//!
//! | a store to an entry | x86-64 | arm64 | riscv64 |
//! |---|---|---|---|
//! | made it valid | nothing: what is not present is not cached | `dsb ishst` lets the walkers see the store; `isb` keeps accesses of the same processor that come later from being translated earlier | `sfence.vma`, on each processor that accesses the page; a processor without it may fault, and fences then. With Svvptc nothing: the store is seen in bounded time |
//! | gave it more rights | nothing: at worst there is one fault too many, which drops what was cached | `tlbi` of the address: a cached entry with fewer rights may fault for ever | `sfence.vma` on the processor that faults; Svvptc says nothing of this |
//! | took rights, or the entry, away | `invlpg` on each processor that may have it cached | `dsb ishst`, `tlbi`, `dsb ish` for all of them at once | `sfence.vma` on each |
//! | is a new page of a file or of zeroes, to be executed | nothing: instruction fetches are coherent | data cache cleaned, instruction cache invalidated, `isb` | `fence.i` on each processor |
//!
//! The *filling* of a page is ordered before its entry by Release on all three: a processor that has read the entry
//! accesses the page through it, and that is a dependency which the walkers of all three respect.
//!
//! Sources, by title, since numbers change from edition to edition. Intel SDM volume 3A, chapter "Paging": "Details of TLB
//! Use", "Invalidation of TLBs and Paging-Structure Caches", "Optional Invalidation". Arm ARM (DDI 0487), chapter "The AArch64
//! Virtual Memory System Architecture": "TLB maintenance", "Using break-before-make when updating translation table entries";
//! "Ordering of translation table walks" in the chapter on the memory model. RISC-V privileged architecture:
//! "Supervisor Memory-Management Fence Instruction", and the chapter on Svvptc. Linux: `flush_tlb_fix_spurious_fault()` and
//! `set_pte()` of each architecture, arm64's `__ptep_set_access_flags()`.
//!
//! # Entries side by side
//!
//! A *group* is a number of entries that stand for one page: arm64's contiguous bit, riscv64's Svnapot. A processor may cache
//! all of it when it has read one member, and may do so by any of them. So the members always say the same, but for accessed
//! and dirty bits, which processors set in one of them.

mod aarch64;
mod any;
mod paging;
mod riscv64;
mod x86_64;
mod x86_64_paging;

pub use self::aarch64::{Aarch64, Granule};
pub use self::any::AnyPaging;
pub use self::paging::{Barrier, Geometry, Hooks, Paging};
pub(crate) use self::paging::{EMPTY, for_each_level};
pub use self::riscv64::{Riscv64, Sv};
pub use self::x86_64::{Entry, Leaf, LeafFlags, Migration, RawEntry};
pub use self::x86_64_paging::{PMD_SIZE, PUD_SIZE, X86_64};
