//! Takes a page out of every entry that maps it.

use core::ops::{ControlFlow, Range};

use crate::addr::{HugeFrame, VirtAddr};

use super::walk::{Mapped, Tables, mapped_places, uses};
use super::{LockedPage, PageError};
use crate::entries::{At, Instead, Pinned};
use crate::file::IMmapWriteGuard;
use crate::gather::Gather;
use crate::hugetlb::Hugetlb;
use crate::notice::Notice;
use crate::platform::{Event, Flush, Invalidation, Platform, ROUNDS};
use crate::protocol::{Step, keeps, polite_rounds};
use crate::share::unshare_locked;
use crate::task::Task;
use crate::vma::{Awaited, Vma, VmaWriteGuard};

/// Why an entry still maps the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotDisplaced {
    Pinned,
    /// After many rounds: see [`Event::StillMapped`].
    StillMapped,
}

impl From<Pinned> for NotDisplaced {
    fn from(_: Pinned) -> Self {
        Self::Pinned
    }
}

impl<P: Platform> Hugetlb<P> {
    /// Takes a page of a file out of every mapping. The next access finds it in the file. Sleeps.
    ///
    /// Takes the fault mutex of its place, `i_mmap` in write, and tries or waits for VMA locks in write.
    ///
    /// Linux: `try_to_unmap()` in mm/rmap.c.
    ///
    /// # Errors
    ///
    /// [`PageError::NoHugePage`], [`PageError::NotInUse`], [`PageError::OnItsWay`];
    /// [`PageError::Private`], since the contents of a private page would be lost;
    /// [`PageError::Held`] if the page is no longer in a file.
    pub fn unmap_page(&self, task: &mut Task<P>, frame: HugeFrame) -> Result<(), PageError> {
        let page = self.lock_page(task, frame)?;
        if page.page.page().is_anon() {
            return Err(PageError::Private);
        }
        // Only migration refuses pinned pages.
        page.displace(Instead::Nothing, task).map_err(|_| PageError::OnItsWay)
    }
}

impl<P: Platform> LockedPage<'_, P> {
    /// Replaces each entry that maps the page. The entries' references are dropped. On return no
    /// entry maps the page, and none will while the page is locked. Sleeps.
    ///
    /// Fails if migration finds that a private page is pinned. Entries that were replaced before
    /// stay so.
    ///
    /// Linux: `try_to_unmap_one()` and `try_to_migrate_one()` in mm/rmap.c.
    pub(super) fn displace(&self, instead: Instead, task: &mut Task<P>) -> Result<(), NotDisplaced> {
        let mut round = 0;
        while self.page.page().mapcount() > 0 {
            if round == ROUNDS {
                self.hugetlb.platform().trace(Event::StillMapped { frame: self.page.frame() });
                return Err(NotDisplaced::StillMapped);
            }
            // The first rounds wait for VMA locks instead.
            if round >= polite_rounds::<P>() {
                task.pause();
            }
            let i_mmap = self.file.i_mmap_write_within(task);
            let busy = self.displace_under(&i_mmap, instead, round >= polite_rounds::<P>(), task)?;
            drop(i_mmap);
            if let Some(vma) = busy {
                self.unshare_when_free(&vma, task);
            }
            round += 1;
        }
        Ok(())
    }

    /// Walks repeatedly, as long as a walk changes something. Returns a VMA whose lock is busy, if
    /// its table is still in the way.
    fn displace_under(
        &self,
        i_mmap: &IMmapWriteGuard<'_, P>,
        instead: Instead,
        in_place: bool,
        task: &mut Task<P>,
    ) -> Result<Option<Awaited<P>>, Pinned> {
        let offsets = self.index..self.index + 1;
        loop {
            let (mut busy, mut changed, mut pinned) = (None, false, false);
            let vmas = || i_mmap.vmas(offsets.clone());
            mapped_places(vmas, self.index, self.page.frame(), Tables::ForEachUser, |mapped| {
                if pinned {
                    return;
                }
                match self.displace_one(mapped, i_mmap, instead, in_place, task) {
                    ControlFlow::Continue(Outcome::Changed) => changed = true,
                    ControlFlow::Continue(Outcome::Nothing) => {}
                    ControlFlow::Continue(Outcome::Busy) => busy = Some(Awaited::new::<P>(mapped.vma.vma())),
                    ControlFlow::Break(Pinned) => pinned = true,
                }
            });
            if pinned {
                return Err(Pinned);
            }
            // One user of a table less: a VMA whose lock was busy may be its only user now.
            if busy.is_none() || !changed {
                return Ok(busy);
            }
        }
    }

    fn displace_one(
        &self,
        mapped: &Mapped<'_, '_, P>,
        i_mmap: &IMmapWriteGuard<'_, P>,
        instead: Instead,
        in_place: bool,
        task: &mut Task<P>,
    ) -> ControlFlow<Pinned, Outcome> {
        let vma = mapped.vma.vma();
        // `i_mmap` is held in write, so the share count does not change.
        if mapped.sharers() > 0 && !in_place {
            let Some(_vma_lock) = VmaWriteGuard::try_lock(i_mmap, vma) else {
                return ControlFlow::Continue(Outcome::Busy);
            };
            // The gather flushes after the table is unlocked and before the VMA lock is released.
            let mut gather = Gather::on_file_side(vma.mm(), i_mmap);
            gather.announce(vma, &vma.page_around(mapped.address), Invalidation::Clear, task);
            let Some(locked) = mapped.lock(task) else {
                return ControlFlow::Continue(Outcome::Nothing);
            };
            // The other users keep the table with its entry; this address space loses both.
            // `mapped` is not used again.
            let unshared = unshare_locked(locked, mapped.address, &mut gather).is_ok();
            return ControlFlow::Continue(if unshared { Outcome::Changed } else { Outcome::Nothing });
        }
        // Dropped after the gather: the other users are told of the end when they have been flushed.
        let _sharers = (mapped.sharers() > 0 && keeps::<P>(Step::NotifySharers))
            .then(|| SharersNotice::start((self.index, mapped), i_mmap, task));
        let mut gather = Gather::on_file_side(vma.mm(), i_mmap);
        gather.announce(vma, &vma.page_around(mapped.address), Invalidation::Clear, task);
        let Some(locked) = mapped.lock(task) else {
            return ControlFlow::Continue(Outcome::Nothing);
        };
        let displaced = At::new(&locked, vma, mapped.address).displace(instead, &mut gather);
        drop(locked);
        match displaced {
            Err(Pinned) => ControlFlow::Break(Pinned),
            Ok(false) => ControlFlow::Continue(Outcome::Nothing),
            Ok(true) => {
                if mapped.sharers() > 0 {
                    gather.flush_others(|| self.flush_sharers(i_mmap, mapped.table()));
                }
                ControlFlow::Continue(Outcome::Changed)
            }
        }
    }

    /// Flushes every address space that uses a table. `i_mmap` is held in write, so they stay the
    /// same until it is released.
    fn flush_sharers(&self, i_mmap: &IMmapWriteGuard<'_, P>, table: u64) {
        for proof in i_mmap.vmas(self.index..self.index + 1) {
            if uses(&proof, self.index, table)
                && let Some(range) = proof.vma().addresses_of(&(self.index..self.index + 1))
            {
                let flush = Flush { range, stride: proof.vma().size().member_bytes(), tables: false };
                self.hugetlb.platform().flush_tlb(proof.vma().mm().context(), flush);
            }
        }
    }

    /// Waits for the lock of a VMA, holding only the fault mutex, which comes before it in the lock
    /// order. Then unshares the VMA's table, if the VMA still exists and the table is still shared.
    fn unshare_when_free(&self, vma: &Vma<P>, task: &mut Task<P>) {
        let Some(lock) = vma.semaphore() else { return };
        let semaphore = lock.write(task);
        let i_mmap = self.file.i_mmap_write_within(task);
        let Some(mut vma_lock) = VmaWriteGuard::joined(&i_mmap, vma, &semaphore) else {
            return;
        };
        let Some(range) = vma.addresses_of(&(self.index..self.index + 1)) else {
            return;
        };
        let mut gather = Gather::on_file_side(vma.mm(), &i_mmap);
        gather.announce(vma, &range, Invalidation::Clear, task);
        // The locks belong to this VMA and its file, so this cannot fail.
        let _ = crate::share::huge_pmd_unshare(&mut vma_lock, range.start, &mut gather, task);
        gather.finish();
    }
}

/// The other users of a shared table were told that the entry of a page changes in it. Dropping this tells each that the change is
/// over.
///
/// In Linux each user of a table has an entry changed, or a table unshared, for itself: `try_to_unmap_one()` in mm/rmap.c.
///
/// # Invariants
///
/// `i_mmap` is held in write, so the users stay the same, and so does what they note.
struct SharersNotice<'n, P: Platform> {
    i_mmap: &'n IMmapWriteGuard<'n, P>,
    index: u64,
    table: u64,
    /// The mapping through which the entry is changed. Its own gather tells.
    own: &'n Vma<P>,
}

impl<'n, P: Platform> SharersNotice<'n, P> {
    /// Tells the users of the table in which `mapped` lies, the entry for page `index` of the file. May sleep.
    fn start(
        (index, mapped): (u64, &Mapped<'n, '_, P>),
        i_mmap: &'n IMmapWriteGuard<'n, P>,
        task: &mut Task<P>,
    ) -> Self {
        let this = Self { i_mmap, index, table: mapped.table(), own: mapped.vma.vma() };
        this.each_user(|vma, page| {
            let notice = Notice::start(vma.mm(), page, Invalidation::Clear, task);
            vma.set_told(notice.leave_open());
        });
        this
    }

    fn each_user(&self, mut tell: impl FnMut(&Vma<P>, Range<VirtAddr>)) {
        let offsets = self.index..self.index + 1;
        for proof in self.i_mmap.vmas(offsets.clone()) {
            let vma = proof.vma();
            if !core::ptr::eq::<Vma<P>>(&raw const **vma, self.own)
                && uses(&proof, self.index, self.table)
                && let Some(page) = vma.addresses_of(&offsets)
            {
                tell(vma, page);
            }
        }
    }
}

impl<P: Platform> Drop for SharersNotice<'_, P> {
    fn drop(&mut self) {
        self.each_user(|vma, page| {
            let told = vma.set_told(false);
            drop(Notice::left_open(vma.mm(), page, Invalidation::Clear, told));
        });
    }
}

/// What happened to one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Changed,
    /// It no longer mapped the page.
    Nothing,
    /// The VMA lock was needed, and it is busy.
    Busy,
}
