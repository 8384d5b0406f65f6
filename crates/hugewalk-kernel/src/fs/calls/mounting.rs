//! File systems that are mounted nowhere: `fsopen`, `fsconfig`, `fsmount`. What they come to is a folder behind a descriptor, which goes
//! with its last file.

use alloc::string::String;
use alloc::sync::Arc;

use linux_raw_sys::general::O_PATH;
use spin::Mutex;

use super::opened;
use crate::errno::{Errno, Result};
use crate::fs::inode::Inode;
use crate::fs::{File, Opened, folder, mounts};
use crate::memory::user;
use crate::task::current;

const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;

/// A file system that is being made.
pub struct Context {
    name: String,
    options: Mutex<String>,
    root: Mutex<Option<Arc<Inode>>>,
}

impl File for Context {
    fn as_mount(&self) -> Option<&Context> {
        Some(self)
    }
}

fn install(opened: Arc<Opened>, close_on_exec: bool) -> Result<u64> {
    Ok(current().process().files().insert(opened, close_on_exec, 0)?.into())
}

/// `fsopen`.
pub(super) fn open(name: u64, flags: u32) -> Result<u64> {
    let name = user::string(name, 256)?;
    if !mounts::is_known(&name) {
        return Err(Errno::ENODEV);
    }
    let context = Context { name, options: Mutex::default(), root: Mutex::new(None) };
    install(Opened::anonymous(Arc::new(context), "[fscontext]", 2), flags & FSOPEN_CLOEXEC != 0)
}

/// `fsconfig`.
pub(super) fn configure(descriptor: u64, command: u32, key: u64, value: u64) -> Result<u64> {
    let opened = opened(descriptor)?;
    let context = opened.file.as_mount().ok_or(Errno::EINVAL)?;
    match command {
        FSCONFIG_SET_FLAG | FSCONFIG_SET_STRING => {
            let key = user::string(key, 256)?;
            let mut options = context.options.lock();
            options.push(',');
            *options += &key;
            if command == FSCONFIG_SET_STRING {
                *options += "=";
                *options += &user::string(value, 256)?;
            }
            Ok(0)
        }
        FSCONFIG_CMD_CREATE => {
            let options = context.options.lock().clone();
            let (root, _) = mounts::make(&context.name, &options)?;
            *context.root.lock() = Some(root);
            Ok(0)
        }
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// `fsmount`.
pub(super) fn mount(descriptor: u64, flags: u32) -> Result<u64> {
    let opened = opened(descriptor)?;
    let context = opened.file.as_mount().ok_or(Errno::EINVAL)?;
    let root = context.root.lock().take().ok_or(Errno::EINVAL)?;
    let nothing: Arc<dyn File> = Arc::new(folder::FolderFile);
    install(Opened::new(nothing, root, b"/".to_vec(), O_PATH), flags & FSMOUNT_CLOEXEC != 0)
}
