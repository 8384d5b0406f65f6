//! Huge-page files: a page cache, a size, and the tree of the VMAs that map them.
//!
//! # Protocol
//!
//! - `i_mmap`, a sleeping reader/writer lock, guards the tree. Sharing a table holds it in read, unsharing in write.
//! - The page cache has a spinning lock. The size changes under it, and a page goes in under it
//!   only below the size. So the lock orders a fault that brings a page against a truncation that
//!   shrinks the file.
//! - A caller that puts a page in, takes it out, moves it, or writes to it through the file, holds
//!   the page's fault mutex.
//! - Truncation, hole punch and preallocation exclude each other by the inode lock.
//!
//! Linux: fs/hugetlbfs/inode.c.

mod cache;
mod i_mmap;
mod io;
mod ranks;
mod tree;
mod write;

use core::fmt;
use core::ops::Range;
use core::sync::atomic::Ordering;

use self::cache::{ChunkPlace, PageCache};
pub use self::i_mmap::{FileProof, IMmapReadGuard, IMmapWriteGuard};

pub(crate) use self::io::{LARGEST, range_end};
pub(crate) use self::tree::TreePlace;
use self::tree::VmaTree;
use crate::addr::{HugeFrame, HugeSize};
use crate::arch::Paging;
use crate::error::OutOfMemory;
pub use crate::error::{FileError, WriteStopped};
use crate::hugetlb::{Hugetlb, Inside, RUN};
use crate::page::{PageRef, PageRun, PutBatch};
use crate::platform::{Barriers, Platform};
use crate::protocol::{Step, keeps};
use crate::reserve::{FileMap, RegionMap, SubPool, release_range};
use crate::sleep::{RwSem, SleepLock, SleepLockGuard};
use crate::sync::{Apart, Arc, SpinLock, Unowned, Word};
use crate::task::Task;

/// A file of huge pages. Linux: an inode of hugetlbfs and its `address_space`.
///
/// Anonymous shared memory, memory files and SysV segments are such files too, without a name.
///
/// Dropping the last reference frees the file's pages and reservations. It takes spinning locks
/// only, and time in proportion to the pages. An address space that maps the file holds a reference
/// until it has unmapped it.
pub struct HugeFile<P: Platform> {
    hugetlb: Inside<P>,
    /// Lets the file's pages find it.
    me: Unowned<Self>,
    id: u64,
    size_class: HugeSize,
    subpool: Option<Arc<SubPool<P>>>,
    /// Size in bytes. Written under the cache's lock.
    size: P::Word,
    cache: Apart<SpinLock<P, PageCache>>,
    reservations: Apart<SpinLock<P, FileMap<P>>>,
    i_mmap: Apart<RwSem<P, VmaTree<P>>>,
    inode_lock: SleepLock<P>,
}

impl<P: Platform> HugeFile<P> {
    /// An empty file whose pages have this size. They count against `subpool` if the file lies on a
    /// mount with limits.
    ///
    /// # Errors
    ///
    /// [`FileError::WrongSystem`] if the mount belongs to another system; [`FileError::WrongMount`]
    /// if it has pages of another size; [`FileError::OutOfMemory`].
    pub fn new(
        hugetlb: &Arc<Hugetlb<P>>,
        size_class: HugeSize,
        subpool: Option<&Arc<SubPool<P>>>,
    ) -> Result<Arc<Self>, FileError> {
        if !hugetlb.paging().has(size_class) {
            return Err(FileError::NoSuchSize { size: size_class });
        }
        if let Some(subpool) = subpool {
            subpool.check(hugetlb)?;
            if subpool.size() != size_class {
                return Err(FileError::WrongMount);
            }
        }
        Ok(Arc::try_new_with(|me| Self {
            hugetlb: Inside::new(hugetlb),
            me,
            id: hugetlb.fresh_id(),
            size_class,
            subpool: subpool.cloned(),
            size: <P as Barriers>::Word::new(0),
            cache: Apart(SpinLock::<P, _>::new(PageCache::new())),
            reservations: Apart(SpinLock::<P, _>::new(RegionMap::default())),
            i_mmap: Apart(RwSem::new(VmaTree::new())),
            inode_lock: SleepLock::new(),
        })?)
    }

    /// A number that no other file or address space of the system has.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The size of its pages.
    #[must_use]
    pub fn size_class(&self) -> HugeSize {
        self.size_class
    }

    /// The mount that its pages count against.
    #[must_use]
    pub fn subpool(&self) -> Option<&Arc<SubPool<P>>> {
        self.subpool.as_ref()
    }

    /// Its size in bytes. Linux: `i_size`.
    #[must_use]
    pub fn size(&self) -> u64 {
        // Acquire: pairs with the Release in `set_size` and `grow_to`. Both store under the cache's
        // lock, which orders the size against other values.
        self.size.load(Ordering::Acquire)
    }

    /// Pages in its page cache: `st_blocks` in huge pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.cache.lock().len()
    }

    /// Pages that are reserved for the file and that it does not have yet, at this moment. While a
    /// fault or an allocation is under way, its page may count as reserved although it was taken.
    #[must_use]
    pub fn reserved(&self) -> u64 {
        // Each page of the cache is in the map.
        let listed = self.reservations.lock().count(0, u64::MAX);
        listed.saturating_sub(self.pages())
    }

    pub(crate) fn hugetlb(&self) -> &Hugetlb<P> {
        &self.hugetlb
    }

    pub(crate) fn reservations(&self) -> &SpinLock<P, FileMap<P>> {
        &self.reservations
    }

    /// Takes the inode lock, which lets one caller at a time change the size or allocate a range.
    /// Sleeps.
    pub(crate) fn lock_inode(&self, task: &mut Task<P>) -> SleepLockGuard<'_, P> {
        self.inode_lock.lock(task)
    }

    pub(crate) fn set_size(&self, size: u64) {
        // Under the cache's lock, under which pages are inserted below the size only.
        let _cache = self.cache.lock();
        // Release: pairs with the Acquire in `size`.
        self.size.store(size, Ordering::Release);
    }

    /// The first page at one of these offsets, if there is one.
    pub(crate) fn next_page(&self, offsets: &Range<u64>) -> Option<u64> {
        self.cache.lock().next_from(offsets.start, offsets.end)
    }

    /// The page at `index`, with a reference for the caller.
    pub(crate) fn find_page(&self, index: u64) -> Option<PageRef<'_, P>> {
        let cache = self.cache.lock();
        let frame = cache.find(index)?;
        self.hugetlb.page(frame).hold();
        // SAFETY: the reference was taken above, while the cache's reference kept the page.
        Some(unsafe { PageRef::from_raw(&self.hugetlb, frame, self.size_class) })
    }

    /// Is page `index` wholly within the file?
    pub(crate) fn has_index(&self, index: u64) -> bool {
        // Not if the file ends inside the page: for faults, Linux rounds the size down.
        index < self.size() >> self.size_class.shift()
    }

    /// The recheck of [`has_index`](Self::has_index), by a fault that is about to map a page of its
    /// own there and holds the table lock. The protocol of [`truncate`](crate::truncate) says what
    /// this is ordered against.
    pub(crate) fn still_has_index(&self, index: u64) -> bool {
        if !keeps::<P>(Step::RecheckSize) {
            return true;
        }
        let cache = self.cache.lock();
        let has_index = self.has_index(index);
        drop(cache);
        has_index
    }

    /// As [`still_has_index`](Self::still_has_index), for offsets from `from` on: how many of `pages` lie within the file.
    pub(crate) fn still_has(&self, from: u64, pages: u64) -> u64 {
        if !keeps::<P>(Step::RecheckSize) {
            return pages;
        }
        let cache = self.cache.lock();
        let within = (self.size() >> self.size_class.shift()).saturating_sub(from).min(pages);
        drop(cache);
        within
    }

    /// Puts a page into the cache, which takes a reference of its own. The caller holds the fault mutex of `index`.
    ///
    /// Linux: `hugetlb_add_to_page_cache()` in mm/hugetlb.c.
    pub(crate) fn insert_page(&self, index: u64, frame: HugeFrame) -> Result<(), NotInserted> {
        self.insert_where(index, frame, || self.has_index(index))
    }

    /// As [`insert_page`](Self::insert_page), also beyond the end of the file. The caller holds the inode lock too.
    pub(crate) fn insert_beyond_eof(&self, index: u64, frame: HugeFrame) -> Result<(), OutOfMemory> {
        self.insert_where(index, frame, || true).map_err(|_| OutOfMemory)
    }

    /// Puts a page into the cache if the file has a place for it.
    fn insert_where(
        &self,
        index: u64,
        frame: HugeFrame,
        has_place: impl Fn() -> bool,
    ) -> Result<(), NotInserted> {
        let mut fresh = None;
        loop {
            let mut cache = self.cache.lock();
            // Checked under the cache's lock, under which the size changes too: see the protocol
            // above.
            if !has_place() {
                return Err(NotInserted::BeyondEof);
            }
            if cache.insert(index, frame, &mut fresh).is_ok() {
                self.hugetlb.page(frame).hold();
                self.hugetlb.set_cached(frame, self.me, index);
                return Ok(());
            }
            drop(cache);
            fresh = Some(ChunkPlace::new()?);
        }
    }

    /// As [`insert_page`](Self::insert_page), for pages at offsets from `from` on. Returns how many were put in: fewer if the
    /// file ends before, or there is no memory. The caller holds the fault mutex of each.
    pub(crate) fn insert_run(&self, from: u64, frames: &[HugeFrame]) -> usize {
        let mut fresh = None;
        let mut inserted = 0;
        loop {
            let mut cache = self.cache.lock();
            for (index, &frame) in (from..).zip(frames).skip(inserted) {
                if !self.has_index(index) {
                    return inserted;
                }
                if cache.insert(index, frame, &mut fresh).is_err() {
                    break;
                }
                self.hugetlb.page(frame).hold();
                self.hugetlb.set_cached(frame, self.me, index);
                inserted += 1;
            }
            drop(cache);
            if inserted == frames.len() {
                return inserted;
            }
            let Ok(place) = ChunkPlace::new() else { return inserted };
            fresh = Some(place);
        }
    }

    /// The pages at offsets from `from` on, `pages` at most, as far as they follow one another and are sound: with a reference for the
    /// caller each. The caller holds the fault mutex of each offset.
    pub(crate) fn find_run(&self, from: u64, pages: usize) -> PageRun<'_, P> {
        let mut frames = [HugeFrame(0); RUN];
        let mut found = 0;
        let cache = self.cache.lock();
        for (index, place) in (from..).zip(frames.iter_mut().take(pages)) {
            let sound = |frame: &HugeFrame| !self.hugetlb.page(*frame).is_hwpoison();
            let Some(frame) = cache.find(index).filter(sound) else { break };
            self.hugetlb.page(frame).hold();
            *place = frame;
            found += 1;
        }
        drop(cache);
        // SAFETY: the references were taken above, while those of the cache kept the pages.
        unsafe { PageRun::from_raw(&self.hugetlb, self.size_class, frames, found) }
    }

    /// Takes the page at `index` out of the cache and drops the cache's reference. True if there
    /// was one. The caller holds the fault mutex of `index`.
    pub(crate) fn evict(&self, index: u64) -> bool {
        let removed = self.cache.lock().remove(index);
        let Some((frame, emptied)) = removed else {
            return false;
        };
        drop(emptied);
        self.hugetlb.clear_owner(frame);
        self.hugetlb.put_page(frame);
        true
    }

    /// Replaces `old` by `new` at `index`, in one step for all lookups in the cache. `exchange`
    /// runs under the cache's lock and says whether to go on. False if the page was not replaced.
    /// The caller holds the fault mutex of `index`.
    pub(crate) fn replace_page(
        &self,
        index: u64,
        old: HugeFrame,
        new: HugeFrame,
        exchange: impl FnOnce() -> bool,
    ) -> bool {
        let mut cache = self.cache.lock();
        cache.find(index) == Some(old) && exchange() && cache.replace(index, new)
    }

    /// Runs `work` with the cache locked, so that nothing takes a reference to one of its pages
    /// meanwhile.
    pub(crate) fn with_cache_locked<R>(&self, work: impl FnOnce() -> R) -> R {
        let cache = self.cache.lock();
        let result = work();
        drop(cache);
        result
    }

    /// Makes the file at least `bytes` long, as mapping it for writing does.
    pub(crate) fn grow_to(&self, bytes: u64) {
        let _cache = self.cache.lock();
        if self.size() < bytes {
            // Release: pairs with the Acquire in `size`.
            self.size.store(bytes, Ordering::Release);
        }
    }
}

/// Why a page did not go into the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotInserted {
    BeyondEof,
    OutOfMemory,
}

impl From<OutOfMemory> for NotInserted {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl<P: Platform> Drop for HugeFile<P> {
    fn drop(&mut self) {
        // Every VMA holds its file, so the file is not mapped. Linux: hugetlbfs_evict_inode().
        let mut cache = core::mem::replace(self.cache.get_mut(), PageCache::new());
        let mut freed = 0;
        let mut batch = PutBatch::new(&self.hugetlb, self.size_class, |_| false);
        while let Some(chunk) = cache.pop_chunk() {
            for frame in chunk.pages() {
                // This comes before the file's memory is freed: see `rmap`.
                self.hugetlb.clear_owner(frame);
                batch.put(frame, false);
                freed += 1;
            }
        }
        batch.finish();
        let reserved = self.reservations.get_mut().del_to_end_with(0, |charge, pages| {
            self.hugetlb.uncharge_reserved(charge.clone(), self.size_class, pages);
        });
        release_range(&self.hugetlb, self.size_class, self.subpool.as_ref(), reserved - freed.min(reserved));
        self.hugetlb.platform().file_freed(self.id);
    }
}

impl<P: Platform> fmt::Debug for HugeFile<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HugeFile").field("id", &self.id).field("size", &self.size()).finish_non_exhaustive()
    }
}
