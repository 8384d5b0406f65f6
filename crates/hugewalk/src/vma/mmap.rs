//! The mmap lock, held.

use core::fmt;
use core::ops::Deref;
use core::ptr;

use super::held::KeepsVma;
use super::{Vma, VmaReadGuard, VmaWriteGuard};
use crate::platform::Platform;
use crate::root::Mm;
use crate::sync::Arc;
use crate::task::Task;

/// The mmap lock of an address space is held, in read or in write: its VMAs stay as they are. Linux: what
/// `mmap_assert_locked()` asserts.
///
/// It is no proof for a walk. It is what [`VmaReadGuard`] and [`VmaWriteGuard`] are made from, and what the operations of
/// [`vm_ops`](crate::vm_ops) ask for.
///
/// # Invariants
///
/// For as long as the value lives, no VMA of `mm` enters or leaves the tree of its file, but through the one value that stands
/// for the lock in write, if there is one.
pub struct MmapLocked<'m, P: Platform> {
    mm: &'m Arc<Mm<P>>,
}

impl<'m, P: Platform> MmapLocked<'m, P> {
    /// The caller's own mmap lock of `mm` is held, in read or in write.
    ///
    /// # Safety
    ///
    /// - For as long as the value lives, no [`MmapLockedForWrite`] of `mm` exists.
    /// - `mm` is not that of an [`AddressSpace`](crate::AddressSpace), which has a lock of its own: for those, only this
    ///   crate makes such values.
    #[must_use]
    pub unsafe fn assume_held(mm: &'m Arc<Mm<P>>) -> Self {
        // INVARIANT: VMAs enter and leave by way of a `MmapLockedForWrite`, of which the caller says that there is none.
        Self { mm }
    }

    /// The address space.
    #[must_use]
    pub fn mm(&self) -> &'m Arc<Mm<P>> {
        self.mm
    }

    /// Takes the lock of a VMA of this address space in read. Sleeps. `None` if the VMA is not in this
    /// address space, or no longer.
    ///
    /// While it is held, the same calls are allowed as under
    /// [`MmapReadGuard::lock_vma`](crate::mm::MmapReadGuard::lock_vma).
    #[must_use]
    pub fn lock_vma<'v>(&'v self, vma: &'v Vma<P>, task: &mut Task<P>) -> Option<VmaReadGuard<'v, P>> {
        VmaReadGuard::lock(self, vma, task)
    }

    /// Takes the lock of a VMA of this address space in write. Sleeps. `None` as for
    /// [`lock_vma`](Self::lock_vma). While it is held, the same calls are allowed.
    #[must_use]
    pub fn lock_vma_write<'v>(&'v self, vma: &'v Vma<P>, task: &mut Task<P>) -> Option<VmaWriteGuard<'v, P>> {
        VmaWriteGuard::lock(self, vma, task)
    }
}

impl<P: Platform> KeepsVma<P> for MmapLocked<'_, P> {
    fn keeps(&self, vma: &Vma<P>) -> bool {
        ptr::eq::<Mm<P>>(&raw const **self.mm, &raw const **vma.mm()) && !vma.is_gone()
    }
}

impl<P: Platform> fmt::Debug for MmapLocked<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MmapLocked").field(&self.mm.id()).finish()
    }
}

/// The mmap lock of an address space is held in write: VMAs may come and go. Linux: what
/// `mmap_assert_write_locked()` asserts.
///
/// # Invariants
///
/// As for [`MmapLocked`]; and this is the only value of the two types for its address space.
pub struct MmapLockedForWrite<'m, P: Platform> {
    locked: MmapLocked<'m, P>,
}

impl<'m, P: Platform> MmapLockedForWrite<'m, P> {
    /// The caller's own mmap lock of `mm` is held in write.
    ///
    /// # Safety
    ///
    /// - `mm` is not that of an [`AddressSpace`](crate::AddressSpace), as for [`MmapLocked::assume_held`].
    /// - For as long as the value lives, no other [`MmapLocked`] or [`MmapLockedForWrite`] of `mm` exists.
    #[must_use]
    pub unsafe fn assume_held(mm: &'m Arc<Mm<P>>) -> Self {
        // INVARIANT: the caller says so.
        Self { locked: MmapLocked { mm } }
    }
}

impl<'m, P: Platform> Deref for MmapLockedForWrite<'m, P> {
    type Target = MmapLocked<'m, P>;
    fn deref(&self) -> &MmapLocked<'m, P> {
        &self.locked
    }
}

impl<P: Platform> KeepsVma<P> for MmapLockedForWrite<'_, P> {
    fn keeps(&self, vma: &Vma<P>) -> bool {
        self.locked.keeps(vma)
    }
}

impl<P: Platform> fmt::Debug for MmapLockedForWrite<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MmapLockedForWrite").field(&self.mm().id()).finish()
    }
}
