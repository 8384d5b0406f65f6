//! madvise: what is said about a range.

use core::ops::Range;

use super::unmap::page_range;
use super::{
    AddressSpace, MapError, MmapReadGuard, MmapWriteGuard, Zap, align_error, exchange_range, zap_range,
};
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::fault::{Access, FaultError};
use crate::gather::Gather;
use crate::gup::GupError;
use crate::hugetlb::Hugetlb;
use crate::page::PageRef;
use crate::platform::Platform;
use crate::rmap::PageError;
use crate::sync::Arc;
use crate::task::Task;
use crate::uffd::Announcement;
use crate::vma::{Protection, Shape, Vma, VmaFlags};

/// What is said about a range. Linux: `MADV_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Advice {
    /// Drop the pages; private ones are lost, shared ones stay in the file (`MADV_DONTNEED`).
    DontNeed,
    /// Punch a hole into the file (`MADV_REMOVE`).
    Remove,
    /// Fault everything in for reading (`MADV_POPULATE_READ`).
    PopulateRead,
    /// Fault everything in for writing (`MADV_POPULATE_WRITE`).
    PopulateWrite,
    /// Let the memory of the pages fail (`MADV_HWPOISON`), as [`Hugetlb::memory_failure`](crate::Hugetlb::memory_failure)
    /// does. Who may ask for that is the host's to decide.
    Hwpoison,
    /// Take the pages out of use, with their contents moved elsewhere (`MADV_SOFT_OFFLINE`), as
    /// [`Hugetlb::soft_offline`](crate::Hugetlb::soft_offline) does.
    SoftOffline,
    /// Leave the mapping out of core dumps (`MADV_DONTDUMP`). Like every flag of a mapping it keeps it from sharing tables
    /// with mappings that are without; a table that it shares already stays shared.
    DontDump,
    /// Do not (`MADV_DODUMP`).
    DoDump,
    /// Leave the mapping out of forked children (`MADV_DONTFORK`). For sharing it counts like `DontDump`.
    DontFork,
    /// Do not (`MADV_DOFORK`).
    DoFork,
    /// Expect nothing of how the mapping is read (`MADV_NORMAL`): takes back what the next two said.
    Normal,
    /// Expect it to be read in no order (`MADV_RANDOM`). Nothing comes of that for huge pages, but it is a flag of the mapping:
    /// for sharing it counts like `DontDump`, and a mapping of which a part gets it is split.
    Random,
    /// Expect it to be read from the start on (`MADV_SEQUENTIAL`). As for `Random`.
    Sequential,
    /// It will be used soon (`MADV_WILLNEED`). Nothing comes of it for huge pages.
    WillNeed,
    /// It will not be used soon (`MADV_COLD`). Huge pages are not reclaimed: refused.
    Cold,
    /// Reclaim it (`MADV_PAGEOUT`). Refused, as `Cold`.
    PageOut,
    /// The pages may be dropped when memory is short (`MADV_FREE`). Refused, as `Cold`.
    Free,
    /// Give a forked child zeroes (`MADV_WIPEONFORK`). Refused: a huge-page mapping always has a file.
    WipeOnFork,
    /// Do not (`MADV_KEEPONFORK`), which is always so.
    KeepOnFork,
}

impl<P: Platform> AddressSpace<P> {
    /// Carries advice out. Sleeps.
    ///
    /// Takes the mmap lock in read, or in write to change what a mapping is left out of; for that and to drop pages, also the
    /// VMA lock and `i_mmap` of each mapping, both in write; to punch holes, populate or inject errors, what
    /// [`HugeFile::punch_hole`](crate::file::HugeFile::punch_hole), faults, and memory failure or migration take, with the mmap
    /// lock dropped.
    ///
    /// Linux: `madvise(2)`, mm/madvise.c.
    ///
    /// # Errors
    ///
    /// [`MapError::Unaligned`], [`MapError::NotAllowed`] or [`MapError::Refused`] at the first mapping that does not take the
    /// advice, after what lies before it has been worked on (but where the mapping's flags change, nothing is);
    /// [`MapError::NotMapped`] if there are holes, after what is mapped has been worked on (but populating stops at a
    /// hole); [`MapError::Fault`] where populating stopped; [`MapError::Gup`] or [`MapError::Page`] where injecting errors
    /// stopped; [`MapError::OutOfMemory`] at the first mapping that memory ran out for (where flags change: nothing was
    /// changed).
    pub fn madvise(
        &self,
        task: &mut Task<P>,
        address: VirtAddr,
        length: u64,
        advice: Advice,
    ) -> Result<(), MapError> {
        task.enter(self.mm().hugetlb())?;
        if length == 0 && address.as_u64().is_multiple_of(PAGE_SIZE) {
            return Ok(());
        }
        let range = page_range(address, length)?;
        let none = VmaFlags::empty();
        match advice {
            Advice::DontNeed => self.each_mapping(task, &range, dont_need),
            Advice::Remove => self.each_mapping(task, &range, remove),
            Advice::DontDump => self.change_flags(task, &range, VmaFlags::DONTDUMP, none),
            Advice::DoDump => self.change_flags(task, &range, none, VmaFlags::DONTDUMP),
            Advice::DontFork => self.change_flags(task, &range, VmaFlags::DONTFORK, none),
            Advice::DoFork => self.change_flags(task, &range, none, VmaFlags::DONTFORK),
            Advice::Normal => self.change_flags(task, &range, none, VmaFlags::RANDOM | VmaFlags::SEQUENTIAL),
            Advice::Random => self.change_flags(task, &range, VmaFlags::RANDOM, VmaFlags::SEQUENTIAL),
            Advice::Sequential => self.change_flags(task, &range, VmaFlags::SEQUENTIAL, VmaFlags::RANDOM),
            Advice::WillNeed | Advice::KeepOnFork => self.each_mapping(task, &range, |_, _| Ok(())),
            Advice::Cold | Advice::PageOut | Advice::Free | Advice::WipeOnFork => {
                self.each_mapping(task, &range, |_, _| Err(MapError::Refused))
            }
            Advice::PopulateRead => self.populate_range(task, &range, Access::Read),
            Advice::PopulateWrite => self.populate_range(task, &range, Access::Write),
            Advice::Hwpoison => self
                .inject_errors(task, &range, |hugetlb, page, task| hugetlb.fail_page(task, page).map(|_| ())),
            Advice::SoftOffline => {
                self.inject_errors(task, &range, |hugetlb, page, task| hugetlb.soft_offline_page(task, page))
            }
        }
    }

    /// Gives the mappings of a range flags, and takes others from them; splits those that reach out of it, which unshares the
    /// tables at the ends. Entries stay as they are. Holes are reported at the end.
    ///
    /// Linux: `madvise_vma_behavior()` and `madvise_update_vma()` in mm/madvise.c.
    fn change_flags(
        &self,
        task: &mut Task<P>,
        range: &Range<VirtAddr>,
        set: VmaFlags,
        clear: VmaFlags,
    ) -> Result<(), MapError> {
        let mut mmap = self.mmap_write(task);
        Self::set_flags(&mut mmap, task, range, set, clear)?;
        let mapped = mmap.vmas.mapped_until(range);
        if mapped < range.end { Err(MapError::NotMapped { address: mapped }) } else { Ok(()) }
    }

    /// Sets and clears flags with the mmap lock held in write.
    pub(super) fn set_flags(
        mmap: &mut MmapWriteGuard<'_, P>,
        task: &mut Task<P>,
        range: &Range<VirtAddr>,
        set: VmaFlags,
        clear: VmaFlags,
    ) -> Result<(), MapError> {
        let changed = |flags: VmaFlags| (flags - clear) | set;
        exchange_range(
            mmap,
            range,
            |vma| changed(vma.flags()) != vma.flags(),
            |vma, shape| vma.successor(Shape { flags: changed(shape.flags), ..shape }),
            |_, _, _, _| {},
            task,
        )
    }

    /// Works on each mapping in a range, and reports the first hole at the end.
    fn each_mapping(
        &self,
        task: &mut Task<P>,
        range: &Range<VirtAddr>,
        work: impl Fn(Part<'_, P>, &mut Task<P>) -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        let mut hole = None;
        let mut next = range.start;
        while next < range.end {
            // Taken anew for each mapping, since some of the work lets it go.
            let mmap = self.mmap_read(task);
            let Some(vma) = mmap.vmas.overlapping(&(next..range.end)).next().cloned() else {
                hole = hole.or(Some(next));
                break;
            };
            if vma.start() > next {
                hole = hole.or(Some(next));
            }
            let part = vma.start().max(next)..vma.end().min(range.end);
            next = part.end;
            work(Part { space: self, mmap, vma, range: part }, task)?;
        }
        hole.map_or(Ok(()), |address| Err(MapError::NotMapped { address }))
    }

    fn populate_range(
        &self,
        task: &mut Task<P>,
        range: &Range<VirtAddr>,
        access: Access,
    ) -> Result<(), MapError> {
        let mut address = range.start;
        while address < range.end {
            let size = {
                let mmap = self.mmap_read(task);
                let vma = mmap.find(address).ok_or(MapError::NotMapped { address })?;
                // Write-only mappings can be read on x86-64, but Linux asks for the right by its name.
                let right = if access == Access::Write { Protection::WRITE } else { Protection::READ };
                if !vma.protection().contains(right) {
                    return Err(MapError::NotAllowed);
                }
                vma.size()
            };
            self.fault_in(task, address, access).map_err(|error| match error {
                FaultError::NotMapped { address } => MapError::NotMapped { address },
                error => MapError::Fault(error),
            })?;
            address = address.huge_page(size).plus(size.bytes());
        }
        Ok(())
    }
}

impl<P: Platform> AddressSpace<P> {
    /// Has each page of a range fail, or taken out of use: one that is not there yet is faulted in for it. The steps are as
    /// long as the pages, wherever in a page the range begins.
    ///
    /// Linux: `madvise_inject_error()` in mm/madvise.c.
    fn inject_errors(
        &self,
        task: &mut Task<P>,
        range: &Range<VirtAddr>,
        inject: impl Fn(&Hugetlb<P>, PageRef<'_, P>, &mut Task<P>) -> Result<(), PageError>,
    ) -> Result<(), MapError> {
        let mut address = Some(range.start);
        while let Some(at) = address.filter(|&at| at < range.end) {
            let page = self.hold_page(task, at).map_err(|error| match error {
                GupError::OutOfMemory(error) => MapError::OutOfMemory(error),
                other => MapError::Gup(other),
            })?;
            let size = page.size();
            inject(self.mm().hugetlb(), page, task).map_err(MapError::Page)?;
            address = at.checked_add(size.bytes());
        }
        Ok(())
    }
}

/// The part of a range that lies in one mapping, with the mmap lock held in read, to be let go or kept by who works on it.
struct Part<'m, P: Platform> {
    space: &'m AddressSpace<P>,
    mmap: MmapReadGuard<'m, P>,
    vma: Arc<Vma<P>>,
    range: Range<VirtAddr>,
}

impl<'m, P: Platform> Part<'m, P> {
    /// Tells the handler, if there is one who wants to know, that the pages of the part will be dropped; the mmap lock is let
    /// go for that. What it is a part of may be another mapping then, which may end earlier.
    ///
    /// Linux: `userfaultfd_remove()` in fs/userfaultfd.c, and what follows it in `madvise_dontneed_free()` in mm/madvise.c.
    fn announced(self, task: &mut Task<P>) -> Result<Self, MapError> {
        let Some(event) = Announcement::of_removal(&self.vma, &self.range, task)? else {
            return Ok(self);
        };
        let Part { space, mmap, vma, range } = self;
        drop((mmap, vma));
        event.tell(task);
        let mmap = space.mmap_read(task);
        let vma = mmap.find(range.start).cloned().ok_or(MapError::NotMapped { address: range.start })?;
        let range = range.start..range.end.min(vma.end());
        Ok(Part { space, mmap, vma, range })
    }
}

/// Linux: `madvise_dontneed_free()` in mm/madvise.c, `zap_page_range()` in mm/memory.c.
fn dont_need<P: Platform>(part: Part<'_, P>, task: &mut Task<P>) -> Result<(), MapError> {
    let mut part = part;
    part.range = droppable(&part)?;
    if part.range.is_empty() {
        return Ok(());
    }
    let mut part = part.announced(task)?;
    part.range = droppable(&part)?;
    let Part { mmap, vma, range, .. } = part;
    let Some(mut locked) = mmap.lock_vma_write(&vma, task) else { return Ok(()) };
    let mut i_mmap = vma.file().i_mmap_write(task);
    let mut gather = Gather::new(vma.mm(), &mut i_mmap);
    zap_range(&mut locked, range, Zap::Pages, &mut gather, task);
    gather.finish();
    Ok(())
}

/// The whole pages of a part, which may be none.
///
/// Linux: `madvise_dontneed_free_valid_vma()` in mm/madvise.c.
fn droppable<P: Platform>(part: &Part<'_, P>) -> Result<Range<VirtAddr>, MapError> {
    let size = part.vma.size();
    align_error(size, part.range.start.as_u64())?;
    // Locked or not: Linux never sets VM_LOCKED on huge pages, so they are dropped there too.
    Ok(part.range.start..part.range.end.huge_page(size))
}

/// Linux: `madvise_remove()` in mm/madvise.c.
fn remove<P: Platform>(part: Part<'_, P>, task: &mut Task<P>) -> Result<(), MapError> {
    let Part { mmap, vma, range, .. } = part;
    // What counts is whether the mapping may become writable (VM_MAYWRITE), which every shared one may here; not
    // whether it is so now, nor whether it is locked.
    if !vma.is_shared() {
        return Err(MapError::AccessDenied);
    }
    let offset = (vma.offset() << vma.size().shift()) + range.start.offset_from(vma.start());
    let event = Announcement::of_removal(&vma, &range, task)?;
    // The inode lock comes after the mmap lock, but punching waits for VMA locks of others, whose holders may wait for this
    // mmap lock. The VMA keeps the file.
    drop(mmap);
    if let Some(event) = event {
        event.tell(task);
    }
    vma.file().punch_hole(task, offset, range.end.offset_from(range.start))?;
    Ok(())
}
