//! Huge pages with contents: some of each size that the format has and the machine has memory for.

use alloc::vec::Vec;

use hugewalk::addr::{FRAME_BYTES, HugeFrame, HugeSize};
use hugewalk::platform::PageRecord;

use crate::{Machine, Mutex};

/// A page: where, how large, and what the engine keeps of it.
struct Frame {
    frame: HugeFrame,
    size: HugeSize,
    record: PageRecord,
}

/// All pages, and which of them nobody has.
///
/// # Invariants
///
/// No two pages overlap. The records stay where they are.
pub(crate) struct Frames {
    all: Vec<Frame>,
    /// A bit for each.
    free: Mutex<u64>,
}

impl Frames {
    /// Places pages of these sizes in the machine's memory, from its end down, the largest first.
    pub(crate) fn new<M: Machine>(sizes: &[HugeSize]) -> Self {
        let mut memory = M::memory();
        let mut all = Vec::new();
        for &size in sizes.iter().rev() {
            for _ in 0..wanted(size) {
                let room = memory.iter_mut().rev().find_map(|range| {
                    let start = size.round_down(range.end.checked_sub(size.bytes())?);
                    (start >= range.start).then(|| {
                        range.end = start;
                        start
                    })
                });
                let Some(start) = room else { break };
                // INVARIANT: the rest of the range ends where the page begins.
                all.push(Frame { frame: HugeFrame(start / FRAME_BYTES), size, record: PageRecord::new() });
            }
        }
        assert!(all.len() < 64, "a bit for each page");
        let free = Mutex::new((1 << all.len()) - 1);
        Self { all, free }
    }

    /// How many there are of a size.
    pub(crate) fn count(&self, size: HugeSize) -> u64 {
        self.all.iter().filter(|frame| frame.size == size).count() as u64
    }

    pub(crate) fn take(&self, size: HugeSize) -> Option<HugeFrame> {
        let mut free = self.free.lock();
        let index =
            (0..self.all.len()).find(|&index| *free >> index & 1 != 0 && self.all[index].size == size)?;
        *free &= !(1 << index);
        Some(self.all[index].frame)
    }

    pub(crate) fn give(&self, frame: HugeFrame) {
        let index = self.index(frame).expect("a page that was taken");
        *self.free.lock() |= 1 << index;
    }

    /// What the engine keeps of a page.
    pub(crate) fn record(&self, frame: HugeFrame) -> Option<&PageRecord> {
        self.index(frame).map(|index| &self.all[index].record)
    }

    fn index(&self, frame: HugeFrame) -> Option<usize> {
        self.all.iter().position(|known| known.frame == frame)
    }
}

/// How many pages of a size there are to be. Larger ones take long to fill.
const fn wanted(size: HugeSize) -> usize {
    match size.shift() {
        ..25 => 16,
        25..29 => 4,
        29..31 => 2,
        _ => 0,
    }
}
