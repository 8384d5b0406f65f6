//! Files of huge pages: names, modes and seals around the engine's files.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;

use hugewalk::addr::HugeSize;
use hugewalk::file::HugeFile;
use spin::Mutex;

use super::file::File;
use super::mounts::SubPoolOf;
use super::seals::Seals;
use crate::errno::{Errno, Result};
use crate::platform::{Kernel, hugetlb};
use crate::task::current;

/// An inode of hugetlbfs.
pub struct HugeNode {
    /// The engine's file.
    pub file: hugewalk::Arc<HugeFile<Kernel>>,
    /// What may not be done any more.
    pub seals: Arc<Seals>,
}

/// What is known of the engine's files, as long as there is an inode: mappings know the file only.
static KNOWN: Mutex<BTreeMap<u64, Known>> = Mutex::new(BTreeMap::new());

struct Known {
    name: String,
    seals: Arc<Seals>,
}

/// What /proc/PID/maps calls the engine's file with this number.
pub fn name_of(file: u64) -> String {
    let name = KNOWN.lock().get(&file).map(|known| known.name.clone());
    name.unwrap_or_else(|| String::from("/anon_hugepage (deleted)"))
}

/// May a shared mapping of the engine's file with this number become writable?
///
/// # Errors
///
/// `EPERM`.
pub fn may_map_writable(file: u64) -> Result<()> {
    let seals = KNOWN.lock().get(&file).map(|known| known.seals.clone());
    seals.map_or(Ok(()), |seals| seals.may_map_writable())
}

impl HugeNode {
    /// An empty file, whose pages count against the mount's share. `name` is what /proc/PID/maps shows.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(name: &str, size: HugeSize, subpool: Option<&SubPoolOf>, seals: Seals) -> Result<Self> {
        let file = HugeFile::new(hugetlb(), size, subpool)?;
        let seals = Arc::new(seals);
        KNOWN.lock().insert(file.id(), Known { name: String::from(name), seals: seals.clone() });
        Ok(Self { file, seals })
    }

    /// Something to put behind a descriptor.
    pub fn clone_as_file(&self) -> Arc<dyn File> {
        Arc::new(Reader(self.file.clone()))
    }

    /// Sets the size. The caller has asked the seals.
    ///
    /// # Errors
    ///
    /// As the engine's.
    pub fn truncate(&self, size: u64) -> Result<()> {
        let me = current();
        Ok(self.file.truncate(&mut *me.task()?, size)?)
    }

    /// Makes pages for a range.
    ///
    /// # Errors
    ///
    /// As the engine's.
    pub fn allocate(&self, offset: u64, length: u64, keep_size: bool) -> Result<()> {
        let me = current();
        Ok(self.file.allocate(&mut *me.task()?, offset, length, keep_size)?)
    }

    /// Takes whole pages out of a range, and clears the rest of it.
    ///
    /// # Errors
    ///
    /// As the engine's.
    pub fn punch_hole(&self, offset: u64, length: u64) -> Result<()> {
        let me = current();
        Ok(self.file.punch_hole(&mut *me.task()?, offset, length)?)
    }

    /// Is it mapped?
    pub fn is_mapped(&self) -> bool {
        let me = current();
        let Ok(mut task) = me.task() else { return true };
        let i_mmap = self.file.i_mmap_read(&mut task);
        i_mmap.vmas(0..u64::MAX).next().is_some()
    }

    /// Mappings through which stores can reach the file.
    pub fn writable_mappings(&self) -> usize {
        let me = current();
        let Ok(mut task) = me.task() else { return 0 };
        let i_mmap = self.file.i_mmap_read(&mut task);
        i_mmap.vmas(0..u64::MAX).filter(|proof| proof.vma().is_shared()).count()
    }
}

impl Drop for HugeNode {
    fn drop(&mut self) {
        let known = KNOWN.lock().remove(&self.file.id());
        drop(known);
    }
}

/// An open file: it can be read, and mapped; hugetlbfs has no `write(2)`.
struct Reader(hugewalk::Arc<HugeFile<Kernel>>);

impl File for Reader {
    fn read(&self, offset: u64, into: &mut [u8], _: u32) -> Result<usize> {
        Ok(self.0.read_at(offset, into)?)
    }

    fn write(&self, _: u64, _: &[u8], _: u32) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    fn size(&self) -> u64 {
        self.0.size()
    }
}
