//! What secondary MMUs are told, and what they count of it.
//!
//! # Protocol
//!
//! The start of a change waits for accesses of the secondary MMU that are under way, takes back what it keeps of the range, and
//! counts the change in. The end counts it out, and a number up. What was looked up is kept only if no change is under way then,
//! and the number is what it was before the lookup.
//!
//! What it keeps lies beside what processors have cached, as if it were one more, and is judged as that is. A flush of the TLB
//! leaves it.

use std::cell::Cell;
use std::ops::Range;

use hugewalk::addr::VirtAddr;

use super::ground::{Cached, access, world};
use super::property::SECONDARY;
use super::trace;
use crate::explore::{Object, Op, Wait};
use crate::story::StepKind;

/// What the secondary MMU of an address space counts.
#[derive(Debug, Default)]
pub(super) struct Notices {
    pub(super) attached: Cell<bool>,
    /// Accesses under way.
    busy: Cell<u32>,
    /// Changes under way.
    changes: Cell<u32>,
    /// Changes that are over.
    sequence: Cell<u64>,
}

impl Notices {
    fn object(&self) -> Object {
        Object::at(self)
    }

    fn is_idle(this: *const ()) -> bool {
        // SAFETY: asked while a change waits to start, which borrows the address space.
        unsafe { (*this.cast::<Self>()).busy.get() == 0 }
    }

    fn tell(&self, kind: StepKind, text: &str, call: &str) {
        let what = || ["secondary MMU".to_owned(), text.to_owned(), call.to_owned()];
        trace::event(Some(self.object()), kind, what);
    }

    /// A change is about to start, in the address space that has its context there.
    pub(super) fn start(&self, context: usize, range: &Range<VirtAddr>) {
        let wait = Wait::until(Self::is_idle, std::ptr::from_ref(self).cast());
        access(&Op::write(self.object()).waits(wait));
        self.changes.set(self.changes.get() + 1);
        let (start, end) = (range.start.as_u64(), range.end.as_u64());
        let text = format!("tells the secondary MMU that {start:x}-{end:x} changes");
        self.tell(StepKind::Flush, &text, "mmu_notifier_invalidate_range_start()");
        world().cached.flush(|cached| {
            let kept = cached.range();
            is_kept(cached, context) && kept.end > start && kept.start < end
        });
    }

    /// A change is over.
    pub(super) fn end(&self) {
        access(&Op::write(self.object()));
        self.changes.set(self.changes.get() - 1);
        self.sequence.set(self.sequence.get() + 1);
        let text = "tells the secondary MMU that the change is over";
        self.tell(StepKind::Flush, text, "mmu_notifier_invalidate_range_end()");
    }

    /// The number that a lookup notes.
    pub(super) fn sequence(&self) -> u64 {
        access(&Op::read(self.object()));
        self.sequence.get()
    }

    /// Keeps what was looked up since the number was noted, if nothing has changed.
    pub(super) fn keep(&self, noted: u64, found: Cached) {
        access(&Op::write(self.object()));
        let kept = self.changes.get() == 0 && self.sequence.get() == noted;
        let text = if kept { "the secondary MMU keeps it" } else { "the secondary MMU does not keep it" };
        self.tell(StepKind::Access, text, text);
        if kept {
            world().cached.flush(|cached| is_kept(cached, found.context) && cached.start == found.start);
            world().cached.keep(found);
        }
    }

    /// An access begins. What is kept stays until it ends.
    pub(super) fn begin_access(&self) {
        access(&Op::write(self.object()));
        self.busy.set(self.busy.get() + 1);
    }

    pub(super) fn end_access(&self) {
        access(&Op::write(self.object()).releases());
        self.busy.set(self.busy.get() - 1);
    }
}

/// Does the secondary MMU of the address space with this context keep it?
pub(super) fn is_kept(cached: &Cached, context: usize) -> bool {
    cached.cpu == Some(SECONDARY) && cached.context == context
}
