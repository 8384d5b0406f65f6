//! System calls about files: what they convert and call.

mod descriptors;
mod io;
pub mod mounting;
mod names;
mod poll;
mod segments;
mod size;
mod sockets;
mod status;

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::arch::numbers::*;

use crate::errno::{Errno, Result};
use crate::fs::file::File;
use crate::fs::inode::Kind;
use crate::fs::path::{self, Found};
use crate::fs::{Opened, Place};
use crate::memory::user;
use crate::task::current;

/// The open file behind a descriptor of the running process.
pub fn opened(descriptor: u64) -> Result<Arc<Opened>> {
    current().process().files().get(descriptor as i32)
}

/// A path of the program's.
pub fn path_at(address: u64) -> Result<Vec<u8>> {
    Ok(user::string(address, path::LONGEST)?.into_bytes())
}

/// Where a relative path begins: at a folder's descriptor, or in the working directory.
fn start(folder: u64) -> Result<Place> {
    let folder = folder as i32;
    if folder == AT_FDCWD {
        return Ok(current().process().place());
    }
    let opened = current().process().files().get(folder)?;
    let mut path = opened.path.clone();
    if path == b"/" {
        path.clear();
    }
    Ok(Place { inode: opened.inode.clone(), path })
}

/// Looks a path of the program's up.
fn lookup(folder: u64, address: u64, follow: bool) -> Result<Found> {
    let path = path_at(address)?;
    let start = if path.first() == Some(&b'/') { Place::root() } else { start(folder)? };
    path::lookup(&start, &path, follow)
}

/// What a system call does that is about files. `None` if it is about something else.
pub fn call(number: u32, arguments: &[u64; 6]) -> Option<Result<u64>> {
    let [a, b, c, d, e, f] = *arguments;
    let here = AT_FDCWD as u64;
    Some(match number {
        __NR_read => io::read(a, b, c),
        __NR_write => io::write(a, b, c),
        __NR_pread64 => io::pread(a, b, c, d),
        __NR_pwrite64 => io::pwrite(a, b, c, d),
        __NR_readv => io::vectors(a, b, c, io::read),
        __NR_writev => io::vectors(a, b, c, io::write),
        __NR_vmsplice => io::vmsplice(a, b, c, d as u32),
        __NR_preadv => io::vectors_at(a, b, c, d, io::pread),
        __NR_pwritev => io::vectors_at(a, b, c, d, io::pwrite),
        __NR_lseek => io::seek(a, b as i64, c as u32),
        __NR_sendfile => io::sendfile(a, b, c, d),
        __NR_ioctl => io::ioctl(a, b as u32, c),
        __NR_getdents64 => io::list(a, b, c),

        __NR_close => descriptors::close(a),
        __NR_close_range => descriptors::close_range(a as u32, b as u32, c as u32),
        __NR_dup => descriptors::duplicate(a),
        __NR_dup2 => descriptors::duplicate_to(a, b, None),
        __NR_dup3 => descriptors::duplicate_to(a, b, Some(c as u32)),
        __NR_fcntl => descriptors::control(a, b as u32, c),
        __NR_pipe => descriptors::pipe(a, 0),
        __NR_pipe2 => descriptors::pipe(a, b as u32),
        __NR_socketpair => sockets::pair(a as u32, b as u32, d),
        __NR_socket => sockets::make(a as u32, b as u32),
        __NR_bind | __NR_listen => sockets::name(a),
        // Nobody listens under any name.
        __NR_connect => opened(a).and(Err(Errno::ENOENT)),
        __NR_sendto => sockets::send(a, b, c, d as u32),
        __NR_recvfrom => sockets::receive(a, b, c),
        __NR_fsopen => mounting::open(a, b as u32),
        __NR_fsconfig => mounting::configure(a, b as u32, c, d),
        __NR_fsmount => mounting::mount(a, b as u32),
        __NR_memfd_create => descriptors::memory_file(a, b as u32),

        __NR_open => names::open(here, a, b as u32, c as u32),
        __NR_creat => names::open(here, a, O_CREAT | O_WRONLY | O_TRUNC, b as u32),
        __NR_openat => names::open(a, b, c as u32, d as u32),
        __NR_mkdir => names::make_folder(here, a, b as u32),
        __NR_mkdirat => names::make_folder(a, b, c as u32),
        __NR_mknod => names::make_node(here, a, b as u32),
        __NR_mknodat => names::make_node(a, b, c as u32),
        __NR_unlink => names::remove(here, a, 0),
        __NR_rmdir => names::remove(here, a, AT_REMOVEDIR),
        __NR_unlinkat => names::remove(a, b, c as u32),
        __NR_rename => names::rename(here, a, here, b, 0),
        __NR_renameat => names::rename(a, b, c, d, 0),
        __NR_renameat2 => names::rename(a, b, c, d, e as u32),
        __NR_link => names::link(here, a, here, b, 0),
        __NR_linkat => names::link(a, b, c, d, e as u32),
        __NR_symlink => names::link_to_path(a, here, b),
        __NR_symlinkat => names::link_to_path(a, b, c),
        __NR_readlink => names::read_link(here, a, b, c),
        __NR_readlinkat => names::read_link(a, b, c, d),
        __NR_chdir => names::change_place(a),
        __NR_fchdir => names::change_place_to(a),
        __NR_getcwd => names::place(a, b),
        __NR_mount => names::mount(a, b, c, e),
        __NR_umount2 => names::unmount(a, b as u32),

        __NR_stat => status::at(here, a, b, 0),
        __NR_lstat => status::at(here, a, b, AT_SYMLINK_NOFOLLOW),
        __NR_fstat => status::of(a, b),
        __NR_newfstatat => status::at(a, b, c, d as u32),
        __NR_statx => status::extended(a, b, c as u32, e),
        __NR_statfs => status::filesystem_at(a, b),
        __NR_fstatfs => status::filesystem_of(a, b),
        __NR_access => status::access(here, a, b as u32),
        __NR_faccessat | __NR_faccessat2 => status::access(a, b, c as u32),
        __NR_chmod => status::change_mode(here, a, b as u32),
        __NR_fchmodat => status::change_mode(a, b, c as u32),
        __NR_fchmod => status::change_mode_of(a, b as u32),
        __NR_chown | __NR_lchown => status::change_owner(here, a, b as u32, c as u32),
        __NR_fchownat => status::change_owner(a, b, c as u32, d as u32),
        __NR_fchown => status::change_owner_of(a, b as u32, c as u32),
        __NR_utimensat => status::change_times(a, b),
        __NR_umask => status::change_umask(a as u32),

        __NR_truncate => size::truncate(a, b as i64),
        __NR_ftruncate => size::truncate_open(a, b as i64),
        __NR_fallocate => size::allocate(a, b as u32, c as i64, d as i64),
        __NR_fsync | __NR_fdatasync | __NR_flock | __NR_sync_file_range | __NR_syncfs => {
            // There is no disk, and one program at a time has files to lock.
            opened(a).map(|_| 0)
        }
        __NR_sync => Ok(0),
        // Files have no attributes beside those of `stat`.
        __NR_getxattr | __NR_lgetxattr | __NR_setxattr | __NR_lsetxattr | __NR_removexattr
        | __NR_lremovexattr => {
            lookup(here, a, true).and_then(|found| found.existing()).and(Err(Errno::EOPNOTSUPP))
        }
        __NR_fgetxattr | __NR_fsetxattr | __NR_fremovexattr => opened(a).and(Err(Errno::EOPNOTSUPP)),
        __NR_fadvise64 => size::advise(a, c as i64, d as u32),
        __NR_cachestat => size::cached(a, b, c, d as u32),
        // Nothing is read ahead: what is there is in memory.
        __NR_readahead => opened(a).map(|_| 0),

        __NR_poll => poll::poll(a, b, poll::milliseconds(c as i32)),
        __NR_ppoll => poll::ppoll(a, b, c, d),
        __NR_select => poll::select(a, [b, c, d], poll::Limit::Microseconds(e), 0),
        __NR_pselect6 => poll::select(a, [b, c, d], poll::Limit::Nanoseconds(e), f),

        __NR_shmget => segments::get(a as i32, b, c as u32),
        __NR_shmat => segments::attach(a as u32, b, c as u32),
        __NR_shmdt => segments::detach(a),
        __NR_shmctl => segments::control(a as u32, b as u32, c),
        _ => return None,
    })
}

/// The contents of a program's file, for `execve`.
///
/// # Errors
///
/// `ENOENT` and what else looking it up comes to; `EACCES` if it is no file or has no right to execute; `ENOMEM`.
pub fn program(path: &[u8]) -> Result<Vec<u8>> {
    // The first program is loaded before there is a process to run it.
    let place = current().process.as_ref().map_or_else(Place::root, |process| process.place());
    let inode = path::lookup(&place, path, true)?.existing()?;
    let Kind::Base(file) = &inode.kind else { return Err(Errno::EACCES) };
    if inode.meta.lock().permissions & 0o111 == 0 {
        return Err(Errno::EACCES);
    }
    let size = file.size() as usize;
    let mut image = Vec::new();
    image.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    image.resize(size, 0);
    file.read(0, &mut image, 0)?;
    Ok(image)
}
