//! Paths: from a place and a name to an inode.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::inode::{Inode, Kind};
use super::mounts;
use crate::errno::{Errno, Result};

/// Bytes of a path at most, with its end.
pub const LONGEST: usize = 4096;
/// Links that are followed in one path.
const LINKS: usize = 40;

/// A folder and the path that led to it.
#[derive(Clone)]
pub struct Place {
    /// The folder.
    pub inode: Arc<Inode>,
    /// From the root on, without a slash at the end; empty for the root.
    pub path: Vec<u8>,
}

/// What a path led to.
pub struct Found {
    /// The folder that the last name is in.
    pub parent: Place,
    /// The last name; empty if the path ended with `.`, `..` or the root.
    pub name: Vec<u8>,
    /// What has the name.
    pub inode: Option<Arc<Inode>>,
    /// The path ended with a slash: only a folder will do.
    pub folder_only: bool,
}

impl Place {
    /// The root.
    pub fn root() -> Self {
        Self { inode: mounts::root(), path: Vec::new() }
    }

    /// The folder with this path.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `ENOTDIR`.
    pub fn of(path: &[u8]) -> Result<Self> {
        lookup(&Self::root(), path, true)?.place()
    }

    /// The whole path, `/` for the root.
    pub fn whole(&self) -> Vec<u8> {
        if self.path.is_empty() { b"/".to_vec() } else { self.path.clone() }
    }

    fn up(&mut self) -> Result<()> {
        let parent = self.inode.folder()?.parent(&self.inode);
        self.inode = parent;
        let end = self.path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        self.path.truncate(end);
        Ok(())
    }

    fn down(&mut self, name: &[u8], inode: Arc<Inode>) {
        self.inode = inode;
        self.path.push(b'/');
        self.path.extend_from_slice(name);
    }
}

impl Found {
    /// The inode.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is none, `ENOTDIR` if it should be a folder.
    pub fn existing(&self) -> Result<Arc<Inode>> {
        let inode = self.inode.clone().ok_or(Errno::ENOENT)?;
        if self.folder_only {
            inode.folder()?;
        }
        Ok(inode)
    }

    /// The whole path to it.
    pub fn path(&self) -> Vec<u8> {
        let mut path = self.parent.path.clone();
        if !self.name.is_empty() {
            path.push(b'/');
            path.extend_from_slice(&self.name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        path
    }

    /// As a place to start from.
    ///
    /// # Errors
    ///
    /// As for [`existing`](Self::existing), and `ENOTDIR` if it is no folder.
    pub fn place(&self) -> Result<Place> {
        let inode = self.existing()?;
        inode.folder()?;
        let mut path = self.path();
        if path == b"/" {
            path.clear();
        }
        Ok(Place { inode, path })
    }

    /// The name that is to be made.
    ///
    /// # Errors
    ///
    /// `EEXIST` if there is something already.
    pub fn free_name(&self) -> Result<&[u8]> {
        if self.inode.is_some() || self.name.is_empty() { Err(Errno::EEXIST) } else { Ok(&self.name) }
    }
}

fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// Looks a path up. A link at its end is followed if `follow`.
///
/// # Errors
///
/// `ENOENT` for an empty path or a folder on the way that is not there (the last name may be missing), `ENOTDIR`, `ELOOP`,
/// `ENAMETOOLONG`.
pub fn lookup(start: &Place, path: &[u8], follow: bool) -> Result<Found> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let mut at = if path[0] == b'/' { Place::root() } else { start.clone() };
    let mut rest: VecDeque<Vec<u8>> = names(path).map(<[u8]>::to_vec).collect();
    let folder_only = path.ends_with(b"/") || path.ends_with(b"/.");
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name.len() > super::folder::LONGEST {
            return Err(Errno::ENAMETOOLONG);
        }
        let folder = at.inode.folder()?;
        if name == b".." {
            at.up()?;
            continue;
        }
        let last = rest.is_empty();
        let Some(inode) = folder.find(&name) else {
            return if last {
                Ok(Found { parent: at, name, inode: None, folder_only })
            } else {
                Err(Errno::ENOENT)
            };
        };
        if let Kind::Link(link) = &inode.kind
            && (!last || follow || folder_only)
        {
            links += 1;
            if links > LINKS {
                return Err(Errno::ELOOP);
            }
            if let Some(target) = link.jump() {
                if last {
                    return Ok(Found { parent: at, name, inode: Some(target), folder_only });
                }
                at.down(&name, target);
                continue;
            }
            let target = link.target()?;
            if target.first() == Some(&b'/') {
                at = Place::root();
            }
            for name in names(&target).rev() {
                rest.push_front(name.to_vec());
            }
            continue;
        }
        if last {
            return Ok(Found { parent: at, name, inode: Some(inode), folder_only });
        }
        at.down(&name, inode);
    }
    let inode = at.inode.clone();
    Ok(Found { parent: at, name: Vec::new(), inode: Some(inode), folder_only })
}
