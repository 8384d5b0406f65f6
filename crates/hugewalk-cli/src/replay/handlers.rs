//! Handlers of page faults, and the calls that wait for them.
//!
//! What is done in an address space that has a handler may have to wait for it: a fault until the handler resolves it, a
//! fork until the handler has read of it. So it is done on a thread of its own, while this one reads the messages, as the
//! recorded handler did (a recording does not show that). What waits for a page waits on until the recorded handler
//! resolves it, on a later line, and is taken up again then. At each moment no more threads run than this one waits for, so
//! that a replay goes the same way each time.

use std::collections::HashMap;
use std::ops::Range;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hugewalk::sync::Arc;
use hugewalk::uffd::{Features, Message, Userfault, UserfaultError};
use hugewalk::{AddressSpace, Hugetlb, Task};
use hugewalk_host::Host;

use super::got::Got;
use super::plan::{FileId, Space};

/// How long something may take that neither ends nor calls the handler. It is far more than it ever takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Names something that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// How an operation went.
#[derive(Debug)]
pub enum Performed {
    /// It is over.
    Done(Option<Got>),
    /// It waits for the handler of its faults.
    Waits(Ticket),
}

/// What is done in an address space.
pub(super) type Work = Box<dyn FnOnce(&Arc<AddressSpace<Host>>, &mut Task<Host>) -> Option<Got> + Send>;

struct Handler {
    copy: u32,
    space: Space,
    handle: Userfault<Host>,
}

struct Waiting {
    ticket: Ticket,
    copy: u32,
    space: Space,
    /// The address it faults on, if it is a fault.
    address: Option<u64>,
    /// The address that the handler was told, while it waits.
    told: Option<u64>,
    thread: JoinHandle<Option<Got>>,
}

/// All handlers, and all that waits for them.
#[derive(Default)]
pub(super) struct Handlers {
    handlers: HashMap<(u32, FileId), Handler>,
    waiting: Vec<Waiting>,
    finished: Vec<(Ticket, Option<Got>)>,
    tickets: u64,
}

impl Handlers {
    /// Has somebody ever handled faults of this address space?
    pub(super) fn has(&self, copy: u32, space: Space) -> bool {
        !self.handlers.is_empty()
            && self.handlers.values().any(|handler| handler.copy == copy && handler.space == space)
    }

    /// The handler, which begins its work now if it has not before.
    pub(super) fn handler(
        &mut self,
        copy: u32,
        id: FileId,
        space: Space,
        of: &Arc<AddressSpace<Host>>,
        features: Features,
    ) -> Result<&Userfault<Host>, UserfaultError> {
        let place = match self.handlers.entry((copy, id)) {
            std::collections::hash_map::Entry::Occupied(place) => place.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(Handler { copy, space, handle: Userfault::new(of, features)? })
            }
        };
        Ok(&place.handle)
    }

    /// The handler leaves.
    pub(super) fn take(&mut self, copy: u32, id: FileId) -> Option<Userfault<Host>> {
        self.handlers.remove(&(copy, id)).map(|handler| handler.handle)
    }

    /// The handler of a child's faults begins its work.
    pub(super) fn add(&mut self, copy: u32, id: FileId, space: Space, handle: Userfault<Host>) {
        self.handlers.insert((copy, id), Handler { copy, space, handle });
    }

    /// Does something in an address space that has a handler, and reads what the handler is told meanwhile: the handles of
    /// forked children are returned, with the parent's.
    pub(super) fn run(
        &mut self,
        hugetlb: &Arc<Hugetlb<Host>>,
        (copy, space): (u32, Space),
        of: &Arc<AddressSpace<Host>>,
        address: Option<u64>,
        work: Work,
    ) -> (Performed, Vec<(FileId, Userfault<Host>)>) {
        let (hugetlb, of) = (hugetlb.clone(), of.clone());
        let thread = std::thread::spawn(move || match hugewalk_host::task(&hugetlb) {
            Ok(mut task) => work(&of, &mut task),
            Err(error) => Some(error.into()),
        });
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waiting.push(Waiting { ticket, copy, space, address, told: None, thread });
        let born = self.settle(copy, space, |_| false);
        match self.finished.iter().position(|(finished, _)| *finished == ticket) {
            Some(place) => (Performed::Done(self.finished.remove(place).1), born),
            None => (Performed::Waits(ticket), born),
        }
    }

    /// What waits for a page in `range` was woken: waits until it is over, or has called the handler again.
    pub(super) fn woken(&mut self, copy: u32, space: Space, range: &Range<u64>) {
        self.settle(copy, space, |told| range.contains(&told));
    }

    /// What has come to an end since it was asked last.
    pub(super) fn take_finished(&mut self) -> Vec<(Ticket, Option<Got>)> {
        std::mem::take(&mut self.finished)
    }

    /// Lets whatever runs in the address space, or was told of an address for which `woken` holds, run until it ends or waits.
    fn settle(
        &mut self,
        copy: u32,
        space: Space,
        woken: impl Fn(u64) -> bool,
    ) -> Vec<(FileId, Userfault<Host>)> {
        let here = |waiting: &Waiting| waiting.copy == copy && waiting.space == space;
        for waiting in self.waiting.iter_mut().filter(|waiting| here(waiting)) {
            waiting.told = waiting.told.filter(|&told| !woken(told));
        }
        let mut born = Vec::new();
        let began = Instant::now();
        while self.waiting.iter().any(|waiting| here(waiting) && waiting.told.is_none()) {
            self.collect();
            for (&(_, id), handler) in &self.handlers {
                if (handler.copy, handler.space) != (copy, space) {
                    continue;
                }
                match handler.handle.try_read_event() {
                    Some(Message::Pagefault(fault)) => {
                        told(&mut self.waiting, copy, space, fault.address.as_u64());
                    }
                    Some(Message::Fork(handle)) => born.push((id, handle)),
                    _ => {}
                }
            }
            if began.elapsed() > PATIENCE {
                // Taken for waiting, for whatever it is.
                for waiting in self.waiting.iter_mut().filter(|waiting| here(waiting)) {
                    waiting.told.get_or_insert(waiting.address.unwrap_or_default());
                }
            }
            std::thread::yield_now();
        }
        born
    }

    /// Puts what has ended aside.
    fn collect(&mut self) {
        while let Some(place) = self.waiting.iter().position(|waiting| waiting.thread.is_finished()) {
            let ended = self.waiting.remove(place);
            self.finished.push((ended.ticket, ended.thread.join().unwrap_or(None)));
        }
    }

    /// Nobody handles faults any more, and what waits goes on: the address spaces have ended.
    pub(super) fn end(&mut self) {
        self.handlers.clear();
        for waiting in self.waiting.drain(..) {
            let _ = waiting.thread.join();
        }
    }

    /// The address spaces in which something waits.
    pub(super) fn waiting(&self) -> Vec<(u32, Space)> {
        self.waiting.iter().map(|waiting| (waiting.copy, waiting.space)).collect()
    }
}

/// Notes whose fault the handler was told of: that of the one that faults there, or else of one of which nobody knows where.
fn told(waiting: &mut [Waiting], copy: u32, space: Space, page: u64) {
    let running = waiting
        .iter_mut()
        .filter(|waiting| (waiting.copy, waiting.space) == (copy, space) && waiting.told.is_none());
    // The message names the start of the page, of whatever size, or the address itself.
    let distance = |waiting: &&mut Waiting| match waiting.address {
        Some(address) if address >= page => address - page,
        Some(_) => u64::MAX,
        None => u64::MAX - 1,
    };
    if let Some(waiting) = running.min_by_key(distance) {
        waiting.told = Some(page);
    }
}
