//! References to pages that lie side by side in a file or in a mapping.

use super::PageRef;
use crate::addr::{HugeFrame, HugeSize};
use crate::hugetlb::{Hugetlb, RUN};
use crate::platform::Platform;

/// One reference to each of a few pages.
///
/// # Invariants
///
/// Of the first `len` of `frames`, those from `next` on have a reference that this value owns.
pub(crate) struct PageRun<'h, P: Platform> {
    hugetlb: &'h Hugetlb<P>,
    size: HugeSize,
    frames: [HugeFrame; RUN],
    next: usize,
    len: usize,
}

impl<'h, P: Platform> PageRun<'h, P> {
    /// # Safety
    ///
    /// The caller owns a reference to each of the first `len` pages, and passes it on.
    pub(crate) unsafe fn from_raw(
        hugetlb: &'h Hugetlb<P>,
        size: HugeSize,
        frames: [HugeFrame; RUN],
        len: usize,
    ) -> Self {
        // INVARIANT: by the contract of this function.
        Self { hugetlb, size, frames, next: 0, len }
    }

    /// Those that were not taken out yet.
    pub(crate) fn frames(&self) -> &[HugeFrame] {
        self.frames.get(self.next..self.len).unwrap_or(&[])
    }

    /// How many were taken out.
    pub(crate) fn taken_out(&self) -> usize {
        self.next
    }

    /// Takes the first one out.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<PageRef<'h, P>> {
        let frame = *self.frames().first()?;
        // INVARIANT: its reference passes on.
        self.next += 1;
        // SAFETY: by the type invariants the reference was this value's.
        Some(unsafe { PageRef::from_raw(self.hugetlb, frame, self.size) })
    }

    /// Takes the first `len` out, together.
    pub(crate) fn split_off_front(&mut self, len: usize) -> Self {
        let (next, end) = (self.next, self.next.saturating_add(len).min(self.len));
        // INVARIANT: their references pass on.
        self.next = end;
        Self { hugetlb: self.hugetlb, size: self.size, frames: self.frames, next, len: end }
    }
}

impl<P: Platform> Drop for PageRun<'_, P> {
    fn drop(&mut self) {
        while let Some(page) = self.pop() {
            drop(page);
        }
    }
}
