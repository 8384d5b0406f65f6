//! A VMA that only its maker can reach.

use crate::addr::VirtAddr;
use crate::platform::Platform;
use crate::root::Mm;
use crate::table::Stable;
use crate::vma::held::KeepsVma;
use crate::vma::{MmapLockedForWrite, Vma};
use crate::walk::{Proof, sealed};

/// A VMA of an address space whose mmap lock is held in write, and not yet in the tree of its
/// file. A proof that the tables of its range are *stable*: the mmap lock keeps faults out, and no walker
/// can come from the file.
///
/// # Invariants
///
/// The mmap lock of the VMA's address space is held in write for `'m`, and the VMA is in no file's tree.
pub(super) struct Unlisted<'m, P: Platform> {
    vma: &'m Vma<P>,
}

impl<'m, P: Platform> Unlisted<'m, P> {
    /// The caller made `vma` and has not put it into the file's tree. `None` if the mmap lock is another's.
    pub(super) fn new(mmap: &'m MmapLockedForWrite<'_, P>, vma: &'m Vma<P>) -> Option<Self> {
        mmap.keeps(vma).then_some(Self { vma })
    }
}

impl<P: Platform> sealed::Sealed for Unlisted<'_, P> {}
impl<P: Platform> Proof<P> for Unlisted<'_, P> {
    type Kind = Stable;
    fn covers(&self, mm: &Mm<P>, address: VirtAddr) -> bool {
        core::ptr::eq::<Mm<P>>(&**self.vma.mm(), mm) && self.vma.contains(address)
    }
}
