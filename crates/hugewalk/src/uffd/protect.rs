//! Write protection by the handler.

use core::ops::Range;

use super::{ProtectMode, Userfault, UserfaultError, check_aligned};
use crate::addr::VirtAddr;
use crate::entries::{by_table, each_own_entry};
use crate::gather::Gather;
use crate::platform::{Invalidation, Platform};
use crate::share::huge_pte_alloc;
use crate::space::MmapReadGuard;
use crate::sync::Arc;
use crate::task::Task;
use crate::vma::{Vma, VmaFlags, VmaWriteGuard};

impl<P: Platform> Userfault<P> {
    /// Write-protects the mappings in a range, so that the handler gets stores to it; or takes that back,
    /// and wakes the faults that wait for it. Sleeps.
    ///
    /// An empty entry gets a marker, and is mapped write-protected when it is touched.
    ///
    /// Takes the mmap lock in read, and for each VMA its lock and `i_mmap`, both in write.
    ///
    /// Linux: `UFFDIO_WRITEPROTECT`, `mwriteprotect_range()` in mm/userfaultfd.c. Before 6.4, Linux wants
    /// the range in one mapping.
    ///
    /// # Errors
    ///
    /// [`UserfaultError::UnknownFlags`], [`UserfaultError::BadRange`], [`UserfaultError::Unaligned`],
    /// [`UserfaultError::NotRegistered`] if there is no mapping in the range, or one that is registered for other modes
    /// only, [`UserfaultError::Changing`], [`UserfaultError::Exited`], [`UserfaultError::OutOfMemory`]. The mappings before
    /// the one it happened at are changed then, and no fault is woken.
    pub fn write_protect(
        &self,
        task: &mut Task<P>,
        start: VirtAddr,
        length: u64,
        mode: ProtectMode,
    ) -> Result<(), UserfaultError> {
        task.enter(self.space.mm().hugetlb())?;
        self.check_alive()?;
        let range = self.checked_range(start, length)?;
        let on = mode.contains(ProtectMode::WP);
        if !ProtectMode::all().contains(mode) || mode == ProtectMode::all() {
            return Err(UserfaultError::UnknownFlags);
        }
        let mmap = self.space.mmap_read(task);
        self.check_alive()?;
        let mut vmas = mmap.overlapping(&range).peekable();
        if vmas.peek().is_none() {
            return Err(UserfaultError::NotRegistered { address: start });
        }
        for vma in vmas {
            self.protect_vma(&mmap, vma, &range, on, task)?;
        }
        drop(mmap);
        if mode.is_empty() {
            self.context.wake(&range);
        }
        Ok(())
    }

    /// The part of a range that lies in a VMA.
    fn protect_vma(
        &self,
        mmap: &MmapReadGuard<'_, P>,
        vma: &Arc<Vma<P>>,
        range: &Range<VirtAddr>,
        on: bool,
        task: &mut Task<P>,
    ) -> Result<(), UserfaultError> {
        let part = range.start.max(vma.start())..range.end.min(vma.end());
        let not_registered = UserfaultError::NotRegistered { address: part.start };
        if !vma.flags().contains(VmaFlags::UFFD_WP) {
            return Err(not_registered);
        }
        check_aligned(vma, range)?;
        let mut locked = mmap.lock_vma_write(vma, task).ok_or(not_registered)?;
        if on {
            make_tables(&locked, &part, task)?;
        }
        let mut i_mmap = vma.file().i_mmap_write_within(task);
        let mut gather = Gather::new(vma.mm(), &mut i_mmap);
        gather.announce(vma, &part, Invalidation::ProtectionVma, task);
        protect_entries(&mut locked, part, on, &mut gather, task);
        gather.finish();
        Ok(())
    }
}

/// Makes the tables for markers, so that protecting cannot stop half way. (In Linux it can, without an
/// error.)
///
/// Linux: `huge_pte_alloc()` in `hugetlb_change_protection()`.
fn make_tables<P: Platform>(
    locked: &VmaWriteGuard<'_, P>,
    range: &Range<VirtAddr>,
    task: &mut Task<P>,
) -> Result<(), UserfaultError> {
    let vma = locked.vma();
    for part in by_table(vma.mm().geometry(), range.clone(), vma.size()) {
        // Not shared: a table with markers in it belongs to this address space only.
        huge_pte_alloc(locked, vma, part.start, None, task)?;
    }
    Ok(())
}

/// Write-protects the entries of a part of a VMA for the handler, or takes that back. The flush is left to
/// `gather`, to which the caller has announced the change.
///
/// Linux: `hugetlb_change_protection()` in mm/hugetlb.c with `MM_CP_UFFD_WP` or `MM_CP_UFFD_WP_RESOLVE`.
pub(crate) fn protect_entries<P: Platform>(
    locked: &mut VmaWriteGuard<'_, P>,
    range: Range<VirtAddr>,
    on: bool,
    gather: &mut Gather<'_, P>,
    task: &Task<P>,
) {
    // Such a table is never shared, since the VMA is registered for this. If one were, the others' entries
    // would stay as they are.
    each_own_entry(locked, range, gather, task, |at, gather| at.protect_for_handler(on, gather));
}
