//! The archive's files, which are there when the first program begins.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::str;

use super::base_file::BaseFile;
use super::file::File;
use super::folder::Folder;
use super::inode::{Inode, Kind, PathLink};
use super::proc::RELEASE;
use super::seals::Seals;
use super::{mounts, path};
use crate::boot::archive::{Member, members};
use crate::errno::{Errno, Result};

/// The users and groups that programs look for by name.
const USERS: &str =
    "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUPS: &str = "root:x:0:\nnogroup:x:65534:\n";

/// What Linux's configuration would say of this kernel. Test suites look whether it has what they need.
const CONFIGURATION: &str = "\
CONFIG_64BIT=y
CONFIG_MMU=y
CONFIG_SMP=y
CONFIG_HZ=100
CONFIG_FUTEX=y
CONFIG_SYSVIPC=y
CONFIG_MULTIUSER=y
CONFIG_PROC_FS=y
CONFIG_PROC_PAGE_MONITOR=y
CONFIG_SYSFS=y
CONFIG_DEBUG_FS=y
CONFIG_SHMEM=y
CONFIG_TMPFS=y
CONFIG_MEMFD_CREATE=y
CONFIG_HUGETLBFS=y
CONFIG_HUGETLB_PAGE=y
CONFIG_ARCH_WANT_HUGE_PMD_SHARE=y
CONFIG_ARCH_ENABLE_HUGEPAGE_MIGRATION=y
CONFIG_MIGRATION=y
CONFIG_MEMORY_FAILURE=y
CONFIG_MEM_SOFT_DIRTY=y
CONFIG_ADVISE_SYSCALLS=y
CONFIG_USERFAULTFD=y
CONFIG_HAVE_ARCH_USERFAULTFD_WP=y
CONFIG_HAVE_ARCH_USERFAULTFD_MINOR=y
CONFIG_GUP_TEST=y
# CONFIG_TRANSPARENT_HUGEPAGE is not set
# CONFIG_SWAP is not set
# CONFIG_KSM is not set
# CONFIG_NUMA is not set
# CONFIG_CGROUPS is not set
# CONFIG_MODULES is not set
# CONFIG_NET is not set
";

/// Unpacks the files into the root.
///
/// # Errors
///
/// What could not be made, and why, in words.
pub fn unpack(archive: &[u8]) -> core::result::Result<(), String> {
    for member in members(archive) {
        if !member.path.starts_with(b".hugewalk/") {
            put(&member).map_err(|error| not_placed(&String::from_utf8_lossy(member.path), error))?;
        }
    }
    let configuration = format!("config-{RELEASE}");
    for (folder, name, contents) in [
        ("/etc", "passwd", USERS),
        ("/etc", "group", GROUPS),
        ("/boot", configuration.as_str(), CONFIGURATION),
    ] {
        put_own(folder, name, contents)
            .map_err(|error| not_placed(&format!("{}/{name}", &folder[1..]), error))?;
    }
    Ok(())
}

fn not_placed(name: &str, error: Errno) -> String {
    match error {
        Errno::EEXIST => format!("/{name} is there already"),
        error => format!("/{name} cannot be made: error {}", error.0),
    }
}

/// Makes a member's file.
///
/// # Errors
///
/// `EIO` for a member that is no file, folder or link; `ENOMEM`; and what making a file comes to.
fn put(member: &Member<'_>) -> Result<()> {
    let Member { path: name, mode, contents } = *member;
    let found = path::lookup(&path::Place::root(), name, false)?;
    let filesystem = &found.parent.inode.filesystem;
    let inode = match mode & 0o170_000 {
        0o040_000 if found.inode.is_some() => return Ok(()),
        0o040_000 => Folder::create(filesystem, mode & 0o7777),
        0o120_000 => Inode::new(filesystem, Kind::Link(Arc::new(PathLink(contents.to_vec()))), 0o777),
        0o100_000 => {
            let file = BaseFile::new(str::from_utf8(name).unwrap_or(""), Seals::closed());
            let mut done = 0;
            while done < contents.len() {
                done += file.write(done as u64, &contents[done..], 0)?;
            }
            Inode::new(filesystem, Kind::Base(file), mode & 0o7777)
        }
        _ => return Err(Errno::EIO),
    };
    found.parent.inode.folder()?.insert(&found.parent.inode, found.free_name()?, &inode)?;
    Ok(())
}

/// Makes a file that programs expect, unless the archive has brought its own.
fn put_own(folder: &str, name: &str, contents: &str) -> Result<()> {
    let folder = mounts::make_folder(folder)?.place()?;
    let found = path::lookup(&folder, name.as_bytes(), false)?;
    if found.inode.is_none() {
        let file = BaseFile::new(name, Seals::closed());
        file.write(0, contents.as_bytes(), 0)?;
        let inode = Inode::new(&found.parent.inode.filesystem, Kind::Base(file), 0o644);
        found.parent.inode.folder()?.insert(&found.parent.inode, found.free_name()?, &inode)?;
    }
    Ok(())
}
