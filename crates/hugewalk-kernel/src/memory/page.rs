//! Base pages: frames of 4 KiB with contents, counted by how many mappings and files have them.

use core::sync::atomic::Ordering;

use super::frames::{self, Kind};
use super::{PAGE, direct};
use crate::errno::{Errno, Result};

/// A reference to a base page. Dropping the last one frees the page.
///
/// # Invariants
///
/// The frame was allocated as [`Kind::Base`], and its count includes this reference.
pub struct BasePage(u64);

impl BasePage {
    /// A page of zeroes.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn zeroed() -> Result<Self> {
        let frame = frames::allocate_zeroed(Kind::Base).ok_or(Errno::ENOMEM)?;
        frames::references(frame).store(1, Ordering::Relaxed);
        // INVARIANT: just allocated.
        Ok(Self(frame))
    }

    /// A page with the contents of this one.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn copied(&self) -> Result<Self> {
        let frame = frames::allocate(Kind::Base).ok_or(Errno::ENOMEM)?;
        frames::references(frame).store(1, Ordering::Relaxed);
        // SAFETY: both are whole frames; programs may write the first meanwhile, and then get what they deserve.
        unsafe { direct::<u8>(frame).copy_from_nonoverlapping(direct(self.0), PAGE as usize) };
        Ok(Self(frame))
    }

    /// Its physical address.
    pub fn address(&self) -> u64 {
        self.0
    }

    /// How many references there are.
    pub fn references(&self) -> u32 {
        // Acquire: pairs with the Release in `drop`. A caller that finds itself alone sees what others wrote.
        frames::references(self.0).load(Ordering::Acquire)
    }

    /// Gives up the reference without counting it: an entry keeps it.
    pub fn into_address(self) -> u64 {
        let address = self.0;
        core::mem::forget(self);
        address
    }

    /// Takes over the reference that an entry kept.
    ///
    /// # Safety
    ///
    /// The address came from [`into_address`](Self::into_address), once for each call.
    pub unsafe fn from_address(address: u64) -> Self {
        // INVARIANT: the reference that was given up.
        Self(address)
    }

    /// Copies bytes out of the page, from `offset` on. The range is cut at the end of the page.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> usize {
        let count = into.len().min((PAGE as usize).saturating_sub(offset));
        // SAFETY: inside the frame, which the reference keeps.
        unsafe { direct::<u8>(self.0 + offset as u64).copy_to_nonoverlapping(into.as_mut_ptr(), count) };
        count
    }

    /// Copies bytes into the page, from `offset` on. The range is cut at the end of the page.
    pub fn write(&self, offset: usize, from: &[u8]) -> usize {
        let count = from.len().min((PAGE as usize).saturating_sub(offset));
        // SAFETY: inside the frame, which the reference keeps. Programs may use the bytes meanwhile; no Rust reference does.
        unsafe { direct::<u8>(self.0 + offset as u64).copy_from_nonoverlapping(from.as_ptr(), count) };
        count
    }
}

impl Clone for BasePage {
    fn clone(&self) -> Self {
        // Relaxed: whoever clones has a reference.
        frames::references(self.0).fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl Drop for BasePage {
    fn drop(&mut self) {
        // AcqRel: what others did with the page comes before it is freed.
        if frames::references(self.0).fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: the last reference.
            unsafe { frames::free(self.0, Kind::Base) };
        }
    }
}
