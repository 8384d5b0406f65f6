//! Descriptors: made, duplicated, closed.

use alloc::sync::Arc;

use linux_raw_sys::general::{
    F_ADD_SEALS, F_DUPFD, F_DUPFD_CLOEXEC, F_GET_SEALS, F_GETFD, F_GETFL, F_GETLK, F_GETPIPE_SZ, F_SETFD,
    F_SETFL, F_SETLK, F_SETLKW, F_SETPIPE_SZ, FD_CLOEXEC, O_CLOEXEC, O_DIRECT, O_NONBLOCK,
};

use super::opened;
use crate::errno::{Errno, Result};
use crate::fs::inode::Kind;
use crate::fs::pipe::Pipe;
use crate::fs::{Opened, descriptors, memfd};
use crate::memory::user;
use crate::task::current;

const CLOSE_RANGE_CLOEXEC: u32 = 4;

/// `close`.
pub(super) fn close(descriptor: u64) -> Result<u64> {
    let closed = current().process().files().remove(descriptor as i32)?;
    drop(closed);
    Ok(0)
}

/// `close_range`.
pub(super) fn close_range(first: u32, last: u32, flags: u32) -> Result<u64> {
    if first > last || flags & !CLOSE_RANGE_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let files = current().process().files();
    for descriptor in files.in_use().into_iter().filter(|descriptor| (first..=last).contains(descriptor)) {
        if flags & CLOSE_RANGE_CLOEXEC != 0 {
            files.set_close_on_exec(descriptor as i32, true)?;
        } else {
            drop(files.remove(descriptor as i32)?);
        }
    }
    Ok(0)
}

/// `dup`.
pub(super) fn duplicate(descriptor: u64) -> Result<u64> {
    let opened = opened(descriptor)?;
    Ok(current().process().files().insert(opened, false, 0)?.into())
}

/// `dup2`, and with flags `dup3`.
pub(super) fn duplicate_to(descriptor: u64, to: u64, flags: Option<u32>) -> Result<u64> {
    if descriptor as i32 == to as i32 {
        return match flags {
            Some(_) => Err(Errno::EINVAL),
            None => opened(descriptor).map(|_| to),
        };
    }
    if flags.unwrap_or(0) & !O_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let opened = opened(descriptor)?;
    let close_on_exec = flags.unwrap_or(0) & O_CLOEXEC != 0;
    let old = current().process().files().replace(to as i32, opened, close_on_exec)?;
    drop(old);
    Ok(to)
}

/// `fcntl`.
pub(super) fn control(descriptor: u64, command: u32, argument: u64) -> Result<u64> {
    let opened = opened(descriptor)?;
    let files = current().process().files();
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let least = u32::try_from(argument).map_err(|_| Errno::EINVAL)?;
            Ok(files.insert(opened, command == F_DUPFD_CLOEXEC, least)?.into())
        }
        F_GETFD => Ok(if files.close_on_exec(descriptor as i32)? { FD_CLOEXEC.into() } else { 0 }),
        F_SETFD => {
            files.set_close_on_exec(descriptor as i32, argument & u64::from(FD_CLOEXEC) != 0)?;
            Ok(0)
        }
        // O_LARGEFILE, which every file of a 64-bit program is open with.
        F_GETFL => Ok(u64::from(opened.flags() | 0o100_000)),
        F_SETFL => {
            opened.inode.may_be_direct(argument as u32)?;
            opened.set_flags(argument as u32);
            Ok(0)
        }
        F_GET_SEALS => match &opened.inode.kind {
            Kind::Base(file) => Ok(file.seals.get().into()),
            Kind::Huge(node) => Ok(node.seals.get().into()),
            _ => Err(Errno::EINVAL),
        },
        F_ADD_SEALS => {
            let seals = u32::try_from(argument).map_err(|_| Errno::EINVAL)?;
            opened.writable().map_err(|_| Errno::EPERM)?;
            let executable = opened.inode.meta.lock().permissions & 0o111 != 0;
            match &opened.inode.kind {
                Kind::Base(file) => file.seals.add(seals, executable, || file.writable_mappings())?,
                Kind::Huge(node) => node.seals.add(seals, executable, || node.writable_mappings())?,
                _ => return Err(Errno::EINVAL),
            }
            Ok(0)
        }
        F_GETPIPE_SZ | F_SETPIPE_SZ => match &opened.inode.kind {
            Kind::Pipe(_) => Ok(64 << 10),
            _ => Err(Errno::EBADF),
        },
        // One program at a time: every lock is free.
        F_SETLK | F_SETLKW | F_GETLK => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// `pipe2`.
pub(super) fn pipe(address: u64, flags: u32) -> Result<u64> {
    if flags & !(O_CLOEXEC | O_NONBLOCK | O_DIRECT) != 0 {
        return Err(Errno::EINVAL);
    }
    install_pair(Pipe::pair(flags), flags, address)
}

/// Gives two open files descriptors, and writes their numbers.
pub(super) fn install_pair([one, other]: [Arc<Opened>; 2], flags: u32, address: u64) -> Result<u64> {
    let files = current().process().files();
    let close_on_exec = flags & O_CLOEXEC != 0;
    let first = files.insert(one, close_on_exec, 0)?;
    let undo = |error| {
        let _ = files.remove(first as i32);
        error
    };
    let second = files.insert(other, close_on_exec, 0).map_err(undo)?;
    if let Err(error) = user::put(address, &[first, second]) {
        let _ = files.remove(second as i32);
        return Err(undo(error));
    }
    Ok(0)
}

/// `memfd_create`.
pub(super) fn memory_file(name: u64, flags: u32) -> Result<u64> {
    let name = user::string(name, descriptors::LIMIT as usize).map_err(|error| match error {
        Errno::ENAMETOOLONG => Errno::EINVAL,
        other => other,
    })?;
    let (opened, close_on_exec) = memfd::create(name.as_bytes(), flags)?;
    Ok(current().process().files().insert(opened, close_on_exec, 0)?.into())
}
