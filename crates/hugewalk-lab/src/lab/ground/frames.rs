//! Huge pages as the machine hands them out: each once in a run, but for the one of 1 GiB, the start of which is handed out again
//! as a page of 2 MiB once it was given back.

use hugewalk::addr::{HugeFrame, HugeSize};
use hugewalk::arch::X86_64;

use super::{PAGES, World};

/// The page of 1 GiB that there is. Its record is the last one.
pub(super) const LARGE: HugeFrame = HugeFrame(1 << 18);

const _: () = assert!((LARGE.0 as usize >> 9).is_multiple_of(PAGES));

/// What has become of the page of 1 GiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Large {
    /// It was never handed out.
    #[default]
    Unused,
    HandedOut,
    GivenBack,
    /// Its start was handed out again.
    Small,
}

impl World {
    /// Has this page been allocated?
    pub(in crate::lab) fn was_allocated(&self, frame: HugeFrame) -> bool {
        let shift = self.page_shift();
        let is_small = frame.0.is_multiple_of(1 << shift)
            && (1..=self.next_page.get() as u64).contains(&(frame.0 >> shift));
        is_small || frame == LARGE && self.large.get() != Large::Unused
    }

    /// The pages of 2 MiB that have been handed out in this run.
    pub(in crate::lab) fn pages(&self) -> impl Iterator<Item = HugeFrame> {
        let large = (self.large.get() == Large::Small).then_some(LARGE);
        (0..self.next_page.get()).map(|record| self.page_of(record)).chain(large)
    }

    /// A page. Its record has zeroes, or what was left in it when the page was given back.
    pub(in crate::lab) fn alloc_page(&self, size: HugeSize) -> Option<HugeFrame> {
        let frame = match (size == X86_64::SIZE_1G, self.large.get()) {
            (true, Large::Unused) => {
                self.large.set(Large::HandedOut);
                self.wiped(LARGE)
            }
            (true, _) => return None,
            (false, Large::GivenBack) => {
                self.large.set(Large::Small);
                LARGE
            }
            (false, _) => {
                let number = self.next_page.get() + 1;
                // The last record is that of the large page.
                if number == PAGES {
                    return None;
                }
                self.next_page.set(number);
                self.wiped(self.page_of(number - 1))
            }
        };
        self.live_pages.set(self.live_pages.get() + 1);
        Some(frame)
    }

    fn wiped(&self, frame: HugeFrame) -> HugeFrame {
        // SAFETY: the record of a page nobody has yet; all-zero bytes are what the engine asks for.
        unsafe { self.page_record(frame).cast::<super::Record>().write_bytes(0, 1) };
        frame
    }

    pub(in crate::lab) fn free_page(&self, frame: HugeFrame) {
        self.live_pages.set(self.live_pages.get().wrapping_sub(1));
        if frame == LARGE && self.large.get() == Large::HandedOut {
            self.large.set(Large::GivenBack);
        }
    }
}
