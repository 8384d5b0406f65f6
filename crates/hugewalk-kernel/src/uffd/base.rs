//! Faults on base pages that a userfaultfd handles. Those on huge pages are the engine's.
//!
//! A fault leaves a message and waits, with no lock held, until its range is woken; then it looks again.
//!
//! Source of facts: `handle_userfault()` in fs/userfaultfd.c.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hugewalk::AddressSpace;
use hugewalk::fault::Access;
use hugewalk::uffd::{Features, Modes};
use spin::Mutex;

use super::event::{Event, What};
use super::{MESSAGE, message};
use crate::memory::PAGE;
use crate::platform::Kernel;
use crate::space::area::Area;
use crate::space::fault::Refused;
use crate::space::root::bits;
use crate::task::current;
use crate::task::wait::WaitQueue;

/// A handler of page faults, and which of them it gets, as an area of base pages has it.
#[derive(Clone)]
pub struct Registration {
    /// Who handles them.
    pub handler: Arc<Handler>,
    /// Which.
    pub modes: Modes,
}

/// Why a fault is the handler's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no page.
    Missing,
    /// The handler has protected it from stores.
    Protected,
    /// The page is in the file, but not mapped.
    Minor,
}

impl Registration {
    /// Why the handler gets a fault on an address with this entry, if it does.
    pub fn reason(&self, area: &Area, at: u64, entry: u64, write: bool) -> Option<Reason> {
        let reason = if entry & bits::KEPT != 0 {
            (write && entry & bits::PROTECTED != 0 && !self.handler.features.contains(Features::WP_ASYNC))
                .then_some((Reason::Protected, Modes::WP))
        } else if area.in_source(at).is_some_and(|(source, index)| source.has_page(index)) {
            Some((Reason::Minor, Modes::MINOR))
        } else {
            Some((Reason::Missing, Modes::MISSING))
        };
        reason.filter(|(_, mode)| self.modes.contains(*mode)).map(|(reason, _)| reason)
    }
}

/// A userfaultfd, as areas of base pages know it.
pub struct Handler {
    pub(super) space: hugewalk::Arc<AddressSpace<Kernel>>,
    pub(super) features: Features,
    pub(super) state: Mutex<Told>,
    /// Threads that wait for the handler.
    pub(super) waiting: WaitQueue,
}

/// What the handler is told.
#[derive(Default)]
pub(super) struct Told {
    pub(super) closed: bool,
    /// The number of the next message.
    pub(super) next: u64,
    faults: Vec<Fault>,
    pub(super) events: Vec<Event>,
    /// Changes of the address space that are under way: until the handler knows of them, it fills no page.
    pub(super) changes: usize,
}

/// A fault that waits.
struct Fault {
    number: u64,
    /// The address of the page.
    page: u64,
    message: [u8; MESSAGE],
    /// The handler has seen it.
    told: bool,
    woken: bool,
}

/// The next message for a handler, which counts as read.
pub(super) enum Next {
    Fault([u8; MESSAGE]),
    Event(Event),
}

impl Handler {
    /// The handler of an address space's faults, with these features.
    pub(super) fn new(space: &hugewalk::Arc<AddressSpace<Kernel>>, features: Features) -> Arc<Self> {
        let state = Mutex::new(Told::default());
        Arc::new(Self { space: space.clone(), features, state, waiting: WaitQueue::new() })
    }

    /// Is there still somebody who handles faults?
    pub fn is_open(&self) -> bool {
        !self.state.lock().closed
    }

    /// Waits until the handler has done something about a fault. Sleeps.
    ///
    /// # Errors
    ///
    /// `NoPage` if the handler wants signals instead, `Killed` if the thread is to end.
    pub fn fault(&self, address: u64, access: Access, reason: Reason) -> core::result::Result<(), Refused> {
        if self.features.contains(Features::SIGBUS) {
            return Err(Refused::NoPage);
        }
        let page = address & !(PAGE - 1);
        let shown = if self.features.contains(Features::EXACT_ADDRESS) { address } else { page };
        let thread = if self.features.contains(Features::THREAD_ID) { current().tid } else { 0 };
        let flags = u64::from(access == Access::Write)
            | match reason {
                Reason::Missing => 0,
                Reason::Protected => 1 << 1,
                Reason::Minor => 1 << 2,
            };
        let message = message(0x12, [flags, shown, u64::from(thread)]);
        let number = {
            let mut state = self.state.lock();
            if state.closed {
                return Ok(());
            }
            state.next += 1;
            let number = state.next;
            state.faults.push(Fault { number, page, message, told: false, woken: false });
            number
        };
        self.space.mm().context().handlers().wake_all();
        let answered = self.waiting.wait_killable(|| {
            let mut state = self.state.lock();
            let at = state.faults.iter().position(|fault| fault.number == number)?;
            if state.closed || state.faults[at].woken {
                state.faults.swap_remove(at);
                return Some(());
            }
            None
        });
        if answered.is_none() {
            // Nobody is asked for a fault that has gone.
            self.state.lock().faults.retain(|fault| fault.number != number);
            return Err(Refused::Killed);
        }
        Ok(())
    }

    /// The next message. Faults come first, as on Linux.
    pub(super) fn next(&self) -> Option<Next> {
        let mut state = self.state.lock();
        let untold = state.faults.iter_mut().filter(|fault| !fault.told && !fault.woken);
        if let Some(fault) = untold.min_by_key(|fault| fault.number) {
            fault.told = true;
            return Some(Next::Fault(fault.message));
        }
        let first = (0..state.events.len()).min_by_key(|at| state.events[*at].number)?;
        Some(Next::Event(state.events.swap_remove(first)))
    }

    /// Is there a message?
    pub(super) fn poll(&self) -> bool {
        let state = self.state.lock();
        !state.events.is_empty() || state.faults.iter().any(|fault| !fault.told && !fault.woken)
    }

    /// Lets the faults in a range look again.
    pub(super) fn wake(&self, start: u64, length: u64) {
        let end = start.saturating_add(length);
        let mut state = self.state.lock();
        for fault in state.faults.iter_mut().filter(|fault| (start..end).contains(&fault.page)) {
            fault.woken = true;
        }
        drop(state);
        self.waiting.wake_all();
    }

    /// Nobody handles faults any more: those that wait go on without.
    pub(super) fn close(&self) {
        let unread = {
            let mut state = self.state.lock();
            state.closed = true;
            core::mem::take(&mut state.events)
        };
        self.waiting.wake_all();
        // With the lock released: an event may have the descriptor of a child's faults.
        drop(unread.into_iter().map(|event| event.what).collect::<Vec<What>>());
    }
}
