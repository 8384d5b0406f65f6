//! Open files: what reads, writes, polls and maps go to.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use bitflags::bitflags;
use linux_raw_sys::general::{O_ACCMODE, O_APPEND, O_NONBLOCK, O_PATH, O_RDONLY, O_WRONLY};

use super::base_file::BaseFile;
use super::inode::{Inode, Kind};
use crate::errno::{Errno, Result};
use crate::platform::Kernel;
use crate::task::lock::SleepMutex;
use crate::task::wait::WaitQueue;

bitflags! {
    /// What can be done without waiting, as `poll` numbers it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Events: u16 {
        /// There is something to read.
        const IN = 1;
        /// There is room to write.
        const OUT = 4;
        /// Something failed. Told whether or not it was asked for, as are the next two.
        const ERR = 8;
        /// The other end is closed.
        const HUP = 16;
        /// There is no such descriptor.
        const NVAL = 32;
        /// As `IN`.
        const RDNORM = 64;
        /// As `OUT`.
        const WRNORM = 256;
    }
}

/// What a mapping of a file takes its pages from.
#[derive(Clone)]
pub enum Backing {
    /// Huge pages, which the engine maps.
    Huge(hugewalk::Arc<hugewalk::file::HugeFile<Kernel>>),
    /// Base pages, which the kernel maps.
    Base(Arc<BaseFile>),
    /// Fresh zeroes: `/dev/zero`.
    Zeroes,
}

/// Something behind a descriptor. What a file cannot do it leaves as it is here.
///
/// Methods run in the thread that made the system call, may sleep, and hold no lock of the caller's but the offset's.
pub trait File: Send + Sync {
    /// Reads from a byte offset on, into memory of the kernel's. `flags` are those the file is open with.
    ///
    /// # Errors
    ///
    /// The number for the program; `EINVAL` if the file cannot be read.
    fn read(&self, offset: u64, into: &mut [u8], flags: u32) -> Result<usize> {
        let _ = (offset, into, flags);
        Err(Errno::EINVAL)
    }

    /// Writes from a byte offset on.
    ///
    /// # Errors
    ///
    /// The number for the program; `EINVAL` if the file cannot be written.
    fn write(&self, offset: u64, from: &[u8], flags: u32) -> Result<usize> {
        let _ = (offset, from, flags);
        Err(Errno::EINVAL)
    }

    /// Is it without offsets? Then `lseek` and `pread` fail with `ESPIPE`.
    fn is_stream(&self) -> bool {
        false
    }

    /// Do its reads return what is there rather than fill the buffer? Then one call of the program is one call of `read`.
    fn reads_once(&self) -> bool {
        self.is_stream()
    }

    /// What can be done without waiting.
    fn events(&self) -> Events {
        Events::IN | Events::OUT | Events::RDNORM | Events::WRNORM
    }

    /// Where a thread waits for [`events`](Self::events) to change. None if they never do.
    fn queue(&self) -> Option<&WaitQueue> {
        None
    }

    /// `ioctl`, with the program's argument.
    ///
    /// # Errors
    ///
    /// `ENOTTY` for a request that the file does not know.
    fn ioctl(&self, request: u32, argument: u64) -> Result<u64> {
        let _ = (request, argument);
        Err(Errno::ENOTTY)
    }

    /// Does a mapping of it consist of fresh zeroes?
    fn maps_zeroes(&self) -> bool {
        false
    }

    /// The file system that is being made, if it is one.
    fn as_mount(&self) -> Option<&super::calls::mounting::Context> {
        None
    }

    /// The end from which `lseek(SEEK_END)` counts.
    fn size(&self) -> u64 {
        0
    }
}

/// An open file: a file, an offset, and how it was opened. Duplicated descriptors share it.
pub struct Opened {
    /// What it leads to.
    pub file: Arc<dyn File>,
    /// The inode of that.
    pub inode: Arc<Inode>,
    /// The path it was opened by, for `/proc/self/fd` and for maps.
    pub path: Vec<u8>,
    /// Held in a read or write that starts at the offset and moves it.
    pub offset: SleepMutex<u64>,
    flags: AtomicU32,
}

/// The flags that `fcntl(F_SETFL)` changes.
const CHANGEABLE: u32 = O_APPEND | O_NONBLOCK | linux_raw_sys::general::O_DIRECT;

impl Opened {
    /// A file that was just opened, with the flags of `open`.
    pub fn new(file: Arc<dyn File>, inode: Arc<Inode>, path: Vec<u8>, flags: u32) -> Arc<Self> {
        Arc::new(Self { file, inode, path, offset: SleepMutex::new(0), flags: AtomicU32::new(flags) })
    }

    /// A file without a name in any folder: a userfaultfd, say. `name` is shown in `/proc/self/fd`.
    pub fn anonymous(file: Arc<dyn File>, name: &str, flags: u32) -> Arc<Self> {
        let inode = Inode::anonymous(Kind::Nameless);
        Self::new(file, inode, name.as_bytes().to_vec(), flags)
    }

    /// What a mapping takes its pages from, if the file, its seals and the way it was opened allow the mapping; and whether the
    /// mapping may ever become writable. `writes`: it is to be writable now.
    ///
    /// # Errors
    ///
    /// `EACCES`, `EPERM` for a seal, `ENODEV` if the file cannot be mapped.
    pub fn backing(&self, shared: bool, writes: bool) -> Result<(Backing, bool)> {
        let access = self.flags() & O_ACCMODE;
        if self.flags() & O_PATH != 0 {
            return Err(Errno::EBADF);
        }
        if access == O_WRONLY || shared && writes && access == O_RDONLY {
            return Err(Errno::EACCES);
        }
        let (backing, seals) = match &self.inode.kind {
            Kind::Base(file) => (Backing::Base(file.clone()), &file.seals),
            Kind::Huge(node) => (Backing::Huge(node.file.clone()), &*node.seals),
            _ if self.file.maps_zeroes() => return Ok((Backing::Zeroes, true)),
            _ => return Err(Errno::ENODEV),
        };
        let sealed = seals.may_map_writable().is_err();
        if shared && writes && sealed {
            return Err(Errno::EPERM);
        }
        Ok((backing, !shared || access != O_RDONLY && !sealed))
    }

    /// The flags it is open with.
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Changes the flags that can be changed: `fcntl(F_SETFL)`.
    pub fn set_flags(&self, flags: u32) {
        // Relaxed: a flag guards nothing. Two that set them at once get one of the two results.
        let kept = self.flags() & !CHANGEABLE;
        self.flags.store(kept | flags & CHANGEABLE, Ordering::Relaxed);
    }

    /// May it be read?
    ///
    /// # Errors
    ///
    /// `EBADF`.
    pub fn readable(&self) -> Result<()> {
        let flags = self.flags();
        if flags & O_PATH == 0 && flags & O_ACCMODE != O_WRONLY { Ok(()) } else { Err(Errno::EBADF) }
    }

    /// May it be written?
    ///
    /// # Errors
    ///
    /// `EBADF`.
    pub fn writable(&self) -> Result<()> {
        let flags = self.flags();
        if flags & O_PATH == 0 && flags & O_ACCMODE != O_RDONLY { Ok(()) } else { Err(Errno::EBADF) }
    }
}
