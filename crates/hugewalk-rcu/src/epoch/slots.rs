//! The slots in which readers note that they are in a section.

use alloc::alloc::{alloc, dealloc};
use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering;

use crate::{OutOfMemory, Word};

/// The word that one reader writes and every grace period reads. It takes two cache lines, since
/// processors fetch them in pairs.
#[repr(align(128))]
pub(super) struct Slot<W> {
    /// 0 while the reader is in no section, otherwise the epoch that was current when it entered
    /// the outermost one.
    pub(super) epoch: W,
    /// The slot made before this one. Never changes.
    older: *const Slot<W>,
    /// The next free slot, if this one is free. Guarded by the lock of the domain.
    next_free: UnsafeCell<*const Slot<W>>,
}

/// All slots of a domain, and a list of the free ones. Guarded by the lock of the domain.
///
/// Slots are not freed before the domain ends, so a scan may follow them without the lock. They are
/// reused, so there are no more than there were readers at one time.
///
/// # Invariants
///
/// - `newest` and `older` lead over all slots made so far and then to null. Each came from the global allocator with
///   the layout of `Slot<W>`, is initialised, and lives as long as this value.
/// - `free` and `next_free` lead over the slots without a reader and then to null. Their epoch is 0.
pub(super) struct Slots<W> {
    newest: *const Slot<W>,
    free: *const Slot<W>,
}

// SAFETY: by the type invariants it owns the slots. Threads share only their epochs, which are
// atomics.
unsafe impl<W: Word> Send for Slots<W> {}

/// The slots made so far, for reading without the lock.
///
/// # Invariants
///
/// As for [`Slots::newest`]: the slots live as long as the domain.
pub(super) struct Scan<W> {
    newest: *const Slot<W>,
}

impl<W: Word> Slots<W> {
    pub(super) const fn new() -> Self {
        // INVARIANT: no slots.
        Self { newest: ptr::null(), free: ptr::null() }
    }

    /// Takes a slot that another reader has given up.
    pub(super) fn reuse(&mut self) -> Option<NonNull<Slot<W>>> {
        let slot = NonNull::new(self.free.cast_mut())?;
        // SAFETY: by the type invariants the slot is alive.
        let next = unsafe { slot.as_ref() }.next_free.get();
        // SAFETY: `&mut self` stands for the lock that guards `next_free`.
        // INVARIANT: the slot has a reader from now on.
        self.free = unsafe { *next };
        Some(slot)
    }

    /// Adds a slot that has a reader.
    #[expect(clippy::needless_pass_by_value, reason = "a slot is added once")]
    pub(super) fn add(&mut self, slot: NewSlot<W>) -> NonNull<Slot<W>> {
        let mut slot = slot.0;
        // SAFETY: a `NewSlot` is initialised, and nothing else reaches it before this.
        unsafe { slot.as_mut() }.older = self.newest;
        // INVARIANT: allocated by `NewSlot::new`, and never freed before `self`.
        self.newest = slot.as_ptr();
        slot
    }

    /// Takes the slot of a reader back.
    ///
    /// # Safety
    ///
    /// `slot` came from [`add`](Self::add) or [`reuse`](Self::reuse) of this value and has not been released since.
    /// Its epoch is 0.
    pub(super) unsafe fn release(&mut self, slot: NonNull<Slot<W>>) {
        // SAFETY: by the type invariants the slot is alive.
        let next = unsafe { slot.as_ref() }.next_free.get();
        // SAFETY: `&mut self` stands for the lock that guards `next_free`.
        unsafe { *next = self.free };
        // INVARIANT: it was in use, so it was not in the list yet.
        self.free = slot.as_ptr();
    }

    /// Slots made so far.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        // SAFETY: by the type invariants the slots are alive.
        core::iter::successors(unsafe { self.newest.as_ref() }, |slot| unsafe { slot.older.as_ref() }).count()
    }

    /// The slots made so far, for a look at them without the lock.
    pub(super) fn scan(&self) -> Scan<W> {
        Scan { newest: self.newest }
    }
}

impl<W> Drop for Slots<W> {
    fn drop(&mut self) {
        let mut slot = self.newest.cast_mut();
        while !slot.is_null() {
            // SAFETY: by the type invariants the slot is alive.
            let older = unsafe { (*slot).older };
            // SAFETY: by the type invariants it is initialised; the domain ends, so nothing reads
            // it any more.
            unsafe { slot.drop_in_place() };
            // SAFETY: by the type invariants it came from `alloc` with this layout.
            unsafe { dealloc(slot.cast(), Layout::new::<Slot<W>>()) };
            slot = older.cast_mut();
        }
    }
}

/// A slot that is not in the list yet. It is allocated apart, because the allocator must not be
/// called with a spinning lock held.
///
/// # Invariants
///
/// Came from the global allocator with the layout of `Slot<W>`, is initialised, and belongs to this
/// value alone.
pub(super) struct NewSlot<W>(NonNull<Slot<W>>);

impl<W: Word> NewSlot<W> {
    pub(super) fn new() -> Result<Self, OutOfMemory> {
        // SAFETY: the layout is not zero-sized, since there are pointers in it.
        let memory = unsafe { alloc(Layout::new::<Slot<W>>()) };
        let slot = NonNull::new(memory.cast::<Slot<W>>()).ok_or(OutOfMemory)?;
        let empty = Slot { epoch: W::new(0), older: ptr::null(), next_free: UnsafeCell::new(ptr::null()) };
        // SAFETY: freshly allocated with this layout, so valid for this write.
        unsafe { slot.write(empty) };
        // INVARIANT: allocated and initialised above.
        Ok(Self(slot))
    }
}

impl<W: Word> Scan<W> {
    /// The oldest epoch that a reader is in, or `None` if no section is open.
    ///
    /// # Safety
    ///
    /// The domain is alive.
    pub(super) unsafe fn oldest(&self) -> Option<u64> {
        let mut oldest = None;
        let mut slot = self.newest;
        while !slot.is_null() {
            // SAFETY: by the type invariants the slot is alive, as the domain is.
            let Slot { epoch, older, .. } = unsafe { &*slot };
            // Acquire (G3): synchronises with the Release of R2 or R4 that wrote the value. So
            // everything that earlier sections did comes before the callbacks that this scan
            // allows.
            let epoch = epoch.load(Ordering::Acquire);
            if epoch != 0 && oldest.is_none_or(|oldest| epoch < oldest) {
                oldest = Some(epoch);
            }
            slot = *older;
        }
        oldest
    }
}
