//! References to pages as values: one that is owned, and one that was taken on a guess.

use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr;
use core::sync::atomic::Ordering;

use super::{Page, size_of_pool};
use crate::addr::{HugeFrame, HugeSize};
use crate::hugetlb::Hugetlb;
use crate::platform::Platform;
use crate::sync::Word;

/// Why no reference to a page could be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotHeld {
    /// The page has no references: it is in the pool, or on its way there.
    Free,
    /// One more reference might overflow the count.
    Crowded,
}

/// One reference to a page: one on its way from the pool to its first use, or one that a caller
/// inspects.
///
/// # Invariants
///
/// The page has a reference that this value owns.
pub(crate) struct PageRef<'h, P: Platform> {
    hugetlb: &'h Hugetlb<P>,
    frame: HugeFrame,
    size: HugeSize,
}

impl<'h, P: Platform> PageRef<'h, P> {
    /// # Safety
    ///
    /// The caller owns a reference to the page, and passes it on.
    pub(crate) unsafe fn from_raw(hugetlb: &'h Hugetlb<P>, frame: HugeFrame, size: HugeSize) -> Self {
        Self { hugetlb, frame, size }
    }

    pub(crate) fn frame(&self) -> HugeFrame {
        self.frame
    }

    pub(crate) fn page(&self) -> &'h Page<P> {
        self.hugetlb.page(self.frame)
    }

    pub(crate) fn size(&self) -> HugeSize {
        self.size
    }

    pub(crate) fn hugetlb(&self) -> &'h Hugetlb<P> {
        self.hugetlb
    }

    /// Counts one more leaf entry that maps the page. The reference becomes that entry's. The caller
    /// has locked the table, and stores the entry before it unlocks it.
    pub(crate) fn into_mapping(self) {
        self.page().add_mapping_of_held();
        core::mem::forget(self);
    }

    /// A second reference.
    pub(crate) fn another(&self) -> Self {
        self.page().hold();
        Self { hugetlb: self.hugetlb, frame: self.frame, size: self.size }
    }
}

impl<P: Platform> Drop for PageRef<'_, P> {
    fn drop(&mut self) {
        self.hugetlb.put_page(self.frame);
    }
}

/// A speculative reference. The frame was read out of an entry, or named by a caller. Before the
/// reference was taken, the page may have been freed and allocated again, even at another size.
///
/// So this value says nothing about the page. There are two ways to end it:
///
/// - The caller rechecks where the frame came from, and *confirms* the reference.
/// - The value is dropped. The reference then goes back to whatever the page is by then (P4 in
///   [`walk`](crate::walk)).
///
/// # Invariants
///
/// The page of `frame` has a reference that this value owns, and a pin if `pin`.
#[must_use = "a speculative reference must be confirmed"]
pub(crate) struct Speculative<P: Platform, H: Deref<Target = Hugetlb<P>>> {
    system: H,
    frame: HugeFrame,
    pin: bool,
}

impl<P: Platform, H: Deref<Target = Hugetlb<P>>> Speculative<P, H> {
    /// Takes a reference, and a pin if `pin`, unless the page is free.
    ///
    /// Linux: `try_grab_folio()` in mm/gup.c.
    #[inline]
    pub(crate) fn take(system: H, frame: HugeFrame, pin: bool) -> Result<Self, NotHeld> {
        system.page(frame).try_hold(pin)?;
        // INVARIANT: the reference was taken just now.
        Ok(Self { system, frame, pin })
    }

    /// The record of the page that is held, which need not be the page that was meant.
    #[inline]
    pub(crate) fn page(&self) -> &Page<P> {
        self.system.page(self.frame)
    }

    /// Confirms the reference: the caller has rechecked, and this is the page that was meant. The
    /// reference, and the pin, pass to the caller.
    #[inline]
    pub(crate) fn confirmed(self) -> (H, HugeFrame) {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped, so it is read out once.
        (unsafe { ptr::read(&raw const this.system) }, this.frame)
    }
}

impl<'h, P: Platform> Speculative<P, &'h Hugetlb<P>> {
    /// The plain reference, for a caller that accepts whatever page is there now. The result knows
    /// the page's size.
    pub(crate) fn into_page(self) -> PageRef<'h, P> {
        debug_assert!(!self.pin, "a pin would stay behind");
        // Acquire: pairs with the Release in `reset`.
        let size = size_of_pool(self.page().flags.load(Ordering::Acquire));
        let (hugetlb, frame) = self.confirmed();
        // SAFETY: the reference passes on. While it is held the page keeps this size.
        unsafe { PageRef::from_raw(hugetlb, frame, size) }
    }
}

impl<P: Platform, H: Deref<Target = Hugetlb<P>>> Drop for Speculative<P, H> {
    #[inline]
    fn drop(&mut self) {
        if self.pin {
            self.system.unpin_page(self.frame);
        } else {
            self.system.put_page(self.frame);
        }
    }
}
