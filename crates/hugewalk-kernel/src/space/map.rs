//! mmap, munmap, mprotect and madvise over both kinds of pages.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::file::HugeFile;
use hugewalk::mm::{Advice, Backing as HugeBacking, MapFlags, MapRequest, Placement};
use hugewalk::vma::Protection;

use super::area::{Area, Backing, Rights};
use super::root::bits;
use super::{BASE_TOP, HUGE_TOP, Space, user_range};
use crate::errno::{Errno, Result};
use crate::memory::{PAGE, USER_END};
use crate::platform::Kernel;
use crate::task::current;
use crate::uffd::Unmapped;

/// Where a mapping goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Near this address if there is room, else anywhere; 0 is anywhere.
    Hint(u64),
    /// Here, in place of what is there.
    Fixed(u64),
    /// Here, or not at all.
    FixedNoReplace(u64),
}

/// Huge pages to map.
pub struct HugeMapping<'a> {
    /// A file and an offset in bytes; without one, fresh pages of the size.
    pub file: Option<(&'a hugewalk::Arc<HugeFile<Kernel>>, u64)>,
    /// The size of a page.
    pub size: HugeSize,
    /// Bytes.
    pub length: u64,
    /// What it allows.
    pub rights: Rights,
    /// Stores go to the file.
    pub shared: bool,
    /// No pages are reserved.
    pub noreserve: bool,
    /// Pages are faulted in at once.
    pub populate: bool,
    /// And stay in memory.
    pub locked: bool,
}

/// A range of an address space, and whether it has huge pages.
type Part = (Range<u64>, bool);

impl Space {
    /// Maps base pages. The area's bounds say how large; where is said by `place`. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EEXIST`; those of [`unmap`](Self::unmap).
    pub fn map_base(&self, place: Place, length: u64, area: Area) -> Result<u64> {
        let length = length
            .checked_next_multiple_of(PAGE)
            .filter(|length| *length <= USER_END)
            .ok_or(Errno::ENOMEM)?;
        let mut unmapped = Unmapped::default();
        if let Place::Fixed(start) = place {
            user_range(start, length).map_err(|_| Errno::ENOMEM)?;
            unmapped = self.unmap_untold(start, length)?;
        }
        let mapped = self.map_free(place, length, area);
        unmapped.tell();
        mapped
    }

    fn map_free(&self, place: Place, length: u64, mut area: Area) -> Result<u64> {
        let mut areas = self.areas().write();
        let start = find_place(place, length, PAGE, BASE_TOP, |placement| {
            let mut task = current().task()?;
            Ok(self.engine().claim(&mut task, placement, length)?.as_u64())
        })?;
        if area.stack {
            // The stack may grow, and a guard gap stays below it.
            let lowest = (start + length).saturating_sub(super::STACK_LIMIT + (1 << 20)).min(start);
            let mut task = current().task()?;
            self.engine().claim(
                &mut task,
                Placement::Fixed(VirtAddr::new(lowest)),
                start - lowest + length,
            )?;
        }
        area.start = start;
        area.end = start + length;
        note_writable(&area, true);
        areas.insert(area);
        Ok(start)
    }

    /// Maps base pages at the area's own place, which is free if not `replace`.
    ///
    /// # Errors
    ///
    /// As for [`map_base`](Self::map_base).
    pub fn map_area(&self, area: Area, replace: bool) -> Result<u64> {
        let place = if replace { Place::Fixed(area.start) } else { Place::FixedNoReplace(area.start) };
        self.map_base(place, area.end - area.start, area)
    }

    /// Maps huge pages. Sleeps.
    ///
    /// # Errors
    ///
    /// Those of the engine's mmap; `ENOMEM`, `EEXIST`; those of [`unmap`](Self::unmap).
    pub fn map_huge(&self, place: Place, mapping: &HugeMapping<'_>) -> Result<u64> {
        let size = mapping.size.bytes();
        let length = mapping.length;
        let rounded = length.checked_next_multiple_of(size).unwrap_or(length);
        if let Place::Fixed(start) = place
            && start.is_multiple_of(size)
        {
            let (start, end) = user_range(start, rounded).map_err(|_| Errno::ENOMEM)?;
            // Of addresses without an area, what is claimed is only kept free for the stack. With the lock held, no area comes to be there.
            let areas = self.areas().write();
            let has_base = areas.overlapping(start, end).next().is_some();
            if !has_base {
                self.release(start, end);
            }
            drop(areas);
            if has_base {
                // Base pages there go; the engine sees to its own.
                self.unmap(start, rounded)?;
            }
        }
        let mut flags = MapFlags::empty();
        flags.set(MapFlags::SHARED, mapping.shared);
        flags.set(MapFlags::NORESERVE, mapping.noreserve);
        flags.set(MapFlags::POPULATE, mapping.populate);
        flags.set(MapFlags::LOCKED, mapping.locked);
        let map = |placement| {
            let request = MapRequest {
                placement,
                length,
                protection: protection(mapping.rights),
                flags,
                backing: match mapping.file {
                    Some((file, offset)) => HugeBacking::File { file, offset },
                    None => HugeBacking::Anonymous(mapping.size),
                },
            };
            let mut task = current().task()?;
            Ok(self.engine().mmap(&mut task, &request)?.as_u64())
        };
        match place {
            Place::Fixed(start) => map(Placement::Fixed(VirtAddr::new(start))),
            Place::FixedNoReplace(start) => map(Placement::FixedNoReplace(VirtAddr::new(start))),
            Place::Hint(_) => find_place(place, length, size, HUGE_TOP, map),
        }
    }

    /// Splits a range into the parts that are mapped, by address, and says where the first hole is.
    pub(super) fn parts(&self, start: u64, end: u64) -> Result<(Vec<Part>, Option<u64>)> {
        let mut parts: Vec<Part> = Vec::new();
        {
            let areas = self.areas().read();
            let clip = |from: u64, to: u64| from.max(start)..to.min(end);
            parts.extend(areas.overlapping(start, end).map(|area| (clip(area.start, area.end), false)));
            let mut task = current().task()?;
            let huge = self.engine().mmap_read(&mut task);
            let range = VirtAddr::new(start)..VirtAddr::new(end);
            parts.extend(
                huge.overlapping(&range).map(|vma| (clip(vma.start().as_u64(), vma.end().as_u64()), true)),
            );
        }
        parts.sort_unstable_by_key(|(range, _)| range.start);
        let mut next = start;
        for (range, _) in &parts {
            if range.start > next {
                break;
            }
            next = range.end;
        }
        Ok((parts, (next < end).then_some(next)))
    }

    /// Unmaps a range. Sleeps, also until a handler of page faults has read the event.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the range is not one, or an end of it lies inside a huge page.
    pub fn unmap(&self, start: u64, length: u64) -> Result<()> {
        self.unmap_untold(start, length)?.tell();
        Ok(())
    }

    /// As [`unmap`](Self::unmap), but handlers of base pages have yet to be told.
    pub(super) fn unmap_untold(&self, start: u64, length: u64) -> Result<Unmapped> {
        let mut unmapped = Unmapped::default();
        let length = length.checked_next_multiple_of(PAGE).ok_or(Errno::EINVAL)?;
        if !start.is_multiple_of(PAGE) || length == 0 {
            return Err(Errno::EINVAL);
        }
        let (start, end) = user_range(start, length).map_err(|_| Errno::EINVAL)?;
        if !self.has_base(start, length) {
            let mut task = current().task()?;
            self.engine().munmap(&mut task, VirtAddr::new(start), length)?;
            return Ok(unmapped);
        }
        let (parts, _) = self.parts(start, end)?;
        // The engine's part first: it can fail, and then nothing has happened.
        if parts.iter().any(|(_, huge)| *huge) {
            let mut task = current().task()?;
            self.engine().munmap(&mut task, VirtAddr::new(start), length)?;
        }
        let mut areas = self.areas().write();
        let taken = areas.take(start, end);
        for area in &taken {
            self.clear(area.start, area.end);
            self.release(area.start, area.end);
            note_writable(area, false);
            unmapped.note(area);
        }
        drop(areas);
        Ok(unmapped)
    }

    /// Gives addresses back that base pages had.
    pub(super) fn release(&self, start: u64, end: u64) {
        if let Ok(mut task) = current().task() {
            // Without memory the addresses stay the kernel's: nothing is mapped there again.
            let _ = self.engine().release(&mut task, VirtAddr::new(start)..VirtAddr::new(end));
        }
    }

    /// Changes the rights of a range. Sleeps.
    ///
    /// # Errors
    ///
    /// `EINVAL`, `ENOMEM` at a hole (what lies before it has changed), `EACCES`.
    pub fn protect(&self, start: u64, length: u64, rights: Rights) -> Result<()> {
        if !start.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let length = length.checked_next_multiple_of(PAGE).ok_or(Errno::ENOMEM)?;
        if length == 0 {
            return Ok(());
        }
        let (start, end) = user_range(start, length).map_err(|_| Errno::ENOMEM)?;
        if !self.has_base(start, length) {
            let mut task = current().task()?;
            if rights.contains(Rights::WRITE) {
                self.may_become_writable(&mut task, &(start..end))?;
            }
            return Ok(self.engine().mprotect(
                &mut task,
                VirtAddr::new(start),
                length,
                protection(rights),
            )?);
        }
        let (parts, hole) = self.parts(start, end)?;
        for (range, huge) in parts {
            if hole.is_some_and(|hole| range.start >= hole) {
                break;
            }
            if huge {
                let mut task = current().task()?;
                let length = range.end - range.start;
                if rights.contains(Rights::WRITE) {
                    self.may_become_writable(&mut task, &range)?;
                }
                self.engine().mprotect(&mut task, VirtAddr::new(range.start), length, protection(rights))?;
            } else {
                self.protect_base(range.start, range.end, rights)?;
            }
        }
        if hole.is_some() { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// Seals of a file keep its shared mappings from becoming writable; the engine knows nothing of seals.
    fn may_become_writable(&self, task: &mut hugewalk::Task<Kernel>, range: &Range<u64>) -> Result<()> {
        let range = VirtAddr::new(range.start)..VirtAddr::new(range.end);
        let mmap = self.engine().mmap_read(task);
        let mut shared = mmap.overlapping(&range).filter(|vma| vma.is_shared());
        let sealed = shared.any(|vma| crate::fs::huge_file::may_map_writable(vma.file().id()).is_err());
        if sealed { Err(Errno::EACCES) } else { Ok(()) }
    }

    fn protect_base(&self, start: u64, end: u64, rights: Rights) -> Result<()> {
        let mut areas = self.areas().write();
        if rights.contains(Rights::WRITE) && areas.overlapping(start, end).any(|area| !area.may_write) {
            return Err(Errno::EACCES);
        }
        for mut area in areas.take(start, end) {
            area.rights = rights;
            // Without stores at first: a store finds out whether the page is the mapping's alone.
            let clear = bits::WRITE | bits::NO_EXECUTE | bits::PRESENT | bits::USER;
            let set = rights.entry(false);
            self.change(area.start, area.end, |_, _, entry| match entry & bits::KEPT {
                0 => entry,
                _ => entry & !clear | set,
            });
            areas.insert(area);
        }
        Ok(())
    }

    /// Follows an advice for a range. Sleeps.
    ///
    /// # Errors
    ///
    /// Those of the engine's madvise; `ENOMEM` at a hole (the rest has been followed), `EINVAL`.
    pub fn advise(self: &Arc<Self>, start: u64, length: u64, advice: Advice) -> Result<()> {
        if !start.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let length = length.checked_next_multiple_of(PAGE).ok_or(Errno::EINVAL)?;
        if length == 0 {
            return Ok(());
        }
        let (start, end) = user_range(start, length).map_err(|_| Errno::ENOMEM)?;
        let (parts, hole) = self.parts(start, end)?;
        // The engine sees all of its part of the range at once: it judges bounds inside huge pages.
        if parts.iter().all(|(_, huge)| *huge) && !parts.is_empty() {
            let mut task = current().task()?;
            let done = self.engine().madvise(&mut task, VirtAddr::new(start), length, advice);
            return Ok(done?);
        }
        for (range, huge) in parts {
            if huge {
                let mut task = current().task()?;
                self.engine().madvise(
                    &mut task,
                    VirtAddr::new(range.start),
                    range.end - range.start,
                    advice,
                )?;
            } else {
                self.advise_base(range.start, range.end, advice)?;
            }
        }
        if hole.is_some() { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    fn advise_base(self: &Arc<Self>, start: u64, end: u64, advice: Advice) -> Result<()> {
        use hugewalk::fault::Access;
        match advice {
            Advice::DontNeed => {
                self.tell_removed(start, end);
                let areas = self.areas().read();
                for area in areas.overlapping(start, end) {
                    // Of memory that has a source, what a handler has protected stays so.
                    let stays = area.protects() && matches!(area.backing, Backing::Source { .. });
                    let kept = if stays { bits::PROTECTED } else { 0 };
                    self.clear_but(area.start.max(start), area.end.min(end), kept);
                }
                Ok(())
            }
            Advice::PopulateRead | Advice::PopulateWrite => {
                let (access, right) = match advice {
                    Advice::PopulateRead => (Access::Read, Rights::READ),
                    _ => (Access::Write, Rights::WRITE),
                };
                if self.areas().read().overlapping(start, end).any(|area| !area.rights.contains(right)) {
                    return Err(Errno::EINVAL);
                }
                for at in (start..end).step_by(PAGE as usize) {
                    self.fault(at, access).map_err(super::fault::Refused::errno)?;
                }
                Ok(())
            }
            Advice::Remove => {
                self.tell_removed(start, end);
                self.remove(start, end)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// Faults a range in, as far as possible (`MAP_POPULATE`).
    pub fn populate(self: &Arc<Self>, start: u64, length: u64, rights: Rights) {
        let advice =
            if rights.contains(Rights::WRITE) { Advice::PopulateWrite } else { Advice::PopulateRead };
        let _ = self.advise(start, length, advice);
    }
}

/// Tells the source that a mapping through which stores reach it appears or goes.
fn note_writable(area: &Area, appears: bool) {
    if let Backing::Source { source, .. } = &area.backing
        && area.writes_source()
    {
        source.writable_mapping(appears);
    }
}

/// The engine's word for rights.
pub fn protection(rights: Rights) -> Protection {
    Protection::from_bits_truncate(rights.bits())
}

/// Tries the places that a mapping may have, in turn. The engine has the whole picture: its own mappings, and what the kernel has
/// claimed.
fn find_place(
    place: Place,
    length: u64,
    align: u64,
    top: u64,
    map: impl Fn(Placement) -> Result<u64>,
) -> Result<u64> {
    if length == 0 {
        return Err(Errno::EINVAL);
    }
    let here = |start| map(Placement::FixedNoReplace(VirtAddr::new(start)));
    match place {
        // What was there has been unmapped. If another thread mapped something meanwhile, the caller tries again.
        Place::Fixed(start) => match here(start) {
            Err(Errno::EEXIST) => Err(Errno::EAGAIN),
            mapped => mapped,
        },
        Place::FixedNoReplace(start) if !start.is_multiple_of(align) => Err(Errno::EINVAL),
        Place::FixedNoReplace(start) => here(start),
        Place::Hint(hint) => {
            let hint = hint.checked_next_multiple_of(align).filter(|hint| *hint != 0);
            match hint.map(here) {
                None | Some(Err(Errno::EEXIST | Errno::ENOMEM | Errno::EPERM)) => {}
                Some(mapped) => return mapped,
            }
            let below = |top| map(Placement::Below(VirtAddr::new(top)));
            match below(top) {
                Err(Errno::ENOMEM) => below(USER_END),
                mapped => mapped,
            }
        }
    }
}
