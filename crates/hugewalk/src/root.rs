//! The root of an address space's tables: what VMAs and walkers use of it.

mod active;

use core::fmt;
use core::sync::atomic::Ordering;

pub use self::active::ActiveMm;
use crate::addr::{HugeSize, TableFrame, VirtAddr};
use crate::arch::{Geometry, Paging};
use crate::error::OutOfMemory;
use crate::hugetlb::{Hugetlb, Inside};
use crate::platform::{Barriers, Flush, Platform};
use crate::sleep::WaitQueue;
use crate::sync::{Apart, Arc, Word};
use crate::table::{OwnedTable, TableRef, read};

/// Into how many parts the count of resident pages is divided. A power of two.
const PARTS: usize = 8;

/// What VMAs and walkers use of an address space: the root of its tables.
///
/// Dropping the last reference gives the root back to the platform at once, and takes no lock. So a
/// processor with [its frame](Self::root_frame) in a base register has a reference too: an [`ActiveMm`].
///
/// # Invariants
///
/// `root` is a table made by the platform of `hugetlb`, and lives as long as the value.
pub struct Mm<P: Platform> {
    hugetlb: Inside<P>,
    id: u64,
    /// A copy of the system's: every walk reads it.
    paging: P::Paging,
    /// What it implies; every walk reads that too.
    task_size: VirtAddr,
    root: TableFrame,
    context: P::MmContext,
    /// Leaves that this address space installed, less those it cleared, as Linux counts them, by their size. The
    /// number is signed, since an address space may clear the leaves of a shared table that others have filled.
    ///
    /// A fault counts in the part of its task, so faults of different tasks mostly write different lines.
    resident: [Apart<[P::Word; HugeSize::MOST]>; PARTS],
    /// Threads that wait for faults to handle, by the handler they serve. They may outlive the mappings.
    handlers: WaitQueue<P, u64>,
    exited: P::Word,
}

impl<P: Platform> Mm<P> {
    /// An address space for a host that has [a set of VMAs of its own](crate::vm_ops). Sleeps. Others make an
    /// [`AddressSpace`](crate::AddressSpace), which makes its own.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn new(hugetlb: &Arc<Hugetlb<P>>) -> Result<Arc<Self>, OutOfMemory> {
        let platform = hugetlb.platform();
        let paging = *hugetlb.paging();
        let context = platform.new_context()?;
        let root = OwnedTable::root(hugetlb)?;
        // SAFETY: made just now, and stored nowhere.
        unsafe { platform.init_root(root.frame()) };
        // INVARIANT: the root was made above. If the value below cannot be moved to the heap, it is dropped, and the root
        // with it.
        Arc::try_new(Self {
            hugetlb: Inside::new(hugetlb),
            id: hugetlb.fresh_id(),
            paging,
            task_size: paging.task_size(),
            root: root.into_frame(),
            context,
            resident: core::array::from_fn(|_| {
                Apart(core::array::from_fn(|_| <P as Barriers>::Word::new(0)))
            }),
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

    /// The format of its tables.
    #[must_use]
    #[inline]
    pub fn paging(&self) -> &P::Paging {
        &self.paging
    }

    /// Bytes of a base page.
    pub(crate) fn base_page(&self) -> u64 {
        1 << self.paging().geometry().base_shift
    }

    /// The smallest size of huge page: the stride of a flush that is about tables.
    pub(crate) fn smallest(&self) -> HugeSize {
        self.sizes().next().unwrap_or(HugeSize::NONE)
    }

    /// The shape of its tables.
    #[inline]
    pub(crate) fn geometry(&self) -> Geometry {
        self.paging.geometry()
    }

    /// The frame of its root table.
    ///
    /// The root is freed together with the last `Arc<Mm>`, at once and without a flush. So **a processor
    /// that has it loaded counts as a holder**, from before the root is loaded until another one has been;
    /// the [`AddressSpace`](crate::AddressSpace) may be gone by then. [`ActiveMm`] is that reference as a type.
    ///
    /// The entries above [`Paging::task_size`] are the embedder's; see [`platform`](crate::platform#the-kernels-half-of-an-address-space).
    #[must_use]
    pub fn root_frame(&self) -> TableFrame {
        self.root
    }

    /// Leaves that this address space installed itself, of all sizes: see [`resident_of`](Self::resident_of).
    #[must_use]
    pub fn resident(&self) -> u64 {
        self.sizes().fold(0, |pages: u64, size| pages.saturating_add(self.resident_of(size)))
    }

    /// Leaves of one size that this address space installed itself: the pages it faulted in, less those it
    /// unmapped. A page that it reaches through a shared table, filled by another address space, is not
    /// counted.
    #[must_use]
    pub fn resident_of(&self, size: HugeSize) -> u64 {
        // Below zero if it cleared what others had installed.
        if !self.paging.has(size) {
            return 0;
        }
        self.balance_of(size).max(0).cast_unsigned()
    }

    /// The same in bytes, all sizes together. Linux: `HugetlbPages` in /proc/PID/status.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.sizes()
            .map(|size| self.resident_of(size).saturating_mul(size.bytes()))
            .fold(0, u64::saturating_add)
    }

    /// The same as a balance. It is below zero if this address space has cleared more leaves than it
    /// installed: those of a shared table that others had filled and then unshared. Linux keeps the same
    /// balance, and prints it without a sign.
    #[must_use]
    pub fn resident_balance(&self) -> i64 {
        self.sizes().fold(0, |bytes: i64, size| {
            bytes.saturating_add(self.balance_of(size).saturating_mul(size.bytes().cast_signed()))
        })
    }

    fn sizes(&self) -> impl Iterator<Item = HugeSize> {
        self.paging.leaves().iter().copied()
    }

    /// The sum of all parts. `size` is one of the format's.
    fn balance_of(&self, size: HugeSize) -> i64 {
        // Relaxed: statistics, which order nothing.
        let parts = (0..PARTS).map(|part| self.resident_word(size, part).load(Ordering::Relaxed));
        parts.fold(0, u64::wrapping_add).cast_signed()
    }

    /// `size` is one of the format's.
    fn resident_word(&self, size: HugeSize, part: usize) -> &P::Word {
        &self.resident[part & (PARTS - 1)][size.index() & (HugeSize::MOST - 1)]
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
    #[must_use]
    pub fn task_size(&self) -> VirtAddr {
        self.task_size
    }

    #[inline]
    pub(crate) fn root(&self) -> TableRef<'_, P> {
        // SAFETY: by the type invariants.
        unsafe { TableRef::from_frame(self.hugetlb.platform(), self.root) }
    }

    /// Counts `leaves` of this size more. `task` is a number of the task that installs them.
    pub(crate) fn add_resident(&self, size: HugeSize, leaves: u64, task: u64) {
        // Relaxed here and below: statistics. They pair with the loads in `balance_of`, which order nothing. Sums come out
        // right, since each is a read-modify-write.
        self.resident_word(size, task as usize).fetch_add(leaves, Ordering::Relaxed);
    }

    /// Counts `leaves` of this size less.
    pub(crate) fn sub_resident(&self, size: HugeSize, leaves: u64) {
        self.resident_word(size, 0).fetch_sub(leaves, Ordering::Relaxed);
    }
}

impl<P: Platform> Drop for Mm<P> {
    fn drop(&mut self) {
        // No grace period is needed, because no walker is left. A walker gets to the root through the `Mm`
        // and borrows it as long as it has a slot, in a read section too; no other table points to the
        // root. A processor that has it loaded has an `Arc<Mm>` (see `root_frame`).
        if self.root().below() > 0 {
            self.free_what_is_left();
        }
        // No flush is needed either. The entries of the root were cleared and flushed at exit, so
        // processors have cached nothing of them.
        // SAFETY: this platform made it. As just said, neither a walker nor a processor reaches it, and it
        // has no table below.
        unsafe { self.hugetlb.platform().free_table(self.root) };
    }
}

impl<P: Platform> Mm<P> {
    /// Frees the tables above tables of the host's that the host has left in place: nobody can take those
    /// away any more.
    #[cold]
    fn free_what_is_left(&mut self) {
        let range = VirtAddr::default()..self.task_size;
        let flush = Flush { range, stride: self.base_page(), tables: true };
        self.hugetlb.platform().flush_tlb(&self.context, flush);
        let geometry = self.geometry();
        // The rest of the root's entries are the host's: see `init_root`.
        let used = geometry.index(self.task_size.as_u64() - 1, geometry.root()) + 1;
        free_below(self, self.root(), geometry.root(), used);
    }
}

/// Frees the tables that the first `used` entries of a table of `level` point to, and those below. The address space, `ends`, is being
/// dropped: nobody else reaches any of them.
fn free_below<P: Platform>(ends: &Mm<P>, above: TableRef<'_, P>, level: u8, used: usize) {
    let platform = ends.hugetlb.platform();
    // Nothing lies below the lowest level.
    let Some(next) = level.checked_sub(1) else { return };
    for index in 0..used {
        let entry = read(above.entry(&ends.paging, index));
        let Some(frame) = ends.paging.next_table(entry, level) else { continue };
        // SAFETY: an entry that is not the host's points to a table of the engine's. It is freed below, and not before.
        free_below(
            ends,
            unsafe { TableRef::from_frame(platform, frame) },
            next,
            ends.geometry().entries(next),
        );
        // SAFETY: nobody else reaches it, and no entry leads to it twice: tables are shared only where there are mappings.
        unsafe { platform.free_table(frame) };
    }
}

impl<P: Platform> fmt::Debug for Mm<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mm").field("id", &self.id).finish_non_exhaustive()
    }
}
