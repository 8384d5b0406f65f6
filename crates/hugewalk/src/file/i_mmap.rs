//! The tree of the VMAs that map a file, and its lock.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::Ordering;

use super::HugeFile;
use crate::addr::VirtAddr;
use crate::error::OutOfMemory;
use crate::hugetlb::Hugetlb;
use crate::platform::Platform;
use crate::root::Mm;
use crate::sleep::{ReadSem, WriteSem};
use crate::sync::Arc;
use crate::table::Stable;
use crate::task::Task;
use crate::vma::Vma;
use crate::walk::{Proof, sealed};

/// The distance between the ranks of two neighbours, so that others fit in.
const GAP: u64 = 1 << 32;

/// The VMAs of a file by the offset they start at. Linux: the interval tree `i_mmap`.
///
/// A sorted list of pointers. Overlaps are found by bisection: no VMA reaches further back than the
/// longest one.
///
/// VMAs that start at the same offset lie in the order in which they were inserted, with one
/// exception: the copy that fork makes lies right behind its original. This order has two uses.
///
/// - A walker visits all VMAs while fork copies the parent's entries to the child. It finds each
///   entry in the parent before the entry is copied, or in the child afterwards.
/// - The order of visits is defined. A hole punch unshares a table from one VMA after the other,
///   and takes its page out of the last one.
///
/// Linux: `vma_interval_tree_insert()` and `vma_interval_tree_insert_after()` in
/// mm/interval_tree.c; `dup_mmap()` calls the latter.
///
/// # Invariants
///
/// - Sorted by start offset, then by [`rank`](Vma::rank), which differs between any two VMAs of the
///   same offset.
/// - `longest` is at least the length of every VMA in the tree.
pub(crate) struct VmaTree<P: Platform> {
    vmas: Vec<Arc<Vma<P>>>,
    longest: u64,
}

impl<P: Platform> VmaTree<P> {
    pub(crate) const fn new() -> Self {
        Self { vmas: Vec::new(), longest: 0 }
    }

    /// The position of a VMA, if it is in the tree.
    fn position(&self, vma: &Vma<P>) -> Option<usize> {
        let key = |vma: &Vma<P>| (vma.offset(), vma.rank());
        let at = self.vmas.binary_search_by_key(&key(vma), |other| key(other)).ok()?;
        // A VMA that has left the tree keeps its last rank, so the pointers are compared.
        self.vmas.get(at).filter(|found| core::ptr::eq::<Vma<P>>(&raw const ***found, vma))?;
        Some(at)
    }

    /// The VMAs that start at an offset.
    fn of_offset(&self, offset: u64) -> Range<usize> {
        let first = self.vmas.partition_point(|vma| vma.offset() < offset);
        first..self.vmas.partition_point(|vma| vma.offset() <= offset)
    }

    /// Inserts a VMA at `at`, behind all of a smaller offset and before all of a larger one. There
    /// must be room for it.
    fn put_at(&mut self, at: usize, vma: Arc<Vma<P>>) {
        debug_assert!(self.vmas.len() < self.vmas.capacity(), "no room was made");
        let offset = vma.offset();
        let rank = self.rank_between(at, offset).unwrap_or_else(|| {
            for (number, vma) in (1..).zip(self.vmas.get(self.of_offset(offset)).unwrap_or_default()) {
                // Some ranks may be equal in between; `i_mmap` is held in write, so no other thread
                // looks.
                vma.set_rank(number * GAP);
            }
            // There is room now, since there are fewer VMAs than a gap is wide.
            self.rank_between(at, offset).unwrap_or(GAP)
        });
        vma.set_rank(rank);
        self.longest = self.longest.max(vma.pages());
        self.vmas.insert(at, vma);
    }

    /// A rank for a VMA of this offset at position `at`, if one is left.
    fn rank_between(&self, at: usize, offset: u64) -> Option<u64> {
        let rank = |at: usize| self.vmas.get(at).filter(|vma| vma.offset() == offset).map(|vma| vma.rank());
        let before = at.checked_sub(1).and_then(rank).unwrap_or(0);
        match rank(at) {
            None => before.checked_add(GAP),
            Some(behind) => Some(before.midpoint(behind)).filter(|&middle| middle > before),
        }
    }

    fn overlapping(&self, offsets: Range<u64>) -> impl Iterator<Item = &Arc<Vma<P>>> {
        let reach = offsets.start.saturating_sub(self.longest);
        let first = self.vmas.partition_point(|vma| vma.offset() < reach);
        let rest = self.vmas.get(first..).unwrap_or_default();
        rest.iter()
            .take_while(move |vma| vma.offset() < offsets.end)
            .filter(move |vma| vma.offsets().end > offsets.start)
    }
}

impl<P: Platform> HugeFile<P> {
    /// Takes `i_mmap` in read. While it is held, no table of this file is unshared. Sleeps.
    ///
    /// It is meant for walks. While it is held, the caller must not call anything that takes
    /// another lock: not `fault`, which may take `i_mmap` to share a table, no operation of an
    /// address space that maps the file, and none of the file. See
    /// [`mm`](crate::mm#while-a-guard-is-held).
    #[must_use]
    pub fn i_mmap_read<'f>(&'f self, task: &mut Task<P>) -> IMmapReadGuard<'f, P> {
        IMmapReadGuard { tree: self.i_mmap.read(task), file: self, _handle: self.hugetlb.handle() }
    }

    /// Takes `i_mmap` in write. While it is held, no table of this file is shared, and the holder
    /// may unshare. Sleeps.
    ///
    /// The same calls are allowed as under [`i_mmap_read`](Self::i_mmap_read), and
    /// [`Gather::scope`](crate::gather::Gather::scope).
    #[must_use]
    pub fn i_mmap_write<'f>(&'f self, task: &mut Task<P>) -> IMmapWriteGuard<'f, P> {
        IMmapWriteGuard { tree: self.i_mmap.write(task), file: self, _handle: self.hugetlb.handle() }
    }

    /// Takes `i_mmap` in write if it is free. Does not sleep.
    pub(crate) fn i_mmap_try_write(&self) -> Option<IMmapWriteGuard<'_, P>> {
        Some(IMmapWriteGuard { tree: self.i_mmap.try_write()?, file: self, _handle: self.hugetlb.handle() })
    }
}

/// `i_mmap` of a file, held in read. Dropping it does not sleep, unless it has the last handle of the system.
pub struct IMmapReadGuard<'f, P: Platform> {
    file: &'f HugeFile<P>,
    tree: ReadSem<'f, P, VmaTree<P>>,
    /// The guard may outlive its task, and dropping the last handle of the system takes this lock.
    /// So the guard has a handle. It is released after the lock.
    _handle: Option<Arc<Hugetlb<P>>>,
}

/// `i_mmap` of a file, held in write: together with the VMA lock in write it allows unsharing. Dropping it is as for
/// [`IMmapReadGuard`].
pub struct IMmapWriteGuard<'f, P: Platform> {
    file: &'f HugeFile<P>,
    tree: WriteSem<'f, P, VmaTree<P>>,
    /// As for [`IMmapReadGuard`].
    _handle: Option<Arc<Hugetlb<P>>>,
}

impl<'f, P: Platform> IMmapReadGuard<'f, P> {
    /// The file.
    #[must_use]
    pub fn file(&self) -> &'f HugeFile<P> {
        self.file
    }

    /// Is the VMA in the tree?
    pub(crate) fn has(&self, vma: &Vma<P>) -> bool {
        self.tree.position(vma).is_some()
    }

    /// The VMAs that map any of these offsets (in huge pages).
    pub fn vmas(&self, offsets: Range<u64>) -> impl Iterator<Item = FileProof<'_, P>> {
        // INVARIANT: in the tree whose lock the guard holds for the borrow.
        self.tree.overlapping(offsets).map(|vma| FileProof { vma })
    }
}

impl<'f, P: Platform> IMmapWriteGuard<'f, P> {
    /// The file.
    #[must_use]
    pub fn file(&self) -> &'f HugeFile<P> {
        self.file
    }

    /// Is the VMA in the tree?
    pub(crate) fn has(&self, vma: &Vma<P>) -> bool {
        self.tree.position(vma).is_some()
    }

    /// The VMAs that map any of these offsets (in huge pages).
    pub fn vmas(&self, offsets: Range<u64>) -> impl Iterator<Item = FileProof<'_, P>> {
        // INVARIANT: in the tree whose lock the guard holds for the borrow.
        self.tree.overlapping(offsets).map(|vma| FileProof { vma })
    }

    /// Releases the lock while `work` runs, for a weaker protocol in which the holder releases it
    /// too early.
    pub(crate) fn released(&self, work: impl FnOnce()) {
        let lock = WriteSem::<P, _>::rwlock(&self.tree);
        // SAFETY: this guard holds the lock, and it is taken again below before the guard can
        // release it.
        unsafe { lock.force_unlock_write() };
        work();
        core::mem::forget(lock.write());
    }

    /// Makes room for `more` VMAs, besides the places that are kept.
    fn prepare(&mut self, more: usize) -> Result<(), OutOfMemory> {
        // Relaxed: the count goes up under this lock only. Missing a decrement makes too much room,
        // which is harmless.
        let kept = self.file.kept_room.load(Ordering::Relaxed);
        self.tree.vmas.try_reserve(kept.saturating_add(more))?;
        Ok(())
    }

    /// Inserts a VMA behind all others of the same offset, in room that was kept for it.
    pub(crate) fn insert(&mut self, vma: Arc<Vma<P>>, room: &mut Room<P>) {
        room.use_up(self.file);
        self.put(vma);
    }

    fn put(&mut self, vma: Arc<Vma<P>>) {
        let at = self.tree.of_offset(vma.offset()).end;
        self.tree.put_at(at, vma);
    }

    /// Inserts fork's copy of a VMA right behind the original.
    pub(crate) fn insert_after(&mut self, original: &Vma<P>, copy: Arc<Vma<P>>) -> Result<(), OutOfMemory> {
        self.prepare(1)?;
        match self.tree.position(original) {
            Some(at) => self.tree.put_at(at + 1, copy),
            None => self.put(copy),
        }
        Ok(())
    }

    /// Replaces `old`, which is in the tree, by `new`, which has the same bounds.
    pub(crate) fn replace(&mut self, old: &Vma<P>, new: Arc<Vma<P>>) {
        let place = self.tree.position(old).and_then(|at| self.tree.vmas.get_mut(at));
        debug_assert!(place.is_some(), "{old:?} is not in the tree of its file");
        new.set_rank(old.rank());
        if let Some(place) = place {
            *place = new;
        }
    }

    /// Removes `old`, which is in the tree, and inserts `others`: the first in the room that `old`
    /// leaves, the rest in room that was kept.
    pub(crate) fn exchange(
        &mut self,
        old: &Vma<P>,
        others: impl Iterator<Item = Arc<Vma<P>>>,
        room: &mut Room<P>,
    ) {
        self.remove(old);
        for (number, other) in others.enumerate() {
            if number > 0 {
                room.use_up(self.file);
            }
            self.put(other);
        }
    }

    /// Removes a VMA.
    pub(crate) fn remove(&mut self, vma: &Vma<P>) {
        if let Some(at) = self.tree.position(vma) {
            self.tree.vmas.remove(at);
        }
        if self.tree.vmas.is_empty() {
            self.tree.longest = 0;
        }
    }
}

/// Room for VMAs in the tree of a file, kept while `i_mmap` is free: inserting these cannot fail,
/// whatever else is inserted meanwhile. Dropping it gives back the places that are left.
///
/// # Invariants
///
/// `kept_room` of the file counts these places. Under `i_mmap` in write the tree has room for as
/// many VMAs as that counts.
pub(crate) struct Room<P: Platform> {
    file: Option<Arc<HugeFile<P>>>,
    places: usize,
}

impl<P: Platform> Room<P> {
    /// Makes room. Takes `i_mmap` in write. Sleeps.
    pub(crate) fn new(
        file: &Arc<HugeFile<P>>,
        places: usize,
        task: &mut Task<P>,
    ) -> Result<Self, OutOfMemory> {
        let mut i_mmap = file.i_mmap_write(task);
        i_mmap.prepare(places)?;
        // INVARIANT: there is that much room besides what was kept before, and `i_mmap` is held. Relaxed, here and below:
        // see `prepare`.
        file.kept_room.fetch_add(places, Ordering::Relaxed);
        Ok(Self { file: Some(file.clone()), places })
    }

    /// No room.
    pub(crate) const fn none() -> Self {
        Self { file: None, places: 0 }
    }

    /// Uses one of its places. The caller holds `i_mmap` in write, and takes the place before
    /// releasing it.
    fn use_up(&mut self, file: &HugeFile<P>) {
        let is_kept =
            self.places > 0 && self.file.as_ref().is_some_and(|own| core::ptr::eq(&raw const **own, file));
        debug_assert!(is_kept, "no room was kept in the tree of {}", file.id());
        if is_kept {
            self.places -= 1;
            file.kept_room.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<P: Platform> Drop for Room<P> {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            file.kept_room.fetch_sub(self.places, Ordering::Relaxed);
        }
    }
}

/// A VMA found in the tree of its file, with `i_mmap` held. A proof that the tables of its range are *stable*; see
/// [`walk`](crate::walk).
///
/// # Invariants
///
/// `vma` is in the tree of its file, and `i_mmap` of that file is held, in read or write, for `'g`.
#[derive(Clone, Copy)]
pub struct FileProof<'g, P: Platform> {
    vma: &'g Arc<Vma<P>>,
}

impl<'g, P: Platform> FileProof<'g, P> {
    /// The VMA.
    #[must_use]
    pub fn vma(&self) -> &'g Arc<Vma<P>> {
        self.vma
    }
}

impl<P: Platform> fmt::Debug for FileProof<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FileProof").field(self.vma).finish()
    }
}

impl<P: Platform> sealed::Sealed for FileProof<'_, P> {}
impl<P: Platform> Proof<P> for FileProof<'_, P> {
    type Kind = Stable;
    #[inline]
    fn covers(&self, mm: &Mm<P>, address: VirtAddr) -> bool {
        core::ptr::eq::<Mm<P>>(&**self.vma().mm(), mm) && self.vma().contains(address)
    }
}
