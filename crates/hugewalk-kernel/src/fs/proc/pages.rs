//! `/proc/PID/pagemap` and `/proc/kpageflags`: words of 64 bits, one for each base page's worth of addresses or of memory.

use alloc::sync::Arc;

use hugewalk::addr::VirtAddr;
use hugewalk::pagewalk::{Categories, PageMap as PageMapOf, Scan, ScanFlags};

use super::super::file::File;
use super::super::inode::{Inode, Kind, Special};
use crate::errno::{Errno, Result};
use crate::memory::{PAGE, USER_END, frames, user};
use crate::process::{Process, credentials};
use crate::space::observe::PageShown;
use crate::syscall::reach;
use crate::task::current;

const SOFT_DIRTY: u64 = 1 << 55;
const EXCLUSIVE: u64 = 1 << 56;
const PROTECTED: u64 = 1 << 57;
const FILE_PAGE: u64 = 1 << 61;
const PRESENT: u64 = 1 << 63;

const HEAD: u64 = 1 << 15;
const TAIL: u64 = 1 << 16;
const IS_HUGE: u64 = 1 << 17;

/// Words that are made in one go.
const BATCH: usize = 4096;

/// Reads whole words, as `words` makes them from an index on.
fn read(
    offset: u64,
    into: &mut [u8],
    mut words: impl FnMut(u64, &mut [u64]) -> Result<usize>,
) -> Result<usize> {
    if !offset.is_multiple_of(8) || !into.len().is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let mut batch = [0; 64];
    let mut done = 0;
    while done < into.len() {
        let wanted = ((into.len() - done) / 8).min(batch.len());
        let got = words(offset / 8 + done as u64 / 8, &mut batch[..wanted])?;
        for word in &batch[..got] {
            into[done..done + 8].copy_from_slice(&word.to_ne_bytes());
            done += 8;
        }
        if got < wanted {
            break;
        }
    }
    Ok(done)
}

/// `/proc/PID/pagemap`.
struct PageMap(Arc<Process>);

impl Special for PageMap {
    fn open(&self, _: u32) -> Result<Arc<dyn File>> {
        Ok(Arc::new(Self(self.0.clone())))
    }
}

fn word(shown: &PageShown) -> u64 {
    if let Some(map) = shown.huge {
        let mut word = if map.contains(PageMapOf::PRESENT) { shown.frame.unwrap_or(0) } else { 0 };
        for (flag, bit) in [
            (PageMapOf::PRESENT, PRESENT),
            (PageMapOf::SWAP, 1 << 62),
            (PageMapOf::FILE, FILE_PAGE),
            (PageMapOf::UFFD_WP, PROTECTED),
            (PageMapOf::EXCLUSIVE, EXCLUSIVE),
            (PageMapOf::SOFT_DIRTY, SOFT_DIRTY),
        ] {
            word |= if map.contains(flag) { bit } else { 0 };
        }
        return word;
    }
    let mut word = if shown.soft_dirty { SOFT_DIRTY } else { 0 };
    word |= if shown.protected { PROTECTED } else { 0 };
    if let Some(frame) = shown.frame {
        word |= PRESENT | frame;
        word |= if shown.exclusive { EXCLUSIVE } else { 0 };
        word |= if shown.file { FILE_PAGE } else { 0 };
    }
    word
}

impl File for PageMap {
    fn ioctl(&self, request: u32, argument: u64) -> Result<u64> {
        if request == PAGEMAP_SCAN { scan(&self.0, argument) } else { Err(Errno::ENOTTY) }
    }

    fn read(&self, offset: u64, into: &mut [u8], _: u32) -> Result<usize> {
        if !offset.is_multiple_of(8) || !into.len().is_multiple_of(8) {
            return Err(Errno::EINVAL);
        }
        let space = self.0.space()?;
        let end = crate::memory::USER_END / PAGE;
        let mut done = 0;
        for words in into.chunks_mut(BATCH * 8) {
            let first = offset / 8 + done as u64 / 8;
            let count = (words.len() as u64 / 8).min(end.saturating_sub(first)) as usize;
            if count == 0 {
                break;
            }
            let pages = space.pages(first * PAGE, count)?;
            for (to, shown) in words.chunks_mut(8).zip(&pages) {
                to.copy_from_slice(&word(shown).to_ne_bytes());
            }
            done += count * 8;
        }
        Ok(done)
    }
}

/// `PAGEMAP_SCAN`. Linux: `pagemap_scan` in fs/proc/task_mmu.c.
const PAGEMAP_SCAN: u32 = 0xc060_6610;

/// Scans, as the words of `struct pm_scan_arg` say. Of base pages there is none: programs look at the page map then.
fn scan(process: &Process, at: u64) -> Result<u64> {
    let [size, flags, start, end, _, into, room, most, inverted, mask, any_of, report]: [u64; 12] =
        user::get(at)?;
    if size != 96 {
        return Err(Errno::EINVAL);
    }
    let space = process.space()?;
    if space.has_base(start, end.saturating_sub(start)) {
        return Err(Errno::ENOTTY);
    }
    if into.checked_add(room.saturating_mul(24)).is_none_or(|end| end > USER_END) {
        return Err(Errno::EFAULT);
    }
    let categories = |bits| Categories::from_bits(bits).ok_or(Errno::EINVAL);
    let scan = Scan {
        flags: ScanFlags::from_bits(flags).ok_or(Errno::EINVAL)?,
        inverted: categories(inverted)?,
        mask: categories(mask)?,
        any_of: categories(any_of)?,
        report: categories(report)?,
        max_pages: (most != 0).then_some(most),
        max_regions: if into == 0 { 0 } else { room as usize },
        ..Scan::new(VirtAddr::new(start)..VirtAddr::new(end))
    };
    let found = {
        let me = current();
        let mut task = me.task()?;
        space.engine().scan_pages(&mut task, &scan).map_err(|error| Errno::from(error.errno()))?
    };
    for (index, region) in found.regions.iter().enumerate() {
        let words = [region.start.as_u64(), region.end.as_u64(), region.categories.bits()];
        user::put(into + 24 * index as u64, &words)?;
    }
    user::put(at + 32, &found.end.as_u64())?;
    Ok(found.regions.len() as u64)
}

/// `/proc/kpageflags`: which memory is in huge pages.
struct PageFlags;

impl Special for PageFlags {
    fn open(&self, _: u32) -> Result<Arc<dyn File>> {
        Ok(Arc::new(Self))
    }
}

impl File for PageFlags {
    fn read(&self, offset: u64, into: &mut [u8], _: u32) -> Result<usize> {
        let end = frames::end() / PAGE;
        read(offset, into, |first, words| {
            let count = (words.len() as u64).min(end.saturating_sub(first)) as usize;
            for (word, frame) in words[..count].iter_mut().zip(first..) {
                let address = frame * PAGE;
                *word = match frames::huge::begins(address) {
                    Some(true) => IS_HUGE | HEAD,
                    Some(false) => IS_HUGE | TAIL,
                    None => 0,
                };
            }
            Ok(count)
        })
    }
}

fn insert(folder: &Arc<Inode>, name: &str, special: Arc<dyn Special>) {
    let inode = Inode::new(&folder.filesystem, Kind::Special(special), 0o400);
    if let Ok(names) = folder.folder() {
        let _ = names.insert(folder, name.as_bytes(), &inode);
    }
}

/// `pagemap` and `mem`, in a process's folder.
pub(super) fn place(folder: &Arc<Inode>, process: &Arc<Process>) {
    insert(folder, "pagemap", Arc::new(PageMap(process.clone())));
    let memory: Arc<dyn Special> = Arc::new(Memory(process.clone()));
    let inode = Inode::new(&folder.filesystem, Kind::Special(memory), 0o600);
    if let Ok(names) = folder.folder() {
        let _ = names.insert(folder, b"mem", &inode);
    }
}

/// `/proc/PID/mem`: what a debugger may reach. Linux: `mem_rw()` in fs/proc/base.c.
struct Memory(Arc<Process>);

impl Special for Memory {
    fn open(&self, _: u32) -> Result<Arc<dyn File>> {
        if !credentials::own().may_reach(&self.0.credentials.lock()) {
            return Err(Errno::EACCES);
        }
        Ok(Arc::new(Self(self.0.clone())))
    }
}

impl File for Memory {
    fn read(&self, offset: u64, into: &mut [u8], _: u32) -> Result<usize> {
        let Ok(space) = self.0.space() else { return Ok(0) };
        if into.is_empty() {
            return Ok(0);
        }
        reach(&space, offset, into, false).map_err(|_| Errno::EIO)
    }

    fn write(&self, offset: u64, from: &[u8], _: u32) -> Result<usize> {
        let Ok(space) = self.0.space() else { return Ok(0) };
        if from.is_empty() {
            return Ok(0);
        }
        let mut bytes = from.to_vec();
        reach(&space, offset, &mut bytes, true)
            .or_else(|_| space.write_by_force(offset, from).map(|()| from.len()))
            .map_err(|_| Errno::EIO)
    }
}

/// `kpageflags`, in the root.
pub(super) fn place_kpageflags(root: &Arc<Inode>) {
    insert(root, "kpageflags", Arc::new(PageFlags));
}
