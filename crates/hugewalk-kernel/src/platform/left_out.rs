//! `hugewalk run --without flush`: what happens if the TLB is not flushed.
//!
//! The engine asks for a flush, and the hardware's entries are changed as always, but no processor is told. Which processors ran the
//! address space meanwhile is counted; `examples/guest/stale.c` shows what one of them goes on reading.
//!
//! A table that a processor may still walk is never handed out again, so a late walk meets what was there and does no harm. Huge
//! pages go back to the pool and to others: the program sees the contents of somebody else's page, which is the point.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::console::report;
use crate::cpu;
use crate::space::root::Root;

static FLUSH: AtomicBool = AtomicBool::new(false);
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);
static NOT_TOLD: AtomicU64 = AtomicU64::new(0);
static KEPT: AtomicU64 = AtomicU64::new(0);

/// Leaves flushes out from now on.
pub fn leave_out_flush() {
    FLUSH.store(true, Ordering::Relaxed);
}

/// Are flushes left out?
pub fn is_flush() -> bool {
    FLUSH.load(Ordering::Relaxed)
}

/// A table is not given back.
pub(super) fn keep_table() {
    KEPT.fetch_add(1, Ordering::Relaxed);
}

/// Tables that were not given back.
pub fn kept_tables() -> u64 {
    KEPT.load(Ordering::Relaxed)
}

/// A flush of a range is left out: which other processors run the address space, and were not told?
pub(super) fn note(root: &Root, start: u64) {
    LEFT_OUT.fetch_add(1, Ordering::Relaxed);
    let others = root.processors() & !(1 << cpu::this().number());
    if others != 0 && NOT_TOLD.fetch_add(u64::from(others.count_ones()), Ordering::Relaxed) == 0 {
        report(format_args!(
            "stale processor {} may still use what it knew of {start:#x}: the step `flush` is missing",
            others.trailing_zeros()
        ));
    }
}

/// Says what came of it.
pub fn say() {
    if is_flush() {
        report(format_args!("count left_out {}", LEFT_OUT.load(Ordering::Relaxed)));
        report(format_args!("count not_told {}", NOT_TOLD.load(Ordering::Relaxed)));
    }
}
