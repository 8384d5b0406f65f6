//! The platform: all that `hugewalk` asks of a kernel.
//!
//! This one has a heap, some huge pages and one processor. Where a larger kernel would do more, a comment says what.
//! All memory is mapped at [`Machine::LINEAR`], so a frame's number leads to its bytes by a shift and an addition.

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::hint::spin_loop;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use hugewalk::addr::{FRAME_BYTES, HugeFrame, HugeSize, TableFrame, VirtAddr};
use hugewalk::arch::{Barrier, Paging};
use hugewalk::error::{MemoryError, OutOfMemory};
use hugewalk::platform::{
    Barriers, Contents, Flush, Limits, Locks, Notify, PageRecord, Pages, Platform, TableRecord, Tables, Tlb,
    Trace,
};
use hugewalk::rcu::EpochRcu;
use hugewalk::sync::Parker;
use lock_api::RawMutex;

use crate::frames::Frames;
use crate::{Machine, Mutex, heap, machine};

/// More addresses than this are not flushed one by one. A table that goes may cover half a TiB.
const FLUSHED_ONE_BY_ONE: u64 = 512;

/// A mistake of the kernel's, made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// None.
    No,
    /// Nothing is flushed.
    NoFlush,
    /// One address of each page is flushed, also of pages that several entries map.
    OneOfEachPage,
    /// Leaves are flushed, and not what is cached of tables.
    NoTables,
}

/// The kernel, as `hugewalk` sees it.
///
/// # Invariants
///
/// There is one at a time, so the huge pages and the records of tables are its own.
pub(crate) struct Kernel<M: Machine> {
    pub(crate) frames: Frames,
    pub(crate) mistake: Mutex<Mistake>,
    format: M::Paging,
    machine: PhantomData<fn() -> M>,
}

/// Is there a kernel?
static TAKEN: AtomicBool = AtomicBool::new(false);

impl<M: Machine> Kernel<M> {
    /// A kernel whose processor walks tables of this format.
    pub(crate) fn new(format: M::Paging) -> Self {
        // INVARIANT: the swap answers `false` once, until the kernel is dropped.
        assert!(!TAKEN.swap(true, Ordering::Relaxed), "one at a time");
        let frames = Frames::new::<M>(format.leaves());
        Self { frames, mistake: Mutex::new(Mistake::No), format, machine: PhantomData }
    }

    fn table_layout(&self) -> Layout {
        let bytes = self.format.geometry().base_bytes() as usize;
        Layout::from_size_align(bytes, bytes).expect("a power of two")
    }
}

impl<M: Machine> Drop for Kernel<M> {
    fn drop(&mut self) {
        TAKEN.store(false, Ordering::Relaxed);
    }
}

// SAFETY: two sequentially consistent fences are the pair that is asked for.
unsafe impl<M: Machine> Barriers for Kernel<M> {
    type Word = AtomicU64;
    type SpinLock = Uninterrupted;

    // Run by every walk. A kernel that can interrupt its other processors makes this a compiler fence, and has `heavy`
    // interrupt them all.
    fn light(&self) {
        fence(Ordering::SeqCst);
    }

    fn heavy(&self) {
        waits_for_processors();
        fence(Ordering::SeqCst);
    }

    // A kernel with a scheduler yields.
    unsafe fn pause(&self) {
        spin_loop();
    }
}

/// Locks held that an interrupt could take.
static HELD: AtomicU64 = AtomicU64::new(0);

/// A spinning lock that an interrupt may take. The processor has interrupts off throughout, so this one only counts, to see that
/// nothing waits for other processors meanwhile. A kernel that has interrupts turns them off here.
pub(crate) struct Uninterrupted(spin::Mutex<()>);

// SAFETY: the lock is the one inside.
unsafe impl RawMutex for Uninterrupted {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self(<spin::Mutex<()> as RawMutex>::INIT);
    type GuardMarker = lock_api::GuardNoSend;

    fn lock(&self) {
        RawMutex::lock(&self.0);
        HELD.fetch_add(1, Ordering::Relaxed);
    }

    fn try_lock(&self) -> bool {
        let taken = RawMutex::try_lock(&self.0);
        HELD.fetch_add(u64::from(taken), Ordering::Relaxed);
        taken
    }

    unsafe fn unlock(&self) {
        HELD.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: passed on to the caller.
        unsafe { RawMutex::unlock(&self.0) };
    }
}

/// Other processors would be waited for here, which may be waiting for such a lock.
fn waits_for_processors() {
    assert_eq!(HELD.load(Ordering::Relaxed), 0, "a flush or a barrier with interrupts off");
}

/// Where a task waits to be woken. A kernel with a scheduler lets others run meanwhile; here it spins.
pub(crate) struct Token(AtomicBool);

// SAFETY: Release and Acquire carry what came before `unpark` over to the task that takes the token.
unsafe impl Parker for Token {
    fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    fn park(&self) {
        while !self.0.swap(false, Ordering::Acquire) {
            spin_loop();
        }
    }

    fn unpark(&self) {
        self.0.store(true, Ordering::Release);
    }
}

// SAFETY:
// - Frames: the heap hands out a page once until it is given back, and `Frames` a huge page. The records of different frames
//   are different elements of lists that serve nothing else; those of huge pages start out as zeroes.
// - `flush_tlb`: the one processor flushes what it may have cached; but where a mistake is made on purpose, which the proof
//   answers for: it looks at raw memory, and at nothing else.
// - The locks are those of `spin`.
unsafe impl<M: Machine> Tables for Kernel<M> {
    type Paging = M::Paging;
    fn paging(&self) -> M::Paging {
        self.format
    }
    fn alloc_table(&self) -> Option<TableFrame> {
        // SAFETY: the layout has a size.
        let page = NonNull::new(unsafe { alloc_zeroed(self.table_layout()) })?;
        Some(TableFrame(number::<M>(page)))
    }
    unsafe fn init_root(&self, root: TableFrame) {
        let Some(mmu) = M::mmu() else { return };
        // SAFETY: the root is new, by the contract.
        unsafe { mmu.init_root(&self.format, root.0 * FRAME_BYTES) };
    }
    unsafe fn free_table(&self, frame: TableFrame) {
        // SAFETY: allocated with this layout by `alloc_table`, and nobody reaches it any more, by the contract.
        unsafe { dealloc(M::mapped(frame.0 * FRAME_BYTES).as_ptr(), self.table_layout()) };
    }
    unsafe fn table_entries(&self, frame: TableFrame) -> NonNull<AtomicU64> {
        M::mapped(frame.0 * FRAME_BYTES).cast()
    }
    // Records are found by the number of the frame: Linux's `mem_map`.
    unsafe fn table_record(&self, frame: TableFrame) -> NonNull<TableRecord> {
        static RECORDS: [TableRecord; heap::SIZE / FRAME_BYTES as usize] =
            [const { TableRecord::new() }; heap::SIZE / FRAME_BYTES as usize];
        NonNull::from(&RECORDS[(frame.0 - number::<M>(heap::start())) as usize])
    }
}

// SAFETY: a huge page is handed out once until it is given back, and its record stays.
unsafe impl<M: Machine> Pages for Kernel<M> {
    fn alloc_huge(&self, size: HugeSize) -> Option<HugeFrame> {
        self.frames.take(size)
    }
    unsafe fn free_huge(&self, frame: HugeFrame, _: HugeSize) {
        self.frames.give(frame);
    }
    unsafe fn page_record(&self, frame: HugeFrame) -> NonNull<PageRecord> {
        NonNull::from(self.frames.record(frame).expect("a page of the machine's"))
    }
    fn has_page_record(&self, frame: HugeFrame) -> bool {
        self.frames.record(frame).is_some()
    }
}

// SAFETY: the address is that of the page.
unsafe impl<M: Machine> Contents for Kernel<M> {
    // All memory is mapped, so what reads and writes huge pages is left to the engine.
    unsafe fn huge_bytes(&self, frame: HugeFrame) -> Option<NonNull<u8>> {
        Some(M::mapped(frame.0 * FRAME_BYTES))
    }
    unsafe fn zero_huge(&self, frame: HugeFrame, size: HugeSize) {
        for (offset, length) in looked_at(size) {
            // SAFETY: passed on to the caller; the range lies inside the page.
            unsafe { self.clear_huge(frame, offset, length) };
        }
    }
    unsafe fn copy_huge(&self, from: HugeFrame, to: HugeFrame, size: HugeSize) -> Result<(), MemoryError> {
        let mut bytes = [0; END as usize];
        for (offset, length) in looked_at(size) {
            for offset in (offset..offset + length).step_by(bytes.len()) {
                // SAFETY: passed on to the caller; the range lies inside the page.
                unsafe { self.read_huge(from, offset, &mut bytes) }?;
                // SAFETY: likewise.
                unsafe { self.write_huge(to, offset, &bytes) };
            }
        }
        Ok(())
    }
}

// SAFETY: the locks exclude as locks do.
unsafe impl<M: Machine> Locks for Kernel<M> {
    // A kernel with a scheduler puts who waits for these two to sleep; here nobody ever waits.
    type TableLock = spin::Mutex<()>;
    type SleepMutex = spin::Mutex<()>;
    type SleepRwLock = spin::RwLock<()>;
    type Parker = Token;
    type Rcu = EpochRcu<Self>;
}

// SAFETY: a flush returns when no processor uses what it names any more.
unsafe impl<M: Machine> Tlb for Kernel<M> {
    /// How often the TLB was flushed. A larger kernel keeps here which processors run the address space.
    type MmContext = AtomicU64;
    fn new_context(&self) -> Result<AtomicU64, OutOfMemory> {
        Ok(AtomicU64::new(0))
    }
    // A larger kernel flushes the range here, and interrupts every other processor that runs the address space to do the same.
    fn flush_tlb(&self, context: &AtomicU64, flush: Flush) {
        waits_for_processors();
        context.fetch_add(1, Ordering::Relaxed);
        let Some(mmu) = M::mmu() else { return };
        let mut stride = flush.stride;
        let mut what = if flush.tables { machine::Flush::LeavesAndTables } else { machine::Flush::Leaves };
        match *self.mistake.lock() {
            Mistake::No => {}
            Mistake::NoFlush => return,
            // A processor may cache each entry of a group by itself.
            Mistake::OneOfEachPage => {
                let is_member = |size: &&HugeSize| size.group() > 1 && size.member_bytes() == stride;
                stride = self.format.leaves().iter().find(is_member).map_or(stride, |size| size.bytes());
            }
            Mistake::NoTables => what = machine::Flush::Leaves,
        }
        let range = flush.range.start.as_u64()..flush.range.end.as_u64();
        if (range.end - range.start) / stride > FLUSHED_ONE_BY_ONE {
            mmu.flush_all();
        } else {
            mmu.flush(range, stride, what);
        }
    }
    // A larger kernel does this on each processor where `due` says so.
    fn entry_stored(&self, _: &AtomicU64, address: VirtAddr, size: HugeSize, due: Barrier) {
        let Some(mmu) = M::mmu() else { return };
        for start in (address.as_u64()..address.as_u64() + size.bytes()).step_by(size.member_bytes() as usize)
        {
            mmu.barrier(due, start);
        }
    }
    // Nothing is ever executed from a huge page here. A larger kernel makes what was stored to it visible to instruction
    // fetches.
    fn before_execution(&self, _: HugeFrame, _: HugeSize) {}
}

impl<M: Machine> Notify for Kernel<M> {}

impl<M: Machine> Trace for Kernel<M> {}

impl<M: Machine> Limits for Kernel<M> {
    type Charge = core::convert::Infallible;
}

// SAFETY: the parts above are those of one platform.
unsafe impl<M: Machine> Platform for Kernel<M> {}

/// Bytes at either end of a part of a page.
const END: u64 = 4096;

/// The ranges of a page that are filled: offsets and lengths. An emulator takes seconds for a GiB, so of the largest pages it
/// is the two ends of each part that an entry maps, where the proof looks.
fn looked_at(size: HugeSize) -> impl Iterator<Item = (u64, u64)> {
    let whole = size.bytes() <= 64 << 20;
    let part = if whole { size.bytes() } else { size.member_bytes() };
    (0..size.bytes()).step_by(part as usize).flat_map(move |start| {
        if whole { [(start, part), (start, 0)] } else { [(start, END), (start + part - END, END)] }
    })
}

/// The number of the frame that starts at `start`.
fn number<M: Machine>(start: NonNull<u8>) -> u64 {
    M::physical(start) / FRAME_BYTES
}
