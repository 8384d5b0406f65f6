//! Machines with a flaw: what the engine relies on, and a scenario takes away to show what comes of it.
//!
//! The engine is the same, and whole. A scenario that shows why the engine does something in one step, or in this order, runs it
//! on a machine where it is two steps, or comes in another order.

use std::cell::Cell;

use hugewalk::addr::HugeFrame;

use crate::explore::MAX_THREADS;

/// What a machine does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A compare-and-swap of an entry, by the engine, is a load, and later a store: a mistake that a kernel makes which reads an
    /// entry, thinks, and writes it.
    TornExchange,
    /// A compare-and-swap of a page's count of references is a load, and later a store.
    TornFreeze,
    /// A TLB is never flushed.
    NoFlush,
    /// A flush of the TLB is put off until the thread releases a sleeping lock: what the engine does after a flush, it does before.
    LateFlush,
    /// A page is filled when the thread next releases a sleeping lock, not before: what the engine does with a filled page, it does before.
    LateFill,
    /// The lock of a table keeps nobody out.
    OpenTableLock,
    /// An entry that is exchanged for another is empty in between: what a processor asks for that wants a break before a make,
    /// done without a thought for who looks.
    EmptyFirst,
    /// A reference that is taken to a page under a spinning lock is counted after the lock was released.
    LateReference,
    /// A thread holds one spinning lock at a time, besides those of tables: it releases the first one when it takes a second.
    OneSpinLock,
}

/// What fills a page.
#[derive(Clone, Copy, Debug)]
pub(in crate::lab) enum Fill {
    Zero,
    Copy(HugeFrame),
    /// A part of it, from the file's side, or by a handler.
    Write,
}

impl Fill {
    pub(in crate::lab) fn in_words(self) -> String {
        match self {
            Self::Zero => "zeroes".to_owned(),
            Self::Copy(from) => format!("copies page {} to", from.0 >> 9),
            Self::Write => "writes".to_owned(),
        }
    }
}

/// A flush of a range that was put off.
#[derive(Clone, Copy, Debug)]
pub(in crate::lab) struct Flush {
    /// The address of the context.
    pub(in crate::lab) context: usize,
    pub(in crate::lab) start: u64,
    pub(in crate::lab) end: u64,
    pub(in crate::lab) stride: u64,
    /// Did tables go?
    pub(in crate::lab) tables: bool,
}

/// The flaws that the machine has in a run, and what threads have put off because of them.
#[derive(Debug, Default)]
pub(in crate::lab) struct Flaws {
    has: Cell<u16>,
    fills: Cell<[Option<(HugeFrame, Fill)>; MAX_THREADS]>,
    flushes: Cell<[Option<Flush>; MAX_THREADS]>,
    references: Cell<[Option<HugeFrame>; MAX_THREADS]>,
    spinning: Cell<[u32; MAX_THREADS]>,
    outer: Cell<[Outer; MAX_THREADS]>,
}

/// The spinning lock that a thread has taken first: its address, and whether it was released early.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::lab) enum Outer {
    #[default]
    None,
    Held(usize),
    Released(usize),
}

impl Flaws {
    pub(super) fn begin_run(&self) {
        self.has.set(0);
        self.fills.set(Default::default());
        self.flushes.set(Default::default());
        self.references.set(Default::default());
        self.spinning.set(Default::default());
        self.outer.set(Default::default());
    }

    /// The thread has taken a spinning lock, or released one. Returns how many it holds.
    pub(in crate::lab) fn spins(&self, thread: usize, change: i32) -> u32 {
        let mut spinning = self.spinning.get();
        spinning[thread] = spinning[thread].saturating_add_signed(change);
        self.spinning.set(spinning);
        spinning[thread]
    }

    /// The thread will count a reference later, if it holds a spinning lock.
    pub(in crate::lab) fn put_off_reference(&self, thread: usize, page: HugeFrame) -> bool {
        let mut references = self.references.get();
        let puts_off = self.spinning.get()[thread] > 0 && references[thread].is_none();
        if puts_off {
            references[thread] = Some(page);
            self.references.set(references);
        }
        puts_off
    }

    /// The reference that the thread was to count, which is not put off any more.
    pub(in crate::lab) fn reference_put_off(&self, thread: usize) -> Option<HugeFrame> {
        let mut references = self.references.get();
        let page = references[thread].take();
        self.references.set(references);
        page
    }

    /// The lock that the thread has taken first.
    pub(in crate::lab) fn outer(&self, thread: usize) -> Outer {
        self.outer.get()[thread]
    }

    pub(in crate::lab) fn set_outer(&self, thread: usize, lock: Outer) {
        let mut outer = self.outer.get();
        outer[thread] = lock;
        self.outer.set(outer);
    }

    /// The thread will fill a page later.
    pub(in crate::lab) fn put_off_fill(&self, thread: usize, page: HugeFrame, fill: Fill) {
        let mut fills = self.fills.get();
        fills[thread] = Some((page, fill));
        self.fills.set(fills);
    }

    /// What the thread was to fill, which is not put off any more.
    pub(in crate::lab) fn put_off(&self, thread: usize) -> Option<(HugeFrame, Fill)> {
        let mut fills = self.fills.get();
        let fill = fills[thread].take();
        self.fills.set(fills);
        fill
    }

    /// The thread will flush later. What it has put off of one context is one flush.
    pub(in crate::lab) fn put_off_flush(&self, thread: usize, flush: Flush) {
        let mut flushes = self.flushes.get();
        let so_far = flushes[thread].filter(|so_far| so_far.context == flush.context).unwrap_or(flush);
        let (start, end) = (so_far.start.min(flush.start), so_far.end.max(flush.end));
        let stride = so_far.stride.min(flush.stride);
        flushes[thread] = Some(Flush { start, end, stride, tables: so_far.tables || flush.tables, ..flush });
        self.flushes.set(flushes);
    }

    /// The flush that the thread was to do, which is not put off any more.
    pub(in crate::lab) fn flush_put_off(&self, thread: usize) -> Option<Flush> {
        let mut flushes = self.flushes.get();
        let flush = flushes[thread].take();
        self.flushes.set(flushes);
        flush
    }

    /// From now on the machine has this one.
    pub(in crate::lab) fn add(&self, flaw: Flaw) {
        self.has.set(self.has.get() | 1 << flaw as u16);
    }

    /// Does the machine have it?
    #[inline]
    pub(in crate::lab) fn has(&self, flaw: Flaw) -> bool {
        self.has.get() & 1 << flaw as u16 != 0
    }
}
