//! Base pages: mappings of the host's own, in tables of the host's own, in the same tree.
//!
//! A process has huge pages, which are the engine's, and base pages, which are the host's: its stack, its program. One tree
//! translates both. The last table on the way to a base page is the host's. The tables above it are the engine's, and there may
//! be huge pages beside it in the same gigabyte. Such a gigabyte is not shared: tables are shared where one mapping covers all
//! of what they cover.
//!
//! | the host | calls |
//! |---|---|
//! | maps a range | [`AddressSpace::claim`](crate::AddressSpace::claim): the range is its own from then on |
//! | needs a table for an address, in a fault for example | [`MmapReadGuard::host_slot`], [`HostSlot::put`] |
//! | looks for its table | [`host_table`], in a read section; [`MmapReadGuard::host_slot`] |
//! | unmaps, or exits | [`MmapReadGuard::host_slots`], [`HostSlot::take`]; then [`AddressSpace::release`](crate::AddressSpace::release) |
//! | forks | [`AddressSpace::fork`](crate::AddressSpace::fork) copies the claims; the host copies the pages |
//!
//! # A host with a set of its own
//!
//! A host that has [a set of VMAs of its own](crate::vm_ops) claims nothing: its set knows where its base pages are. It uses
//! [`MmapLocked::host_slot`](crate::vma::MmapLocked::host_slot) and
//! [`MmapLocked::host_slots`](crate::vma::MmapLocked::host_slots), which ask what is free around the place.
//!
//! # What the engine does with it
//!
//! - **The search for a free range** leaves claims out. So does [`Placement::FixedNoReplace`](crate::mm::Placement::FixedNoReplace). A mapping with
//!   [`Placement::Fixed`](crate::mm::Placement::Fixed), and a move, end with [`MapError::Claimed`] where the host has claimed something: the host takes away
//!   what it has there, releases the range, and tries again. The engine never calls back for that.
//! - **Pages of less than a table of base pages translates**, such as groups of 64 KiB, lie in tables of that level too. What such a
//!   table translates is the engine's or the host's, whole. The search for a free range sees to that, and a fixed place that would
//!   break it ends with [`MapError::SameTable`]. A host with a set of its own sees to it itself.
//! - **A table of the host's** is where every walk of the engine's ends. It is not read, copied, moved, write-protected or freed
//!   by any operation of the engine's; [`Entry::HostTable`] is all that a walker sees of it. What is below is the host's: the
//!   entries, their flushes, and when lockless walkers of its own have left.
//! - **The tables above it** stay as long as it is there. They are freed as soon as it is gone, if nothing else needs them.
//!
//! # Locks
//!
//! The mmap lock of the address space, in read, keeps claims and mappings as they are. It comes below whatever lock the host has
//! for its own mappings, and no other lock is taken under it here. A [`HostSlot`] has the lock of the table that its entry lies
//! in: what the host does with it must not sleep, and must not call the engine.
//!
//! Two threads may ask for the same place at the same time. The first one puts its table there; the second finds it, and gives
//! its own back.
//!
//! ```
//! use hugewalk::addr::{TableFrame, VirtAddr};
//! use hugewalk::arch::{PMD_SIZE, PUD_SIZE};
//! use hugewalk::base::host_table;
//! use hugewalk::mm::Placement;
//! use hugewalk::platform::Tables;
//! use hugewalk::{AddressSpace, Hugetlb};
//! use hugewalk_host::{Host, HostConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let hugetlb = Hugetlb::new(Host::new(&HostConfig::new().huge_bytes(PUD_SIZE))?)?;
//! let mut task = hugewalk_host::task(&hugetlb)?;
//! let space = AddressSpace::new(&hugetlb)?;
//!
//! // A program of 64 KiB somewhere in the first gigabytes.
//! let program = space.claim(&mut task, Placement::Below(VirtAddr::new(4 * PUD_SIZE)), 64 << 10)?;
//!
//! // Its first fault needs a table.
//! let table = hugetlb.platform().alloc_table().ok_or("no memory")?;
//! let mmap = space.mmap_read(&mut task);
//! mmap.host_slot(&mut task, program, |slot| {
//!     // SAFETY: a table whose entries are all empty, which stays until it is taken away.
//!     unsafe { slot.put(table) }
//! })?
//! .map_err(|_| "another thread was faster")?;
//! assert_eq!(host_table(&task.rcu_read_lock(), space.mm(), program), Some(table));
//!
//! // It ends. The flush is over when the call returns, and then nothing reaches the table any more.
//! let mut taken = None;
//! mmap.host_slots(&task, program..VirtAddr::new(program.as_u64() + PMD_SIZE), |slot| taken = slot.take())?;
//! drop(mmap);
//! assert_eq!(taken, Some(table));
//! // SAFETY: as just said; it came from there.
//! unsafe { hugetlb.platform().free_table(table) };
//! space.release(&mut task, program..VirtAddr::new(program.as_u64() + (64 << 10)))?;
//! space.exit(&mut task)?;
//! # Ok(())
//! # }
//! ```

mod locked;

use core::fmt;
use core::ops::Range;

use crate::addr::{TableFrame, VirtAddr};
use crate::arch::{Entry, Geometry, Paging};
use crate::error::{MapError, WrongSystem};
use crate::gather::Gather;
use crate::platform::Platform;
use crate::root::Mm;
use crate::space::{MmapReadGuard, VmaSet};
use crate::table::LockedTable;
use crate::task::{RcuReadGuard, Task};
use crate::tree::{free_unneeded, with_slot, with_slot_if_there};
use crate::walk::huge_pte_offset;

/// The table of the host's that translates an address, if there is one.
///
/// Takes nothing, does not sleep. The table stays as long as the host does not take it away, which is for its own locks to
/// exclude.
#[must_use]
pub fn host_table<P: Platform>(
    section: &RcuReadGuard<'_, P>,
    mm: &Mm<P>,
    address: VirtAddr,
) -> Option<TableFrame> {
    // Read confirmed. Where the table above is not attached any more, there is none of the host's in it.
    let size =
        mm.paging().leaves().iter().copied().find(|size| size.level() == Geometry::ABOVE_BASE_PAGES)?;
    let slot = huge_pte_offset(section, mm, address, size).ok().flatten()?;
    match slot.read() {
        Ok(Entry::HostTable(table)) => Some(table),
        _ => None,
    }
}

/// The place of a table of the host's: an entry, with the table that it lies in locked. Linux: `pmd_t *` under `pmd_lock()`.
pub struct HostSlot<'s, P: Platform> {
    slot: &'s LockedTable<'s, P>,
    address: VirtAddr,
    owes_flush: &'s mut bool,
}

impl<P: Platform> HostSlot<'_, P> {
    /// The first address that the table translates.
    #[must_use]
    pub fn address(&self) -> VirtAddr {
        self.address
    }

    /// The table that is there.
    #[must_use]
    pub fn table(&self) -> Option<TableFrame> {
        match self.slot.read() {
            Entry::HostTable(table) => Some(table),
            _ => None,
        }
    }

    /// Puts a table there. Processors and walkers of the host's find it at once.
    ///
    /// Linux: `pmd_populate()`.
    ///
    /// # Errors
    ///
    /// The table, if something is there already, or if the place lies in a table that other address spaces use.
    ///
    /// # Safety
    ///
    /// - Until the host has taken it away, and the call in which it did so has returned, the frame is a table of entries of base
    ///   pages. Each of them is empty, or lets programs reach a page of the host's that they may reach.
    /// - No VMA of the engine's overlaps what the table translates. (An [`AddressSpace`](crate::AddressSpace) sees to that: the
    ///   host has claimed something there.)
    pub unsafe fn put(&mut self, table: TableFrame) -> Result<(), TableFrame> {
        // A table of the engine's is shared only where one mapping covers all of it, and then there is no claim. If the host
        // has its mappings wrong, the other address spaces must not suffer.
        if self.slot.is_none() && table.fits() && self.slot.attach_host(table) { Ok(()) } else { Err(table) }
    }

    /// Takes the table away, and returns it. Processors may use it until the call returns that has lent this slot.
    ///
    /// Linux: `pmd_clear()` and `pte_free_tlb()` in `free_pte_range()`.
    pub fn take(&mut self) -> Option<TableFrame> {
        let table = self.slot.detach_host()?;
        *self.owes_flush = true;
        Some(table)
    }

    /// The host has changed entries of the table so that processors must look again: they are flushed before the call returns
    /// that has lent this slot.
    pub fn flush(&mut self) {
        *self.owes_flush = true;
    }
}

impl<P: Platform> fmt::Debug for HostSlot<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostSlot").field("address", &self.address).field("table", &self.table()).finish()
    }
}

impl<P: Platform> MmapReadGuard<'_, P> {
    /// Lends `work` the place of the table of the host's that translates `address`. Makes the tables above that are missing.
    /// Sleeps, as the platform may have to for a table.
    ///
    /// If `work` has taken a table away, or asked for a flush, that is done before this returns. Tables above that nothing
    /// needs then are freed.
    ///
    /// Holds: the mmap lock in read. Takes the table lock. `work` is called with it; it must neither sleep nor call the engine.
    ///
    /// # Errors
    ///
    /// [`MapError::NotClaimed`] if the host has claimed nothing of what the table would translate, [`MapError::OutOfMemory`],
    /// [`MapError::WrongSystem`]: `work` was not called.
    pub fn host_slot<R>(
        &self,
        task: &mut Task<P>,
        address: VirtAddr,
        work: impl FnOnce(&mut HostSlot<'_, P>) -> R,
    ) -> Result<R, MapError> {
        task.check(self.mm().hugetlb())?;
        let block = block_around(self.mm().geometry(), address);
        if self.vmas.claims.first_in(&block).is_none() {
            return Err(MapError::NotClaimed { address });
        }
        let is_mapped = |range: &Range<VirtAddr>| self.vmas.first_in(range).is_some();
        // SAFETY: the mmap lock keeps the set of VMAs.
        unsafe { lend(self.mm(), is_mapped, task, address, work) }
    }

    /// Lends `visit` the place of each table of the host's that translates addresses of a range, one after the other.
    ///
    /// What it has taken away is flushed before this returns, in one go. Tables above that nothing needs then are freed.
    ///
    /// Holds: the mmap lock in read. Takes table locks. `visit` is called with one; it must neither sleep nor call the engine.
    ///
    /// # Errors
    ///
    /// [`WrongSystem`]: `visit` was not called.
    pub fn host_slots(
        &self,
        task: &Task<P>,
        range: Range<VirtAddr>,
        visit: impl FnMut(&mut HostSlot<'_, P>),
    ) -> Result<(), WrongSystem> {
        task.check(self.mm().hugetlb())?;
        visit_all(self.mm(), &self.vmas, task, &range, visit);
        Ok(())
    }
}

/// Lends `work` the place of the table of the host's that translates `address`: see [`MmapReadGuard::host_slot`].
///
/// # Safety
///
/// The caller holds the mmap lock, in read at least. `is_mapped` is right about the VMAs until this returns.
unsafe fn lend<P: Platform, R>(
    mm: &Mm<P>,
    is_mapped: impl Fn(&Range<VirtAddr>) -> bool,
    task: &mut Task<P>,
    address: VirtAddr,
    work: impl FnOnce(&mut HostSlot<'_, P>) -> R,
) -> Result<R, MapError> {
    let block = block_around(mm.geometry(), address);
    let mut owes_flush = false;
    let result = with_slot(mm, address, Geometry::ABOVE_BASE_PAGES, task, |slot| {
        let owes_flush = &mut owes_flush;
        let result = work(&mut HostSlot { slot, address: block.start, owes_flush });
        (result, is_empty(slot))
    });
    let mut gather = Gather::without_i_mmap(mm, mm.smallest());
    if owes_flush {
        gather.changed_by_host(block.clone());
    }
    let (result, free) = match result {
        Ok(Some((result, empty))) => (Ok(result), empty),
        Ok(None) => (Err(MapError::NotClaimed { address }), false),
        // Some of the tables may have been made.
        Err(error) => (Err(error.into()), true),
    };
    if free {
        // SAFETY: passed on to the caller.
        unsafe { free_around(mm, is_mapped, task, block, &mut gather) };
    }
    result
}

/// Visits the tables of the host's in a range, and frees those above that nothing needs afterwards.
///
/// Holds: the mmap lock, which keeps `vmas`, the mappings and claims of `mm`. Takes table locks. Flushes.
pub(crate) fn visit_all<P: Platform>(
    mm: &Mm<P>,
    vmas: &VmaSet<P>,
    task: &Task<P>,
    range: &Range<VirtAddr>,
    mut visit: impl FnMut(&mut HostSlot<'_, P>),
) {
    let is_mapped = |range: &Range<VirtAddr>| vmas.first_in(range).is_some();
    // SAFETY: the mmap lock keeps the set of VMAs. Tables lie where something is claimed.
    unsafe { visit_parts(mm, vmas.claims.within(range), is_mapped, task, &mut visit) };
}

/// Visits the tables of the host's in parts of a range, by address. Two parts may have a table in common.
///
/// # Safety
///
/// As for [`lend`].
unsafe fn visit_parts<P: Platform>(
    mm: &Mm<P>,
    parts: impl Iterator<Item = Range<VirtAddr>>,
    is_mapped: impl Fn(&Range<VirtAddr>) -> bool,
    task: &Task<P>,
    visit: &mut impl FnMut(&mut HostSlot<'_, P>),
) {
    let geometry = mm.geometry();
    let mut gather = Gather::without_i_mmap(mm, mm.smallest());
    let mut next = VirtAddr::default();
    for claimed in parts {
        let (mut address, end) = (block_around(geometry, claimed.start).start.max(next), claimed.end);
        while address < end {
            let part = address..geometry.table_range(address, Geometry::ABOVE_BASE_PAGES).end.min(end);
            address = part.end;
            let found = with_slot_if_there(mm, part.start, Geometry::ABOVE_BASE_PAGES, task, |slot| {
                visit_table(geometry, slot, &part, &mut gather, visit);
                is_empty(slot)
            });
            if found == Some(true) {
                // SAFETY: passed on to the caller.
                unsafe { free_around(mm, &is_mapped, task, part, &mut gather) };
            }
        }
        next = block_around(geometry, VirtAddr::new(end.as_u64().saturating_sub(1))).end;
    }
    gather.finish();
}

/// Visits the tables of the host's in one table.
fn visit_table<P: Platform>(
    geometry: Geometry,
    slot: &mut LockedTable<'_, P>,
    part: &Range<VirtAddr>,
    gather: &mut Gather<'_, P>,
    visit: &mut impl FnMut(&mut HostSlot<'_, P>),
) {
    let mut left = slot.tables_below();
    let mut address = part.start;
    while address < part.end && left > 0 {
        slot.move_to(address);
        let block = block_around(geometry, address);
        if matches!(slot.read(), Entry::HostTable(_)) {
            left -= 1;
            let mut owes_flush = false;
            visit(&mut HostSlot { slot, address, owes_flush: &mut owes_flush });
            if owes_flush {
                gather.changed_by_host(block.clone());
            }
        }
        address = block.end;
    }
}

/// Frees the tables around a range that neither a mapping nor a table of the host's needs.
///
/// # Safety
///
/// As for [`lend`].
unsafe fn free_around<P: Platform>(
    mm: &Mm<P>,
    is_mapped: impl Fn(&Range<VirtAddr>) -> bool,
    task: &Task<P>,
    range: Range<VirtAddr>,
    gather: &mut Gather<'_, P>,
) {
    let _section = task.rcu_read_lock();
    // SAFETY: in a read section. The mmap lock keeps the VMAs, and they leave the files' trees before they are gone.
    unsafe { free_unneeded(mm, range, is_mapped, gather, task) };
}

fn is_empty<P: Platform>(slot: &LockedTable<'_, P>) -> bool {
    slot.tables_below() == 0
}

/// What one table of the host's translates.
pub(crate) fn block_around(geometry: Geometry, address: VirtAddr) -> Range<VirtAddr> {
    geometry.base_block(address)
}
