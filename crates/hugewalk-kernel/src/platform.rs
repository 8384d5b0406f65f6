//! The platform: all that `hugewalk` asks of a kernel, and the only room that knows the engine's side.
//!
//! | the engine asks for | it gets |
//! |---|---|
//! | table pages and huge pages, with room for their records | [`memory::frames`](crate::memory::frames) |
//! | spinning locks | `spin`'s: nothing of the kernel runs in an interrupt, and interrupts stay on while they spin |
//! | sleeping locks, and places to sleep | [`task::lock`](crate::task::lock), and the thread's own token |
//! | a barrier pair | a compiler fence for readers, an interrupt to every busy processor for the other side |
//! | read-copy-update | the engine's own |
//! | a TLB flush | [`Root::follow`](crate::space::root::Root::follow), then an interrupt to the processors that run the address space |
//!
//! The kernel is never preempted. So a read section, or a table lock, is never held by a thread that does not run.

use alloc::sync::Arc;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use hugewalk::Hugetlb;
use hugewalk::addr::{HugeFrame, HugeSize, TableFrame, VirtAddr};
use hugewalk::error::OutOfMemory;
use hugewalk::platform::{Barriers, ENTRIES, Event, Hugewalk, Levels, PageRecord, Platform, TableRecord};
use hugewalk::rcu::EpochRcu;
use hugewalk::sync::Parker;
use spin::{Mutex, Once};

use crate::cpu::shootdown;
use crate::memory::frames::{self, Kind};
use crate::memory::{HUGE, PAGE, direct};
use crate::report::COUNTERS;
use crate::space::root::Root;
use crate::task::lock::{RawMutex, RawRwLock};
use crate::task::{Thread, current, park, yield_now};

pub mod left_out;

static HUGETLB: Once<hugewalk::Arc<Hugetlb<Kernel>>> = Once::new();

/// Starts the engine, with this many huge pages of 2 MiB, and this many beyond that on demand.
///
/// # Errors
///
/// [`OutOfMemory`].
pub fn set_up(pool: u64, overcommit: u64) -> Result<(), OutOfMemory> {
    let hugetlb = Hugetlb::new(Kernel { _one: () })?;
    hugetlb.resize_pool(HugeSize::Size2M, pool);
    hugetlb.pool(HugeSize::Size2M).set_overcommit(overcommit);
    HUGETLB.call_once(|| hugetlb);
    Ok(())
}

/// The engine.
pub fn hugetlb() -> &'static hugewalk::Arc<Hugetlb<Kernel>> {
    HUGETLB.get().expect("the engine is started before the first program")
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
    type SpinLock = spin::Mutex<()>;

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
}

// SAFETY:
// - Frames: `frames` hands out a frame, or a huge page, once until it is given back; huge pages are aligned to their size.
//   Records are found by the frame's number, and overlap nothing. Those of huge pages are statics that start as zeroes.
// - All memory is in the direct map, which stays for ever.
// - `flush_tlb` changes the hardware's entries first, and waits until every processor that has the root loaded has reloaded it.
// - The locks are `spin`'s and those of `task::lock`.
unsafe impl Platform for Kernel {
    type Protocol = Hugewalk;
    type SleepMutex = RawMutex;
    type SleepRwLock = RawRwLock;
    type Parker = Bed;
    type Rcu = EpochRcu<Self>;
    type MmContext = Root;

    fn levels(&self) -> Levels {
        Levels::Four
    }

    fn new_context(&self) -> Result<Root, OutOfMemory> {
        Root::new().ok_or(OutOfMemory)
    }

    fn alloc_table(&self) -> Option<TableFrame> {
        frames::allocate_zeroed(Kind::Engine).map(|frame| TableFrame(frame / PAGE))
    }

    unsafe fn free_table(&self, frame: TableFrame) {
        if left_out::is_flush() {
            // A processor may still walk it.
            return left_out::keep_table();
        }
        // SAFETY: passed on to the caller.
        unsafe { frames::free(frame.0 * PAGE, Kind::Engine) };
    }

    unsafe fn table_entries(&self, frame: TableFrame) -> NonNull<[AtomicU64; ENTRIES]> {
        mapped(frame.0 * PAGE).cast()
    }

    unsafe fn table_record(&self, frame: TableFrame) -> NonNull<TableRecord> {
        frames::table_record(frame.0 * PAGE)
    }

    fn alloc_huge(&self, size: HugeSize) -> Option<HugeFrame> {
        frames::allocate_huge((size.bytes() / HUGE) as usize).map(|address| HugeFrame(address / PAGE))
    }

    unsafe fn free_huge(&self, frame: HugeFrame, size: HugeSize) {
        // SAFETY: passed on to the caller.
        unsafe { frames::free_huge(frame.0 * PAGE, (size.bytes() / HUGE) as usize) };
    }

    unsafe fn page_record(&self, frame: HugeFrame) -> NonNull<PageRecord> {
        frames::page_record(frame.0 * PAGE)
    }

    fn has_page_record(&self, frame: HugeFrame) -> bool {
        frame.0.checked_mul(PAGE).is_some_and(frames::is_memory)
    }

    unsafe fn huge_bytes(&self, frame: HugeFrame) -> Option<NonNull<u8>> {
        Some(mapped(frame.0 * PAGE))
    }

    // The engine's own way takes a word at a time; a kernel can do better.
    unsafe fn zero_huge(&self, frame: HugeFrame, size: HugeSize) {
        // SAFETY: passed on to the caller; the page is as large as its size says.
        unsafe { direct::<u8>(frame.0 * PAGE).write_bytes(0, size.bytes() as usize) };
    }

    unsafe fn copy_huge(&self, from: HugeFrame, to: HugeFrame, size: HugeSize) {
        let from = direct::<u8>(from.0 * PAGE);
        // SAFETY: passed on to the caller. Programs may write the first page meanwhile; the copy is made in assembly, which
        // takes what it finds.
        unsafe { direct::<u8>(to.0 * PAGE).copy_from_nonoverlapping(from, size.bytes() as usize) };
    }

    fn flush_tlb(&self, root: &Root, range: Range<VirtAddr>) {
        COUNTERS.flushes.add(1);
        root.follow(range.start.as_u64(), range.end.as_u64());
        if left_out::is_flush() {
            left_out::note(root, range.start.as_u64());
            return;
        }
        shootdown::flush(|| root.processors());
    }

    fn handler_called(&self, root: &Root) {
        root.handlers().wake_all();
    }

    fn trace(&self, event: Event) {
        match event {
            Event::Shared { .. } => COUNTERS.shares.add(1),
            Event::Unshared { .. } => COUNTERS.unshares.add(1),
            Event::StillMapped { frame } => {
                crate::console::report(format_args!("leak page {frame:?} is still mapped"))
            }
            _ => {}
        }
    }
}

fn mapped(address: u64) -> NonNull<u8> {
    // SAFETY: the direct map does not begin at 0.
    unsafe { NonNull::new_unchecked(direct(address)) }
}
