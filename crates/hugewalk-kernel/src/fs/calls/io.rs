//! Reading, writing and what else is done with an open file.

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general::{O_APPEND, SEEK_CUR, SEEK_DATA, SEEK_END, SEEK_HOLE, SEEK_SET, SIGPIPE};

use super::opened;
use crate::errno::{Errno, Result};
use crate::fs::Opened;
use crate::fs::inode::Kind;
use crate::memory::user;
use crate::process::signal;
use crate::task::current;

/// Bytes that are copied through the kernel in one go.
const PIECE: usize = 64 << 10;
/// Bytes of one call at most.
const MOST: u64 = 0x7fff_f000;
/// Pieces of `readv` and `writev` at most.
const VECTORS: u64 = 1024;

/// A buffer of the kernel's for this many bytes of the program's.
fn buffer(left: u64) -> Result<Vec<u8>> {
    let size = left.min(PIECE as u64) as usize;
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    buffer.resize(size, 0);
    Ok(buffer)
}

fn read_from(opened: &Opened, mut offset: u64, address: u64, count: u64) -> Result<u64> {
    let count = count.min(MOST);
    let mut bytes = buffer(count)?;
    let mut done = 0;
    loop {
        let wanted = (count - done).min(bytes.len() as u64) as usize;
        let got = match opened.file.read(offset, &mut bytes[..wanted], opened.flags()) {
            Ok(got) => got,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        };
        let copied = match user::write_some(address + done, &bytes[..got]) {
            Ok(copied) => copied,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        };
        done += copied as u64;
        offset += copied as u64;
        if copied < wanted || done == count || opened.file.reads_once() || current().is_killed() {
            break;
        }
    }
    Ok(done)
}

/// `send`: a `write` that can do without the signal.
pub(super) fn send(descriptor: u64, address: u64, count: u64, signals: bool) -> Result<u64> {
    let opened = opened(descriptor)?;
    if !opened.file.is_stream() {
        return Err(Errno::EINVAL);
    }
    write_out(&opened, 0, address, count, signals)
}

fn write_to(opened: &Opened, offset: u64, address: u64, count: u64) -> Result<u64> {
    write_out(opened, offset, address, count, true)
}

fn write_out(opened: &Opened, mut offset: u64, address: u64, count: u64, signals: bool) -> Result<u64> {
    let count = count.min(MOST);
    let mut bytes = buffer(count)?;
    let mut done = 0;
    loop {
        let wanted = (count - done).min(bytes.len() as u64) as usize;
        let read = match user::read_some(address + done, &mut bytes[..wanted]) {
            Ok(read) => read,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        };
        let put = match opened.file.write(offset, &bytes[..read], opened.flags()) {
            Ok(put) => put,
            Err(error) if done == 0 => {
                if error == Errno::EPIPE && signals {
                    signal::send_to_process(current().process(), signal::Info::kernel(SIGPIPE));
                }
                return Err(error);
            }
            Err(_) => break,
        };
        done += put as u64;
        offset += put as u64;
        if put < wanted || done == count || current().is_killed() {
            break;
        }
    }
    if done > 0 {
        opened.inode.touch();
    }
    Ok(done)
}

/// `read`.
pub(super) fn read(descriptor: u64, address: u64, count: u64) -> Result<u64> {
    let opened = opened(descriptor)?;
    opened.readable()?;
    if opened.file.is_stream() {
        return read_from(&opened, 0, address, count);
    }
    let mut offset = opened.offset.lock();
    let got = read_from(&opened, *offset, address, count)?;
    *offset += got;
    Ok(got)
}

/// `write`.
pub(super) fn write(descriptor: u64, address: u64, count: u64) -> Result<u64> {
    let opened = opened(descriptor)?;
    opened.writable()?;
    if opened.file.is_stream() {
        return write_to(&opened, 0, address, count);
    }
    let mut offset = opened.offset.lock();
    if opened.flags() & O_APPEND != 0 {
        *offset = opened.file.size();
    }
    let put = write_to(&opened, *offset, address, count)?;
    *offset += put;
    Ok(put)
}

fn place(opened: &Opened, offset: u64) -> Result<u64> {
    if opened.file.is_stream() {
        return Err(Errno::ESPIPE);
    }
    i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    Ok(offset)
}

/// `pread64`.
pub(super) fn pread(descriptor: u64, address: u64, count: u64, offset: u64) -> Result<u64> {
    let opened = opened(descriptor)?;
    opened.readable()?;
    read_from(&opened, place(&opened, offset)?, address, count)
}

/// `pwrite64`.
pub(super) fn pwrite(descriptor: u64, address: u64, count: u64, offset: u64) -> Result<u64> {
    let opened = opened(descriptor)?;
    opened.writable()?;
    write_to(&opened, place(&opened, offset)?, address, count)
}

/// The pieces of `readv` and its like: addresses and lengths.
fn pieces(address: u64, count: u64) -> Result<Vec<[u64; 2]>> {
    if count > VECTORS {
        return Err(Errno::EINVAL);
    }
    (0..count).map(|index| user::get(address + 16 * index)).collect()
}

/// `readv` and `writev`, piece by piece. Not as one, if others use the same offset.
pub(super) fn vectors(
    descriptor: u64,
    address: u64,
    count: u64,
    one: impl Fn(u64, u64, u64) -> Result<u64>,
) -> Result<u64> {
    opened(descriptor)?;
    let mut done = 0;
    for [start, length] in pieces(address, count)? {
        if length == 0 {
            continue;
        }
        match one(descriptor, start, length) {
            Ok(moved) => {
                done += moved;
                if moved < length {
                    break;
                }
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// `preadv` and `pwritev`.
pub(super) fn vectors_at(
    descriptor: u64,
    address: u64,
    count: u64,
    offset: u64,
    one: impl Fn(u64, u64, u64, u64) -> Result<u64>,
) -> Result<u64> {
    let at = core::cell::Cell::new(offset);
    vectors(descriptor, address, count, |descriptor, start, length| {
        let moved = one(descriptor, start, length, at.get())?;
        at.set(at.get() + moved);
        Ok(moved)
    })
}

/// `lseek`.
pub(super) fn seek(descriptor: u64, by: i64, from: u32) -> Result<u64> {
    let opened = opened(descriptor)?;
    if opened.file.is_stream() {
        return Err(Errno::ESPIPE);
    }
    let mut offset = opened.offset.lock();
    let end = opened.file.size() as i64;
    let to = match from {
        SEEK_SET => Some(by),
        SEEK_CUR => (*offset as i64).checked_add(by),
        SEEK_END => end.checked_add(by),
        // Holes are not told apart from data.
        SEEK_DATA | SEEK_HOLE if by < 0 || by >= end => return Err(Errno::ENXIO),
        SEEK_DATA => Some(by),
        SEEK_HOLE => Some(end),
        _ => return Err(Errno::EINVAL),
    };
    let to = to.ok_or(Errno::EOVERFLOW)?;
    *offset = u64::try_from(to).map_err(|_| Errno::EINVAL)?;
    Ok(*offset)
}

/// `sendfile`.
pub(super) fn sendfile(to: u64, from: u64, offset: u64, count: u64) -> Result<u64> {
    let (to, from): (Arc<Opened>, Arc<Opened>) = (opened(to)?, opened(from)?);
    to.writable()?;
    from.readable()?;
    // hugetlbfs has no `splice_read`.
    if from.file.is_stream() || matches!(from.inode.kind, Kind::Huge(_)) {
        return Err(Errno::EINVAL);
    }
    if to.flags() & O_APPEND != 0 {
        return Err(Errno::EINVAL);
    }
    // The offsets are copied, and stored at the end: both may be of one open file, and a write may wait for long.
    let mut at = if offset == 0 { *from.offset.lock() } else { place(&from, user::get(offset)?)? };
    let mut place = if to.file.is_stream() { 0 } else { *to.offset.lock() };
    let count = count.min(MOST);
    let mut bytes = buffer(count)?;
    let mut done = 0;
    while done < count {
        let wanted = (count - done).min(bytes.len() as u64) as usize;
        let moved = from.file.read(at, &mut bytes[..wanted], from.flags()).and_then(|got| match got {
            0 => Ok(0),
            got => to.file.write(place, &bytes[..got], to.flags()),
        });
        let moved = match moved {
            Ok(moved) => moved as u64,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        };
        done += moved;
        at += moved;
        place += moved;
        if moved == 0 || current().is_killed() {
            break;
        }
    }
    if offset == 0 {
        *from.offset.lock() = at;
    } else {
        user::put(offset, &at)?;
    }
    if !to.file.is_stream() {
        *to.offset.lock() = place;
    }
    Ok(done)
}

const FIONREAD: u32 = 0x541b;
const FIONBIO: u32 = 0x5421;
const FIOCLEX: u32 = 0x5451;
const FIONCLEX: u32 = 0x5450;

/// `ioctl`. What every file knows is done here.
pub(super) fn ioctl(descriptor: u64, request: u32, argument: u64) -> Result<u64> {
    let opened = opened(descriptor)?;
    match request {
        FIOCLEX | FIONCLEX => {
            current().process().files().set_close_on_exec(descriptor as i32, request == FIOCLEX)?;
            Ok(0)
        }
        FIONBIO => {
            let on = user::get::<u32>(argument)? != 0;
            let flag = linux_raw_sys::general::O_NONBLOCK;
            opened.set_flags(if on { opened.flags() | flag } else { opened.flags() & !flag });
            Ok(0)
        }
        FIONREAD if !opened.file.is_stream() => {
            let left = opened.file.size().saturating_sub(*opened.offset.lock());
            user::put(argument, &(left as u32))?;
            Ok(0)
        }
        _ => opened.file.ioctl(request, argument),
    }
}

/// `getdents64`. The offset is the number of names that were read.
pub(super) fn list(descriptor: u64, address: u64, count: u64) -> Result<u64> {
    let opened = opened(descriptor)?;
    let folder = opened.inode.folder()?;
    let parent = folder.parent(&opened.inode);
    let mut all = Vec::from([
        (b".".to_vec(), opened.inode.number, opened.inode.file_type()),
        (b"..".to_vec(), parent.number, parent.file_type()),
    ]);
    all.extend(folder.list().into_iter().map(|entry| (entry.name, entry.number, entry.file_type)));
    let mut offset = opened.offset.lock();
    let mut bytes = Vec::new();
    for (index, (name, number, file_type)) in all.iter().enumerate().skip(*offset as usize) {
        let length = (19 + name.len() + 1).next_multiple_of(8);
        if bytes.len() + length > count as usize {
            if bytes.is_empty() {
                return Err(Errno::EINVAL);
            }
            break;
        }
        let start = bytes.len();
        bytes.extend(number.to_ne_bytes());
        bytes.extend((index as u64 + 1).to_ne_bytes());
        bytes.extend((length as u16).to_ne_bytes());
        bytes.push((file_type >> 12) as u8);
        bytes.extend_from_slice(name);
        bytes.resize(start + length, 0);
        *offset = index as u64 + 1;
    }
    user::write(address, &bytes)?;
    Ok(bytes.len() as u64)
}

/// `vmsplice` into a pipe: as much as the pipe has room for when it is empty. The bytes are copied at once; Linux puts the pages in,
/// and what is stored in them before they are read shows. Out of a pipe it is a `read`.
pub(super) fn vmsplice(descriptor: u64, vectors: u64, count: u64, flags: u32) -> Result<u64> {
    // Move, do not wait, more follows, a gift.
    if flags & !0xf != 0 {
        return Err(Errno::EINVAL);
    }
    let opened = opened(descriptor)?;
    if !matches!(opened.inode.kind, Kind::Pipe(_)) {
        return Err(Errno::EBADF);
    }
    if count == 0 {
        return Ok(0);
    }
    let [address, length]: [u64; 2] = user::get(vectors)?;
    if opened.writable().is_err() {
        return read(descriptor, address, length);
    }
    write(descriptor, address, length.min(PIECE as u64))
}
