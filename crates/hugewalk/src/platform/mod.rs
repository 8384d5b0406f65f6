//! What a host supplies: table pages, huge pages, locks, TLB flushes and barriers.
//!
//! It comes in parts, each a small trait: see [`Platform`]. A kernel implements them on its frame allocator and its
//! inter-processor interrupts.
//! `hugewalk-host` implements them on threads and a memory file. A checker implements them with a
//! scheduling point before every access.
//!
//! The engine calls the platform, and never the other way round.
//!
//! # What may sleep
//!
//! Only the sleeping locks, [`Parker::park`](crate::sync::Parker::park), [`Barriers::pause`],
//! [`Notify::invalidate_range_start`], and what says so of itself may block. All other callbacks
//! are called with table locks held or inside RCU sections. They must neither sleep nor call back
//! into the engine.
//!
//! # Unwinding
//!
//! No callback may unwind: none of [`Barriers`], [`Platform`], [`Parker`](crate::sync::Parker) or [`Rcu`](crate::rcu::Rcu), no lock, and
//! no callback of an [`RcuHead`](crate::rcu::RcuHead). If one does all the same (a failed assertion
//! in a test, for example), the engine's function that called it unwinds too. Then the following
//! holds:
//!
//! - Nothing is freed that a processor or a walker may still reach. If a flush unwinds, the pages
//!   and tables that waited for it are never freed. If an RCU callback unwinds, what it and the
//!   rest of its batch would have freed is never freed.
//! - No lock of the engine stays held, and no read section stays open.
//! - Other calls go on. If [`Barriers::heavy`] unwinds, the next call that needs a grace period
//!   begins it again. A page that was being moved is where it was. A store to a shared page can be
//!   retried.
//! - The operation itself may be half done: some pages of its range are unmapped or changed, others
//!   are not. A private page that was leaked counts as mapped for ever. Moving that page, or
//!   reporting that its memory failed, never returns.
//!
//! # Frames
//!
//! A frame is a number. Any code can make one up, and that alone is harmless. Turning a frame into
//! memory takes an `unsafe fn` of [`Platform`], whose caller answers for the frame. Safe functions
//! of the engine that take a frame, such as [`Hugetlb::migrate`](crate::Hugetlb::migrate), ask
//! [`Pages::has_page_record`] first, and then look into the record.
//!
//! ```compile_fail,E0133
//! # use hugewalk::{Hugetlb, addr::HugeFrame, platform::Platform};
//! # fn f<P: Platform>(hugetlb: &Hugetlb<P>) {
//! hugetlb.platform().write_huge(HugeFrame(0x1234), 1 << 40, b"anywhere"); // needs `unsafe`
//! # }
//! ```
//!
//! # Handles
//!
//! `&'static P` and [`Arc<P>`](alloc::sync::Arc) are platforms if `P` is one. A kernel makes its
//! system from a reference to a static. A test keeps an `Arc`, and looks into the platform when the
//! system is gone.
//!
//! One platform can serve two systems, made from handles of one kind or of two. Neither acts on a
//! page of the other.
//!
//! One case is not exact. A huge page goes to the host from the first system and comes to the
//! second, while a lockless walker of the first tries to take a reference to it. Then the first
//! system may give the page back (unless it belongs to a mount or to private mappings), and neither the
//! counters of the second nor whoever has [paid](Limits#control-groups) notice. Where that matters, let one platform serve one system at a
//! time.
//!
//! # The kernel's half of an address space
//!
//! The engine's mappings lie below [`Paging::task_size`](crate::arch::Paging::task_size). On x86-64 and riscv64 that is the lower half of
//! the entries of a root table; the embedder owns the upper half. The engine neither reads nor writes
//! it as long as the root exists. A kernel fills it in [`Tables::init_root`], and later
//! through [`Mm::root_frame`](crate::mm::Mm::root_frame). On arm64 a kernel has a tree of its own.
#![doc = include_str!("example.md")]

mod bytes;
mod contents;
mod handle;
mod limits;
mod locks;
mod notify;
mod pages;
mod record;
mod tables;
mod tlb;
mod trace;

pub use crate::sync::Barriers;

pub use self::contents::Contents;
pub use self::handle::HandleRcu;
pub use self::limits::Limits;
pub use self::locks::Locks;
pub use self::notify::{Invalidation, Notify};
pub use self::pages::Pages;
pub(crate) use self::record::fits;
pub use self::record::{PageRecord, TableRecord};
pub use self::tables::Tables;
pub use self::tlb::{Flush, Tlb};
pub use self::trace::{Event, Trace};

/// How many rounds an operation makes over the entries of a page before it reports
/// [`Event::StillMapped`].
pub(crate) const ROUNDS: u32 = 10_000;

/// A host of the engine: all parts together.
///
/// | part | what it is about |
/// |---|---|
/// | [`Tables`] | table pages, and their format |
/// | [`Pages`] | huge pages, and their records |
/// | [`Contents`] | what is in huge pages |
/// | [`Locks`] | locks that sleep, places to sleep, read sections and grace periods |
/// | [`Tlb`] | what processors remember |
/// | [`Notify`] | who else is told: handlers of faults, secondary MMUs |
/// | [`Trace`] | tracepoints |
/// | [`Limits`] | what a host allows, and who pays for pages |
///
/// # Safety
///
/// The parts belong together: tables, pages and address spaces are those of one machine.
pub unsafe trait Platform: Tables + Pages + Contents + Locks + Tlb + Notify + Trace + Limits {
    /// The checker's: see `hugewalk::protocol`.
    #[cfg(feature = "weaker-protocols")]
    #[doc(hidden)]
    #[inline(always)]
    fn keeps(step: crate::protocol::Step) -> bool {
        let _ = step;
        true
    }
}
