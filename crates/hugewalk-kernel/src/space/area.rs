//! Areas: the mapped ranges of base pages of an address space. Linux: `vm_area_struct`.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use bitflags::bitflags;
use hugewalk::uffd::Modes;

use super::root::bits;
use crate::errno::Result;
use crate::memory::page::BasePage;
use crate::uffd::Registration;

bitflags! {
    /// What a mapping allows.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Rights: u8 {
        /// Loads.
        const READ = 1;
        /// Stores.
        const WRITE = 2;
        /// Instruction fetches.
        const EXECUTE = 4;
    }
}

impl Rights {
    /// The bits of an entry that keeps a page, with these rights; `write` says whether stores are allowed now.
    pub fn entry(self, write: bool) -> u64 {
        let mut entry = bits::KEPT;
        if !self.is_empty() {
            entry |= bits::PRESENT | bits::USER;
        }
        if write && self.contains(Self::WRITE) {
            entry |= bits::WRITE;
        }
        if !self.contains(Self::EXECUTE) {
            entry |= bits::NO_EXECUTE;
        }
        entry
    }
}

/// What has pages that can be mapped: a file of the kernel's own, or shared memory without a name.
pub trait PageSource: Send + Sync {
    /// The page at an index, made if there is none. With `write`, the caller is going to change it. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENXIO` beyond the end, which a program feels as `SIGBUS`.
    fn page(&self, index: u64, write: bool) -> Result<BasePage>;

    /// Puts a page where there is none.
    ///
    /// # Errors
    ///
    /// `EEXIST`; `ENXIO` beyond the end.
    fn install(&self, index: u64, page: BasePage) -> Result<()>;

    /// Takes pages out; the caller unmaps them.
    ///
    /// # Errors
    ///
    /// `EPERM` for a seal.
    fn remove(&self, pages: core::ops::Range<u64>) -> Result<()>;

    /// Is there a page at this index? For mincore and pagemap.
    fn has_page(&self, index: u64) -> bool;

    /// A mapping through which stores reach the source appears (`true`) or goes (`false`). Write seals want to know.
    fn writable_mapping(&self, appears: bool) {
        let _ = appears;
    }

    /// What /proc/PID/maps says.
    fn name(&self) -> alloc::string::String;

    /// The device and the number of its inode, if it has one.
    fn place(&self) -> Option<(u32, u64)> {
        None
    }
}

/// What is behind an area.
#[derive(Clone)]
pub enum Backing {
    /// Pages of zeroes, of this mapping alone.
    Anonymous,
    /// Pages of a source, from an index on.
    Source {
        /// Where the pages come from.
        source: Arc<dyn PageSource>,
        /// The index of the area's first page.
        index: u64,
    },
}

/// A mapped range of base pages.
#[derive(Clone)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// What it allows.
    pub rights: Rights,
    /// Stores go to the source, and children share them.
    pub shared: bool,
    /// It may be given the right to write: false if the file was opened for reading only, and is shared.
    pub may_write: bool,
    /// The stack: it grows down.
    pub stack: bool,
    /// Not copied by fork.
    pub dont_fork: bool,
    /// Who handles which page faults, if somebody does: see [`registered`](Self::registered).
    pub handler: Option<Registration>,
    /// What is behind it.
    pub backing: Backing,
}

impl Area {
    /// The part of it from `start` to `end`, which lie inside.
    pub fn part(&self, start: u64, end: u64) -> Self {
        let mut part = self.clone();
        if let Backing::Source { index, .. } = &mut part.backing {
            *index += (start - self.start) / crate::memory::PAGE;
        }
        part.start = start;
        part.end = end;
        part
    }

    /// The index in the source of the page at an address, with the source.
    pub fn in_source(&self, at: u64) -> Option<(&Arc<dyn PageSource>, u64)> {
        match &self.backing {
            Backing::Anonymous => None,
            Backing::Source { source, index } => {
                Some((source, index + (at - self.start) / crate::memory::PAGE))
            }
        }
    }

    /// Who handles page faults here, if the handler has not gone.
    pub fn registered(&self) -> Option<&Registration> {
        self.handler.as_ref().filter(|registration| registration.handler.is_open())
    }

    /// Does a handler get the stores to pages that it has write-protected? Else protections are left over from one that did.
    pub fn protects(&self) -> bool {
        self.registered().is_some_and(|registration| registration.modes.contains(Modes::WP))
    }

    /// Do stores reach the source?
    pub fn writes_source(&self) -> bool {
        self.shared && self.may_write && matches!(self.backing, Backing::Source { .. })
    }
}

/// The areas of an address space, by address.
///
/// # Invariants
///
/// They do not overlap; the key is the start.
pub struct Areas(BTreeMap<u64, Area>);

impl Areas {
    /// None.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// The area that holds an address.
    pub fn find(&self, address: u64) -> Option<&Area> {
        self.0.range(..=address).next_back().map(|(_, area)| area).filter(|area| address < area.end)
    }

    /// All areas.
    pub fn iter(&self) -> impl Iterator<Item = &Area> {
        self.0.values()
    }

    /// The areas that overlap a range.
    pub fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = &Area> {
        let first = self.find(start).map_or(start, |area| area.start);
        self.0.range(first..end.max(first)).map(|(_, area)| area)
    }

    /// The area above an address.
    pub fn above(&self, address: u64) -> Option<&Area> {
        self.0.range(address..).next().map(|(_, area)| area)
    }

    /// Adds an area to a range that is free. Joins it to its neighbours if they are alike.
    pub fn insert(&mut self, mut area: Area) {
        if let Some(below) = self.0.range(..area.start).next_back().map(|(_, below)| below)
            && below.end == area.start
            && alike(below, &area)
        {
            let start = below.start;
            area.start = start;
            self.0.remove(&start);
        }
        if let Some(above) = self.0.get(&area.end)
            && alike(&area, above)
        {
            let end = above.end;
            self.0.remove(&area.end);
            area.end = end;
        }
        self.0.insert(area.start, area);
    }

    /// Takes the range out: what overlaps is cut, and the parts inside are returned.
    pub fn take(&mut self, start: u64, end: u64) -> Vec<Area> {
        let found: Vec<u64> = self.overlapping(start, end).map(|area| area.start).collect();
        let mut taken = Vec::new();
        for key in found {
            let Some(area) = self.0.remove(&key) else { continue };
            if area.start < start {
                self.0.insert(area.start, area.part(area.start, start));
            }
            if area.end > end {
                self.0.insert(end, area.part(end, area.end));
            }
            taken.push(area.part(area.start.max(start), area.end.min(end)));
        }
        taken
    }
}

/// Can two neighbours be one area? Only anonymous ones are.
fn alike(one: &Area, other: &Area) -> bool {
    matches!((&one.backing, &other.backing), (Backing::Anonymous, Backing::Anonymous))
        && one.rights == other.rights
        && one.shared == other.shared
        && one.stack == other.stack
        && one.may_write == other.may_write
        && one.dont_fork == other.dont_fork
        && match (&one.handler, &other.handler) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(&one.handler, &other.handler) && one.modes == other.modes,
            _ => false,
        }
}
