//! The platform itself: one machine of threads and reserved memory.

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use std::io;
use std::os::fd::BorrowedFd;

use hugewalk::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};
use hugewalk::arch::{Entry, Leaf, LeafFlags, Paging, X86_64};
use hugewalk::error::{MemoryError, OutOfMemory};
use hugewalk::platform::{
    Barriers, Contents as PageContents, Event, Flush, Limits, Locks, Notify, PageRecord, Pages, Platform,
    TableRecord, Tables, Tlb, Trace,
};
use hugewalk::rcu::EpochRcu;
use thiserror::Error;

use crate::SpinLock;
use crate::arena::{self, HugeArena};
use crate::barriers::BarrierPair;
use crate::budget::Budget;
use crate::config::{Contents, HostConfig};
use crate::contents::{Memory, MemoryFile};
use crate::context::MmContext;
use crate::events::{EventCounts, Tracer};
use crate::pause::pause;
use crate::reserve::Reservation;
use crate::tables::TableArena;
use crate::task::OnePerThread;

/// A host in user space, whose processors walk tables of a format. The [crate](crate)'s documentation says what it consists
/// of.
pub struct Host<F: Paging = X86_64> {
    paging: F,
    notes_use: bool,
    mmap_min_addr: VirtAddr,
    barriers: BarrierPair,
    tables: TableArena<TableRecord, F>,
    huge: HugeArena,
    memory: Memory,
    page_records: Reservation,
    tracer: Tracer,
    budgets: Budgets,
}

struct Budgets {
    tables: Budget,
    huge: Budget,
    contexts: Budget,
}

/// Why a host could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HostError {
    /// The address space for the table pages could not be reserved, or its size is not a valid
    /// number.
    #[error("cannot reserve address space for {tables} page tables: {source}")]
    Tables {
        /// How many were asked for.
        tables: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The memory file, its address space, or the records of its pages could not be made.
    #[error("cannot reserve {bytes} bytes of huge pages: {source}")]
    HugePages {
        /// How many were asked for.
        bytes: u64,
        /// What the system said.
        source: io::Error,
    },
}

/// What a host has in use: for statistics, and for leak checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Page tables.
    pub tables: u64,
    /// The most page tables there ever were.
    pub tables_peak: u64,
    huge: [u64; HugeSize::MOST],
}

impl Usage {
    /// Huge pages of this size.
    #[must_use]
    pub fn huge(&self, size: HugeSize) -> u64 {
        self.huge.get(size.index()).copied().unwrap_or(0)
    }

    /// Huge pages of all sizes.
    #[must_use]
    pub fn all_huge(&self) -> u64 {
        self.huge.iter().sum()
    }
}

impl<F: Paging> Host<F> {
    /// A host with nothing in use.
    ///
    /// # Errors
    ///
    /// [`HostError`] if the system has no address space or no memory file of the size asked for.
    pub fn new(config: &HostConfig<F>) -> Result<Self, HostError> {
        let (tables, bytes, paging) = (config.max_tables, config.huge_bytes, config.paging);
        let no_tables = |source| HostError::Tables { tables, source };
        let no_huge_pages = |source| HostError::HugePages { bytes, source };
        let smallest = smallest(&paging);
        let bytes = smallest.round_down(bytes);
        // An entry has to have room for each frame.
        if arena::last(bytes, smallest).is_some_and(|frame| !can_name(&paging, frame, smallest)) {
            return Err(no_huge_pages(io::ErrorKind::InvalidInput.into()));
        }
        let record_bytes = (bytes >> smallest.shift()) * size_of::<PageRecord>() as u64;
        Ok(Self {
            paging,
            notes_use: config.notes_use,
            mmap_min_addr: VirtAddr::new(config.mmap_min_addr),
            barriers: BarrierPair::new(config.membarrier),
            tables: TableArena::new(paging, tables).map_err(no_tables)?,
            huge: HugeArena::new(bytes, paging.leaves()).map_err(|error| no_huge_pages(error.into()))?,
            memory: match config.contents {
                Contents::Memory => Memory::File(MemoryFile::new(bytes, smallest).map_err(no_huge_pages)?),
                Contents::Nothing => Memory::Nothing,
            },
            page_records: Reservation::anonymous(record_bytes).map_err(no_huge_pages)?,
            tracer: Tracer::new(config.tracing),
            budgets: Budgets {
                tables: Budget::unlimited(),
                huge: Budget::unlimited(),
                contexts: Budget::unlimited(),
            },
        })
    }

    /// Do read sections pass only a compiler fence? They do if `membarrier(2)` exists and is
    /// allowed.
    #[must_use]
    pub fn uses_membarrier(&self) -> bool {
        self.barriers.is_expedited()
    }

    /// What is in use.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let (tables, tables_peak) = self.tables.usage();
        let mut huge = [0; HugeSize::MOST];
        for (count, &size) in huge.iter_mut().zip(self.paging.leaves()) {
            *count = self.huge.in_use(size);
        }
        Usage { tables, tables_peak, huge }
    }

    /// The memory file that holds all huge pages, if they have contents. A virtual machine can map
    /// it.
    #[must_use]
    pub fn memory_file(&self) -> Option<BorrowedFd<'_>> {
        match &self.memory {
            Memory::File(memory) => Some(memory.file()),
            Memory::Nothing => None,
        }
    }

    /// Where a huge page lies in the [memory file](Self::memory_file).
    #[must_use]
    pub fn file_offset(&self, frame: HugeFrame) -> u64 {
        arena::offset(frame)
    }

    /// Lets that many more page tables be allocated, and none after them until the next call. All
    /// of them if `None`.
    pub fn fail_tables_after(&self, allocations: Option<u64>) {
        self.budgets.tables.set(allocations);
    }

    /// Lets that many more huge pages be allocated, and none after them until the next call. All of
    /// them if `None`.
    pub fn fail_huge_after(&self, allocations: Option<u64>) {
        self.budgets.huge.set(allocations);
    }

    /// Lets that many more address spaces be made, and none after them until the next call. All of
    /// them if `None`.
    pub fn fail_contexts_after(&self, allocations: Option<u64>) {
        self.budgets.contexts.set(allocations);
    }

    /// How often each tracepoint was passed, if the host counts them.
    #[must_use]
    pub fn event_counts(&self) -> EventCounts {
        self.tracer.counts()
    }

    /// The events since the last call, oldest first, if the host records them.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        self.tracer.take()
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Do the processors note accesses in the entries?
    pub(crate) fn notes_use(&self) -> bool {
        self.notes_use
    }
}

/// The smallest size of huge page. Each format has one.
#[inline]
pub(crate) fn smallest<F: Paging>(paging: &F) -> HugeSize {
    paging.leaves().first().copied().unwrap_or(X86_64::SIZE_2M)
}

fn can_name<F: Paging>(paging: &F, frame: HugeFrame, size: HugeSize) -> bool {
    let leaf = Entry::Leaf(Leaf { frame, flags: LeafFlags::ACCESS });
    frame.fits(size) && paging.decode(paging.encode(leaf, size, 0, paging.ordinary()), size.level()) == leaf
}

impl<F: Paging> fmt::Debug for Host<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("paging", &self.paging)
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

// SAFETY: `BarrierPair` is such a pair; `barriers.rs` says why.
unsafe impl<F: Paging> Barriers for Host<F> {
    type Word = AtomicU64;
    type SpinLock = SpinLock;

    #[inline(always)]
    fn light(&self) {
        self.barriers.light();
    }

    fn heavy(&self) {
        self.barriers.heavy();
    }

    unsafe fn pause(&self) {
        pause();
    }
}

// SAFETY:
// - Frames: by the invariants of `TableArena` and `HugeArena` a frame has one owner at a time. Pages, records and
//   contents of different frames are different parts of ranges that stay mapped until the host is dropped.
// - A page record is found by its frame alone, in a range that serves nothing else and starts out as zeroes.
// - `flush_tlb`: the only processors of this host are its soft CPUs; `context.rs` says why none uses an old translation.
// - The locks are those of `parking_lot` and `spin`.
unsafe impl<F: Paging> Tables for Host<F> {
    type Paging = F;
    #[inline]
    fn paging(&self) -> F {
        self.paging
    }
    fn alloc_table(&self) -> Option<TableFrame> {
        if self.budgets.tables.spend() { self.tables.alloc() } else { None }
    }
    unsafe fn free_table(&self, frame: TableFrame) {
        // SAFETY: passed on to the caller.
        unsafe { self.tables.free(frame) };
    }
    #[inline]
    unsafe fn table_entries(&self, frame: TableFrame) -> NonNull<AtomicU64> {
        // SAFETY: passed on to the caller.
        unsafe { self.tables.entries(frame) }
    }
    #[inline]
    unsafe fn table_entry(&self, frame: TableFrame, index: usize) -> NonNull<AtomicU64> {
        // SAFETY: passed on to the caller.
        unsafe { self.tables.entry(frame, index) }
    }
    #[inline]
    unsafe fn table_record(&self, frame: TableFrame) -> NonNull<TableRecord> {
        // SAFETY: passed on to the caller.
        unsafe { self.tables.record(frame) }
    }
}

// SAFETY: a huge page is handed out once until it is given back, and its record stays.
unsafe impl<F: Paging> Pages for Host<F> {
    fn alloc_huge(&self, size: HugeSize) -> Option<HugeFrame> {
        if self.budgets.huge.spend() { self.huge.alloc(size) } else { None }
    }
    unsafe fn free_huge(&self, frame: HugeFrame, size: HugeSize) {
        self.huge.free(frame, size);
    }
    #[inline]
    unsafe fn page_record(&self, frame: HugeFrame) -> NonNull<PageRecord> {
        let place = arena::unit(frame, smallest(&self.paging)).wrapping_mul(size_of::<PageRecord>());
        // SAFETY: by the contract of this function the arena has the frame, and there is a record
        // for each of its frames.
        unsafe { self.page_records.at(place) }.cast()
    }
    fn has_page_record(&self, frame: HugeFrame) -> bool {
        self.huge.contains(frame)
    }
}

// SAFETY: the address is that of the page.
unsafe impl<F: Paging> PageContents for Host<F> {
    // The five methods below do not use `huge_bytes`: they remember which pages are still zero, and
    // move whole pages with the processor's string instructions.
    unsafe fn huge_bytes(&self, _: HugeFrame) -> Option<NonNull<u8>> {
        None
    }
    unsafe fn zero_huge(&self, frame: HugeFrame, size: HugeSize) {
        if let Memory::File(memory) = &self.memory {
            memory.zero(frame, size);
        }
    }
    unsafe fn copy_huge(&self, from: HugeFrame, to: HugeFrame, size: HugeSize) -> Result<(), MemoryError> {
        if let Memory::File(memory) = &self.memory {
            memory.copy(from, to, size);
        }
        Ok(())
    }
    unsafe fn read_huge(&self, frame: HugeFrame, offset: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        match &self.memory {
            Memory::File(memory) => memory.read(frame, offset, into),
            Memory::Nothing => into.fill(0),
        }
        Ok(())
    }
    unsafe fn write_huge(&self, frame: HugeFrame, offset: u64, from: &[u8]) {
        if let Memory::File(memory) = &self.memory {
            memory.write(frame, offset, from);
        }
    }
    unsafe fn clear_huge(&self, frame: HugeFrame, offset: u64, length: u64) {
        if let Memory::File(memory) = &self.memory {
            memory.clear(frame, offset, length);
        }
    }
}

// SAFETY: the locks exclude as locks do.
unsafe impl<F: Paging> Locks for Host<F> {
    type TableLock = SpinLock;
    type SleepMutex = parking_lot::RawMutex;
    type SleepRwLock = parking_lot::RawRwLock;
    type Parker = crate::park::Park;
    type Rcu = OnePerThread<EpochRcu<Self>>;
}

// SAFETY: a flush returns when no processor uses what it names any more.
unsafe impl<F: Paging> Tlb for Host<F> {
    type MmContext = MmContext;
    fn new_context(&self) -> Result<MmContext, OutOfMemory> {
        if self.budgets.contexts.spend() { Ok(MmContext::new()) } else { Err(OutOfMemory) }
    }
    #[inline]
    fn flush_tlb(&self, context: &MmContext, _: Flush) {
        context.flush(self);
    }
}

impl<F: Paging> Notify for Host<F> {}

impl<F: Paging> Trace for Host<F> {
    #[inline(always)]
    fn trace(&self, event: Event) {
        self.tracer.trace(event);
    }
}

impl<F: Paging> Limits for Host<F> {
    type Charge = core::convert::Infallible;
    fn mmap_min_addr(&self) -> VirtAddr {
        self.mmap_min_addr
    }
}

// SAFETY: the parts above are those of one platform.
unsafe impl<F: Paging> Platform for Host<F> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terabyte_of_pages_without_contents_is_cheap() {
        let config = HostConfig::new().huge_bytes(1 << 40).contents(Contents::Nothing);
        let host = Host::new(&config).unwrap();
        let frames: Vec<_> = std::iter::from_fn(|| host.alloc_huge(X86_64::SIZE_2M)).collect();
        assert_eq!(frames.len(), 524_288);
        // SAFETY: allocated above.
        let records = frames.iter().map(|&frame| unsafe { host.page_record(frame) });
        assert!(records.is_sorted_by(|a, b| a.addr().get() + size_of::<PageRecord>() <= b.addr().get()));
        let mut byte = [9];
        // SAFETY: allocated above; one byte lies inside.
        unsafe { host.write_huge(frames[7], 0, &[1]) };
        // SAFETY: likewise.
        unsafe { host.read_huge(frames[7], 0, &mut byte) }.unwrap();
        assert_eq!(byte, [0]);
        for frame in frames {
            // SAFETY: allocated above with this size, and has no contents.
            unsafe { host.free_huge(frame, X86_64::SIZE_2M) };
        }
        assert_eq!(host.usage().huge(X86_64::SIZE_2M), 0);
    }

    #[test]
    fn allocations_fail_when_they_are_told_to() {
        let host = Host::new(&HostConfig::new().huge_bytes(1 << 30)).unwrap();
        host.fail_tables_after(Some(1));
        host.fail_huge_after(Some(0));
        host.fail_contexts_after(Some(0));
        assert!(host.alloc_table().is_some());
        assert!(host.alloc_table().is_none());
        assert!(host.alloc_huge(X86_64::SIZE_2M).is_none());
        assert!(host.new_context().is_err());
        host.fail_tables_after(None);
        assert!(host.alloc_table().is_some());
        assert_eq!(host.usage().tables, 2);
    }

    #[test]
    fn more_than_an_entry_can_name_is_refused() {
        let config = HostConfig::new().huge_bytes(1 << 52).contents(Contents::Nothing);
        assert!(matches!(Host::new(&config), Err(HostError::HugePages { .. })));
        let config = HostConfig::new().max_tables(u64::MAX);
        assert!(matches!(Host::new(&config), Err(HostError::Tables { .. })));
    }
}
