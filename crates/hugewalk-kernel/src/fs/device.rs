//! Devices: `/dev`.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::console::Terminal;
use super::file::File;
use super::folder::Folder;
use super::inode::{Inode, Kind, PathLink, Special};
use super::mounts::{Contents, Filesystem};
use crate::errno::{Errno, Result};

/// The devices that are nothing but memory.
#[derive(Clone, Copy)]
enum Memory {
    Null,
    Zero,
    Full,
    Random,
}

impl Special for Memory {
    fn open(&self, _: u32) -> Result<Arc<dyn File>> {
        Ok(Arc::new(*self))
    }
}

impl File for Memory {
    fn read(&self, _: u64, into: &mut [u8], _: u32) -> Result<usize> {
        match self {
            Self::Null => return Ok(0),
            Self::Zero | Self::Full => into.fill(0),
            Self::Random => crate::random::fill(into),
        }
        Ok(into.len())
    }

    fn write(&self, _: u64, from: &[u8], _: u32) -> Result<usize> {
        if matches!(self, Self::Full) { Err(Errno::ENOSPC) } else { Ok(from.len()) }
    }

    fn maps_zeroes(&self) -> bool {
        matches!(self, Self::Zero)
    }
}

/// `/dev/userfaultfd`: another door to the system call.
struct PageFaults;

const USERFAULTFD_IOC_NEW: u32 = 0xaa00;

impl Special for PageFaults {
    fn open(&self, _: u32) -> Result<Arc<dyn File>> {
        Ok(Arc::new(Self))
    }
}

impl File for PageFaults {
    fn ioctl(&self, request: u32, argument: u64) -> Result<u64> {
        if request == USERFAULTFD_IOC_NEW { crate::uffd::create(argument as u32) } else { Err(Errno::EINVAL) }
    }
}

/// A new `/dev`.
///
/// # Errors
///
/// `ENOMEM`.
pub fn root() -> Result<Arc<Inode>> {
    // Folders can be made in it, to mount on, and files of base pages.
    let filesystem = Filesystem::new("devtmpfs", 0x0102_1994, Contents::Base);
    let root = Folder::create(&filesystem, 0o755);
    let folder = root.folder()?;
    let devices: [(&[u8], u32, u32, Arc<dyn Special>); 8] = [
        (b"null", 1, 3, Arc::new(Memory::Null)),
        (b"zero", 1, 5, Arc::new(Memory::Zero)),
        (b"full", 1, 7, Arc::new(Memory::Full)),
        (b"random", 1, 8, Arc::new(Memory::Random)),
        (b"urandom", 1, 9, Arc::new(Memory::Random)),
        (b"tty", 5, 0, Arc::new(Terminal)),
        (b"console", 5, 1, Arc::new(Terminal)),
        (b"userfaultfd", 10, 126, Arc::new(PageFaults)),
    ];
    for (name, major, minor, device) in devices {
        folder.insert(&root, name, &Inode::new(&filesystem, Kind::Device(major, minor, device), 0o666))?;
    }
    let links: [(&[u8], &[u8]); 4] = [
        (b"fd", b"/proc/self/fd"),
        (b"stdin", b"/proc/self/fd/0"),
        (b"stdout", b"/proc/self/fd/1"),
        (b"stderr", b"/proc/self/fd/2"),
    ];
    for (name, target) in links {
        let link: Vec<u8> = target.to_vec();
        folder.insert(&root, name, &Inode::new(&filesystem, Kind::Link(Arc::new(PathLink(link))), 0o777))?;
    }
    for name in [b"shm".as_slice(), b"hugepages"] {
        folder.insert(&root, name, &Folder::create(&filesystem, 0o755))?;
    }
    Ok(root)
}
