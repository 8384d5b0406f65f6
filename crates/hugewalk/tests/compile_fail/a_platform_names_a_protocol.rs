//! A type is no protocol by being named as one.

use core::ops::Range;
use core::ptr::NonNull;

use hugewalk::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};
use hugewalk::error::OutOfMemory;
use hugewalk::platform::{Barriers, ENTRIES, Levels, PageRecord, Platform, TableRecord};
use hugewalk::rcu::EpochRcu;

struct NeverRevalidates;

struct Careless<P: Platform>(P);

unsafe impl<P: Platform> Barriers for Careless<P> {
    type Word = P::Word;
    type SpinLock = P::SpinLock;
    fn light(&self) {
        self.0.light();
    }
    fn heavy(&self) {
        self.0.heavy();
    }
    unsafe fn pause(&self) {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.0.pause() };
    }
}

unsafe impl<P: Platform> Platform for Careless<P> {
    type Protocol = NeverRevalidates;
    type SleepMutex = P::SleepMutex;
    type SleepRwLock = P::SleepRwLock;
    type Parker = P::Parker;
    type Rcu = EpochRcu<Self>;
    type MmContext = P::MmContext;

    fn levels(&self) -> Levels {
        self.0.levels()
    }
    fn new_context(&self) -> Result<P::MmContext, OutOfMemory> {
        self.0.new_context()
    }
    fn alloc_table(&self) -> Option<TableFrame> {
        self.0.alloc_table()
    }
    unsafe fn free_table(&self, frame: TableFrame) {
        unsafe { self.0.free_table(frame) };
    }
    unsafe fn table_entries(&self, frame: TableFrame) -> NonNull<[P::Word; ENTRIES]> {
        unsafe { self.0.table_entries(frame) }
    }
    unsafe fn table_record(&self, frame: TableFrame) -> NonNull<TableRecord> {
        unsafe { self.0.table_record(frame) }
    }
    fn alloc_huge(&self, size: HugeSize) -> Option<HugeFrame> {
        self.0.alloc_huge(size)
    }
    unsafe fn free_huge(&self, frame: HugeFrame, size: HugeSize) {
        unsafe { self.0.free_huge(frame, size) };
    }
    unsafe fn page_record(&self, frame: HugeFrame) -> NonNull<PageRecord> {
        unsafe { self.0.page_record(frame) }
    }
    fn has_page_record(&self, frame: HugeFrame) -> bool {
        self.0.has_page_record(frame)
    }
    unsafe fn huge_bytes(&self, frame: HugeFrame) -> Option<NonNull<u8>> {
        unsafe { self.0.huge_bytes(frame) }
    }
    fn flush_tlb(&self, context: &P::MmContext, range: Range<VirtAddr>) {
        self.0.flush_tlb(context, range);
    }
}

fn main() {}
