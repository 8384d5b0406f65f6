//! The lines in which tasks mark the locks that they hold in read.
//!
//! A line belongs to one task, so a reader that marks one writes nothing that another reader writes.

use alloc::alloc::{alloc, dealloc};
use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering;

use crate::error::OutOfMemory;
use crate::platform::{Barriers, Platform};
use crate::sync::{SpinLock, Word};

/// How many locks a task holds in read without writing to them: a fault holds two, and its caller may hold others. They fill
/// a cache line together with the two links.
const MARKS: usize = 6;

/// The marks of one task. It takes two cache lines, since processors fetch them in pairs.
#[repr(align(128))]
pub(crate) struct Line<W> {
    /// 0, or the mark of a lock that is held in read. Changed from 0 by the task alone, and back by the guard.
    marks: [W; MARKS],
    /// The line made before this one. Never changes.
    older: *const Line<W>,
    /// The next free line, if this one is free. Guarded by the lock of [`Lines`].
    next_free: UnsafeCell<*const Line<W>>,
}

/// All lines of a system, and a list of the free ones.
///
/// Lines are not freed before the system ends, so a scan may follow them without the lock. They are
/// reused, so there are no more than there were tasks at one time.
pub(crate) struct Lines<P: Barriers>(SpinLock<P, List<P::Word>>);

/// # Invariants
///
/// - `newest` and `older` lead over all lines made so far and then to null. Each came from the global allocator with
///   the layout of `Line<W>`, is initialised, and lives as long as this value.
/// - `free` and `next_free` lead over the lines without a task and then to null.
struct List<W> {
    newest: *const Line<W>,
    free: *const Line<W>,
}

// SAFETY: by the type invariants it owns the lines. Threads share only their marks, which are atomics.
unsafe impl<W: Send + Sync> Send for List<W> {}

impl<P: Platform> Lines<P> {
    pub(crate) fn new() -> Self {
        // INVARIANT: no lines.
        Self(SpinLock::<P, _>::new(List { newest: ptr::null(), free: ptr::null() }))
    }

    /// A line for a task. The pointer is valid as long as this value.
    pub(crate) fn take(&self) -> Result<NonNull<Line<P::Word>>, OutOfMemory> {
        if let Some(line) = self.reuse() {
            return Ok(line);
        }
        // Allocated apart: the allocator must not be called with a spinning lock held.
        let line = Line::allocate()?;
        let mut list = self.0.lock();
        // SAFETY: initialised, and nothing else reaches it before this.
        unsafe { (*line.as_ptr()).older = list.newest };
        // INVARIANT: allocated and initialised above, and never freed before the list.
        list.newest = line.as_ptr();
        Ok(line)
    }

    /// A line that another task has given back. Allocates nothing.
    pub(crate) fn reuse(&self) -> Option<NonNull<Line<P::Word>>> {
        let mut list = self.0.lock();
        let line = NonNull::new(list.free.cast_mut())?;
        // SAFETY: by the type invariants the line is alive.
        let next = unsafe { line.as_ref() }.next_free.get();
        // SAFETY: the lock that guards `next_free` is held.
        // INVARIANT: the line has a task from now on.
        list.free = unsafe { *next };
        Some(line)
    }

    /// Takes the line of a task back. A guard that outlives the task may still have a mark in it.
    ///
    /// # Safety
    ///
    /// `line` came from [`take`](Self::take) or [`reuse`](Self::reuse) of this value, and was not given back since.
    pub(crate) unsafe fn give_back(&self, line: NonNull<Line<P::Word>>) {
        let mut list = self.0.lock();
        // SAFETY: by the type invariants the line is alive.
        let next = unsafe { line.as_ref() }.next_free.get();
        // SAFETY: the lock that guards `next_free` is held.
        unsafe { *next = list.free };
        // INVARIANT: it had a task, so it was not in the list yet.
        list.free = line.as_ptr();
    }

    /// Does any task have this mark? The list is read under its lock, and the marks without.
    pub(crate) fn any(&self, mark: u64) -> bool {
        let mut line = self.0.lock().newest;
        // SAFETY: by the type invariants the line is alive, or the pointer null.
        while let Some(this) = unsafe { line.as_ref() } {
            // Acquire: synchronises with the Release that cleared a mark, or with that of a later mark in the same place. So
            // what the reader did comes before what the writer does.
            if this.marks.iter().any(|place| place.load(Ordering::Acquire) == mark) {
                return true;
            }
            line = this.older;
        }
        false
    }
}

impl<W> Drop for List<W> {
    fn drop(&mut self) {
        let mut line = self.newest.cast_mut();
        while !line.is_null() {
            // SAFETY: by the type invariants the line is alive.
            let older = unsafe { (*line).older };
            // SAFETY: by the type invariants it is initialised; the system ends, so nothing reads it any more.
            unsafe { line.drop_in_place() };
            // SAFETY: by the type invariants it came from `alloc` with this layout.
            unsafe { dealloc(line.cast(), Layout::new::<Line<W>>()) };
            line = older.cast_mut();
        }
    }
}

impl<W: Word> Line<W> {
    fn allocate() -> Result<NonNull<Self>, OutOfMemory> {
        // SAFETY: the layout is not zero-sized, since there are pointers in it.
        let memory = unsafe { alloc(Layout::new::<Self>()) };
        let line = NonNull::new(memory.cast::<Self>()).ok_or(OutOfMemory)?;
        let empty = Self {
            marks: core::array::from_fn(|_| W::new(0)),
            older: ptr::null(),
            next_free: UnsafeCell::new(ptr::null()),
        };
        // SAFETY: freshly allocated with this layout, so valid for this write.
        unsafe { line.write(empty) };
        Ok(line)
    }

    /// A place without a mark. Asked by the task that has the line.
    #[inline]
    pub(crate) fn place(&self) -> Option<&W> {
        // Acquire: a guard on another thread, of a task that had the line before, may have cleared it. Its reader then
        // comes before what is marked next.
        self.marks.iter().find(|place| place.load(Ordering::Acquire) == 0)
    }
}

/// Marks a lock in a place of the task's line.
#[inline]
pub(super) fn set<W: Word>(place: &W, mark: u64) {
    // Release: what the place held before was another reader's, and the scan of its writer may read this instead.
    place.store(mark, Ordering::Release);
}

/// Clears the mark of a lock that was held in read.
#[inline]
pub(super) fn clear<W: Word>(place: &W) {
    // Release: read by the scan of a writer, in `Lines::any`.
    place.store(0, Ordering::Release);
}
