//! What a host supplies: table pages, huge pages, locks, TLB flushes and barriers.
//!
//! A kernel implements [`Platform`] on its frame allocator and its inter-processor interrupts.
//! `hugewalk-host` implements it on threads and a memory file. A checker implements it with a
//! scheduling point before every access.
//!
//! The engine calls the platform, and never the other way round.
//!
//! # What may sleep
//!
//! Only the sleeping locks, [`Parker::park`] and [`Barriers::pause`] may block. All other callbacks
//! are called with table locks held or inside RCU sections. They must neither sleep nor call back
//! into the engine.
//!
//! # Unwinding
//!
//! No callback may unwind: none of [`Barriers`], [`Platform`], [`Parker`] or [`Rcu`], no lock, and
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
//! [`Platform::has_page_record`] first, and then look into the record.
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
//! system may give the page back (unless it belongs to a mount or to private mappings), and the
//! counters of the second do not notice. Where that matters, let one platform serve one system at a
//! time.
//!
//! # The kernel's half of an address space
//!
//! The engine's mappings lie below [`Levels::task_size`]: entries 0 to 255 of a root table, with 4
//! levels and with 5. The embedder owns entries 256 to 511. The engine neither reads nor writes
//! them as long as the root exists. A kernel fills them in [`Platform::init_root`], and later
//! through [`Mm::root_frame`](crate::mm::Mm::root_frame).
#![doc = include_str!("example.md")]

mod bytes;
mod handle;
mod record;

use core::ops::Range;
use core::ptr::NonNull;

use lock_api::{RawMutex, RawRwLock};

use crate::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};
use crate::arch::Level;
use crate::error::OutOfMemory;
use crate::rcu::Rcu;
pub use crate::sync::Barriers;
use crate::sync::Parker;

pub use self::handle::HandleRcu;
pub(crate) use self::record::fits;
pub use self::record::{PageRecord, TableRecord};

/// Entries of a table page.
pub const ENTRIES: usize = 512;

/// Which steps of the locking protocol are carried out. Production code uses [`Hugewalk`], which keeps them all; a
/// checker leaves steps out to show which race each of them closes.
///
/// # Safety
///
/// Each step that is left out lets safe code of this crate reach freed or foreign tables, or VMAs
/// that are gone: the rule of [`walk`](crate::walk) no longer holds. Only a platform that makes
/// such accesses harmless (one that never reuses memory and runs one thread at a time) may
/// implement this trait with anything but the defaults.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a locking protocol",
    note = "use `hugewalk::platform::Hugewalk`; implementing `Protocol` selects a weaker protocol and takes `unsafe impl`"
)]
pub unsafe trait Protocol: Send + Sync + 'static {
    /// Is this step carried out? A constant in production, so that the compiler removes the question.
    #[inline(always)]
    fn keeps(step: Step) -> bool {
        let _ = step;
        true
    }

    /// Do walkers hold the VMA lock in read around their read sections? They need not; Linux has
    /// done so since 6.3. GUP-fast does not, even then.
    #[inline(always)]
    fn walks_under_vma_lock() -> bool {
        false
    }

    /// How often an operation looks again whether a reference is gone that somebody holds for a short time, before it gives up.
    /// A checker that runs every interleaving has no use for many of the same rounds.
    #[inline(always)]
    fn patience() -> u32 {
        100
    }
}

/// The steps of the protocol that [`Protocol`] can leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// P1: a table is freed after a grace period.
    RcuFree,
    /// P2: an RCU walker that has locked a table rechecks that its parent entry still points there.
    Revalidate,
    /// P3: a lockless reader re-reads its parent entry.
    ConfirmParent,
    /// P3: a lockless reader compares the table's generation.
    ConfirmGeneration,
    /// Unsharing increments the generation.
    BumpGeneration,
    /// The TLB is flushed for what was unmapped or unshared.
    Flush,
    /// P3: the generation is noted first, and then the parent entry is seen to point to the table.
    NoteGenerationFirst,
    /// P3: at the end the parent entry is read first, and then the generation.
    ConfirmParentFirst,
    /// The generation is incremented after the parent entry was cleared.
    BumpAfterClear,
    /// GUP-fast rechecks that the entry is unchanged, after it has taken its reference to the page.
    ConfirmEntry,
    /// A parent entry is cleared under the lock of the table it points to.
    DetachLocked,
    /// The flush for a table that was unshared covers the table's whole range.
    FlushWholeTable,
    /// The flush comes before `i_mmap` is released.
    FlushUnderIMmap,
    /// Unsharing first decrements the share count, and then asks whether the table has one user
    /// left.
    CountThenTell,
    /// A walker that keeps a slot while it may sleep holds the VMA lock in read.
    VmaLock,
    /// An operation that holds `i_mmap` only tries the VMA lock.
    TryVmaLock,
    /// For a private mapping, truncation waits for the lock of its reservations, which stands in
    /// for the VMA lock.
    ReserveLock,
    /// Sharing a table and making one fill the parent entry under the same lock.
    PopulateLock,
    /// The entry that leads to a table is loaded once.
    LoadOnce,
    /// A VMA whose table is unshared for good is replaced in its file's tree before `i_mmap` is released.
    ExchangeUnderIMmap,
    /// A VMA that is unmapped leaves its file's tree before `i_mmap` is released.
    LeaveUnderIMmap,
    /// An operation that holds `i_mmap` already does not look for a table to share.
    ShareWithoutIMmap,
    /// A task that waits first queues itself and then checks the condition.
    QueueThenLook,
    /// The fault mutex, which is the page lock, comes before `i_mmap`.
    MutexFirst,
    /// A fault that maps a new private page, which is in no cache, rechecks that the page lies
    /// within the file.
    RecheckSize,
    /// An operation that waits for a VMA's lock holds a reference to the VMA if nothing else keeps
    /// it. If this step is left out, the platform must keep the memory of VMAs that are gone.
    HoldVma,
    /// An operation that has waited for a VMA lock rechecks that the VMA is still in its file's
    /// tree.
    LookAgain,
    /// Truncation keeps a VMA lock that it has waited for while it goes on.
    KeepLock,
    /// A fault that meets a migration entry sleeps until the page has arrived.
    SleepOnMigration,
}

/// The full protocol of this crate: RCU walks, locks revalidated, reads confirmed, tables freed
/// after a grace period.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hugewalk;

// SAFETY: nothing is left out.
unsafe impl Protocol for Hugewalk {}

/// Depth of the page-table tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Levels {
    /// PGD, PUD, PMD, (PTE): 47 bits of user addresses.
    Four,
    /// PGD, P4D, PUD, PMD, (PTE): 56 bits of user addresses.
    Five,
}

impl Levels {
    /// The level of the root.
    #[inline]
    pub(crate) const fn top(self) -> Level {
        match self {
            Self::Four => Level::P4d,
            Self::Five => Level::Pgd,
        }
    }

    /// The first address that user mappings cannot have: `TASK_SIZE_MAX` on x86-64.
    #[must_use]
    pub const fn task_size(self) -> VirtAddr {
        match self {
            Self::Four => VirtAddr::new((1 << 47) - 4096),
            Self::Five => VirtAddr::new((1 << 56) - 4096),
        }
    }

    /// The first address that user mappings get only on request. Programs that store something in
    /// the upper bits of pointers expect addresses of 47 bits, whatever the machine has.
    ///
    /// Linux: `DEFAULT_MAP_WINDOW`.
    #[must_use]
    pub const fn default_window(self) -> VirtAddr {
        Self::Four.task_size()
    }
}

/// Events inside the engine that a host may record: the tracepoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An address space began to share a table of another one.
    Shared {
        /// [`Mm::id`](crate::mm::Mm::id) of the address space.
        mm: u64,
        /// Start of the 1 GiB range.
        address: VirtAddr,
        /// How many address spaces use the table now.
        users: u64,
    },
    /// An address space stopped sharing a table.
    Unshared {
        /// [`Mm::id`](crate::mm::Mm::id) of the address space.
        mm: u64,
        /// Start of the 1 GiB range.
        address: VirtAddr,
        /// How many address spaces use the table now, at least 1.
        users: u64,
    },
    /// A gather flushed the TLB.
    Flushed {
        /// [`Mm::id`](crate::mm::Mm::id) of the address space.
        mm: u64,
        /// Tables unshared since the previous flush.
        unshared: u64,
        /// How many of these have one user left.
        last: u64,
    },
    /// A table was handed to RCU to be freed.
    TableRetired {
        /// [`Mm::id`](crate::mm::Mm::id) of the address space.
        mm: u64,
    },
    /// After many rounds, an entry still maps a page that was to be unmapped, or a migration entry
    /// is left. This is a bug in this crate; the operation goes on as well as it can. Linux:
    /// `VM_WARN_ON_ONCE_FOLIO()`.
    StillMapped {
        /// The page.
        frame: HugeFrame,
    },
}

/// How many rounds an operation makes over the entries of a page before it reports
/// [`Event::StillMapped`].
pub(crate) const ROUNDS: u32 = 10_000;

/// A host of the engine.
///
/// # Safety
///
/// - A frame that [`alloc_table`](Self::alloc_table) returned belongs to the caller alone until
///   [`free_table`](Self::free_table), and so does its record. The same holds for huge pages.
/// - A frame fits into an entry: its number is below [`FRAMES`](crate::addr::FRAMES). The frame of
///   a huge page is a multiple of the page's size ([`HugeFrame::fits`]). Frame 0 is a valid frame.
/// - The entries of a table that [`alloc_table`](Self::alloc_table) returned are zero.
/// - For an allocated frame, [`table_entries`](Self::table_entries) and
///   [`table_record`](Self::table_record) always return the same pointer. The memory there overlaps
///   nothing else, and stays mapped as long as the platform exists. Entries are aligned to 4096
///   bytes where a processor walks them, and to a [`Word`](crate::sync::Word) elsewhere.
/// - The same holds for [`page_record`](Self::page_record). Moreover, its memory is never used for
///   anything else while the platform exists, whether the page is allocated or not, because
///   lockless lookups take references speculatively. Until the first allocation it is all-zero
///   bytes. [`has_page_record`](Self::has_page_record) is true of such frames only.
/// - [`huge_bytes`](Self::huge_bytes) and [`flush_tlb`](Self::flush_tlb) do what their
///   documentation says.
/// - The locks exclude as locks do, and [`Barriers`] order as barriers do.
pub unsafe trait Platform: Barriers + Sized {
    /// The locking protocol: [`Hugewalk`].
    type Protocol: Protocol;
    /// A sleeping mutual-exclusion lock.
    type SleepMutex: RawMutex + Send + Sync + 'static;
    /// A sleeping reader/writer lock. A queued writer may hold up later readers.
    type SleepRwLock: RawRwLock + Send + Sync + 'static;
    /// Where one task sleeps.
    type Parker: Parker;
    /// Read sections and grace periods: [`EpochRcu<Self>`](crate::rcu::EpochRcu), or the host's own.
    type Rcu: Rcu<Self>;
    /// What the host keeps for each address space: processor mask, TLB generation, ASID. Linux:
    /// `mm_context_t`.
    type MmContext: Send + Sync + 'static;

    /// Depth of the tables. Always the same.
    fn levels(&self) -> Levels;

    /// The lowest address that may be mapped, so that a null pointer never leads to memory: 64 KiB.
    /// A host that lets privileged processes map lower addresses, down to 0, returns that limit.
    ///
    /// Linux: `mmap_min_addr`, `cap_mmap_addr()` in security/commoncap.c.
    fn mmap_min_addr(&self) -> VirtAddr {
        VirtAddr::new(64 << 10)
    }

    /// A fresh [`MmContext`](Self::MmContext).
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if there is no memory for it.
    fn new_context(&self) -> Result<Self::MmContext, OutOfMemory>;

    /// Allocates a table page whose entries are all zero. `None` if there is no memory. Does not
    /// sleep.
    fn alloc_table(&self) -> Option<TableFrame>;

    /// Takes a table page back. Entries 256 to 511 of a root are as the embedder left them. Does
    /// not sleep.
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc_table`](Self::alloc_table), and neither a processor nor a walker reaches it any more.
    unsafe fn free_table(&self, frame: TableFrame);

    /// Called once for each address space, with its new root table, before anything reaches the
    /// table. A kernel copies its own half of the address space here. It may write entries 256 to
    /// 511 and no others. Does nothing by default.
    ///
    /// # Safety
    ///
    /// `root` came from [`alloc_table`](Self::alloc_table), and nothing reaches it yet.
    unsafe fn init_root(&self, root: TableFrame) {
        let _ = root;
    }

    /// The entries of a table page.
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc_table`](Self::alloc_table) and was not given back. (A lockless
    /// lookup calls this inside a read section, before it knows whether the table is still part of
    /// the tree. P1 keeps the table allocated.)
    unsafe fn table_entries(&self, frame: TableFrame) -> NonNull<[Self::Word; ENTRIES]>;

    /// One entry of a table page: the element `index` of [`table_entries`](Self::table_entries),
    /// which is what it returns by default.
    ///
    /// A walk waits for the frame at every level, and knows the index long before. A host whose
    /// table pages lie in one range adds the index to the start of the range first, so that one
    /// addition less is waited for.
    ///
    /// # Safety
    ///
    /// As for [`table_entries`](Self::table_entries). `index` is below [`ENTRIES`].
    #[inline]
    unsafe fn table_entry(&self, frame: TableFrame, index: usize) -> NonNull<Self::Word> {
        // SAFETY: passed on to the caller.
        let entries = unsafe { self.table_entries(frame) }.cast();
        // SAFETY: by the contract of this function the element lies inside the table page.
        unsafe { entries.add(index) }
    }

    /// Room for the record of a table page: uninitialised until the engine writes it.
    ///
    /// # Safety
    ///
    /// As for [`table_entries`](Self::table_entries).
    unsafe fn table_record(&self, frame: TableFrame) -> NonNull<TableRecord>;

    /// Allocates a huge page with any contents. `None` if there is none. Does not sleep.
    fn alloc_huge(&self, size: HugeSize) -> Option<HugeFrame>;

    /// Takes a huge page back. Does not sleep.
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc_huge`](Self::alloc_huge) with this size, and nothing reaches its contents any more.
    unsafe fn free_huge(&self, frame: HugeFrame, size: HugeSize);

    /// Room for the record of a huge page: a [`Page`](crate::page::Page).
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc_huge`](Self::alloc_huge), and may have been given back since; or
    /// [`has_page_record`](Self::has_page_record) is true of it.
    unsafe fn page_record(&self, frame: HugeFrame) -> NonNull<PageRecord>;

    /// Does the frame lie in the memory that huge pages are taken from, whether or not it was ever
    /// allocated? If so, [`page_record`](Self::page_record) may be called for it.
    ///
    /// `frame` may be any number: memory failure and migration begin with a frame that the caller
    /// names, and refuse it if the answer is no.
    ///
    /// Linux: `pfn_valid()`.
    fn has_page_record(&self, frame: HugeFrame) -> bool;

    /// The address at which all the contents of a huge page are mapped, aligned to 8 bytes at
    /// least. Rust code accesses them by atomics and raw memory only, since processors access them
    /// too.
    ///
    /// The five methods below use it. A platform may also return `None`. Then it keeps no contents:
    /// the five methods ignore what is written, and read zeroes. Or it has its own way to reach the
    /// contents, and overrides all five.
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc_huge`](Self::alloc_huge) and was not given back.
    unsafe fn huge_bytes(&self, frame: HugeFrame) -> Option<NonNull<u8>>;

    /// Fills a huge page with zeroes. May be called with sleeping locks held, never in an atomic section.
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc_huge`](Self::alloc_huge) with this size and was not given back.
    unsafe fn zero_huge(&self, frame: HugeFrame, size: HugeSize) {
        // SAFETY: passed on to the caller; the page is as large as its size says.
        unsafe { self.clear_huge(frame, 0, size.bytes()) };
    }

    /// Copies the contents of a huge page to another one. Processors may read the first meanwhile.
    ///
    /// # Safety
    ///
    /// As for [`zero_huge`](Self::zero_huge), for both pages, which differ.
    unsafe fn copy_huge(&self, from: HugeFrame, to: HugeFrame, size: HugeSize) {
        // SAFETY: passed on to the caller.
        let from = unsafe { self.huge_bytes(from) };
        // SAFETY: likewise.
        let to = unsafe { self.huge_bytes(to) };
        if let (Some(from), Some(to)) = (from, to) {
            // SAFETY: by the contract of `huge_bytes` both are whole pages, mapped and aligned.
            unsafe { bytes::copy(from, to, size.bytes() as usize) };
        }
    }

    /// Copies `into.len()` bytes out of a huge page, from `offset` bytes on.
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc_huge`](Self::alloc_huge) and was not given back; the range lies inside the page.
    unsafe fn read_huge(&self, frame: HugeFrame, offset: u64, into: &mut [u8]) {
        // SAFETY: passed on to the caller.
        match unsafe { self.huge_bytes(frame) } {
            // SAFETY: by the contract of `huge_bytes` the page is mapped, and the caller answers for the range.
            Some(start) => unsafe { bytes::read(bytes::at_offset(start, offset as usize), into) },
            None => into.fill(0),
        }
    }

    /// Copies `from` into a huge page, from `offset` bytes on.
    ///
    /// # Safety
    ///
    /// As for [`read_huge`](Self::read_huge).
    unsafe fn write_huge(&self, frame: HugeFrame, offset: u64, from: &[u8]) {
        // SAFETY: passed on to the caller.
        if let Some(start) = unsafe { self.huge_bytes(frame) } {
            // SAFETY: by the contract of `huge_bytes` the page is mapped, and the caller answers for the range.
            unsafe { bytes::write(bytes::at_offset(start, offset as usize), from) };
        }
    }

    /// Fills `length` bytes of a huge page with zeroes, from `offset` on.
    ///
    /// # Safety
    ///
    /// As for [`read_huge`](Self::read_huge).
    unsafe fn clear_huge(&self, frame: HugeFrame, offset: u64, length: u64) {
        // SAFETY: passed on to the caller.
        if let Some(start) = unsafe { self.huge_bytes(frame) } {
            // SAFETY: by the contract of `huge_bytes` the page is mapped, and the caller answers for the range.
            unsafe { bytes::zero(bytes::at_offset(start, offset as usize), length as usize) };
        }
    }

    /// Flushes translations of `range` in this address space that were looked up before the call.
    /// When it returns, no processor uses such a translation, or a table that it cached on the way,
    /// and no access through one is still under way. Called with table locks and sleeping locks
    /// held. Does not sleep.
    fn flush_tlb(&self, context: &Self::MmContext, range: Range<VirtAddr>);

    /// A handler of page faults of this address space has a message to read, or another one. A host
    /// whose programs wait for several things at once (`poll`) wakes those that wait for a handler
    /// of it; [`Userfault::poll`](crate::uffd::Userfault::poll) tells them which. Threads in
    /// [`Userfault::read_event`](crate::uffd::Userfault::read_event) are woken without it. Does
    /// nothing by default. Called with sleeping locks held, so it must be quick, and must neither
    /// sleep nor call back.
    ///
    /// Linux: `wake_up_poll(&ctx->fd_wqh, EPOLLIN)` in fs/userfaultfd.c.
    #[inline(always)]
    fn handler_called(&self, context: &Self::MmContext) {
        let _ = context;
    }

    /// A tracepoint. Called with locks held, so it must be quick, and must neither sleep nor call
    /// back.
    #[inline(always)]
    fn trace(&self, event: Event) {
        let _ = event;
    }
}
