//! Names: opened, made, moved, removed; working directories and mounts.

use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use linux_raw_sys::general::{
    AT_EMPTY_PATH, AT_FDCWD, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, MNT_DETACH, MNT_EXPIRE, MNT_FORCE, O_ACCMODE,
    O_APPEND, O_CLOEXEC, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_PATH, O_RDONLY, O_TMPFILE, O_TRUNC,
    O_WRONLY, RENAME_NOREPLACE, S_IFIFO, S_IFMT, S_IFREG, UMOUNT_NOFOLLOW,
};

use super::{lookup, opened, path_at, size};
use crate::errno::{Errno, Result};
use crate::fs::folder::Folder;
use crate::fs::inode::{Inode, Kind, PathLink};
use crate::fs::path::Found;
use crate::fs::pipe::Pipe;
use crate::fs::{Opened, Place, folder, mounts};
use crate::memory::user;
use crate::process::credentials;
use crate::task::current;

/// The permissions of something new, less what the process masks out.
fn permissions(mode: u32) -> u32 {
    mode & 0o7777 & !current().process().umask.load(Ordering::Relaxed)
}

/// What `O_TMPFILE` adds to `O_DIRECTORY`.
const NAMELESS: u32 = O_TMPFILE & !O_DIRECTORY;

fn install(opened: Arc<Opened>, flags: u32) -> Result<u64> {
    Ok(current().process().files().insert(opened, flags & O_CLOEXEC != 0, 0)?.into())
}

/// `openat`.
pub(super) fn open(at: u64, path: u64, flags: u32, mode: u32) -> Result<u64> {
    let exclusive = flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL;
    let found = lookup(at, path, flags & O_NOFOLLOW == 0 && !exclusive)?;
    if flags & NAMELESS != 0 {
        return open_nameless(&found, flags, mode);
    }
    let fresh = found.inode.is_none() && flags & O_CREAT != 0;
    let inode = if fresh {
        create(&found, mode)?
    } else {
        let inode = found.existing()?;
        if exclusive {
            return Err(Errno::EEXIST);
        }
        inode
    };
    let is_folder = matches!(inode.kind, Kind::Folder(_));
    if flags & O_DIRECTORY != 0 {
        inode.folder()?;
    }
    if is_folder && (flags & O_ACCMODE != O_RDONLY || flags & O_CREAT != 0) {
        return Err(Errno::EISDIR);
    }
    let kept = flags & !(O_CREAT | O_EXCL | O_TRUNC | O_NOFOLLOW | O_CLOEXEC | O_DIRECTORY);
    if flags & O_PATH != 0 {
        let nothing: Arc<dyn crate::fs::File> = Arc::new(folder::FolderFile);
        return install(Opened::new(nothing, inode, found.path(), kept), flags);
    }
    if !fresh {
        let read = if flags & O_ACCMODE == O_WRONLY { 0 } else { 4 };
        let write = if flags & O_ACCMODE == O_RDONLY { 0 } else { 2 };
        inode.check(read | write)?;
    }
    let opened = inode.open(found.path(), kept)?;
    if flags & O_TRUNC != 0 && !fresh && flags & O_ACCMODE != O_RDONLY {
        size::truncate_to_nothing(&inode)?;
    }
    debug_assert!(kept & O_APPEND == flags & O_APPEND);
    install(opened, flags)
}

fn create(found: &Found, mode: u32) -> Result<Arc<Inode>> {
    if found.folder_only {
        return Err(Errno::EISDIR);
    }
    let parent = &found.parent.inode;
    parent.check(2 | 1)?;
    let path = String::from_utf8_lossy(&found.path()).into_owned();
    let inode = parent.filesystem.create(&path, permissions(mode))?;
    parent.folder()?.insert(parent, found.free_name()?, &inode)?;
    Ok(inode)
}

/// A file in a folder's file system, without a name.
fn open_nameless(found: &Found, flags: u32, mode: u32) -> Result<u64> {
    let folder = found.existing()?;
    folder.folder()?;
    if flags & O_ACCMODE == O_RDONLY {
        return Err(Errno::EINVAL);
    }
    let name = alloc::format!("{}/#{} (deleted)", String::from_utf8_lossy(&found.path()), folder.number);
    let inode = folder.filesystem.create(&name, permissions(mode)).map_err(|_| Errno::EOPNOTSUPP)?;
    install(inode.open(name.into_bytes(), flags & !(O_CREAT | O_EXCL | O_TMPFILE | O_CLOEXEC))?, flags)
}

/// `mkdirat`.
pub(super) fn make_folder(at: u64, path: u64, mode: u32) -> Result<u64> {
    let found = lookup(at, path, false)?;
    let name = found.free_name()?;
    let parent = &found.parent.inode;
    parent.filesystem.may_change()?;
    parent.check(2 | 1)?;
    parent.filesystem.may_grow()?;
    parent.folder()?.insert(parent, name, &Folder::create(&parent.filesystem, permissions(mode)))?;
    Ok(0)
}

/// `mknodat`: files and pipes.
pub(super) fn make_node(at: u64, path: u64, mode: u32) -> Result<u64> {
    let found = lookup(at, path, false)?;
    let name = found.free_name()?;
    let parent = &found.parent.inode;
    parent.filesystem.may_change()?;
    parent.check(2 | 1)?;
    match mode & S_IFMT {
        0 | S_IFREG => drop(create(&found, mode)?),
        S_IFIFO => {
            let pipe = Inode::new(&parent.filesystem, Kind::Pipe(Pipe::new()), permissions(mode));
            parent.folder()?.insert(parent, name, &pipe)?;
        }
        _ => return Err(Errno::EPERM),
    }
    Ok(0)
}

/// An inode has lost the name by which it was found.
fn lost(inode: &Inode, found: &Found) {
    if let Some(identity) = inode.kind.identity() {
        identity.remove(&String::from_utf8_lossy(&found.path()));
    }
}

/// `unlinkat`, and `rmdir`.
pub(super) fn remove(at: u64, path: u64, flags: u32) -> Result<u64> {
    let found = lookup(at, path, false)?;
    let inode = found.existing()?;
    if found.name.is_empty() {
        return Err(Errno::EBUSY);
    }
    match (&inode.kind, flags & AT_REMOVEDIR != 0) {
        (Kind::Folder(folder), true) => {
            if mounts::is_root(&inode) {
                return Err(Errno::EBUSY);
            }
            if !folder.is_empty() {
                return Err(Errno::ENOTEMPTY);
            }
        }
        (Kind::Folder(_), false) => return Err(Errno::EISDIR),
        (_, true) => return Err(Errno::ENOTDIR),
        (_, false) => {}
    }
    let parent = &found.parent.inode;
    parent.filesystem.may_change()?;
    parent.check(2 | 1)?;
    let removed = parent.folder()?.remove(&found.name)?;
    lost(&removed, &found);
    drop(removed);
    parent.touch();
    Ok(0)
}

/// `renameat2`.
pub(super) fn rename(from_at: u64, from: u64, to_at: u64, to: u64, flags: u32) -> Result<u64> {
    if flags & !RENAME_NOREPLACE != 0 {
        return Err(Errno::EINVAL);
    }
    let (source, target) = (lookup(from_at, from, false)?, lookup(to_at, to, false)?);
    let inode = source.existing()?;
    if source.name.is_empty() || target.name.is_empty() || mounts::is_root(&inode) {
        return Err(Errno::EBUSY);
    }
    let (old, new) = (&source.parent.inode, &target.parent.inode);
    if !Arc::ptr_eq(&old.filesystem, &new.filesystem) {
        return Err(Errno::EXDEV);
    }
    old.filesystem.may_change()?;
    // A folder does not go into itself.
    let mut above = new.clone();
    loop {
        if Arc::ptr_eq(&above, &inode) {
            return Err(Errno::EINVAL);
        }
        let parent = above.folder()?.parent(&above);
        if Arc::ptr_eq(&parent, &above) {
            break;
        }
        above = parent;
    }
    if let Some(there) = &target.inode {
        if Arc::ptr_eq(there, &inode) {
            return Ok(0);
        }
        if flags & RENAME_NOREPLACE != 0 {
            return Err(Errno::EEXIST);
        }
        match (&inode.kind, &there.kind) {
            (Kind::Folder(_), Kind::Folder(folder)) if !folder.is_empty() => return Err(Errno::ENOTEMPTY),
            (Kind::Folder(_), Kind::Folder(_)) => {}
            (Kind::Folder(_), _) => return Err(Errno::ENOTDIR),
            (_, Kind::Folder(_)) => return Err(Errno::EISDIR),
            _ => {}
        }
        let removed = new.folder()?.remove(&target.name)?;
        lost(&removed, &target);
    }
    let moved = old.folder()?.remove(&source.name)?;
    new.folder()?.insert(new, &target.name, &moved)?;
    let (from, to) = (source.path(), target.path());
    mounts::moved(&moved, &String::from_utf8_lossy(&from), &String::from_utf8_lossy(&to));
    Ok(0)
}

/// `linkat`.
pub(super) fn link(from_at: u64, from: u64, to_at: u64, to: u64, flags: u32) -> Result<u64> {
    let inode = if flags & AT_EMPTY_PATH != 0 && path_at(from)?.is_empty() {
        opened(from_at)?.inode.clone()
    } else {
        lookup(from_at, from, flags & AT_SYMLINK_FOLLOW != 0)?.existing()?
    };
    if matches!(inode.kind, Kind::Folder(_)) {
        return Err(Errno::EPERM);
    }
    let target = lookup(to_at, to, false)?;
    let parent = &target.parent.inode;
    if !Arc::ptr_eq(&inode.filesystem, &parent.filesystem) {
        return Err(Errno::EXDEV);
    }
    parent.folder()?.insert(parent, target.free_name()?, &inode)?;
    Ok(0)
}

/// `symlinkat`.
pub(super) fn link_to_path(path: u64, at: u64, to: u64) -> Result<u64> {
    let path = path_at(path)?;
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let target = lookup(at, to, false)?;
    let parent = &target.parent.inode;
    parent.filesystem.may_change()?;
    parent.check(2 | 1)?;
    parent.filesystem.may_grow()?;
    let link = Inode::new(&parent.filesystem, Kind::Link(Arc::new(PathLink(path))), 0o777);
    parent.folder()?.insert(parent, target.free_name()?, &link)?;
    Ok(0)
}

/// `readlinkat`.
pub(super) fn read_link(at: u64, path: u64, address: u64, size: u64) -> Result<u64> {
    if size as i64 <= 0 {
        return Err(Errno::EINVAL);
    }
    let inode = lookup(at, path, false)?.existing()?;
    let Kind::Link(link) = &inode.kind else { return Err(Errno::EINVAL) };
    let target = link.target()?;
    let count = target.len().min(size as usize);
    user::write(address, &target[..count])?;
    Ok(count as u64)
}

/// `chdir`.
pub(super) fn change_place(path: u64) -> Result<u64> {
    let place = lookup(AT_FDCWD as u64, path, true)?.place()?;
    current().process().set_place(place);
    Ok(0)
}

/// `fchdir`.
pub(super) fn change_place_to(descriptor: u64) -> Result<u64> {
    let opened = opened(descriptor)?;
    opened.inode.folder()?;
    let mut path = opened.path.clone();
    if path == b"/" {
        path.clear();
    }
    current().process().set_place(Place { inode: opened.inode.clone(), path });
    Ok(0)
}

/// `getcwd`.
pub(super) fn place(address: u64, size: u64) -> Result<u64> {
    let mut path = current().process().place().whole();
    path.push(0);
    if path.len() as u64 > size {
        return Err(Errno::ERANGE);
    }
    user::write(address, &path)?;
    Ok(path.len() as u64)
}

/// `mount`, of a new file system.
pub(super) fn mount(source: u64, path: u64, name: u64, options: u64) -> Result<u64> {
    credentials::must_be_root()?;
    let at = lookup(AT_FDCWD as u64, path, true)?;
    let name = user::string(name, 64)?;
    let options = if options == 0 { String::new() } else { user::string(options, 4096)? };
    let source = if source == 0 { String::from("none") } else { user::string(source, 4096)? };
    mounts::mount(&at, &source, &name, &options)?;
    Ok(0)
}

/// `umount2`.
pub(super) fn unmount(path: u64, flags: u32) -> Result<u64> {
    if flags & !(MNT_FORCE | MNT_DETACH | MNT_EXPIRE | UMOUNT_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    credentials::must_be_root()?;
    let at = lookup(AT_FDCWD as u64, path, flags & UMOUNT_NOFOLLOW == 0)?;
    mounts::unmount(&at, flags & MNT_DETACH != 0)?;
    Ok(0)
}
