//! Walks over ranges, with a visitor for each entry and each hole.
//!
//! # Protocol
//!
//! There are two kinds of visitor, and the type says which:
//!
//! - A [`Visitor`] never sleeps: it is not given the task. It is called inside an RCU read section, one for
//!   each table, with entries that were read confirmed. If a table is unshared under the walk, the walk
//!   goes on from the same entry, in the table that is there now: no entry is missed, none is visited
//!   twice.
//! - A [`SleepingVisitor`] is called under the VMA lock in read, so the table stays while it sleeps. It may
//!   ask for a fault: then the walk releases every lock, takes the fault, takes the locks again, and calls
//!   the visitor once more for the same address. The visitor sleeps by means of a [`Resched`], and does not
//!   get the task: with the task it could call an operation that takes the VMA lock in write, and would
//!   wait for its own walk. Such a visitor does not compile.
//!
//! Both hold the mmap lock in read. A visitor changes an entry through [`Found::lock`], which revalidates.
//!
//! Entries are read without the table lock. One that an operation may have stored only for a moment is read again under the lock.
//!
//! A [`Scan`] finds pages by what they are, and can protect those that were written in the same step.
//!
//! Linux: `walk_hugetlb_range()` in mm/pagewalk.c. The reports built on it are in fs/proc/task_mmu.c,
//! mm/mincore.c and mm/damon/vaddr.c.

mod reports;
mod scan;

use core::ops::Range;

pub use self::reports::{NumaMaps, PageMap};
pub use self::scan::{Categories, Region, Scan, ScanError, ScanFlags, Scanned};

use crate::addr::VirtAddr;
use crate::arch::Entry;
use crate::entries::by_table;
use crate::error::MapError;
use crate::fault::{Access, FaultError};
use crate::platform::Platform;
use crate::space::AddressSpace;
use crate::sync::Arc;
use crate::table::{Alive, LockedSlot, Slot, Unshared};
use crate::task::Task;
use crate::vma::{Vma, VmaReadGuard};
use crate::walk::huge_pte_offset;

/// An entry under a walk.
pub struct Found<'s, P: Platform> {
    vma: &'s Vma<P>,
    address: VirtAddr,
    entry: Entry,
    sharers: u64,
    slot: &'s Slot<'s, P, Alive>,
}

impl<'s, P: Platform> Found<'s, P> {
    /// The mapping.
    #[must_use]
    pub fn vma(&self) -> &'s Vma<P> {
        self.vma
    }

    /// The start of the huge page.
    #[must_use]
    pub fn address(&self) -> VirtAddr {
        self.address
    }

    /// What the entry said.
    #[must_use]
    pub fn entry(&self) -> Entry {
        self.entry
    }

    /// Do other processes reach the page, through the same table or through another entry? False if there
    /// is no page.
    #[must_use]
    pub fn is_page_shared(&self) -> bool {
        let Some(frame) = self.entry.page() else { return false };
        self.sharers > 0 || self.vma.mm().hugetlb().page(frame).mapcount() > 1
    }

    /// Locks the table, so that the caller can reread the entry and mark it. Spins.
    ///
    /// # Errors
    ///
    /// [`Unshared`]: the table was taken away since the entry was read.
    pub fn lock(&self) -> Result<LockedSlot<'_, P>, Unshared> {
        self.slot.lock()
    }
}

/// Visits entries without ever sleeping.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a visitor for a walk under RCU",
    note = "a visitor that may sleep, a `SleepingVisitor`, walks under the VMA lock: `AddressSpace::walk_range_sleeping`"
)]
pub trait Visitor<P: Platform> {
    /// Called for an entry of a table. The entry may be empty.
    fn entry(&mut self, found: &Found<'_, P>);

    /// Called for a part of the mapping that has no table.
    fn hole(&mut self, vma: &Vma<P>, range: Range<VirtAddr>) {
        let _ = (vma, range);
    }
}

/// What a [`SleepingVisitor`] wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next entry.
    Go,
    /// A fault here, and then this address again.
    Fault(Access),
    /// The end of the walk.
    Stop,
}

/// The task of a walk, for a visitor that may sleep. It takes no lock of an address space, since the walk
/// holds some. Linux: `cond_resched()` in the callbacks of fs/proc/task_mmu.c.
#[derive(Debug)]
pub struct Resched<'t, P: Platform> {
    task: &'t mut Task<P>,
}

impl<P: Platform> Resched<'_, P> {
    /// The task, for calls that do not sleep, such as a read section of RCU.
    #[must_use]
    pub fn task(&self) -> &Task<P> {
        self.task
    }

    /// Lets others run. Sleeps.
    pub fn cond_resched(&mut self) {
        self.task.pause();
    }

    /// Waits for a grace period. Sleeps.
    pub fn synchronize(&mut self) {
        self.task.synchronize();
    }
}

/// Visits entries, and may sleep meanwhile.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a visitor for a walk under the VMA lock",
    note = "a visitor that never sleeps, a `Visitor`, walks under RCU: `AddressSpace::walk_range`"
)]
pub trait SleepingVisitor<P: Platform> {
    /// The entry at an address, or [`Entry::None`] where there is no table.
    fn entry(&mut self, resched: &mut Resched<'_, P>, vma: &Vma<P>, address: VirtAddr, entry: Entry) -> Next;

    /// The fault that the visitor asked for failed. With [`Next::Go`], the walk goes on after it.
    fn fault_failed(&mut self, address: VirtAddr, error: FaultError) -> Next {
        let _ = (address, error);
        Next::Stop
    }
}

impl<P: Platform> AddressSpace<P> {
    /// Visits each entry and each hole of the mappings in a range, under RCU. Returns the first address
    /// that is not mapped, if there is one. Sleeps between tables, but not during a visit.
    ///
    /// Takes the mmap lock in read, and a read section for each table.
    ///
    /// Linux: `walk_page_range()` in mm/pagewalk.c.
    ///
    /// # Errors
    ///
    /// [`MapError::UnalignedAddress`] if an end of the range is no multiple of 4 KiB, [`MapError::Overflow`] if the range ends
    /// before it begins, [`MapError::WrongSystem`]: nothing was visited then.
    pub fn walk_range(
        &self,
        task: &mut Task<P>,
        range: Range<VirtAddr>,
        visitor: &mut impl Visitor<P>,
    ) -> Result<Option<VirtAddr>, MapError> {
        self.check_walk(task, &range)?;
        let mmap = self.mmap_read(task);
        let mut next = range.start;
        let mut unmapped = None;
        for vma in mmap.overlapping(&range) {
            if vma.start() > next {
                unmapped = unmapped.or(Some(next));
            }
            let size = vma.size();
            let part = vma.start().max(range.start.huge_page(size))..vma.end().min(range.end);
            next = vma.end();
            let _locked = VmaReadGuard::beside_section(&mmap.held, vma, task);
            for part in by_table(vma.mm().geometry(), part, size) {
                walk_table(task, vma, part, visitor);
            }
        }
        Ok(unmapped.or((next < range.end).then_some(next)))
    }

    /// Visits each page of the mappings in a range, under the VMA lock. The visitor may sleep, and may ask
    /// for faults. Sleeps.
    ///
    /// Takes the mmap lock and VMA locks in read, and releases all of them for a fault.
    ///
    /// Linux: `walk_hugetlb_range()` in mm/pagewalk.c, which takes the VMA lock.
    ///
    /// # Errors
    ///
    /// As for [`walk_range`](Self::walk_range).
    pub fn walk_range_sleeping(
        &self,
        task: &mut Task<P>,
        range: Range<VirtAddr>,
        visitor: &mut impl SleepingVisitor<P>,
    ) -> Result<(), MapError> {
        self.check_walk(task, &range)?;
        let mut address = range.start;
        while address < range.end {
            match self.walk_until_fault(task, address..range.end, visitor) {
                Pause::End => break,
                Pause::Fault(at, access) => {
                    address = at;
                    if let Err(error) = self.fault(task, at, access) {
                        if visitor.fault_failed(at, error) != Next::Go {
                            break;
                        }
                        let mmap = self.mmap_read(task);
                        let Some(vma) = mmap.find(at) else { continue };
                        address = at.huge_page(vma.size()).plus(vma.size().bytes());
                    }
                }
            }
        }
        Ok(())
    }

    /// Linux: `walk_page_range()` in mm/pagewalk.c, and the checks of its callers.
    fn check_walk(&self, task: &Task<P>, range: &Range<VirtAddr>) -> Result<(), MapError> {
        task.check(self.mm().hugetlb())?;
        let unaligned = |address: &&VirtAddr| !self.mm().geometry().is_aligned(address.as_u64());
        if let Some(&address) = [&range.start, &range.end].into_iter().find(unaligned) {
            return Err(MapError::UnalignedAddress { address });
        }
        if range.end < range.start { Err(MapError::Overflow) } else { Ok(()) }
    }

    fn walk_until_fault(
        &self,
        task: &mut Task<P>,
        range: Range<VirtAddr>,
        visitor: &mut impl SleepingVisitor<P>,
    ) -> Pause {
        let mmap = self.mmap_read(task);
        for vma in mmap.overlapping(&range) {
            let size = vma.size();
            let Some(locked) = mmap.lock_vma(vma, task) else { continue };
            let mut address = vma.start().max(range.start.huge_page(size));
            while address < vma.end().min(range.end) {
                let slot = huge_pte_offset(&locked, vma.mm(), address, size).ok().flatten();
                let entry = slot.map_or(Entry::None, |slot| match slot.read() {
                    passing if may_pass(vma, passing) => slot.lock(task).read(),
                    entry => entry,
                });
                match visitor.entry(&mut Resched { task }, vma, address, entry) {
                    Next::Go => address = address.plus(size.bytes()),
                    Next::Fault(access) => return Pause::Fault(address, access),
                    Next::Stop => return Pause::End,
                }
            }
        }
        Pause::End
    }
}

/// Why a walk with a sleeping visitor released its locks.
enum Pause {
    End,
    Fault(VirtAddr, Access),
}

/// May this be a value that an operation stores for a moment, under the table lock? Then the walk waits for the lock and reads
/// the entry again: no report tells what nobody meant to stay.
///
/// - A private page that is copied for a store loses access until the TLB is flushed (`fault`).
/// - A migration entry goes again if the page turns out to be pinned (`rmap`).
fn may_pass<P: Platform>(vma: &Vma<P>, entry: Entry) -> bool {
    match entry {
        Entry::Leaf(leaf) => !leaf.is_accessible() && !vma.protection().is_empty(),
        Entry::Migration(_) => true,
        _ => false,
    }
}

/// The part of a walk that lies in the range of one table, even if that table is replaced meanwhile.
pub(crate) fn walk_table<P: Platform>(
    task: &Task<P>,
    vma: &Arc<Vma<P>>,
    part: Range<VirtAddr>,
    visitor: &mut impl Visitor<P>,
) {
    let size = vma.size();
    let mut address = part.start;
    while address < part.end {
        let section = task.rcu_read_lock();
        let Ok(Some(mut slot)) = huge_pte_offset(&section, vma.mm(), address, size) else {
            visitor.hole(vma, address..part.end);
            return;
        };
        while address < part.end {
            slot.move_to(address);
            let sharers = slot.sharers_hint();
            // Unshared: the walk goes on from here, in the table that is there now.
            let Ok(mut entry) = slot.read() else { break };
            if may_pass(vma, entry) {
                let Ok(locked) = slot.lock() else { break };
                entry = locked.read();
            }
            visitor.entry(&Found { vma, address, entry, sharers, slot: &slot });
            address = address.plus(size.bytes());
        }
    }
}
