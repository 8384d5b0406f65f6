//! Events: how an operation on the address space tells its handler of a change, and waits until the handler
//! has read of it.
//!
//! An [`Announcement`] is made while the operation can still fail, and holds all the memory it will need.
//! If it is dropped, the handler never hears of it. [`Announcement::tell`], called with no lock held, sends
//! it to the handler, and sleeps until the handler has read it.

use alloc::vec::Vec;
use core::ops::Range;

use super::context::Ticket;
use super::{Context, Features, Message, Userfault};
use crate::addr::VirtAddr;
use crate::error::OutOfMemory;
use crate::platform::Platform;
use crate::sleep::Signals;
use crate::space::AddressSpace;
use crate::sync::{Arc, try_push};
use crate::task::Task;
use crate::vma::Vma;

/// An event that a handler will get.
///
/// # Invariants
///
/// The context counts the event as a change under way; if `queued`, it has a place for the task in its queue.
pub(crate) struct Announcement<P: Platform> {
    context: Arc<Context<P>>,
    ticket: Ticket,
    parker: Arc<P::Parker>,
    queued: bool,
}

impl<P: Platform> Announcement<P> {
    fn new(context: &Arc<Context<P>>, message: Message<P>, task: &Task<P>) -> Result<Self, OutOfMemory> {
        context.events().enter((), task)?;
        match context.post_event(message) {
            // INVARIANT: counted and queued just now.
            Ok(ticket) => {
                Ok(Self { context: context.clone(), ticket, parker: task.parker().clone(), queued: true })
            }
            Err(error) => {
                context.events().leave(task.parker());
                Err(error)
            }
        }
    }

    /// Announces that the pages of a part of a VMA will be dropped, if its handler asked for that.
    ///
    /// Linux: `userfaultfd_remove()` in fs/userfaultfd.c.
    pub(crate) fn of_removal(
        vma: &Vma<P>,
        range: &Range<VirtAddr>,
        task: &Task<P>,
    ) -> Result<Option<Self>, OutOfMemory> {
        let Some(context) = vma.userfault().filter(|context| context.wants(Features::EVENT_REMOVE)) else {
            return Ok(None);
        };
        let message = Message::Remove { start: range.start, end: range.end };
        Self::new(context, message, task).map(Some)
    }

    /// Tells the handler, and sleeps until it has read the event, or left, or the task is killed. To be called with no lock held.
    ///
    /// Linux: `userfaultfd_event_wait_completion()` in fs/userfaultfd.c.
    pub(crate) fn tell(mut self, task: &mut Task<P>) {
        let (context, ticket) = (&self.context, self.ticket);
        context.publish_event(ticket);
        let told = |_: &Task<P>| (context.is_gone() || context.is_read(ticket)).then_some(());
        // A task that is to die does not wait for its handler: the event is taken back.
        let _ = context.events().sleep(Signals::Fatal, task, told);
        // INVARIANT: the place was given up after sleeping.
        self.queued = false;
        if let Some(Message::Fork(child)) = self.context.withdraw_event(ticket) {
            // The child's faults will never have a handler.
            child.leave(task);
        }
    }
}

impl<P: Platform> Drop for Announcement<P> {
    fn drop(&mut self) {
        if self.queued {
            self.context.events().leave(&self.parker);
        }
        drop(self.context.withdraw_event(self.ticket));
        self.context.changed();
    }
}

/// The events of one operation, in the order in which handlers get them.
pub(crate) struct Announcements<P: Platform> {
    list: Vec<Announcement<P>>,
    /// How many of them, from the front, report changes that have been made.
    done: usize,
}

impl<P: Platform> Announcements<P> {
    pub(crate) const fn new() -> Self {
        Self { list: Vec::new(), done: 0 }
    }

    /// Announces the unmapping of a range to the handlers of these VMAs, once to each.
    ///
    /// Linux: `userfaultfd_unmap_prep()` in fs/userfaultfd.c.
    pub(crate) fn unmap<'v>(
        &mut self,
        vmas: impl Iterator<Item = &'v Arc<Vma<P>>>,
        range: &Range<VirtAddr>,
        task: &Task<P>,
    ) -> Result<(), OutOfMemory> {
        let first = self.list.len();
        for context in vmas.filter_map(|vma| vma.userfault()) {
            let told = |one: &Announcement<P>| Arc::ptr_eq(&one.context, context);
            if context.wants(Features::EVENT_UNMAP) && !self.list.iter().skip(first).any(told) {
                self.add(context, Message::Unmap { start: range.start, end: range.end }, task)?;
            }
        }
        Ok(())
    }

    /// Announces the move of a mapping to its handler, if the handler asked for that.
    ///
    /// Linux: `mremap_userfaultfd_prep()` in fs/userfaultfd.c.
    pub(crate) fn remap(
        &mut self,
        vma: &Vma<P>,
        from: &Range<VirtAddr>,
        to: VirtAddr,
        task: &Task<P>,
    ) -> Result<(), OutOfMemory> {
        match vma.userfault() {
            Some(context) if context.wants(Features::EVENT_REMAP) => {
                let length = from.end.offset_from(from.start);
                self.add(context, Message::Remap { from: from.start, to, length }, task)
            }
            _ => Ok(()),
        }
    }

    fn add(
        &mut self,
        context: &Arc<Context<P>>,
        message: Message<P>,
        task: &Task<P>,
    ) -> Result<(), OutOfMemory> {
        try_push(&mut self.list, Announcement::new(context, message, task)?)
    }

    /// The changes announced so far have been made.
    pub(crate) fn done(&mut self) {
        self.done = self.list.len();
    }

    /// Tells the handlers of the changes that have been made, one event after the other, and sleeps until
    /// each has been read. To be called with no lock held.
    pub(crate) fn tell(self, task: &mut Task<P>) {
        for announcement in self.list.into_iter().take(self.done) {
            announcement.tell(task);
        }
    }
}

/// The contexts of a child whose mappings are registered with the parent's handlers.
pub(crate) struct ForkedContexts<P: Platform> {
    /// Pairs of the parent's context and the child's.
    pairs: Vec<(Arc<Context<P>>, Arc<Context<P>>)>,
    announcements: Announcements<P>,
}

impl<P: Platform> ForkedContexts<P> {
    pub(crate) const fn new() -> Self {
        Self { pairs: Vec::new(), announcements: Announcements::new() }
    }

    /// The context for the child's copy of a VMA, if the VMA's handler asked for fork events.
    ///
    /// Linux: `dup_userfaultfd()` in fs/userfaultfd.c.
    pub(crate) fn of_copy(
        &mut self,
        vma: &Vma<P>,
        child: &Arc<AddressSpace<P>>,
        task: &Task<P>,
    ) -> Result<Option<Arc<Context<P>>>, OutOfMemory> {
        let Some(context) = vma.userfault().filter(|context| context.wants(Features::EVENT_FORK)) else {
            return Ok(None);
        };
        if let Some((_, copy)) = self.pairs.iter().find(|(of, _)| Arc::ptr_eq(of, context)) {
            return Ok(Some(copy.clone()));
        }
        let copy = Context::new(child.mm(), context.features())?;
        let message = Message::Fork(Userfault::of_child(copy.clone(), child));
        self.announcements.add(context, message, task)?;
        try_push(&mut self.pairs, (context.clone(), copy.clone()))?;
        Ok(Some(copy))
    }

    /// The fork has succeeded: tells the handlers, and sleeps until they have read the event. To be called
    /// with no lock held.
    pub(crate) fn tell(mut self, task: &mut Task<P>) {
        self.announcements.done();
        self.announcements.tell(task);
    }
}
