//! Interrupts to other processors: to drop translations, as a barrier, and to wait for those that have interrupts off.
//!
//! # Protocol
//!
//! A processor that wants something of others takes the lock, counts them in [`UNANSWERED`], interrupts each, and waits until
//! all have answered. The handler (`vector_flush` in `entry.s`) reloads the root table and counts down; it takes no lock.
//!
//! The kernel waits with interrupts on, here and for every spinning lock. So a processor that waits for a lock answers, and
//! what this one holds meanwhile (table locks among them) cannot keep the answer from coming. The short ways to and from
//! ring 3 have interrupts off, but they wait for nothing.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use spin::Mutex;

use super::{MAX, all, flush_own, this};
use crate::arch::controller::{self, Interrupt};
use crate::arch::{interrupts, mmu};
use crate::space::active::is_lazy;

/// Processors that have not answered yet.
#[unsafe(no_mangle)]
static UNANSWERED: AtomicU64 = AtomicU64::new(0);
/// Interrupts that met a processor in a program.
#[unsafe(no_mangle)]
static DISTURBED: AtomicU64 = AtomicU64::new(0);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
/// What an interrupt is sent for.
#[derive(Clone, Copy)]
#[repr(usize)]
enum Cause {
    Flush,
    Barrier,
    Broadcast,
}

/// By the processor that gets it, and by cause.
static SENT: [[AtomicU64; 3]; MAX] = [const { [const { AtomicU64::new(0) }; 3] }; MAX];
static BROADCASTS: AtomicU64 = AtomicU64::new(0);

/// Interrupts that were sent.
pub struct Counts {
    /// For flushes of the TLB.
    pub flush: u64,
    /// For grace periods, and where a lock's bias was taken away.
    pub barrier: u64,
    /// For broadcasts of a protocol that has them.
    pub broadcast: u64,
    /// How many broadcasts.
    pub broadcasts: u64,
    /// How many of all interrupts met a processor in a program.
    pub disturbed: u64,
}

/// What was sent so far.
pub fn counts() -> Counts {
    let sent = |cause: Cause| SENT.iter().map(|to| to[cause as usize].load(Ordering::Relaxed)).sum();
    Counts {
        flush: sent(Cause::Flush),
        barrier: sent(Cause::Barrier),
        broadcast: sent(Cause::Broadcast),
        broadcasts: BROADCASTS.load(Ordering::Relaxed),
        disturbed: DISTURBED.load(Ordering::Relaxed),
    }
}

/// Interrupts for flushes that a processor was sent, and others.
pub fn sent_to(processor: usize) -> (u64, u64) {
    let sent = |cause: Cause| SENT[processor][cause as usize].load(Ordering::Relaxed);
    (sent(Cause::Flush), sent(Cause::Barrier) + sent(Cause::Broadcast))
}

/// Interrupts the processors in the mask except the calling one, and waits until all have answered.
fn interrupt(mask: u64, cause: Cause) {
    debug_assert!(interrupts::are_enabled(), "waits with interrupts off");
    let own = this().number();
    let others = mask & !(1 << own);
    if others == 0 {
        return;
    }
    let _guard = ONE_AT_A_TIME.lock();
    let count = u64::from(others.count_ones());
    // SeqCst: comes before the interrupts, whose handlers count down.
    UNANSWERED.store(count, Ordering::SeqCst);
    for processor in all().iter().filter(|processor| others & 1 << processor.number() != 0) {
        controller::send(processor.hardware_id(), Interrupt::Flush);
        SENT[processor.number()][cause as usize].fetch_add(1, Ordering::Relaxed);
    }
    while UNANSWERED.load(Ordering::SeqCst) != 0 {
        core::hint::spin_loop();
    }
}

/// Drops the translations of a range, one for each `stride` bytes, that the processors in the mask have, or more. When it returns, none uses an entry as it was before the call. If no
/// table went, those that are lazy do so when they run a program again.
pub fn flush(range: Range<u64>, stride: u64, tables: bool, mask: impl FnOnce() -> u64) {
    if mmu::FLUSHES_ARE_BROADCAST {
        mmu::flush_all_processors(range, stride, tables);
        return;
    }
    // A processor that is not in the mask yet sees the changed entries when it loads the root: it enters the mask first.
    // Pairs with the SeqCst in `Root::enter`.
    fence(Ordering::SeqCst);
    let mut mask = mask();
    if mask & 1 << this().number() != 0 {
        flush_own();
    }
    if !tables {
        let other = |processor: &&super::PerCpu| mask & 1 << processor.number() != 0;
        let lazy = all().iter().filter(other).filter(|processor| is_lazy(processor));
        mask &= !lazy.fold(0, |mask, processor| mask | 1 << processor.number());
    }
    interrupt(mask, Cause::Flush);
}

/// A full barrier on every processor that runs anything. One that idles is in no read section, and passes a full barrier when
/// it stops idling.
pub fn barrier() {
    fence(Ordering::SeqCst);
    let busy = all().iter().filter(|processor| !processor.idle.load(Ordering::SeqCst));
    interrupt(busy.fold(0, |mask, processor| mask | 1 << processor.number()), Cause::Barrier);
}

/// Waits until no other processor is in a stretch with interrupts off that began before: all of them, also those that idle.
/// Linux: `tlb_remove_table_sync_one()`.
pub fn broadcast() {
    BROADCASTS.fetch_add(1, Ordering::Relaxed);
    interrupt(all().iter().fold(0, |mask, processor| mask | 1 << processor.number()), Cause::Broadcast);
}

/// As [`broadcast`], only of processors that say that they walk an address space without locks.
pub fn interrupt_walkers(mm: u64) {
    // SeqCst: what was cleared comes before the look. Pairs with the store in `walk_without_locks`.
    fence(Ordering::SeqCst);
    let walkers = all().iter().filter(|processor| processor.walks.load(Ordering::SeqCst) == mm);
    interrupt(walkers.fold(0, |mask, processor| mask | 1 << processor.number()), Cause::Broadcast);
}

/// Walks an address space without locks, with interrupts off: who frees a table waits for that by an interrupt. `walk` waits for
/// nothing. Linux: the section of `gup_fast()` in mm/gup.c.
pub fn walk_without_locks<R>(mm: u64, walk: impl FnOnce() -> R) -> R {
    interrupts::without_interrupts(|| {
        let processor = this();
        // SeqCst: stored before the walk reads an entry. Pairs with the fence in `interrupt_walkers`.
        processor.walks.swap(mm, Ordering::SeqCst);
        let found = walk();
        processor.walks.store(0, Ordering::SeqCst);
        found
    })
}
