//! A handle to a platform is a platform: `&'static P` for a kernel's static, `Arc<P>` for a host
//! that looks into the platform after the system is gone.
//!
//! Each call is passed on with the location of its caller, so that a platform which checks its
//! calls can report it. Records have the same layout on all platforms, so the records of `P` serve
//! systems made from the handle.

use core::ops::Range;
use core::ptr::NonNull;

use super::{
    Barriers, Contents, Event, Flush, Invalidation, Limits, Locks, Notify, PageRecord, Pages, Platform,
    TableRecord, Tables, Tlb, Trace,
};
use crate::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};
use crate::arch::Barrier;
use crate::error::{LimitReached, MemoryError, OutOfMemory};
use crate::rcu::{Rcu, RcuHead};

/// The RCU of a platform, for a system made from a handle to the platform.
#[derive(Debug)]
pub struct HandleRcu<R>(R);

impl<R> HandleRcu<R> {
    /// The RCU of the platform behind the handle.
    #[must_use]
    pub fn inner(&self) -> &R {
        &self.0
    }
}

macro_rules! handle {
    ($handle:ty) => {
        // SAFETY: everything is passed on to the RCU of the platform behind the handle, with that platform.
        unsafe impl<P: Barriers, R: Rcu<P>> Rcu<$handle> for HandleRcu<R> {
            type Reader = R::Reader;

            fn new(host: &$handle) -> Result<Self, OutOfMemory> {
                R::new(host).map(Self)
            }
            #[track_caller]
            fn register(&self, host: &$handle) -> Result<R::Reader, OutOfMemory> {
                self.0.register(host)
            }
            unsafe fn unregister(&self, host: &$handle, reader: R::Reader) {
                // SAFETY: passed on to the caller.
                unsafe { self.0.unregister(host, reader) };
            }
            #[inline]
            unsafe fn read_lock(&self, host: &$handle, reader: &R::Reader) {
                // SAFETY: passed on to the caller.
                unsafe { self.0.read_lock(host, reader) };
            }
            #[inline]
            unsafe fn read_unlock(&self, host: &$handle, reader: &R::Reader) {
                // SAFETY: passed on to the caller.
                unsafe { self.0.read_unlock(host, reader) };
            }
            #[track_caller]
            unsafe fn call(&self, host: &$handle, head: NonNull<RcuHead>) {
                // SAFETY: passed on to the caller.
                unsafe { self.0.call(host, head) };
            }
            #[track_caller]
            unsafe fn synchronize(&self, host: &$handle) {
                // SAFETY: passed on to the caller.
                unsafe { self.0.synchronize(host) };
            }
            #[track_caller]
            unsafe fn barrier(&self, host: &$handle) {
                // SAFETY: passed on to the caller.
                unsafe { self.0.barrier(host) };
            }
            fn pending(&self) -> u64 {
                self.0.pending()
            }
        }

        // SAFETY: everything is passed on to the platform behind the handle, which stays as long as the handle.
        unsafe impl<P: Tables> Tables for $handle {
            type Paging = P::Paging;
            #[inline]
            fn paging(&self) -> P::Paging {
                P::paging(self)
            }
            #[track_caller]
            fn alloc_table(&self) -> Option<TableFrame> {
                P::alloc_table(self)
            }
            #[track_caller]
            unsafe fn free_table(&self, frame: TableFrame) {
                // SAFETY: passed on to the caller.
                unsafe { P::free_table(self, frame) };
            }
            #[track_caller]
            unsafe fn init_root(&self, root: TableFrame) {
                // SAFETY: passed on to the caller.
                unsafe { P::init_root(self, root) };
            }
            #[inline]
            #[track_caller]
            unsafe fn table_entries(&self, frame: TableFrame) -> NonNull<P::Word> {
                // SAFETY: passed on to the caller.
                unsafe { P::table_entries(self, frame) }
            }
            #[inline]
            #[track_caller]
            unsafe fn table_entry(&self, frame: TableFrame, index: usize) -> NonNull<P::Word> {
                // SAFETY: passed on to the caller.
                unsafe { P::table_entry(self, frame, index) }
            }
            #[inline]
            #[track_caller]
            unsafe fn table_record(&self, frame: TableFrame) -> NonNull<TableRecord> {
                // SAFETY: passed on to the caller.
                unsafe { P::table_record(self, frame) }
            }
        }

        // SAFETY: a huge page is handed out once until it is given back, and its record stays.
        unsafe impl<P: Pages> Pages for $handle {
            #[track_caller]
            fn alloc_huge(&self, size: HugeSize) -> Option<HugeFrame> {
                P::alloc_huge(self, size)
            }
            #[track_caller]
            unsafe fn free_huge(&self, frame: HugeFrame, size: HugeSize) {
                // SAFETY: passed on to the caller.
                unsafe { P::free_huge(self, frame, size) };
            }
            #[inline]
            #[track_caller]
            unsafe fn page_record(&self, frame: HugeFrame) -> NonNull<PageRecord> {
                // SAFETY: passed on to the caller.
                unsafe { P::page_record(self, frame) }
            }
            #[track_caller]
            fn has_page_record(&self, frame: HugeFrame) -> bool {
                P::has_page_record(self, frame)
            }
        }

        // SAFETY: the address is that of the page.
        unsafe impl<P: Contents> Contents for $handle {
            #[track_caller]
            unsafe fn huge_bytes(&self, frame: HugeFrame) -> Option<NonNull<u8>> {
                // SAFETY: passed on to the caller.
                unsafe { P::huge_bytes(self, frame) }
            }
            #[track_caller]
            unsafe fn zero_huge(&self, frame: HugeFrame, size: HugeSize) {
                // SAFETY: passed on to the caller.
                unsafe { P::zero_huge(self, frame, size) };
            }
            #[track_caller]
            unsafe fn copy_huge(
                &self,
                from: HugeFrame,
                to: HugeFrame,
                size: HugeSize,
            ) -> Result<(), MemoryError> {
                // SAFETY: passed on to the caller.
                unsafe { P::copy_huge(self, from, to, size) }
            }
            #[track_caller]
            unsafe fn read_huge(
                &self,
                frame: HugeFrame,
                offset: u64,
                into: &mut [u8],
            ) -> Result<(), MemoryError> {
                // SAFETY: passed on to the caller.
                unsafe { P::read_huge(self, frame, offset, into) }
            }
            #[track_caller]
            unsafe fn write_huge(&self, frame: HugeFrame, offset: u64, from: &[u8]) {
                // SAFETY: passed on to the caller.
                unsafe { P::write_huge(self, frame, offset, from) };
            }
            #[track_caller]
            unsafe fn clear_huge(&self, frame: HugeFrame, offset: u64, length: u64) {
                // SAFETY: passed on to the caller.
                unsafe { P::clear_huge(self, frame, offset, length) };
            }
        }

        // SAFETY: the locks exclude as locks do.
        unsafe impl<P: Locks> Locks for $handle {
            type TableLock = P::TableLock;
            type SleepMutex = P::SleepMutex;
            type SleepRwLock = P::SleepRwLock;
            type Parker = P::Parker;
            type Rcu = HandleRcu<P::Rcu>;
            #[inline(always)]
            fn reader_bias() -> bool {
                P::reader_bias()
            }
        }

        // SAFETY: a flush returns when no processor uses what it names any more.
        unsafe impl<P: Tlb> Tlb for $handle {
            type MmContext = P::MmContext;
            #[track_caller]
            fn new_context(&self) -> Result<P::MmContext, OutOfMemory> {
                P::new_context(self)
            }
            #[inline]
            #[track_caller]
            fn flush_tlb(&self, context: &P::MmContext, flush: Flush) {
                P::flush_tlb(self, context, flush);
            }
            #[inline(always)]
            #[track_caller]
            fn entry_stored(&self, context: &P::MmContext, address: VirtAddr, size: HugeSize, due: Barrier) {
                P::entry_stored(self, context, address, size, due);
            }
            #[inline(always)]
            #[track_caller]
            fn before_execution(&self, frame: HugeFrame, size: HugeSize) {
                P::before_execution(self, frame, size);
            }
        }

        impl<P: Notify> Notify for $handle {
            #[inline(always)]
            #[track_caller]
            fn handler_called(&self, context: &P::MmContext) {
                P::handler_called(self, context);
            }
            #[inline(always)]
            #[track_caller]
            fn file_freed(&self, file: u64) {
                P::file_freed(self, file);
            }
            #[inline(always)]
            #[track_caller]
            fn has_secondary_mmus(&self, context: &P::MmContext) -> bool {
                P::has_secondary_mmus(self, context)
            }
            #[inline(always)]
            #[track_caller]
            fn invalidate_range_start(
                &self,
                context: &P::MmContext,
                range: &Range<VirtAddr>,
                why: Invalidation,
                may_block: bool,
            ) {
                P::invalidate_range_start(self, context, range, why, may_block);
            }
            #[inline(always)]
            #[track_caller]
            fn invalidate_range_end(
                &self,
                context: &P::MmContext,
                range: &Range<VirtAddr>,
                why: Invalidation,
            ) {
                P::invalidate_range_end(self, context, range, why);
            }
        }

        impl<P: Trace> Trace for $handle {
            #[inline(always)]
            #[track_caller]
            fn trace(&self, event: Event) {
                P::trace(self, event);
            }
        }

        impl<P: Limits> Limits for $handle {
            type Charge = P::Charge;
            #[inline(always)]
            fn try_charge(&self, size: HugeSize, pages: u64) -> Result<Option<P::Charge>, LimitReached> {
                P::try_charge(self, size, pages)
            }
            #[inline(always)]
            fn uncharge(&self, charge: P::Charge, size: HugeSize, pages: u64) {
                P::uncharge(self, charge, size, pages);
            }
            #[inline(always)]
            fn try_charge_reserved(
                &self,
                size: HugeSize,
                pages: u64,
            ) -> Result<Option<P::Charge>, LimitReached> {
                P::try_charge_reserved(self, size, pages)
            }
            #[inline(always)]
            fn uncharge_reserved(&self, charge: P::Charge, size: HugeSize, pages: u64) {
                P::uncharge_reserved(self, charge, size, pages);
            }
            #[inline]
            fn mmap_min_addr(&self) -> VirtAddr {
                P::mmap_min_addr(self)
            }
        }

        // SAFETY: the parts above are those of one platform.
        unsafe impl<P: Platform> Platform for $handle {
            #[cfg(feature = "weaker-protocols")]
            #[inline(always)]
            fn keeps(step: crate::protocol::Step) -> bool {
                P::keeps(step)
            }
        }
    };
}

handle!(&'static P);
handle!(alloc::sync::Arc<P>);
handle!(crate::sync::Arc<P>);

// Those of the other two handles are in `hugewalk-rcu`.
// SAFETY: the barriers are those of the platform behind the handle.
unsafe impl<P: Barriers> Barriers for crate::sync::Arc<P> {
    type Word = P::Word;
    type SpinLock = P::SpinLock;

    #[inline(always)]
    fn light(&self) {
        P::light(self);
    }
    #[inline]
    #[track_caller]
    fn heavy(&self) {
        P::heavy(self);
    }
    #[inline]
    #[track_caller]
    unsafe fn pause(&self) {
        // SAFETY: passed on to the caller.
        unsafe { P::pause(self) };
    }
}
