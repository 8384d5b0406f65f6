//! One attempt to resolve a fault, with the locks of the protocol held.

use super::{Access, Fault, FaultError};
use crate::addr::{HugeFrame, VirtAddr};
use crate::arch::{Entry, Leaf};
use crate::entries::{At, Contents, FreshPage, Install, NotFresh, Zap, install_if, zap_range};
use crate::error::OutOfMemory;
use crate::file::NotInserted;
use crate::gather::Gather;
use crate::notice::Notice;
use crate::page::PageRef;
use crate::platform::{Invalidation, Platform};
use crate::reserve::NoPage;
use crate::root::Mm;
use crate::share::huge_pte_alloc;
use crate::sync::Arc;
use crate::table::{LockedSlot, Slot, Stable};
use crate::task::Task;
use crate::vma::{Reason, Vma, VmaReadGuard, VmaWriteGuard};

/// The result of one attempt: what is left to be done without locks.
pub(super) enum Attempt<'h, P: Platform> {
    Done(Fault),
    /// As `Done`, but the page was mapped without the right to write: a handler had protected the entry.
    Protected(Fault),
    /// An error that stands, although the entry has changed: this very attempt changed it.
    Failed(FaultError),
    /// The fault has to wait first.
    Wait(WaitFor),
    /// The owner of a reservation found the pool empty, so its children have to lose this page: they are
    /// *robbed*. Holds a reference, so that the page stays the same one until then.
    RobChildren(PageRef<'h, P>),
}

/// The result of mapping a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Installed {
    /// The entry was not empty any more.
    Not,
    /// It is mapped, and allows what it was mapped for.
    Usable,
    /// It is mapped, but a handler had protected the entry.
    Protected,
}

impl Installed {
    fn or_raced<'h, P: Platform>(self, fault: Fault) -> Attempt<'h, P> {
        match self {
            Self::Not => Attempt::Done(Fault::Raced),
            Self::Usable => Attempt::Done(fault),
            Self::Protected => Attempt::Protected(fault),
        }
    }
}

/// What a fault waits for, with nothing held.
pub(super) enum WaitFor {
    /// The migration of the page at this address, from this frame.
    Migration(VirtAddr, HugeFrame),
    /// The handler of the mapping's faults, which has to resolve this one.
    Handler(Reason),
}

/// A fault with its locks held.
pub(super) struct Faulting<'g, 'v, P: Platform> {
    pub(super) guard: &'g VmaReadGuard<'v, P>,
    /// Start of the huge page.
    pub(super) address: VirtAddr,
    pub(super) index: u64,
    pub(super) access: Access,
    /// A read after which no other address space maps the page.
    pub(super) unshare: bool,
    pub(super) may_rob: bool,
}

impl<'v, P: Platform> Faulting<'_, 'v, P> {
    fn vma(&self) -> &'v Vma<P> {
        self.guard.vma()
    }

    fn mm(&self) -> &'v Mm<P> {
        self.vma().mm()
    }

    fn at<'s>(&self, locked: &'s LockedSlot<'_, P>) -> At<'s, 'v, P> {
        At::new(locked, self.vma(), self.address)
    }

    fn is_write(&self) -> bool {
        self.access == Access::Write
    }

    pub(super) fn attempt(&self, task: &mut Task<P>) -> Result<Attempt<'v, P>, FaultError> {
        let slot = huge_pte_alloc(self.guard, self.vma(), self.address, Some(self.guard), task)?;
        let seen = slot.read();
        let attempt = match seen {
            empty @ (Entry::None | Entry::Marker) => self.no_page(&slot, empty, task),
            Entry::Leaf(leaf) => self.present(&slot, leaf, task),
            Entry::Hwpoison(_) | Entry::Poison => {
                Err(FaultError::Hwpoison { address: self.address, size: self.vma().size() })
            }
            Entry::Migration(entry) => Ok(Attempt::Wait(WaitFor::Migration(self.address, entry.frame))),
            Entry::Table(_) | Entry::HostTable(_) => Ok(Attempt::Done(Fault::Raced)),
        };
        match attempt {
            // What was seen without the table lock may have changed. An error is reported only for what the
            // entry says now. Linux: hugetlb_pte_stable() in mm/hugetlb.c.
            Err(_) if !slot.lock(task).read().is_same_but_for_use(seen) => Ok(Attempt::Done(Fault::Raced)),
            attempt => attempt,
        }
    }

    /// Takes a fresh page for this entry, with these contents.
    fn new_page(
        &self,
        contents: &Contents<'_, P>,
        avoid_reserve: bool,
    ) -> Result<FreshPage<'v, P>, NotFresh> {
        FreshPage::new(self.vma(), self.index, contents, avoid_reserve)
    }

    fn failed(&self, error: NotFresh) -> FaultError {
        error.of_fault(self.vma(), self.address)
    }

    /// Linux: `hugetlb_no_page()`.
    fn no_page(
        &self,
        slot: &Slot<'_, P, Stable>,
        empty: Entry,
        task: &Task<P>,
    ) -> Result<Attempt<'v, P>, FaultError> {
        let vma = self.vma();
        if vma.is_robbed() {
            return Err(FaultError::TakenAway { address: self.address });
        }
        if let Some(page) = vma.file().find_page(self.index) {
            if page.page().is_hwpoison() {
                return Err(FaultError::Hwpoison { address: self.address, size: vma.size() });
            }
            if vma.asks_handler(Reason::Minor) {
                return Ok(self.ask(slot, empty, Reason::Minor, task));
            }
            return self.map_cached(slot, empty, page, task);
        }
        if !vma.file().has_index(self.index) {
            return Err(FaultError::BeyondEof { index: self.index });
        }
        if vma.asks_handler(Reason::Missing) {
            return Ok(self.ask(slot, empty, Reason::Missing, task));
        }
        self.fresh(slot, task)
    }

    /// Asks the handler, unless the entry has changed: the handler must not be asked for a page that it has
    /// just brought.
    fn ask(
        &self,
        slot: &Slot<'_, P, Stable>,
        entry: Entry,
        reason: Reason,
        task: &Task<P>,
    ) -> Attempt<'v, P> {
        let unchanged = slot.lock(task).read() == entry;
        if unchanged { Attempt::Wait(WaitFor::Handler(reason)) } else { Attempt::Done(Fault::Raced) }
    }

    /// Maps a fresh page.
    fn fresh(&self, slot: &Slot<'_, P, Stable>, task: &Task<P>) -> Result<Attempt<'v, P>, FaultError> {
        let vma = self.vma();
        if !vma.is_shared() {
            // Also if the pool has no page, as in Linux.
            vma.set_anon();
        }
        let page = self.new_page(&Contents::Zeroes, false).map_err(|error| self.failed(error))?;
        if vma.is_shared() {
            let page = page.into_file().map_err(|error| match error {
                NotInserted::BeyondEof => FaultError::BeyondEof { index: self.index },
                NotInserted::OutOfMemory => OutOfMemory.into(),
            })?;
            return Ok(self.install(slot, page, true, task).or_raced(Fault::Fresh));
        }
        // It was within the file. If it no longer is, the next attempt reports that.
        let within = || vma.file().still_has_index(self.index);
        let installed = self.install_if(within, slot, || page.commit(), self.is_write(), task);
        Ok(installed.or_raced(Fault::Fresh))
    }

    /// Maps a page of the file's page cache, or a copy of it for a store to a private mapping.
    ///
    /// If there is no page for the copy, or the file's page cannot be copied, it is mapped for reading all the same. If a
    /// handler has protected the entry, the file's page is mapped for reading too: the handler comes first.
    ///
    /// Linux maps the page and goes on to copy it from there.
    fn map_cached(
        &self,
        slot: &Slot<'_, P, Stable>,
        empty: Entry,
        page: PageRef<'_, P>,
        task: &Task<P>,
    ) -> Result<Attempt<'v, P>, FaultError> {
        if self.vma().is_shared() || !self.is_write() || empty == Entry::Marker {
            let installed = self.install(slot, page, self.vma().is_shared(), task);
            return Ok(installed.or_raced(Fault::Mapped));
        }
        let copy = match self.new_page(&Contents::Of(&page), false) {
            Ok(copy) => copy,
            Err(NotFresh::NoPage(NoPage::OutOfMemory(error))) => return Err(error.into()),
            Err(error) => {
                return match self.install(slot, page, false, task) {
                    Installed::Not => Ok(Attempt::Done(Fault::Raced)),
                    Installed::Usable | Installed::Protected => Ok(Attempt::Failed(self.failed(error))),
                };
            }
        };
        self.vma().set_anon();
        let installed = self.install_if(|| true, slot, || copy.commit(), true, task);
        Ok(installed.or_raced(Fault::Copied))
    }

    /// Maps a page if the entry is still empty. The reference becomes the mapping's then; otherwise it is
    /// dropped.
    fn install(
        &self,
        slot: &Slot<'_, P, Stable>,
        page: PageRef<'_, P>,
        writable: bool,
        task: &Task<P>,
    ) -> Installed {
        self.install_if(|| true, slot, || page, writable, task)
    }

    /// As [`install`](Self::install), if `still` says so with the table locked. Only then `page` is asked for
    /// the reference.
    fn install_if<'p>(
        &self,
        still: impl FnOnce() -> bool,
        slot: &Slot<'_, P, Stable>,
        page: impl FnOnce() -> PageRef<'p, P>,
        writable: bool,
        task: &Task<P>,
    ) -> Installed
    where
        P: 'p,
    {
        let how = |empty| {
            // The store is tried again, and then meets the handler's write protection.
            let protected = empty == Entry::Marker;
            Install { writable, protected, written: self.is_write() && writable && !protected }
        };
        match install_if(slot, (self.vma(), self.address), Entry::is_free, still, page, how, task) {
            None => Installed::Not,
            Some(Entry::Marker) => Installed::Protected,
            Some(_) => Installed::Usable,
        }
    }

    /// The entry has a page; does it allow the access?
    fn present(
        &self,
        slot: &Slot<'_, P, Stable>,
        leaf: Leaf,
        task: &mut Task<P>,
    ) -> Result<Attempt<'v, P>, FaultError> {
        if !(self.is_write() || self.unshare) || leaf.is_writable() {
            self.at(&slot.lock(task)).mark_used(self.is_write());
            return Ok(Attempt::Done(Fault::Present));
        }
        let locked = slot.lock(task);
        if !locked.read().is_same_but_for_use(Entry::Leaf(leaf)) {
            return Ok(Attempt::Done(Fault::Raced));
        }
        let protected = leaf.is_protected();
        if self.is_write() && protected && self.vma().asks_handler(Reason::Protected) {
            return Ok(Attempt::Wait(WaitFor::Handler(Reason::Protected)));
        }
        let old = self.mm().hugetlb().page(leaf.frame);
        // Under the table lock, no new mapping of the page can be copied from this entry; and there is no
        // other mapping.
        if self.vma().is_shared() || old.is_exclusive() {
            if self.unshare {
                return Ok(Attempt::Done(Fault::Present));
            }
            self.at(&locked).make_writable(Entry::Leaf(leaf));
            return Ok(Attempt::Done(Fault::Reused));
        }
        if self.is_write() && protected {
            // The handler hears of it by a scan, or has left. As in Linux, the page counts as written even if there is no
            // page for its copy.
            self.at(&locked).count_as_written(Entry::Leaf(leaf));
        }
        old.hold();
        drop(locked);
        // SAFETY: the reference taken above, while the entry's own kept the page.
        let old = unsafe { PageRef::from_raw(self.mm().hugetlb(), leaf.frame, self.vma().size()) };
        self.copy(slot, leaf, old, task)
    }

    /// Copies a page for a private mapping. Linux: `hugetlb_wp()`.
    fn copy(
        &self,
        slot: &Slot<'_, P, Stable>,
        leaf: Leaf,
        old: PageRef<'v, P>,
        task: &mut Task<P>,
    ) -> Result<Attempt<'v, P>, FaultError> {
        let (vma, hugetlb) = (self.vma(), self.mm().hugetlb());
        // The page belongs to the owner of the reservation, which has used it up; children share the page
        // since a fork.
        let owner_of_shared = vma.reserve().is_some() && old.page().is_anon();
        let copy = match self.new_page(&Contents::Of(&old), owner_of_shared) {
            Ok(copy) => copy,
            Err(NotFresh::NoPage(
                NoPage::PoolEmpty(_) | NoPage::SubPoolFull(_) | NoPage::LimitReached(_),
            )) if owner_of_shared && self.may_rob => {
                return Ok(Attempt::RobChildren(old));
            }
            Err(error) => return Err(self.failed(error)),
        };
        vma.set_anon();
        // Told of the end when the table is unlocked: the flush comes before.
        let pages = self.address..self.address.plus(vma.size().bytes());
        let _notice = Notice::start(self.mm(), pages, Invalidation::Clear, task);
        let locked = slot.lock(task);
        let now = locked.read();
        // A mapping without reservations has no VMA lock: the page may have been dropped since, or the
        // handler may have write-protected the entry, and has to be asked then.
        if !now.is_same_but_for_use(Entry::Leaf(leaf)) {
            return Ok(Attempt::Done(Fault::Raced));
        }
        self.at(&locked).exchange(now, || copy.commit(), self.unshare);
        drop(locked);
        hugetlb.put_page(leaf.frame);
        Ok(Attempt::Done(Fault::Copied))
    }
}

/// *Robs* other private mappings of a page that the owner of its reservation needs for itself. They learn
/// of it when they touch the page again.
///
/// Takes `i_mmap` in write. Linux: `unmap_ref_private()` in mm/hugetlb.c.
pub(super) fn rob_children<P: Platform>(
    owner: &Arc<Vma<P>>,
    index: u64,
    frame: HugeFrame,
    task: &mut Task<P>,
) {
    let i_mmap = owner.file().i_mmap_write_within(task);
    for proof in i_mmap.vmas(index..index + 1) {
        let vma = proof.vma();
        // Mappings with a reservation of their own, and shared mappings, are not robbed.
        if vma.is_shared() || vma.reserve().is_some() {
            continue;
        }
        let Some(range) = vma.addresses_of(&(index..index + 1)) else {
            continue;
        };
        // A private mapping without reservations has no lock to wait for.
        let Some(mut locked) = VmaWriteGuard::try_lock(&i_mmap, vma) else {
            continue;
        };
        let mut gather = Gather::on_file_side(vma.mm(), &i_mmap);
        gather.announce(vma, &range, Invalidation::Clear, task);
        zap_range(&mut locked, range, Zap::Page(frame), &mut gather, task);
        gather.finish();
    }
}
