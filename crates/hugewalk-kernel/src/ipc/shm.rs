//! Shared memory segments: `shmget` and what goes with it. Linux: ipc/shm.c.
//!
//! A segment is a memory file with a number. One that is marked to be destroyed goes away when nobody is attached any more.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hugewalk::addr::HugeSize;
use spin::Mutex;

use crate::errno::{Errno, Result};
use crate::fs::base_file::BaseFile;
use crate::fs::file::Backing;
use crate::fs::huge_file;
use crate::fs::memfd;
use crate::fs::seals::Seals;
use crate::memory::PAGE;
use crate::platform::hugetlb;
use crate::process::credentials;
use crate::task::current;

/// `/proc/sys/kernel/shmmax`: bytes of a segment at most.
pub static SHMMAX: AtomicU64 = AtomicU64::new(u64::MAX - (1 << 24));
/// `/proc/sys/kernel/shmall`: base pages of all segments at most.
pub static SHMALL: AtomicU64 = AtomicU64::new(u64::MAX - (1 << 24));
/// `/proc/sys/kernel/shmmni`: segments at most.
pub static SHMMNI: AtomicU64 = AtomicU64::new(4096);

/// `/proc/sys/vm/hugetlb_shm_group`: whose members may have segments of huge pages without being root.
pub static HUGE_GROUP: AtomicU32 = AtomicU32::new(0);

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
    /// The process that made it.
    pub creator: u32,
    /// The user and the group of that.
    pub made_by: [u32; 2],
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
    /// Permissions.
    pub permissions: u32,
    /// The user and the group that it belongs to.
    pub owner: [u32; 2],
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

fn now() -> u64 {
    crate::cpu::clock::wall() / 1_000_000_000
}

/// `shmget`.
///
/// # Errors
///
/// `EEXIST`, `ENOENT`, `EACCES`, `EPERM` for huge pages that are not for this user, `EINVAL` for a size that does not fit, `ENOSPC`, `ENOMEM` also if there are not enough huge pages.
pub fn get(key: i32, size: u64, flags: u32) -> Result<u32> {
    let namespace = current().process().ipc.lock().as_ref().map_or(0, |namespace| namespace.0);
    if key != 0 {
        let found = SEGMENTS.lock().values().find(|segment| segment.has_key(key, namespace)).cloned();
        match found {
            Some(_) if flags & IPC_CREAT != 0 && flags & IPC_EXCL != 0 => return Err(Errno::EEXIST),
            Some(segment) if size > segment.size => return Err(Errno::EINVAL),
            Some(segment) => {
                segment.check(flags >> 6 | flags >> 3 | flags)?;
                return Ok(segment.id);
            }
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
    let own = credentials::own();
    let backing = if flags & SHM_HUGETLB != 0 {
        if !own.is_root() && !own.is_in(HUGE_GROUP.load(Ordering::Relaxed)) {
            return Err(Errno::EPERM);
        }
        huge(key, memfd::size_of_flags(flags).map_err(|_| Errno::EINVAL)?, size, flags & SHM_NORESERVE == 0)?
    } else {
        let file = BaseFile::new(&alloc::format!("/SYSV{key:08x} (deleted)"), Seals::closed());
        let length = size.checked_next_multiple_of(PAGE).ok_or(Errno::EINVAL)?;
        file.truncate(length).map_err(|_| Errno::ENOMEM)?;
        Backing::Base(file)
    };
    let id = NEXT.fetch_add(1, Ordering::Relaxed) as u32;
    let owner = [own.user.effective, own.group.effective];
    let counts = Counts { permissions: flags & 0o777, owner, times: [0, 0, now()], ..Counts::default() };
    let segment = Segment {
        id,
        key,
        size,
        backing,
        creator: current().process().pid,
        made_by: owner,
        namespace,
        counts: Mutex::new(counts),
    };
    let mut segments = SEGMENTS.lock();
    if key != 0 && segments.values().any(|segment| segment.has_key(key, namespace)) {
        drop(segments);
        return Err(Errno::EEXIST);
    }
    segments.insert(id, Arc::new(segment));
    Ok(id)
}

/// A file of huge pages, of which all are reserved. Linux: `hugetlb_file_setup()` in fs/hugetlbfs/inode.c.
fn huge(key: i32, size: HugeSize, bytes: u64, reserves: bool) -> Result<Backing> {
    let length = size.round_up(bytes).ok_or(Errno::EINVAL)?;
    let file = hugewalk::file::HugeFile::new(hugetlb(), size, None)?;
    huge_file::know(&file, &alloc::format!("/SYSV{key:08x} (deleted)"));
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
    /// One that is to be destroyed is found by its key no more.
    fn has_key(&self, key: i32, namespace: u64) -> bool {
        self.key == key && self.namespace == namespace && !self.counts().doomed
    }

    /// Has the running process these rights to it: read 4, write 2, execute 1?
    ///
    /// # Errors
    ///
    /// `EACCES`. Linux: `ipcperms()` in ipc/util.c.
    pub fn check(&self, wanted: u32) -> Result<()> {
        let now = self.counts();
        let (users, groups) = ([self.made_by[0], now.owner[0]], [self.made_by[1], now.owner[1]]);
        let lacks = credentials::own().lacks(&users, &groups, now.permissions, wanted);
        if lacks { Err(Errno::EACCES) } else { Ok(()) }
    }

    /// May the running process change and destroy it?
    ///
    /// # Errors
    ///
    /// `EPERM`. Linux: `ipcctl_obtain_check()` in ipc/util.c.
    pub fn must_be_own(&self) -> Result<()> {
        let own = credentials::own();
        let users = [self.made_by[0], self.counts().owner[0]];
        if own.is_root() || users.contains(&own.user.effective) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// `IPC_SET`: gives it to another user and group, with other permissions.
    pub fn change(&self, owner: [u32; 2], permissions: u32) {
        let mut counts = self.counts.lock();
        counts.owner = owner;
        counts.permissions = permissions & 0o777;
        counts.times[2] = now();
    }

    /// What changes of it, as it is now.
    pub fn counts(&self) -> Counts {
        *self.counts.lock()
    }

    /// Bytes that a mapping of all of it has.
    pub fn mapped_size(&self) -> u64 {
        match &self.backing {
            Backing::Huge(file) => file.size(),
            _ => self.size.next_multiple_of(PAGE),
        }
    }

    /// Keeps it from being destroyed, as an attachment does, until it is released.
    pub fn hold(&self) {
        self.counts.lock().attached += 1;
    }

    /// See [`hold`](Self::hold).
    pub fn release(&self) {
        self.lose(|counts| counts.attached -= 1);
    }

    /// A process that had `before` mappings of it has `now` of them.
    pub fn recount(&self, before: u64, now: u64, pid: u32) {
        self.lose(|counts| {
            counts.attached = (counts.attached + now).saturating_sub(before);
            if now != before {
                counts.last = pid;
                counts.times[usize::from(now < before)] = self::now();
            }
        });
    }

    fn lose(&self, how: impl FnOnce(&mut Counts)) {
        let gone = {
            let mut counts = self.counts.lock();
            how(&mut counts);
            counts.doomed && counts.attached == 0
        };
        if gone {
            let segment = SEGMENTS.lock().remove(&self.id);
            drop(segment);
        }
    }

    /// `IPC_RMID`: it goes away when nobody is attached.
    pub fn destroy(&self) {
        self.lose(|counts| counts.doomed = true);
    }
}

/// Segments outlive their processes; at the end of the run they are given up.
pub fn destroy_all() {
    let segments = core::mem::take(&mut *SEGMENTS.lock());
    drop(segments);
}
