//! The archive's files, which are there when the first program begins.

use alloc::sync::Arc;
use core::str;

use super::base_file::BaseFile;
use super::file::File;
use super::folder::Folder;
use super::inode::{Inode, Kind, PathLink};
use super::path;
use super::seals::Seals;
use crate::boot::archive::{Member, members};
use crate::errno::{Errno, Result};

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
    Ok(())
}
