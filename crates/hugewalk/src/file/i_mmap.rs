//! The tree of the VMAs that map a file, and its lock.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use super::HugeFile;
use crate::addr::VirtAddr;
use crate::error::OutOfMemory;
use crate::platform::Platform;
use crate::sync::{Arc, ReadSem, WriteSem};
use crate::task::Task;
use crate::vma::Vma;
use crate::vma::held::KeepsVma;

/// The VMAs of a file by the offset they start at. Linux: the interval tree `i_mmap`.
///
/// A sorted list of pointers. Overlap is found by bisection: no VMA reaches further back than the longest one.
///
/// Of VMAs that start at the same offset a child's comes after its parent's. So who visits them all, while fork copies
/// the parent's entries to the child, finds each entry at the parent before it is copied or at the child afterwards. Linux
/// inserts a copied VMA just after the original for it.
///
/// # Invariants
///
/// Sorted by start offset, then by age of the address space, then by start address, last by where the VMA lies in memory;
/// `longest` is at least the length of every VMA in it.
pub(crate) struct VmaTree<P: Platform> {
    vmas: Vec<Arc<Vma<P>>>,
    longest: u64,
}

impl<P: Platform> VmaTree<P> {
    pub(crate) const fn new() -> Self {
        Self { vmas: Vec::new(), longest: 0 }
    }

    /// Where the VMA lies in memory decides only between two that are alike: so truncation meets the mappings of a file in
    /// the same order each time, and a recorded schedule can be repeated.
    fn key(vma: &Vma<P>) -> (u64, u64, VirtAddr, *const Vma<P>) {
        // Identities of address spaces only grow.
        (vma.offset(), vma.mm().id(), vma.start(), core::ptr::from_ref(vma))
    }

    fn position(&self, vma: &Vma<P>) -> Result<usize, usize> {
        self.vmas.binary_search_by_key(&Self::key(vma), |other| Self::key(other))
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
    /// Takes `i_mmap` in read: nobody unshares a table of this file. Sleeps.
    #[must_use]
    pub fn i_mmap_read<'f>(&'f self, task: &mut Task<P>) -> IMmapReadGuard<'f, P> {
        IMmapReadGuard { file: self, tree: self.i_mmap.read(task) }
    }

    /// Takes `i_mmap` in write: nobody shares a table of this file, and the holder may unshare. Sleeps.
    #[must_use]
    pub fn i_mmap_write<'f>(&'f self, task: &mut Task<P>) -> IMmapWriteGuard<'f, P> {
        IMmapWriteGuard { file: self, tree: self.i_mmap.write(task) }
    }
}

/// `i_mmap` of a file, held in read.
pub struct IMmapReadGuard<'f, P: Platform> {
    file: &'f HugeFile<P>,
    tree: ReadSem<'f, P, VmaTree<P>>,
}

/// `i_mmap` of a file, held in write: together with the VMA lock in write it allows unsharing.
pub struct IMmapWriteGuard<'f, P: Platform> {
    file: &'f HugeFile<P>,
    tree: WriteSem<'f, P, VmaTree<P>>,
}

impl<'f, P: Platform> IMmapReadGuard<'f, P> {
    /// The file.
    #[must_use]
    pub fn file(&self) -> &'f HugeFile<P> {
        self.file
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

    /// The VMAs that map any of these offsets (in huge pages).
    pub fn vmas(&self, offsets: Range<u64>) -> impl Iterator<Item = FileProof<'_, P>> {
        // INVARIANT: in the tree whose lock the guard holds for the borrow.
        self.tree.overlapping(offsets).map(|vma| FileProof { vma })
    }

    /// Lets the lock go while `work` runs, for a protocol in which its holder does that too early.
    pub(crate) fn released(&self, work: impl FnOnce()) {
        let lock = WriteSem::<P, _>::rwlock(&self.tree);
        // SAFETY: held by this guard, and taken again below, before the guard can let it go.
        unsafe { lock.force_unlock_write() };
        work();
        core::mem::forget(lock.write());
    }

    /// Makes room for `more` VMAs, so that putting them in cannot fail as long as the lock is held.
    pub(crate) fn prepare(&mut self, more: usize) -> Result<(), OutOfMemory> {
        self.tree.vmas.try_reserve(more)?;
        Ok(())
    }

    /// Puts a VMA in.
    pub(crate) fn insert(&mut self, vma: Arc<Vma<P>>) -> Result<(), OutOfMemory> {
        if let Err(at) = self.tree.position(&vma) {
            self.tree.vmas.try_reserve(1)?;
            self.tree.longest = self.tree.longest.max(vma.pages());
            self.tree.vmas.insert(at, vma);
        }
        Ok(())
    }

    /// Takes a VMA out.
    pub(crate) fn remove(&mut self, vma: &Vma<P>) {
        if let Ok(at) = self.tree.position(vma) {
            self.tree.vmas.remove(at);
        }
        if self.tree.vmas.is_empty() {
            self.tree.longest = 0;
        }
    }
}

impl<P: Platform> KeepsVma<P> for IMmapReadGuard<'_, P> {
    fn keeps(&self, vma: &Vma<P>) -> bool {
        self.tree.position(vma).is_ok()
    }
}

impl<P: Platform> KeepsVma<P> for IMmapWriteGuard<'_, P> {
    fn keeps(&self, vma: &Vma<P>) -> bool {
        self.tree.position(vma).is_ok()
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
