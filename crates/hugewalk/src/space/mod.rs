//! Address spaces: their VMAs, and the mmap lock. [`mm`](crate::mm) has the operations on them, and the protocol.

mod beside;
mod claims;
mod exchange;
mod set;
mod split;

use core::fmt;
use core::ops::Range;

pub(crate) use self::exchange::exchange_range;
pub(crate) use self::set::{Places, SetPlace, VmaSet};
pub(crate) use self::split::Split;

use crate::addr::VirtAddr;
use crate::error::{Interrupted, OutOfMemory};
use crate::hugetlb::Hugetlb;
use crate::platform::Platform;
use crate::root::Mm;
use crate::sleep::{BiasedReadSem, BiasedRwSem, BiasedWriteSem};
use crate::sync::{Arc, Link, Linked, Orphan};
use crate::task::Task;
use crate::vma::{MmapLocked, MmapLockedForWrite, Vma, VmaReadGuard, VmaWriteGuard};

/// One process's huge-page mappings. Linux: `mm_struct`.
///
/// Used by many threads at once, each with a [`Task`] of its own. [`exit`](Self::exit) unmaps everything, at once.
///
/// The last reference may be dropped anywhere: in a read section, with a table locked, when there is no
/// memory. The drop unmaps nothing. It leaves that to the next operation with a `&mut Task` of the system
/// ([`Task::finish_drops`] among them), or to the drop of the system's last handle. Until then the pages,
/// tables and reservations stay in use.
pub struct AddressSpace<P: Platform> {
    /// Its handle on the system, until it is dropped.
    system: Option<Arc<Hugetlb<P>>>,
    pub(crate) mm: Arc<Mm<P>>,
    pub(crate) vmas: BiasedRwSem<P, VmaSet<P>>,
    /// Its link in the queue of dropped address spaces.
    link: Link<Self>,
    /// Up to here its VMAs have been emptied since it was dropped.
    pub(crate) emptied: VirtAddr,
}

impl<P: Platform> Linked for AddressSpace<P> {
    fn link(&self) -> &Link<Self> {
        &self.link
    }
}

impl<P: Platform> AddressSpace<P> {
    /// An address space without mappings.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn new(hugetlb: &Arc<Hugetlb<P>>) -> Result<Arc<Self>, OutOfMemory> {
        let mm = Mm::new(hugetlb)?;
        let system = Some(hugetlb.clone());
        // SAFETY: the lock lies beside a reference to `mm`, which keeps its system.
        let vmas = unsafe { BiasedRwSem::new(hugetlb, VmaSet::new()) };
        let space = Self { system, mm, vmas, link: Link::new(), emptied: VirtAddr::default() };
        Arc::try_new_with_last(space, Self::dropped)
    }

    /// The last reference is gone. What is still mapped is left to a later operation that may sleep: see
    /// [`hugetlb`](crate::hugetlb).
    fn dropped(mut space: Orphan<Self>) {
        let system = space.system.take();
        let is_empty = space.vmas.inner_mut().is_empty();
        match &system {
            Some(system) if !is_empty => system.dropped().push(space),
            _ => drop(space),
        }
        // Dropped last: it may be the system's last handle, and its drop takes down what is queued.
        drop(system);
    }

    /// Its tables, for walks.
    #[must_use]
    #[inline]
    pub fn mm(&self) -> &Arc<Mm<P>> {
        &self.mm
    }

    /// Takes the mmap lock in read: VMAs stay as they are. Sleeps. The lock alone is no proof for a walk.
    ///
    /// While it is held, VMA locks and `i_mmap` may be taken. No operation of this address space that takes
    /// `&mut Task` may be called, [`munmap`](Self::munmap) and [`fault`](Self::fault) included: see [`mm`](crate::mm#while-a-guard-is-held).
    #[must_use]
    pub fn mmap_read<'m>(&'m self, task: &mut Task<P>) -> MmapReadGuard<'m, P> {
        MmapReadGuard::new(&self.mm, self.vmas.read(task))
    }

    /// Takes the mmap lock in read if that needs no waiting. Does not sleep. While it is held, the same
    /// calls are allowed as under [`mmap_read`](Self::mmap_read).
    #[must_use]
    pub fn mmap_try_read(&self, task: &Task<P>) -> Option<MmapReadGuard<'_, P>> {
        Some(MmapReadGuard::new(&self.mm, self.vmas.try_read(task)?))
    }

    /// Takes the mmap lock in write. Sleeps.
    pub(crate) fn mmap_write<'m>(&'m self, task: &mut Task<P>) -> MmapWriteGuard<'m, P> {
        MmapWriteGuard::new(&self.mm, self.vmas.write(task))
    }

    /// Takes the mmap lock in write, unless the task is killed first. Sleeps. Linux: `mmap_write_lock_killable()`.
    pub(crate) fn mmap_write_killable<'m>(
        &'m self,
        task: &mut Task<P>,
    ) -> Result<MmapWriteGuard<'m, P>, Interrupted> {
        Ok(MmapWriteGuard::new(&self.mm, self.vmas.write_killable(task)?))
    }
}

impl<P: Platform> fmt::Debug for AddressSpace<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressSpace").field("mm", &self.mm.id()).finish_non_exhaustive()
    }
}

/// The mmap lock of an address space, held in read. Dropping it releases the lock, and does not sleep.
///
/// # Invariants
///
/// `vmas` is the set of the address space of `held`.
pub struct MmapReadGuard<'m, P: Platform> {
    pub(crate) held: MmapLocked<'m, P>,
    pub(crate) vmas: BiasedReadSem<'m, P, VmaSet<P>>,
}

impl<'m, P: Platform> MmapReadGuard<'m, P> {
    /// `vmas` is the set of `mm`, of an [`AddressSpace`].
    fn new(mm: &'m Arc<Mm<P>>, vmas: BiasedReadSem<'m, P, VmaSet<P>>) -> Self {
        // SAFETY: the lock of the set is the mmap lock of `mm`, and is held as long as this guard lives. A
        // `MmapLockedForWrite` of `mm` is made below only, with the lock held in write.
        Self { held: unsafe { MmapLocked::assume_held(mm) }, vmas }
    }

    /// The address space.
    pub(crate) fn mm(&self) -> &'m Arc<Mm<P>> {
        self.held.mm()
    }

    /// The VMA that contains the address.
    #[must_use]
    pub fn find(&self, address: VirtAddr) -> Option<&Arc<Vma<P>>> {
        self.vmas.find(address)
    }

    /// The VMAs that overlap a range, by address.
    pub fn overlapping(&self, range: &Range<VirtAddr>) -> impl Iterator<Item = &Arc<Vma<P>>> {
        self.vmas.overlapping(range)
    }

    /// All VMAs, by address.
    pub fn vmas(&self) -> impl Iterator<Item = &Arc<Vma<P>>> {
        self.vmas.iter()
    }

    /// The parts of a range that the host has [claimed](AddressSpace::claim), by address.
    pub fn claims(&self, range: &Range<VirtAddr>) -> impl Iterator<Item = Range<VirtAddr>> {
        self.vmas.claims.within(range)
    }

    /// Takes the lock of a VMA of this address space in read. Sleeps. `None` if the VMA is not in this
    /// address space, or no longer.
    ///
    /// While it is held, `i_mmap` of the VMA's file may be taken. No other call with `&mut Task` is
    /// allowed, and no second VMA lock:
    ///
    /// - not [`fault`](AddressSpace::fault), which waits for a fault mutex whose holder may wait for this
    ///   lock,
    /// - nothing that unshares, such as `madvise`, truncation or migration.
    ///
    /// See [`mm`](crate::mm#while-a-guard-is-held).
    #[must_use]
    pub fn lock_vma<'v>(&'v self, vma: &'v Vma<P>, task: &mut Task<P>) -> Option<VmaReadGuard<'v, P>> {
        self.held.lock_vma(vma, task)
    }

    /// Takes the lock of a VMA of this address space in write. Sleeps. `None` as for
    /// [`lock_vma`](Self::lock_vma). While it is held, the same calls are allowed.
    #[must_use]
    pub fn lock_vma_write<'v>(&'v self, vma: &'v Vma<P>, task: &mut Task<P>) -> Option<VmaWriteGuard<'v, P>> {
        self.held.lock_vma_write(vma, task)
    }
}

/// The mmap lock of an address space, held in write.
///
/// # Invariants
///
/// As for [`MmapReadGuard`].
pub(crate) struct MmapWriteGuard<'m, P: Platform> {
    pub(crate) held: MmapLockedForWrite<'m, P>,
    pub(crate) vmas: BiasedWriteSem<'m, P, VmaSet<P>>,
}

impl<'m, P: Platform> MmapWriteGuard<'m, P> {
    /// `vmas` is the set of `mm`, of an [`AddressSpace`].
    pub(crate) fn new(mm: &'m Arc<Mm<P>>, vmas: BiasedWriteSem<'m, P, VmaSet<P>>) -> Self {
        // SAFETY: the lock of the set is the mmap lock of `mm`, and is held in write as long as this guard lives. Other
        // values of the two types are made with that lock held too.
        Self { held: unsafe { MmapLockedForWrite::assume_held(mm) }, vmas }
    }

    /// The address space.
    pub(crate) fn mm(&self) -> &'m Arc<Mm<P>> {
        self.held.mm()
    }
}
