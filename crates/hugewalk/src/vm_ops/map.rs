//! New mappings.

use super::align_error;
use crate::error::{MapError, OutOfMemory, WrongSystem};
use crate::file::{HugeFile, TreePlace};
use crate::hugetlb::Hugetlb;
use crate::platform::Platform;
use crate::reserve::{NoPage, PrivateReserve, reserve_range};
use crate::root::Mm;
use crate::sync::Arc;
use crate::task::Task;
use crate::vma::{MmapLockedForWrite, Protection, Shape, Vma, VmaFlags};

/// Maps a part of a file: makes a VMA of this shape, reserves its pages, and puts it into the tree of the file. Sleeps.
///
/// The host puts it into its own set before it releases the mmap lock. Fresh pages of a mapping's own (`MAP_ANONYMOUS`) are those
/// of a file that the host makes for it. A mapping that allows stores makes the file as long as it reaches.
///
/// A table can be shared only where the mapping covers all of its range. So the host looks for addresses and offsets
/// that are equal modulo [`Geometry::table_range`](crate::arch::Geometry::table_range) (1 GiB for pages of 2 MiB on x86-64).
///
/// Of the flags, those of userfaultfd are ignored, and so are rights that are not known.
///
/// Holds: the mmap lock in write. Takes the inode lock of the file, and `i_mmap` in write.
///
/// Linux: `hugetlbfs_file_mmap()` in fs/hugetlbfs/inode.c, `hugetlb_reserve_pages()` in mm/hugetlb.c.
///
/// # Errors
///
/// [`MapError::Unaligned`], [`MapError::ZeroLength`] if the range is empty, [`MapError::Overflow`] if it reaches past the end of
/// user addresses, [`MapError::OffsetOverflow`]; [`MapError::NoPage`] if its pages cannot be reserved; [`MapError::OutOfMemory`];
/// [`MapError::WrongSystem`] if the task or the file belongs to another system. Nothing was mapped then.
///
/// # Safety
///
/// The range is free: no VMA of the address space that was not unmapped overlaps it, and no
/// [table of the host's](crate::base) translates addresses of it.
pub unsafe fn map<P: Platform>(
    mmap: &mut MmapLockedForWrite<'_, P>,
    file: &Arc<HugeFile<P>>,
    shape: Shape,
    task: &mut Task<P>,
) -> Result<Arc<Vma<P>>, MapError> {
    let mm = mmap.mm();
    task.enter(mm.hugetlb())?;
    if !core::ptr::eq::<Hugetlb<P>>(file.hugetlb(), mm.hugetlb()) {
        return Err(WrongSystem.into());
    }
    let end = check(mm, file, &shape)?;
    let protection = shape.protection & Protection::all();
    let new = NewMapping::new(mm, file, Shape { protection, ..shape })?;
    let inode_lock = file.lock_inode(task);
    new.reserve()?;
    let vma = new.link(task);
    if protection.contains(Protection::WRITE) {
        file.grow_to(end);
    }
    drop(inode_lock);
    Ok(vma)
}

/// Refuses a shape that no VMA of this file can have. Returns the offset in bytes at which it ends. The file is of the same
/// system, so its size is one that the processors map.
fn check<P: Platform>(mm: &Mm<P>, file: &HugeFile<P>, shape: &Shape) -> Result<u64, MapError> {
    let size = file.size_class();
    align_error(size, shape.start.as_u64())?;
    align_error(size, shape.end.as_u64())?;
    if shape.end <= shape.start {
        return Err(MapError::ZeroLength);
    }
    if shape.end > mm.task_size() {
        return Err(MapError::Overflow);
    }
    let offset = shape.offset.saturating_mul(size.bytes());
    let end = offset.checked_add(shape.end.offset_from(shape.start)).filter(|&end| end <= i64::MAX as u64);
    end.ok_or(MapError::OffsetOverflow { offset })
}

/// A mapping that is being made. The steps that can fail come before [`link`](Self::link).
pub(crate) struct NewMapping<'f, P: Platform> {
    file: &'f Arc<HugeFile<P>>,
    in_tree: TreePlace<P>,
}

impl<'f, P: Platform> NewMapping<'f, P> {
    /// Makes the VMA, and its place in the file's tree.
    pub(crate) fn new(
        mm: &Arc<Mm<P>>,
        file: &'f Arc<HugeFile<P>>,
        shape: Shape,
    ) -> Result<Self, OutOfMemory> {
        let shared = shape.flags.contains(VmaFlags::SHARED);
        let reserves = !shape.flags.contains(VmaFlags::NORESERVE);
        let reserve = if reserves && !shared {
            // SAFETY: mappings keep it, and each of them has a reference to an `Mm`, which keeps the system.
            Some(unsafe { PrivateReserve::new(mm.hugetlb()) }?)
        } else {
            None
        };
        Ok(Self { file, in_tree: TreePlace::new(Vma::new(mm, file, shape, reserve)?)? })
    }

    pub(crate) fn vma(&self) -> &Arc<Vma<P>> {
        self.in_tree.vma()
    }

    /// Reserves its pages, if it reserves any. The caller holds the inode lock, and [links](Self::link) the mapping before
    /// releasing it.
    pub(crate) fn reserve(&self) -> Result<(), NoPage> {
        let (vma, file) = (self.vma(), self.file);
        if vma.flags().contains(VmaFlags::NORESERVE) {
            return Ok(());
        }
        let (hugetlb, size, subpool, offsets) =
            (file.hugetlb(), file.size_class(), file.subpool(), vma.offsets());
        match vma.reserve() {
            Some(reserve) => reserve.reserve(hugetlb, size, subpool, offsets.end - offsets.start),
            None => reserve_range(hugetlb, size, file.reservations(), subpool, offsets.start, offsets.end),
        }
    }

    /// Puts the VMA into the file's tree. Takes `i_mmap` in write. Sleeps.
    pub(crate) fn link(self, task: &mut Task<P>) -> Arc<Vma<P>> {
        let vma = self.vma().clone();
        self.file.i_mmap_write_within(task).insert(self.in_tree);
        vma
    }
}
