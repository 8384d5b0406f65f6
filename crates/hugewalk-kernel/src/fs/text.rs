//! Files of text that is made when it is read: what /proc and /sys consist of.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::str;

use linux_raw_sys::general::{O_ACCMODE, O_RDONLY};
use spin::Mutex;

use super::file::File;
use super::folder::Folder;
use super::inode::{Inode, Kind, Special};
use super::mounts::Filesystem;
use crate::errno::{Errno, Result};

type Read = dyn Fn() -> Result<String> + Send + Sync;
type Write = dyn Fn(&str) -> Result<()> + Send + Sync;

/// A file whose text is made by a function, and perhaps taken by another.
#[derive(Clone)]
pub struct Text {
    read: Arc<Read>,
    write: Option<Arc<Write>>,
}

impl Text {
    /// A file that can be read.
    pub fn new(read: impl Fn() -> Result<String> + Send + Sync + 'static) -> Self {
        Self { read: Arc::new(read), write: None }
    }

    /// And written.
    #[must_use]
    pub fn writable(mut self, write: impl Fn(&str) -> Result<()> + Send + Sync + 'static) -> Self {
        self.write = Some(Arc::new(write));
        self
    }

    /// A decimal number that can be read.
    pub fn number(read: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self::new(move || Ok(format!("{}\n", read())))
    }

    /// And written.
    #[must_use]
    pub fn settable(self, write: impl Fn(u64) -> Result<()> + Send + Sync + 'static) -> Self {
        self.writable(move |text| write(text.trim().parse().map_err(|_| Errno::EINVAL)?))
    }

    /// An inode for it.
    pub fn inode(self, filesystem: &Arc<Filesystem>) -> Arc<Inode> {
        let permissions = if self.write.is_some() { 0o644 } else { 0o444 };
        Inode::new(filesystem, Kind::Special(Arc::new(self)), permissions)
    }

    /// Gives it a name in a folder of a file system that is being made.
    pub fn place(self, folder: &Arc<Inode>, name: &str) {
        let inode = self.inode(&folder.filesystem);
        // A name that is taken twice is a mistake in the table of names, and shows in the first test.
        if let Ok(names) = folder.folder() {
            let _ = names.insert(folder, name.as_bytes(), &inode);
        }
    }
}

impl Special for Text {
    fn open(&self, flags: u32) -> Result<Arc<dyn File>> {
        if flags & O_ACCMODE != O_RDONLY && self.write.is_none() {
            return Err(Errno::EACCES);
        }
        Ok(Arc::new(Reading { text: self.clone(), made: Mutex::new(Vec::new()) }))
    }
}

/// A folder within a folder of a file system that is being made; the one that is there, if there is one.
pub fn folder(parent: &Arc<Inode>, name: &str) -> Arc<Inode> {
    let found = parent.folder().ok().and_then(|names| names.find(name.as_bytes()));
    found.unwrap_or_else(|| {
        let made = Folder::create(&parent.filesystem, 0o555);
        if let Ok(names) = parent.folder() {
            let _ = names.insert(parent, name.as_bytes(), &made);
        }
        made
    })
}

/// An open file: the text stays as it was at the last read from its start.
struct Reading {
    text: Text,
    made: Mutex<Vec<u8>>,
}

impl File for Reading {
    fn read(&self, offset: u64, into: &mut [u8], _: u32) -> Result<usize> {
        if offset == 0 {
            // Made with no lock held: it may sleep.
            let made = (self.text.read)()?.into_bytes();
            let old = core::mem::replace(&mut *self.made.lock(), made);
            drop(old);
        }
        let made = self.made.lock();
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(made.len());
        let count = into.len().min(made.len() - from);
        into[..count].copy_from_slice(&made[from..from + count]);
        Ok(count)
    }

    fn write(&self, _: u64, from: &[u8], _: u32) -> Result<usize> {
        let write = self.text.write.as_ref().ok_or(Errno::EINVAL)?;
        write(str::from_utf8(from).map_err(|_| Errno::EINVAL)?)?;
        Ok(from.len())
    }

    fn reads_once(&self) -> bool {
        true
    }
}
