//! The checks themselves: each method of the platform, and what must hold for its result.

use core::ops::Range;
use core::panic::Location;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use hugewalk::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};
use hugewalk::arch::{Barrier, Paging};
use hugewalk::error::{LimitReached, MemoryError, OutOfMemory};
use hugewalk::platform::{
    Barriers, Contents, Event, Flush, Invalidation, Limits, Locks, Notify, PageRecord, Pages, Platform,
    TableRecord, Tables, Tlb, Trace,
};
use hugewalk::sync::{Parker, Word};

use super::Checked;
use super::locks::{WatchedMutex, WatchedRwLock, WatchedSpin};
use super::memory::What;
use super::rcu::WatchedRcu;
use super::report::Finding;
use super::thread::{Callback, may_sleep_in, works_on};
use crate::OnePerThread;

/// How many bytes at each end of a page are checked after it was zeroed or copied.
const SAMPLE: usize = 64;

/// Where a task of a checked platform sleeps.
#[derive(Debug)]
pub struct WatchedParker<K>(pub(super) K);

// SAFETY: it passes everything on to the parker inside.
unsafe impl<K: Parker> Parker for WatchedParker<K> {
    fn new() -> Self {
        Self(K::new())
    }
    #[track_caller]
    fn park(&self) {
        may_sleep_in("park", Location::caller());
        self.0.park();
    }
    fn unpark(&self) {
        self.0.unpark();
    }
    fn is_killed(&self) -> bool {
        self.0.is_killed()
    }
    fn is_interrupted(&self) -> bool {
        self.0.is_interrupted()
    }
}

impl<P: Platform> Checked<P> {
    fn enter(&self, name: &'static str, caller: &'static Location<'static>) -> Callback {
        works_on(&self.ledger);
        Callback::enter(name, caller)
    }

    fn found(&self, finding: Finding, call: &'static str, caller: &'static Location<'static>) {
        self.ledger.log.add(finding, call, caller);
    }

    /// Checks an address that the platform returned. Returns that address if it has not changed,
    /// otherwise the one before.
    fn placed<T>(
        &self,
        what: What,
        frame: u64,
        at: NonNull<T>,
        call: &'static str,
        caller: &'static Location<'static>,
    ) -> NonNull<T> {
        let layout = (size_of::<T>(), align_of::<T>());
        self.placed_as(what, frame, at, layout, call, caller)
    }

    /// As [`placed`](Self::placed), for the entries of a table page.
    fn placed_entries(
        &self,
        frame: TableFrame,
        at: NonNull<P::Word>,
        call: &'static str,
        caller: &'static Location<'static>,
    ) -> NonNull<P::Word> {
        let layout = (size_of::<P::Word>() * self.entries(), align_of::<P::Word>());
        self.placed_as(What::Entries, frame.0, at, layout, call, caller)
    }

    /// Entries of a table page.
    fn entries(&self) -> usize {
        1 << self.platform.paging().geometry().index_bits
    }

    fn placed_as<T>(
        &self,
        what: What,
        frame: u64,
        at: NonNull<T>,
        layout: (usize, usize),
        call: &'static str,
        caller: &'static Location<'static>,
    ) -> NonNull<T> {
        match self.memory.place(what, frame, at.addr().get(), layout) {
            Ok(()) => at,
            Err((before, finding)) => {
                self.found(finding, call, caller);
                // The engine keeps its data at the address before.
                before.and_then(|before| Some(at.with_addr(before.try_into().ok()?))).unwrap_or(at)
            }
        }
    }

    /// Checks the address of a page's contents.
    fn contents_at(
        &self,
        frame: HugeFrame,
        at: NonNull<u8>,
        call: &'static str,
        caller: &'static Location<'static>,
    ) {
        let length = self.memory.size_of(frame).bytes() as usize;
        if let Err((_, finding)) = self.memory.place(What::Contents, frame.0, at.addr().get(), (length, 8)) {
            self.found(finding, call, caller);
        }
    }

    /// The bytes at both ends of a page.
    fn ends(&self, frame: HugeFrame, size: HugeSize) -> Result<[u8; 2 * SAMPLE], MemoryError> {
        let mut bytes = [0; 2 * SAMPLE];
        let (head, tail) = bytes.split_at_mut(SAMPLE);
        // SAFETY: passed on to the caller, which answers for the frame and the size. The bytes lie
        // inside the page.
        unsafe { self.platform.read_huge(frame, 0, head) }?;
        // SAFETY: likewise.
        unsafe { self.platform.read_huge(frame, size.bytes() - SAMPLE as u64, tail) }?;
        Ok(bytes)
    }
}

// SAFETY: the barriers are those of the platform.
unsafe impl<P: Platform> Barriers for Checked<P> {
    type Word = P::Word;
    type SpinLock = WatchedSpin<P::SpinLock>;

    fn light(&self) {
        self.platform.light();
    }

    #[track_caller]
    fn heavy(&self) {
        let _inside = self.enter("heavy", Location::caller());
        self.platform.heavy();
    }

    #[track_caller]
    unsafe fn pause(&self) {
        may_sleep_in("pause", Location::caller());
        works_on(&self.ledger);
        // SAFETY: passed on to the caller.
        unsafe { self.platform.pause() };
    }
}

// SAFETY: everything is passed on to the platform. Results that break its contract are kept from
// the engine, as far as the checks see them.
unsafe impl<P: Platform> Tables for Checked<P> {
    type Paging = P::Paging;
    #[track_caller]
    fn paging(&self) -> P::Paging {
        let _inside = self.enter("paging", Location::caller());
        self.platform.paging()
    }
    #[track_caller]
    fn alloc_table(&self) -> Option<TableFrame> {
        let (call, caller) = ("alloc_table", Location::caller());
        may_sleep_in(call, caller);
        let _inside = self.enter(call, caller);
        let frame = self.platform.alloc_table()?;
        if let Err(finding) = self.memory.add_table(frame) {
            self.found(finding, call, caller);
            return None;
        }
        // SAFETY: allocated just now.
        let entries = unsafe { self.platform.table_entries(frame) };
        let entries = self.placed_entries(frame, entries, call, caller);
        let entries = NonNull::slice_from_raw_parts(entries, self.entries());
        // SAFETY: the table is new, so nothing else reaches it; entries are atomics, and so many are in a page.
        let entries = unsafe { entries.as_ref() };
        let dirty = entries
            .iter()
            .map(|entry| entry.load(Ordering::Relaxed))
            .enumerate()
            .find(|&(_, bits)| bits != 0);
        if let Some((index, entry)) = dirty {
            self.found(Finding::TableNotZero { frame, index, entry }, call, caller);
            entries.iter().for_each(|entry| entry.store(0, Ordering::Relaxed));
        }
        Some(frame)
    }
    #[track_caller]
    unsafe fn free_table(&self, frame: TableFrame) {
        let _inside = self.enter("free_table", Location::caller());
        // Before it can be handed out again.
        self.memory.remove_table(frame);
        // SAFETY: passed on to the caller.
        unsafe { self.platform.free_table(frame) };
    }
    #[track_caller]
    unsafe fn init_root(&self, root: TableFrame) {
        let (call, caller) = ("init_root", Location::caller());
        let _inside = self.enter(call, caller);
        // SAFETY: passed on to the caller.
        unsafe { self.platform.init_root(root) };
        // SAFETY: likewise.
        let entries = unsafe { self.platform.table_entries(root) };
        let paging = self.platform.paging();
        let geometry = paging.geometry();
        // Those of user addresses are the engine's.
        let last = paging.task_size().as_u64() - 1;
        let own = geometry.index(last, geometry.root()) + 1;
        let entries = NonNull::slice_from_raw_parts(entries, own);
        // SAFETY: nothing else reaches the root yet; entries are atomics.
        let entries = unsafe { entries.as_ref() };
        for (index, entry) in entries.iter().enumerate() {
            let bits = entry.swap(0, Ordering::Relaxed);
            if bits != 0 {
                self.found(Finding::TableNotZero { frame: root, index, entry: bits }, call, caller);
            }
        }
    }
    #[track_caller]
    unsafe fn table_entries(&self, frame: TableFrame) -> NonNull<P::Word> {
        let (call, caller) = ("table_entries", Location::caller());
        let _inside = self.enter(call, caller);
        // SAFETY: passed on to the caller.
        let entries = unsafe { self.platform.table_entries(frame) };
        self.placed_entries(frame, entries, call, caller)
    }
    #[track_caller]
    unsafe fn table_entry(&self, frame: TableFrame, index: usize) -> NonNull<P::Word> {
        let (call, caller) = ("table_entry", Location::caller());
        let _inside = self.enter(call, caller);
        // SAFETY: passed on to the caller.
        let entry = unsafe { self.platform.table_entry(frame, index) };
        // Where the table page begins, if this is the entry that was asked for.
        let Some(entries) = NonNull::new(entry.as_ptr().wrapping_sub(index)) else { return entry };
        let entries = self.placed_entries(frame, entries, call, caller);
        NonNull::new(entries.as_ptr().wrapping_add(index)).unwrap_or(entry)
    }
    #[track_caller]
    unsafe fn table_record(&self, frame: TableFrame) -> NonNull<TableRecord> {
        let (call, caller) = ("table_record", Location::caller());
        let _inside = self.enter(call, caller);
        // SAFETY: passed on to the caller.
        let record = unsafe { self.platform.table_record(frame) };
        self.placed(What::TableRecord, frame.0, record, call, caller)
    }
}

// SAFETY: a huge page is handed out once until it is given back, and its record stays.
unsafe impl<P: Platform> Pages for Checked<P> {
    #[track_caller]
    fn alloc_huge(&self, size: HugeSize) -> Option<HugeFrame> {
        let (call, caller) = ("alloc_huge", Location::caller());
        may_sleep_in(call, caller);
        let _inside = self.enter(call, caller);
        let frame = self.platform.alloc_huge(size)?;
        let is_new = match self.memory.add_page(frame, size) {
            Ok(is_new) => is_new,
            Err(finding) => {
                self.found(finding, call, caller);
                return None;
            }
        };
        if !self.platform.has_page_record(frame) {
            self.found(Finding::NoRecord { frame }, call, caller);
        }
        // SAFETY: allocated just now.
        let record = unsafe { self.platform.page_record(frame) };
        let record = self.placed(What::PageRecord, frame.0, record, call, caller);
        let is_zero = || {
            // SAFETY: the page was never allocated before, so no system uses it.
            let bytes = unsafe { record.cast::<[u8; size_of::<PageRecord>()]>().as_ref() };
            bytes.iter().all(|&byte| byte == 0)
        };
        if is_new && !is_zero() {
            self.found(Finding::RecordNotZero { frame }, call, caller);
        }
        // SAFETY: allocated just now.
        if let Some(bytes) = unsafe { self.platform.huge_bytes(frame) } {
            self.contents_at(frame, bytes, call, caller);
        }
        Some(frame)
    }
    #[track_caller]
    unsafe fn free_huge(&self, frame: HugeFrame, size: HugeSize) {
        let _inside = self.enter("free_huge", Location::caller());
        // Before it can be handed out again.
        self.memory.remove_page(frame);
        // SAFETY: passed on to the caller.
        unsafe { self.platform.free_huge(frame, size) };
    }
    #[track_caller]
    unsafe fn page_record(&self, frame: HugeFrame) -> NonNull<PageRecord> {
        let (call, caller) = ("page_record", Location::caller());
        let _inside = self.enter(call, caller);
        // SAFETY: passed on to the caller.
        let record = unsafe { self.platform.page_record(frame) };
        self.placed(What::PageRecord, frame.0, record, call, caller)
    }
    #[track_caller]
    fn has_page_record(&self, frame: HugeFrame) -> bool {
        let _inside = self.enter("has_page_record", Location::caller());
        self.platform.has_page_record(frame)
    }
}

// SAFETY: the address is that of the page.
unsafe impl<P: Platform> Contents for Checked<P> {
    #[track_caller]
    unsafe fn huge_bytes(&self, frame: HugeFrame) -> Option<NonNull<u8>> {
        let (call, caller) = ("huge_bytes", Location::caller());
        let _inside = self.enter(call, caller);
        // SAFETY: passed on to the caller.
        let bytes = unsafe { self.platform.huge_bytes(frame) }?;
        self.contents_at(frame, bytes, call, caller);
        Some(bytes)
    }
    #[track_caller]
    unsafe fn zero_huge(&self, frame: HugeFrame, size: HugeSize) {
        let (call, caller) = ("zero_huge", Location::caller());
        may_sleep_in(call, caller);
        let _inside = self.enter(call, caller);
        // SAFETY: passed on to the caller.
        unsafe { self.platform.zero_huge(frame, size) };
        // Nothing maps the page yet, so nothing else writes to it.
        if self.ends(frame, size).is_ok_and(|ends| ends != [0; 2 * SAMPLE]) {
            self.found(Finding::WrongContents { frame }, call, caller);
        }
    }
    #[track_caller]
    unsafe fn copy_huge(&self, from: HugeFrame, to: HugeFrame, size: HugeSize) -> Result<(), MemoryError> {
        let (call, caller) = ("copy_huge", Location::caller());
        may_sleep_in(call, caller);
        let _inside = self.enter(call, caller);
        let before = self.ends(from, size);
        // SAFETY: passed on to the caller.
        unsafe { self.platform.copy_huge(from, to, size) }?;
        // A processor may still write to the first page. Then the contents cannot be compared.
        if before.is_ok() && before == self.ends(from, size) && self.ends(to, size) != before {
            self.found(Finding::WrongContents { frame: to }, call, caller);
        }
        Ok(())
    }
    #[track_caller]
    unsafe fn read_huge(&self, frame: HugeFrame, offset: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let _inside = self.enter("read_huge", Location::caller());
        // SAFETY: passed on to the caller.
        unsafe { self.platform.read_huge(frame, offset, into) }
    }
    #[track_caller]
    unsafe fn write_huge(&self, frame: HugeFrame, offset: u64, from: &[u8]) {
        let _inside = self.enter("write_huge", Location::caller());
        // SAFETY: passed on to the caller.
        unsafe { self.platform.write_huge(frame, offset, from) };
    }
    #[track_caller]
    unsafe fn clear_huge(&self, frame: HugeFrame, offset: u64, length: u64) {
        let _inside = self.enter("clear_huge", Location::caller());
        // SAFETY: passed on to the caller.
        unsafe { self.platform.clear_huge(frame, offset, length) };
    }
}

// SAFETY: the locks exclude as locks do.
unsafe impl<P: Platform> Locks for Checked<P> {
    type TableLock = WatchedSpin<P::TableLock>;
    type SleepMutex = WatchedMutex<P::SleepMutex>;
    type SleepRwLock = WatchedRwLock<P::SleepRwLock>;
    type Parker = WatchedParker<P::Parker>;
    // With this, `hugewalk_host::task` works for every platform that is checked.
    type Rcu = OnePerThread<WatchedRcu<P::Rcu>>;
    // The locks are watched, so readers have to come to them.
    fn reader_bias() -> bool {
        false
    }
}

// SAFETY: a flush returns when no processor uses what it names any more.
unsafe impl<P: Platform> Tlb for Checked<P> {
    type MmContext = P::MmContext;
    #[track_caller]
    fn new_context(&self) -> Result<P::MmContext, OutOfMemory> {
        let _inside = self.enter("new_context", Location::caller());
        self.platform.new_context()
    }
    #[track_caller]
    fn flush_tlb(&self, context: &P::MmContext, flush: Flush) {
        let _inside = self.enter("flush_tlb", Location::caller());
        self.platform.flush_tlb(context, flush);
    }
    #[track_caller]
    fn entry_stored(&self, context: &P::MmContext, address: VirtAddr, size: HugeSize, due: Barrier) {
        let _inside = self.enter("entry_stored", Location::caller());
        self.platform.entry_stored(context, address, size, due);
    }
    #[track_caller]
    fn before_execution(&self, frame: HugeFrame, size: HugeSize) {
        let _inside = self.enter("before_execution", Location::caller());
        self.platform.before_execution(frame, size);
    }
}

impl<P: Platform> Notify for Checked<P> {
    #[track_caller]
    fn handler_called(&self, context: &P::MmContext) {
        let _inside = self.enter("handler_called", Location::caller());
        self.platform.handler_called(context);
    }
    #[track_caller]
    fn file_freed(&self, file: u64) {
        let _inside = self.enter("file_freed", Location::caller());
        self.platform.file_freed(file);
    }
    #[track_caller]
    fn has_secondary_mmus(&self, context: &P::MmContext) -> bool {
        let _inside = self.enter("has_secondary_mmus", Location::caller());
        self.platform.has_secondary_mmus(context)
    }
    #[track_caller]
    fn invalidate_range_start(
        &self,
        context: &P::MmContext,
        range: &Range<VirtAddr>,
        why: Invalidation,
        may_block: bool,
    ) {
        let (call, caller) = ("invalidate_range_start", Location::caller());
        // Also if it may not block: no spinning lock is held, whatever holds.
        may_sleep_in(call, caller);
        let _inside = self.enter(call, caller);
        self.platform.invalidate_range_start(context, range, why, may_block);
    }
    #[track_caller]
    fn invalidate_range_end(&self, context: &P::MmContext, range: &Range<VirtAddr>, why: Invalidation) {
        let (call, caller) = ("invalidate_range_end", Location::caller());
        may_sleep_in(call, caller);
        let _inside = self.enter(call, caller);
        self.platform.invalidate_range_end(context, range, why);
    }
}

impl<P: Platform> Trace for Checked<P> {
    #[track_caller]
    fn trace(&self, event: Event) {
        let _inside = self.enter("trace", Location::caller());
        self.platform.trace(event);
    }
}

impl<P: Platform> Limits for Checked<P> {
    type Charge = P::Charge;
    #[track_caller]
    fn try_charge(&self, size: HugeSize, pages: u64) -> Result<Option<P::Charge>, LimitReached> {
        let (call, caller) = ("try_charge", Location::caller());
        may_sleep_in(call, caller);
        let _inside = self.enter(call, caller);
        self.platform.try_charge(size, pages)
    }
    #[track_caller]
    fn uncharge(&self, charge: P::Charge, size: HugeSize, pages: u64) {
        let _inside = self.enter("uncharge", Location::caller());
        self.platform.uncharge(charge, size, pages);
    }
    #[track_caller]
    fn try_charge_reserved(&self, size: HugeSize, pages: u64) -> Result<Option<P::Charge>, LimitReached> {
        let (call, caller) = ("try_charge_reserved", Location::caller());
        may_sleep_in(call, caller);
        let _inside = self.enter(call, caller);
        self.platform.try_charge_reserved(size, pages)
    }
    #[track_caller]
    fn uncharge_reserved(&self, charge: P::Charge, size: HugeSize, pages: u64) {
        let _inside = self.enter("uncharge_reserved", Location::caller());
        self.platform.uncharge_reserved(charge, size, pages);
    }
    #[track_caller]
    fn mmap_min_addr(&self) -> VirtAddr {
        let _inside = self.enter("mmap_min_addr", Location::caller());
        self.platform.mmap_min_addr()
    }
}

// SAFETY: the parts above are those of one platform.
unsafe impl<P: Platform> Platform for Checked<P> {}
