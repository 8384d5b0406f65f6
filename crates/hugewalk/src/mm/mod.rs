//! Address spaces: their VMAs under the mmap lock, and the operations on them.
//!
//! # Protocol
//!
//! The mmap lock guards the set of VMAs. Faults and madvise hold it in read; operations that change the set
//! hold it in write. VMAs are replaced, never changed (see [`vma`](crate::vma)).
//!
//! An operation that replaces VMAs makes the new ones first: what can fail comes before the first change.
//! Then, for each old VMA in turn, it takes the VMA lock and `i_mmap` in write, works on the entries, and
//! exchanges the VMA in the file's tree before it releases the locks. So no other mapping can start to
//! share with a VMA that is about to go.
//!
//! # While a guard is held
//!
//! A guard of a sleeping lock keeps no borrow of the task, so calls that take further locks compile. Some
//! of them deadlock: a call that takes a lock which its own task holds waits for ever, and so do two tasks
//! that take two locks in different orders.
//!
//! A function that takes `&Task` takes no sleeping lock and may always be called: [`Task::rcu_read_lock`](crate::Task::rcu_read_lock)
//! and walks in that section, `pin_page_fast`, `pin_pages_nowait`, [`AddressSpace::mmap_try_read`], the
//! operations under a [`Gather`](crate::gather::Gather). Of the functions that take `&mut Task`, these may
//! be called:
//!
//! | held | may be called |
//! |---|---|
//! | [`mmap_read`](AddressSpace::mmap_read), [`mmap_try_read`](AddressSpace::mmap_try_read) | [`lock_vma`](MmapReadGuard::lock_vma), [`lock_vma_write`](MmapReadGuard::lock_vma_write), `i_mmap_read`, `i_mmap_write`; `synchronize`, `rcu_barrier` |
//! | [`lock_vma`](MmapReadGuard::lock_vma), [`lock_vma_write`](MmapReadGuard::lock_vma_write) | `i_mmap_read`, `i_mmap_write` of the VMA's file; `synchronize`, `rcu_barrier` |
//! | [`i_mmap_read`](crate::file::HugeFile::i_mmap_read), [`i_mmap_write`](crate::file::HugeFile::i_mmap_write) | `synchronize`, `rcu_barrier` |
//!
//! All other operations deadlock, at once or some day:
//!
//! - Under the mmap lock in read, `mmap`, `munmap`, `mremap`, `mprotect`, `mbind`, `mlock`, `fork`, `exit`
//!   and most advice deadlock at once, for they take it in write.
//! - `fault`, `pin_pages`, page walks and `madvise(DONTNEED)` take it in read once more: they go through
//!   until another task waits for it in write, and sometimes longer.
//! - Truncation, migration and memory failure wait for VMA locks and for `i_mmap`.
//!
//! An address space has two parts. [`Mm`] is what VMAs and walkers use of it: the root table and the host's
//! context. The [`AddressSpace`] adds the set of VMAs.

mod advise;
mod bind;
mod claim;
mod exit;
mod fork;
mod lock;
mod map;
mod observe;
mod protect;
mod remap;
mod seal;
mod settle;
mod soft_dirty;
mod unmap;

pub use self::advise::Advice;
pub use self::lock::LockAll;
pub use self::map::{Backing, MapFlags, MapRequest, Placement};
pub use self::observe::{Residency, TableUse};
pub use self::remap::RemapTo;
use self::unmap::free_tables;
pub use crate::error::MapError;
pub use crate::root::{ActiveMm, Mm};
pub use crate::space::{AddressSpace, MmapReadGuard};
