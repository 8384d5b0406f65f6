//! A user-space host for [`hugewalk`]: real threads, real memory, and a soft CPU with a TLB.
//!
//! | what the engine asks for | what it is here |
//! |---|---|
//! | table pages and their records | two reserved ranges of memory, used as they are touched |
//! | huge pages | a memory file, mapped once, so that it can be handed to a virtual machine; or numbers without contents, by the terabyte |
//! | sleeping locks | those of `parking_lot` |
//! | spinning locks | those of `spin`, which yield: the holder may have been preempted |
//! | light and heavy barrier | a compiler fence and `membarrier(2)`; two full fences where that is missing |
//! | RCU | the engine's own |
//! | tasks | [`task`]: one for each thread |
//! | processors | [`Cpu`], as many as there are threads |
//! | TLB flush | a generation, and a wait for the accesses that are under way |
//!
//! [`checked`] tests other platforms that can run in user space.
//!
//! # Example
//!
//! Two processes map the same file, share the table of its gigabyte, and see each other's stores.
//!
//! ```
//! use hugewalk::addr::VirtAddr;
//! use hugewalk::arch::X86_64;
//! use hugewalk::file::HugeFile;
//! use hugewalk::mm::MapRequest;
//! use hugewalk::{AddressSpace, Hugetlb};
//! use hugewalk_host::{Cpu, Host, HostConfig, Tracing};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let host = Host::new(&HostConfig::new().huge_bytes(1 << 30).tracing(Tracing::Count))?;
//! let hugetlb = Hugetlb::new(host)?;
//! hugetlb.resize_pool(X86_64::SIZE_2M, 512);
//! let mut task = hugewalk_host::task(&hugetlb)?;
//!
//! let file = HugeFile::new(&hugetlb, X86_64::SIZE_2M, None)?;
//! file.truncate(&mut task, 1 << 30)?;
//! let parent = AddressSpace::new(&hugetlb)?;
//! let request = MapRequest::file(&file, 0, 1 << 30).shared().at(VirtAddr::new(4 << 30));
//! let address = parent.mmap(&mut task, &request)?;
//!
//! let mut cpu = Cpu::new(&parent)?;
//! cpu.store(&mut task, address, 42)?;
//!
//! let child = parent.fork(&mut task)?;
//! assert_eq!(Cpu::new(&child)?.load(&mut task, address)?, 42);
//! assert_eq!(hugetlb.platform().event_counts().shared, 1);
//! # Ok(())
//! # }
//! ```

mod arena;
mod barriers;
mod budget;
mod bulk;
pub mod checked;
mod config;
mod contents;
mod context;
mod cpu;
mod events;
mod host;
mod loads;
mod mmu;
mod park;
mod pause;
mod reserve;
mod tables;
mod task;
mod tlb;

pub use self::config::{Contents, HostConfig, Tracing};
pub use self::context::MmContext;
pub use self::cpu::{Cpu, CpuStats};
pub use self::events::EventCounts;
pub use self::host::{Host, HostError, Usage};
pub use self::park::Park;
pub use self::task::{KnowsThreads, OnePerThread, TaskError, task};

/// A spinning lock. It yields while it spins: on a small machine the holder may have been preempted.
pub type SpinLock = spin::mutex::spin::SpinMutex<(), spin::relax::Yield>;
