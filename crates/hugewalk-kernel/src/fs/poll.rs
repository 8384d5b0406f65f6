//! Waiting for several descriptors at once: `poll`, `ppoll`, `select`.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::file::{Events, Opened};
use crate::errno::{Errno, Result};
use crate::task::wait;

/// A descriptor and what is waited for.
pub struct Wanted {
    /// What it leads to; none for a number that is no descriptor.
    pub opened: Option<Arc<Opened>>,
    /// What is waited for.
    pub events: Events,
    /// What has come.
    pub found: Events,
}

impl Wanted {
    fn look(&mut self) -> bool {
        let told = self.events | Events::ERR | Events::HUP;
        self.found = match &self.opened {
            Some(opened) => opened.file.events() & told,
            None => Events::NVAL,
        };
        !self.found.is_empty()
    }
}

/// Waits until something has come for one of them, or until the deadline, and returns for how many it has. Descriptors that are
/// to be passed over are not in the list.
///
/// # Errors
///
/// `EINTR`.
pub fn poll(list: &mut [Wanted], deadline: Option<u64>) -> Result<usize> {
    let files: Vec<Arc<Opened>> = list.iter().filter_map(|wanted| wanted.opened.clone()).collect();
    // In the queues first, and then a look: what comes after it wakes this thread.
    let places: Vec<wait::Place<'_>> =
        files.iter().filter_map(|opened| opened.file.queue()).map(wait::WaitQueue::enter).collect();
    let count = loop {
        let count = list.iter_mut().filter_map(|wanted| wanted.look().then_some(())).count();
        if count > 0 {
            break count;
        }
        match wait::sleep(deadline) {
            Err(Errno::ETIMEDOUT) => break 0,
            slept => slept?,
        }
    };
    drop(places);
    Ok(count)
}
