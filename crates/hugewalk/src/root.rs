//! The root of an address space's tables: what VMAs and walkers use of it.

use core::fmt;
use core::sync::atomic::Ordering;

use crate::addr::{HugeSize, TableFrame, VirtAddr};
use crate::error::OutOfMemory;
use crate::hugetlb::{Hugetlb, Inside};
use crate::platform::{Barriers, Levels, Platform};
use crate::sleep::WaitQueue;
use crate::sync::{Arc, Word};
use crate::table::{OwnedTable, TableRef};

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
    pub(crate) fn new(hugetlb: &Arc<Hugetlb<P>>) -> Result<Arc<Self>, OutOfMemory> {
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
    /// (lazy TLB); the [`AddressSpace`](crate::AddressSpace) may be gone by then. Linux: `mm_count`, and `active_mm` in the
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
    /// [`AddressSpace::has_exited`](crate::AddressSpace::has_exited), without the lock.
    pub(crate) fn has_exited(&self) -> bool {
        // Acquire: pairs with the Release in `set_exited`. A caller that sees true finds no mapping any
        // more.
        self.exited.load(Ordering::Acquire) != 0
    }

    pub(crate) fn set_exited(&self) {
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

    /// Counts `leaves` of this size less.
    pub(crate) fn sub_resident(&self, size: HugeSize, leaves: u64) {
        self.resident_word(size).fetch_sub(leaves, Ordering::Relaxed);
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
