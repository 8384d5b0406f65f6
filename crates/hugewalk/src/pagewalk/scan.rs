//! Scans: which pages of a range are what, and protecting those that were written, in one step.
//!
//! # Protocol
//!
//! A scan that protects holds the VMA lock and `i_mmap` in write. It reads an entry and protects it under one hold of the table
//! lock, and flushes before it releases `i_mmap`. So a store either comes before, and the scan says that the page was
//! written; or it meets the protection, and the next scan says so. What a processor stores through a translation that it has
//! cached, before the flush, is in memory when the scan returns.
//!
//! Linux: `PAGEMAP_SCAN`, `do_pagemap_scan()` in fs/proc/task_mmu.c, since 6.7.

use alloc::vec::Vec;
use core::ops::Range;

use bitflags::bitflags;
use thiserror::Error;

use super::{Found, Visitor, walk_table};
use crate::addr::{HugeSize, VirtAddr};
use crate::arch::Entry;
use crate::entries::{by_table, each_own_entry};
use crate::error::{Errno, OutOfMemory, WrongSystem};
use crate::gather::Gather;
use crate::platform::{Invalidation, Platform};
use crate::share::huge_pte_alloc;
use crate::space::{AddressSpace, MmapReadGuard};
use crate::sync::Arc;
use crate::task::Task;
use crate::uffd::protect_entries;
use crate::vma::{Vma, VmaReadGuard};
use crate::walk::huge_pte_offset;

bitflags! {
    /// What a page is. Linux: `PAGE_IS_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Categories: u64 {
        /// Its mapping is registered for [`Modes::WP`](crate::uffd::Modes::WP) by a handler with
        /// [`Features::WP_ASYNC`](crate::uffd::Features::WP_ASYNC).
        const WPALLOWED = 1 << 0;
        /// It is not write-protected by a handler: it was written since it was. An empty entry is not written.
        const WRITTEN = 1 << 1;
        /// It belongs to a file, or is shared memory.
        const FILE = 1 << 2;
        /// A page is mapped.
        const PRESENT = 1 << 3;
        /// The entry says something else: a migration, an error, poison, or a write protection that waits for a page.
        const SWAPPED = 1 << 4;
        /// The page of zeroes. No huge page is.
        const PFNZERO = 1 << 5;
        /// It is huge. A range that has no table is not.
        const HUGE = 1 << 6;
        /// It was written since soft-dirty was cleared.
        const SOFT_DIRTY = 1 << 7;
    }
}

bitflags! {
    /// How to scan. Linux: `PM_SCAN_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct ScanFlags: u64 {
        /// Write-protect the matching pages that were written, and ranges without a table. Mappings that do not allow it are
        /// left out.
        const WP_MATCHING = 1 << 0;
        /// Fail at a mapping that does not allow it.
        const CHECK_WPASYNC = 1 << 1;
    }
}

/// What to look for. Linux: `struct pm_scan_arg`.
///
/// A page matches if it has all categories of `mask` and, unless that is empty, one of `any_of`; those in `inverted` count as
/// had by the pages that do not have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Where. The start is a multiple of 4 KiB; the end is rounded up to one.
    pub range: Range<VirtAddr>,
    /// How.
    pub flags: ScanFlags,
    /// Categories that count the other way round.
    pub inverted: Categories,
    /// Categories that a page must have.
    pub mask: Categories,
    /// Categories of which a page must have one.
    pub any_of: Categories,
    /// Categories that are reported.
    pub report: Categories,
    /// Pages of 4 KiB to report at most. `None`: as many as there are.
    pub max_pages: Option<u64>,
    /// Regions to report at most. 0: none, and the scan goes on to the end of the range.
    pub max_regions: usize,
}

impl Scan {
    /// Reports every page of a range with all that it is, and protects nothing.
    #[must_use]
    pub const fn new(range: Range<VirtAddr>) -> Self {
        Self {
            range,
            flags: ScanFlags::empty(),
            inverted: Categories::empty(),
            mask: Categories::empty(),
            any_of: Categories::empty(),
            report: Categories::all(),
            max_pages: None,
            max_regions: usize::MAX,
        }
    }

    fn matches(&self, categories: Categories) -> bool {
        let seen = categories ^ self.inverted;
        seen.contains(self.mask) && (self.any_of.is_empty() || seen.intersects(self.any_of))
    }

    /// Can pages of a mapping match that has these categories?
    fn matches_mapping(&self, categories: Categories) -> bool {
        (categories ^ self.inverted).contains(self.mask & Categories::WPALLOWED)
    }
}

/// Pages side by side that are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where they start.
    pub start: VirtAddr,
    /// Where they end.
    pub end: VirtAddr,
    /// What they are, as far as it was to be reported.
    pub categories: Categories,
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// The pages that match, by address.
    pub regions: Vec<Region>,
    /// Where the scan stopped: the end of its range, or where the next one has to start. Linux: `walk_end`.
    pub end: VirtAddr,
}

/// Why a scan failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ScanError {
    /// Flags or categories that are unknown.
    #[error("unknown flags or categories")]
    UnknownFlags,
    /// The range does not start at a multiple of 4 KiB.
    #[error("{start:?} is not a multiple of a base page")]
    Unaligned {
        /// Its start.
        start: VirtAddr,
    },
    /// The range ends before it starts, or beyond the end of user addresses.
    #[error("{start:?} to {end:?} is not a valid range")]
    BadRange {
        /// Its start.
        start: VirtAddr,
        /// Its end.
        end: VirtAddr,
    },
    /// A mapping is not registered for asynchronous write protection, and [`ScanFlags::CHECK_WPASYNC`] was asked for. Pages
    /// before it may be protected by then.
    #[error("the mapping at {address:?} is not registered for asynchronous write protection")]
    NotAsync {
        /// Start of the mapping.
        address: VirtAddr,
    },
    /// No memory for tables or for the report. Nothing was protected.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// The task belongs to another system than the address space.
    #[error(transparent)]
    WrongSystem(#[from] WrongSystem),
}

impl ScanError {
    /// The number that Linux returns.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::UnknownFlags | Self::Unaligned { .. } | Self::WrongSystem(_) => Errno::EINVAL,
            Self::BadRange { .. } => Errno::EFAULT,
            Self::NotAsync { .. } => Errno::EPERM,
            Self::OutOfMemory(_) => Errno::ENOMEM,
        }
    }
}

impl<P: Platform> AddressSpace<P> {
    /// Reports the pages of a range that match, and write-protects them if asked to. Sleeps.
    ///
    /// Holes between mappings are left out. An empty entry of a table that is there is not written, and is not protected: a page
    /// that comes there later is reported as written, whoever brought it. A huge page that lies in the range in part only is
    /// reported for that part, and never protected: with [`ScanFlags::WP_MATCHING`] it is left out, and the scan ends before it.
    ///
    /// If there is no memory in the middle of a scan, it ends there, as if it had found as much as was to be reported.
    ///
    /// Takes the mmap lock in read. With [`ScanFlags::WP_MATCHING`] also the lock of each VMA, and `i_mmap`, both in write;
    /// otherwise a read section for each table.
    ///
    /// # Errors
    ///
    /// [`ScanError`].
    pub fn scan_pages(&self, task: &mut Task<P>, scan: &Scan) -> Result<Scanned, ScanError> {
        task.enter(self.mm().hugetlb())?;
        let known = [scan.inverted, scan.mask, scan.any_of, scan.report];
        if !ScanFlags::all().contains(scan.flags) || known.iter().any(|set| !Categories::all().contains(*set))
        {
            return Err(ScanError::UnknownFlags);
        }
        let range = self.checked_scan(&scan.range)?;
        let mut report = Report {
            scan,
            range: range.clone(),
            base_bytes: self.mm().geometry().base_bytes(),
            regions: Vec::new(),
            pages: 0,
            found: false,
            stopped: None,
        };
        let mmap = self.mmap_read(task);
        for vma in mmap.overlapping(&range) {
            if report.stopped.is_some() {
                break;
            }
            let kind = if vma.is_protected_async() { Categories::WPALLOWED } else { Categories::empty() };
            if kind.is_empty() && scan.flags.contains(ScanFlags::CHECK_WPASYNC) {
                return Err(ScanError::NotAsync { address: vma.start() });
            }
            let protects = scan.flags.contains(ScanFlags::WP_MATCHING);
            if !scan.matches_mapping(kind) || protects && kind.is_empty() {
                continue;
            }
            let mut mapping = Mapping { report: &mut report, kind, size: vma.size() };
            let first = vma.start().max(range.start.huge_page(vma.size()));
            let part = first..vma.end().min(range.end);
            let scanned = if protects {
                mapping.protect(&mmap, vma, part, task)
            } else {
                mapping.look(&mmap, vma, part, task)
            };
            if let Err((at, error)) = scanned {
                if !report.found {
                    return Err(error.into());
                }
                report.stopped = report.stopped.or(Some(at));
            }
        }
        Ok(Scanned { end: report.stopped.unwrap_or(range.end), regions: report.regions })
    }

    /// Linux: `pagemap_scan_get_args()` in fs/proc/task_mmu.c.
    fn checked_scan(&self, range: &Range<VirtAddr>) -> Result<Range<VirtAddr>, ScanError> {
        let Range { start, end } = *range;
        let geometry = self.mm().geometry();
        if !geometry.is_aligned(start.as_u64()) {
            return Err(ScanError::Unaligned { start });
        }
        let bad = ScanError::BadRange { start, end };
        let up = geometry.round_up(end.as_u64()).map(VirtAddr::new).ok_or(bad)?;
        if end < start || up > self.mm().task_size() { Err(bad) } else { Ok(start..up) }
    }
}

/// What has been found so far.
struct Report<'s> {
    scan: &'s Scan,
    /// With its end rounded up.
    range: Range<VirtAddr>,
    /// Bytes of a base page.
    base_bytes: u64,
    regions: Vec<Region>,
    /// Base pages in the regions.
    pages: u64,
    /// Whether a page matched, reported or not.
    found: bool,
    /// Where the scan ends early.
    stopped: Option<VirtAddr>,
}

impl Report<'_> {
    /// Makes room for so many regions more, as far as so many are wanted.
    fn reserve(&mut self, more: u64) -> Result<(), OutOfMemory> {
        let wanted = self.scan.max_regions.saturating_sub(self.regions.len());
        let more = usize::try_from(more).unwrap_or(usize::MAX).min(wanted);
        Ok(self.regions.try_reserve(more)?)
    }

    /// Reports pages that match. Returns how far there was room. There is memory for one region more.
    ///
    /// Linux: `pagemap_scan_output()`.
    fn push(&mut self, pages: Range<VirtAddr>, categories: Categories) -> VirtAddr {
        self.found = true;
        if self.scan.max_regions == 0 {
            return pages.end;
        }
        let number = pages.end.offset_from(pages.start) / self.base_bytes;
        let room = self.scan.max_pages.map_or(u64::MAX, |most| most.saturating_sub(self.pages));
        let end = pages.start.plus(number.min(room) * self.base_bytes);
        let categories = categories & self.scan.report;
        let is_full = self.regions.len() == self.scan.max_regions;
        let done = match self.regions.last_mut() {
            _ if end == pages.start => end,
            Some(last) if last.end == pages.start && last.categories == categories => {
                last.end = end;
                end
            }
            _ if is_full => pages.start,
            _ => {
                self.regions.push(Region { start: pages.start, end, categories });
                end
            }
        };
        self.pages += done.offset_from(pages.start) / self.base_bytes;
        if done < pages.end {
            self.stopped = Some(done);
        }
        done
    }
}

/// A mapping under a scan.
struct Mapping<'r, 's> {
    report: &'r mut Report<'s>,
    /// What all its pages are.
    kind: Categories,
    size: HugeSize,
}

impl Mapping<'_, '_> {
    /// The part of a range of huge pages that is to be scanned.
    fn clipped(&self, range: Range<VirtAddr>) -> Range<VirtAddr> {
        range.start.max(self.report.range.start)..range.end.min(self.report.range.end)
    }

    fn page_at(&self, address: VirtAddr) -> Range<VirtAddr> {
        address..address.plus(self.size.bytes())
    }

    /// Room for whatever a table may have to report.
    fn reserve(&mut self, part: &Range<VirtAddr>) -> Result<(), (VirtAddr, OutOfMemory)> {
        let entries = part.end.offset_from(part.start).div_ceil(self.size.bytes());
        self.report.reserve(entries).map_err(|error| (part.start, error))
    }

    /// Reports without protecting.
    fn look<P: Platform>(
        &mut self,
        mmap: &MmapReadGuard<'_, P>,
        vma: &Arc<Vma<P>>,
        range: Range<VirtAddr>,
        task: &mut Task<P>,
    ) -> Result<(), (VirtAddr, OutOfMemory)> {
        let _locked = VmaReadGuard::beside_section(&mmap.held, vma, task);
        for part in by_table(vma.mm().geometry(), range, self.size) {
            self.reserve(&part)?;
            walk_table(task, vma, part, self);
        }
        Ok(())
    }

    /// Reports, and protects what it reports.
    ///
    /// Linux: `pagemap_scan_hugetlb_entry()` and `pagemap_scan_pte_hole()`, which hold the VMA lock in read and take `i_mmap` for
    /// each entry. A hole deadlocks there, until `pagemap_scan_hugetlb_hole_wp()` came: protecting it takes the VMA lock in write.
    fn protect<P: Platform>(
        &mut self,
        mmap: &MmapReadGuard<'_, P>,
        vma: &Arc<Vma<P>>,
        range: Range<VirtAddr>,
        task: &mut Task<P>,
    ) -> Result<(), (VirtAddr, OutOfMemory)> {
        let Some(mut locked) = mmap.lock_vma_write(vma, task) else { return Ok(()) };
        for part in by_table(vma.mm().geometry(), range, self.size) {
            if self.report.stopped.is_some() {
                break;
            }
            self.reserve(&part)?;
            // With the VMA lock in write, no fault makes a table meanwhile.
            let is_hole = matches!(huge_pte_offset(&locked, vma.mm(), part.start, self.size), Ok(None));
            if is_hole && !self.report.scan.matches(self.kind) {
                continue;
            }
            if is_hole {
                // Not shared: a table with protections in it belongs to this address space only.
                huge_pte_alloc(&locked, vma, part.start, None, task).map_err(|error| (part.start, error))?;
            }
            let mut i_mmap = vma.file().i_mmap_write_within(task);
            let mut gather = Gather::new(vma.mm(), &mut i_mmap);
            gather.announce(vma, &part, Invalidation::ProtectionVma, task);
            if is_hole {
                let protected = self.whole_pages(part);
                protect_entries(&mut locked, protected, true, &mut gather, task);
            } else {
                each_own_entry(&mut locked, part, &mut gather, task, |at, gather| {
                    let page = self.page_at(at.address());
                    let categories =
                        self.kind | categories(at.read(), |frame| vma.mm().hugetlb().page(frame).is_anon());
                    if self.report.stopped.is_some() || !self.report.scan.matches(categories) {
                        return;
                    }
                    let written = categories.contains(Categories::WRITTEN);
                    if !written {
                        let clipped = self.clipped(page);
                        self.report.push(clipped, categories);
                    } else if self.push_whole(page, categories) {
                        at.protect_for_handler(true, gather);
                    }
                });
            }
            gather.finish();
        }
        Ok(())
    }

    /// Reports the pages of a hole one by one. Returns those that lie in it as a whole: what is to be protected.
    fn whole_pages(&mut self, part: Range<VirtAddr>) -> Range<VirtAddr> {
        let mut next = part.start;
        while next < part.end && self.push_whole(self.page_at(next), self.kind) {
            next = next.plus(self.size.bytes());
        }
        part.start..next
    }

    /// Reports a page that is to be protected: as a whole, or not at all, and then the scan ends before it.
    fn push_whole(&mut self, page: Range<VirtAddr>, categories: Categories) -> bool {
        let clipped = self.clipped(page.clone());
        let room = self.report.scan.max_pages.is_none_or(|most| {
            self.report.scan.max_regions == 0
                || most.saturating_sub(self.report.pages) >= self.size.bytes() / self.report.base_bytes
        });
        if clipped != page || !room {
            self.report.stopped = Some(clipped.start);
            return false;
        }
        let end = page.end;
        self.report.push(page, categories) == end
    }
}

impl<P: Platform> Visitor<P> for Mapping<'_, '_> {
    fn entry(&mut self, found: &Found<'_, P>) {
        let is_anon = |frame| found.vma().mm().hugetlb().page(frame).is_anon();
        let categories = self.kind | categories(found.entry(), is_anon);
        if self.report.stopped.is_none() && self.report.scan.matches(categories) {
            let page = self.clipped(self.page_at(found.address()));
            self.report.push(page, categories);
        }
    }

    fn hole(&mut self, _: &Vma<P>, range: Range<VirtAddr>) {
        if self.report.stopped.is_none() && self.report.scan.matches(self.kind) {
            let range = self.clipped(range);
            self.report.push(range, self.kind);
        }
    }
}

/// What an entry's page is. `is_anon` says of a page whether it is a private one.
///
/// Linux: `pagemap_hugetlb_category()` in fs/proc/task_mmu.c.
fn categories(entry: Entry, is_anon: impl Fn(crate::addr::HugeFrame) -> bool) -> Categories {
    let (kind, protected, soft_dirty) = match entry {
        Entry::Leaf(leaf) => {
            let file = if is_anon(leaf.frame) { Categories::empty() } else { Categories::FILE };
            (Categories::PRESENT | file, leaf.is_protected(), leaf.is_soft_dirty())
        }
        Entry::Migration(migration) => (Categories::SWAPPED, migration.uffd_wp, migration.soft_dirty),
        Entry::Hwpoison(_) | Entry::Poison => (Categories::SWAPPED, false, false),
        Entry::Marker => (Categories::SWAPPED, true, false),
        Entry::None | Entry::Table(_) | Entry::HostTable(_) => return Categories::HUGE,
    };
    let mut categories = Categories::HUGE | kind;
    categories.set(Categories::WRITTEN, !protected);
    categories.set(Categories::SOFT_DIRTY, soft_dirty);
    categories
}
