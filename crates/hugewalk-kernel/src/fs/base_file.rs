//! Files of base pages: on tmpfs, in the archive, and memory without a name.
//!
//! A page that was never written is not there, and reads as zeroes. A mapping gets pages by [`PageSource`], and keeps a
//! reference to each: truncation takes pages out of the file and then asks the mappings to forget them.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

use spin::Mutex;

use super::file::File;
use super::identity::Identity;
use super::seals::Seals;
use crate::errno::{Errno, Result};
use crate::memory::page::BasePage;
use crate::memory::{PAGE, frames};
use crate::space::area::PageSource;
use crate::task::current;

/// Bytes of a file at most.
pub const LARGEST: u64 = 1 << 43;

#[derive(Default)]
struct Contents {
    size: u64,
    pages: BTreeMap<u64, BasePage>,
}

/// A file of base pages.
pub struct BaseFile {
    contents: Mutex<Contents>,
    /// What may not be done any more.
    pub seals: Seals,
    /// Mappings through which stores reach the file.
    writable: AtomicUsize,
    /// What /proc says of it.
    pub identity: Identity,
}

impl BaseFile {
    /// An empty file. `name` is what `/proc/PID/maps` shows, if the file has no other.
    pub fn new(name: &str, seals: Seals) -> Arc<Self> {
        Arc::new(Self {
            contents: Mutex::default(),
            seals,
            writable: AtomicUsize::new(0),
            identity: Identity::new(name),
        })
    }

    /// Bytes from the start to the end.
    pub fn size(&self) -> u64 {
        self.contents.lock().size
    }

    /// Pages that are there.
    pub fn resident(&self) -> u64 {
        self.contents.lock().pages.len() as u64
    }

    /// Mappings through which stores reach the file.
    pub fn writable_mappings(&self) -> usize {
        // SeqCst: pairs with `writable_mapping`. A seal is set before the count is looked at, and a mapping counted before
        // the seal is: one of the two gives way.
        self.writable.load(Ordering::SeqCst)
    }

    /// Sets the size. What lies beyond it is gone. The caller has asked the seals, and unmaps what is gone.
    ///
    /// # Errors
    ///
    /// `EFBIG`.
    pub fn truncate(&self, size: u64) -> Result<()> {
        if size > LARGEST {
            return Err(Errno::EFBIG);
        }
        let gone = {
            let mut contents = self.contents.lock();
            contents.size = size;
            let gone = contents.pages.split_off(&size.div_ceil(PAGE));
            if let Some(page) = contents.pages.get(&(size / PAGE)) {
                clear(page, (size % PAGE) as usize, PAGE as usize);
            }
            gone
        };
        // With the lock released: the last reference frees the page.
        drop(gone);
        Ok(())
    }

    /// Makes pages for a range, and the file long enough unless `keep_size`.
    ///
    /// # Errors
    ///
    /// `EFBIG`, `ENOMEM`.
    pub fn allocate(&self, offset: u64, length: u64, keep_size: bool) -> Result<()> {
        let end = offset.checked_add(length).filter(|&end| end <= LARGEST).ok_or(Errno::EFBIG)?;
        let range = offset / PAGE..end.div_ceil(PAGE);
        let present = self.contents.lock().pages.range(range.clone()).count() as u64;
        // Known beforehand, so that what cannot be had whole is not begun.
        if range.end - range.start - present > frames::totals().1 / PAGE {
            return Err(Errno::ENOMEM);
        }
        for index in range {
            self.obtain(index)?;
            if current().is_killed() {
                return Err(Errno::EINTR);
            }
        }
        let mut contents = self.contents.lock();
        if !keep_size && contents.size < end {
            contents.size = end;
        }
        Ok(())
    }

    /// Takes whole pages out of a range, and clears the rest of it. The caller unmaps them.
    pub fn punch_hole(&self, offset: u64, length: u64) {
        let end = offset.saturating_add(length);
        let (first, last) = (offset.div_ceil(PAGE), end / PAGE);
        let mut gone = BTreeMap::new();
        let mut contents = self.contents.lock();
        if first < last {
            gone = contents.pages.split_off(&first);
            contents.pages.append(&mut gone.split_off(&last));
        }
        for index in [offset / PAGE, end / PAGE] {
            let start = index * PAGE;
            let (from, to) = (offset.max(start), end.min(start + PAGE));
            if from < to
                && let Some(page) = contents.pages.get(&index)
            {
                clear(page, (from - start) as usize, (to - start) as usize);
            }
        }
        drop(contents);
        drop(gone);
    }

    /// The page at an index, made if there is none.
    fn obtain(&self, index: u64) -> Result<BasePage> {
        if let Some(page) = self.contents.lock().pages.get(&index) {
            return Ok(page.clone());
        }
        let fresh = BasePage::zeroed()?;
        // Another may have been faster; the fresh page is dropped with the lock released then.
        let page = self.contents.lock().pages.entry(index).or_insert_with(|| fresh.clone()).clone();
        Ok(page)
    }

    fn seal_of_write(&self, end: u64) -> Result<()> {
        self.seals.may_write()?;
        if end > self.size() { self.seals.may_grow() } else { Ok(()) }
    }
}

fn clear(page: &BasePage, from: usize, to: usize) {
    const ZEROES: [u8; 256] = [0; 256];
    for at in (from..to).step_by(ZEROES.len()) {
        page.write(at, &ZEROES[..ZEROES.len().min(to - at)]);
    }
}

impl File for BaseFile {
    fn read(&self, offset: u64, into: &mut [u8], _: u32) -> Result<usize> {
        let left = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = into.len().min(left);
        let mut done = 0;
        while done < count {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let here = (count - done).min(PAGE as usize - within);
            let piece = &mut into[done..done + here];
            let page = self.contents.lock().pages.get(&(at / PAGE)).cloned();
            match page {
                Some(page) => drop(page.read(within, piece)),
                None => piece.fill(0),
            }
            done += here;
        }
        Ok(count)
    }

    fn write(&self, offset: u64, from: &[u8], _: u32) -> Result<usize> {
        let end = offset.checked_add(from.len() as u64).filter(|&end| end <= LARGEST).ok_or(Errno::EFBIG)?;
        self.seal_of_write(end)?;
        let mut done = 0;
        while done < from.len() {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let here = (from.len() - done).min(PAGE as usize - within);
            let page = match self.obtain(at / PAGE) {
                Ok(page) => page,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            };
            page.write(within, &from[done..done + here]);
            done += here;
        }
        let mut contents = self.contents.lock();
        contents.size = contents.size.max(offset + done as u64);
        Ok(done)
    }

    fn size(&self) -> u64 {
        self.size()
    }
}

impl PageSource for BaseFile {
    fn page(&self, index: u64, _: bool) -> Result<BasePage> {
        if index >= self.size().div_ceil(PAGE) {
            return Err(Errno::ENXIO);
        }
        self.obtain(index)
    }

    fn install(&self, index: u64, page: BasePage) -> Result<()> {
        let mut contents = self.contents.lock();
        if index >= contents.size.div_ceil(PAGE) {
            return Err(Errno::ENXIO);
        }
        if contents.pages.contains_key(&index) {
            return Err(Errno::EEXIST);
        }
        contents.pages.insert(index, page);
        Ok(())
    }

    fn remove(&self, pages: Range<u64>) -> Result<()> {
        self.seals.may_write()?;
        self.punch_hole(pages.start * PAGE, (pages.end - pages.start) * PAGE);
        Ok(())
    }

    fn has_page(&self, index: u64) -> bool {
        self.contents.lock().pages.contains_key(&index)
    }

    fn writable_mapping(&self, appears: bool) {
        if appears {
            self.writable.fetch_add(1, Ordering::SeqCst);
        } else {
            self.writable.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn name(&self) -> String {
        self.identity.shown()
    }

    fn place(&self) -> Option<(u32, u64)> {
        self.identity.place()
    }
}
