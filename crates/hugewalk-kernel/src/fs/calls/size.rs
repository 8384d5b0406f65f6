//! Sizes of files: truncated, allocated, punched; and how much of one is in memory.

use alloc::sync::Arc;

use linux_raw_sys::general::{AT_FDCWD, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, POSIX_FADV_NOREUSE};

use super::{lookup, opened};
use crate::errno::{Errno, Result};
use crate::fs::inode::{Inode, Kind};
use crate::memory::{PAGE, user};
use crate::space::area::PageSource;
use crate::space::forget::forget;

/// Sets the size, if the seals allow it.
fn set(inode: &Arc<Inode>, size: u64) -> Result<()> {
    match &inode.kind {
        Kind::Base(file) => {
            file.seals.may_resize(file.size(), size)?;
            let shrinks = size < file.size();
            file.truncate(size)?;
            if shrinks {
                let source: Arc<dyn PageSource> = file.clone();
                forget(&source, size.div_ceil(PAGE)..u64::MAX, true);
            }
        }
        Kind::Huge(node) => {
            // The size is looked at first: an odd one is EINVAL whatever the seals say.
            if !node.file.size_class().is_aligned(size) {
                return Err(Errno::EINVAL);
            }
            node.seals.may_resize(node.file.size(), size)?;
            node.truncate(size)?;
        }
        Kind::Folder(_) => return Err(Errno::EISDIR),
        Kind::Special(_) | Kind::Device(..) => return Ok(()),
        _ => return Err(Errno::EINVAL),
    }
    inode.touch();
    Ok(())
}

/// What `O_TRUNC` does.
pub(super) fn truncate_to_nothing(inode: &Arc<Inode>) -> Result<()> {
    match inode.kind {
        Kind::Base(_) | Kind::Huge(_) => set(inode, 0),
        _ => Ok(()),
    }
}

/// `truncate`.
pub(super) fn truncate(path: u64, size: i64) -> Result<u64> {
    let size = u64::try_from(size).map_err(|_| Errno::EINVAL)?;
    set(&lookup(AT_FDCWD as u64, path, true)?.existing()?, size)?;
    Ok(0)
}

/// `ftruncate`.
pub(super) fn truncate_open(descriptor: u64, size: i64) -> Result<u64> {
    let size = u64::try_from(size).map_err(|_| Errno::EINVAL)?;
    let opened = opened(descriptor)?;
    opened.writable().map_err(|_| Errno::EINVAL)?;
    set(&opened.inode, size)?;
    Ok(0)
}

/// `fallocate`.
pub(super) fn allocate(descriptor: u64, mode: u32, offset: i64, length: i64) -> Result<u64> {
    let opened = opened(descriptor)?;
    opened.writable()?;
    let offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    let length = u64::try_from(length).ok().filter(|&length| length > 0).ok_or(Errno::EINVAL)?;
    let end = offset.checked_add(length).filter(|&end| i64::try_from(end).is_ok()).ok_or(Errno::EFBIG)?;
    let keep_size = mode & FALLOC_FL_KEEP_SIZE != 0;
    let punch = match mode & !FALLOC_FL_KEEP_SIZE {
        0 => false,
        FALLOC_FL_PUNCH_HOLE if keep_size => true,
        _ => return Err(Errno::EOPNOTSUPP),
    };
    match &opened.inode.kind {
        Kind::Base(file) if punch => {
            file.seals.may_write()?;
            file.punch_hole(offset, length);
            let source: Arc<dyn PageSource> = file.clone();
            forget(&source, offset.div_ceil(PAGE)..end / PAGE, false);
        }
        Kind::Base(file) => {
            if end > file.size() {
                file.seals.may_grow()?;
            }
            file.allocate(offset, length, keep_size)?;
        }
        Kind::Huge(node) if punch => {
            node.seals.may_write()?;
            node.punch_hole(offset, length)?;
        }
        Kind::Huge(node) => {
            // Linux looks at the seal whether or not the size is kept: `hugetlbfs_fallocate()`.
            if end > node.file.size() {
                node.seals.may_grow()?;
            }
            node.allocate(offset, length, keep_size)?;
        }
        Kind::Pipe(_) => return Err(Errno::ESPIPE),
        Kind::Folder(_) => return Err(Errno::EISDIR),
        _ => return Err(Errno::ENODEV),
    }
    opened.inode.touch();
    Ok(0)
}

/// `struct cachestat`, as five numbers.
type CacheStat = [u64; 5];

/// `cachestat`: how many base pages of a range of a file are in memory. Nothing is ever written back or evicted. Linux: the system call in
/// mm/filemap.c.
pub(super) fn cached(descriptor: u64, range: u64, into: u64, flags: u32) -> Result<u64> {
    let opened = opened(descriptor)?;
    let [offset, length]: [u64; 2] = user::get(range)?;
    if matches!(opened.inode.kind, Kind::Huge(_)) {
        return Err(Errno::EOPNOTSUPP);
    }
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let end = if length == 0 { u64::MAX } else { offset.saturating_add(length) };
    let pages = match &opened.inode.kind {
        Kind::Base(file) => {
            let end = end.min(file.size()).div_ceil(PAGE);
            (offset / PAGE..end).filter(|&index| file.has_page(index)).count() as u64
        }
        _ => 0,
    };
    let stat: CacheStat = [pages, 0, 0, 0, 0];
    user::put(into, &stat).map(|()| 0)
}

/// `fadvise64`. There is no disk that advice could help with.
pub(super) fn advise(descriptor: u64, length: i64, advice: u32) -> Result<u64> {
    let opened = opened(descriptor)?;
    if matches!(opened.inode.kind, Kind::Pipe(_)) {
        return Err(Errno::ESPIPE);
    }
    if length < 0 || advice > POSIX_FADV_NOREUSE {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}
