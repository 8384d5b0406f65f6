//! What a host supplies: table pages, huge pages, locks, TLB flushes, barriers.
//!
//! A kernel implements [`Platform`] on its frame allocator and its inter-processor interrupts; `hugewalk-host`
//! implements it on threads and a memory file; a checker implements it with a scheduling point before every access.
//! The engine calls down into the platform and never the other way round.
//!
//! # What may sleep
//!
//! Only the sleeping locks, [`Parker::park`] and [`Barriers::pause`] may block. Everything else is called with table locks
//! held or inside RCU sections, and must neither sleep nor call back into the engine.
//!
//! # Unwinding
//!
//! No callback may unwind: not one of [`Barriers`], [`Platform`], [`Parker`] or [`Rcu`], no lock, and no callback of an
//! [`RcuHead`](crate::rcu::RcuHead). If one does all the same, as a failed assertion in a test, the call of the engine that it was made from
//! unwinds as well. Then this holds:
//!
//! - Nothing is freed that a processor or a walker may still reach. What was to be freed after a flush that unwound, pages
//!   and tables, is never freed; nor is what an RCU callback that unwound, or one of its batch, was to free.
//! - No lock of the engine stays held, and no read section stays open.
//! - Other calls go on. A grace period whose [`Barriers::heavy`] unwound is begun anew by the next call that needs one. A page
//!   that was to move is where it was. A store to a shared page can be tried again.
//! - The operation itself may be half done: of a range some pages are unmapped or changed, and others are not. A private page
//!   that was leaked counts as mapped for good; to move that page, or to report that its memory failed, waits for ever.
//!
//! # Frames
//!
//! A frame is a number. Anybody can make one up, and nothing follows from it: what turns a frame into memory is an
//! `unsafe fn` of [`Platform`], and its caller answers for the frame. Where safe functions of the engine take a frame
//! ([`Hugetlb::migrate`](crate::Hugetlb::migrate) is one), they ask [`Platform::has_page_record`] first, and then the record.
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
//! `&'static P` and [`Arc<P>`](alloc::sync::Arc) are platforms if `P` is one. A kernel makes its system of a reference to a
//! static; a test keeps an `Arc` and looks into the platform when the system is gone.
//!
//! One platform can serve two systems, made of one kind of handle or of two, and neither acts on a page of the other's. But a
//! huge page that goes to the host from the one and comes to the other while a lockless walker of the first tries to take it
//! may be given back by the first, unless it belongs to a mount or to private mappings: the other one's counters do not know.
//! Where that matters, one platform serves one system at a time.
//!
//! # The kernel's half of an address space
//!
//! The engine's mappings lie below [`Levels::task_size`]: entries 0 to 255 of a root table, with 4 levels and with 5. The
//! engine neither reads nor writes entries 256 to 511, for as long as the root lives: they are the embedder's. A kernel fills
//! them in [`Platform::init_root`], and later where [`Mm::root_frame`](crate::mm::Mm::root_frame) says.
#![doc = include_str!("example.md")]

mod bytes;
mod handle;
mod record;

use core::ops::Range;
use core::ptr::NonNull;

use lock_api::{RawMutex, RawRwLock};

use crate::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};
use crate::error::OutOfMemory;
use crate::rcu::Rcu;
use crate::sync::{Parker, Word};

pub use self::handle::HandleRcu;
pub(crate) use self::record::fits;
pub use self::record::{PageRecord, TableRecord};

/// Entries of a table page.
pub const ENTRIES: usize = 512;

/// The barriers of an asymmetric pair, and what a waiting task does meanwhile.
///
/// # Safety
///
/// `light` on one thread and `heavy` on another must together act as a pair of sequentially consistent fences: of two
/// threads that each write, pass their barrier and read what the other wrote, at least one must see the other's write.
/// Two `heavy` barriers must do so as well; two `light` ones need not.
pub unsafe trait Barriers: Send + Sync + 'static {
    /// The atomics in use.
    type Word: Word;
    /// A spinning lock. In user space it may as well be one that sleeps, `parking_lot::RawMutex` say: nothing of the engine
    /// runs in an interrupt. At most 64 bytes.
    type SpinLock: RawMutex + Send + Sync + 'static;

    /// The side that is run often: at the start of each read section. A compiler fence where the other side can reach
    /// every processor (`membarrier(2)`, an inter-processor interrupt), a full fence otherwise. Does not sleep.
    fn light(&self);

    /// The side that is run seldom: before looking for readers. Does not sleep.
    fn heavy(&self);

    /// Called in a loop that waits for other tasks to leave their read sections. May sleep. Safe code calls
    /// [`Task::pause`](crate::Task::pause).
    ///
    /// # Safety
    ///
    /// The calling thread is in no read section and holds no spinning lock.
    unsafe fn pause(&self);
}

/// Which steps of the locking protocol are carried out. Production code uses [`Hugewalk`], which keeps them all; a
/// checker leaves steps out to show which race each of them closes.
///
/// # Safety
///
/// Each step that is left out makes safe code of this crate reach freed or foreign tables, or VMAs that are gone: the rule of
/// [`walk`](crate::walk) does not hold any more. Only a platform that makes such accesses harmless (one that never
/// reuses memory and runs one thread at a time) may implement this trait with anything but the defaults.
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

    /// Do walkers hold the VMA lock in read around their read sections? They need not; it is what Linux has done since 6.3.
    /// GUP-fast does not even then.
    #[inline(always)]
    fn walks_under_vma_lock() -> bool {
        false
    }
}

/// The steps of the protocol that [`Protocol`] can leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// P1: a table is freed after a grace period.
    RcuFree,
    /// P2: an RCU walker that has locked a table checks that its parent entry still points there.
    Revalidate,
    /// P3: a lockless reader re-reads its parent entry.
    ConfirmParent,
    /// P3: a lockless reader compares the table's generation.
    ConfirmGeneration,
    /// Unsharing counts the generation up.
    BumpGeneration,
    /// The TLB is flushed for what was unmapped or unshared.
    Flush,
    /// P3: the generation is noted first, and then the parent entry is seen to point to the table.
    NoteGenerationFirst,
    /// P3: at the end the parent entry is looked at first, and then the generation.
    ConfirmParentFirst,
    /// The generation goes up after the parent entry was cleared.
    BumpAfterClear,
    /// GUP-fast sees that the entry is what it was, after it has taken its reference to the page.
    ConfirmEntry,
    /// A parent entry is cleared under the lock of the table it points to.
    DetachLocked,
    /// What is flushed for a table that was unshared is the whole range it covers.
    FlushWholeTable,
    /// The flush comes before `i_mmap` is released.
    FlushUnderIMmap,
    /// Whether a table has one user left is asked after the count went down.
    CountThenTell,
    /// Whoever keeps a slot while it may sleep holds the VMA lock in read.
    VmaLock,
    /// Who has `i_mmap` only tries the VMA lock.
    TryVmaLock,
    /// Truncation waits for the lock of the reservations where that has the VMA lock's role.
    ReserveLock,
    /// Sharing and making a table populate a parent entry under one lock.
    PopulateLock,
    /// The entry that leads to a table is loaded once.
    LoadOnce,
    /// A VMA whose table is unshared for good is replaced in its file's tree before `i_mmap` is released.
    ExchangeUnderIMmap,
    /// A VMA that is unmapped leaves its file's tree before `i_mmap` is released.
    LeaveUnderIMmap,
    /// Nobody looks for a partner to share with who has `i_mmap` already.
    ShareWithoutIMmap,
    /// A task that waits queues first and looks then.
    QueueThenLook,
    /// The fault mutex, which is the page lock, comes before `i_mmap`.
    MutexFirst,
    /// A fault that maps a page of its own, which is in no cache, looks again whether it lies within the file.
    RecheckSize,
    /// Who waits for the lock of a VMA that nothing else keeps has a reference to the VMA. Where this is left out, the platform
    /// keeps the memory of VMAs that are gone.
    HoldVma,
    /// Who has waited for a VMA lock looks whether the VMA is still in its file's tree.
    LookAgain,
    /// Truncation keeps a VMA lock that it has waited for while it goes on.
    KeepLock,
    /// A fault that meets a migration entry sleeps until the page has arrived.
    SleepOnMigration,
}

/// The protocol of this crate, whole: RCU walks, locks revalidated, reads confirmed, tables freed after a grace period.
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
    /// The first address that user mappings cannot have: `TASK_SIZE_MAX` on x86-64.
    #[must_use]
    pub const fn task_size(self) -> VirtAddr {
        match self {
            Self::Four => VirtAddr::new((1 << 47) - 4096),
            Self::Five => VirtAddr::new((1 << 56) - 4096),
        }
    }

    /// The first address that user mappings only have if they are asked for there. Programs that keep something of their own in
    /// the upper bits of pointers know 47 bits of addresses, whatever the machine has.
    ///
    /// Linux: `DEFAULT_MAP_WINDOW`.
    #[must_use]
    pub const fn default_window(self) -> VirtAddr {
        Self::Four.task_size()
    }
}

/// What happens inside the engine that a host may want to record; the tracepoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An address space took up another's table.
    Shared {
        /// [`Mm::id`](crate::mm::Mm::id) of the address space.
        mm: u64,
        /// Start of the 1 GiB range.
        address: VirtAddr,
        /// How many address spaces use the table now.
        users: u64,
    },
    /// An address space gave its use of a shared table up.
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
        /// Tables unshared since the flush before.
        unshared: u64,
        /// Of these, tables that have one user left.
        last: u64,
    },
    /// A table was handed to RCU to be freed.
    TableRetired {
        /// [`Mm::id`](crate::mm::Mm::id) of the address space.
        mm: u64,
    },
    /// A page was to be taken out of all entries, or all its migration entries were to be ended, and after many rounds there
    /// are still some: a fault in this crate. It goes on as best it can. Linux: `VM_WARN_ON_ONCE_FOLIO()`.
    StillMapped {
        /// The page.
        frame: HugeFrame,
    },
}

/// How many rounds are made over the entries of a page before [`Event::StillMapped`].
pub(crate) const ROUNDS: u32 = 10_000;

/// A host of the engine.
///
/// # Safety
///
/// - A frame that [`alloc_table`](Self::alloc_table) returned is the caller's alone until
///   [`free_table`](Self::free_table); so is its record. The same for huge pages.
/// - A frame fits into an entry: its number is below [`FRAMES`](crate::addr::FRAMES). That of a huge page is a multiple of the
///   page's size ([`HugeFrame::fits`]). Frame 0 is as good as any other.
/// - The entries of a table that [`alloc_table`](Self::alloc_table) returned are zero.
/// - [`table_entries`](Self::table_entries) and [`table_record`](Self::table_record) return, for an allocated frame,
///   always the same pointer, to memory that overlaps nothing else, and stays mapped as long as the platform exists. Entries
///   are aligned to 4096 bytes where a processor walks them, to a [`Word`] elsewhere.
/// - [`page_record`](Self::page_record) does so too, and moreover its memory is never used for anything else while the
///   platform exists, whether the page is allocated or not: the lockless lookup takes references speculatively. Until
///   the first allocation it is all-zero bytes. [`has_page_record`](Self::has_page_record) is true of such frames only.
/// - [`huge_bytes`](Self::huge_bytes) keeps what it says below, and so does [`flush_tlb`](Self::flush_tlb).
/// - The locks are locks, and [`Barriers`] are barriers.
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
    /// What the host keeps for each address space: processor mask, TLB generation, ASID. Linux: `mm_context_t`.
    type MmContext: Send + Sync + 'static;

    /// Depth of the tables. Always the same.
    fn levels(&self) -> Levels;

    /// The lowest address that may be mapped, so that a null pointer never leads to memory: 64 KiB. A host may let privileged
    /// processes go lower, down to 0, and then says so here.
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

    /// A table page whose entries are all zero, or `None` if there is no memory. Does not sleep.
    fn alloc_table(&self) -> Option<TableFrame>;

    /// Takes a table page back. Does not sleep. Entries 256 to 511 of a root are what the embedder left there.
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc_table`](Self::alloc_table), and neither a processor nor a walker reaches it any more.
    unsafe fn free_table(&self, frame: TableFrame);

    /// Called once for each address space, with its new root table, before anything reaches the table: where a kernel
    /// copies its own half of the address space. It may write entries 256 to 511 and no others. Does nothing by default.
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
    /// `frame` came from [`alloc_table`](Self::alloc_table) and was not given back. (The lockless lookup calls this inside a
    /// read section, before it knows whether the table is still part of the tree: P1 keeps it allocated.)
    unsafe fn table_entries(&self, frame: TableFrame) -> NonNull<[Self::Word; ENTRIES]>;

    /// Room for the record of a table page: uninitialised until the engine writes it.
    ///
    /// # Safety
    ///
    /// As for [`table_entries`](Self::table_entries).
    unsafe fn table_record(&self, frame: TableFrame) -> NonNull<TableRecord>;

    /// A huge page with any contents, or `None` if there is none. Does not sleep.
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

    /// Does the frame lie in the memory that huge pages are taken from, so that [`page_record`](Self::page_record) may be
    /// asked for it (whether or not it was ever allocated)? Any number may be asked for: memory failure and migration begin
    /// with a frame that somebody names. They refuse frames for which the answer is no.
    ///
    /// Linux: `pfn_valid()`.
    fn has_page_record(&self, frame: HugeFrame) -> bool;

    /// Where the contents of a huge page are mapped, all of them, from their first byte on; aligned to 8 bytes at least.
    /// Rust code reaches them by atomics and raw memory only, since processors reach them too.
    ///
    /// The five methods below use it. A platform that answers `None` keeps no contents (then these five forget what is
    /// written, and read zeroes), or it has its own way to reach them and overrides all five.
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

    /// Copies the contents of a huge page to another, while processors may be reading the first.
    ///
    /// # Safety
    ///
    /// As for [`zero_huge`](Self::zero_huge), of both; they are two.
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

    /// When it returns, no processor uses a translation of `range` in this address space, or a table it cached on the
    /// way, that was looked up before the call; no access through such a translation is still under way.
    /// Called with table locks and sleeping locks held. Does not sleep.
    fn flush_tlb(&self, context: &Self::MmContext, range: Range<VirtAddr>);

    /// A tracepoint. Called with locks held: must be quick, must not sleep or call back.
    #[inline(always)]
    fn trace(&self, event: Event) {
        let _ = event;
    }
}
