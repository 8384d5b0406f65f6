//! Faults on base pages that a userfaultfd handles: those of pages that are missing. Huge pages are the engine's.
//!
//! A fault leaves a message and waits, with no lock held, until its page is filled or its range is woken; then it looks again.
//! Write protection and minor faults of base pages are not offered.
//!
//! Source of facts: fs/userfaultfd.c, mm/userfaultfd.c.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hugewalk::AddressSpace;
use hugewalk::fault::Access;
use hugewalk::uffd::Features;
use spin::Mutex;

use super::MESSAGE;
use crate::errno::{Errno, Result};
use crate::memory::PAGE;
use crate::memory::page::BasePage;
use crate::platform::Kernel;
use crate::space::Space;
use crate::space::fault::Refused;
use crate::task::current;
use crate::task::wait::WaitQueue;

/// `_UFFDIO_WAKE`, `_UFFDIO_COPY` and `_UFFDIO_ZEROPAGE`, as bits of what `UFFDIO_REGISTER` answers.
pub(super) const OPERATIONS: u64 = 1 << 2 | 1 << 3 | 1 << 4;

/// A userfaultfd, as areas of base pages know it.
pub struct Handler {
    space: hugewalk::Arc<AddressSpace<Kernel>>,
    features: Features,
    faults: Mutex<Faults>,
    /// Threads that wait for their pages.
    waiting: WaitQueue,
}

#[derive(Default)]
struct Faults {
    closed: bool,
    next: u64,
    list: Vec<Fault>,
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

impl Handler {
    /// The handler of an address space's faults, with these features.
    pub(super) fn new(space: &hugewalk::Arc<AddressSpace<Kernel>>, features: Features) -> Arc<Self> {
        let faults = Mutex::new(Faults::default());
        Arc::new(Self { space: space.clone(), features, faults, waiting: WaitQueue::new() })
    }

    /// Is there still somebody who handles faults?
    pub fn is_open(&self) -> bool {
        !self.faults.lock().closed
    }

    /// Waits until the handler has done something about a missing page. Sleeps.
    ///
    /// # Errors
    ///
    /// `NoPage` if the handler wants signals instead.
    pub fn missing(&self, address: u64, access: Access) -> core::result::Result<(), Refused> {
        if self.features.contains(Features::SIGBUS) {
            return Err(Refused::NoPage);
        }
        let page = address & !(PAGE - 1);
        let shown = if self.features.contains(Features::EXACT_ADDRESS) { address } else { page };
        let thread = if self.features.contains(Features::THREAD_ID) { current().tid } else { 0 };
        let flags = u64::from(access == Access::Write);
        let mut message = [0; MESSAGE];
        message[0] = 0x12;
        for (index, word) in [flags, shown, u64::from(thread)].iter().enumerate() {
            message[8 + 8 * index..][..8].copy_from_slice(&word.to_ne_bytes());
        }
        let number = {
            let mut faults = self.faults.lock();
            if faults.closed {
                return Ok(());
            }
            faults.next += 1;
            let number = faults.next;
            faults.list.push(Fault { number, page, message, told: false, woken: false });
            number
        };
        self.space.mm().context().handlers().wake_all();
        self.waiting.wait_uninterrupted(|| {
            let mut faults = self.faults.lock();
            let at = faults.list.iter().position(|fault| fault.number == number)?;
            if faults.closed || faults.list[at].woken {
                faults.list.swap_remove(at);
                return Some(());
            }
            None
        });
        Ok(())
    }

    /// The next message, which counts as read.
    pub(super) fn next(&self) -> Option<[u8; MESSAGE]> {
        let mut faults = self.faults.lock();
        let fault = faults.list.iter_mut().filter(|fault| !fault.told).min_by_key(|fault| fault.number)?;
        fault.told = true;
        Some(fault.message)
    }

    /// Is there a message?
    pub(super) fn poll(&self) -> bool {
        self.faults.lock().list.iter().any(|fault| !fault.told)
    }

    /// Lets the faults in a range look again.
    pub(super) fn wake(&self, start: u64, length: u64) {
        let end = start.saturating_add(length);
        for fault in self.faults.lock().list.iter_mut().filter(|fault| (start..end).contains(&fault.page)) {
            fault.woken = true;
        }
        self.waiting.wake_all();
    }

    /// Nobody handles faults any more: those that wait go on without.
    pub(super) fn close(&self) {
        self.faults.lock().closed = true;
        self.waiting.wake_all();
    }
}

impl Space {
    /// Are there base pages in the range?
    pub(super) fn has_base(&self, start: u64, length: u64) -> bool {
        self.areas().read().overlapping(start, start.saturating_add(length)).next().is_some()
    }

    /// Gives the areas in a range a handler, or takes it away.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a range that is not one of whole pages, `EBUSY` if another handler has part of it.
    pub(super) fn set_handler(&self, start: u64, length: u64, handler: Option<&Arc<Handler>>) -> Result<()> {
        let end = start.checked_add(length).ok_or(Errno::EINVAL)?;
        if length == 0 || !(start | length).is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let mut areas = self.areas().write();
        let others =
            |old: &Arc<Handler>| old.is_open() && handler.is_some_and(|handler| !Arc::ptr_eq(old, handler));
        if areas.overlapping(start, end).any(|area| area.handler.as_ref().is_some_and(others)) {
            return Err(Errno::EBUSY);
        }
        for mut area in areas.take(start, end) {
            area.handler = handler.cloned();
            areas.insert(area);
        }
        Ok(())
    }

    /// Puts a page with these bytes, or with zeroes, where one is missing.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the handler does not have the address, `EEXIST` if there is a page, `ENOMEM`.
    pub(super) fn fill_missing(&self, at: u64, handler: &Arc<Handler>, bytes: Option<&[u8]>) -> Result<()> {
        let page = BasePage::zeroed()?;
        if let Some(bytes) = bytes {
            page.write(0, bytes);
        }
        let areas = self.areas().read();
        let area = areas.find(at).ok_or(Errno::ENOENT)?;
        if !area.handler.as_ref().is_some_and(|known| Arc::ptr_eq(known, handler)) {
            return Err(Errno::ENOENT);
        }
        self.install_missing(area, at, page)
    }
}
