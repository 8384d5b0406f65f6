//! Interrupts to other processors: to drop translations, and as a barrier.
//!
//! # Protocol
//!
//! A processor that wants something of others takes the lock, counts them in [`UNANSWERED`], interrupts each, and waits until
//! all have answered. The handler (`vector_flush` in `entry.s`) reloads the root table and counts down; it takes no lock.
//!
//! The kernel waits with interrupts on, here and for every spinning lock. So a processor that waits for a lock answers, and
//! what this one holds meanwhile (table locks among them) cannot keep the answer from coming. The short ways to and from
//! ring 3 have interrupts off, but they wait for nothing.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use spin::Mutex;

use super::{all, apic, flush_own, this};

/// Processors that have not answered yet.
#[unsafe(no_mangle)]
static UNANSWERED: AtomicU64 = AtomicU64::new(0);
/// Interrupts that met a processor in a program.
#[unsafe(no_mangle)]
static DISTURBED: AtomicU64 = AtomicU64::new(0);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static SENT: AtomicU64 = AtomicU64::new(0);

/// Interrupts that were sent, and how many of them met a processor in a program.
pub fn counts() -> (u64, u64) {
    (SENT.load(Ordering::Relaxed), DISTURBED.load(Ordering::Relaxed))
}

/// Interrupts the processors in the mask except the calling one, and waits until all have answered.
fn interrupt(mask: u64) {
    debug_assert!(x86_64::instructions::interrupts::are_enabled(), "waits with interrupts off");
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
        apic::send(processor.apic_id(), apic::FLUSH);
    }
    SENT.fetch_add(count, Ordering::Relaxed);
    while UNANSWERED.load(Ordering::SeqCst) != 0 {
        core::hint::spin_loop();
    }
}

/// Drops all translations that the processors in the mask have. When it returns, none uses an entry as it was before the call.
pub fn flush(mask: impl FnOnce() -> u64) {
    // A processor that is not in the mask yet sees the changed entries when it loads the root: it enters the mask first.
    // Pairs with the SeqCst in `Root::load`.
    fence(Ordering::SeqCst);
    let mask = mask();
    if mask & 1 << this().number() != 0 {
        flush_own();
    }
    interrupt(mask);
}

/// A full barrier on every processor that runs anything. One that idles is in no read section, and passes a full barrier when
/// it stops idling.
pub fn barrier() {
    fence(Ordering::SeqCst);
    let busy = all().iter().filter(|processor| !processor.idle.load(Ordering::SeqCst));
    interrupt(busy.fold(0, |mask, processor| mask | 1 << processor.number()));
}
