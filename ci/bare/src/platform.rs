//! The platform: all that `hugewalk` asks of a kernel.
//!
//! This one has a heap, sixteen huge frames and one processor. Where a larger kernel would do more, a comment says what.
//! Memory is mapped at its physical address (`linux` pretends so), so a frame's number leads to its bytes by a shift.

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::hint::spin_loop;
use core::num::NonZero;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use hugewalk::addr::{HugeFrame, HugeSize, PAGE_SIZE, TableFrame, VirtAddr};
use hugewalk::error::OutOfMemory;
use hugewalk::platform::{Barriers, ENTRIES, Hugewalk, Levels, PageRecord, Platform, TableRecord};
use hugewalk::rcu::EpochRcu;
use hugewalk::sync::Parker;

use crate::frames::{self, FRAME_SIZE, FRAMES};
use crate::{Mutex, heap};

/// Bytes of a table page, and what it is aligned to.
const PAGE: usize = PAGE_SIZE as usize;

/// The kernel, as `hugewalk` sees it.
///
/// # Invariants
///
/// There is one, so the huge frames and the records below are its own.
pub struct Kernel {
    /// A bit for each huge frame that nobody has.
    free: Mutex<u32>,
}

impl Kernel {
    /// The kernel, once; then `None`.
    pub fn take() -> Option<Self> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        // INVARIANT: the swap answers `false` once.
        (!TAKEN.swap(true, Ordering::Relaxed)).then(|| Self { free: Mutex::new((1 << FRAMES) - 1) })
    }
}

// SAFETY: two sequentially consistent fences are the pair that is asked for.
unsafe impl Barriers for Kernel {
    type Word = AtomicU64;
    type SpinLock = spin::Mutex<()>;

    // Run by every walk. A kernel that can interrupt its other processors makes this a compiler fence, and has `heavy`
    // interrupt them all.
    fn light(&self) {
        fence(Ordering::SeqCst);
    }

    fn heavy(&self) {
        fence(Ordering::SeqCst);
    }

    // A kernel with a scheduler yields.
    unsafe fn pause(&self) {
        spin_loop();
    }
}

/// Where a task waits to be woken. A kernel with a scheduler lets others run meanwhile; here it spins.
pub struct Token(AtomicBool);

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
// - Frames: the heap hands out a page once until it is given back, `free` a huge frame. The records of different frames
//   are different elements of statics that serve nothing else; those of huge pages start out as zeroes.
// - `flush_tlb`: says itself why nothing is left to do.
// - The locks are those of `spin`.
unsafe impl Platform for Kernel {
    type Protocol = Hugewalk;
    // A kernel with a scheduler puts who waits for these two to sleep; here nobody ever waits.
    type SleepMutex = spin::Mutex<()>;
    type SleepRwLock = spin::RwLock<()>;
    type Parker = Token;
    type Rcu = EpochRcu<Self>;
    /// How often the TLB was flushed. A larger kernel keeps here which processors run the address space.
    type MmContext = AtomicU64;

    fn levels(&self) -> Levels {
        Levels::Four
    }

    fn new_context(&self) -> Result<AtomicU64, OutOfMemory> {
        Ok(AtomicU64::new(0))
    }

    fn alloc_table(&self) -> Option<TableFrame> {
        // SAFETY: the layout has a size.
        let page = NonNull::new(unsafe { alloc_zeroed(Layout::new::<TablePage>()) })?;
        Some(TableFrame(number(page)))
    }

    unsafe fn free_table(&self, frame: TableFrame) {
        // SAFETY: allocated with this layout by `alloc_table`, and nobody reaches it any more, by the contract.
        unsafe { dealloc(mapped(frame.0 * PAGE_SIZE).as_ptr(), Layout::new::<TablePage>()) };
    }

    unsafe fn table_entries(&self, frame: TableFrame) -> NonNull<[AtomicU64; ENTRIES]> {
        mapped(frame.0 * PAGE_SIZE).cast()
    }

    // Records are found by the number of the frame: Linux's `mem_map`.
    unsafe fn table_record(&self, frame: TableFrame) -> NonNull<TableRecord> {
        static RECORDS: [TableRecord; heap::SIZE / PAGE] = [const { TableRecord::new() }; heap::SIZE / PAGE];
        NonNull::from(&RECORDS[(frame.0 - number(heap::start())) as usize])
    }

    fn alloc_huge(&self, size: HugeSize) -> Option<HugeFrame> {
        let mut free = self.free.lock();
        if size != HugeSize::Size2M || *free == 0 {
            return None;
        }
        let index = free.trailing_zeros() as usize;
        *free &= !(1 << index);
        Some(HugeFrame(number(frames::base()) + (index * FRAME_SIZE / PAGE) as u64))
    }

    unsafe fn free_huge(&self, frame: HugeFrame, _: HugeSize) {
        *self.free.lock() |= 1 << index(frame);
    }

    unsafe fn page_record(&self, frame: HugeFrame) -> NonNull<PageRecord> {
        static RECORDS: [PageRecord; FRAMES] = [const { PageRecord::new() }; FRAMES];
        NonNull::from(&RECORDS[index(frame)])
    }

    fn has_page_record(&self, frame: HugeFrame) -> bool {
        let first = number(frames::base());
        let offset = frame.0.checked_sub(first);
        offset.is_some_and(|offset| {
            frame.fits(HugeSize::Size2M) && offset < (FRAMES * FRAME_SIZE / PAGE) as u64
        })
    }

    // All memory is mapped, so what reads and writes huge pages is left to the engine.
    unsafe fn huge_bytes(&self, frame: HugeFrame) -> Option<NonNull<u8>> {
        Some(mapped(frame.0 * PAGE_SIZE))
    }

    // The one processor runs an address space for one access at a time (`Machine::load`), and leaves it by loading another
    // root, which flushes everything. A larger kernel flushes the range here, and interrupts every other processor that
    // runs the address space to do the same.
    fn flush_tlb(&self, context: &AtomicU64, _: Range<VirtAddr>) {
        context.fetch_add(1, Ordering::Relaxed);
    }
}

/// The memory of a table page, for its size and alignment.
#[repr(C, align(4096))]
struct TablePage([u64; ENTRIES]);

/// Where memory of this physical address is mapped: there.
fn mapped(address: u64) -> NonNull<u8> {
    NonNull::with_exposed_provenance(NonZero::new(address as usize).expect("nobody was given frame 0"))
}

/// The number of the frame that starts at `start`. Whoever owns its bytes gives the right to reach them by number.
fn number(start: NonNull<u8>) -> u64 {
    (start.expose_provenance().get() / PAGE) as u64
}

/// Which of the huge frames it is.
fn index(frame: HugeFrame) -> usize {
    (frame.0 - number(frames::base())) as usize / (FRAME_SIZE / PAGE)
}
