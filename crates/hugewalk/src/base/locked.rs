//! Tables of the host's, for hosts with a set of VMAs of their own.

use core::ops::Range;

use super::{HostSlot, lend, visit_parts};
use crate::addr::VirtAddr;
use crate::error::{MapError, WrongSystem};
use crate::platform::Platform;
use crate::task::Task;
use crate::vma::MmapLocked;

impl<P: Platform> MmapLocked<'_, P> {
    /// Lends `work` the place of the table of the host's that translates `address`. Makes the tables above that are missing.
    /// Sleeps, as the platform may have to for a table.
    ///
    /// If `work` has taken a table away, or asked for a flush, that is done before this returns. Tables above that nothing
    /// needs then are freed.
    ///
    /// `free` is a range around the address that nothing of the engine's is mapped in: from the end of the VMA before to the
    /// start of the VMA behind. A table above that covers more than that is kept.
    ///
    /// Holds: the mmap lock in read. Takes the table lock. `work` is called with it; it must neither sleep nor call the engine.
    ///
    /// # Errors
    ///
    /// [`MapError::NotClaimed`] if the address is past the end of user addresses, [`MapError::OutOfMemory`],
    /// [`MapError::WrongSystem`]: `work` was not called.
    ///
    /// # Safety
    ///
    /// No VMA of the address space that was not unmapped overlaps `free`.
    pub unsafe fn host_slot<R>(
        &self,
        task: &mut Task<P>,
        address: VirtAddr,
        free: &Range<VirtAddr>,
        work: impl FnOnce(&mut HostSlot<'_, P>) -> R,
    ) -> Result<R, MapError> {
        task.check(self.mm().hugetlb())?;
        // SAFETY: the mmap lock is held, by the type invariants; the caller answers for `free`.
        unsafe { lend(self.mm(), outside(free), task, address, work) }
    }

    /// Lends `visit` the place of each table of the host's that translates addresses of a range, one after the other.
    ///
    /// What it has taken away is flushed before this returns, in one go. Tables above that nothing needs then are freed: see
    /// [`host_slot`](Self::host_slot) for `free`.
    ///
    /// Holds: the mmap lock in read. Takes table locks. `visit` is called with one; it must neither sleep nor call the engine.
    ///
    /// # Errors
    ///
    /// [`WrongSystem`]: `visit` was not called.
    ///
    /// # Safety
    ///
    /// As for [`host_slot`](Self::host_slot).
    pub unsafe fn host_slots(
        &self,
        task: &Task<P>,
        range: Range<VirtAddr>,
        free: &Range<VirtAddr>,
        mut visit: impl FnMut(&mut HostSlot<'_, P>),
    ) -> Result<(), WrongSystem> {
        task.check(self.mm().hugetlb())?;
        let range = range.start..range.end.min(self.mm().task_size());
        // SAFETY: the mmap lock is held, by the type invariants; the caller answers for `free`.
        unsafe { visit_parts(self.mm(), [range].into_iter(), outside(free), task, &mut visit) };
        Ok(())
    }
}

/// May anything of the engine's be mapped in a range, if nothing is in `free`?
fn outside(free: &Range<VirtAddr>) -> impl Fn(&Range<VirtAddr>) -> bool {
    move |range| range.start < free.start || free.end < range.end
}
