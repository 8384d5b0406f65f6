//! Page faults.
//!
//! # Protocol
//!
//! A fault holds, in this order: the mmap lock in read, the fault mutex of (file, page), the VMA lock in read. Then it
//! walks, making tables or sharing them on the way, reads the entry, prepares what it takes without a table lock (finds
//! or allocates the page, fills it), and at last locks the table, re-reads the entry and installs. Who comes from the file
//! (truncation, hole punch) may have changed the entry since; then the fault ends and the access is tried anew.
//!
//! Linux: `hugetlb_fault()`, `hugetlb_no_page()` and `hugetlb_wp()` in mm/hugetlb.c.

use thiserror::Error;

use crate::addr::{HugeFrame, HugeSize, VirtAddr};
use crate::arch::{Entry, Leaf, LeafFlags};
use crate::error::{Errno, OutOfMemory};
use crate::file::NotInserted;
use crate::gather::Gather;
use crate::mm::{AddressSpace, Mm, zap_range};
use crate::page::PageRef;
use crate::platform::Platform;
use crate::pool::PoolEmpty;
use crate::reserve::{NewPage, NoPage, SubPoolFull};
use crate::share::huge_pte_alloc;
use crate::sync::Arc;
use crate::table::{LockedSlot, Slot, Stable};
use crate::task::Task;
use crate::vma::{Protection, Vma, VmaReadGuard, VmaWriteGuard};

/// What the processor tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// How a fault was resolved. The access is to be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The entry allowed the access already: somebody else was faster, or it came with a table that is shared now.
    Present,
    /// A page of the file's page cache was mapped.
    Mapped,
    /// A fresh page of zeroes was mapped.
    Fresh,
    /// The page was copied for this address space alone.
    Copied,
    /// The page was this address space's alone, and was made writable.
    Reused,
    /// The entry changed while the fault was under way; nothing was done.
    Raced,
}

/// Why a fault could not be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FaultError {
    /// Nothing is mapped there. `SIGSEGV`, `SEGV_MAPERR`.
    #[error("{address:?} is not mapped")]
    NotMapped {
        /// The address.
        address: VirtAddr,
    },
    /// The mapping does not allow the access. `SIGSEGV`, `SEGV_ACCERR`.
    #[error("the mapping at {address:?} does not allow this access")]
    Protection {
        /// The address.
        address: VirtAddr,
    },
    /// The page lies beyond the end of the file. `SIGBUS`.
    #[error("page {index} lies beyond the end of the file")]
    BeyondEof {
        /// Offset of the page in the file, in huge pages.
        index: u64,
    },
    /// The pool has no page left that is not promised to others. `SIGBUS`.
    #[error(transparent)]
    PoolEmpty(#[from] PoolEmpty),
    /// The mount's limit is reached. `SIGBUS`.
    #[error(transparent)]
    SubPoolFull(SubPoolFull),
    /// The page was taken from this process to serve the one that owns the reservation. `SIGBUS`.
    #[error("the page at {address:?} was given to the owner of its reservation")]
    TakenAway {
        /// The address.
        address: VirtAddr,
    },
    /// The page has a hardware error. `SIGBUS`, `BUS_MCEERR_AR`.
    #[error("the page at {address:?} has a hardware error")]
    Hwpoison {
        /// The address.
        address: VirtAddr,
        /// How much memory is lost: the whole huge page.
        size: HugeSize,
    },
    /// No memory for tables or records. Linux kills a process for it.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

impl FaultError {
    /// The number that system calls return which fault on a caller's behalf.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::OutOfMemory(_) => Errno::ENOMEM,
            Self::Hwpoison { .. } => Errno::EHWPOISON,
            _ => Errno::EFAULT,
        }
    }

    /// Does the process get `SIGBUS` for it, rather than `SIGSEGV`?
    #[must_use]
    pub const fn is_bus_error(&self) -> bool {
        !matches!(self, Self::NotMapped { .. } | Self::Protection { .. } | Self::OutOfMemory(_))
    }
}

impl From<NoPage> for FaultError {
    fn from(error: NoPage) -> Self {
        match error {
            NoPage::OutOfMemory(error) => Self::OutOfMemory(error),
            NoPage::PoolEmpty(error) => Self::PoolEmpty(error),
            NoPage::SubPoolFull(error) => Self::SubPoolFull(error),
        }
    }
}

/// The flags that a leaf of this VMA has for its rights, writable or not, besides what has been seen of the page.
pub(crate) fn leaf_flags<P: Platform>(vma: &Vma<P>, writable: bool) -> LeafFlags {
    let rights = vma.protection();
    let mut flags = LeafFlags::empty();
    flags.set(LeafFlags::ACCESS, !rights.is_empty());
    flags.set(LeafFlags::WRITE, writable && rights.contains(Protection::WRITE));
    flags.set(LeafFlags::NO_EXECUTE, !rights.contains(Protection::EXECUTE));
    flags
}

const fn allows(rights: Protection, access: Access) -> bool {
    match access {
        // x86-64 cannot map a page for stores or fetches alone.
        Access::Read => !rights.is_empty(),
        Access::Write => rights.contains(Protection::WRITE),
        Access::Execute => rights.contains(Protection::EXECUTE),
    }
}

/// One attempt ended with something to be done without locks.
enum Attempt<'h, P: Platform> {
    Done(Fault),
    /// The owner of a reservation found the pool empty: its children's hold on this page has to end. With a reference, so
    /// that the page does not become another one of theirs meanwhile.
    RobChildren(PageRef<'h, P>),
}

impl<P: Platform> AddressSpace<P> {
    /// Resolves a fault. May sleep.
    ///
    /// Takes the mmap lock in read, the fault mutex of the page, the VMA lock in read, `i_mmap` in read to share a table
    /// (in write to take a page from children), and table locks.
    ///
    /// # Errors
    ///
    /// [`FaultError`]; nothing was changed then, apart from tables that may have been made on the way.
    pub fn fault(&self, task: &mut Task<P>, address: VirtAddr, access: Access) -> Result<Fault, FaultError> {
        // Held over all attempts: a fork in between would give the page that was just taken from the children to another.
        let mmap = self.mmap_read(task);
        let vma = mmap.find(address).ok_or(FaultError::NotMapped { address })?;
        if !allows(vma.protection(), access) {
            return Err(FaultError::Protection { address });
        }
        let hugetlb = self.mm().hugetlb();
        let address = address.huge_page(vma.size());
        let index = vma.offset_of(address);
        let mut may_rob = true;
        loop {
            let mutex = hugetlb.fault_mutex(task, vma.file().id(), index);
            let Some(guard) = mmap.lock_vma(vma, task) else {
                return Ok(Fault::Raced);
            };
            let fault = Faulting { guard: &guard, address, index, access, may_rob };
            match fault.attempt(task)? {
                Attempt::Done(done) => return Ok(done),
                Attempt::RobChildren(page) => {
                    // `i_mmap` in write comes before none of what is held; let everything go but the mmap lock.
                    drop(guard);
                    drop(mutex);
                    rob_children(vma, index, page.frame(), task);
                    may_rob = false;
                }
            }
        }
    }
}

/// A fault with its locks held.
struct Faulting<'g, 'v, P: Platform> {
    guard: &'g VmaReadGuard<'v, P>,
    /// Start of the huge page.
    address: VirtAddr,
    index: u64,
    access: Access,
    may_rob: bool,
}

impl<'v, P: Platform> Faulting<'_, 'v, P> {
    fn vma(&self) -> &'v Vma<P> {
        self.guard.vma()
    }

    fn mm(&self) -> &'v Mm<P> {
        self.vma().mm()
    }

    fn is_write(&self) -> bool {
        self.access == Access::Write
    }

    fn attempt(&self, task: &mut Task<P>) -> Result<Attempt<'v, P>, FaultError> {
        let slot = huge_pte_alloc(self.guard, self.vma(), self.address, Some(self.guard), task)?;
        match slot.read() {
            Entry::None | Entry::Marker => self.no_page(&slot, task).map(Attempt::Done),
            Entry::Leaf(leaf) => self.present(&slot, leaf, task),
            Entry::Hwpoison(_) => {
                Err(FaultError::Hwpoison { address: self.address, size: self.vma().size() })
            }
            // A page on its way: the entry changes back, or to another page, without us.
            Entry::Migration(_) | Entry::Table(_) => Ok(Attempt::Done(Fault::Raced)),
        }
    }

    /// Takes a fresh page for this place.
    fn new_page(&self, beside_reserve: bool) -> Result<NewPage<'v, P>, NoPage> {
        let vma = self.vma();
        let (file, promises) = (vma.file(), vma.promises());
        NewPage::take(file.hugetlb(), vma.size(), &promises, file.subpool(), self.index, beside_reserve)
    }

    /// Linux: `hugetlb_no_page()`.
    fn no_page(&self, slot: &Slot<'_, P, Stable>, task: &Task<P>) -> Result<Fault, FaultError> {
        let vma = self.vma();
        if vma.is_robbed() {
            return Err(FaultError::TakenAway { address: self.address });
        }
        if let Some(page) = vma.file().find_page(self.index) {
            return self.map_cached(slot, &page, task);
        }
        if !vma.file().has_index(self.index) {
            return Err(FaultError::BeyondEof { index: self.index });
        }
        let page = self.new_page(false)?;
        self.mm().hugetlb().platform().zero_huge(page.frame(), vma.size());
        if vma.is_shared() {
            match vma.file().insert_page(self.index, page.frame()) {
                Ok(()) => {}
                Err(NotInserted::BeyondEof) => return Err(FaultError::BeyondEof { index: self.index }),
                Err(NotInserted::OutOfMemory) => return Err(OutOfMemory.into()),
            }
            let done = self.install(slot, page.frame(), true, task);
            // It is the file's now, whether it could be mapped or not.
            page.commit();
            return Ok(if done { Fault::Fresh } else { Fault::Raced });
        }
        page.page().set_anon();
        if self.install(slot, page.frame(), self.is_write(), task) {
            page.commit();
            Ok(Fault::Fresh)
        } else {
            Ok(Fault::Raced)
        }
    }

    /// Maps a page of the file's page cache, or a copy of it for a store to a private mapping.
    fn map_cached(
        &self,
        slot: &Slot<'_, P, Stable>,
        page: &PageRef<'_, P>,
        task: &Task<P>,
    ) -> Result<Fault, FaultError> {
        if page.page().is_hwpoison() {
            return Err(FaultError::Hwpoison { address: self.address, size: self.vma().size() });
        }
        if self.vma().is_shared() || !self.is_write() {
            let done = self.install(slot, page.frame(), self.vma().is_shared(), task);
            return Ok(if done { Fault::Mapped } else { Fault::Raced });
        }
        // Linux maps the page first and copies it at once; nobody can tell.
        let copy = self.new_page(false)?;
        copy.page().set_anon();
        self.mm().hugetlb().platform().copy_huge(page.frame(), copy.frame(), self.vma().size());
        if self.install(slot, copy.frame(), true, task) {
            copy.commit();
            Ok(Fault::Copied)
        } else {
            Ok(Fault::Raced)
        }
    }

    /// Maps a page where the entry is still empty; adds the mapping's reference.
    fn install(&self, slot: &Slot<'_, P, Stable>, frame: HugeFrame, writable: bool, task: &Task<P>) -> bool {
        let locked = slot.lock(task);
        let empty = locked.read();
        if !matches!(empty, Entry::None | Entry::Marker) {
            return false;
        }
        let mut flags = leaf_flags(self.vma(), writable && empty == Entry::None) | LeafFlags::ACCESSED;
        if empty == Entry::Marker {
            flags |= LeafFlags::UFFD_WP;
        }
        if self.is_write() {
            flags |= LeafFlags::DIRTY | LeafFlags::SOFT_DIRTY;
        }
        self.mm().hugetlb().page(frame).add_mapping();
        self.mm().add_resident(1);
        locked.set(Entry::Leaf(Leaf { frame, flags }));
        true
    }

    /// The entry has a page; does it allow the access?
    fn present(
        &self,
        slot: &Slot<'_, P, Stable>,
        leaf: Leaf,
        task: &mut Task<P>,
    ) -> Result<Attempt<'v, P>, FaultError> {
        if !self.is_write() || leaf.is_writable() {
            slot.lock(task).mark_used(self.is_write());
            return Ok(Attempt::Done(Fault::Present));
        }
        let locked = slot.lock(task);
        if locked.read() != Entry::Leaf(leaf) {
            return Ok(Attempt::Done(Fault::Raced));
        }
        let old = self.mm().hugetlb().page(leaf.frame);
        // Under the table lock nobody maps the page anew from here, and nobody else has it mapped.
        if self.vma().is_shared() || (old.is_anon() && old.mapcount() == 1) {
            self.make_writable(&locked, leaf);
            return Ok(Attempt::Done(Fault::Reused));
        }
        old.hold();
        drop(locked);
        // SAFETY: the reference taken above, while the entry's own kept the page.
        let old = unsafe { PageRef::from_raw(self.mm().hugetlb(), leaf.frame, self.vma().size()) };
        self.copy(slot, leaf, old, task)
    }

    fn make_writable(&self, locked: &LockedSlot<'_, P>, leaf: Leaf) {
        let used = LeafFlags::ACCESSED | LeafFlags::DIRTY | LeafFlags::SOFT_DIRTY;
        locked.set(Entry::Leaf(leaf.with(leaf_flags(self.vma(), true) | used)));
    }

    /// Copies a page for a private mapping. Linux: `hugetlb_wp()`.
    fn copy(
        &self,
        slot: &Slot<'_, P, Stable>,
        leaf: Leaf,
        old: PageRef<'v, P>,
        task: &Task<P>,
    ) -> Result<Attempt<'v, P>, FaultError> {
        let (vma, hugetlb) = (self.vma(), self.mm().hugetlb());
        // The page is the owner's, with its reservation used up, but children share it since a fork.
        let owner_of_shared = vma.reserve().is_some() && old.page().is_anon();
        let copy = match self.new_page(owner_of_shared) {
            Ok(copy) => copy,
            Err(NoPage::PoolEmpty(_) | NoPage::SubPoolFull(_)) if owner_of_shared && self.may_rob => {
                return Ok(Attempt::RobChildren(old));
            }
            Err(error) => return Err(error.into()),
        };
        copy.page().set_anon();
        hugetlb.platform().copy_huge(old.frame(), copy.frame(), vma.size());
        let locked = slot.lock(task);
        let unchanged =
            matches!(locked.read(), Entry::Leaf(now) if now.frame == leaf.frame && !now.is_writable());
        if !unchanged {
            return Ok(Attempt::Done(Fault::Raced));
        }
        // Out of reach for everybody first, then the new page: else one processor could store to the new page while
        // another still reads the old one through its TLB, and misses the store. Not empty, though: truncation, which looks
        // without the table lock whether anything is mapped here, must not overlook it.
        locked.set(Entry::Leaf(leaf.without(LeafFlags::ACCESS)));
        let range = self.address..self.address.plus(vma.size().bytes());
        hugetlb.platform().flush_tlb(self.mm().context(), range);
        let used = LeafFlags::ACCESSED | LeafFlags::DIRTY | LeafFlags::SOFT_DIRTY;
        copy.page().add_mapping();
        locked.set(Entry::Leaf(Leaf { frame: copy.frame(), flags: leaf_flags(vma, true) | used }));
        // Still under the table lock: who finds the page mapped once may take it for its own.
        old.page().remove_mapping();
        drop(locked);
        hugetlb.put_page(leaf.frame, vma.size());
        copy.commit();
        Ok(Attempt::Done(Fault::Copied))
    }
}

/// Ends the hold that other private mappings have on a page whose reservation's owner needs it for itself. They learn of
/// it when they touch the page again.
///
/// Takes `i_mmap` in write. Linux: `unmap_ref_private()` in mm/hugetlb.c.
fn rob_children<P: Platform>(owner: &Arc<Vma<P>>, index: u64, frame: HugeFrame, task: &mut Task<P>) {
    let i_mmap = owner.file().i_mmap_write(task);
    for proof in i_mmap.vmas(index..index + 1) {
        let vma = proof.vma();
        // Owners have promises of their own, and shared mappings do not count against private ones.
        if vma.is_shared() || vma.reserve().is_some() {
            continue;
        }
        let Some(range) = vma.addresses_of(&(index..index + 1)) else {
            continue;
        };
        // A private mapping without reservations has no lock to wait for.
        let Some(locked) = VmaWriteGuard::try_lock(&i_mmap, vma) else {
            continue;
        };
        let mut gather = Gather::new(vma.mm(), &i_mmap);
        zap_range(&locked, &i_mmap, range, Some(frame), &mut gather, task);
        gather.finish();
    }
}
