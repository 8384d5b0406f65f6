//! Inodes: what has a type, permissions and times, and perhaps names in folders.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::general::{O_DIRECT, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, stat};
use spin::Mutex;

use super::base_file::BaseFile;
use super::file::{File, Opened};
use super::folder::{Folder, FolderFile};
use super::huge_file::HugeNode;
use super::identity::Identity;
use super::mounts::Filesystem;
use super::pipe::Pipe;
use crate::cpu::clock;
use crate::errno::{Errno, Result};
use crate::memory::PAGE;
use crate::process::credentials;
use crate::task::current;

/// What an inode is.
pub enum Kind {
    /// A folder.
    Folder(Folder),
    /// A file of base pages.
    Base(Arc<BaseFile>),
    /// A file of huge pages.
    Huge(HugeNode),
    /// A symbolic link.
    Link(Arc<dyn Link>),
    /// A pipe.
    Pipe(Arc<Pipe>),
    /// A device, with its numbers.
    Device(u32, u32, Arc<dyn Special>),
    /// A file whose contents are made when it is read.
    Special(Arc<dyn Special>),
    /// Something that is behind a descriptor only and implements [`File`] itself.
    Nameless,
}

impl Kind {
    /// What /proc says of it, if it can be mapped.
    pub fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Base(file) => Some(&file.identity),
            Self::Huge(node) => Some(&node.identity),
            _ => None,
        }
    }
}

/// A symbolic link.
pub trait Link: Send + Sync {
    /// The path that it holds.
    ///
    /// # Errors
    ///
    /// `ENOENT` if what it leads to is gone.
    fn target(&self) -> Result<Vec<u8>>;

    /// What it leads to, where the path does not tell: `/proc/self/fd/3` of a file that has no name.
    fn jump(&self) -> Option<Arc<Inode>> {
        None
    }
}

/// A link that holds a path.
pub struct PathLink(pub Vec<u8>);

impl Link for PathLink {
    fn target(&self) -> Result<Vec<u8>> {
        Ok(self.0.clone())
    }
}

/// A file that is made anew whenever it is opened.
pub trait Special: Send + Sync {
    /// Opens it, with the flags of `open`.
    ///
    /// # Errors
    ///
    /// The number for the program.
    fn open(&self, flags: u32) -> Result<Arc<dyn File>>;
}

/// What can be changed by `chmod` and the like. Times are nanoseconds since 1970.
#[derive(Clone, Copy)]
pub struct Meta {
    /// The lowest twelve bits of the mode.
    pub permissions: u32,
    /// The user.
    pub owner: u32,
    /// The group.
    pub group: u32,
    /// Names in folders.
    pub links: u32,
    /// The last read.
    pub accessed: u64,
    /// The last write.
    pub modified: u64,
    /// The last change of this.
    pub changed: u64,
}

/// An inode.
pub struct Inode {
    /// Its number in its file system.
    pub number: u64,
    /// Where it is.
    pub filesystem: Arc<Filesystem>,
    /// What it is.
    pub kind: Kind,
    /// The rest.
    pub meta: Mutex<Meta>,
}

/// Numbers are never used again, in whatever file system.
static NEXT: AtomicU64 = AtomicU64::new(1);

impl Inode {
    /// A new inode without a name.
    pub fn new(filesystem: &Arc<Filesystem>, kind: Kind, permissions: u32) -> Arc<Self> {
        let now = clock::wall();
        let own = current().process.as_ref().map(|process| process.credentials.lock().clone());
        let (owner, group) = own.map_or((0, 0), |own| (own.user.effective, own.group.effective));
        let meta = Meta { permissions, owner, group, links: 0, accessed: now, modified: now, changed: now };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        filesystem.inodes.fetch_add(1, Ordering::Relaxed);
        if let Some(identity) = kind.identity() {
            identity.set_place(filesystem.device, number);
        }
        Arc::new(Self { number, filesystem: filesystem.clone(), kind, meta: Mutex::new(meta) })
    }

    /// An inode outside all file systems: of a pipe, a userfaultfd, memory.
    pub fn anonymous(kind: Kind) -> Arc<Self> {
        Self::new(&Filesystem::nowhere(), kind, 0o600)
    }

    /// Has the running process these rights to it: read 4, write 2, execute 1?
    ///
    /// # Errors
    ///
    /// `EACCES`.
    pub fn check(&self, wanted: u32) -> Result<()> {
        let meta = *self.meta.lock();
        let lacks = credentials::own().lacks(&[meta.owner], &[meta.group], meta.permissions, wanted);
        if lacks { Err(Errno::EACCES) } else { Ok(()) }
    }

    /// The folder that it is.
    ///
    /// # Errors
    ///
    /// `ENOTDIR`.
    pub fn folder(&self) -> Result<&Folder> {
        match &self.kind {
            Kind::Folder(folder) => Ok(folder),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// The type, as in `st_mode`.
    pub fn file_type(&self) -> u32 {
        match &self.kind {
            Kind::Folder(_) => S_IFDIR,
            Kind::Base(_) | Kind::Huge(_) | Kind::Special(_) => S_IFREG,
            Kind::Link(_) => S_IFLNK,
            Kind::Pipe(_) => S_IFIFO,
            Kind::Device(7, ..) => S_IFBLK,
            Kind::Device(..) => S_IFCHR,
            Kind::Nameless => 0,
        }
    }

    /// Opens it, with the flags of `open`; `path` is what it is known by from then on.
    ///
    /// # Errors
    ///
    /// The number for the program; `ELOOP` for a link, `ENXIO` for what cannot be opened by a name.
    pub fn open(self: &Arc<Self>, path: Vec<u8>, flags: u32) -> Result<Arc<Opened>> {
        let file: Arc<dyn File> = match &self.kind {
            Kind::Folder(_) => Arc::new(FolderFile),
            Kind::Base(file) => file.clone(),
            Kind::Huge(node) => {
                self.may_be_direct(flags)?;
                node.clone_as_file()
            }
            Kind::Link(_) => return Err(Errno::ELOOP),
            Kind::Pipe(pipe) => Pipe::open(pipe, flags)?,
            Kind::Device(_, _, special) | Kind::Special(special) => special.open(flags)?,
            Kind::Nameless => return Err(Errno::ENXIO),
        };
        Ok(Opened::new(file, self.clone(), path, flags))
    }

    /// Can it be open with these flags? hugetlbfs has no direct input and output.
    ///
    /// # Errors
    ///
    /// `EINVAL`.
    pub fn may_be_direct(&self, flags: u32) -> Result<()> {
        let direct = flags & O_DIRECT != 0 && matches!(self.kind, Kind::Huge(_));
        if direct { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        match &self.kind {
            Kind::Base(file) => file.size(),
            Kind::Huge(node) => node.file.size(),
            Kind::Link(link) => link.target().map_or(0, |target| target.len() as u64),
            _ => 0,
        }
    }

    /// Notes that its contents were changed now.
    pub fn touch(&self) {
        let now = clock::wall();
        let mut meta = self.meta.lock();
        meta.modified = now;
        meta.changed = now;
    }

    /// What `stat` says.
    pub fn stat(&self) -> stat {
        let meta = *self.meta.lock();
        let (block, blocks) = match &self.kind {
            Kind::Base(file) => (PAGE, file.resident() * (PAGE / 512)),
            Kind::Huge(node) => {
                let page = node.file.size_class().bytes();
                (page, node.file.pages() * (page / 512))
            }
            _ => (PAGE, 0),
        };
        let device = match &self.kind {
            Kind::Device(major, minor, _) => u64::from(major << 8 | minor),
            _ => 0,
        };
        let (seconds, rest) = (|time| time / 1_000_000_000, |time| time % 1_000_000_000);
        // SAFETY: a structure of integers, which zeroes are good for.
        let mut stat: stat = unsafe { core::mem::zeroed() };
        stat.st_dev = u64::from(self.filesystem.device);
        stat.st_ino = self.number;
        // The widths of some fields differ by architecture.
        // A folder is also `.` in itself and `..` in those in it.
        let links = match &self.kind {
            Kind::Folder(folder) => {
                let inner =
                    folder.kept().iter().filter(|inner| matches!(inner.kind, Kind::Folder(_))).count();
                2 + inner as u32
            }
            _ => meta.links,
        };
        stat.st_nlink = links as _;
        stat.st_mode = self.file_type() | meta.permissions;
        stat.st_uid = meta.owner;
        stat.st_gid = meta.group;
        stat.st_rdev = device;
        stat.st_size = self.size() as _;
        stat.st_blksize = block as _;
        stat.st_blocks = blocks as _;
        (stat.st_atime, stat.st_atime_nsec) = (seconds(meta.accessed) as _, rest(meta.accessed) as _);
        (stat.st_mtime, stat.st_mtime_nsec) = (seconds(meta.modified) as _, rest(meta.modified) as _);
        (stat.st_ctime, stat.st_ctime_nsec) = (seconds(meta.changed) as _, rest(meta.changed) as _);
        stat
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        self.filesystem.inodes.fetch_sub(1, Ordering::Relaxed);
    }
}
