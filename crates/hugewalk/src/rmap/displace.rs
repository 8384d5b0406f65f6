//! Taking a page out of every entry that maps it.

use core::ops::ControlFlow;

use super::walk::{Mapped, Tables, mapped_places, uses};
use super::{LockedPage, PageError};
use crate::addr::{HugeFrame, VirtAddr};
use crate::arch::{Entry, LeafFlags, Migration};
use crate::file::IMmapWriteGuard;
use crate::gather::Gather;
use crate::hugetlb::Hugetlb;
use crate::mm::Mm;
use crate::platform::{Event, Platform, ROUNDS};
use crate::share::unshare_locked;
use crate::table::LockedSlot;
use crate::task::Task;
use crate::vma::{Awaited, Vma, VmaWriteGuard};

/// How often it backs off and waits for a VMA lock before it changes entries in tables that are still shared.
const POLITE_ROUNDS: u32 = 8;

/// What takes the place of a leaf. Linux: `TTU_*`, and `try_to_migrate()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instead {
    /// Nothing: the next access faults.
    Nothing,
    /// A migration entry: the next access waits.
    Migration,
    /// The trace of a page that memory failure took: the next access is an error.
    Hwpoison,
}

/// Somebody has pinned the page, and relies on the address space to go on seeing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pinned;

/// Why a page is still in some entry.
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
    /// Takes a page of a file out of every mapping; the next access finds it in the file. Sleeps.
    ///
    /// Takes the fault mutex of its place, `i_mmap` in write, and tries or waits for VMA locks in write.
    ///
    /// Linux: `try_to_unmap()` in mm/rmap.c.
    ///
    /// # Errors
    ///
    /// [`PageError::NoHugePage`], [`PageError::NotInUse`], [`PageError::OnItsWay`]; [`PageError::Private`], for what a private
    /// mapping has written would be lost; [`PageError::Held`] if the page is in no file any more.
    pub fn unmap_page(&self, task: &mut Task<P>, frame: HugeFrame) -> Result<(), PageError> {
        let page = self.lock_page(task, frame)?;
        if page.page.page().is_anon() {
            return Err(PageError::Private);
        }
        // Only migration has to mind who has the page pinned.
        page.displace(Instead::Nothing, task).map_err(|_| PageError::OnItsWay)
    }
}

impl<P: Platform> LockedPage<'_, P> {
    /// Puts something else in the place of each entry that maps the page. The mappings' references are given up. On return
    /// no entry maps it, and none will as long as the page is locked. Sleeps.
    ///
    /// Fails if migration finds that a private page is pinned: the entries that were exchanged before stay so.
    pub(super) fn displace(&self, instead: Instead, task: &mut Task<P>) -> Result<(), NotDisplaced> {
        let mut round = 0;
        while self.page.page().mapcount() > 0 {
            if round == ROUNDS {
                self.hugetlb.platform().trace(Event::StillMapped { frame: self.page.frame() });
                return Err(NotDisplaced::StillMapped);
            }
            // The first rounds wait for locks where they have to.
            if round >= POLITE_ROUNDS {
                task.pause();
            }
            let i_mmap = self.file.i_mmap_write(task);
            let busy = self.displace_under(&i_mmap, instead, round >= POLITE_ROUNDS, task)?;
            drop(i_mmap);
            if let Some(vma) = busy {
                self.unshare_when_free(&vma, task);
            }
            round += 1;
        }
        Ok(())
    }

    /// Goes round as long as that changes something. Returns a VMA whose lock is busy, if its table is in the way.
    fn displace_under(
        &self,
        i_mmap: &IMmapWriteGuard<'_, P>,
        instead: Instead,
        in_place: bool,
        task: &Task<P>,
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
                    ControlFlow::Continue(Outcome::Busy) => busy = Some(Awaited::new(mapped.vma.vma())),
                    ControlFlow::Break(Pinned) => pinned = true,
                }
            });
            if pinned {
                return Err(Pinned);
            }
            // With one user of a table gone, the one whose lock was busy may be alone with it.
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
        task: &Task<P>,
    ) -> ControlFlow<Pinned, Outcome> {
        let vma = mapped.vma.vma();
        // `i_mmap` in write: the count of sharers stands still.
        if mapped.sharers() > 0 && !in_place {
            let Some(_vma_lock) = VmaWriteGuard::try_lock(i_mmap, vma) else {
                return ControlFlow::Continue(Outcome::Busy);
            };
            // Flushes when the table is unlocked, before the VMA lock is let go.
            let mut gather = Gather::on_file_side(vma.mm(), i_mmap);
            let Some(locked) = mapped.lock(task) else {
                return ControlFlow::Continue(Outcome::Nothing);
            };
            // The others keep the table, and the entry: this address space loses both. `mapped` is not used again.
            let unshared = unshare_locked(locked, mapped.address, &mut gather).is_ok();
            return ControlFlow::Continue(if unshared { Outcome::Changed } else { Outcome::Nothing });
        }
        let mut gather = Gather::on_file_side(vma.mm(), i_mmap);
        let Some(locked) = mapped.lock(task) else {
            return ControlFlow::Continue(Outcome::Nothing);
        };
        let displaced = self.exchange(&locked, vma.mm(), mapped.address, instead, &mut gather);
        drop(locked);
        if displaced == ControlFlow::Continue(Outcome::Changed) && mapped.sharers() > 0 {
            gather.flush_others(|| self.flush_sharers(i_mmap, mapped.table()));
        }
        displaced
    }

    /// Exchanges one entry.
    fn exchange(
        &self,
        locked: &LockedSlot<'_, P>,
        mm: &Mm<P>,
        address: VirtAddr,
        instead: Instead,
        gather: &mut Gather<'_, P>,
    ) -> ControlFlow<Pinned, Outcome> {
        let (page, frame) = (self.page.page(), self.page.frame());
        let Entry::Leaf(_) = locked.read() else {
            return ControlFlow::Continue(Outcome::Nothing);
        };
        if instead == Instead::Migration {
            // Before the entry says so: the count is never too small.
            page.add_migration();
        }
        let before = locked.replace(|entry| replacement(entry, instead));
        // A pin of a private page holds for this address space: fork would make it share a page that it must keep. As in
        // `mm::fork`: the entry is changed first, and pins are looked for then; who pins without a lock pins first.
        if instead == Instead::Migration && page.is_anon() && page.pins() > 0 {
            // No processor has written to the entry since: it was a migration entry.
            locked.fill(before);
            page.remove_migration();
            return ControlFlow::Break(Pinned);
        }
        mm.sub_resident(self.page.size());
        gather.unmapped(address, frame);
        ControlFlow::Continue(Outcome::Changed)
    }

    /// Flushes every address space that uses a table. `i_mmap` in write: they are these, until it is let go.
    fn flush_sharers(&self, i_mmap: &IMmapWriteGuard<'_, P>, table: u64) {
        for proof in i_mmap.vmas(self.index..self.index + 1) {
            if uses(&proof, self.index, table)
                && let Some(range) = proof.vma().addresses_of(&(self.index..self.index + 1))
            {
                self.hugetlb.platform().flush_tlb(proof.vma().mm().context(), range);
            }
        }
    }

    /// Waits for the lock of a VMA with nothing held but the fault mutex, which comes before it, and unshares its table then:
    /// if the VMA is still there, and the table still shared.
    fn unshare_when_free(&self, vma: &Vma<P>, task: &mut Task<P>) {
        let Some(lock) = vma.semaphore() else { return };
        let semaphore = lock.write(task);
        let i_mmap = self.file.i_mmap_write(task);
        let Some(mut vma_lock) = VmaWriteGuard::joined(&i_mmap, vma, &semaphore) else {
            return;
        };
        let Some(range) = vma.addresses_of(&(self.index..self.index + 1)) else {
            return;
        };
        let mut gather = Gather::on_file_side(vma.mm(), &i_mmap);
        // The locks are those of this VMA and its file, so this cannot be refused.
        let _ = crate::share::huge_pmd_unshare(&mut vma_lock, range.start, &mut gather, task);
        gather.finish();
    }
}

/// What came of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Changed,
    /// It did not map the page any more.
    Nothing,
    /// The VMA lock was needed, and somebody else has it.
    Busy,
}

/// What takes the place of an entry.
fn replacement(entry: Entry, instead: Instead) -> Entry {
    let Entry::Leaf(leaf) = entry else {
        return entry;
    };
    let has = |flag| leaf.flags.contains(flag);
    match instead {
        // Linux: pte_install_uffd_wp_if_needed().
        Instead::Nothing if has(LeafFlags::UFFD_WP) => Entry::Marker,
        Instead::Nothing => Entry::None,
        Instead::Hwpoison => Entry::Hwpoison(leaf.frame),
        Instead::Migration => Entry::Migration(Migration {
            frame: leaf.frame,
            write: has(LeafFlags::WRITE),
            uffd_wp: has(LeafFlags::UFFD_WP),
            soft_dirty: has(LeafFlags::SOFT_DIRTY),
            accessed: has(LeafFlags::ACCESSED),
            dirty: has(LeafFlags::DIRTY),
        }),
    }
}
