//! Huge-page mappings whose page tables are shared between address spaces and walked without locks.
#![no_std]

extern crate alloc;

pub mod addr;
pub mod arch;
pub mod error;
pub mod fault;
pub mod file;
pub mod gather;
mod hugetlb;
pub mod mm;
pub mod page;
pub mod platform;
pub mod pool;
pub mod rcu;
pub mod reserve;
pub mod share;
pub mod sync;
pub mod table;
pub mod task;
pub mod vma;
pub mod walk;

pub use crate::hugetlb::Hugetlb;
pub use crate::mm::AddressSpace;
pub use crate::task::Task;
