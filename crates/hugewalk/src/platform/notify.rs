//! Who else is told.

use core::ops::Range;

use super::Tlb;
use crate::addr::VirtAddr;

/// Who else is told of what happens to an address space. All of it has defaults.
///
/// # Secondary MMUs
///
/// A hypervisor, an IOMMU or a device keeps translations of its own: it has looked entries up in an address space, and uses what
/// it has found without looking again. The engine tells it of every change of entries that takes a right away or replaces a page:
///
/// 1. [`invalidate_range_start`](Self::invalidate_range_start), before the first entry changes;
/// 2. the change, and the TLB flush;
/// 3. [`invalidate_range_end`](Self::invalidate_range_end), after the flush, also if the operation fails half way.
///
/// Between the two the secondary MMU has no translation of the range, and makes none. It counts: *start* counts the changes under
/// way up, drops what it has of the range and waits for its accesses to end; *end* counts them down, and a sequence number up. A
/// lookup notes the sequence number, walks, and keeps what it has found only if no change of the range is under way
/// then and the number is still the same.
///
/// - Changes of one range may overlap: two starts may come before the first end.
/// - The range is what the change may reach. Where a table may be shared it is widened to all that the table translates: if the
///   table is shared, the address space loses all of it.
/// - Where an entry changes in a table that stays shared (reverse mapping does that when it cannot wait any longer), each address
///   space that uses the table is told, by the mapping that uses it.
/// - Pages that are mapped where nothing was, and rights that are gained, are not told of. A secondary MMU that finds less than it
///   needs calls [`fault`](crate::AddressSpace::fault) and looks again. Cleared accessed bits are not told of either.
/// - Changes in [tables of the host's own](crate::base) are the host's to tell of.
///
/// Whoever begins to keep translations of an address space first lets
/// [`has_secondary_mmus`](Self::has_secondary_mmus) say so, and then calls
/// [`AddressSpace::settle`](crate::AddressSpace::settle) (a host with [a set of its own](crate::vm_ops) calls
/// [`vm_ops::settle`](crate::vm_ops::settle) for each VMA). Once that has returned, no change is under way
/// that was not told of. Until `has_secondary_mmus` says no again, it gets an end for each start.
///
/// Linux: `struct mmu_notifier_ops` in include/linux/mmu_notifier.h; `mmu_invalidate_seq` and `mmu_invalidate_in_progress` in
/// virt/kvm/kvm_main.c for the count and the number.
pub trait Notify: Tlb {
    /// A handler of page faults of this address space has a message to read, or another one. A host
    /// whose programs wait for several things at once (`poll`) wakes those that wait for a handler
    /// of it; [`Userfault::poll`](crate::uffd::Userfault::poll) tells them which. Threads in
    /// [`Userfault::read_event`](crate::uffd::Userfault::read_event) are woken without it. Does
    /// nothing by default. Called with sleeping locks held, so it must be quick, and must neither
    /// sleep nor call back.
    ///
    /// Linux: `wake_up_poll(&ctx->fd_wqh, EPOLLIN)` in fs/userfaultfd.c.
    #[inline(always)]
    fn handler_called(&self, context: &Self::MmContext) {
        let _ = context;
    }

    /// The file with this number is gone, with its last mapping and the last reference to it: a host that keeps something beside
    /// a file, a name say, gives it up. Does nothing by default. Called wherever the last reference is dropped, perhaps in the
    /// middle of an operation on an address space: it must neither sleep nor call back.
    ///
    /// Linux: `evict_inode()` of `hugetlbfs_ops`.
    #[inline(always)]
    fn file_freed(&self, file: u64) {
        let _ = file;
    }

    /// Does anything keep translations of this address space, beside processors? If not, nothing is told of its changes. Asked
    /// before each change, so it should be one load. No by default. Must neither sleep nor call back.
    ///
    /// Linux: `mm_has_notifiers()`.
    #[inline(always)]
    fn has_secondary_mmus(&self, context: &Self::MmContext) -> bool {
        let _ = context;
        false
    }

    /// Translations of `range` are about to change, because of `why`. When it returns, no secondary MMU uses a translation of the
    /// range, and none keeps one until [`invalidate_range_end`](Self::invalidate_range_end) is called with the same range.
    ///
    /// Called with sleeping locks held (the mmap lock, the fault mutex, the VMA lock, `i_mmap`, not always all), and no spinning
    /// lock. It may sleep if `may_block`, but must not take any of those locks, nor wait for whoever does; nor must it call back.
    ///
    /// Linux: `mmu_notifier_invalidate_range_start()`, and `mmu_notifier_range_blockable()` for `may_block`.
    #[inline(always)]
    fn invalidate_range_start(
        &self,
        context: &Self::MmContext,
        range: &Range<VirtAddr>,
        why: Invalidation,
        may_block: bool,
    ) {
        let _ = (context, range, why, may_block);
    }

    /// The change is over, and processors have forgotten what was there before. Called with sleeping locks held, and no spinning
    /// lock. Must neither sleep nor call back.
    ///
    /// Linux: `mmu_notifier_invalidate_range_end()`.
    #[inline(always)]
    fn invalidate_range_end(&self, context: &Self::MmContext, range: &Range<VirtAddr>, why: Invalidation) {
        let _ = (context, range, why);
    }
}

/// Why translations change. A secondary MMU may drop everything whatever it is.
///
/// Linux: `enum mmu_notifier_event` in include/linux/mmu_notifier.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Invalidation {
    /// The mapping goes: munmap, exit. Linux: `MMU_NOTIFY_UNMAP`.
    Unmap,
    /// Pages go, are replaced, or move; or a table is unshared: `MADV_DONTNEED`, truncation, mremap, fork, copy-on-write, migration,
    /// memory failure. Linux: `MMU_NOTIFY_CLEAR`.
    Clear,
    /// The rights of a range change: mprotect, write protection of userfaultfd, `PAGEMAP_SCAN`. Linux: `MMU_NOTIFY_PROTECTION_VMA`.
    ProtectionVma,
    /// Soft-dirty is cleared, and with it the right to write. Linux: `MMU_NOTIFY_SOFT_DIRTY`.
    SoftDirty,
}
