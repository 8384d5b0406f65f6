//! Shared memory segments: `shmget` and what goes with it. Linux: ipc/shm.c.
//!
//! A segment is a memory file with a number. One that is marked to be destroyed goes away when nobody is attached any more.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use hugewalk::addr::HugeSize;
use spin::Mutex;

use crate::errno::{Errno, Result};
use crate::fs::base_file::BaseFile;
use crate::fs::file::Backing;
use crate::fs::memfd;
use crate::fs::seals::Seals;
use crate::memory::PAGE;
use crate::platform::hugetlb;
use crate::task::current;

/// `/proc/sys/kernel/shmmax`: bytes of a segment at most.
pub static SHMMAX: AtomicU64 = AtomicU64::new(u64::MAX - (1 << 24));
/// `/proc/sys/kernel/shmall`: base pages of all segments at most.
pub static SHMALL: AtomicU64 = AtomicU64::new(u64::MAX - (1 << 24));
/// `/proc/sys/kernel/shmmni`: segments at most.
pub static SHMMNI: AtomicU64 = AtomicU64::new(4096);

const IPC_CREAT: u32 = 0o1000;
const IPC_EXCL: u32 = 0o2000;
const SHM_HUGETLB: u32 = 0o4000;
const SHM_NORESERVE: u32 = 0o10000;
/// In `shm_perm.mode`: to be destroyed.
pub const SHM_DEST: u32 = 0o1000;

/// A segment.
pub struct Segment {
    /// Its number.
    pub id: u32,
    /// Its key; 0 if it has none.
    pub key: i32,
    /// Bytes, as they were asked for.
    pub size: u64,
    /// Where its pages are.
    pub backing: Backing,
    /// Permissions.
    pub permissions: u32,
    /// The process that made it.
    pub creator: u32,
    /// The number of the namespace it is in.
    namespace: u64,
    counts: Mutex<Counts>,
}

/// A namespace of segments: they go with the last process that sees them. Linux: `struct ipc_namespace`.
pub struct Namespace(u64);

static NAMESPACES: AtomicU64 = AtomicU64::new(1);

impl Namespace {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(NAMESPACES.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let of_it = |segment: &Arc<Segment>| segment.namespace == self.0;
        let gone: Vec<_> = {
            let mut segments = SEGMENTS.lock();
            let ids: Vec<u32> =
                segments.values().filter(|segment| of_it(segment)).map(|segment| segment.id).collect();
            ids.iter().filter_map(|id| segments.remove(id)).collect()
        };
        drop(gone);
    }
}

/// What changes of a segment.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    /// Mappings of it.
    pub attached: u64,
    /// It goes away with the last of them.
    pub doomed: bool,
    /// The process that attached or detached it last.
    pub last: u32,
    /// Seconds since 1970 of the last attach, detach and change.
    pub times: [u64; 3],
}

static SEGMENTS: Mutex<BTreeMap<u32, Arc<Segment>>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The numbers of the files of huge pages that are or were segments: they may still be attached.
static FILES: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// Is this file one that is or was a segment's?
pub fn is_of_segment(file: u64) -> bool {
    FILES.lock().contains(&file)
}

fn now() -> u64 {
    crate::cpu::clock::wall() / 1_000_000_000
}

/// `shmget`.
///
/// # Errors
///
/// `EEXIST`, `ENOENT`, `EINVAL` for a size that does not fit, `ENOSPC`, `ENOMEM` also if there are not enough huge pages.
pub fn get(key: i32, size: u64, flags: u32) -> Result<u32> {
    if key != 0 {
        let found = SEGMENTS.lock().values().find(|segment| segment.key == key).cloned();
        match found {
            Some(_) if flags & IPC_CREAT != 0 && flags & IPC_EXCL != 0 => return Err(Errno::EEXIST),
            Some(segment) if size > segment.size => return Err(Errno::EINVAL),
            Some(segment) => return Ok(segment.id),
            None if flags & IPC_CREAT == 0 => return Err(Errno::ENOENT),
            None => {}
        }
    }
    if size == 0 || size > SHMMAX.load(Ordering::Relaxed) {
        return Err(Errno::EINVAL);
    }
    let (number, pages) = {
        let segments = SEGMENTS.lock();
        (segments.len() as u64, segments.values().map(|segment| segment.size.div_ceil(PAGE)).sum::<u64>())
    };
    if number >= SHMMNI.load(Ordering::Relaxed)
        || pages.saturating_add(size.div_ceil(PAGE)) > SHMALL.load(Ordering::Relaxed)
    {
        return Err(Errno::ENOSPC);
    }
    let backing = if flags & SHM_HUGETLB != 0 {
        huge(memfd::size_of_flags(flags).map_err(|_| Errno::EINVAL)?, size, flags & SHM_NORESERVE == 0)?
    } else {
        let file = BaseFile::new(&alloc::format!("/SYSV{key:08x} (deleted)"), Seals::closed());
        file.truncate(size.checked_next_multiple_of(PAGE).ok_or(Errno::EINVAL)?)?;
        Backing::Base(file)
    };
    let id = NEXT.fetch_add(1, Ordering::Relaxed) as u32;
    let segment = Segment {
        id,
        key,
        size,
        backing,
        permissions: flags & 0o777,
        creator: current().process().pid,
        namespace: current().process().ipc.lock().as_ref().map_or(0, |namespace| namespace.0),
        counts: Mutex::new(Counts { times: [0, 0, now()], ..Counts::default() }),
    };
    let mut segments = SEGMENTS.lock();
    if key != 0 && segments.values().any(|segment| segment.key == key) {
        drop(segments);
        return Err(Errno::EEXIST);
    }
    segments.insert(id, Arc::new(segment));
    Ok(id)
}

/// A file of huge pages, of which all are reserved. Linux: `hugetlb_file_setup()` in fs/hugetlbfs/inode.c.
fn huge(size: HugeSize, bytes: u64, reserves: bool) -> Result<Backing> {
    let length = size.round_up(bytes).ok_or(Errno::EINVAL)?;
    let file = hugewalk::file::HugeFile::new(hugetlb(), size, None)?;
    FILES.lock().insert(file.id());
    let me = current();
    let mut task = me.task()?;
    file.truncate(&mut task, length)?;
    if reserves {
        file.reserve(&mut task, 0, length)?;
    }
    Ok(Backing::Huge(file))
}

/// The segment with this number.
///
/// # Errors
///
/// `EINVAL`.
pub fn find(id: u32) -> Result<Arc<Segment>> {
    SEGMENTS.lock().get(&id).cloned().ok_or(Errno::EINVAL)
}

/// All segments.
pub fn all() -> Vec<Arc<Segment>> {
    SEGMENTS.lock().values().cloned().collect()
}

impl Segment {
    /// What changes of it, as it is now.
    pub fn counts(&self) -> Counts {
        *self.counts.lock()
    }

    /// A mapping of it was made, or copied by fork.
    pub fn attach(&self, pid: u32) {
        let mut counts = self.counts.lock();
        counts.attached += 1;
        counts.last = pid;
        counts.times[0] = now();
    }

    /// A mapping of it is gone.
    pub fn detach(&self, pid: u32) {
        let gone = {
            let mut counts = self.counts.lock();
            counts.attached = counts.attached.saturating_sub(1);
            counts.last = pid;
            counts.times[1] = now();
            counts.doomed && counts.attached == 0
        };
        if gone {
            let segment = SEGMENTS.lock().remove(&self.id);
            drop(segment);
        }
    }

    /// `IPC_RMID`: it goes away when nobody is attached.
    pub fn destroy(&self) {
        let gone = {
            let mut counts = self.counts.lock();
            counts.doomed = true;
            counts.attached == 0
        };
        if gone {
            let segment = SEGMENTS.lock().remove(&self.id);
            drop(segment);
        }
    }
}

/// Segments outlive their processes; at the end of the run they are given up.
pub fn destroy_all() {
    let segments = core::mem::take(&mut *SEGMENTS.lock());
    drop(segments);
}
