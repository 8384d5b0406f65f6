//! The archive's files, which are there when the first program begins.

use alloc::sync::Arc;
use core::str;

use super::base_file::BaseFile;
use super::file::File;
use super::folder::Folder;
use super::inode::{Inode, Kind, PathLink};
use super::seals::Seals;
use super::{mounts, path};
use crate::boot::archive::{Member, members};
use crate::errno::{Errno, Result};

/// The users and groups that programs look for by name.
const USERS: [(&str, &str); 2] = [
    ("passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"),
    ("group", "root:x:0:\nnogroup:x:65534:\n"),
];

/// Unpacks the files into the root.
///
/// # Errors
///
/// `EIO` for a member that is no file, folder or link; `ENOMEM`; and what making a file comes to.
pub fn unpack(archive: &[u8]) -> Result<()> {
    let root = path::Place::root();
    for Member { path: name, mode, contents } in members(archive) {
        if name.starts_with(b".hugewalk/") {
            continue;
        }
        let found = path::lookup(&root, name, false)?;
        let filesystem = &found.parent.inode.filesystem;
        let inode = match mode & 0o170_000 {
            0o040_000 if found.inode.is_some() => continue,
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
    }
    let folder = mounts::make_folder("/etc")?.place()?;
    for (name, contents) in USERS {
        // The archive may have brought its own.
        let found = path::lookup(&folder, name.as_bytes(), false)?;
        if found.inode.is_none() {
            let file = BaseFile::new(name, Seals::closed());
            file.write(0, contents.as_bytes(), 0)?;
            let inode = Inode::new(&found.parent.inode.filesystem, Kind::Base(file), 0o644);
            found.parent.inode.folder()?.insert(&found.parent.inode, found.free_name()?, &inode)?;
        }
    }
    Ok(())
}
