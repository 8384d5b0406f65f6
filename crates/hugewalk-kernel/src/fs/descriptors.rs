//! A process's descriptors.

use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::Mutex;

use super::file::Opened;
use crate::errno::{Errno, Result};

/// Descriptors are below it.
pub const LIMIT: u32 = 1024;

#[derive(Clone)]
struct Slot {
    opened: Arc<Opened>,
    close_on_exec: bool,
}

/// Descriptors and what they lead to. Threads share one table, and processes that were cloned with `CLONE_FILES`.
///
/// What is taken out is returned: the caller drops it with the lock released, since the last reference to a file does work.
#[derive(Default)]
pub struct Descriptors(Mutex<Vec<Option<Slot>>>);

impl Descriptors {
    /// No descriptors.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same descriptors, in a table of their own: `fork`.
    pub fn copied(&self) -> Self {
        Self(Mutex::new(self.0.lock().clone()))
    }

    /// What a descriptor leads to.
    ///
    /// # Errors
    ///
    /// `EBADF`.
    pub fn get(&self, descriptor: i32) -> Result<Arc<Opened>> {
        self.slot(descriptor).map(|slot| slot.opened)
    }

    fn slot(&self, descriptor: i32) -> Result<Slot> {
        let at = usize::try_from(descriptor).map_err(|_| Errno::EBADF)?;
        self.0.lock().get(at).cloned().flatten().ok_or(Errno::EBADF)
    }

    /// Gives an open file the smallest free descriptor that is not below `least`.
    ///
    /// # Errors
    ///
    /// `EMFILE` if there is none; `EINVAL` for a `least` that is none.
    pub fn insert(&self, opened: Arc<Opened>, close_on_exec: bool, least: u32) -> Result<u32> {
        if least >= LIMIT {
            return Err(Errno::EINVAL);
        }
        let mut slots = self.0.lock();
        let least = least as usize;
        if slots.len() < least {
            slots.resize(least, None);
        }
        let free = slots[least..].iter().position(Option::is_none).map_or(slots.len(), |at| least + at);
        if free >= LIMIT as usize {
            drop(slots);
            return Err(Errno::EMFILE);
        }
        if free == slots.len() {
            slots.push(None);
        }
        slots[free] = Some(Slot { opened, close_on_exec });
        Ok(free as u32)
    }

    /// Gives an open file this descriptor, and returns what it led to: `dup2`.
    ///
    /// # Errors
    ///
    /// `EBADF` if it is out of range.
    pub fn replace(
        &self,
        descriptor: i32,
        opened: Arc<Opened>,
        close_on_exec: bool,
    ) -> Result<Option<Arc<Opened>>> {
        let at = usize::try_from(descriptor).ok().filter(|&at| at < LIMIT as usize).ok_or(Errno::EBADF)?;
        let mut slots = self.0.lock();
        if slots.len() <= at {
            slots.resize(at + 1, None);
        }
        let old = slots[at].replace(Slot { opened, close_on_exec });
        Ok(old.map(|slot| slot.opened))
    }

    /// Takes a descriptor away.
    ///
    /// # Errors
    ///
    /// `EBADF`.
    pub fn remove(&self, descriptor: i32) -> Result<Arc<Opened>> {
        let at = usize::try_from(descriptor).map_err(|_| Errno::EBADF)?;
        let slot = self.0.lock().get_mut(at).and_then(Option::take);
        slot.map(|slot| slot.opened).ok_or(Errno::EBADF)
    }

    /// Takes those away that do not survive `execve`.
    pub fn remove_close_on_exec(&self) -> Vec<Arc<Opened>> {
        let mut slots = self.0.lock();
        let closing = slots.iter_mut().filter(|slot| slot.as_ref().is_some_and(|slot| slot.close_on_exec));
        closing.filter_map(|slot| slot.take().map(|slot| slot.opened)).collect()
    }

    /// Does the descriptor go away in `execve`?
    ///
    /// # Errors
    ///
    /// `EBADF`.
    pub fn close_on_exec(&self, descriptor: i32) -> Result<bool> {
        self.slot(descriptor).map(|slot| slot.close_on_exec)
    }

    /// Says whether the descriptor goes away in `execve`.
    ///
    /// # Errors
    ///
    /// `EBADF`.
    pub fn set_close_on_exec(&self, descriptor: i32, close_on_exec: bool) -> Result<()> {
        let at = usize::try_from(descriptor).map_err(|_| Errno::EBADF)?;
        let mut slots = self.0.lock();
        let slot = slots.get_mut(at).and_then(Option::as_mut).ok_or(Errno::EBADF)?;
        slot.close_on_exec = close_on_exec;
        Ok(())
    }

    /// The descriptors that are in use.
    pub fn in_use(&self) -> Vec<u32> {
        let slots = self.0.lock();
        slots.iter().enumerate().filter(|(_, slot)| slot.is_some()).map(|(at, _)| at as u32).collect()
    }
}
