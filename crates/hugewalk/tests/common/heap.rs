//! A heap that fails when it is told to, knows what is in use, and minds being used with a spinning lock held.

use core::cell::Cell;
use std::alloc::{GlobalAlloc, Layout, System};

use super::{inject, locks};

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

/// Allocations of this thread that have not been freed.
pub(crate) fn live() -> i64 {
    LIVE.get()
}

pub(crate) struct Heap;

// SAFETY: the system's, but for the allocations that are refused, as any may be.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        locks::using_heap();
        if !inject::permit() {
            return core::ptr::null_mut();
        }
        LIVE.set(LIVE.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        locks::using_heap();
        if !inject::permit() {
            return core::ptr::null_mut();
        }
        LIVE.set(LIVE.get() + 1);
        // SAFETY: the caller's promise is passed on. (By hand, large regions would be written all over.)
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        locks::using_heap();
        if !inject::permit() {
            return core::ptr::null_mut();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        locks::using_heap();
        LIVE.set(LIVE.get() - 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) };
    }
}
