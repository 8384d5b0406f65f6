//! Shared memory segments.

use alloc::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fs::Backing;
use crate::ipc::shm::{self, Counts, SHM_DEST, Segment};
use crate::memory::{PAGE, user};
use crate::space::area::{Area, Backing as AreaBacking, Rights};
use crate::space::map::{HugeMapping, Place};
use crate::task::current;

const SHM_RDONLY: u32 = 0o10000;
const SHM_RND: u32 = 0o20000;
const SHM_REMAP: u32 = 0o40000;
const SHM_EXEC: u32 = 0o100_000;

const IPC_RMID: u32 = 0;
const IPC_SET: u32 = 1;
const IPC_STAT: u32 = 2;
const IPC_INFO: u32 = 3;
const SHM_LOCK: u32 = 11;
const SHM_UNLOCK: u32 = 12;
const SHM_STAT: u32 = 13;
const SHM_INFO: u32 = 14;
const SHM_STAT_ANY: u32 = 15;

/// `shmget`.
pub(super) fn get(key: i32, size: u64, flags: u32) -> Result<u64> {
    Ok(shm::get(key, size, flags)?.into())
}

/// `shmat`.
pub(super) fn attach(id: u32, address: u64, flags: u32) -> Result<u64> {
    let segment = shm::find(id)?;
    let page = match &segment.backing {
        Backing::Huge(file) => file.size_class().bytes(),
        _ => PAGE,
    };
    // It is rounded to base pages, whatever the segment has.
    let address = if flags & SHM_RND != 0 { address & !(PAGE - 1) } else { address };
    if !address.is_multiple_of(page) {
        return Err(Errno::EINVAL);
    }
    let place = match address {
        0 if flags & SHM_REMAP != 0 => return Err(Errno::EINVAL),
        0 => Place::Hint(0),
        at if flags & SHM_REMAP != 0 => Place::Fixed(at),
        at => Place::FixedNoReplace(at),
    };
    let mut rights = Rights::READ;
    rights.set(Rights::WRITE, flags & SHM_RDONLY == 0);
    rights.set(Rights::EXECUTE, flags & SHM_EXEC != 0);
    segment.check(rights_wanted(flags))?;
    let me = current();
    let space = me.space();
    // Held while it is mapped: else it could be destroyed in between.
    segment.hold();
    let mapped = map(&segment, &space, place, rights);
    if mapped.is_ok() {
        space.attach(&segment, me.process().pid);
    }
    segment.release();
    mapped.map_err(|error| if error == Errno::EEXIST { Errno::EINVAL } else { error })
}

fn rights_wanted(flags: u32) -> u32 {
    let write = if flags & SHM_RDONLY == 0 { 2 } else { 0 };
    let execute = if flags & SHM_EXEC != 0 { 1 } else { 0 };
    4 | write | execute
}

fn map(segment: &Segment, space: &crate::space::Space, place: Place, rights: Rights) -> Result<u64> {
    match &segment.backing {
        Backing::Huge(file) => {
            let size = file.size_class();
            let mapping = HugeMapping {
                file: Some((file, 0)),
                size,
                length: file.size(),
                rights,
                shared: true,
                // The pages were reserved when the segment was made, or are not to be.
                noreserve: true,
                populate: false,
                locked: false,
            };
            space.map_huge(place, &mapping)
        }
        Backing::Base(file) => {
            let backing = AreaBacking::Source { source: file.clone(), index: 0 };
            let may_write = rights.contains(Rights::WRITE);
            let area = Area {
                start: 0,
                end: 0,
                rights,
                shared: true,
                may_write,
                stack: false,
                dont_fork: false,
                handler: None,
                backing,
            };
            space.map_base(place, file.size(), area)
        }
        Backing::Zeroes => Err(Errno::EINVAL),
    }
}

/// `shmdt`: whatever is left of the first attachment at or behind this place that started here. Linux: `ksys_shmdt()` in ipc/shm.c.
pub(super) fn detach(address: u64) -> Result<u64> {
    if !address.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let me = current();
    let (space, pid) = (me.space(), me.process().pid);
    let parts = space.attachment(address)?;
    if parts.is_empty() {
        return Err(Errno::EINVAL);
    }
    for part in parts {
        space.unmap(part.start, part.end - part.start)?;
    }
    space.count_attached(pid);
    Ok(0)
}

/// `struct shmid64_ds`: `ipc_perm` of 48 bytes, the size, three times, two processes, the number of attachments, two words more.
fn describe(segment: &Segment, counts: Counts) -> [u64; 14] {
    let mut words = [0; 14];
    let mode = counts.permissions | if counts.doomed { SHM_DEST } else { 0 };
    let both = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    // One that is to be destroyed has no key any more.
    let key = if counts.doomed { 0 } else { segment.key as u32 };
    words[0] = both(key, counts.owner[0]);
    words[1] = both(counts.owner[1], segment.made_by[0]);
    words[2] = both(segment.made_by[1], mode);
    words[6] = segment.size;
    words[7..10].copy_from_slice(&counts.times);
    words[10] = u64::from(segment.creator) | u64::from(counts.last) << 32;
    words[11] = counts.attached;
    words
}

/// `shmctl`.
pub(super) fn control(id: u32, command: u32, address: u64) -> Result<u64> {
    match command {
        IPC_RMID => {
            let segment = shm::find(id)?;
            segment.must_be_own()?;
            segment.destroy();
            Ok(0)
        }
        IPC_STAT | SHM_STAT | SHM_STAT_ANY => {
            let segment = shm::find(id)?;
            if command != SHM_STAT_ANY {
                segment.check(4)?;
            }
            user::put(address, &describe(&segment, segment.counts()))?;
            Ok(if command == IPC_STAT { 0 } else { id.into() })
        }
        IPC_SET => {
            let words: [u64; 14] = user::get(address)?;
            let segment = shm::find(id)?;
            segment.must_be_own()?;
            segment.change([(words[0] >> 32) as u32, words[1] as u32], (words[2] >> 32) as u32);
            Ok(0)
        }
        SHM_LOCK | SHM_UNLOCK => {
            shm::find(id)?.must_be_own()?;
            Ok(0)
        }
        IPC_INFO => {
            use core::sync::atomic::Ordering::Relaxed;
            let limits = [
                shm::SHMMAX.load(Relaxed),
                1,
                shm::SHMMNI.load(Relaxed),
                shm::SHMMNI.load(Relaxed),
                shm::SHMALL.load(Relaxed),
            ];
            let mut words = [0_u64; 9];
            words[..5].copy_from_slice(&limits);
            user::put(address, &words)?;
            Ok(highest())
        }
        SHM_INFO => {
            // `struct shm_info`: segments in use, then base pages of them all, in memory, swapped; two counts of swapping.
            let all = shm::all();
            let total: u64 = all.iter().map(|segment| segment.size.div_ceil(PAGE)).sum();
            let resident: u64 = all.iter().map(resident).sum();
            user::put(address, &[all.len() as u64, total, resident, 0, 0, 0])?;
            Ok(highest())
        }
        _ => Err(Errno::EINVAL),
    }
}

/// Base pages of a segment that are in memory.
fn resident(segment: &Arc<Segment>) -> u64 {
    match &segment.backing {
        Backing::Huge(file) => file.pages() * (file.size_class().bytes() / PAGE),
        Backing::Base(file) => file.resident(),
        Backing::Zeroes => 0,
    }
}

/// The highest number in use.
fn highest() -> u64 {
    shm::all().iter().map(|segment| segment.id).max().unwrap_or(0).into()
}
