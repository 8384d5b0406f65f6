//! The state that the two sides of a userfaultfd share: the faults and events that wait, and what the
//! handler has read of them.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use super::{Features, Message, Pagefault};
use crate::addr::VirtAddr;
use crate::error::OutOfMemory;
use crate::platform::{Barriers, Platform};
use crate::root::Mm;
use crate::sleep::WaitQueue;
use crate::sync::{Arc, SpinLock, Word, lock_with_room};

/// A registered VMA's side of its handler. Linux: `struct userfaultfd_ctx`.
///
/// Dropping the last reference never sleeps. Messages that nobody read go with it: see [`Message`].
pub(crate) struct Context<P: Platform> {
    id: u64,
    mm: Arc<Mm<P>>,
    features: Features,
    /// The handler has left: faults and events ignore it from now on.
    gone: P::Word,
    state: SpinLock<P, State<P>>,
    /// Faults that wait to be woken, by the address in their message.
    faults: WaitQueue<P, VirtAddr>,
    /// Operations that wait for their event to be read.
    events: WaitQueue<P>,
}

/// What waits, oldest first.
///
/// # Invariants
///
/// A fault that waits is in `faults`. Code that takes it out wakes it.
struct State<P: Platform> {
    faults: Vec<PostedFault>,
    events: Vec<PostedEvent<P>>,
    /// Operations under way that change the mappings. Linux: `mmap_changing`.
    changing: u64,
    next_ticket: u64,
}

struct PostedFault {
    ticket: Ticket,
    pagefault: Pagefault,
    /// It has been read once, and is not read again.
    read: bool,
}

struct PostedEvent<P: Platform> {
    ticket: Ticket,
    message: Message<P>,
    /// The change that it reports has happened.
    published: bool,
}

/// The number of a fault or an event in its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

impl<P: Platform> State<P> {
    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }
}

impl<P: Platform> Context<P> {
    pub(super) fn new(mm: &Arc<Mm<P>>, features: Features) -> Result<Arc<Self>, OutOfMemory> {
        let state = State { faults: Vec::new(), events: Vec::new(), changing: 0, next_ticket: 0 };
        Arc::try_new(Self {
            id: mm.hugetlb().fresh_id(),
            mm: mm.clone(),
            features,
            gone: <P as Barriers>::Word::new(0),
            state: SpinLock::<P, _>::new(state),
            faults: WaitQueue::new(),
            events: WaitQueue::new(),
        })
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn mm(&self) -> &Arc<Mm<P>> {
        &self.mm
    }

    pub(crate) fn features(&self) -> Features {
        self.features
    }

    /// Has the handler left?
    pub(crate) fn is_gone(&self) -> bool {
        // Acquire: pairs with the Release in `die`.
        self.gone.load(Ordering::Acquire) != 0
    }

    /// Do stores to protected pages take the protection off, without asking the handler?
    pub(crate) fn protects_async(&self) -> bool {
        self.features.contains(Features::WP_ASYNC)
    }

    /// Is there a handler that asked to be told of this?
    pub(crate) fn wants(&self, event: Features) -> bool {
        self.features.contains(event) && !self.is_gone()
    }

    /// The queue of the operations that wait for their event to be read.
    pub(super) fn events(&self) -> &WaitQueue<P> {
        &self.events
    }

    /// The queue of the faults that wait.
    pub(super) fn faults(&self) -> &WaitQueue<P, VirtAddr> {
        &self.faults
    }

    /// The handler leaves.
    pub(super) fn die(&self) {
        // Stored before the lock is taken: a fault that posts after the lock was released sees it. Release:
        // the handler's last resolution comes before.
        self.gone.store(1, Ordering::Release);
        self.state.lock().faults.clear();
        self.faults.wake_all();
        self.events.wake_all();
    }

    /// Adds a fault that waits from now on; the handler is not called yet. `None` if there is no handler.
    pub(super) fn post_fault(&self, pagefault: Pagefault) -> Result<Option<Ticket>, OutOfMemory> {
        let mut state = lock_with_room::<P, _, _>(&self.state, |state| &mut state.faults, |_| 1)?;
        if self.is_gone() {
            return Ok(None);
        }
        let ticket = state.ticket();
        state.faults.push(PostedFault { ticket, pagefault, read: false });
        Ok(Some(ticket))
    }

    /// Has the fault been woken?
    pub(super) fn is_woken(&self, ticket: Ticket) -> bool {
        !self.state.lock().faults.iter().any(|fault| fault.ticket == ticket)
    }

    /// The fault goes on without having been woken.
    pub(super) fn withdraw_fault(&self, ticket: Ticket) {
        self.state.lock().faults.retain(|fault| fault.ticket != ticket);
    }

    /// Calls the handler.
    pub(super) fn call_handler(&self) {
        self.mm.handlers().wake(|&id| id == self.id);
        self.mm.hugetlb().platform().handler_called(self.mm.context());
    }

    /// Wakes the faults that wait in a range. Does not sleep.
    pub(crate) fn wake(&self, range: &Range<VirtAddr>) {
        // The entry was changed before, and this lock orders the change: a fault that is not in the list
        // yet looks at its entry after it has been added.
        self.state.lock().faults.retain(|fault| !range.contains(&fault.pagefault.address));
        self.faults.wake(|address| range.contains(address));
    }

    /// Adds an event to come: from now on the mappings count as changing. Allocates the memory that telling
    /// will need, except the place in the queue.
    pub(super) fn post_event(&self, message: Message<P>) -> Result<Ticket, OutOfMemory> {
        let mut state = lock_with_room::<P, _, _>(&self.state, |state| &mut state.events, |_| 1)?;
        state.changing += 1;
        let ticket = state.ticket();
        state.events.push(PostedEvent { ticket, message, published: false });
        Ok(ticket)
    }

    /// The change that the event reports has happened.
    pub(super) fn publish_event(&self, ticket: Ticket) {
        if let Some(event) = self.state.lock().events.iter_mut().find(|event| event.ticket == ticket) {
            event.published = true;
        }
        self.call_handler();
    }

    /// Has the event been read?
    pub(super) fn is_read(&self, ticket: Ticket) -> bool {
        !self.state.lock().events.iter().any(|event| event.ticket == ticket)
    }

    /// Takes back the message of an event that has not been read, so that it never will be.
    pub(super) fn withdraw_event(&self, ticket: Ticket) -> Option<Message<P>> {
        let mut state = self.state.lock();
        let at = state.events.iter().position(|event| event.ticket == ticket)?;
        Some(state.events.remove(at).message)
    }

    /// The operation that announced an event is over.
    pub(super) fn changed(&self) {
        self.state.lock().changing -= 1;
    }

    /// Are there operations under way that change the mappings?
    pub(super) fn is_changing(&self) -> bool {
        self.state.lock().changing > 0
    }

    pub(super) fn is_readable(&self) -> bool {
        let state = self.state.lock();
        state.faults.iter().any(|fault| !fault.read) || state.events.iter().any(|event| event.published)
    }

    /// What the handler reads next: the oldest fault, else the oldest event.
    pub(super) fn read(&self) -> Option<Message<P>> {
        let event = {
            let mut state = self.state.lock();
            if let Some(fault) = state.faults.iter_mut().find(|fault| !fault.read) {
                fault.read = true;
                return Some(Message::Pagefault(fault.pagefault));
            }
            let at = state.events.iter().position(|event| event.published)?;
            state.events.remove(at)
        };
        self.events.wake_all();
        Some(event.message)
    }
}
