//! Table pages and the records beside them: memory that is reserved whole and used as it is touched.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Zeroed memory for `count` values, aligned to `align`. The kernel gives the pages when they are touched.
pub(crate) struct Region {
    start: NonNull<u8>,
    layout: Layout,
    item: usize,
}

// SAFETY: plain memory; who gets a pointer into it is the platform's business.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    pub(crate) fn new(item: usize, count: usize, align: usize) -> Self {
        let layout = Layout::from_size_align(item * count, align).unwrap();
        // SAFETY: the size is not 0.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, layout, item }
    }

    pub(crate) fn at(&self, index: usize) -> NonNull<u8> {
        let offset = index * self.item;
        assert!(offset < self.layout.size(), "frame {index} does not exist");
        // SAFETY: inside the allocation, as just checked.
        unsafe { self.start.add(offset) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// Which of so many frames are in use. The one freed last is handed out first: that is where mistakes show.
pub(crate) struct Frames {
    free: Vec<usize>,
    used: Vec<bool>,
    fresh: usize,
}

impl Frames {
    pub(crate) fn new(count: usize) -> Self {
        Self { free: Vec::new(), used: vec![false; count], fresh: 0 }
    }

    pub(crate) fn take(&mut self) -> Option<usize> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.fresh < self.used.len() => {
                self.fresh += 1;
                self.fresh - 1
            }
            None => return None,
        };
        self.used[index] = true;
        Some(index)
    }

    pub(crate) fn give(&mut self, index: usize) {
        assert!(self.is_used(index), "frame {index} is freed twice");
        self.used[index] = false;
        self.free.push(index);
    }

    pub(crate) fn is_used(&self, index: usize) -> bool {
        self.used.get(index).copied().unwrap_or(false)
    }

    pub(crate) fn in_use(&self) -> usize {
        self.fresh - self.free.len()
    }
}
