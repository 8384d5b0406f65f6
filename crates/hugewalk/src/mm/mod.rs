//! Address spaces: their VMAs under the mmap lock, and the operations on them.
//!
//! # Protocol
//!
//! The mmap lock guards the set of VMAs. Faults and madvise hold it in read; operations that change the set
//! hold it in write. VMAs are replaced, never changed (see [`vma`](crate::vma)).
//!
//! An operation that replaces VMAs makes the new ones first: what can fail comes before the first change.
//! Then, for each old VMA in turn, it takes the VMA lock and `i_mmap` in write, works on the entries, and
//! exchanges the VMA in the file's tree before it releases the locks. So no other mapping can start to
//! share with a VMA that is about to go.
//!
//! # While a guard is held
//!
//! A guard of a sleeping lock keeps no borrow of the task, so calls that take further locks compile. Some
//! of them deadlock: a call that takes a lock which its own task holds waits for ever, and so do two tasks
//! that take two locks in different orders.
//!
//! A function that takes `&Task` takes no sleeping lock and may always be called: [`Task::rcu_read_lock`]
//! and walks in that section, `pin_page_fast`, `pin_pages_nowait`, [`AddressSpace::mmap_try_read`], the
//! operations under a [`Gather`](crate::gather::Gather). Of the functions that take `&mut Task`, these may
//! be called:
//!
//! | held | may be called |
//! |---|---|
//! | [`mmap_read`](AddressSpace::mmap_read), [`mmap_try_read`](AddressSpace::mmap_try_read) | [`lock_vma`](MmapReadGuard::lock_vma), [`lock_vma_write`](MmapReadGuard::lock_vma_write), `i_mmap_read`, `i_mmap_write`; `synchronize`, `rcu_barrier` |
//! | [`lock_vma`](MmapReadGuard::lock_vma), [`lock_vma_write`](MmapReadGuard::lock_vma_write) | `i_mmap_read`, `i_mmap_write` of the VMA's file; `synchronize`, `rcu_barrier` |
//! | [`i_mmap_read`](crate::file::HugeFile::i_mmap_read), [`i_mmap_write`](crate::file::HugeFile::i_mmap_write) | `synchronize`, `rcu_barrier` |
//!
//! All other operations deadlock, at once or some day:
//!
//! - Under the mmap lock in read, `mmap`, `munmap`, `mremap`, `mprotect`, `mbind`, `mlock`, `fork`, `exit`
//!   and most advice deadlock at once, for they take it in write.
//! - `fault`, `pin_pages`, page walks and `madvise(DONTNEED)` take it in read once more: they go through
//!   until another task waits for it in write.
//! - Truncation, migration and memory failure wait for VMA locks and for `i_mmap`.
//!
//! There are two parts. [`Mm`] is what VMAs and walkers use of an address space: the root table and the
//! host's context. The [`AddressSpace`] adds the set of VMAs.

mod advise;
mod bind;
mod entries;
mod error;
mod exchange;
mod exit;
mod fork;
mod lock;
mod map;
mod observe;
mod protect;
mod remap;
mod seal;
mod set;
mod soft_dirty;
mod split;
mod unlisted;
mod unmap;

use core::fmt;
use core::ops::Range;
use core::ptr;
use core::sync::atomic::Ordering;

pub use self::advise::Advice;
pub(crate) use self::entries::each_own_entry;
pub use self::error::MapError;
pub(crate) use self::exchange::exchange_range;
pub use self::lock::LockAll;
pub use self::map::{Backing, MapFlags, MapRequest, Placement};
pub use self::observe::{Residency, TableUse};
pub use self::remap::RemapTo;
pub(crate) use self::set::VmaSet;
pub(crate) use self::unmap::{Zap, by_table, free_tables, zap_range};

use crate::addr::{HugeSize, TableFrame, VirtAddr};
use crate::error::OutOfMemory;
use crate::hugetlb::{Hugetlb, Inside};
use crate::platform::{Barriers, Levels, Platform};
use crate::sync::{Arc, Link, Linked, ReadSem, RwSem, WaitQueue, Word, WriteSem};
use crate::table::{OwnedTable, TableRef};
use crate::task::Task;
use crate::vma::held::KeepsVma;
use crate::vma::{Vma, VmaReadGuard, VmaWriteGuard};

/// What VMAs and walkers use of an address space: the root of its tables.
///
/// Dropping the last reference gives the root back to the platform at once, and takes no lock. So a
/// processor with [its frame](Self::root_frame) in a base register must have a reference too.
///
/// # Invariants
///
/// `root` is a table made by the platform of `hugetlb`, and lives as long as the value.
pub struct Mm<P: Platform> {
    hugetlb: Inside<P>,
    id: u64,
    levels: Levels,
    /// What `levels` implies; every walk reads it.
    task_size: VirtAddr,
    root: TableFrame,
    context: P::MmContext,
    /// Leaves that this address space installed, less those it cleared, as Linux counts them: 2 MiB leaves,
    /// and 1 GiB leaves. The number is signed, since an address space may clear the leaves of a shared
    /// table that others have filled.
    resident: [P::Word; 2],
    /// Threads that wait for faults to handle, by the handler they serve. They may outlive the mappings.
    handlers: WaitQueue<P, u64>,
    exited: P::Word,
}

impl<P: Platform> Mm<P> {
    fn new(hugetlb: &Arc<Hugetlb<P>>) -> Result<Arc<Self>, OutOfMemory> {
        let platform = hugetlb.platform();
        let levels = platform.levels();
        let context = platform.new_context()?;
        let root = OwnedTable::new(hugetlb)?;
        // SAFETY: made just now, and stored nowhere.
        unsafe { platform.init_root(root.frame()) };
        // INVARIANT: the root was made above. If the value below cannot be moved to the heap, it is dropped, and the root
        // with it.
        Arc::try_new(Self {
            hugetlb: Inside::new(hugetlb),
            id: hugetlb.fresh_id(),
            levels,
            task_size: levels.task_size(),
            root: root.into_frame(),
            context,
            resident: [<P as Barriers>::Word::new(0), <P as Barriers>::Word::new(0)],
            handlers: WaitQueue::new(),
            exited: <P as Barriers>::Word::new(0),
        })
    }

    /// A number no other address space or file of the system has.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The system it belongs to.
    #[must_use]
    #[inline]
    pub fn hugetlb(&self) -> &Hugetlb<P> {
        &self.hugetlb
    }

    pub(crate) fn inside(&self) -> &Inside<P> {
        &self.hugetlb
    }

    /// The host's own data for it.
    #[must_use]
    #[inline]
    pub fn context(&self) -> &P::MmContext {
        &self.context
    }

    /// The depth of its tables.
    #[must_use]
    #[inline]
    pub fn levels(&self) -> Levels {
        self.levels
    }

    /// The frame of its root table, for a processor's base register.
    ///
    /// The root is freed together with the last `Arc<Mm>`, at once and without a flush. So **a processor
    /// that has it loaded counts as a holder**: the embedder keeps an `Arc<Mm>` for it, from before the
    /// root is loaded until another one has been.
    ///
    /// This includes a processor that keeps the register while it runs a task without an address space
    /// (lazy TLB); the [`AddressSpace`] may be gone by then. Linux: `mm_count`, and `active_mm` in the
    /// scheduler.
    ///
    /// Entries 256 to 511 are the embedder's; see [`platform`](crate::platform#the-kernels-half-of-an-address-space).
    #[must_use]
    pub fn root_frame(&self) -> TableFrame {
        self.root
    }

    /// Leaves that this address space installed itself, of all sizes: see [`resident_of`](Self::resident_of).
    #[must_use]
    pub fn resident(&self) -> u64 {
        HugeSize::ALL.into_iter().fold(0, |pages: u64, size| pages.saturating_add(self.resident_of(size)))
    }

    /// Leaves of one size that this address space installed itself: the pages it faulted in, less those it
    /// unmapped. A page that it reaches through a shared table, filled by another address space, is not
    /// counted.
    #[must_use]
    pub fn resident_of(&self, size: HugeSize) -> u64 {
        // Below zero if it cleared what others had installed. Relaxed: statistics, which order nothing.
        self.resident_word(size).load(Ordering::Relaxed).cast_signed().max(0).cast_unsigned()
    }

    /// The same in bytes, all sizes together. Linux: `HugetlbPages` in /proc/PID/status.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let bytes = HugeSize::ALL.map(|size| self.resident_of(size).saturating_mul(size.bytes()));
        bytes.into_iter().fold(0, u64::saturating_add)
    }

    /// The same as a balance. It is below zero if this address space has cleared more leaves than it
    /// installed: those of a shared table that others had filled and then unshared. Linux keeps the same
    /// balance, and prints it without a sign.
    #[must_use]
    pub fn resident_balance(&self) -> i64 {
        HugeSize::ALL.into_iter().fold(0, |bytes: i64, size| {
            // Relaxed: statistics, as in `resident_of`.
            let pages = self.resident_word(size).load(Ordering::Relaxed).cast_signed();
            bytes.saturating_add(pages.saturating_mul(size.bytes().cast_signed()))
        })
    }

    fn resident_word(&self, size: HugeSize) -> &P::Word {
        let [small, large] = &self.resident;
        match size {
            HugeSize::Size2M => small,
            HugeSize::Size1G => large,
        }
    }

    pub(crate) fn handlers(&self) -> &WaitQueue<P, u64> {
        &self.handlers
    }

    /// Has the address space exited, so that nothing is mapped or ever will be? Like
    /// [`AddressSpace::has_exited`], without the lock.
    pub(crate) fn has_exited(&self) -> bool {
        // Acquire: pairs with the Release in `set_exited`. A caller that sees true finds no mapping any
        // more.
        self.exited.load(Ordering::Acquire) != 0
    }

    fn set_exited(&self) {
        // Release: pairs with the Acquire in `has_exited`. It is stored before the waiters are woken: see `WaitQueue`.
        self.exited.store(1, Ordering::Release);
        self.handlers.wake_all();
    }

    /// The first address above user addresses.
    #[inline]
    pub(crate) fn task_size(&self) -> VirtAddr {
        self.task_size
    }

    #[inline]
    pub(crate) fn root(&self) -> TableRef<'_, P> {
        // SAFETY: by the type invariants.
        unsafe { TableRef::from_frame(self.hugetlb.platform(), self.root) }
    }

    /// Counts one more leaf of this size.
    pub(crate) fn add_resident(&self, size: HugeSize) {
        // Relaxed here and below: statistics. They pair with the loads in `resident_of` and `resident_balance`, which order
        // nothing. Sums come out right, since each is a read-modify-write.
        self.resident_word(size).fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one leaf of this size less.
    pub(crate) fn sub_resident(&self, size: HugeSize) {
        self.resident_word(size).fetch_sub(1, Ordering::Relaxed);
    }
}

impl<P: Platform> Drop for Mm<P> {
    fn drop(&mut self) {
        // No grace period is needed, because no walker is left. A walker gets to the root through the `Mm`
        // and borrows it as long as it has a slot, in a read section too; no other table points to the
        // root. A processor that has it loaded has an `Arc<Mm>` (see `root_frame`).
        //
        // No flush is needed either. The entries of the root were cleared and flushed at exit, so
        // processors have cached nothing of them.
        // SAFETY: this platform made it. As just said, neither a walker nor a processor reaches it, and it
        // has no table below.
        unsafe { self.hugetlb.platform().free_table(self.root) };
    }
}

impl<P: Platform> fmt::Debug for Mm<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mm").field("id", &self.id).finish_non_exhaustive()
    }
}

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
    mm: Arc<Mm<P>>,
    vmas: RwSem<P, VmaSet<P>>,
    /// Its link in the queue of dropped address spaces.
    link: Link<Self>,
    /// The number of its VMAs that have been emptied since it was dropped.
    emptied: usize,
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
        let space = Self { system, mm, vmas: RwSem::new(VmaSet::new()), link: Link::new(), emptied: 0 };
        Arc::try_new_with_last(space, Self::dropped)
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
    /// `&mut Task` may be called, [`munmap`](Self::munmap) and [`fault`](Self::fault) included: see [the
    /// module](self#while-a-guard-is-held).
    #[must_use]
    pub fn mmap_read<'m>(&'m self, task: &mut Task<P>) -> MmapReadGuard<'m, P> {
        MmapReadGuard { vmas: self.vmas.read(task) }
    }

    /// Takes the mmap lock in read if that needs no waiting. Does not sleep. While it is held, the same
    /// calls are allowed as under [`mmap_read`](Self::mmap_read).
    #[must_use]
    pub fn mmap_try_read(&self, _task: &Task<P>) -> Option<MmapReadGuard<'_, P>> {
        Some(MmapReadGuard { vmas: self.vmas.try_read()? })
    }

    /// Takes the mmap lock in write. Sleeps.
    pub(crate) fn mmap_write<'m>(&'m self, task: &mut Task<P>) -> MmapWriteGuard<'m, P> {
        MmapWriteGuard { mm: &self.mm, vmas: self.vmas.write(task) }
    }
}

impl<P: Platform> fmt::Debug for AddressSpace<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressSpace").field("mm", &self.mm.id).finish_non_exhaustive()
    }
}

/// The mmap lock of an address space, held in read. Dropping it releases the lock, and does not sleep.
pub struct MmapReadGuard<'m, P: Platform> {
    vmas: ReadSem<'m, P, VmaSet<P>>,
}

impl<P: Platform> MmapReadGuard<'_, P> {
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
    /// See [the module](self#while-a-guard-is-held).
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

impl<P: Platform> KeepsVma<P> for MmapReadGuard<'_, P> {
    fn keeps(&self, vma: &Vma<P>) -> bool {
        self.vmas.find(vma.start()).is_some_and(|found| ptr::eq::<Vma<P>>(&**found, vma))
    }
}

/// The mmap lock of an address space, held in write.
pub(crate) struct MmapWriteGuard<'m, P: Platform> {
    pub(crate) mm: &'m Arc<Mm<P>>,
    pub(crate) vmas: WriteSem<'m, P, VmaSet<P>>,
}

impl<P: Platform> KeepsVma<P> for MmapWriteGuard<'_, P> {
    fn keeps(&self, vma: &Vma<P>) -> bool {
        self.vmas.find(vma.start()).is_some_and(|found| ptr::eq::<Vma<P>>(&**found, vma))
    }
}

/// The size of page that a range of VMAs has, for alignment checks.
pub(crate) fn align_error(size: HugeSize, value: u64) -> Result<(), MapError> {
    if size.is_aligned(value) { Ok(()) } else { Err(MapError::Unaligned { value, size }) }
}
