//! mmap: new mappings.

use core::ops::Range;

use bitflags::bitflags;

use super::unmap::Unmap;
use crate::addr::{HugeSize, VirtAddr};
use crate::arch::Paging;
use crate::error::MapError;
use crate::error::WrongSystem;
use crate::file::HugeFile;
use crate::platform::Platform;
use crate::reserve::NoPage;
use crate::root::Mm;
use crate::space::{AddressSpace, MmapWriteGuard, Places, SetPlace};
use crate::sync::Arc;
use crate::task::Task;
use crate::uffd::Announcements;
use crate::vm_ops::{NewMapping, align_error};
use crate::vma::{Policy, Protection, Shape, VmaFlags};

bitflags! {
    /// How to map. Linux: `MAP_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct MapFlags: u32 {
        /// Stores go to the file (`MAP_SHARED`); without it they go to copies (`MAP_PRIVATE`).
        const SHARED = 1 << 0;
        /// Reserve no pages; a fault may find the pool empty (`MAP_NORESERVE`).
        const NORESERVE = 1 << 1;
        /// Fault everything in at once, as far as possible (`MAP_POPULATE`).
        const POPULATE = 1 << 2;
        /// Lock in memory (`MAP_LOCKED`). For huge pages this only means that everything is faulted in, as
        /// with `POPULATE`; see [`mlock`](AddressSpace::mlock).
        const LOCKED = 1 << 3;
    }
}

/// Where to map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Wherever there is room: the highest free range below 2^47, also where tables have 5 levels.
    Anywhere,
    /// Wherever there is room below this address: the highest free range.
    Below(VirtAddr),
    /// Here if the range is free, else anywhere.
    ///
    /// Only a hint above 2^47 lets a mapping lie above 2^47: *anywhere* then means the whole address space.
    Hint(VirtAddr),
    /// Here, in place of whatever is mapped (`MAP_FIXED`). The host's own mappings are not replaced: see
    /// [`MapError::Claimed`], [`MapError::SameTable`].
    Fixed(VirtAddr),
    /// Here, or not at all (`MAP_FIXED_NOREPLACE`).
    FixedNoReplace(VirtAddr),
}

/// What to map.
#[derive(Debug)]
pub enum Backing<'a, P: Platform> {
    /// A file from a byte offset on, a multiple of its page size.
    File {
        /// The file.
        file: &'a Arc<HugeFile<P>>,
        /// Where in it.
        offset: u64,
    },
    /// Fresh pages of this size, of a file that belongs to this mapping alone.
    Anonymous(HugeSize),
}

/// A request to map. Start with [`anonymous`](Self::anonymous) or [`file`](Self::file):
///
/// ```
/// # use hugewalk::{addr::VirtAddr, arch::X86_64, mm::{MapFlags, MapRequest}, platform::Platform};
/// # fn f<'a, P: Platform>() -> MapRequest<'a, P> {
/// MapRequest::anonymous(X86_64::SIZE_2M, 1 << 30).shared().at(VirtAddr::new(4 << 30)).with(MapFlags::POPULATE)
/// # }
/// ```
#[derive(Debug)]
pub struct MapRequest<'a, P: Platform> {
    /// Where.
    pub placement: Placement,
    /// How many bytes; rounded up to whole pages.
    pub length: u64,
    /// With which rights. Unknown bits are ignored, here and in the flags.
    pub protection: Protection,
    /// How.
    pub flags: MapFlags,
    /// What.
    pub backing: Backing<'a, P>,
}

impl<'a, P: Platform> MapRequest<'a, P> {
    /// Fresh pages of this size: private, readable and writable, wherever there is room.
    #[must_use]
    pub const fn anonymous(size: HugeSize, length: u64) -> Self {
        Self::of(Backing::Anonymous(size), length)
    }

    /// A file, from a byte offset on: private, readable and writable, wherever there is room.
    #[must_use]
    pub const fn file(file: &'a Arc<HugeFile<P>>, offset: u64, length: u64) -> Self {
        Self::of(Backing::File { file, offset }, length)
    }

    const fn of(backing: Backing<'a, P>, length: u64) -> Self {
        Self {
            placement: Placement::Anywhere,
            length,
            protection: Protection::READ.union(Protection::WRITE),
            flags: MapFlags::empty(),
            backing,
        }
    }

    /// Stores go to the file, and other address spaces see them (`MAP_SHARED`).
    #[must_use]
    pub const fn shared(self) -> Self {
        self.with(MapFlags::SHARED)
    }

    /// With these flags added.
    #[must_use]
    pub const fn with(mut self, flags: MapFlags) -> Self {
        self.flags = self.flags.union(flags);
        self
    }

    /// Exactly here, in place of whatever is mapped (`MAP_FIXED`). For the other ways, see [`placed`](Self::placed).
    #[must_use]
    pub const fn at(self, address: VirtAddr) -> Self {
        self.placed(Placement::Fixed(address))
    }

    /// With this placement.
    #[must_use]
    pub const fn placed(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// With these rights instead.
    #[must_use]
    pub const fn protected(mut self, protection: Protection) -> Self {
        self.protection = protection;
        self
    }
}

impl<P: Platform> AddressSpace<P> {
    /// Maps a file or fresh pages, and returns the address. Sleeps.
    ///
    /// Takes the mmap lock in write, the file's inode lock, and `i_mmap` in write.
    ///
    /// With `POPULATE` or `LOCKED`, or after [`mlockall`](Self::mlockall) for later mappings, it also takes
    /// what faults take. A fault that fails ends the populating without an error.
    ///
    /// Linux: `mmap(2)`, `hugetlbfs_file_mmap()` in fs/hugetlbfs/inode.c.
    ///
    /// # Errors
    ///
    /// Any [`MapError`] except those of faults. Nothing was mapped or unmapped then, with two exceptions,
    /// in which the mappings to be replaced are gone:
    ///
    /// - The pages could not be reserved while the mappings to be replaced kept their reservations. So
    ///   these were unmapped and the pages were requested once more. If that fails as well, the error is
    ///   [`MapError::NoPage`] or [`MapError::OutOfMemory`].
    /// - [`MapError::Unaligned`] for an offset that is a multiple of 4 KiB but not of the page size. Linux
    ///   notices it as late.
    pub fn mmap(&self, task: &mut Task<P>, request: &MapRequest<'_, P>) -> Result<VirtAddr, MapError> {
        task.enter(self.mm().hugetlb())?;
        if let Backing::File { file, .. } = request.backing
            && !core::ptr::eq::<crate::hugetlb::Hugetlb<P>>(file.hugetlb(), self.mm().hugetlb())
        {
            // Its frames are those of another platform.
            return Err(WrongSystem.into());
        }
        let (size, offset) = match request.backing {
            Backing::File { file, offset } => (file.size_class(), offset),
            Backing::Anonymous(size) => (size, 0),
        };
        if !self.mm().paging().has(size) {
            return Err(MapError::NoSuchSize { size });
        }
        // The checks below are in Linux's order, so a request with two errors gets the same error.
        if !self.mm().geometry().is_aligned(offset) {
            return Err(MapError::Unaligned { value: offset, size });
        }
        if request.length == 0 {
            return Err(MapError::ZeroLength);
        }
        let length = size.round_up(request.length).ok_or(MapError::Overflow)?;
        if length > self.mm().task_size().as_u64() {
            return Err(MapError::NoRoom { length });
        }
        let mut mmap = self.mmap_write_killable(task)?;
        if mmap.vmas.exited {
            return Err(MapError::Exited);
        }
        let start = place(&mmap, request.placement, length, Some(size))?;
        let range = start..start.plus(length);
        if let Some(address) = mmap.vmas.claims.first_in(&range) {
            return Err(MapError::Claimed { address });
        }
        let end = offset.checked_add(length).filter(|&end| end <= i64::MAX as u64);
        let end = end.ok_or(MapError::OffsetOverflow { offset })?;
        let anonymous;
        let file = match request.backing {
            Backing::File { file, .. } => file,
            Backing::Anonymous(size) => {
                anonymous = HugeFile::new(task.hugetlb(), size, None)?;
                anonymous.grow_to(length);
                &anonymous
            }
        };
        let mut flags = VmaFlags::empty();
        flags.set(VmaFlags::SHARED, request.flags.contains(MapFlags::SHARED));
        flags.set(VmaFlags::NORESERVE, request.flags.contains(MapFlags::NORESERVE));
        let shape = Shape {
            start,
            end: range.end,
            offset: offset >> size.shift(),
            protection: request.protection & Protection::all(),
            flags,
            policy: Policy::Default,
        };
        let populates =
            request.flags.intersects(MapFlags::POPULATE | MapFlags::LOCKED) || mmap.vmas.locks_new;
        let mut events = Announcements::new();
        events.unmap(mmap.vmas.overlapping(&range), &range, task)?;
        let mapped = match align_error(size, offset) {
            Ok(()) => map_file(&mut mmap, file, shape, end, task),
            // Linux makes room before it asks the file whether it can be mapped.
            Err(error) => make_room(&mut mmap, &range, task).and(Err(error)),
        };
        if mapped.is_ok() || mmap.vmas.first_in(&range).is_none() {
            events.done();
        }
        drop(mmap);
        events.tell(task);
        // Dropped at the end: until then, the files of replaced mappings keep their reservations, and
        // populating cannot use them. (In Linux, a file without users goes when the call returns.)
        let _replaced = mapped?;
        if populates {
            // As far as possible: the mapping stands, whether it could be populated or not.
            let _ = self.populate(task, range);
        }
        Ok(start)
    }
}

/// The start of a new mapping. `size` is that of its pages; those of the host are base pages.
///
/// Linux: `hugetlb_get_unmapped_area()` in fs/hugetlbfs/inode.c.
pub(super) fn place<P: Platform>(
    mmap: &MmapWriteGuard<'_, P>,
    placement: Placement,
    length: u64,
    size: Option<HugeSize>,
) -> Result<VirtAddr, MapError> {
    let geometry = mmap.mm().geometry();
    let (top, window) = (mmap.mm().task_size(), mmap.mm().paging().default_window());
    let lowest = mmap.mm().hugetlb().platform().mmap_min_addr();
    let fits = |start: VirtAddr| start.checked_add(length).is_some_and(|end| end <= top);
    let taken = |start: VirtAddr| mmap.vmas.first_taken(&(start..start.plus(length)));
    let beside = |start: VirtAddr| mmap.vmas.beside(geometry, &(start..start.plus(length)), size);
    let unit = size.map_or(geometry.base_bytes(), HugeSize::bytes);
    let anywhere =
        |top| mmap.vmas.gap_below(geometry, (top, lowest), length, size).ok_or(MapError::NoRoom { length });
    match placement {
        Placement::Fixed(start) | Placement::FixedNoReplace(start) => {
            if !geometry.is_aligned(start.as_u64()) {
                return Err(MapError::UnalignedAddress { address: start });
            }
            if let Some(size) = size {
                align_error(size, start.as_u64())?;
            }
            if !fits(start) {
                return Err(MapError::NoRoom { length });
            }
            check_lowest(mmap.mm(), start)?;
            if let (Placement::FixedNoReplace(_), Some(address)) = (placement, taken(start)) {
                return Err(MapError::Exists { address });
            }
            match beside(start) {
                Some(address) => Err(MapError::SameTable { address }),
                None => Ok(start),
            }
        }
        Placement::Hint(hint) => {
            // Rounded down to a small page first, then up to a huge one. Linux: `round_hint_to_min()` in
            // mm/mmap.c.
            let hint = match hint.as_u64() & !(geometry.base_bytes() - 1) {
                0 => 0,
                hint => hint.max(lowest.as_u64()),
            };
            let hint = VirtAddr::new(hint.checked_next_multiple_of(unit).unwrap_or(0));
            // Below the window or above it, not across its end. Linux: `mmap_address_hint_valid()`.
            let on_one_side = |start: VirtAddr| (start > window) == (start.plus(length) > window);
            let is_free = |hint| taken(hint).is_none() && beside(hint).is_none();
            if hint > VirtAddr::default() && fits(hint) && on_one_side(hint) && is_free(hint) {
                return Ok(hint);
            }
            anywhere(if hint > window { top } else { window })
        }
        Placement::Anywhere => anywhere(window),
        Placement::Below(end) => anywhere(end.min(top)),
    }
}

/// Refuses an address that is too low to be mapped.
pub(super) fn check_lowest<P: Platform>(mm: &Mm<P>, address: VirtAddr) -> Result<(), MapError> {
    let lowest = mm.hugetlb().platform().mmap_min_addr();
    if address < lowest { Err(MapError::TooLow { address, lowest }) } else { Ok(()) }
}

/// Unmaps what lies in the range of a mapping that will not be made after all.
fn make_room<P: Platform>(
    mmap: &mut MmapWriteGuard<'_, P>,
    range: &Range<VirtAddr>,
    task: &mut Task<P>,
) -> Result<(), MapError> {
    Unmap::prepare(mmap, range)?.apply(mmap, task);
    Ok(())
}

/// Reserves the pages, makes room at the place, and maps. The steps that can fail come first. Returns what
/// was replaced.
fn map_file<P: Platform>(
    mmap: &mut MmapWriteGuard<'_, P>,
    file: &Arc<HugeFile<P>>,
    shape: Shape,
    file_end: u64,
    task: &mut Task<P>,
) -> Result<Places<P>, MapError> {
    let new = NewMapping::new(mmap.mm(), file, shape)?;
    let in_set = SetPlace::new(new.vma().clone())?;
    let unmap = Unmap::prepare(mmap, &(shape.start..shape.end))?;

    let inode_lock = file.lock_inode(task);
    let mut unmap = Some(unmap);
    let mut replaced = Places::new();
    if let Err(error) = new.reserve() {
        let in_the_way = mmap.vmas.first_in(&(shape.start..shape.end));
        if in_the_way.is_none() || matches!(error, NoPage::OutOfMemory(_)) {
            return Err(error.into());
        }
        // The mappings to be replaced may hold the very reservations that are missing, so they go first, as
        // in Linux. Their files are dropped later, and keep their own reservations until then.
        replaced = unmap.take().map_or_else(Places::new, |unmap| unmap.apply(mmap, task));
        new.reserve()?;
    }
    if let Some(unmap) = unmap {
        replaced = unmap.apply(mmap, task);
    }
    new.link(task);
    mmap.vmas.put(in_set);
    if shape.protection.contains(Protection::WRITE) {
        file.grow_to(file_end);
    }
    drop(inode_lock);
    Ok(replaced)
}
