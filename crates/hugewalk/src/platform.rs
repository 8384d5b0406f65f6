//! What a host supplies: table pages, huge pages, locks, TLB flushes, barriers.
//!
//! A kernel implements [`Platform`] on its frame allocator and its inter-processor interrupts; `hugewalk-host`
//! implements it on threads and a memory file; a checker implements it with a scheduling point before every access.
//! The engine calls down into the platform and never the other way round.
//!
//! # What may sleep
//!
//! Only the sleeping locks and [`Barriers::pause`] may block. Everything else is called with table locks held or inside
//! RCU sections, and must neither sleep nor call back into the engine.

use core::ops::Range;
use core::ptr::NonNull;

use lock_api::{RawMutex, RawRwLock};

use crate::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};
use crate::error::OutOfMemory;
use crate::page::Page;
use crate::rcu::Rcu;
use crate::sync::{Parker, Word};
use crate::table::Table;

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
    /// A spinning lock.
    type SpinLock: RawMutex + Send + Sync + 'static;

    /// The side that is run often: at the start of each read section. A compiler fence where the other side can reach
    /// every processor (`membarrier(2)`, an inter-processor interrupt), a full fence otherwise. Does not sleep.
    fn light(&self);

    /// The side that is run seldom: before looking for readers. Does not sleep.
    fn heavy(&self);

    /// Called in a loop that waits for other tasks to leave their read sections. May sleep.
    fn pause(&self);
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
    /// Truncation waits for the faults under way, which may have found the page to lie within the file.
    WaitForFaults,
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
}

/// A host of the engine.
///
/// # Safety
///
/// - A frame that [`alloc_table`](Self::alloc_table) returned is the caller's alone until
///   [`free_table`](Self::free_table); so is its record. The same for huge pages.
/// - [`table_entries`](Self::table_entries) and [`table_record`](Self::table_record) return, for an allocated frame,
///   always the same pointer, to memory that is aligned, large enough, overlaps nothing else, and stays mapped as long
///   as the platform exists.
/// - [`page_record`](Self::page_record) does so too, and moreover its memory is never used for anything else while the
///   platform exists, whether the page is allocated or not: the lockless lookup takes references speculatively. Until
///   the first allocation it is all-zero bytes. [`has_page_record`](Self::has_page_record) is true of such frames only.
/// - [`flush_tlb`](Self::flush_tlb) keeps what it says below.
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

    /// Depth of the tables.
    fn levels(&self) -> Levels;

    /// A fresh [`MmContext`](Self::MmContext).
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if there is no memory for it.
    fn new_context(&self) -> Result<Self::MmContext, OutOfMemory>;

    /// A table page whose entries are all zero, or `None` if there is no memory. Does not sleep.
    fn alloc_table(&self) -> Option<TableFrame>;

    /// Takes a table page back. Does not sleep.
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc_table`](Self::alloc_table), and neither a processor nor a walker reaches it any more.
    unsafe fn free_table(&self, frame: TableFrame);

    /// The entries of an allocated table page.
    fn table_entries(&self, frame: TableFrame) -> NonNull<[Self::Word; ENTRIES]>;

    /// Room for the record of an allocated table page: uninitialised until the engine writes it.
    fn table_record(&self, frame: TableFrame) -> NonNull<Table<Self>>;

    /// A huge page with any contents, or `None` if there is none. Does not sleep.
    fn alloc_huge(&self, size: HugeSize) -> Option<HugeFrame>;

    /// Takes a huge page back. Does not sleep.
    ///
    /// # Safety
    ///
    /// `frame` came from [`alloc_huge`](Self::alloc_huge) with this size, and nobody reaches its contents any more.
    unsafe fn free_huge(&self, frame: HugeFrame, size: HugeSize);

    /// The record of a huge page that was allocated at least once.
    fn page_record(&self, frame: HugeFrame) -> NonNull<Page<Self>>;

    /// Does the frame lie in the memory that huge pages are taken from, so that [`page_record`](Self::page_record) may be
    /// asked for it (whether or not it was ever allocated)? Memory failure and migration begin with a frame that somebody
    /// names. For what the host cannot vouch for it answers no, and those operations refuse it.
    ///
    /// Linux: `pfn_valid()`.
    fn has_page_record(&self, frame: HugeFrame) -> bool {
        let _ = frame;
        false
    }

    /// Fills an allocated huge page with zeroes. May be called with sleeping locks held, never in an atomic section.
    fn zero_huge(&self, frame: HugeFrame, size: HugeSize);

    /// Copies the contents of an allocated huge page to another, while processors may be reading the first.
    fn copy_huge(&self, from: HugeFrame, to: HugeFrame, size: HugeSize);

    /// Copies `into.len()` bytes out of a huge page, from `offset` bytes on. The range lies inside the page.
    fn read_huge(&self, frame: HugeFrame, offset: u64, into: &mut [u8]);

    /// Copies `from` into a huge page, from `offset` bytes on. The range lies inside the page.
    fn write_huge(&self, frame: HugeFrame, offset: u64, from: &[u8]);

    /// Fills `length` bytes of a huge page with zeroes, from `offset` on. The range lies inside the page.
    fn clear_huge(&self, frame: HugeFrame, offset: u64, length: u64);

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
