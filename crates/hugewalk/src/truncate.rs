//! Truncation and hole punch: take pages out of a file and out of every mapping.
//!
//! # Protocol: the locks
//!
//! Truncation comes from the file and holds no mmap lock. It takes `i_mmap` in write, and finds the
//! VMAs that map the range. Their VMA locks it may only *try*, since faults take a VMA lock before
//! `i_mmap`. If one is busy:
//!
//! 1. Truncation releases `i_mmap`, and waits for the VMA lock with a reference to the VMA.
//! 2. It takes `i_mmap` again, and rechecks whether the VMA is still in the tree: munmap may have
//!    removed it meanwhile.
//! 3. It keeps the VMA lock while it goes on, so that the next round does not find the same VMA
//!    busy again.
//!
//! It does not wait for a VMA that maps nothing in the range. A kept lock does not keep the VMA
//! empty: another mapping may share its table and fill it. So each round works under the kept locks
//! as well as under those that are free. The parts of a private mapping have one lock together.
//!
//! # Protocol: the size
//!
//! Truncation lowers the size first, under the cache's lock, and looks into the tables afterwards.
//! A fault that found its page inside the file, but not in the cache, rechecks the size before it
//! maps a page, under both the table lock and the cache's lock. If the fault takes the cache's lock
//! first, truncation waits for the table lock and finds the entry. Otherwise the fault sees the new
//! size. So truncation does not wait for faults to finish, with one exception: it counts reservations
//! that are left beyond the new end when no fault is about to use one.
//!
//! Pages go into the cache only below the size. Truncation takes each one out under its fault
//! mutex. So does a hole punch, whose range stays part of the file.

use core::ops::Range;

use crate::addr::VirtAddr;
use crate::entries::{Zap, by_table, zap_range};
use crate::error::FileError;
use crate::file::{FileProof, HugeFile, IMmapWriteGuard, LARGEST, range_end};
use crate::gather::Gather;
use crate::platform::{Invalidation, Platform};
use crate::protocol::{Step, keeps};
use crate::reserve::{lock_regions, release_range, unlist};
use crate::sleep::BiasedWriteSem;
use crate::task::Task;
use crate::vma::{Awaited, Vma, VmaWriteGuard};
use crate::walk::huge_pte_offset;

/// How many VMA locks truncation keeps at most while it goes on.
const KEPT_LOCKS: usize = 32;

/// A VMA lock that truncation has waited for and keeps.
///
/// # Invariants
///
/// `semaphore` is a guard of the lock of `vma`, which keeps the lock alive. The guard is dropped
/// before `vma`: fields are dropped in the order of their declaration.
struct KeptLock<P: Platform + 'static> {
    semaphore: BiasedWriteSem<'static, P, ()>,
    vma: Awaited<P>,
}

impl<P: Platform + 'static> KeptLock<P> {
    /// Waits for the lock of a VMA, if it has one. Sleeps.
    fn wait(vma: Awaited<P>, task: &mut Task<P>) -> Option<Self> {
        let lock = if keeps::<P>(Step::ReserveLock) { vma.semaphore() } else { vma.own_lock() };
        let semaphore = lock?.write(task);
        // SAFETY: the lock lies in the VMA, or in a part that the VMA never replaces, and `vma`
        // keeps both alive. By the type invariants the guard does not outlive `vma`, and it is lent
        // out only for the lifetime of this value.
        let semaphore = unsafe {
            core::mem::transmute::<BiasedWriteSem<'_, P, ()>, BiasedWriteSem<'static, P, ()>>(semaphore)
        };
        // INVARIANT: taken just now.
        Some(Self { semaphore, vma })
    }
}

/// The VMA locks that are kept. They need no further memory, so nothing fails half way.
struct KeptLocks<P: Platform + 'static> {
    /// One more place than locks are kept, for one that is released after the next round.
    locks: [Option<KeptLock<P>>; KEPT_LOCKS + 1],
    count: usize,
}

impl<P: Platform> KeptLocks<P> {
    fn new() -> Self {
        Self { locks: [const { None }; KEPT_LOCKS + 1], count: 0 }
    }

    /// The lock of `vma`, if it is kept.
    fn find(&self, vma: &Vma<P>) -> Option<&BiasedWriteSem<'_, P, ()>> {
        let lock = vma.semaphore()?;
        let is_it =
            |kept: &&KeptLock<P>| kept.vma.semaphore().is_some_and(|other| core::ptr::eq(other, lock));
        let kept = self.locks.iter().take(self.count).flatten().find(is_it)?;
        Some(&kept.semaphore)
    }

    fn push(&mut self, lock: KeptLock<P>) {
        if let Some(place) = self.locks.get_mut(self.count) {
            *place = Some(lock);
            self.count += 1;
        }
    }

    fn is_full(&self) -> bool {
        self.count == self.locks.len()
    }

    fn let_last_go(&mut self) {
        self.count -= 1;
        if let Some(place) = self.locks.get_mut(self.count) {
            *place = None;
        }
    }
}

impl<P: Platform> HugeFile<P> {
    /// Sets the size. Pages beyond it are removed from the file and from every mapping, private
    /// copies included, and their reservations are given back. Sleeps.
    ///
    /// Takes the inode lock, the fault mutexes of the pages, and of each mapping the VMA lock and `i_mmap`, both in write.
    ///
    /// Linux: `hugetlbfs_setattr()`, `hugetlb_vmtruncate()` in fs/hugetlbfs/inode.c.
    ///
    /// # Errors
    ///
    /// [`FileError::Unaligned`] if `size` is not a multiple of the page size,
    /// [`FileError::Negative`]: nothing was changed. Truncation needs no memory, so it does not
    /// fail half way.
    pub fn truncate(&self, task: &mut Task<P>, size: u64) -> Result<(), FileError> {
        task.enter(self.hugetlb())?;
        if !self.size_class().is_aligned(size) {
            return Err(FileError::Unaligned { size });
        }
        if size > LARGEST {
            return Err(FileError::Negative { value: size });
        }
        let inode_lock = self.lock_inode(task);
        let gone = size >> self.size_class().shift()..u64::MAX;
        // A file that grows can have pages and reservations beyond its new size, from an allocation
        // that kept the size, and private copies of such pages.
        self.set_size(size);
        self.unmap_offsets(gone.clone(), Zap::All, task);
        let mut freed = 0;
        let mut next = gone.start;
        // No page is added behind: faults see the new size, and the inode lock keeps allocation
        // out.
        while let Some(index) = self.next_page(&(next..gone.end)) {
            freed += u64::from(self.remove_page(index, task));
            next = index + 1;
        }
        if freed > 0 {
            // A private mapping may have copied a page between the first pass and the page's
            // removal from the cache. Linux unmaps twice as well: see `truncate_pagecache()` in
            // mm/truncate.c.
            self.unmap_offsets(gone.clone(), Zap::All, task);
        }
        let reserved = self.forget_reservations(gone.start, freed, task);
        release_range(self.hugetlb(), self.size_class(), self.subpool(), reserved - freed.min(reserved));
        drop(inode_lock);
        Ok(())
    }

    /// Removes the pages that lie wholly in a byte range from the file and from every mapping,
    /// private copies included, gives their reservations back, and fills the rest of the range with
    /// zeroes. The size stays. Sleeps.
    ///
    /// Takes the inode lock, the fault mutexes of the pages, and of each mapping the VMA lock and `i_mmap`, both in write.
    ///
    /// Linux: `hugetlbfs_punch_hole()` in fs/hugetlbfs/inode.c.
    ///
    /// # Errors
    ///
    /// [`FileError::ZeroLength`], [`FileError::Negative`], [`FileError::TooLarge`]: nothing was changed.
    /// [`FileError::OutOfMemory`] if there is no memory to note which reservations are left. Most
    /// holes need room for one more range, which is made before anything changes. Pages that lie
    /// apart may need more as they go. On such a failure:
    ///
    /// - the pages before that place are punched out;
    /// - the pages from there on stay in the file, but have been removed from all mappings, and a
    ///   later access finds them again;
    /// - private copies, and the bytes at the ends of the range, are gone.
    pub fn punch_hole(&self, task: &mut Task<P>, offset: u64, length: u64) -> Result<(), FileError> {
        task.enter(self.hugetlb())?;
        let end = range_end(offset, length)?;
        let size = self.size_class();
        let inner = size.round_up(offset).unwrap_or(end)..size.round_down(end);
        let inode_lock = self.lock_inode(task);
        if inner.start >= inner.end {
            self.zero_bytes(offset..end, task);
            return Ok(());
        }
        let hole = inner.start >> size.shift()..inner.end >> size.shift();
        // Neighbouring pages that leave a reserved range in ascending order leave at most one more
        // range. So room for one is enough for most holes, and it is made before anything is
        // changed.
        drop(lock_regions::<P, _, _>(self.reservations(), |_| 1)?);
        self.zero_bytes(offset..inner.start, task);
        self.zero_bytes(inner.end..end, task);
        // The range stays part of the file, so the write protections of a userfaultfd handler stay
        // too.
        self.unmap_offsets(hole.clone(), Zap::Pages, task);
        let mut next = hole.start;
        while let Some(index) = self.next_page(&(next..hole.end)) {
            self.punch_page(index, task)?;
            next = index + 1;
        }
        drop(inode_lock);
        Ok(())
    }

    /// Takes the offsets from `from` on, where the file ends now, out of the map of reservations, and returns how many were in
    /// it. `freed` of them were those of pages. Sleeps.
    ///
    /// A fault that found its place within the file may have taken a page, and be about to find that there is no place for it
    /// any more. Its offset is in the map meanwhile, and holds no reservation: the page has used it, or never had one. So if any
    /// offset is left without a page, the faults under way are waited for; later ones see the size before they take a page. If
    /// none is left, a fault that is still to take its page takes its own offset out again.
    fn forget_reservations(&self, from: u64, freed: u64, task: &mut Task<P>) -> u64 {
        let mut map = self.reservations().lock();
        if map.count(from, u64::MAX) > freed {
            drop(map);
            self.hugetlb().wait_for_faults(task);
            map = self.reservations().lock();
        }
        map.del_to_end_with(from, |charge, pages| {
            self.hugetlb().uncharge_reserved(charge.clone(), self.size_class(), pages);
        })
    }

    /// Removes one page from the file and from every mapping. True if there was one.
    fn remove_page(&self, index: u64, task: &mut Task<P>) -> bool {
        let early = (!keeps::<P>(Step::MutexFirst)).then(|| self.i_mmap_write_within(task));
        let mutex = self.hugetlb().fault_mutex(task, self.id(), index);
        drop(early);
        self.unmap_page(index, Zap::All, task);
        let removed = self.evict(index);
        drop(mutex);
        removed
    }

    /// Removes one page, and its reservation.
    fn punch_page(&self, index: u64, task: &mut Task<P>) -> Result<(), FileError> {
        let mutex = self.hugetlb().fault_mutex(task, self.id(), index);
        self.unmap_page(index, Zap::Pages, task);
        // The page is freed without its reservation, so the map must forget the offset before the
        // fault mutex is released. A fault that still found the offset there would take a page that
        // is reserved for somebody else. Without memory to note that, this page and those behind it
        // stay.
        unlist(self.hugetlb(), self.size_class(), self.reservations(), index)?;
        self.evict(index);
        drop(mutex);
        Ok(())
    }

    /// Removes the page at `index` from every mapping. The caller holds its fault mutex.
    fn unmap_page(&self, index: u64, zap: Zap, task: &mut Task<P>) {
        // Once is enough. The last walk over the file's mappings happens under one hold of `i_mmap` in
        // write, and after it none has an entry of the page. None gets one later: the fault mutex keeps
        // faults, fills and migration away, a table that is shared has no such entry, and a move holds
        // `i_mmap` in write. What fork copies lies right behind its original in the tree, so the walk
        // comes to the copy later, or nothing is copied. The page may still count as mapped: whoever
        // took an entry out lowers the count after the flush, and drops the reference only then.
        if self.find_page(index).is_some_and(|page| page.page().mapcount() > 0) {
            self.unmap_offsets(index..index + 1, zap, task);
        }
        // A page that memory failure hit since the range was unmapped is not mapped, but has left
        // hwpoison entries.
        if self.find_page(index).is_some_and(|page| page.page().is_hwpoison()) {
            self.unmap_offsets(index..index + 1, zap, task);
        }
    }

    /// Fills a byte range with zeroes where there are pages. Takes the fault mutex of each, which
    /// migration holds too.
    fn zero_bytes(&self, range: Range<u64>, task: &mut Task<P>) {
        let size = self.size_class();
        let mut at = range.start;
        while at < range.end {
            let next = (size.round_down(at) + size.bytes()).min(range.end);
            let mutex = self.hugetlb().fault_mutex(task, self.id(), at >> size.shift());
            if let Some(page) = self.find_page(at >> size.shift()) {
                // SAFETY: the page is held, and `next` is not beyond its end.
                unsafe {
                    self.hugetlb().platform().clear_huge(page.frame(), at & (size.bytes() - 1), next - at);
                };
            }
            drop(mutex);
            at = next;
        }
    }

    /// Removes the pages of a range of offsets from every mapping.
    ///
    /// Takes `i_mmap` in write and tries VMA locks. Sleeps. Linux: `hugetlb_vmdelete_list()` and
    /// `hugetlb_unmap_file_folio()` in fs/hugetlbfs/inode.c.
    fn unmap_offsets(&self, offsets: Range<u64>, zap: Zap, task: &mut Task<P>) {
        let mut kept = KeptLocks::new();
        loop {
            let busy = {
                let i_mmap = self.i_mmap_write_within(task);
                self.unmap_what_is_free(&i_mmap, &offsets, zap, &kept, task)
            };
            let Some(vma) = busy else { return };
            // The caller holds only locks that come before a VMA lock in the lock order, and VMA
            // locks of this file that it found busy before. Only fork waits for one VMA lock while
            // it holds another: for the child's, holding the parent's. Until fork has the child's
            // lock, no other thread finds that lock busy, so it is not among those kept here.
            let Some(lock) = KeptLock::wait(vma, task) else {
                continue;
            };
            if !keeps::<P>(Step::KeepLock) {
                continue;
            }
            kept.push(lock);
            if kept.is_full() {
                let i_mmap = self.i_mmap_write_within(task);
                self.unmap_what_is_free(&i_mmap, &offsets, zap, &kept, task);
                drop(i_mmap);
                kept.let_last_go();
            }
        }
    }

    /// Unmaps the range from the VMAs whose locks are free or kept. Returns one that is busy and
    /// maps something in the range.
    fn unmap_what_is_free(
        &self,
        i_mmap: &IMmapWriteGuard<'_, P>,
        offsets: &Range<u64>,
        zap: Zap,
        kept: &KeptLocks<P>,
        task: &mut Task<P>,
    ) -> Option<Awaited<P>> {
        let mut busy = None;
        for proof in i_mmap.vmas(offsets.clone()) {
            let vma = proof.vma();
            let locked = match kept.find(vma) {
                Some(semaphore) => VmaWriteGuard::joined(i_mmap, vma, semaphore),
                None => VmaWriteGuard::try_lock(i_mmap, vma),
            };
            match locked {
                Some(mut locked) => self.unmap_from(&mut locked, i_mmap, offsets, zap, task),
                None if maps_any(&proof, offsets, task) => busy = Some(Awaited::new::<P>(vma)),
                None => {}
            }
        }
        busy
    }

    fn unmap_from(
        &self,
        locked: &mut VmaWriteGuard<'_, P>,
        i_mmap: &IMmapWriteGuard<'_, P>,
        offsets: &Range<u64>,
        zap: Zap,
        task: &mut Task<P>,
    ) {
        let vma = locked.vma();
        if let Some(range) = vma.addresses_of(offsets) {
            let mut gather = Gather::on_file_side(vma.mm(), i_mmap);
            gather.announce(vma, &range, Invalidation::Clear, task);
            zap_range(locked, range, zap, &mut gather, task);
            gather.finish();
        }
    }
}

/// Does a VMA have an entry for any of these offsets?
///
/// It takes the table lock, under which a fault rechecks the size and maps its page in one go. So
/// an entry that such a fault makes is either found here, or not made.
///
/// Holds: `i_mmap`, by the proof. Does not sleep.
///
/// Linux: `hugetlb_vma_maps_page()` in fs/hugetlbfs/inode.c, for one page, without the table lock.
fn maps_any<P: Platform>(proof: &FileProof<'_, P>, offsets: &Range<u64>, task: &Task<P>) -> bool {
    let vma: &Vma<P> = proof.vma();
    let Some(range) = vma.addresses_of(offsets) else {
        return false;
    };
    let size = vma.size();
    let any_in_table = |part: Range<VirtAddr>| {
        let Ok(Some(slot)) = huge_pte_offset(proof, vma.mm(), part.start, size) else {
            return false;
        };
        let count = part.end.offset_from(part.start) >> size.shift();
        let mut locked = slot.lock(task);
        (0..count).any(|page| {
            locked.move_to(part.start.plus(page << size.shift()));
            !locked.is_none()
        })
    };
    by_table(vma.mm().geometry(), range, size).any(any_in_table)
}
