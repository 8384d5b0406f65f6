//! Huge-page mappings whose page tables are shared between address spaces and walked without locks.
//!
//! Processes that map the same huge-page file share one page-table page for each gigabyte, as Linux's hugetlb does ("PMD
//! sharing"). A table can be taken away again ("unsharing") by one process while another thread walks it. This crate is
//! that subsystem for kernels, hypervisors and user-space hosts: tables, locks, walks, faults, reservations, files. It
//! makes sure, by types and by protocol, that no walker is ever left holding a table that is gone.
//!
//! # What there is
//!
//! - Tables that the hardware can walk, of the format that the platform chooses ([`arch::Paging`]): x86-64 with 4 and 5
//!   levels, arm64 with each granule, riscv64 Sv39 to Sv57, with all their sizes of huge page, contiguous groups among them.
//! - mmap (shared, private, of files and anonymous), munmap, mprotect, mremap, madvise, mlock, mbind, fork, exit: [`mm`].
//! - Faults with copy-on-write and reservations: [`mod@fault`]. Files that can be truncated, punched, preallocated, read and
//!   written: [`mod@file`]. Pools that are resized at run time, overcommit, mounts with limits: [`pool`], [`reserve`].
//! - get_user_pages, fast and slow; pins that hold against copy-on-write; process_vm_readv and its like: [`gup`].
//! - userfaultfd: faults on missing, unmapped and write-protected pages that another thread resolves: [`uffd`].
//! - Read-copy-update of its own, or the host's: [`rcu`].
//! - From a page to the entries that map it: a page in use is unmapped, moved, lost to memory failure, or taken out of
//!   use before it is: [`rmap`].
//! - Walks over ranges, with visitors that sleep or do not: [`pagewalk`].
//! - Base pages of the host's in the same tree, also in the same gigabyte: [`base`].
//! - `no_std` with `alloc`; no global state; every allocation may fail, and then the operation returns an error.
//!
//! # The rule in one page
//!
//! A walk from the root of an address space reaches a table that may be unshared at any moment, and then freed or filled by
//! another process. So a walk takes a *proof*, and what the [`Slot`](walk::Slot) at its end allows depends on it:
//!
//! - Under the VMA lock, or `i_mmap` of the file, nobody unshares. The slot is *stable*: read it, or lock its table.
//! - In an RCU read section nobody frees. The slot is *alive*: reading and locking it may fail with
//!   [`Unshared`](walk::Unshared), and then the walk starts over.
//! - Without a proof it does not compile. The mmap lock is none: madvise holds it in read, truncation not at all.
//!
//! Three facts make *alive* sound. (P1) A table is freed after a grace period, lock, counts and all. (P2) A lock taken
//! through an RCU walk is revalidated: the parent entry must still point to the table. (P3) A value read without the lock
//! is confirmed: the parent entry and the table's generation, which every detach counts up, must be unchanged. So
//! unsharing waits for nobody: it clears the parent entry, counts, and flushes the TLB before `i_mmap` is let go.
//! [`walk`] has the whole rule, and the lock order.
//!
//! And whatever may sleep takes `&mut` [`Task`], which a read section and a locked table keep borrowed: sleeping in an
//! atomic section does not compile.
//!
//! # Map, fork, share, unshare, walk
//!
//! With [`hugewalk-host`](https://docs.rs/hugewalk-host), the platform for user space; a kernel brings its own
//! [`Platform`](platform::Platform).
//!
//! ```
//! use hugewalk::addr::VirtAddr;
//! use hugewalk::arch::{Entry, PUD_SIZE, X86_64};
//! use hugewalk::fault::{Access, Fault};
//! use hugewalk::mm::{Advice, MapRequest};
//! use hugewalk::walk::{Unshared, huge_pte_offset};
//! use hugewalk::{AddressSpace, Hugetlb};
//! use hugewalk_host::{Host, HostConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A system with 512 huge pages of 2 MiB, and this thread as a task of it.
//! let hugetlb = Hugetlb::new(Host::new(&HostConfig::new().huge_bytes(PUD_SIZE))?)?;
//! hugetlb.resize_pool(X86_64::SIZE_2M, 512);
//! let mut task = hugewalk_host::task(&hugetlb)?;
//!
//! // Map a gigabyte of shared memory where one table covers it, and touch its first page.
//! let parent = AddressSpace::new(&hugetlb)?;
//! let request = MapRequest::anonymous(X86_64::SIZE_2M, PUD_SIZE).shared().at(VirtAddr::new(4 * PUD_SIZE));
//! let start = parent.mmap(&mut task, &request)?;
//! assert_eq!(parent.fault(&mut task, start, Access::Write)?, Fault::Fresh);
//!
//! // Fork copies no table of a shared mapping. The child's first fault takes the parent's up: the page is there already.
//! let child = parent.fork(&mut task)?;
//! assert_eq!(child.fault(&mut task, start, Access::Read)?, Fault::Present);
//! assert_eq!(child.tables(&mut task)?[0].users, 2);
//!
//! // Walk without a lock: the slot is alive, and what is read from it is confirmed.
//! let section = task.rcu_read_lock();
//! let slot = huge_pte_offset(&section, child.mm(), start, X86_64::SIZE_2M)?.ok_or("no table")?;
//! assert!(matches!(slot.read()?, Entry::Leaf(_)));
//! drop(section);
//!
//! // Walk under the VMA lock: the slot is stable, nothing can fail, and one may sleep meanwhile.
//! let mmap = child.mmap_read(&mut task);
//! let vma = mmap.find(start).ok_or("not mapped")?;
//! let locked = mmap.lock_vma(vma, &mut task).ok_or("another's")?;
//! let slot = huge_pte_offset(&locked, child.mm(), start, X86_64::SIZE_2M)?.ok_or("no table")?;
//! assert!(matches!(slot.read(), Entry::Leaf(_)));
//! assert_eq!(slot.sharers(), 1);
//! drop(locked);
//! drop(mmap);
//!
//! // Another thread of the child drops its pages, which unshares the table. A walker that found it before is told so.
//! let section = task.rcu_read_lock();
//! let slot = huge_pte_offset(&section, child.mm(), start, X86_64::SIZE_2M)?.ok_or("no table")?;
//! std::thread::scope(|scope| {
//!     let other = scope.spawn(|| {
//!         let mut task = hugewalk_host::task(&hugetlb).expect("its first");
//!         child.madvise(&mut task, start, PUD_SIZE, Advice::DontNeed)
//!     });
//!     other.join().expect("no panic")
//! })?;
//! assert_eq!(slot.read(), Err(Unshared));
//! drop(section);
//!
//! child.exit(&mut task)?;
//! parent.exit(&mut task)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Bringing a platform
//!
//! Implement [`Platform`](platform::Platform): table pages and huge pages with room for their records, locks, barriers, and a
//! TLB flush that waits until no processor uses the old translation. Each thread of execution has one [`Task`]: [`Task::new`]
//! is `unsafe`, so offer a safe way that hands out one for each thread. Each page fault calls [`AddressSpace::fault`]. The
//! documentation of [`platform`] has one whole, in 200 lines that run, and a leak check with it. If yours can run in user
//! space, `hugewalk_host::checked` tests it.
//!
//! - Locks come by way of [`lock_api`], version 0.4, which this crate re-exports: `parking_lot` 0.12 and `spin` have it. Sleeping
//!   locks that know the task, so that its waits can be killed, implement the traits of [`sleep`] instead.
//! - [`Arc`] is the engine's own, since making one may fail. `&'static P` and `alloc`'s `Arc<P>` are platforms if `P` is one.
//! - `# Invariants` in this documentation are for readers of the source: they name private fields.
//!
//! # Where to read on
//!
//! From the top down: [`walk`] is the rule, [`table`] what it protects, [`share`] and [`gather`] what threatens it;
//! [`vma`], [`mod@file`] and [`mm`] hold the locks; [`mod@fault`] is the first user of it all.
#![no_std]

extern crate alloc;

// The floors, from the ground up: a room uses only those before it. `tests/floors.rs` holds that, and knows the few
// records that point back at each other.

pub mod addr;
pub mod error;
pub mod arch;
pub mod sync;
mod avl;
pub mod rcu;
#[doc(hidden)]
pub mod protocol;
pub mod platform;

pub mod sleep;
mod hugetlb;
pub mod task;
pub mod source;
pub mod table;
mod root;
pub mod walk;

pub mod page;
pub mod pool;
pub mod reserve;
pub mod file;
pub mod vma;

mod notice;
pub mod gather;
mod tree;
pub mod share;
mod entries;
mod truncate;
pub mod vm_ops;
mod space;
pub mod base;

pub mod uffd;
pub mod fault;
pub mod gup;
pub mod pagewalk;
pub mod rmap;
pub mod mm;
mod end;

pub use lock_api;

pub use crate::hugetlb::Hugetlb;
pub use crate::mm::AddressSpace;
pub use crate::sync::Arc;
pub use crate::task::Task;
