//! Events: what becomes of ranges of base pages that are registered, beside faults. Those of huge pages are the engine's.
//!
//! A change counts from its beginning until the handler has read of it, and no page is filled meanwhile (`EAGAIN`): the handler
//! does not know yet what the addresses are. Whoever makes the change waits for the handler with no lock held.
//!
//! Source of facts: `userfaultfd_event_wait_completion()`, `dup_userfaultfd()`, `mremap_userfaultfd_prep()`,
//! `userfaultfd_remove()` and `userfaultfd_unmap_prep()` in fs/userfaultfd.c.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hugewalk::uffd::Features;

use super::base::Handler;
use super::{Uffd, message};
use crate::errno::Result;
use crate::space::Space;
use crate::space::area::Area;

/// What has become of a range.
pub(super) enum What {
    /// A child has it too: the descriptor of the child's faults.
    Fork(Arc<Uffd>),
    /// It has moved.
    Remap { from: u64, to: u64, length: u64 },
    /// Its pages are about to go.
    Remove { start: u64, end: u64 },
    /// It is not mapped any more.
    Unmap { start: u64, end: u64 },
}

/// An event that was not read yet.
pub(super) struct Event {
    pub(super) number: u64,
    pub(super) what: What,
}

impl What {
    /// `struct uffd_msg`, but for a fork, whose descriptor is made by whoever reads it.
    pub(super) fn words(&self) -> (u8, [u64; 3]) {
        match *self {
            Self::Fork(_) => (0x13, [0; 3]),
            Self::Remap { from, to, length } => (0x14, [from, to, length]),
            Self::Remove { start, end } => (0x15, [start, end, 0]),
            Self::Unmap { start, end } => (0x16, [start, end, 0]),
        }
    }
}

/// A change that is under way.
pub(super) struct Change(Arc<Handler>);

impl Change {
    fn begin(handler: &Arc<Handler>) -> Self {
        handler.state.lock().changes += 1;
        Self(handler.clone())
    }

    /// Tells the handler, and waits until it has read it, unless the thread is to end. Sleeps.
    fn tell(self, what: What) {
        let handler = &self.0;
        let number = {
            let mut state = handler.state.lock();
            if state.closed {
                return;
            }
            state.next += 1;
            let number = state.next;
            state.events.push(Event { number, what });
            number
        };
        handler.space.mm().context().handlers().wake_all();
        // A thread that is to end leaves the event to be read.
        let _ = handler.waiting.wait_killable(|| {
            let state = handler.state.lock();
            (!state.events.iter().any(|event| event.number == number)).then_some(())
        });
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        self.0.state.lock().changes -= 1;
    }
}

impl Handler {
    /// Does the handler not know yet what has become of its ranges?
    pub(super) fn is_changing(&self) -> bool {
        self.state.lock().changes > 0
    }

    /// An event that was taken could not be handed out: it is the next again.
    pub(super) fn put_back(&self, event: Event) {
        let mut state = self.state.lock();
        if !state.closed {
            state.events.push(event);
            return;
        }
        drop(state);
        drop(event);
    }

    /// An event was read: whoever waits for that goes on.
    pub(super) fn was_read(&self) {
        self.waiting.wake_all();
    }
}

/// The handler of an area's faults, if it wants to be told of these events.
fn told_of(area: &Area, feature: Features) -> Option<&Arc<Handler>> {
    area.registered().map(|known| &known.handler).filter(|handler| handler.features.contains(feature))
}

/// What handlers have yet to be told of ranges that were unmapped.
#[derive(Default)]
#[must_use]
pub struct Unmapped(Vec<(Change, u64, u64)>);

impl Unmapped {
    /// Notes that an area goes.
    pub fn note(&mut self, area: &Area) {
        if let Some(handler) = told_of(area, Features::EVENT_UNMAP) {
            self.0.push((Change::begin(handler), area.start, area.end));
        }
    }

    /// Tells the handlers. The caller has no lock. Sleeps.
    pub fn tell(self) {
        for (change, start, end) in self.0 {
            change.tell(What::Unmap { start, end });
        }
    }
}

/// A range that is about to move, of a handler that wants to know.
pub struct Moving(Change);

impl Moving {
    /// Begins the move of an area, whose registration goes along. Without one, it ends.
    pub fn begin(area: &mut Area) -> Option<Self> {
        let moving = told_of(area, Features::EVENT_REMAP).map(|handler| Self(Change::begin(handler)));
        if moving.is_none() {
            area.handler = None;
        }
        moving
    }

    /// Tells the handler. The caller has no lock. Sleeps.
    pub fn tell(self, from: u64, to: u64, length: u64) {
        self.0.tell(What::Remap { from, to, length });
    }
}

impl Space {
    /// Tells the handlers of a range that its pages are about to go. The caller has no lock. Sleeps.
    pub fn tell_removed(&self, start: u64, end: u64) {
        let mut told = Vec::new();
        for area in self.areas().read().overlapping(start, end) {
            if let Some(handler) = told_of(area, Features::EVENT_REMOVE) {
                told.push((Change::begin(handler), area.start.max(start), area.end.min(end)));
            }
        }
        for (change, start, end) in told {
            change.tell(What::Remove { start, end });
        }
    }
}

/// The handlers of a child's faults, while its address space is made.
#[derive(Default)]
pub struct Children(Vec<(Change, Arc<Uffd>, bool)>);

impl Children {
    /// The child's handler for areas whose parent has this one, if the child's faults are somebody's.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn handler(&mut self, area: &Area, child: &Space) -> Result<Option<Arc<Handler>>> {
        let Some(parent) = told_of(area, Features::EVENT_FORK) else { return Ok(None) };
        let known = self.0.iter().find(|(change, ..)| Arc::ptr_eq(&change.0, parent));
        if let Some((_, uffd, _)) = known {
            return Ok(Some(uffd.base_handler(parent.features)));
        }
        // The engine has told of the fork already if huge pages are registered too.
        let (uffd, is_told) = match Uffd::of_child(parent, child.engine()) {
            Some(uffd) => (uffd, true),
            None => (Uffd::for_child(parent, child.engine())?, false),
        };
        let handler = uffd.base_handler(parent.features);
        self.0.push((Change::begin(parent), uffd, is_told));
        Ok(Some(handler))
    }

    /// Tells the handlers of the parent. The caller has no lock. Sleeps.
    pub fn tell(self) {
        for (change, uffd, is_told) in self.0 {
            if !is_told {
                change.tell(What::Fork(uffd));
            }
        }
    }
}

/// The message of an event, given the descriptor of a child's faults if it is a fork.
pub(super) fn encode(what: &What, descriptor: Option<u32>) -> [u8; super::MESSAGE] {
    let (event, mut words) = what.words();
    if let Some(descriptor) = descriptor {
        words[0] = u64::from(descriptor);
    }
    message(event, words)
}
