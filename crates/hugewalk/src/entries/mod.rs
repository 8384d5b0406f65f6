//! What the operations have in common that change entries.

mod visit;
mod zap;

pub(crate) use self::visit::{by_table, each_own_entry};
pub(crate) use self::zap::{Zap, drop_entry, zap_range};

use crate::arch::LeafFlags;
use crate::platform::Platform;
use crate::vma::{Protection, Vma};

/// The flags that a leaf of this VMA has for its rights, writable or not. Flags for accesses to the page
/// are not among them.
///
/// A leaf that can be written counts as written since soft-dirty was cleared: the processor knows nothing
/// of that bit, and the next store may need no fault. Linux: `pte_mkdirty()` sets `_PAGE_SOFT_DIRTY` too.
pub(crate) fn leaf_flags<P: Platform>(vma: &Vma<P>, writable: bool) -> LeafFlags {
    let rights = vma.protection();
    let mut flags = LeafFlags::empty();
    flags.set(LeafFlags::ACCESS, !rights.is_empty());
    flags.set(LeafFlags::WRITE | LeafFlags::SOFT_DIRTY, writable && rights.contains(Protection::WRITE));
    flags.set(LeafFlags::NO_EXECUTE, !rights.contains(Protection::EXECUTE));
    flags
}
