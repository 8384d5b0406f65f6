//! Files: what descriptors lead to, and what paths name.
//!
//! | room | subject |
//! |---|---|
//! | [`mod@file`] | the trait that everything behind a descriptor implements, and open files with their offsets |
//! | [`descriptors`] | a process's table of them |
//! | [`inode`], [`folder`], [`path`] | what has a name, and how names are looked up |
//! | [`mounts`] | file systems and where they are |
//! | [`base_file`] | files of base pages: tmpfs, the archive's files, shared anonymous memory |
//! | [`huge_file`] | files of huge pages, over the engine's |
//! | [`identity`] | what /proc says of a file that is mapped |
//! | [`seals`], [`memfd`] | memory files and what may not be done with them any more |
//! | [`packets`] | pairs of sockets that keep messages whole |
//! | [`pipe`], `socket`, [`poll`] | pipes, pairs of sockets, and waiting for several descriptors |
//! | [`device`], [`console`] | `/dev` |
//! | [`text`], [`proc`], [`sys`] | files whose contents are made when they are read |
//! | [`gup_test`] | the kernel's door to its own page pinning |
//! | [`archive`] | the files that the machine was booted with |
//! | `calls` | the system calls, converted to calls of the other rooms |
//!
//! # Protocol
//!
//! Names, sizes and contents of base pages change under spinning locks, which no code of this folder holds while it sleeps or
//! drops a file. Offsets of open files are under sleeping locks, as a read may sleep. Files of huge pages are the engine's, with
//! the engine's locks.
//!
//! The engine's mappings know their file's number only. What /proc shows of such a file is kept beside it until the engine says,
//! by `Notify::file_freed`, that the last mapping is gone.

pub mod archive;
pub mod base_file;
pub mod calls;
pub mod console;
pub mod descriptors;
pub mod device;
pub mod file;
pub mod folder;
pub mod gup_test;
pub mod huge_file;
pub mod identity;
pub mod inode;
pub mod memfd;
pub mod mounts;
pub mod packets;
pub mod path;
pub mod pipe;
pub mod poll;
pub mod proc;
pub mod seals;
mod socket;
pub mod sys;
pub mod text;

pub use self::calls::{call, program};
pub use self::descriptors::Descriptors;
pub use self::file::{Backing, File, Opened};
pub use self::path::Place;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

/// Mounts all there is, and unpacks the archive.
///
/// # Errors
///
/// What could not be made, in words.
pub fn begin(archive: &[u8]) -> core::result::Result<(), String> {
    mounts::mount_all().map_err(|error| format!("the folders cannot be made: error {}", error.0))?;
    archive::unpack(archive)
}

/// Gives all files up that nothing uses. What is in use afterwards was leaked.
pub fn end() {
    crate::ipc::shm::destroy_all();
    mounts::unmount_all();
}

/// Opens descriptors 0, 1 and 2 of the first process.
pub fn open_console(files: &Arc<Descriptors>) {
    for opened in console::Console::descriptors() {
        // There is room in an empty table.
        let _ = files.insert(opened, false, 0);
    }
}
