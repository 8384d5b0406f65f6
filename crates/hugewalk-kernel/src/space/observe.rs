//! What /proc and mincore show of an address space.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::arch::Entry;
use hugewalk::pagewalk::{Found, NumaMaps, PageMap, Visitor};
use hugewalk::uffd::Modes;
use hugewalk::vma::VmaFlags;

use super::area::{Backing, Rights};
use super::root::bits;
use super::{Space, user_range};
use crate::errno::{Errno, Result};
use crate::fs::huge_file;
use crate::memory::{PAGE, USER_END};
use crate::platform::Kernel;
use crate::task::current;

/// A mapping, as /proc/PID/maps and smaps show it.
pub struct Shown {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// What it allows.
    pub rights: Rights,
    /// Stores go to the file.
    pub shared: bool,
    /// The size of a huge page, or `None` for base pages.
    pub huge: Option<HugeSize>,
    /// Offset in the file.
    pub offset: u64,
    /// Bytes that are mapped by this address space alone, and by several.
    pub private_bytes: u64,
    /// See `private_bytes`.
    pub shared_bytes: u64,
    /// What is mapped, if it has a name.
    pub name: String,
    /// The device and the number of the inode of what is mapped.
    pub place: (u32, u64),
    /// What handlers of page faults are told of there.
    pub handled: VmaFlags,
}

/// What one base page's worth of an address space looks like in /proc/PID/pagemap.
#[derive(Clone, Copy, Default)]
pub struct PageShown {
    /// Its frame number.
    pub frame: Option<u64>,
    /// No other mapping has it.
    pub exclusive: bool,
    /// It belongs to a file, or to shared memory.
    pub file: bool,
    /// Written since soft-dirty was cleared.
    pub soft_dirty: bool,
    /// A handler of page faults has protected it from stores.
    pub protected: bool,
    /// What the engine says, of a huge page.
    pub huge: Option<PageMap>,
}

/// The flags of a mapping that say which faults are somebody's.
fn handled(modes: Modes) -> VmaFlags {
    let mut flags = VmaFlags::empty();
    flags.set(VmaFlags::UFFD_MISSING, modes.contains(Modes::MISSING));
    flags.set(VmaFlags::UFFD_WP, modes.contains(Modes::WP));
    flags.set(VmaFlags::UFFD_MINOR, modes.contains(Modes::MINOR));
    flags
}

struct Leaves<'a> {
    found: &'a mut Vec<(u64, u64, PageShown)>,
}

impl Visitor<Kernel> for Leaves<'_> {
    fn entry(&mut self, found: &Found<'_, Kernel>) {
        let Entry::Leaf(leaf) = found.entry() else { return };
        let shown = PageShown {
            frame: Some(leaf.frame.0),
            exclusive: !found.is_page_shared(),
            file: found.vma().is_shared(),
            soft_dirty: leaf.flags.contains(hugewalk::arch::LeafFlags::SOFT_DIRTY),
            ..PageShown::default()
        };
        self.found.push((found.address().as_u64(), found.vma().size().bytes(), shown));
    }
}

impl Space {
    /// The mappings, by address. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn shown(&self) -> Result<Vec<Shown>> {
        let mut all = Vec::new();
        let heap = self.brk();
        for area in self.areas().read().iter() {
            let mut bytes = (0, 0);
            self.visit(area.start, area.end, |_, entry| {
                if entry & bits::KEPT == 0 {
                    return;
                }
                // SAFETY: the entry keeps a reference, and the lock of the entries the entry.
                let page = core::mem::ManuallyDrop::new(unsafe {
                    crate::memory::page::BasePage::from_address(entry & bits::FRAME)
                });
                *(if page.references() > 1 { &mut bytes.1 } else { &mut bytes.0 }) += PAGE;
            });
            let (offset, name, place) = match &area.backing {
                Backing::Anonymous if area.stack => (0, "[stack]".to_string(), None),
                Backing::Anonymous if area.start < heap.1 && area.end > heap.0 => {
                    (0, "[heap]".to_string(), None)
                }
                Backing::Anonymous => (0, String::new(), None),
                // Memory without a name has an inode too.
                Backing::Source { source, index } => {
                    (index * PAGE, source.name(), source.place().or(Some((1, 1))))
                }
            };
            all.push(Shown {
                start: area.start,
                end: area.end,
                rights: area.rights,
                shared: area.shared,
                huge: None,
                offset,
                private_bytes: bytes.0,
                shared_bytes: bytes.1,
                name,
                place: place.unwrap_or_default(),
                handled: area.registered().map_or(VmaFlags::empty(), |known| handled(known.modes)),
            });
        }
        let mut task = current().task()?;
        let engine = self.engine().residency(&mut task, |vma, residency| {
            let size = vma.size();
            all.push(Shown {
                start: vma.start().as_u64(),
                end: vma.end().as_u64(),
                rights: Rights::from_bits_truncate(vma.protection().bits()),
                shared: vma.is_shared(),
                huge: Some(size),
                offset: vma.offset() << size.shift(),
                private_bytes: residency.private * size.bytes(),
                shared_bytes: residency.shared * size.bytes(),
                name: huge_file::name_of(vma.file().id()),
                place: huge_file::place_of(vma.file().id()).unwrap_or((15, vma.file().id())),
                handled: vma.flags(),
            });
        });
        engine.map_err(|_| Errno::EINVAL)?;
        all.sort_unstable_by_key(|shown| shown.start);
        Ok(all)
    }

    /// What is mapped at each base page of a range. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn pages(&self, start: u64, count: usize) -> Result<Vec<PageShown>> {
        let mut pages = Vec::new();
        pages.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        pages.resize(count, PageShown::default());
        let Ok((start, end)) = user_range(start, count as u64 * PAGE) else { return Ok(pages) };
        {
            let areas = self.areas().read();
            for area in areas.overlapping(start, end) {
                let file = area.shared;
                let protects = area.protects();
                self.visit(area.start.max(start), area.end.min(end), |at, entry| {
                    let shown = &mut pages[((at - start) / PAGE) as usize];
                    shown.protected = protects && entry & bits::PROTECTED != 0;
                    if entry & bits::KEPT == 0 {
                        return;
                    }
                    // SAFETY: the entry keeps a reference, and the lock of the entries the entry.
                    let page = core::mem::ManuallyDrop::new(unsafe {
                        crate::memory::page::BasePage::from_address(entry & bits::FRAME)
                    });
                    shown.frame = Some(page.address() / PAGE);
                    shown.exclusive = page.references() == 1;
                    shown.file = file;
                    shown.soft_dirty = true;
                });
            }
        }
        let mut leaves = Vec::new();
        let mut task = current().task()?;
        let range = VirtAddr::new(start)..VirtAddr::new(end);
        let mapped: Vec<_> = {
            let huge = self.engine().mmap_read(&mut task);
            huge.overlapping(&range).map(|vma| (vma.end().as_u64(), vma.size().bytes())).collect()
        };
        self.engine().walk_range(&mut task, range.clone(), &mut Leaves { found: &mut leaves })?;
        for (at, size, shown) in leaves {
            for page in (at.max(start)..(at + size).min(end)).step_by(PAGE as usize) {
                let frame = shown.frame.map(|frame| frame + (page - at) / PAGE);
                pages[((page - start) / PAGE) as usize] = PageShown { frame, ..shown };
            }
        }
        for (at, map) in self.engine().pagemap(&mut task, range)? {
            let at = at.as_u64();
            // What was mapped since the look is shown the next time.
            let size = mapped.iter().find(|(end, _)| at < *end).map_or(PAGE, |(_, size)| *size);
            for page in (at.max(start)..(at + size).min(end)).step_by(PAGE as usize) {
                pages[((page - start) / PAGE) as usize].huge = Some(map);
            }
        }
        Ok(pages)
    }

    /// Is each base page of a range in memory? Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if part of the range is not mapped.
    pub fn mincore(&self, start: u64, length: u64) -> Result<Vec<u8>> {
        let (start, end) = user_range(start, length).map_err(|_| Errno::ENOMEM)?;
        let end = end.next_multiple_of(PAGE);
        let (_, hole) = self.parts(start, end)?;
        if hole.is_some() {
            return Err(Errno::ENOMEM);
        }
        let shown = self.pages(start, ((end - start) / PAGE) as usize)?;
        let mut here: Vec<u8> = shown.iter().map(|page| u8::from(page.frame.is_some())).collect();
        {
            let mut task = current().task()?;
            let mmap = self.engine().mmap_read(&mut task);
            let range = VirtAddr::new(start)..VirtAddr::new(end);
            let huge: Vec<_> = mmap
                .overlapping(&range)
                .map(|vma| {
                    let size = vma.size().bytes();
                    let from = vma.start().as_u64().max(start & !(size - 1));
                    (from..vma.end().as_u64().min(end), size)
                })
                .collect();
            drop(mmap);
            for (range, size) in huge {
                let pages = VirtAddr::new(range.start)..VirtAddr::new(range.end.next_multiple_of(size));
                for (at, resident) in self.engine().mincore(&mut task, pages)? {
                    let at = at.as_u64();
                    for page in (at.max(start)..(at + size).min(end)).step_by(PAGE as usize) {
                        here[((page - start) / PAGE) as usize] = u8::from(resident);
                    }
                }
            }
        }
        let areas = self.areas().read();
        for area in areas.overlapping(start, end) {
            let Backing::Source { source, index } = &area.backing else { continue };
            for at in (area.start.max(start)..area.end.min(end)).step_by(PAGE as usize) {
                let has = source.has_page(index + (at - area.start) / PAGE);
                here[((at - start) / PAGE) as usize] |= u8::from(has);
            }
        }
        Ok(here)
    }
}

impl Space {
    /// The size of the huge page that an address lies in, mapped or not. Sleeps.
    pub fn huge_size(&self, address: u64) -> Option<HugeSize> {
        let mut task = current().task().ok()?;
        let huge = self.engine().mmap_read(&mut task);
        huge.find(VirtAddr::new(address)).map(|vma| vma.size())
    }

    /// The name of a word in memory that several address spaces share: of its source, and its offset there. `None` if it is in
    /// private memory. Sleeps.
    ///
    /// # Errors
    ///
    /// `EFAULT` if nothing is mapped there.
    pub fn shared_key(&self, address: u64) -> Result<Option<(usize, u64)>> {
        if let Some(area) = self.areas().read().find(address) {
            return Ok(match &area.backing {
                Backing::Source { source, index } if area.shared => {
                    let source = alloc::sync::Arc::as_ptr(source).cast::<()>().addr();
                    Some((source, index * PAGE + (address - area.start)))
                }
                _ => None,
            });
        }
        let mut task = current().task()?;
        let huge = self.engine().mmap_read(&mut task);
        let vma = huge.find(VirtAddr::new(address)).ok_or(Errno::EFAULT)?;
        let offset = (vma.offset() << vma.size().shift()) + (address - vma.start().as_u64());
        // Numbers of files are small; no source lies there.
        Ok(vma.is_shared().then(|| (vma.file().id() as usize, offset)))
    }
}

impl Space {
    /// What numa_maps adds up of the huge pages in a range. Sleeps.
    ///
    /// # Errors
    ///
    /// As the engine's.
    pub fn totals(&self, start: u64, end: u64) -> Result<NumaMaps> {
        let me = current();
        let range = VirtAddr::new(start)..VirtAddr::new(end);
        Ok(self.engine().numa_maps(&mut *me.task()?, range)?)
    }

    /// Is a file of the file system with this device number mapped? Sleeps.
    pub fn maps_device(&self, device: u32) -> bool {
        let of_it = |place: Option<(u32, u64)>| place.is_some_and(|place| place.0 == device);
        let base = self.areas().read().iter().any(|area| match &area.backing {
            Backing::Source { source, .. } => of_it(source.place()),
            Backing::Anonymous => false,
        });
        let me = current();
        let Ok(mut task) = me.task() else { return base };
        let huge = self.engine().mmap_read(&mut task);
        let all = VirtAddr::new(0)..VirtAddr::new(USER_END);
        base || huge.overlapping(&all).any(|vma| of_it(huge_file::place_of(vma.file().id())))
    }

    /// Is all of a range mapped? Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn is_mapped(&self, start: u64, length: u64) -> Result<bool> {
        let Ok((start, end)) = user_range(start, length) else { return Ok(false) };
        Ok(self.parts(start, end)?.1.is_none())
    }
}
