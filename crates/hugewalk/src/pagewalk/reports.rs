//! Reports built on page walks: pagemap, soft-dirty, mincore, access sampling, numa_maps.

use alloc::vec::Vec;
use core::ops::Range;

use bitflags::bitflags;

use super::{Found, Visitor};
use crate::addr::VirtAddr;
use crate::arch::Entry;
use crate::error::MapError;
use crate::error::OutOfMemory;
use crate::gup::is_cached;
use crate::platform::Platform;
use crate::space::AddressSpace;
use crate::sync::try_push;
use crate::task::Task;
use crate::vma::Vma;

bitflags! {
    /// The state of a page. Linux: the bits of /proc/PID/pagemap.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct PageMap: u8 {
        /// A page is mapped, and the process may access it (`PM_PRESENT`).
        const PRESENT = 1 << 0;
        /// It was written since soft-dirty was cleared (`PM_SOFT_DIRTY`).
        const SOFT_DIRTY = 1 << 1;
        /// No other process maps it (`PM_MMAP_EXCLUSIVE`).
        const EXCLUSIVE = 1 << 2;
        /// It belongs to a file, or is shared memory (`PM_FILE`).
        const FILE = 1 << 3;
        /// It is write-protected by userfaultfd (`PM_UFFD_WP`).
        const UFFD_WP = 1 << 4;
        /// It is under migration, or has failed (`PM_SWAP`).
        const SWAP = 1 << 5;
    }
}

/// Totals over a range. Linux: a line of /proc/PID/numa_maps, with all nodes added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NumaMaps {
    /// Leaves.
    pub pages: u64,
    /// Leaves of private pages (`anon=`).
    pub anon: u64,
    /// Leaves whose page has been written (`dirty=`); those of a file's own pages always count.
    pub dirty: u64,
    /// The highest number of mappings that any of the pages has (`mapmax=`).
    pub mapmax: u64,
}

impl<P: Platform> AddressSpace<P> {
    /// The state of each page in a range, in order; holes give empty sets. Sleeps.
    ///
    /// Takes what [`walk_range`](Self::walk_range) takes. Linux: `pagemap_hugetlb_range()` in fs/proc/task_mmu.c.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfMemory`] if there is no room for the answer; as for [`walk_range`](Self::walk_range).
    pub fn pagemap(
        &self,
        task: &mut Task<P>,
        range: Range<VirtAddr>,
    ) -> Result<Vec<(VirtAddr, PageMap)>, MapError> {
        let mut list = List { pages: Vec::new(), full: false, judge: |found: &Found<'_, P>| page_map(found) };
        self.walk_range(task, range, &mut list)?;
        Ok(list.into_pages()?)
    }

    /// Tells for each page in a range whether it is resident: mapped, or, where there is no table, in the
    /// file's page cache (for a private mapping too). Sleeps.
    ///
    /// Takes what [`walk_range`](Self::walk_range) takes. Linux: `mincore(2)`, mm/mincore.c.
    ///
    /// # Errors
    ///
    /// [`MapError::NotMapped`] if there is a hole in the mappings, or the range ends before it begins;
    /// [`MapError::UnalignedAddress`] if the start is no multiple of 4 KiB; [`MapError::WrongSystem`],
    /// [`MapError::OutOfMemory`].
    pub fn mincore(
        &self,
        task: &mut Task<P>,
        range: Range<VirtAddr>,
    ) -> Result<Vec<(VirtAddr, bool)>, MapError> {
        // A part of a small page counts as the whole. No mapping can cover a range that wraps.
        let start = range.start;
        let end = self.mm().geometry().round_up(range.end.as_u64());
        let range = start..VirtAddr::new(end.unwrap_or(0));
        // Holes are left out.
        let judge = |found: &Found<'_, P>| Some(!found.entry().may_be_filled());
        let mut list = List { pages: Vec::new(), full: false, judge };
        let hole = match self.walk_range(task, range, &mut list) {
            Err(MapError::Overflow) => Some(start),
            walked => walked?.or(end.is_none().then_some(start)),
        };
        if let Some(address) = hole {
            return Err(MapError::NotMapped { address });
        }
        let found = list.into_pages()?;
        let mut pages = Vec::new();
        pages.try_reserve_exact(found.len()).map_err(OutOfMemory::from)?;
        let mmap = self.mmap_read(task);
        let in_file = |address| mmap.find(address).is_some_and(|vma| is_cached(vma, address));
        let judged =
            |(address, mapped): (_, Option<bool>)| (address, mapped.unwrap_or_else(|| in_file(address)));
        pages.extend(found.into_iter().map(judged));
        Ok(pages)
    }

    /// Counts the pages in a range that were accessed since the last call, and clears their accessed bits.
    /// Sleeps.
    ///
    /// No TLB is flushed. So a page whose translation a processor has cached counts as accessed again only
    /// after the processor has looked the translation up anew.
    ///
    /// Takes what [`walk_range`](Self::walk_range) takes, and table locks. Linux: `damon_hugetlb_mkold()` in
    /// mm/damon/vaddr.c.
    ///
    /// # Errors
    ///
    /// As for [`walk_range`](Self::walk_range).
    pub fn sample_accessed(&self, task: &mut Task<P>, range: Range<VirtAddr>) -> Result<u64, MapError> {
        let mut sample = Sample { accessed: 0 };
        self.walk_range(task, range, &mut sample)?;
        Ok(sample.accessed)
    }

    /// Totals over the pages in a range. Sleeps.
    ///
    /// Takes what [`walk_range`](Self::walk_range) takes. Linux: `gather_hugetlb_stats()` in fs/proc/task_mmu.c.
    ///
    /// # Errors
    ///
    /// As for [`walk_range`](Self::walk_range).
    pub fn numa_maps(&self, task: &mut Task<P>, range: Range<VirtAddr>) -> Result<NumaMaps, MapError> {
        let mut totals = NumaMaps::default();
        self.walk_range(task, range, &mut totals)?;
        Ok(totals)
    }
}

fn page_map<P: Platform>(found: &Found<'_, P>) -> PageMap {
    match found.entry() {
        Entry::Leaf(leaf) => {
            let mut map = PageMap::PRESENT;
            map.set(PageMap::SOFT_DIRTY, leaf.is_soft_dirty());
            map.set(PageMap::UFFD_WP, leaf.is_protected());
            map.set(PageMap::EXCLUSIVE, !found.is_page_shared());
            map.set(PageMap::FILE, !found.vma().mm().hugetlb().page(leaf.frame).is_anon());
            map
        }
        Entry::Migration(migration) => {
            let mut map = PageMap::SWAP;
            map.set(PageMap::SOFT_DIRTY, migration.soft_dirty);
            map.set(PageMap::UFFD_WP, migration.uffd_wp);
            map
        }
        Entry::Hwpoison(_) => PageMap::SWAP,
        Entry::Marker => PageMap::UFFD_WP,
        Entry::None | Entry::Table(_) | Entry::HostTable(_) | Entry::Poison => PageMap::empty(),
    }
}

/// A list with something for each page.
struct List<T, F> {
    pages: Vec<(VirtAddr, T)>,
    full: bool,
    judge: F,
}

impl<T, F> List<T, F> {
    fn push(&mut self, address: VirtAddr, value: T) {
        self.full |= try_push(&mut self.pages, (address, value)).is_err();
    }

    fn into_pages(self) -> Result<Vec<(VirtAddr, T)>, OutOfMemory> {
        if self.full { Err(OutOfMemory) } else { Ok(self.pages) }
    }
}

impl<P: Platform, T: Default, F: Fn(&Found<'_, P>) -> T> Visitor<P> for List<T, F> {
    fn entry(&mut self, found: &Found<'_, P>) {
        let value = (self.judge)(found);
        self.push(found.address(), value);
    }

    fn hole(&mut self, vma: &Vma<P>, range: Range<VirtAddr>) {
        let mut address = range.start;
        while address < range.end {
            self.push(address, T::default());
            address = address.plus(vma.size().bytes());
        }
    }
}

struct Sample {
    accessed: u64,
}

impl<P: Platform> Visitor<P> for Sample {
    fn entry(&mut self, found: &Found<'_, P>) {
        // If the table was unshared meanwhile, the accessed bit belongs to other processes, and is not
        // counted.
        if let Ok(locked) = found.lock() {
            self.accessed += u64::from(locked.mark_old());
        }
    }
}

impl<P: Platform> Visitor<P> for NumaMaps {
    fn entry(&mut self, found: &Found<'_, P>) {
        let Entry::Leaf(leaf) = found.entry() else { return };
        let page = found.vma().mm().hugetlb().page(leaf.frame);
        self.pages += 1;
        self.anon += u64::from(page.is_anon());
        // Pages of files are marked as written when they go into the cache: hugetlb_add_to_page_cache().
        self.dirty += u64::from(leaf.is_dirty() || !page.is_anon());
        self.mapmax = self.mapmax.max(page.mapcount());
    }
}
