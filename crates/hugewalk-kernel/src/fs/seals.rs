//! Seals: what may not be done with a memory file any more. Linux: mm/memfd.c.

use core::sync::atomic::{AtomicU32, Ordering};

use linux_raw_sys::general::{F_SEAL_FUTURE_WRITE, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE};

use crate::errno::{Errno, Result};

/// `F_SEAL_EXEC`: the right to execute cannot be given or taken. Since 6.3.
pub const F_SEAL_EXEC: u32 = 0x20;

const ALL: u32 = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | F_SEAL_EXEC;

/// The seals of a file. They are only ever added, except for one that is taken back when a mapping stands in its way.
pub struct Seals(AtomicU32);

impl Seals {
    /// Of a file that cannot be sealed: sealed against seals, and otherwise open.
    pub const fn closed() -> Self {
        Self(AtomicU32::new(F_SEAL_SEAL))
    }

    /// With these seals; more can be added unless `F_SEAL_SEAL` is among them.
    pub const fn with(seals: u32) -> Self {
        Self(AtomicU32::new(seals))
    }

    /// The seals: `fcntl(F_GET_SEALS)`.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Adds seals: `fcntl(F_ADD_SEALS)`. `writable_mappings` counts the mappings through which stores reach the file, and
    /// `executable` says whether the file's mode has a right to execute.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an unknown seal, `EPERM` if sealed against it, `EBUSY` for a write seal while there are such mappings.
    pub fn add(&self, seals: u32, executable: bool, writable_mappings: impl FnOnce() -> usize) -> Result<()> {
        if seals & !ALL != 0 {
            return Err(Errno::EINVAL);
        }
        if self.get() & F_SEAL_SEAL != 0 {
            return Err(Errno::EPERM);
        }
        // A file that cannot be executed for good is sealed against writes too, when it can be executed: 6.3 on.
        let seals = if seals & F_SEAL_EXEC != 0 && executable {
            seals | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE
        } else {
            seals
        };
        let old = self.0.fetch_or(seals, Ordering::SeqCst);
        if seals & F_SEAL_WRITE != 0 && old & F_SEAL_WRITE == 0 && writable_mappings() > 0 {
            self.0.fetch_and(!(seals & !old), Ordering::SeqCst);
            return Err(Errno::EBUSY);
        }
        Ok(())
    }

    /// May bytes be written, and holes punched?
    ///
    /// # Errors
    ///
    /// `EPERM`.
    pub fn may_write(&self) -> Result<()> {
        self.lacks(F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)
    }

    /// May a shared mapping be writable?
    ///
    /// # Errors
    ///
    /// `EPERM`.
    pub fn may_map_writable(&self) -> Result<()> {
        self.may_write()
    }

    /// May the file become longer?
    ///
    /// # Errors
    ///
    /// `EPERM`.
    pub fn may_grow(&self) -> Result<()> {
        self.lacks(F_SEAL_GROW)
    }

    /// May the size change from one to another?
    ///
    /// # Errors
    ///
    /// `EPERM`.
    pub fn may_resize(&self, from: u64, to: u64) -> Result<()> {
        match to.cmp(&from) {
            core::cmp::Ordering::Less => self.lacks(F_SEAL_SHRINK),
            core::cmp::Ordering::Equal => Ok(()),
            core::cmp::Ordering::Greater => self.may_grow(),
        }
    }

    /// May the rights to execute change?
    ///
    /// # Errors
    ///
    /// `EPERM`.
    pub fn may_change_execution(&self) -> Result<()> {
        self.lacks(F_SEAL_EXEC)
    }

    fn lacks(&self, seals: u32) -> Result<()> {
        if self.get() & seals == 0 { Ok(()) } else { Err(Errno::EPERM) }
    }
}
