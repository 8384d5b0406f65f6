//! The platform: all that `hugewalk` asks of a kernel, and the only room that knows the engine's side.
//!
//! | the engine asks for | it gets |
//! |---|---|
//! | table pages and huge pages, with room for their records | [`memory::frames`](crate::memory::frames) |
//! | spinning locks | of tables: `spin`'s, with interrupts on, since flushes wait for answers; others: [`irq_lock`](crate::cpu::irq_lock), with interrupts off |
//! | sleeping locks, and places to sleep | [`task::lock`](crate::task::lock), and the thread's own token |
//! | a barrier pair | a compiler fence for readers, an interrupt to every busy processor for the other side |
//! | read-copy-update, and a locking protocol | the engine's own; a weaker one in a build for that ([`protocol`]) |
//! | a TLB flush | an interrupt to the processors that run the address space |
//!
//! The kernel is never preempted. So a read section, or a table lock, is never held by a thread that does not run.

use alloc::sync::Arc;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use hugewalk::Hugetlb;
use hugewalk::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};
use hugewalk::arch::Barrier;
use hugewalk::error::{MemoryError, OutOfMemory};
use hugewalk::platform::{
    Barriers, Contents, Event, Flush, Limits, Locks, Notify, PageRecord, Pages, Platform, TableRecord,
    Tables, Tlb, Trace,
};
use hugewalk::protocol::Step;
use hugewalk::sync::Parker;
use spin::{Mutex, Once};

use crate::arch;
use crate::cpu::irq_lock::IrqLock;
use crate::cpu::shootdown;
use crate::memory::frames::{self, Kind};
use crate::memory::{PAGE, direct};
use crate::report::COUNTERS;
use crate::space::root::Root;
use crate::task::lock::{RawMutex, RawRwLock};
use crate::task::{Thread, current, park, yield_now};

pub mod protocol;

static HUGETLB: Once<hugewalk::Arc<Hugetlb<Kernel>>> = Once::new();

/// Starts the engine, with this many huge pages of 2 MiB, and this many beyond that on demand.
///
/// # Errors
///
/// [`OutOfMemory`].
pub fn set_up(pool: u64, overcommit: u64) -> Result<(), OutOfMemory> {
    let hugetlb = Hugetlb::new(Kernel { _one: () })?;
    hugetlb.resize_pool(arch::SIZE_2M, pool);
    hugetlb.pool(arch::SIZE_2M).set_overcommit(overcommit);
    HUGETLB.call_once(|| hugetlb);
    Ok(())
}

/// The engine.
pub fn hugetlb() -> &'static hugewalk::Arc<Hugetlb<Kernel>> {
    HUGETLB.get().expect("the engine is started before the first program")
}

/// The sizes of huge pages.
pub fn sizes() -> impl Iterator<Item = HugeSize> {
    arch::SIZES.into_iter()
}

/// The kernel, as `hugewalk` sees it.
///
/// # Invariants
///
/// There is one: [`set_up`] makes it.
pub struct Kernel {
    _one: (),
}

// SAFETY: `heavy` interrupts every processor that may be in a read section, and waits until it has passed the interrupt, which
// is a full barrier there. So the compiler's order is enough on the other side. A processor that idles is in no section, and
// its flag is cleared by a SeqCst exchange before it can enter one.
unsafe impl Barriers for Kernel {
    type Word = AtomicU64;
    type SpinLock = IrqLock;

    #[inline]
    fn light(&self) {
        compiler_fence(Ordering::SeqCst);
    }

    fn heavy(&self) {
        shootdown::barrier();
    }

    unsafe fn pause(&self) {
        yield_now();
    }
}

/// Where a task of the engine sleeps. It may wake up for another reason, such as a signal: then the engine looks again.
pub struct Bed {
    sleeper: Mutex<(bool, Option<Arc<Thread>>)>,
}

// SAFETY: the spinning lock orders what came before `unpark` before what comes after `park`.
unsafe impl Parker for Bed {
    fn new() -> Self {
        Self { sleeper: Mutex::new((false, None)) }
    }

    fn park(&self) {
        {
            let mut sleeper = self.sleeper.lock();
            if core::mem::take(&mut sleeper.0) {
                return;
            }
            // First the thread is known here, then it sleeps.
            sleeper.1 = Some(current().handle());
        }
        park();
        let left = {
            let mut sleeper = self.sleeper.lock();
            sleeper.0 = false;
            sleeper.1.take()
        };
        drop(left);
    }

    fn unpark(&self) {
        let mut sleeper = self.sleeper.lock();
        sleeper.0 = true;
        if let Some(thread) = &sleeper.1 {
            thread.unpark();
        }
    }

    fn is_killed(&self) -> bool {
        // Asked by the thread that waits.
        current().is_killed()
    }

    fn is_interrupted(&self) -> bool {
        // A wait in the engine is a fault or a system call that begins anew, as a whole, behind a signal's handler. Only the end
        // of the thread is worth that.
        self.is_killed()
    }
}

// SAFETY:
// - Frames: `frames` hands out a frame, or a huge page, once until it is given back; huge pages are aligned to their size.
//   Records are found by the frame's number, and overlap nothing. Those of huge pages start as zeroes, and stay.
// - All memory is in the direct map, which stays for ever.
// - `flush_tlb` waits until every processor that has the root loaded has reloaded it.
// - The locks are `spin`'s and those of `task::lock`.
unsafe impl Tables for Kernel {
    type Paging = arch::Paging;
    fn paging(&self) -> arch::Paging {
        arch::PAGING
    }
    fn alloc_table(&self) -> Option<TableFrame> {
        frames::allocate_zeroed(Kind::Engine).map(|frame| TableFrame(frame / PAGE))
    }
    unsafe fn init_root(&self, root: TableFrame) {
        // SAFETY: passed on to the caller.
        unsafe { arch::mmu::fill_kernel_half(root.0 * PAGE) };
    }
    unsafe fn free_table(&self, frame: TableFrame) {
        // SAFETY: passed on to the caller.
        unsafe { frames::free(frame.0 * PAGE, Kind::Engine) };
    }
    unsafe fn table_entries(&self, frame: TableFrame) -> NonNull<AtomicU64> {
        protocol::look(frame.0 * PAGE);
        mapped(frame.0 * PAGE).cast()
    }
    unsafe fn table_record(&self, frame: TableFrame) -> NonNull<TableRecord> {
        frames::table_record(frame.0 * PAGE)
    }
}

// SAFETY: a huge page is handed out once until it is given back, and its record stays.
unsafe impl Pages for Kernel {
    fn alloc_huge(&self, size: HugeSize) -> Option<HugeFrame> {
        frames::huge::allocate(size.bytes()).map(|address| HugeFrame(address / PAGE))
    }
    unsafe fn free_huge(&self, frame: HugeFrame, size: HugeSize) {
        // SAFETY: passed on to the caller.
        unsafe { frames::huge::free(frame.0 * PAGE, size.bytes()) };
    }
    unsafe fn page_record(&self, frame: HugeFrame) -> NonNull<PageRecord> {
        frames::huge::page_record(frame.0 * PAGE)
    }
    fn has_page_record(&self, frame: HugeFrame) -> bool {
        frame.0.checked_mul(PAGE).is_some_and(frames::huge::is_memory)
    }
}

// SAFETY: the address is that of the page.
unsafe impl Contents for Kernel {
    unsafe fn huge_bytes(&self, frame: HugeFrame) -> Option<NonNull<u8>> {
        Some(mapped(frame.0 * PAGE))
    }
    // The engine's own way takes a word at a time; a kernel can do better.
    unsafe fn zero_huge(&self, frame: HugeFrame, size: HugeSize) {
        // SAFETY: passed on to the caller; the page is as large as its size says.
        unsafe { direct::<u8>(frame.0 * PAGE).write_bytes(0, size.bytes() as usize) };
    }
    unsafe fn copy_huge(&self, from: HugeFrame, to: HugeFrame, size: HugeSize) -> Result<(), MemoryError> {
        let from = direct::<u8>(from.0 * PAGE);
        // SAFETY: passed on to the caller. Programs may write the first page meanwhile; the copy is made in assembly, which
        // takes what it finds.
        unsafe { direct::<u8>(to.0 * PAGE).copy_from_nonoverlapping(from, size.bytes() as usize) };
        Ok(())
    }
}

// SAFETY: the locks exclude as locks do.
unsafe impl Locks for Kernel {
    type TableLock = spin::Mutex<()>;
    type SleepMutex = RawMutex;
    type SleepRwLock = RawRwLock;
    type Parker = Bed;
    type Rcu = protocol::Sections;
}

// SAFETY: a flush returns when no processor uses what it names any more.
unsafe impl Tlb for Kernel {
    type MmContext = Root;
    fn new_context(&self) -> Result<Root, OutOfMemory> {
        Ok(Root::new())
    }
    fn flush_tlb(&self, root: &Root, flush: Flush) {
        COUNTERS.flushes.add(1);
        if protocol::leaves_out(Step::Flush) {
            protocol::note(root, flush.range.start.as_u64());
            return;
        }
        let range = flush.range.start.as_u64()..flush.range.end.as_u64();
        shootdown::flush(range, flush.stride, flush.tables, || root.processors());
    }
    fn entry_stored(&self, _: &Root, address: VirtAddr, size: HugeSize, due: Barrier) {
        let start = address.as_u64();
        arch::mmu::entry_stored(start..start + size.bytes(), due);
    }
    fn before_execution(&self, frame: HugeFrame, size: HugeSize) {
        arch::mmu::code_stored(direct(frame.0 * PAGE), size.bytes() as usize);
    }
}

impl Notify for Kernel {
    fn handler_called(&self, root: &Root) {
        root.handlers().wake_all();
    }
    fn file_freed(&self, file: u64) {
        crate::fs::huge_file::forget(file);
    }
}

impl Trace for Kernel {
    fn trace(&self, event: Event) {
        match event {
            Event::Shared { .. } => COUNTERS.shares.add(1),
            Event::Unshared { .. } => {
                COUNTERS.unshares.add(1);
                protocol::unshared();
            }
            Event::Flushed { mm, last: 1.., .. } => {
                COUNTERS.last_flushes.add(1);
                protocol::flushed_last(mm);
            }
            Event::StillMapped { frame } => {
                protocol::lost(format_args!("page {frame:?} is still mapped"));
            }
            _ => {}
        }
    }
}

impl Limits for Kernel {
    type Charge = core::convert::Infallible;
}

// SAFETY: the parts above are those of one machine. A build that leaves steps out uses the memory of freed tables and base pages
// for nothing else; records of pages stay for ever. The steps that can be left out are listed in `protocol`: none of them is what
// keeps a VMA, or anything else of the heap.
unsafe impl Platform for Kernel {
    #[cfg(feature = "weaker")]
    #[inline]
    fn keeps(step: Step) -> bool {
        protocol::keeps(step)
    }
}

fn mapped(address: u64) -> NonNull<u8> {
    // SAFETY: the direct map does not begin at 0.
    unsafe { NonNull::new_unchecked(direct(address)) }
}
