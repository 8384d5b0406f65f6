//! File systems, and where they are mounted.
//!
//! A mount puts the root of a file system in the place of a folder's entry, and remembers what was there.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::str;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hugewalk::addr::HugeSize;
use hugewalk::reserve::SubPool;
use spin::{Mutex, Once};

use super::base_file::BaseFile;
use super::folder::Folder;
use super::huge_file::HugeNode;
use super::inode::{Inode, Kind};
use super::path::Found;
use super::seals::Seals;
use super::{device, proc, sys};
use crate::arch;
use crate::errno::{Errno, Result};
use crate::platform::{Kernel, hugetlb, sizes};
use crate::process::{self, Process};

/// A mount's share of a pool.
pub type SubPoolOf = hugewalk::Arc<SubPool<Kernel>>;

/// What kind of files a file system has.
pub enum Contents {
    /// Files of base pages.
    Base,
    /// Files of huge pages of one size.
    Huge {
        /// The size.
        size: HugeSize,
        /// The limits, if the mount has any.
        subpool: Option<SubPoolOf>,
    },
    /// Nothing that programs could make.
    Fixed,
}

/// A file system.
pub struct Filesystem {
    /// Its name, as `mount` has it.
    pub name: &'static str,
    /// `f_type` of `statfs`.
    pub magic: u32,
    /// `st_dev` of its files.
    pub device: u32,
    /// What is in it.
    pub contents: Contents,
    /// Inodes that it may have: `nr_inodes` of hugetlbfs.
    pub most: Option<u64>,
    /// Inodes that it has.
    pub inodes: AtomicU64,
}

static DEVICES: AtomicU32 = AtomicU32::new(16);

impl Filesystem {
    /// A file system of this name, with its own device number.
    pub fn new(name: &'static str, magic: u32, contents: Contents) -> Arc<Self> {
        Self::limited(name, magic, contents, None)
    }

    /// As [`new`](Self::new), with so many inodes at most.
    fn limited(name: &'static str, magic: u32, contents: Contents, most: Option<u64>) -> Arc<Self> {
        let device = DEVICES.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { name, magic, device, contents, most, inodes: AtomicU64::new(0) })
    }

    /// May it have one inode more? Calls at the same time may each be the one.
    ///
    /// # Errors
    ///
    /// `ENOSPC`.
    pub fn may_grow(&self) -> Result<()> {
        let full = self.most.is_some_and(|most| self.inodes.load(Ordering::Relaxed) >= most);
        if full { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    /// Where what has no name in any folder is.
    pub fn nowhere() -> Arc<Self> {
        static NOWHERE: Once<Arc<Filesystem>> = Once::new();
        NOWHERE.call_once(|| Self::new("anon_inodefs", 0x0904_1934, Contents::Fixed)).clone()
    }

    /// An inode for a new file.
    ///
    /// # Errors
    ///
    /// `EACCES` where no files can be made, `ENOSPC`, `ENOMEM`.
    pub fn create(self: &Arc<Self>, name: &str, permissions: u32) -> Result<Arc<Inode>> {
        self.may_grow()?;
        let kind = match &self.contents {
            Contents::Base => Kind::Base(BaseFile::new(name, Seals::closed())),
            Contents::Huge { size, subpool } => {
                Kind::Huge(HugeNode::new(name, *size, subpool.as_ref(), Seals::closed())?)
            }
            Contents::Fixed => return Err(Errno::EACCES),
        };
        Ok(Inode::new(self, kind, permissions))
    }

    /// May programs make files and folders in it?
    ///
    /// # Errors
    ///
    /// `EPERM`; in /proc `ENOENT`, as a name that no process has cannot be looked up there.
    pub fn may_change(&self) -> Result<()> {
        match self.contents {
            Contents::Fixed if self.name == "proc" => Err(Errno::ENOENT),
            Contents::Fixed => Err(Errno::EPERM),
            Contents::Base | Contents::Huge { .. } => Ok(()),
        }
    }
}

struct Mount {
    /// What the caller said is mounted, which nobody looks at.
    source: String,
    path: String,
    options: String,
    root: Arc<Inode>,
    /// The folder and the name it is at, and what was there. None for the root.
    place: Option<(Weak<Inode>, Vec<u8>, Arc<Inode>)>,
}

static MOUNTS: Mutex<Vec<Mount>> = Mutex::new(Vec::new());
static ROOT: Once<Arc<Inode>> = Once::new();

const TMPFS: u32 = 0x0102_1994;
/// `f_type` of hugetlbfs.
pub const HUGETLBFS: u32 = 0x9584_58f6;

/// The root of all paths.
pub fn root() -> Arc<Inode> {
    ROOT.call_once(|| {
        let root = Folder::create(&Filesystem::new("tmpfs", TMPFS, Contents::Base), 0o755);
        let mount = Mount {
            source: "tmpfs".into(),
            path: "/".into(),
            options: "rw".into(),
            root: root.clone(),
            place: None,
        };
        MOUNTS.lock().push(mount);
        root
    })
    .clone()
}

/// A folder of the root's, made where there is none.
pub(super) fn make_folder(path: &str) -> Result<Found> {
    let start = super::Place::root();
    let mut at = String::new();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        at = format!("{at}/{name}");
        let found = super::path::lookup(&start, at.as_bytes(), true)?;
        if found.inode.is_none() {
            let folder = Folder::create(&found.parent.inode.filesystem, 0o755);
            found.parent.inode.folder()?.insert(&found.parent.inode, &found.name, &folder)?;
        }
    }
    super::path::lookup(&start, path.as_bytes(), true)
}

/// Mounts what a program finds at its start: /proc, /sys, /dev, /tmp, and hugetlbfs at /dev/hugepages and /huge.
///
/// # Errors
///
/// As [`mount`]'s, if the archive has files in these places.
pub fn mount_all() -> Result<()> {
    root();
    for (path, name) in [
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/dev", "devtmpfs"),
        ("/dev/shm", "tmpfs"),
        ("/dev/hugepages", "hugetlbfs"),
        ("/tmp", "tmpfs"),
        ("/huge", "hugetlbfs"),
        ("/sys/kernel/debug", "debugfs"),
    ] {
        // Everybody may have files of huge pages.
        let options = if name == "hugetlbfs" { "mode=1777" } else { "" };
        mount(&make_folder(path)?, name, name, options)?;
    }
    Ok(())
}

/// The root of a new file system of this name, and its options as they are shown.
///
/// # Errors
///
/// `ENODEV` for an unknown name, `EINVAL` for its options, `ENOMEM`.
pub fn make(name: &str, options: &str) -> Result<(Arc<Inode>, String)> {
    let root = match name {
        "tmpfs" | "ramfs" => Folder::create(&Filesystem::new("tmpfs", TMPFS, Contents::Base), 0o1777),
        "hugetlbfs" => return huge(options),
        "proc" => proc::root(),
        "sysfs" => sys::root(),
        "devtmpfs" => device::root()?,
        "debugfs" => super::gup_test::root(),
        _ => return Err(Errno::ENODEV),
    };
    Ok((root, "rw".to_string()))
}

/// Is there such a file system?
pub fn is_known(name: &str) -> bool {
    ["tmpfs", "ramfs", "hugetlbfs", "proc", "sysfs", "devtmpfs", "debugfs"].contains(&name)
}

/// A number with a unit, as in `4M`; for a size also with `%` of the pool.
fn amount(text: &str, size: HugeSize) -> Option<u64> {
    if let Some(percent) = text.strip_suffix('%') {
        let total = hugetlb().pool(size).counters().total;
        return (percent.parse::<u64>().ok()?.checked_mul(total)? / 100).checked_mul(size.bytes());
    }
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "k" | "K" | "KB" | "kB" => 10,
        "m" | "M" | "MB" => 20,
        "g" | "G" | "GB" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// hugetlbfs with its options. Linux: `hugetlbfs_parse_param()` in fs/hugetlbfs/inode.c.
fn huge(options: &str) -> Result<(Arc<Inode>, String)> {
    let pairs = || {
        options
            .split(',')
            .filter(|option| !option.is_empty())
            .map(|option| option.split_once('=').unwrap_or((option, "")))
    };
    let mut size = arch::SIZE_2M;
    for (key, value) in pairs() {
        if key == "pagesize" {
            let bytes = amount(value, size).ok_or(Errno::EINVAL)?;
            let known = sizes().find(|size| size.bytes() == bytes);
            size = known.ok_or(Errno::EINVAL)?;
        }
    }
    let (mut max, mut min, mut permissions, mut owner, mut most) = (None, None, 0o755, [0; 2], None);
    for (key, value) in pairs() {
        let bytes = || amount(value, size).ok_or(Errno::EINVAL);
        match key {
            "size" => max = Some(bytes()? >> size.shift()),
            "min_size" => min = Some(bytes()? >> size.shift()),
            "mode" => permissions = u32::from_str_radix(value, 8).map_err(|_| Errno::EINVAL)? & 0o7777,
            "uid" => owner[0] = value.parse().map_err(|_| Errno::EINVAL)?,
            "gid" => owner[1] = value.parse().map_err(|_| Errno::EINVAL)?,
            "nr_inodes" => most = Some(amount(value, size).ok_or(Errno::EINVAL)?),
            "pagesize" | "source" | "rw" | "relatime" => {}
            _ => return Err(Errno::EINVAL),
        }
    }
    let subpool = if max.is_some() || min.is_some() {
        let made = SubPool::new(hugetlb(), size, max, min);
        Some(made.map_err(|error| Errno::from(error.errno()))?)
    } else {
        None
    };
    let (unit, letter) = if size.shift() < 20 { (10, 'K') } else { (20, 'M') };
    // As `hugetlbfs_show_options()` puts them.
    let mut shown = String::from("rw,relatime");
    for (key, id) in ["uid", "gid"].into_iter().zip(owner).filter(|(_, id)| *id != 0) {
        shown += &format!(",{key}={id}");
    }
    if permissions != 0o755 {
        shown += &format!(",mode={permissions:o}");
    }
    if let Some(most) = most {
        shown += &format!(",nr_inodes={most}");
    }
    shown += &format!(",pagesize={}{letter}", size.bytes() >> unit);
    for (key, pages) in [("size", max), ("min_size", min)] {
        if let Some(pages) = pages {
            shown += &format!(",{key}={}", pages * size.bytes());
        }
    }
    let filesystem = Filesystem::limited("hugetlbfs", HUGETLBFS, Contents::Huge { size, subpool }, most);
    let root = Folder::create(&filesystem, permissions);
    {
        let mut meta = root.meta.lock();
        [meta.owner, meta.group] = owner;
    }
    Ok((root, shown))
}

/// Mounts a file system of this name at a folder. `source` is what /proc/mounts begins its line with.
///
/// # Errors
///
/// `ENODEV` for an unknown name, `EINVAL` for its options, `ENOTDIR`, `ENOENT`, `EBUSY` at the root.
pub fn mount(at: &Found, source: &str, name: &str, options: &str) -> Result<()> {
    let covered = at.existing()?;
    covered.folder()?;
    if at.name.is_empty() {
        return Err(Errno::EBUSY);
    }
    let (root, options) = make(name, options)?;
    let folder = &at.parent.inode;
    folder.folder()?.exchange(folder, &at.name, &root);
    let path = String::from_utf8_lossy(&at.path()).into_owned();
    let place = Some((Arc::downgrade(folder), at.name.clone(), covered));
    MOUNTS.lock().push(Mount { source: source.to_string(), path, options, root, place });
    Ok(())
}

/// Takes a mount away. With `detach`, also one that is in use; files of it that are open stay.
///
/// # Errors
///
/// `EINVAL` if nothing is mounted there, `EBUSY` if it is in use.
pub fn unmount(at: &Found, detach: bool) -> Result<()> {
    let root = at.existing()?;
    if !detach && is_root(&root) && is_in_use(&root) {
        return Err(Errno::EBUSY);
    }
    let mount = {
        let mut mounts = MOUNTS.lock();
        let index = mounts.iter().rposition(|mount| mount.place.is_some() && Arc::ptr_eq(&mount.root, &root));
        mounts.remove(index.ok_or(Errno::EINVAL)?)
    };
    if let Some((folder, name, covered)) = &mount.place
        && let Some(folder) = folder.upgrade()
    {
        drop(folder.folder()?.exchange(&folder, name, covered));
    }
    Ok(())
}

/// Does a process have a file of it open or mapped, or its working directory in it, or is something mounted in it? Sleeps.
fn is_in_use(root: &Arc<Inode>) -> bool {
    let of_it = |inode: &Arc<Inode>| Arc::ptr_eq(&inode.filesystem, &root.filesystem);
    let by_process = |process: &Arc<Process>| {
        let files = process.files();
        let opened =
            |descriptor: &u32| files.get(descriptor.cast_signed()).is_ok_and(|file| of_it(&file.inode));
        of_it(&process.place().inode)
            || files.in_use().iter().any(opened)
            || process.space().is_ok_and(|space| space.maps_device(root.filesystem.device))
    };
    let below = |mount: &Mount| {
        let folder = mount.place.as_ref().and_then(|(folder, ..)| folder.upgrade());
        folder.is_some_and(|folder| of_it(&folder))
    };
    process::all().iter().any(by_process) || MOUNTS.lock().iter().any(below)
}

/// Has the files below a folder that was moved shown by their new paths. Folders may lie deeper than a stack of calls reaches.
pub fn moved(inode: &Arc<Inode>, from: &str, to: &str) {
    let mut left = Vec::from([inode.clone()]);
    while let Some(inode) = left.pop() {
        match &inode.kind {
            Kind::Folder(folder) => left.extend(folder.kept()),
            kind => {
                if let Some(identity) = kind.identity() {
                    identity.rename(from, to);
                }
            }
        }
    }
}

/// Is it the root of a mounted file system?
pub fn is_root(inode: &Arc<Inode>) -> bool {
    MOUNTS.lock().iter().any(|mount| Arc::ptr_eq(&mount.root, inode))
}

/// Gives everything up, at the end of the run: what is left then was leaked.
pub fn unmount_all() {
    let mounts = core::mem::take(&mut *MOUNTS.lock());
    for mount in mounts {
        let mut left = Vec::from([mount.root]);
        while let Some(inode) = left.pop() {
            if let Kind::Folder(folder) = &inode.kind {
                left.extend(folder.empty_out());
            }
        }
    }
}

/// The lines of /proc/mounts.
pub fn text() -> String {
    let mounts = MOUNTS.lock();
    let line = |mount: &Mount| {
        let name = mount.root.filesystem.name;
        let escaped = |text: &str| text.replace('\\', "\\134").replace(' ', "\\040");
        format!("{} {} {name} {} 0 0\n", escaped(&mount.source), escaped(&mount.path), mount.options)
    };
    mounts.iter().map(line).collect()
}
