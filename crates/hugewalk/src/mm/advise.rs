//! madvise: advice about a range of addresses.

use core::ops::Range;

use super::unmap::page_range;
use crate::addr::VirtAddr;
use crate::error::MapError;
use crate::fault::{Access, Ahead, FaultError};
use crate::gup::GupError;
use crate::hugetlb::Hugetlb;
use crate::page::PageRef;
use crate::platform::Platform;
use crate::rmap::PageError;
use crate::space::{AddressSpace, MmapReadGuard, MmapWriteGuard, exchange_range};
use crate::sync::Arc;
use crate::task::Task;
use crate::uffd::Announcement;
use crate::vm_ops::{align_error, zap_pages};
use crate::vma::{Protection, Shape, Vma, VmaFlags};

/// Advice about a range of addresses. Linux: `MADV_*`.
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
    /// Let the memory of the pages fail (`MADV_HWPOISON`), as
    /// [`Hugetlb::memory_failure`](crate::Hugetlb::memory_failure) does. The host decides which callers may
    /// ask for that.
    Hwpoison,
    /// Take the pages out of use, and move their contents elsewhere (`MADV_SOFT_OFFLINE`), as
    /// [`Hugetlb::soft_offline`](crate::Hugetlb::soft_offline) does.
    SoftOffline,
    /// Leave the mapping out of core dumps (`MADV_DONTDUMP`).
    ///
    /// This is a flag of the mapping, and only mappings with equal flags share tables. A table that is
    /// shared already stays shared.
    DontDump,
    /// Take `DontDump` back (`MADV_DODUMP`).
    DoDump,
    /// Leave the mapping out of forked children (`MADV_DONTFORK`). For sharing it counts like `DontDump`.
    DontFork,
    /// Take `DontFork` back (`MADV_DOFORK`).
    DoFork,
    /// Expect no particular order of reads (`MADV_NORMAL`): takes `Random` and `Sequential` back.
    Normal,
    /// Expect reads in no particular order (`MADV_RANDOM`). It has no effect on huge pages, but it is a
    /// flag of the mapping: for sharing it counts like `DontDump`, and a mapping is split if only a part of
    /// it gets the flag.
    Random,
    /// Expect reads from start to end (`MADV_SEQUENTIAL`). As for `Random`.
    Sequential,
    /// It will be used soon (`MADV_WILLNEED`). This has no effect on huge pages.
    WillNeed,
    /// It will not be used soon (`MADV_COLD`). Huge pages are not reclaimed: refused.
    Cold,
    /// Reclaim it (`MADV_PAGEOUT`). Refused, as `Cold`.
    PageOut,
    /// The pages may be dropped when memory is short (`MADV_FREE`). Refused, as `Cold`.
    Free,
    /// Give a forked child zeroes (`MADV_WIPEONFORK`). Refused: a huge-page mapping always has a file.
    WipeOnFork,
    /// Give a forked child the contents (`MADV_KEEPONFORK`), which is always so.
    KeepOnFork,
}

impl<P: Platform> AddressSpace<P> {
    /// Acts on advice. Sleeps.
    ///
    /// Takes the mmap lock in read, or in write to change flags of mappings. Besides that:
    ///
    /// - to drop pages or change flags: for each mapping the VMA lock and `i_mmap`, both in write,
    /// - to punch holes, populate or inject errors, with the mmap lock released: what
    ///   [`HugeFile::punch_hole`](crate::file::HugeFile::punch_hole), faults, and memory failure or
    ///   migration take.
    ///
    /// Linux: `madvise(2)`, mm/madvise.c.
    ///
    /// # Errors
    ///
    /// - [`MapError::Unaligned`], [`MapError::NotAllowed`] or [`MapError::Refused`] at the first mapping
    ///   that does not take the advice. What lies before it has been worked on; where flags change, nothing
    ///   has.
    /// - [`MapError::NotMapped`] if there are holes. What is mapped has been worked on; but populating
    ///   stops at a hole.
    /// - [`MapError::Fault`] where populating stopped; [`MapError::Gup`] or [`MapError::Page`] where
    ///   injecting errors stopped.
    /// - [`MapError::OutOfMemory`] at the first mapping that memory ran out for. Where flags change,
    ///   nothing was changed.
    pub fn madvise(
        &self,
        task: &mut Task<P>,
        address: VirtAddr,
        length: u64,
        advice: Advice,
    ) -> Result<(), MapError> {
        task.enter(self.mm().hugetlb())?;
        if length == 0 && self.mm().geometry().is_aligned(address.as_u64()) {
            return Ok(());
        }
        let range = page_range(self.mm(), address, length)?;
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

    /// Sets and clears flags of the mappings in a range. Splits those that reach out of it, which unshares
    /// the tables at the ends. Entries stay as they are. Holes are reported at the end.
    ///
    /// Linux: `madvise_vma_behavior()` and `madvise_update_vma()` in mm/madvise.c.
    fn change_flags(
        &self,
        task: &mut Task<P>,
        range: &Range<VirtAddr>,
        set: VmaFlags,
        clear: VmaFlags,
    ) -> Result<(), MapError> {
        let mut mmap = self.mmap_write_killable(task)?;
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
            // Taken anew for each mapping, since some of the work releases it.
            let mmap = self.mmap_read(task);
            let Some(vma) = mmap.vmas.first_in(&(next..range.end)).cloned() else {
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
        // How many of the next pages are for faults.
        let mut faults: u64 = 0;
        while address < range.end {
            let size = {
                let mmap = self.mmap_read(task);
                let vma = mmap.find(address).ok_or(MapError::NotMapped { address })?;
                // x86-64 can read write-only mappings, but Linux asks for the right by its name.
                let right = if access == Access::Write { Protection::WRITE } else { Protection::READ };
                if !vma.protection().contains(right) {
                    return Err(MapError::NotAllowed);
                }
                vma.size()
            };
            if faults == 0 {
                match self.fault_in_run(task, address.huge_page(size)..range.end, access) {
                    Ahead::Mapped(pages) => {
                        address = address.huge_page(size).plus(pages * size.bytes());
                        continue;
                    }
                    Ahead::Faults(pages) => faults = pages,
                }
            }
            faults -= 1;
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
    /// Lets each page of a range fail, or takes it out of use. A page that is not there yet is faulted in
    /// for it. A step is one page long, wherever in a page the range begins.
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

/// The part of a range that lies in one mapping, with the mmap lock held in read. The function that works
/// on it keeps or releases the lock.
struct Part<'m, P: Platform> {
    space: &'m AddressSpace<P>,
    mmap: MmapReadGuard<'m, P>,
    vma: Arc<Vma<P>>,
    range: Range<VirtAddr>,
}

impl<'m, P: Platform> Part<'m, P> {
    /// Tells the handler that the pages of the part will be dropped, if there is a handler that asked for
    /// such events. The mmap lock is released for that. Afterwards another mapping may lie there, and it
    /// may end earlier.
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
    zap_pages(&mmap.held, &vma, range, task);
    Ok(())
}

/// The whole pages of a part, which may be none.
///
/// Linux: `madvise_dontneed_free_valid_vma()` in mm/madvise.c.
fn droppable<P: Platform>(part: &Part<'_, P>) -> Result<Range<VirtAddr>, MapError> {
    let size = part.vma.size();
    align_error(size, part.range.start.as_u64())?;
    // Locked ones too: Linux never sets VM_LOCKED on huge pages, so it drops them as well.
    Ok(part.range.start..part.range.end.huge_page(size))
}

/// Linux: `madvise_remove()` in mm/madvise.c.
fn remove<P: Platform>(part: Part<'_, P>, task: &mut Task<P>) -> Result<(), MapError> {
    let Part { mmap, vma, range, .. } = part;
    // Linux asks whether the mapping may become writable (VM_MAYWRITE), which every shared mapping may
    // here. It does not ask whether it is writable now, nor whether it is locked.
    if !vma.is_shared() {
        return Err(MapError::AccessDenied);
    }
    let offset = (vma.offset() << vma.size().shift()) + range.start.offset_from(vma.start());
    let event = Announcement::of_removal(&vma, &range, task)?;
    // The inode lock comes after the mmap lock in the order, but punching also waits for VMA locks of other
    // address spaces, whose holders may wait for this mmap lock. The VMA keeps the file alive.
    drop(mmap);
    if let Some(event) = event {
        event.tell(task);
    }
    vma.file().punch_hole(task, offset, range.end.offset_from(range.start))?;
    Ok(())
}
