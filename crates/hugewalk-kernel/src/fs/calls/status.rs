//! What inodes and file systems say of themselves, and what of that can be changed.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use linux_raw_sys::general::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, O_PATH, stat, statfs};

use super::{lookup, opened, path_at};
use crate::cpu::clock;
use crate::errno::{Errno, Result};
use crate::fs::inode::Inode;
use crate::fs::mounts::{Contents, Filesystem};
use crate::memory::frames;
use crate::memory::{PAGE, user};
use crate::process::credentials;
use crate::task::current;

/// The bytes of a structure of the ABI's, which has no gaps.
///
/// # Safety
///
/// It has none.
unsafe fn bytes<T>(value: &T) -> &[u8] {
    // SAFETY: passed on to the caller.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast(), size_of::<T>()) }
}

fn put_stat(inode: &Inode, address: u64) -> Result<u64> {
    let stat: stat = inode.stat();
    // SAFETY: `struct stat` names its padding, on x86-64 and on arm64.
    user::write(address, unsafe { bytes(&stat) })?;
    Ok(0)
}

/// The inode of a path, or of the descriptor if the path is empty and may be.
fn find(at: u64, path: u64, flags: u32) -> Result<Arc<Inode>> {
    if flags & AT_EMPTY_PATH != 0 && (path == 0 || path_at(path)?.is_empty()) {
        if at as i32 == AT_FDCWD {
            return Ok(current().process().place().inode);
        }
        return Ok(opened(at)?.inode.clone());
    }
    lookup(at, path, flags & AT_SYMLINK_NOFOLLOW == 0)?.existing()
}

/// `newfstatat`, `stat`, `lstat`.
pub(super) fn at(at: u64, path: u64, address: u64, flags: u32) -> Result<u64> {
    put_stat(&*find(at, path, flags)?, address)
}

/// `fstat`.
pub(super) fn of(descriptor: u64, address: u64) -> Result<u64> {
    put_stat(&opened(descriptor)?.inode, address)
}

/// `statx`: the basic fields, all of them.
pub(super) fn extended(at: u64, path: u64, flags: u32, address: u64) -> Result<u64> {
    let stat = find(at, path, flags)?.stat();
    let mut words = [0_u32; 64];
    let mut put = |at: usize, value: u64| (words[at], words[at + 1]) = (value as u32, (value >> 32) as u32);
    // STATX_BASIC_STATS, and the size of a block.
    put(0, 0x7ff | (stat.st_blksize as u64) << 32);
    put(4, stat.st_nlink as u64 | u64::from(stat.st_uid) << 32);
    put(6, u64::from(stat.st_gid) | u64::from(stat.st_mode) << 32);
    put(8, stat.st_ino);
    put(10, stat.st_size as u64);
    put(12, stat.st_blocks as u64);
    // Times: seconds of 64 bits and nanoseconds of 32, padded; access, birth, change, modification.
    for (at, (seconds, rest)) in [
        (16, (stat.st_atime, stat.st_atime_nsec)),
        (24, (stat.st_ctime, stat.st_ctime_nsec)),
        (28, (stat.st_mtime, stat.st_mtime_nsec)),
    ] {
        put(at, seconds as _);
        put(at + 2, rest);
    }
    put(32, stat.st_rdev >> 8 | (stat.st_rdev & 0xff) << 32);
    put(34, stat.st_dev >> 8 | (stat.st_dev & 0xff) << 32);
    user::put(address, &words)?;
    Ok(0)
}

fn put_filesystem(filesystem: &Filesystem, address: u64) -> Result<u64> {
    // SAFETY: a structure of integers, which zeroes are good for.
    let mut answer: statfs = unsafe { core::mem::zeroed() };
    answer.f_type = filesystem.magic as _;
    answer.f_namelen = 255;
    answer.f_bsize = PAGE as _;
    match &filesystem.contents {
        Contents::Huge { size, subpool } => {
            answer.f_bsize = size.bytes() as _;
            // Only a mount with limits counts, and has -1 for those it lacks: `hugetlbfs_statfs()` in fs/hugetlbfs/inode.c.
            if let Some(subpool) = subpool {
                let left = subpool.left();
                let (all, left) = (left.map(|left| left + subpool.usage().0), left.unwrap_or(u64::MAX));
                answer.f_blocks = all.unwrap_or(u64::MAX) as _;
                (answer.f_bfree, answer.f_bavail) = (left as _, left as _);
                let inodes = filesystem.inodes.load(Ordering::Relaxed);
                answer.f_files = filesystem.most.unwrap_or(u64::MAX) as _;
                answer.f_ffree = filesystem.most.map_or(u64::MAX, |most| most.saturating_sub(inodes)) as _;
            }
        }
        Contents::Base => {
            let (total, free) = frames::totals();
            answer.f_blocks = (total / PAGE / 2) as _;
            (answer.f_bfree, answer.f_bavail) =
                ((free / PAGE).min(total / PAGE / 2) as _, (free / PAGE).min(total / PAGE / 2) as _);
        }
        Contents::Fixed => {}
    }
    answer.f_frsize = answer.f_bsize;
    // SAFETY: `struct statfs` consists of 64-bit words.
    user::write(address, unsafe { bytes(&answer) })?;
    Ok(0)
}

/// `statfs`.
pub(super) fn filesystem_at(path: u64, address: u64) -> Result<u64> {
    put_filesystem(&lookup(AT_FDCWD as u64, path, true)?.existing()?.filesystem, address)
}

/// `fstatfs`.
pub(super) fn filesystem_of(descriptor: u64, address: u64) -> Result<u64> {
    put_filesystem(&opened(descriptor)?.inode.filesystem, address)
}

/// `access`. Root may do everything but execute what nobody may.
pub(super) fn access(at: u64, path: u64, wanted: u32) -> Result<u64> {
    const EXECUTE: u32 = 1;
    if wanted & !7 != 0 {
        return Err(Errno::EINVAL);
    }
    let inode = lookup(at, path, true)?.existing()?;
    inode.check(wanted)?;
    let nobody = inode.meta.lock().permissions & 0o111 == 0;
    if wanted & EXECUTE != 0 && nobody && inode.folder().is_err() {
        return Err(Errno::EACCES);
    }
    Ok(0)
}

fn set_mode(inode: &Inode, mode: u32) -> Result<u64> {
    use crate::fs::inode::Kind;
    let mut meta = inode.meta.lock();
    let own = credentials::own();
    if !own.is_root() && own.user.effective != meta.owner {
        return Err(Errno::EPERM);
    }
    let changes = (meta.permissions ^ mode) & 0o111 != 0;
    let seals = match &inode.kind {
        Kind::Base(file) => Some(&file.seals),
        Kind::Huge(node) => Some(&*node.seals),
        _ => None,
    };
    if changes && let Some(seals) = seals {
        seals.may_change_execution()?;
    }
    meta.permissions = mode & 0o7777;
    meta.changed = clock::wall();
    Ok(0)
}

/// `fchmodat`.
pub(super) fn change_mode(at: u64, path: u64, mode: u32) -> Result<u64> {
    set_mode(&*find(at, path, 0)?, mode)
}

/// `fchmod`.
pub(super) fn change_mode_of(descriptor: u64, mode: u32) -> Result<u64> {
    let opened = opened(descriptor)?;
    if opened.flags() & O_PATH != 0 {
        return Err(Errno::EBADF);
    }
    set_mode(&opened.inode, mode)
}

fn set_owner(inode: &Inode, owner: u32, group: u32) -> Result<u64> {
    let mut meta = inode.meta.lock();
    let own = credentials::own();
    let keeps = [u32::MAX, meta.owner].contains(&owner);
    let may = own.is_root() || keeps && own.user.effective == meta.owner;
    if !may {
        return Err(Errno::EPERM);
    }
    // All ones: leave it as it is.
    if owner != u32::MAX {
        meta.owner = owner;
    }
    if group != u32::MAX {
        meta.group = group;
    }
    meta.changed = clock::wall();
    Ok(0)
}

/// `chown`, `fchownat`.
pub(super) fn change_owner(at: u64, path: u64, owner: u32, group: u32) -> Result<u64> {
    set_owner(&*find(at, path, AT_EMPTY_PATH)?, owner, group)
}

/// `fchown`.
pub(super) fn change_owner_of(descriptor: u64, owner: u32, group: u32) -> Result<u64> {
    set_owner(&opened(descriptor)?.inode, owner, group)
}

/// `utimensat`: sets both times to now, whatever was asked for.
pub(super) fn change_times(at: u64, path: u64) -> Result<u64> {
    let inode = if path == 0 { opened(at)?.inode.clone() } else { find(at, path, 0)? };
    inode.touch();
    Ok(0)
}

/// `umask`.
pub(super) fn change_umask(mask: u32) -> Result<u64> {
    Ok(current().process().umask.swap(mask & 0o777, Ordering::Relaxed).into())
}
