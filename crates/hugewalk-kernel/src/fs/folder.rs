//! Folders: names and the inodes they lead to.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use spin::Mutex;

use super::file::File;
use super::inode::{Inode, Kind};
use super::mounts::Filesystem;
use crate::errno::{Errno, Result};

/// Bytes of a name at most.
pub const LONGEST: usize = 255;

/// Names that are not kept, but looked up elsewhere: processes, descriptors.
pub trait Listing: Send + Sync {
    /// The inode behind a name.
    fn find(&self, name: &[u8]) -> Option<Arc<Inode>>;

    /// All names.
    fn names(&self) -> Vec<Vec<u8>>;
}

/// A folder. The names that are kept hide those of the listing.
pub struct Folder {
    entries: Mutex<BTreeMap<Vec<u8>, Arc<Inode>>>,
    listing: Option<Arc<dyn Listing>>,
    /// The folder it lies in; itself dangling for a root.
    parent: Mutex<Weak<Inode>>,
}

/// One name of a folder.
pub struct Entry {
    /// The name.
    pub name: Vec<u8>,
    /// The inode's number.
    pub number: u64,
    /// Its type, as in `st_mode`.
    pub file_type: u32,
}

impl Folder {
    /// An empty folder.
    pub fn empty() -> Self {
        Self::with(None)
    }

    /// A folder whose names are found by a listing.
    pub fn listed(listing: Arc<dyn Listing>) -> Self {
        Self::with(Some(listing))
    }

    fn with(listing: Option<Arc<dyn Listing>>) -> Self {
        Self { entries: Mutex::default(), listing, parent: Mutex::new(Weak::new()) }
    }

    /// A new folder in a file system, in no other folder yet.
    pub fn create(filesystem: &Arc<Filesystem>, permissions: u32) -> Arc<Inode> {
        Inode::new(filesystem, Kind::Folder(Self::empty()), permissions)
    }

    /// The inode behind a name.
    pub fn find(&self, name: &[u8]) -> Option<Arc<Inode>> {
        let kept = self.entries.lock().get(name).cloned();
        kept.or_else(|| self.listing.as_ref()?.find(name))
    }

    /// The folder that `inode`, which is this folder, lies in; itself for a root.
    pub fn parent(&self, inode: &Arc<Inode>) -> Arc<Inode> {
        self.parent.lock().upgrade().unwrap_or_else(|| inode.clone())
    }

    /// Gives an inode a name in this folder, whose inode is `own`.
    ///
    /// # Errors
    ///
    /// `EEXIST`; `EPERM` where names cannot be made; `ENAMETOOLONG`; `ENOENT` for no name.
    pub fn insert(&self, own: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        if name.is_empty() {
            return Err(Errno::ENOENT);
        }
        if name.len() > LONGEST {
            return Err(Errno::ENAMETOOLONG);
        }
        if self.listing.as_ref().is_some_and(|listing| listing.find(name).is_some()) {
            return Err(Errno::EEXIST);
        }
        let mut entries = self.entries.lock();
        if entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        entries.insert(name.to_vec(), inode.clone());
        drop(entries);
        inode.meta.lock().links += 1;
        if let Kind::Folder(inner) = &inode.kind {
            *inner.parent.lock() = Arc::downgrade(own);
        }
        own.touch();
        Ok(())
    }

    /// Takes a name away, and returns its inode.
    ///
    /// # Errors
    ///
    /// `ENOENT`, or `EPERM` if the name is not one that is kept.
    pub fn remove(&self, name: &[u8]) -> Result<Arc<Inode>> {
        let removed = self.entries.lock().remove(name);
        match removed {
            Some(inode) => {
                let mut meta = inode.meta.lock();
                meta.links = meta.links.saturating_sub(1);
                drop(meta);
                Ok(inode)
            }
            None if self.find(name).is_some() => Err(Errno::EPERM),
            None => Err(Errno::ENOENT),
        }
    }

    /// Puts another inode in a name's place, as a mount does, and returns what was there.
    pub fn exchange(&self, own: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Option<Arc<Inode>> {
        if let Kind::Folder(inner) = &inode.kind {
            *inner.parent.lock() = Arc::downgrade(own);
        }
        self.entries.lock().insert(name.to_vec(), inode.clone())
    }

    /// Is there nothing in it?
    pub fn is_empty(&self) -> bool {
        self.entries.lock().is_empty()
            && self.listing.as_ref().is_none_or(|listing| listing.names().is_empty())
    }

    /// The inodes that are kept.
    pub fn kept(&self) -> Vec<Arc<Inode>> {
        self.entries.lock().values().cloned().collect()
    }

    /// Takes all names away that are kept, and returns their inodes.
    pub fn empty_out(&self) -> Vec<Arc<Inode>> {
        core::mem::take(&mut *self.entries.lock()).into_values().collect()
    }

    /// All names but `.` and `..`.
    pub fn list(&self) -> Vec<Entry> {
        let entry = |name: &Vec<u8>, inode: &Arc<Inode>| Entry {
            name: name.clone(),
            number: inode.number,
            file_type: inode.file_type(),
        };
        let mut all: Vec<Entry> =
            self.entries.lock().iter().map(|(name, inode)| entry(name, inode)).collect();
        if let Some(listing) = &self.listing {
            for name in listing.names() {
                all.extend(listing.find(&name).map(|inode| entry(&name, &inode)));
            }
        }
        all
    }
}

impl Drop for Folder {
    /// What lies in it goes one folder after the other: folders may lie deeper than a stack of calls reaches.
    fn drop(&mut self) {
        let mut left = self.empty_out();
        while let Some(inode) = left.pop() {
            // Others may have it open.
            if let Some(Inode { kind: Kind::Folder(folder), .. }) = Arc::into_inner(inode).as_ref() {
                left.extend(folder.empty_out());
            }
        }
    }
}

/// An open folder: `getdents64` reads it by its inode.
pub struct FolderFile;

impl File for FolderFile {
    fn read(&self, _: u64, _: &mut [u8], _: u32) -> Result<usize> {
        Err(Errno::EISDIR)
    }
}
