//! From a step to a call: which mapping, which address. A step that makes no sense in this state is skipped.

use hugewalk::addr::{HugeSize, VirtAddr};
use hugewalk::mm::{MapFlags, Placement, RemapTo};

use super::format::Format;
use super::program::{Extent, MapStep, Pages, Part, Place, Spot, Step, Where};
use super::state::{Model, Process, Vma};
use super::{Call, Map, What, probes};

/// More is not faulted in at once: the comparison after each step looks at every page.
const POPULATE_AT_MOST: u64 = 24;

fn window(format: Format, number: u64, page: u64) -> u64 {
    format.window(number) + page * format.small.bytes()
}

fn bytes(format: Format, extent: Extent, size: HugeSize) -> u64 {
    // Pages of 1 GiB are few.
    let pages = if size == format.small { extent.pages } else { extent.pages % 6 };
    pages * size.bytes() + probes(size)[extent.probe]
}

fn page(format: Format, vma: &Vma, place: Place) -> u64 {
    let (size, pages) = (vma.size.bytes(), vma.offsets().end - vma.offset);
    match place {
        Place::FromStart(page) => vma.start + page % pages * size,
        Place::FromEnd(page) => vma.start + pages.saturating_sub(page) * size,
        Place::FromGib(page) => {
            let found = vma.start.next_multiple_of(format.table()) + page * size;
            if found < vma.end { found } else { vma.start }
        }
        Place::Before(page) => vma.start - page * size,
    }
}

fn pick(process: &Process, pick: usize) -> Option<&Vma> {
    process.vmas.values().nth(pick % process.vmas.len().max(1))
}

fn part(format: Format, process: &Process, part: Part) -> Option<(u64, u64)> {
    let vma = pick(process, part.pick)?;
    let pages = if vma.size == format.small { part.pages } else { part.pages % 5 };
    let length = (pages * vma.size.bytes()).saturating_add_signed(part.end_skew);
    Some((page(format, vma, part.from) + part.skew, length))
}

fn spot(format: Format, process: &Process, spot: Spot) -> Option<u64> {
    let vma = pick(process, spot.pick)?;
    Some(page(format, vma, spot.place) + probes(vma.size)[spot.probe])
}

fn placement(format: Format, place: Where) -> Placement {
    let address = |number, page| VirtAddr::new(window(format, number, page));
    match place {
        Where::Anywhere | Where::InPlace => Placement::Anywhere,
        Where::Hint(number, page) => Placement::Hint(VirtAddr::new(window(format, number, page) + 0x1000)),
        Where::Fixed(number, page) => Placement::Fixed(address(number, page)),
        Where::FixedNoReplace(number, page) => Placement::FixedNoReplace(address(number, page)),
        Where::Unaligned(number, page) => {
            Placement::Fixed(VirtAddr::new(window(format, number, page) + 0x3000))
        }
    }
}

impl Model {
    /// One of the processes there are.
    fn alive(&self, process: usize) -> Option<(usize, &Process)> {
        let alive =
            || self.processes.iter().enumerate().filter_map(|(at, found)| Some((at, found.as_ref()?)));
        alive().nth(process % alive().count().max(1))
    }

    /// One of the files that are open.
    fn open(&self, slot: usize) -> Option<(usize, HugeSize)> {
        let open = || self.slots.iter().enumerate().filter_map(|(at, file)| Some((at, (*file)?)));
        let (slot, file) = open().nth(slot % open().count().max(1))?;
        Some((slot, self.files[file].size_class))
    }

    fn resolve_map(&self, map: &MapStep) -> Option<Map> {
        let format = self.format;
        let (what, size) = match map.file {
            Some(slot) => {
                let (slot, size) = self.open(slot)?;
                (What::File { slot, offset: bytes(format, map.offset, size) }, size)
            }
            None => {
                let size = if map.giant { format.giant } else { format.small };
                (What::Anonymous(size), size)
            }
        };
        let length = match map.pages {
            Pages::Few(pages) => pages * size.bytes(),
            Pages::Gibs(gibs, pages) => gibs * format.table() + pages * size.bytes(),
        };
        let mut flags = map.flags;
        if length >> size.shift() > POPULATE_AT_MOST {
            flags -= MapFlags::POPULATE | MapFlags::LOCKED;
        }
        Some(Map {
            what,
            placement: placement(format, map.place),
            length: length.saturating_add_signed(map.skew),
            rights: map.rights,
            flags,
        })
    }

    /// What a step means now.
    pub(crate) fn resolve(&self, step: &Step) -> Option<Call> {
        let format = self.format;
        let giant = |giant: bool| if giant { format.giant } else { format.small };
        Some(match step.clone() {
            Step::NewMount { slot, max, min } => {
                if self.mount_slots[slot].is_some() {
                    return None;
                }
                Call::NewMount { slot, max, min }
            }
            Step::CloseMount { slot } => {
                self.mount_slots[slot]?;
                Call::CloseMount { slot }
            }
            Step::NewFile { slot, giant: true, .. } if self.slots[slot].is_none() => {
                Call::NewFile { slot, size: format.giant, mount: None }
            }
            Step::NewFile { slot, mount, .. } => {
                if self.slots[slot].is_some() {
                    return None;
                }
                Call::NewFile {
                    slot,
                    size: format.small,
                    mount: mount.filter(|&mount| self.mount_slots[mount].is_some()),
                }
            }
            Step::Close { slot } => Call::Close { slot: self.open(slot)?.0 },
            Step::NewProcess => {
                Call::NewProcess { process: self.processes.iter().position(Option::is_none)? }
            }
            Step::Fork { from } => {
                Call::Fork { from: self.alive(from)?.0, to: self.processes.iter().position(Option::is_none)? }
            }
            Step::Exit { process } => Call::Exit { process: self.alive(process)?.0 },
            Step::Map { process, map } => {
                Call::Map { process: self.alive(process)?.0, map: self.resolve_map(&map)? }
            }
            Step::Unmap { process, part: of } => {
                let (process, found) = self.alive(process)?;
                let (address, length) = part(format, found, of)?;
                Call::Unmap { process, address, length }
            }
            Step::Protect { process, part: of, rights } => {
                let (process, found) = self.alive(process)?;
                let (address, length) = part(format, found, of)?;
                Call::Protect { process, address, length, rights }
            }
            Step::Remap { process, part: of, kept, to } => {
                let (process, found) = self.alive(process)?;
                let (old, old_length) = part(format, found, of)?;
                // Mostly a move of the whole.
                let new_length = if kept < 3 { old_length } else { kept * format.small.bytes() };
                let to = match placement(format, to) {
                    Placement::Fixed(address) => RemapTo::Fixed(address),
                    _ if matches!(to, Where::InPlace) => RemapTo::InPlace,
                    _ => RemapTo::Anywhere,
                };
                Call::Remap { process, old, old_length, new_length, to }
            }
            Step::Advise { process, part: of, advice } => {
                let (process, found) = self.alive(process)?;
                let (address, length) = part(format, found, of)?;
                let populates =
                    !matches!(advice, hugewalk::mm::Advice::DontNeed | hugewalk::mm::Advice::Remove);
                let most = POPULATE_AT_MOST * format.small.bytes();
                Call::Advise {
                    process,
                    address,
                    length: if populates { length.min(most) } else { length },
                    advice,
                }
            }
            Step::Load { process, spot: at, access } => {
                let (process, found) = self.alive(process)?;
                Call::Load { process, address: spot(format, found, at)?, access }
            }
            Step::Store { process, spot: at, value } => {
                let (process, found) = self.alive(process)?;
                Call::Store { process, address: spot(format, found, at)?, value }
            }
            Step::Truncate { slot, size } => {
                let (slot, class) = self.open(slot)?;
                Call::Truncate { slot, size: bytes(format, size, class) }
            }
            Step::Allocate { slot, from, length, keep_size } => {
                let (slot, size) = self.open(slot)?;
                let pages = length.pages.min(POPULATE_AT_MOST);
                let length = bytes(format, Extent { pages, ..length }, size);
                Call::Allocate { slot, offset: bytes(format, from, size), length, keep_size }
            }
            Step::Punch { slot, from, length } => {
                let (slot, size) = self.open(slot)?;
                Call::Punch { slot, offset: bytes(format, from, size), length: bytes(format, length, size) }
            }
            Step::Read { slot, from, length } => {
                let (slot, size) = self.open(slot)?;
                Call::Read { slot, offset: bytes(format, from, size), length }
            }
            Step::Write { slot, from, bytes: written } => {
                let (slot, size) = self.open(slot)?;
                Call::Write { slot, offset: bytes(format, from, size), bytes: written }
            }
            Step::Resize { giant: is_giant, pages } => {
                Call::Resize { size: giant(is_giant), pages: if is_giant { pages % 5 } else { pages } }
            }
            Step::Overcommit { giant: is_giant, pages } => Call::Overcommit { size: giant(is_giant), pages },
        })
    }
}
