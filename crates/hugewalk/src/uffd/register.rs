//! Registering ranges with a handler.

use core::ops::Range;

use super::protect::protect_entries;
use super::{Context, Modes, Operations, Userfault, UserfaultError};
use crate::addr::{HugeSize, VirtAddr};
use crate::entries::by_table;
use crate::error::MapError;
use crate::gather::Gather;
use crate::platform::{Invalidation, Platform};
use crate::share::huge_pmd_unshare;
use crate::space::{AddressSpace, MmapWriteGuard, exchange_range};
use crate::sync::Arc;
use crate::task::Task;
use crate::vma::{Shape, Vma, VmaFlags, VmaWriteGuard};

impl Modes {
    const fn vma_flags(self) -> VmaFlags {
        let mut flags = VmaFlags::empty();
        if self.contains(Self::MISSING) {
            flags = flags.union(VmaFlags::UFFD_MISSING);
        }
        if self.contains(Self::WP) {
            flags = flags.union(VmaFlags::UFFD_WP);
        }
        if self.contains(Self::MINOR) {
            flags = flags.union(VmaFlags::UFFD_MINOR);
        }
        flags
    }
}

impl<P: Platform> Userfault<P> {
    /// Registers a range: from now on, the handler gets the faults in it that `modes` names. This replaces
    /// an earlier registration of the range, unless that names more. Returns the operations that the range
    /// allows. Sleeps.
    ///
    /// Holes in the range stay holes. With [`Modes::WP`] or [`Modes::MINOR`], shared tables are unshared,
    /// and not shared again.
    ///
    /// Takes the mmap lock in write, and for each VMA its lock and `i_mmap`, both in write.
    ///
    /// Linux: `UFFDIO_REGISTER`, `userfaultfd_register()` in fs/userfaultfd.c.
    ///
    /// # Errors
    ///
    /// [`UserfaultError::UnknownFlags`] (also if `modes` is empty), [`UserfaultError::BadRange`],
    /// [`UserfaultError::Unaligned`], [`UserfaultError::NothingMapped`], [`UserfaultError::NothingAbove`],
    /// [`UserfaultError::Busy`], [`UserfaultError::OutOfMemory`]. Nothing was changed then.
    pub fn register(
        &self,
        task: &mut Task<P>,
        start: VirtAddr,
        length: u64,
        modes: Modes,
    ) -> Result<Operations, UserfaultError> {
        task.enter(self.space.mm().hugetlb())?;
        if modes.is_empty() || !Modes::all().contains(modes) {
            return Err(UserfaultError::UnknownFlags);
        }
        let range = self.checked_range(start, length)?;
        let mut mmap = self.space.mmap_write(task);
        let others = self.others(&mmap, &range);
        // Linux checks one mapping after the other. So a mapping of another handler before the last mapping
        // is reported before a wrong end of the range.
        check_range(&mmap, &range, |last| others.is_none_or(|address| address == last.start()))?;
        if let Some(address) = others {
            return Err(UserfaultError::Busy { address });
        }
        let flags = modes.vma_flags();
        exchange_range(
            &mut mmap,
            &range,
            |vma| {
                !(vma.userfault().is_some_and(|context| self.is_mine(context)) && vma.flags().contains(flags))
            },
            |vma, shape| {
                let shape = Shape { flags: (shape.flags - VmaFlags::UFFD) | flags, ..shape };
                vma.registered(shape, &self.context)
            },
            |locked, new, gather, task| {
                announce(locked, gather, task);
                // Protections that another handler left behind without unregistering.
                if locked.vma().userfault().is_some_and(|context| context.is_gone()) {
                    unprotect(locked, gather, task);
                }
                unshare_all(locked, new, gather, task);
            },
            task,
        )?;
        let mut operations = Operations::WAKE | Operations::COPY | Operations::POISON;
        operations.set(Operations::WRITEPROTECT, modes.contains(Modes::WP));
        operations.set(Operations::CONTINUE, modes.contains(Modes::MINOR));
        Ok(operations)
    }

    /// Unregisters a range: no handler gets its faults any more. Write protections go, and faults that wait
    /// are woken. Sleeps.
    ///
    /// Takes the mmap lock in write, and for each VMA its lock and `i_mmap`, both in write.
    ///
    /// Linux: `UFFDIO_UNREGISTER`, `userfaultfd_unregister()` in fs/userfaultfd.c.
    ///
    /// # Errors
    ///
    /// [`UserfaultError::BadRange`], [`UserfaultError::Unaligned`], [`UserfaultError::NothingMapped`],
    /// [`UserfaultError::NothingAbove`], [`UserfaultError::Others`] (since Linux 6.17; before, any handler of the process could
    /// unregister what another had), [`UserfaultError::OutOfMemory`]: nothing was changed then.
    pub fn unregister(&self, task: &mut Task<P>, start: VirtAddr, length: u64) -> Result<(), UserfaultError> {
        task.enter(self.space.mm().hugetlb())?;
        let range = self.checked_range(start, length)?;
        let mut mmap = self.space.mmap_write(task);
        // A mapping that is not registered is passed over, wherever in it the range ends.
        check_range(&mmap, &range, |last| last.userfault().is_some())?;
        if let Some(address) = self.others(&mmap, &range) {
            return Err(UserfaultError::Others { address });
        }
        unregister_where(&mut mmap, &range, |_| true, task)?;
        Ok(())
    }

    /// The first mapping in a range that is registered with another handler that has not left.
    fn others(&self, mmap: &MmapWriteGuard<'_, P>, range: &Range<VirtAddr>) -> Option<VirtAddr> {
        let is_other = |other: &Arc<Context<P>>| !self.is_mine(other) && !other.is_gone();
        let taken = |vma: &&Arc<Vma<P>>| vma.userfault().is_some_and(is_other);
        mmap.vmas.overlapping(range).find(taken).map(|vma| vma.start())
    }

    fn is_mine(&self, context: &Arc<Context<P>>) -> bool {
        Arc::ptr_eq(context, &self.context)
    }
}

impl<P: Platform> AddressSpace<P> {
    /// Unregisters all mappings that are registered with a handler that has left. A mapping stays
    /// registered if there is no memory to change it.
    pub(crate) fn unregister_all(&self, context: &Arc<Context<P>>, task: &mut Task<P>) {
        let mut mmap = self.mmap_write(task);
        let all = VirtAddr::default()..self.mm().task_size();
        // Out of memory: the mappings stay registered, as said above.
        let _ = unregister_where(&mut mmap, &all, |of| Arc::ptr_eq(of, context), task);
    }
}

/// Unregisters the mappings in a range whose context `wanted` picks.
fn unregister_where<P: Platform>(
    mmap: &mut MmapWriteGuard<'_, P>,
    range: &Range<VirtAddr>,
    wanted: impl Fn(&Arc<Context<P>>) -> bool,
    task: &mut Task<P>,
) -> Result<(), MapError> {
    exchange_range(
        mmap,
        range,
        |vma| vma.userfault().is_some_and(&wanted),
        |vma, shape| vma.successor(Shape { flags: shape.flags - VmaFlags::UFFD, ..shape }),
        |locked, _, gather, task| {
            announce(locked, gather, task);
            unprotect(locked, gather, task);
            if let Some(context) = locked.vma().userfault() {
                // The woken faults see what the mapping is now once the mmap lock is free.
                context.wake(&(locked.vma().start()..locked.vma().end()));
            }
        },
        task,
    )
}

/// Whether the range can be worked on, where a mapping that it ends in is cut if `is_cut` says so.
///
/// Linux: the first loops of `userfaultfd_register()` and `userfaultfd_unregister()`.
fn check_range<P: Platform>(
    mmap: &MmapWriteGuard<'_, P>,
    range: &Range<VirtAddr>,
    is_cut: impl Fn(&Vma<P>) -> bool,
) -> Result<(), UserfaultError> {
    let start = range.start;
    let above = start..mmap.mm().task_size();
    let Some(first) = mmap.vmas.first_in(&above) else {
        return Err(UserfaultError::NothingAbove { start });
    };
    if first.start() >= range.end {
        return Err(UserfaultError::NothingMapped { start });
    }
    // The start also if it lies in a hole before the first mapping; the end only if it cuts a mapping.
    let unaligned = |value: VirtAddr, size: HugeSize| {
        let value = value.as_u64();
        (!size.is_aligned(value)).then_some(UserfaultError::Unaligned { value, size })
    };
    let last = mmap.vmas.overlapping(range).last().filter(|vma| range.end <= vma.end() && is_cut(vma));
    let refused = unaligned(start, first.size()).or(last.and_then(|last| unaligned(range.end, last.size())));
    refused.map_or(Ok(()), Err)
}

/// Tells secondary MMUs of what follows.
fn announce<P: Platform>(locked: &VmaWriteGuard<'_, P>, gather: &mut Gather<'_, P>, task: &mut Task<P>) {
    let vma = locked.vma();
    gather.announce(vma, &(vma.start()..vma.end()), Invalidation::ProtectionVma, task);
}

/// Takes back write protections that no handler will take back any more.
fn unprotect<P: Platform>(locked: &mut VmaWriteGuard<'_, P>, gather: &mut Gather<'_, P>, task: &Task<P>) {
    let vma = locked.vma();
    if vma.flags().contains(VmaFlags::UFFD_WP) {
        protect_entries(locked, vma.start()..vma.end(), false, gather, task);
    }
}

/// Unshares the tables of a VMA if its new flags forbid sharing. The tables are not shared again: the
/// search for a partner runs under `i_mmap`, and finds the new VMA, not the old one (the race of
/// CVE-2025-38084, with flags in place of a split).
///
/// Linux: `hugetlb_unshare_all_pmds()` in mm/hugetlb.c.
fn unshare_all<P: Platform>(
    locked: &mut VmaWriteGuard<'_, P>,
    new: &Vma<P>,
    gather: &mut Gather<'_, P>,
    task: &Task<P>,
) {
    let stays_shared = !new.flags().intersects(VmaFlags::UFFD_WP | VmaFlags::UFFD_MINOR);
    if stays_shared || !new.size().shares_tables() {
        return;
    }
    for part in by_table(new.mm().geometry(), new.start()..new.end(), new.size()) {
        // The locks are those of this VMA and its file, so this cannot be refused.
        let _ = huge_pmd_unshare(locked, part.start, gather, task);
    }
}
