//! What /proc says of a file that is mapped: its path as it is now, its file system and its number.

use alloc::format;
use alloc::string::String;

use spin::{Mutex, Once};

/// A file as its mappings know it. It outlives the inode for as long as the file is mapped.
pub struct Identity {
    /// The path, and whether it is taken away.
    path: Mutex<(String, bool)>,
    /// `st_dev` and `st_ino`; unset until there is an inode.
    place: Once<(u32, u64)>,
}

impl Identity {
    /// A file with this path, or whatever is shown instead of one.
    pub fn new(path: &str) -> Self {
        Self { path: Mutex::new((String::from(path), false)), place: Once::new() }
    }

    /// Notes where its inode is.
    pub fn set_place(&self, device: u32, number: u64) {
        self.place.call_once(|| (device, number));
    }

    /// The device and the number of its inode, if it has had one.
    pub fn place(&self) -> Option<(u32, u64)> {
        self.place.get().copied()
    }

    /// The path as /proc shows it. Linux: `d_path()` in fs/d_path.c.
    pub fn shown(&self) -> String {
        let path = self.path.lock();
        if path.1 { format!("{} (deleted)", path.0) } else { path.0.clone() }
    }

    /// The name `from` becomes `to`; or, if `from` is a folder's, names below it move along. Other names stay.
    pub fn rename(&self, from: &str, to: &str) {
        let mut path = self.path.lock();
        let rest = path.0.strip_prefix(from).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        if let Some(rest) = rest.filter(|_| !path.1) {
            path.0 = format!("{to}{rest}");
        }
    }

    /// The name `gone` is taken away.
    pub fn remove(&self, gone: &str) {
        let mut path = self.path.lock();
        path.1 |= path.0 == gone;
    }
}
