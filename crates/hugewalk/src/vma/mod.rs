//! Mapped ranges and their locks.
//!
//! A [`Vma`] never changes. An operation that splits, protects or moves it replaces it by others, with the
//! mmap lock, the VMA lock and the `i_mmap` lock held in write. So a caller that holds any of the three can
//! rely on the bounds and flags of a VMA it has found.
//!
//! # The VMA lock
//!
//! A VMA that may share tables has a lock. Held in read, it keeps the tables of the range in place. Held in
//! write, it lets its holder unshare.
//!
//! A private VMA that owns a reservation uses the reservation's lock in the same role. A private VMA
//! without one has no lock: its tables are never shared, and the mmap lock alone keeps them.
//! [`VmaReadGuard`] and [`VmaWriteGuard`] stand for all three cases. (Linux allocates the lock apart from
//! the VMA, and does without where that fails. Here it lies in the VMA.)

mod flags;
mod guard;
mod mmap;
mod policy;

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::addr::{HugeSize, VirtAddr};
use crate::error::OutOfMemory;
use crate::file::HugeFile;
use crate::platform::Platform;
use crate::protocol::{Step, keeps};
use crate::reserve::{PrivateReserve, Reservations};
use crate::root::Mm;
use crate::sleep::BiasedRwSem;
use crate::sync::{Arc, Word as _};
use crate::uffd::Context;

pub(crate) use self::flags::Reason;
pub use self::flags::{Access, Protection, VmaFlags};
pub(crate) use self::guard::{Awaited, held};
pub use self::guard::{VmaReadGuard, VmaWriteGuard};
pub use self::mmap::{MmapLocked, MmapLockedForWrite};
pub use self::policy::{Nodes, Policy};

/// A mapped range of a huge-page file. Linux: `struct vm_area_struct` with `VM_HUGETLB`.
///
/// A reference keeps the file and the [`Mm`], and not the mapping: it may be unmapped. Dropping the last reference never sleeps. It
/// unmaps nothing, and drops the references to the two, which may be the last.
///
/// # Invariants
///
/// `start` and `end` are multiples of the file's page size, `start < end`, and the file's offset of the last page does
/// not overflow. There is a handler if and only if one of the flags of [`VmaFlags::UFFD`] is set.
pub struct Vma<P: Platform> {
    mm: Arc<Mm<P>>,
    file: Arc<HugeFile<P>>,
    start: VirtAddr,
    end: VirtAddr,
    offset: u64,
    protection: Protection,
    flags: VmaFlags,
    policy: Policy,
    /// The VMA lock, if the VMA may share tables. It lies in the VMA, so a task that waits for it holds a
    /// reference to the VMA: the VMA may be unmapped by the time the task has the lock.
    lock: Option<BiasedRwSem<P, ()>>,
    reserve: Option<Arc<PrivateReserve<P>>>,
    /// The handler of its faults. Linux: `vm_userfaultfd_ctx`.
    userfault: Option<Arc<Context<P>>>,
    /// The mapping was *robbed*: a page of it was taken away to serve the owner of the reservation it came
    /// from. From now on, touching a page that is missing is an error. Linux: `HPAGE_RESV_UNMAPPED`.
    robbed: P::Word,
    /// It has had a page of its own, or nearly had. Linux: `anon_vma`.
    anon: AtomicBool,
    /// Its place among the VMAs of the same offset in the file's tree. Guarded by `i_mmap`.
    rank: AtomicU64,
    /// It has left its file's tree for good. Written with the mmap lock and `i_mmap` held in write.
    gone: AtomicBool,
    /// Secondary MMUs were told of a change in a table that it shares, which is under way. Guarded by `i_mmap` in write.
    told: AtomicBool,
}

/// The bounds and properties of a VMA: all that can differ between it and the VMA that replaces it.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// First address of the range.
    pub start: VirtAddr,
    /// First address after it.
    pub end: VirtAddr,
    /// Offset in the file, in huge pages.
    pub offset: u64,
    /// What it allows.
    pub protection: Protection,
    /// What is special about it.
    pub flags: VmaFlags,
    /// The nodes that its pages come from.
    pub policy: Policy,
}

impl<P: Platform> Vma<P> {
    /// A VMA of this shape, without a handler of its faults.
    pub(crate) fn new(
        mm: &Arc<Mm<P>>,
        file: &Arc<HugeFile<P>>,
        shape: Shape,
        reserve: Option<Arc<PrivateReserve<P>>>,
    ) -> Result<Arc<Self>, OutOfMemory> {
        Self::with_handler(mm, file, shape, reserve, None)
    }

    /// A VMA of this shape. It has a handler only if the flags name one, and flags that name one only if
    /// there is a handler.
    pub(crate) fn with_handler(
        mm: &Arc<Mm<P>>,
        file: &Arc<HugeFile<P>>,
        mut shape: Shape,
        reserve: Option<Arc<PrivateReserve<P>>>,
        userfault: Option<&Arc<Context<P>>>,
    ) -> Result<Arc<Self>, OutOfMemory> {
        let userfault = userfault.filter(|_| shape.flags.intersects(VmaFlags::UFFD)).cloned();
        if userfault.is_none() {
            shape.flags -= VmaFlags::UFFD;
        }
        // SAFETY: the lock lies beside a reference to `mm`, which keeps its system.
        let lock =
            shape.flags.contains(VmaFlags::SHARED).then(|| unsafe { BiasedRwSem::new(mm.hugetlb(), ()) });
        Arc::try_new(Self {
            mm: mm.clone(),
            file: file.clone(),
            start: shape.start,
            end: shape.end,
            offset: shape.offset,
            protection: shape.protection,
            flags: shape.flags,
            policy: shape.policy,
            lock,
            reserve,
            userfault,
            robbed: P::Word::new(0),
            anon: AtomicBool::new(false),
            rank: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            told: AtomicBool::new(false),
        })
    }

    /// The VMA that replaces this one when it is split, moved or protected. It keeps the file and the
    /// reservation, and the handler if the flags still name one. [`take_over_from`](Self::take_over_from)
    /// follows when the two are exchanged.
    pub(crate) fn successor(&self, shape: Shape) -> Result<Arc<Self>, OutOfMemory> {
        self.replacement(shape, self.userfault.as_ref())
    }

    /// The VMA that replaces this one when a handler registers for its faults.
    pub(crate) fn registered(
        &self,
        shape: Shape,
        userfault: &Arc<Context<P>>,
    ) -> Result<Arc<Self>, OutOfMemory> {
        self.replacement(shape, Some(userfault))
    }

    fn replacement(
        &self,
        shape: Shape,
        userfault: Option<&Arc<Context<P>>>,
    ) -> Result<Arc<Self>, OutOfMemory> {
        Self::with_handler(&self.mm, &self.file, shape, self.reserve.clone(), userfault)
    }

    /// Takes over from `old` what has happened to it. Pages are taken away under `i_mmap` in write, so the
    /// caller holds that from here until the two have been exchanged in the file's tree. Or both are in the
    /// tree already, with this one behind `old`.
    pub(crate) fn take_over_from(&self, old: &Self) {
        if old.is_robbed() {
            self.set_robbed();
        }
        if old.is_anon() {
            self.set_anon();
        }
    }

    /// Its bounds and properties.
    #[must_use]
    pub fn shape(&self) -> Shape {
        Shape {
            start: self.start,
            end: self.end,
            offset: self.offset,
            protection: self.protection,
            flags: self.flags,
            policy: self.policy,
        }
    }

    /// First address of the range.
    #[must_use]
    pub const fn start(&self) -> VirtAddr {
        self.start
    }

    /// First address after the range.
    #[must_use]
    pub fn end(&self) -> VirtAddr {
        self.end
    }

    /// Offset of the start in the file, in huge pages.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What the mapping allows.
    #[must_use]
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// What is special about it.
    #[must_use]
    pub fn flags(&self) -> VmaFlags {
        self.flags
    }

    /// The nodes that its pages come from.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The file it maps.
    #[must_use]
    pub fn file(&self) -> &Arc<HugeFile<P>> {
        &self.file
    }

    /// The address space it belongs to.
    #[must_use]
    pub fn mm(&self) -> &Arc<Mm<P>> {
        &self.mm
    }

    /// The size of its pages.
    #[must_use]
    pub fn size(&self) -> HugeSize {
        self.file.size_class()
    }

    /// Do stores go to the file?
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.flags.contains(VmaFlags::SHARED)
    }

    /// Does it contain the address?
    #[must_use]
    pub fn contains(&self, address: VirtAddr) -> bool {
        self.start <= address && address < self.end
    }

    /// Pages it covers.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.end.offset_from(self.start) >> self.size().shift()
    }

    /// The range of file offsets it maps, in huge pages.
    pub(crate) fn offsets(&self) -> Range<u64> {
        self.offset..self.offset + self.pages()
    }

    /// The file offset, in huge pages, of an address in the range.
    pub(crate) fn offset_of(&self, address: VirtAddr) -> u64 {
        self.offset + (address.offset_from(self.start) >> self.size().shift())
    }

    /// The part of the range that maps the file's `offsets`, if any.
    ///
    /// Linux: `vma_offset_start()` of the RFC's first patch gives its start.
    pub(crate) fn addresses_of(&self, offsets: &Range<u64>) -> Option<Range<VirtAddr>> {
        let own = self.offsets();
        let (from, to) = (offsets.start.max(own.start), offsets.end.min(own.end));
        let at = |offset: u64| self.start.plus((offset - self.offset) << self.size().shift());
        (from < to).then(|| at(from)..at(to))
    }

    /// May the table around `address` be shared, as far as this VMA is concerned?
    ///
    /// Linux: `want_pmd_share()` in mm/hugetlb.c.
    #[must_use]
    pub fn may_share_at(&self, address: VirtAddr) -> bool {
        self.size().shares_tables()
            && self.lock.is_some()
            && !self.flags.intersects(VmaFlags::UFFD_WP | VmaFlags::UFFD_MINOR)
            && {
                let table = self.table_range(address);
                self.start <= table.start && table.end <= self.end
            }
    }

    /// The range of the huge page that contains an address of the mapping.
    pub(crate) fn page_around(&self, address: VirtAddr) -> Range<VirtAddr> {
        let start = address.huge_page(self.size());
        start..start.plus(self.size().bytes())
    }

    /// The range that the table of the leaf for `address` translates.
    pub(crate) fn table_range(&self, address: VirtAddr) -> Range<VirtAddr> {
        self.mm.geometry().table_range(address, self.size().level())
    }

    /// What an operation on a range of the mapping may change: a table that is shared goes as a whole.
    ///
    /// Linux: `adjust_range_if_pmd_sharing_possible()` in mm/hugetlb.c.
    pub(crate) fn reach_of(&self, range: &Range<VirtAddr>) -> Range<VirtAddr> {
        if range.is_empty() || !keeps::<P>(Step::NotifyWholeTable) {
            return range.clone();
        }
        let widened =
            |address| if self.may_share_at(address) { self.table_range(address) } else { range.clone() };
        let last = VirtAddr::new(range.end.as_u64() - 1);
        widened(range.start).start..widened(last).end
    }

    /// Do two mappings of one file agree in everything that sharing requires? The policy is not part of
    /// that.
    ///
    /// Linux: `page_table_shareable()` in mm/hugetlb.c.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        (self.flags, self.protection) == (other.flags, other.protection)
    }

    /// The lock in the VMA lock's role.
    pub(crate) fn semaphore(&self) -> Option<&BiasedRwSem<P, ()>> {
        match (&self.lock, &self.reserve) {
            (Some(lock), _) => Some(lock),
            (None, Some(reserve)) => Some(&reserve.lock),
            (None, None) => None,
        }
    }

    /// Is it a private mapping with a reservation of its own: made by this address space, and not without
    /// one (`MAP_NORESERVE`)? A copy that fork made has none. Linux: `HPAGE_RESV_OWNER`.
    #[must_use]
    pub fn owns_reservation(&self) -> bool {
        self.reserve.is_some()
    }

    /// Pages of it that are reserved and were not taken yet, at this moment. None unless it
    /// [owns a reservation](Self::owns_reservation): those of a shared mapping are
    /// [its file's](HugeFile::reserved).
    #[must_use]
    pub fn reserved(&self) -> u64 {
        let Some(reserve) = &self.reserve else { return 0 };
        let offsets = self.offsets();
        self.pages() - reserve.used.lock().map.count(offsets.start, offsets.end)
    }

    /// The lock that only a VMA has that may share tables.
    pub(crate) fn own_lock(&self) -> Option<&BiasedRwSem<P, ()>> {
        self.lock.as_ref()
    }

    pub(crate) fn reserve(&self) -> Option<&Arc<PrivateReserve<P>>> {
        self.reserve.as_ref()
    }

    /// The handler of its faults.
    pub(crate) fn userfault(&self) -> Option<&Arc<Context<P>>> {
        self.userfault.as_ref()
    }

    /// Does a handler that has not left handle its faults of this kind? Stores to protected pages are no longer its faults if
    /// it hears of them by a scan.
    pub(crate) fn asks_handler(&self, reason: Reason) -> bool {
        let asks = |context: &Arc<Context<P>>| {
            !context.is_gone() && (reason != Reason::Protected || !context.protects_async())
        };
        self.flags.contains(reason.vma_flag()) && self.userfault.as_ref().is_some_and(asks)
    }

    /// Can a scan find out which pages of it were written, and protect them? Linux: `userfaultfd_wp_async()`.
    pub(crate) fn is_protected_async(&self) -> bool {
        self.flags.contains(VmaFlags::UFFD_WP)
            && self.userfault.as_ref().is_some_and(|context| context.protects_async())
    }

    /// The reservation that a fault here may use.
    pub(crate) fn reservations(&self) -> Reservations<'_, P> {
        match &self.reserve {
            _ if self.is_shared() => Reservations::File(self.file.reservations()),
            Some(reserve) => Reservations::Owner(reserve),
            None => Reservations::Nobody,
        }
    }

    /// Its rank among the VMAs of the same offset in the file's tree. The caller holds `i_mmap`.
    pub(crate) fn rank(&self) -> u64 {
        // Relaxed: `i_mmap` orders it after the store in `set_rank`.
        self.rank.load(Ordering::Relaxed)
    }

    /// The caller holds `i_mmap` in write.
    pub(crate) fn set_rank(&self, rank: u64) {
        self.rank.store(rank, Ordering::Relaxed);
    }

    /// Was it replaced or unmapped?
    pub(crate) fn is_gone(&self) -> bool {
        // Relaxed: the mmap lock, held here and in write at the store, orders them.
        self.gone.load(Ordering::Relaxed)
    }

    /// It leaves its file's tree for good. The caller holds the mmap lock and `i_mmap` in write.
    pub(crate) fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Notes whether secondary MMUs have been told of a change in a table that it shares, and returns what was noted. The caller
    /// holds `i_mmap` in write.
    pub(crate) fn set_told(&self, told: bool) -> bool {
        // Relaxed: `i_mmap` orders it.
        self.told.swap(told, Ordering::Relaxed)
    }

    /// Has a private mapping ever had a page of its own?
    pub(crate) fn is_anon(&self) -> bool {
        // Relaxed: the mmap lock, held in write here and in read at the store, orders them.
        self.anon.load(Ordering::Relaxed)
    }

    /// Notes that a private mapping gets a page of its own, or that a handler tries to bring it one. The
    /// caller holds the mmap lock, in read at least; a caller of `is_anon` holds it in write.
    pub(crate) fn set_anon(&self) {
        self.anon.store(true, Ordering::Relaxed);
    }

    /// Has a page of it been taken away for the owner of a reservation? That happens to private mappings
    /// only.
    pub(crate) fn is_robbed(&self) -> bool {
        // Acquire: pairs with the Release in `set_robbed`. A fault reads the entry first, and that read
        // pairs with the exchange that emptied the entry after the flag was set.
        !self.is_shared() && self.robbed.load(Ordering::Acquire) != 0
    }

    pub(crate) fn set_robbed(&self) {
        self.robbed.store(1, Ordering::Release);
    }
}

impl<P: Platform> fmt::Debug for Vma<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vma").field("mm", &self.mm.id()).field("shape", &self.shape()).finish_non_exhaustive()
    }
}
