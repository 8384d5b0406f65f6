//! The lock of the tree of the VMAs that map a file, and what it proves.

use core::fmt;
use core::ops::Range;

use super::HugeFile;
use super::tree::{TreePlace, VmaTree};
use crate::addr::VirtAddr;
use crate::hugetlb::Hugetlb;
use crate::platform::Platform;
use crate::protocol::flush_under;
use crate::root::Mm;
use crate::sleep::{ReadSem, WriteSem};
use crate::sync::Arc;
use crate::table::Stable;
use crate::task::Task;
use crate::vma::Vma;
use crate::walk::{Proof, sealed};

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

    /// As [`i_mmap_read`](Self::i_mmap_read), for an operation that has a task as long as it has the guard: the task's handle
    /// will do, and the count of handles, a line that all processors write, stays untouched.
    #[track_caller]
    pub(crate) fn i_mmap_read_within<'f>(&'f self, task: &mut Task<P>) -> IMmapReadGuard<'f, P> {
        IMmapReadGuard { tree: self.i_mmap.read(task), file: self, _handle: None }
    }

    /// As [`i_mmap_write`](Self::i_mmap_write), for an operation that has a task as long as it has the guard.
    #[track_caller]
    pub(crate) fn i_mmap_write_within<'f>(&'f self, task: &mut Task<P>) -> IMmapWriteGuard<'f, P> {
        IMmapWriteGuard { tree: self.i_mmap.write(task), file: self, _handle: None }
    }

    /// Takes `i_mmap` in write if it is free, for an operation that has a task as long as it has the guard. Does not sleep.
    pub(crate) fn i_mmap_try_write(&self) -> Option<IMmapWriteGuard<'_, P>> {
        Some(IMmapWriteGuard { tree: self.i_mmap.try_write()?, file: self, _handle: None })
    }
}

/// `i_mmap` of a file, held in read. Dropping it does not sleep, unless it has the last handle of the system.
pub struct IMmapReadGuard<'f, P: Platform> {
    file: &'f HugeFile<P>,
    tree: ReadSem<'f, P, VmaTree<P>>,
    /// The guard may outlive its task, and dropping the last handle of the system takes this lock.
    /// So the guard has a handle, unless an operation has it that has a task too. It is released after the lock.
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
        self.tree.has(vma)
    }

    /// The VMAs that map any of these offsets (in huge pages).
    pub fn vmas(&self, offsets: Range<u64>) -> impl Iterator<Item = FileProof<'_, P>> {
        // INVARIANT: in the tree whose lock the guard holds for the borrow.
        self.tree.overlapping(offsets).map(|vma| FileProof { vma })
    }

    /// Flushes, with the lock held until the flush is over.
    pub(crate) fn flush(&self, flush: impl FnOnce()) {
        let parker = || self.file.hugetlb().last_parker().clone();
        flush_under::<P>(self.tree.raw(), parker, flush);
    }

    /// Inserts a VMA behind all others of the same offset.
    pub(crate) fn insert(&mut self, place: TreePlace<P>) {
        self.tree.insert(place);
    }

    /// Inserts fork's copy of a VMA right behind the original.
    pub(crate) fn insert_after(&mut self, original: &Vma<P>, copy: TreePlace<P>) {
        self.tree.insert_after(original, copy);
    }

    /// Replaces `old`, which is in the tree, by `new`, which has the same bounds.
    pub(crate) fn replace(&mut self, old: &Vma<P>, new: Arc<Vma<P>>) {
        old.set_gone();
        self.tree.replace(old, new);
    }

    /// Replaces `old`, which is in the tree, by `new`, which has other bounds.
    pub(crate) fn change(&mut self, old: &Vma<P>, new: Arc<Vma<P>>) {
        old.set_gone();
        self.tree.change(old, new);
    }

    /// Removes a VMA. Its place in the tree is freed when what is returned is dropped.
    pub(crate) fn remove(&mut self, vma: &Vma<P>) -> Option<TreePlace<P>> {
        vma.set_gone();
        self.tree.remove(vma)
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
