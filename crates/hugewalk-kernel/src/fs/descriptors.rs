//! A process's descriptors. A beginning.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::errno::{Errno, Result};
use crate::platform::Kernel;
use crate::space::area::PageSource;

/// Descriptors are below it.
pub const LIMIT: u32 = 1024;

/// What a mapping of a file takes its pages from.
pub enum Backing {
    /// Huge pages, which the engine maps.
    Huge(hugewalk::Arc<hugewalk::file::HugeFile<Kernel>>),
    /// Base pages, which the kernel maps.
    Base(Arc<dyn PageSource>),
    /// Fresh zeroes.
    Zeroes,
}

/// An open file.
pub struct Opened;

impl Opened {
    /// What a mapping takes its pages from, and whether it may ever become writable.
    pub fn backing(&self, _: bool, _: bool) -> Result<(Backing, bool)> {
        Err(Errno::ENODEV)
    }
}

/// Descriptors and what they lead to.
#[derive(Default)]
pub struct Descriptors;

impl Descriptors {
    /// No descriptors.
    pub fn new() -> Self {
        Self
    }

    /// The same descriptors, in a table of their own.
    pub fn copied(&self) -> Self {
        Self
    }

    /// What a descriptor leads to.
    pub fn get(&self, _: i32) -> Result<Arc<Opened>> {
        Err(Errno::EBADF)
    }

    /// Takes those away that do not survive `execve`.
    pub fn remove_close_on_exec(&self) -> Vec<Arc<Opened>> {
        Vec::new()
    }
}
