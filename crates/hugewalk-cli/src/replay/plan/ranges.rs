//! Calls on ranges of memory.

use std::ops::Range;

use hugewalk::addr::VirtAddr;
use hugewalk::mm::{self, Placement};

use super::memory::Piece;
use super::ordinary::pages;
use super::planner::{Actor, Planner, access};
use super::sharing::{self, Later};
use super::tasks::SpaceId;
use super::{Act, Change, FileAct, FileId, Made, Map, MappingId, MoveTo};
use crate::trace::flags::{MapFlags, MlockallFlags, MremapFlags, Prot};
use crate::trace::{Advice, Call, Outcome};

/// Which file to map, and how.
pub(super) struct Mapping {
    pub(super) file: FileId,
    pub(super) anonymous: bool,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) shift: u32,
    pub(super) prot: Prot,
    pub(super) flags: mm::MapFlags,
}

/// `address` as it was asked for, `flags` of `mmap`.
struct Wanted {
    address: u64,
    flags: MapFlags,
}

impl Planner {
    pub(super) fn ranges(&mut self, call: &Call, actor: &Actor<'_>) {
        match call {
            Call::Mmap { address, length, flags, .. } => {
                let wanted = Wanted { address: *address, flags: *flags };
                match self.huge_mapping(call, actor) {
                    Some(mapping) => self.mmap(&wanted, &mapping, actor),
                    None if actor.succeeded() => {
                        let start = actor.outcome.value().unwrap_or_default();
                        self.got_normal_pages(*length, actor);
                        self.map_ordinary(pages(start, *length), actor);
                    }
                    None => {}
                }
            }
            Call::Munmap { address, length } => self.munmap(*address, *length, actor),
            Call::Mprotect { address, length, prot } => self.mprotect(pages(*address, *length), *prot, actor),
            Call::Mremap { .. } => self.mremap(call, actor),
            Call::Mseal { address, length } => self.mseal(*address, *length, actor),
            Call::Madvise { address, length, advice } => self.madvise(*address, *length, advice, actor),
            // Also on fault: huge pages are not marked, so nothing says that they shall come later.
            Call::Mlock { address, length, .. } if actor.succeeded() => {
                self.populate(&pages(*address, *length), actor);
            }
            Call::Mlockall { flags } if actor.succeeded() => {
                self.memory(actor.thread.space).locks_future = flags.contains(MlockallFlags::MCL_FUTURE);
                if flags.contains(MlockallFlags::MCL_CURRENT) {
                    self.populate(&(0..u64::MAX), actor);
                }
            }
            Call::Munlockall if actor.succeeded() => self.memory(actor.thread.space).locks_future = false,
            _ => {}
        }
    }

    /// What an `mmap` maps, if that is huge pages.
    fn huge_mapping(&mut self, call: &Call, actor: &Actor<'_>) -> Option<Mapping> {
        let Call::Mmap { length, prot, flags, fd, offset, .. } = call else {
            return None;
        };
        let shared = flags.is_shared();
        let anonymous = flags.contains(MapFlags::MAP_ANONYMOUS);
        let file = if anonymous {
            let shift = flags.page_shift().unwrap_or(self.default_shift);
            self.files.anonymous(flags.contains(MapFlags::MAP_HUGETLB).then_some(shift))
        } else {
            let file = self.files.of_size(actor.thread.table, fd, offset.checked_add(*length));
            if flags.contains(MapFlags::MAP_HUGETLB) && actor.succeeded() {
                self.files.is_huge(file, self.default_shift);
            }
            self.is_listed(file, *length, actor);
            file
        };
        let Some(asked) = self.files.file(file)?.huge else {
            self.suspect(file, call, actor);
            return None;
        };
        let Some(shift) = self.huge(file) else {
            self.skip(format!("mmap with pages of {} KiB", 1u64.checked_shl(asked).unwrap_or(0) >> 10));
            return None;
        };
        let mut to = mm::MapFlags::empty();
        to.set(mm::MapFlags::SHARED, shared);
        to.set(mm::MapFlags::NORESERVE, flags.contains(MapFlags::MAP_NORESERVE));
        to.set(mm::MapFlags::POPULATE, flags.contains(MapFlags::MAP_POPULATE));
        let locked = flags.contains(MapFlags::MAP_LOCKED) || self.memory(actor.thread.space).locks_future;
        to.set(mm::MapFlags::LOCKED, locked);
        let offset = if anonymous { 0 } else { *offset };
        Some(Mapping { file, anonymous, offset, length: *length, shift, prot: *prot, flags: to })
    }

    fn mmap(&mut self, wanted: &Wanted, mapping: &Mapping, actor: &Actor<'_>) {
        if !actor.succeeded() {
            self.mapping_failed(mapping, actor);
        }
        let fixed = wanted.flags.contains(MapFlags::MAP_FIXED);
        let at = VirtAddr::new(wanted.address);
        let place = match actor.outcome {
            Outcome::Returned(start) if !fixed => Placement::FixedNoReplace(VirtAddr::new(*start)),
            Outcome::Failed(errno) if !matches!(&**errno, "ENOMEM" | "EINVAL") => {
                // For reasons that lie outside of memory: rights, limits, what else lies there. It is reported as it is.
                return;
            }
            _ if fixed => Placement::Fixed(at),
            _ if wanted.flags.contains(MapFlags::MAP_FIXED_NOREPLACE) => Placement::FixedNoReplace(at),
            _ if wanted.address != 0 => Placement::Hint(at),
            _ => Placement::Anywhere,
        };
        self.map(place, mapping, actor);
    }

    /// Plans a huge mapping; if the recorded call succeeded, it is there from now on.
    pub(super) fn map(&mut self, place: Placement, mapping: &Mapping, actor: &Actor<'_>) {
        let id = actor.thread.space;
        let length = mapping.length.checked_next_multiple_of(1 << mapping.shift).unwrap_or(mapping.length);
        let end = mapping.offset.saturating_add(length);
        let writable = mapping.prot.contains(Prot::PROT_WRITE);
        if actor.succeeded() && !mapping.anonymous && !self.sized.contains(&mapping.file) {
            if writable {
                self.sized.insert(mapping.file);
            } else {
                // It was made before the recording began: mapped for reading it would have no page at all.
                let change = Change::Truncate { length: end };
                self.change(actor, None, FileAct { file: mapping.file, shift: mapping.shift, change });
            }
        }
        let space = self.space(id);
        let made =
            actor.outcome.value().map(|start| self.made(start..start.saturating_add(length), mapping, actor));
        self.push(
            actor,
            Some(actor.outcome.clone()),
            Act::Map(Map {
                space,
                mapping: made,
                place,
                length: mapping.length,
                prot: mapping.prot,
                flags: mapping.flags,
                file: mapping.file,
                anonymous: mapping.anonymous,
                offset: mapping.offset,
                shift: mapping.shift,
            }),
        );
        let Some(made) = made else { return };
        if !mapping.anonymous {
            self.held.insert(mapping.file);
        }
        let (range, shift) = (self.plan.mappings[made.0 as usize].range.clone(), mapping.shift);
        let private = !mapping.flags.contains(mm::MapFlags::SHARED);
        let uses_all = !mapping.flags.contains(mm::MapFlags::NORESERVE)
            || mapping.flags.intersects(mm::MapFlags::POPULATE | mm::MapFlags::LOCKED);
        if !private {
            self.plan.need.file(mapping.file, shift, end);
        } else if uses_all {
            self.plan.need.private(shift, length >> shift);
        }
        self.dropped(id, &range);
        self.memory(id).map_huge(range, Piece { mapping: made, prot: mapping.prot, shift, private });
        if mapping.flags.intersects(mm::MapFlags::POPULATE | mm::MapFlags::LOCKED) {
            self.touched(id, length >> shift);
        }
        self.recount(id);
    }

    fn made(&mut self, range: Range<u64>, mapping: &Mapping, actor: &Actor<'_>) -> MappingId {
        let id = MappingId(u32::try_from(self.plan.mappings.len()).unwrap_or(u32::MAX));
        let whole = sharing::whole_ranges(&range);
        let mut made = Made {
            pid: actor.thread.pid,
            line: actor.event.line,
            call: if matches!(&actor.event.action, crate::trace::Action::Call(Call::Shmat { .. }, _)) {
                "shmat"
            } else {
                "mmap"
            },
            backing: self.files.file(mapping.file).map(|file| file.name.clone()).unwrap_or_default(),
            file: mapping.file,
            offset: mapping.offset,
            range,
            shift: mapping.shift,
            shared: mapping.flags.contains(mm::MapFlags::SHARED),
            prot: mapping.prot,
            processes: 0,
            program: self.program(actor.thread.space),
            whole_ranges: whole.end - whole.start,
            unsharable: Vec::new(),
        };
        made.unsharable = sharing::at_first(&made);
        made.unsharable.extend(sharing::beside_others(&made, &self.plan.mappings, &self.holders));
        self.plan.mappings.push(made);
        id
    }

    /// An ordinary mapping; it may take the place of a huge one.
    pub(super) fn map_ordinary(&mut self, range: Range<u64>, actor: &Actor<'_>) {
        let id = actor.thread.space;
        if self.memory(id).touches_huge(&range) {
            let space = self.space(id);
            self.push(actor, None, Act::Unmap { space, at: range.clone() });
            self.dropped(id, &range);
        }
        if self.memory(id).map_ordinary(range) {
            self.recount(id);
        }
    }

    pub(super) fn munmap(&mut self, address: u64, length: u64, actor: &Actor<'_>) {
        let id = actor.thread.space;
        let range = pages(address, length);
        let concerns = self.memory(id).concerns(&range);
        if concerns {
            let space = self.space(id);
            let at = address..address.saturating_add(length);
            self.push(actor, Some(actor.outcome.clone()), Act::Unmap { space, at });
            self.split_in_vain(&range, actor);
        }
        if actor.succeeded() {
            self.note(&range, Later::Unmap, actor);
            self.dropped(id, &range);
            self.memory(id).unmap(range);
            if concerns {
                self.recount(id);
            }
        }
    }

    /// Linux splits a mapping where a range begins before it finds that the range ends inside a page, and leaves it so.
    fn split_in_vain(&mut self, range: &Range<u64>, actor: &Actor<'_>) {
        if !matches!(actor.outcome, Outcome::Failed(errno) if **errno == *"EINVAL") {
            return;
        }
        let memory = self.memory(actor.thread.space);
        let is_multiple = |address: u64, piece: &Piece| address.is_multiple_of(1 << piece.shift);
        let begins_inside = memory.at(range.start).is_some_and(|piece| {
            is_multiple(range.start, piece)
                && memory
                    .at(range.start.wrapping_sub(1))
                    .is_some_and(|before| before.mapping == piece.mapping)
        });
        let ends_inside = memory.at(range.end).is_some_and(|piece| !is_multiple(range.end, piece));
        let whole = memory.pieces(&(range.start..u64::MAX)).first().map(|(part, _)| part.clone());
        if let Some(at) = whole.filter(|_| begins_inside && ends_inside) {
            let space = self.space(actor.thread.space);
            self.push(actor, None, Act::Split { space, at });
        }
    }

    fn mseal(&mut self, address: u64, length: u64, actor: &Actor<'_>) {
        let id = actor.thread.space;
        let range = pages(address, length);
        if self.memory(id).concerns(&range) {
            let (parts, space) = (self.memory(id).parts(&range), self.space(id));
            self.push(actor, Some(actor.outcome.clone()), Act::Seal { space, parts });
        }
    }

    fn mprotect(&mut self, range: Range<u64>, prot: Prot, actor: &Actor<'_>) {
        let id = actor.thread.space;
        if !self.memory(id).concerns(&range) {
            return;
        }
        let (parts, space) = (self.memory(id).parts(&range), self.space(id));
        self.push(actor, Some(actor.outcome.clone()), Act::Protect { space, parts, prot });
        self.split_in_vain(&range, actor);
        if actor.succeeded() {
            self.note(&range, Later::Protect(prot), actor);
            self.memory(id).protect(&range, prot);
        }
    }

    fn mremap(&mut self, call: &Call, actor: &Actor<'_>) {
        let Call::Mremap { address, old_length, new_length, flags, new_address } = call else {
            return;
        };
        let id = actor.thread.space;
        let target = actor.outcome.value();
        if !self.memory(id).concerns(&pages(*address, (*old_length).max(1))) {
            if let Some(target) = target {
                self.memory(id).unmap(pages(*address, *old_length));
                self.map_ordinary(pages(target, *new_length), actor);
            }
            return;
        }
        if flags.contains(MremapFlags::MREMAP_DONTUNMAP) {
            self.skip("mremap(MREMAP_DONTUNMAP)".to_owned());
            return;
        }
        let to = match flags {
            flags if flags.contains(MremapFlags::MREMAP_FIXED) => MoveTo::Here(*new_address),
            flags if flags.contains(MremapFlags::MREMAP_MAYMOVE) => MoveTo::Anywhere,
            _ => MoveTo::Stay,
        };
        let space = self.space(id);
        let (address, old_length, new_length) = (*address, *old_length, *new_length);
        let act = Act::Remap { space, address, old_length, new_length, to };
        self.push(actor, Some(actor.outcome.clone()), act);
        if let Some(target) = target {
            let shift = self.memory(id).at(address).map_or(21, |piece| piece.shift);
            let whole = |start: u64, length: u64| {
                start..start.saturating_add(length.checked_next_multiple_of(1 << shift).unwrap_or(length))
            };
            let from = whole(address, old_length);
            let later = if target == address { Later::Unmap } else { Later::Move };
            let kept = if target == address { whole(address, new_length).end } else { from.start };
            self.note(&(kept.min(from.end)..from.end), later, actor);
            self.memory(id).remap(&from, whole(target, new_length));
            self.recount(id);
        }
    }

    fn madvise(&mut self, address: u64, length: u64, advice: &Advice, actor: &Actor<'_>) {
        let id = actor.thread.space;
        let range = pages(address, length);
        if !self.memory(id).concerns(&range) {
            return;
        }
        let advice = match advice {
            Advice::DontNeed => mm::Advice::DontNeed,
            Advice::Remove => mm::Advice::Remove,
            Advice::PopulateRead => mm::Advice::PopulateRead,
            Advice::PopulateWrite => mm::Advice::PopulateWrite,
            Advice::DontDump => mm::Advice::DontDump,
            Advice::DoDump => mm::Advice::DoDump,
            Advice::DontFork => mm::Advice::DontFork,
            Advice::DoFork => mm::Advice::DoFork,
            Advice::Normal => mm::Advice::Normal,
            Advice::Random => mm::Advice::Random,
            Advice::Sequential => mm::Advice::Sequential,
            // The engine leaves it to its host who may ask for that; the kernel refused.
            Advice::Hwpoison | Advice::SoftOffline if actor.is_refused() => return,
            Advice::Hwpoison => mm::Advice::Hwpoison,
            Advice::SoftOffline => mm::Advice::SoftOffline,
            Advice::Other(name) => {
                self.skip(format!("madvise({name})"));
                return;
            }
        };
        match advice {
            mm::Advice::DontFork if actor.succeeded() => self.memory(id).dont_fork.insert(range.clone()),
            mm::Advice::DoFork if actor.succeeded() => self.memory(id).dont_fork.remove(range.clone()),
            _ => {}
        }
        let loses_pages = matches!(advice, mm::Advice::Hwpoison | mm::Advice::SoftOffline);
        if loses_pages {
            // Each page is lost to the pool, and another may come in its place.
            for (part, piece) in self.memory(id).pieces(&range) {
                self.plan.need.private(piece.shift, (part.end - part.start).div_ceil(1 << piece.shift));
            }
        }
        if loses_pages || matches!(advice, mm::Advice::PopulateRead | mm::Advice::PopulateWrite) {
            self.need_all(id, &range);
        }
        let (mut parts, space) = (self.memory(id).parts(&range), self.space(id));
        // As it was passed, with an address that may be no multiple of anything.
        if let [only] = &mut parts[..]
            && *only == range
        {
            *only = address..address.saturating_add(length);
        }
        self.push(actor, Some(actor.outcome.clone()), Act::Advise { space, parts, advice });
        if matches!(advice, mm::Advice::DontNeed | mm::Advice::Remove) {
            self.dropped(id, &range);
        }
    }

    /// Pages are locked in memory, which brings them there.
    fn populate(&mut self, range: &Range<u64>, actor: &Actor<'_>) {
        let id = actor.thread.space;
        self.need_all(id, range);
        let parts: Vec<_> = self
            .memory(id)
            .pieces(range)
            .into_iter()
            .filter(|(_, piece)| piece.prot.intersects(Prot::all()))
            .map(|(part, piece)| (part, 1 << piece.shift, access(&piece)))
            .collect();
        if !parts.is_empty() {
            let space = self.space(id);
            self.push(actor, None, Act::Populate { space, parts });
        }
    }

    /// All pages of the range come to be used.
    pub(super) fn need_all(&mut self, id: SpaceId, range: &Range<u64>) {
        for (part, piece) in self.memory(id).pieces(range) {
            let pages = (part.end - part.start).div_ceil(1 << piece.shift);
            if piece.private {
                self.plan.need.private(piece.shift, pages);
            }
            self.touched(id, pages);
        }
    }

    /// Notes what a call takes away from sharing in the mappings that lie in the range.
    fn note(&mut self, range: &Range<u64>, later: Later, actor: &Actor<'_>) {
        self.note_in(actor.thread.space, range, later, actor);
    }

    /// The same in an address space that need not be the caller's.
    pub(super) fn note_in(&mut self, id: SpaceId, range: &Range<u64>, later: Later, actor: &Actor<'_>) {
        let (pid, line) = (actor.thread.pid, actor.event.line);
        let mut touched: Vec<(MappingId, Range<u64>)> = Vec::new();
        for (part, piece) in self.memory(id).pieces(range) {
            // The rights it was mapped with take nothing away, whether it has them still or gets them back.
            let first = self.plan.mappings.get(piece.mapping.0 as usize).map(|made| made.prot);
            if matches!(later, Later::Protect(prot) if prot == piece.prot || Some(prot) == first) {
                continue;
            }
            match touched.last_mut() {
                Some((mapping, last)) if *mapping == piece.mapping && last.end == part.start => {
                    last.end = part.end;
                }
                _ => touched.push((piece.mapping, part)),
            }
        }
        for (mapping, part) in touched {
            self.plan.note(mapping, &part, later, pid, line);
        }
    }
}
