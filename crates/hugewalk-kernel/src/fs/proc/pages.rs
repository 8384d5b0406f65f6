//! `/proc/PID/pagemap` and `/proc/kpageflags`: words of 64 bits, one for each base page's worth of addresses or of memory.

use alloc::sync::Arc;

use super::super::file::File;
use super::super::inode::{Inode, Kind, Special};
use crate::errno::{Errno, Result};
use crate::memory::{HUGE, PAGE, frames};
use crate::process::Process;
use crate::space::observe::PageShown;

const SOFT_DIRTY: u64 = 1 << 55;
const EXCLUSIVE: u64 = 1 << 56;
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
    let mut word = if shown.soft_dirty { SOFT_DIRTY } else { 0 };
    if let Some(frame) = shown.frame {
        word |= PRESENT | frame;
        word |= if shown.exclusive { EXCLUSIVE } else { 0 };
        word |= if shown.file { FILE_PAGE } else { 0 };
    }
    word
}

impl File for PageMap {
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
                *word = match (frames::is_huge(address), address.is_multiple_of(HUGE)) {
                    (true, true) => IS_HUGE | HEAD,
                    (true, false) => IS_HUGE | TAIL,
                    (false, _) => 0,
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

/// `pagemap`, in a process's folder.
pub(super) fn place(folder: &Arc<Inode>, process: &Arc<Process>) {
    insert(folder, "pagemap", Arc::new(PageMap(process.clone())));
}

/// `kpageflags`, in the root.
pub(super) fn place_kpageflags(root: &Arc<Inode>) {
    insert(root, "kpageflags", Arc::new(PageFlags));
}
