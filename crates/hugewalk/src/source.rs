//! Bytes that are copied into huge pages, from where they may have to be waited for: a program's memory.
//!
//! # Protocol
//!
//! A copy from a program's memory may fault, and the fault may want any lock of the engine, sleep, or fail. So a [`Source`]
//! is asked in two ways:
//!
//! - [`copy_nofault`](Source::copy_nofault) with locks held, for what is there. If that is all, the locks are never given up.
//! - [`copy`](Source::copy) with no lock held, for the rest. What was looked up before is looked up again afterwards.
//!
//! Linux: `copy_folio_from_user()` with page faults disabled, and without (`mfill_atomic_hugetlb()` in mm/userfaultfd.c).

use core::fmt;

use crate::addr::HugeFrame;
use crate::error::BadSource;
use crate::platform::Platform;
use crate::task::Task;

/// Where bytes are copied from. The two methods may be called any number of times, for any part, in any order.
pub trait Source<P: Platform> {
    /// Copies what is there from `offset` on, in bytes, until `room` is full. It may stop anywhere; the default copies nothing.
    ///
    /// Called with sleeping locks held: it must not sleep, nor take a lock that a fault takes, nor call the engine.
    ///
    /// Linux: `copy_from_user()` with page faults disabled.
    fn copy_nofault(&mut self, offset: u64, room: &mut Room<'_, P>) {
        let _ = (offset, room);
    }

    /// Copies from `offset` on, in bytes, until `room` is full. Called with no lock of the engine held: it may sleep, fault and
    /// call any operation with `task`.
    ///
    /// Linux: `copy_from_user()`.
    ///
    /// # Errors
    ///
    /// [`BadSource`] if a byte cannot be had. If `room` is not full at the end, that counts as the same.
    fn copy(&mut self, offset: u64, room: &mut Room<'_, P>, task: &mut Task<P>) -> Result<(), BadSource>;
}

/// Bytes that are there. What lies behind their end cannot be had.
impl<P: Platform> Source<P> for &[u8] {
    fn copy_nofault(&mut self, offset: u64, room: &mut Room<'_, P>) {
        let bytes = usize::try_from(offset).ok().and_then(|offset| self.get(offset..));
        room.write(bytes.unwrap_or_default());
    }

    fn copy(&mut self, offset: u64, room: &mut Room<'_, P>, _: &mut Task<P>) -> Result<(), BadSource> {
        self.copy_nofault(offset, room);
        Ok(())
    }
}

/// Bytes to be filled, from the first one on.
///
/// # Invariants
///
/// A page is held for `'r`, and the range lies inside it.
pub struct Room<'r, P: Platform> {
    to: To<'r, P>,
    /// How many bytes are filled, of how many.
    filled: usize,
    length: usize,
}

enum To<'r, P: Platform> {
    /// A huge page, from this byte on.
    Page(&'r P, HugeFrame, u64),
    Bytes(&'r mut [u8]),
}

impl<'r, P: Platform> Room<'r, P> {
    /// Part of a huge page.
    ///
    /// # Safety
    ///
    /// The page is held for `'r`, and `length` bytes from `from` on lie inside it.
    pub(crate) unsafe fn of_page(platform: &'r P, frame: HugeFrame, from: u64, length: u64) -> Self {
        // INVARIANT: the caller says so.
        Self { to: To::Page(platform, frame, from), filled: 0, length: length as usize }
    }

    pub(crate) fn of_bytes(bytes: &'r mut [u8]) -> Self {
        Self { filled: 0, length: bytes.len(), to: To::Bytes(bytes) }
    }

    /// How many bytes are to be filled still.
    #[must_use]
    pub fn left(&self) -> usize {
        self.length - self.filled
    }

    /// How many bytes are filled.
    pub(crate) fn filled(&self) -> usize {
        self.filled
    }

    /// Fills the next bytes with these, as many as there is room for, and returns how many that were.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.left());
        let bytes = bytes.get(..count).unwrap_or_default();
        match &mut self.to {
            // SAFETY: by the type invariants; no more is written than is left.
            To::Page(platform, frame, from) => unsafe {
                platform.write_huge(*frame, *from + self.filled as u64, bytes);
            },
            To::Bytes(into) => {
                if let Some(into) = into.get_mut(self.filled..self.filled + count) {
                    into.copy_from_slice(bytes);
                }
            }
        }
        self.filled += count;
        count
    }

    /// Has the source filled it, now that it says so?
    pub(crate) fn full(&self) -> Result<(), BadSource> {
        if self.left() == 0 { Ok(()) } else { Err(BadSource) }
    }
}

impl<P: Platform> fmt::Debug for Room<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("filled", &self.filled).field("length", &self.length).finish()
    }
}
