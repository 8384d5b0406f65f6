//! Files of huge pages: names, modes and seals around the engine's files.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;

use hugewalk::addr::HugeSize;
use hugewalk::file::HugeFile;
use spin::Mutex;

use super::file::File;
use super::identity::Identity;
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
    /// What /proc says of it.
    pub identity: Arc<Identity>,
}

/// What is known of the engine's files, as long as they are: mappings know the file only, and outlive its inode.
static KNOWN: Mutex<BTreeMap<u64, Known>> = Mutex::new(BTreeMap::new());

struct Known {
    identity: Arc<Identity>,
    seals: Option<Arc<Seals>>,
}

/// Notes what /proc says of a file without an inode: of a segment of shared memory.
pub fn know(file: &HugeFile<Kernel>, shown: &str) {
    KNOWN.lock().insert(file.id(), Known { identity: Arc::new(Identity::new(shown)), seals: None });
}

/// The engine's file with this number is gone.
pub fn forget(file: u64) {
    let known = KNOWN.lock().remove(&file);
    drop(known);
}

/// The device and the number of the inode that the engine's file with this number has or had.
pub fn place_of(file: u64) -> Option<(u32, u64)> {
    KNOWN.lock().get(&file)?.identity.place()
}

/// What /proc/PID/maps calls the engine's file with this number.
pub fn name_of(file: u64) -> String {
    let known = KNOWN.lock().get(&file).map(|known| known.identity.clone());
    known.map(|identity| identity.shown()).unwrap_or_else(|| String::from("/anon_hugepage (deleted)"))
}

/// May a shared mapping of the engine's file with this number become writable?
///
/// # Errors
///
/// `EPERM`.
pub fn may_map_writable(file: u64) -> Result<()> {
    let seals = KNOWN.lock().get(&file).and_then(|known| known.seals.clone());
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
        let identity = Arc::new(Identity::new(name));
        KNOWN.lock().insert(file.id(), Known { identity: identity.clone(), seals: Some(seals.clone()) });
        Ok(Self { file, seals, identity })
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

    /// Mappings through which stores can reach the file.
    pub fn writable_mappings(&self) -> usize {
        let me = current();
        let Ok(mut task) = me.task() else { return 0 };
        let i_mmap = self.file.i_mmap_read(&mut task);
        i_mmap.vmas(0..u64::MAX).filter(|proof| proof.vma().is_shared()).count()
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
