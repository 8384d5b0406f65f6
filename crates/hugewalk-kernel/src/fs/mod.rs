//! Files. A beginning: the console, and the archive's programs.

pub mod descriptors;

use alloc::sync::Arc;
use alloc::vec::Vec;

pub use self::descriptors::{Backing, Descriptors, Opened};
use crate::boot::archive::members;
use crate::errno::{Errno, Result};
use crate::memory::user;
use linux_raw_sys::general::__NR_write;

/// A working directory.
#[derive(Clone)]
pub struct Place;

impl Place {
    /// The folder at a path.
    pub fn of(_: &[u8]) -> Result<Self> {
        Ok(Self)
    }
}

static ARCHIVE: spin::Once<&'static [u8]> = spin::Once::new();

/// Unpacks the archive.
pub fn begin(archive: &'static [u8]) -> Result<()> {
    ARCHIVE.call_once(|| archive);
    Ok(())
}

/// Gives everything back.
pub fn end() {}

/// Opens descriptors 0, 1 and 2.
pub fn open_console(_: &Arc<Descriptors>) {}

/// The contents of a program's file.
pub fn program(path: &[u8]) -> Result<Vec<u8>> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let archive = ARCHIVE.get().copied().unwrap_or_default();
    members(archive)
        .find(|member| member.path == path)
        .map(|member| member.contents.to_vec())
        .ok_or(Errno::ENOENT)
}

/// The system calls of this room.
pub fn call(number: u32, a: &[u64; 6]) -> Option<Result<u64>> {
    if number != __NR_write {
        return None;
    }
    Some((|| {
        let mut bytes = alloc::vec![0; a[2] as usize];
        user::read(a[1], &mut bytes)?;
        let port = if a[0] == 2 { &crate::console::ERRORS } else { &crate::console::OUTPUT };
        port.lock().write(&bytes);
        Ok(a[2])
    })())
}
