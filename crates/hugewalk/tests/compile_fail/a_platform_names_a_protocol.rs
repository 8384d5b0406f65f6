//! A type is no protocol by being named as one.

use core::ops::Range;
use core::ptr::NonNull;

use hugewalk::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};
use hugewalk::error::OutOfMemory;
use hugewalk::page::Page;
use hugewalk::platform::{Barriers, ENTRIES, Levels, Platform};
use hugewalk::rcu::EpochRcu;
use hugewalk::table::Table;

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
    fn pause(&self) {
        self.0.pause();
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
    fn table_entries(&self, frame: TableFrame) -> NonNull<[P::Word; ENTRIES]> {
        self.0.table_entries(frame)
    }
    fn table_record(&self, frame: TableFrame) -> NonNull<Table<Self>> {
        self.0.table_record(frame).cast()
    }
    fn alloc_huge(&self, size: HugeSize) -> Option<HugeFrame> {
        self.0.alloc_huge(size)
    }
    unsafe fn free_huge(&self, frame: HugeFrame, size: HugeSize) {
        unsafe { self.0.free_huge(frame, size) };
    }
    fn page_record(&self, frame: HugeFrame) -> NonNull<Page<Self>> {
        self.0.page_record(frame).cast()
    }
    fn zero_huge(&self, frame: HugeFrame, size: HugeSize) {
        self.0.zero_huge(frame, size);
    }
    fn copy_huge(&self, from: HugeFrame, to: HugeFrame, size: HugeSize) {
        self.0.copy_huge(from, to, size);
    }
    fn read_huge(&self, frame: HugeFrame, offset: u64, into: &mut [u8]) {
        self.0.read_huge(frame, offset, into);
    }
    fn write_huge(&self, frame: HugeFrame, offset: u64, from: &[u8]) {
        self.0.write_huge(frame, offset, from);
    }
    fn clear_huge(&self, frame: HugeFrame, offset: u64, length: u64) {
        self.0.clear_huge(frame, offset, length);
    }
    fn flush_tlb(&self, context: &P::MmContext, range: Range<VirtAddr>) {
        self.0.flush_tlb(context, range);
    }
}

fn main() {}
