//! The same recording with its mappings elsewhere, or in pages of another size: what a program would have done that had been
//! told to.
//!
//! Mappings that touch or overlap move together, so what lies beside each other still does, and a fork still copies what it
//! copied: all processes that descend from one move alike. A call on a range that covers several such groups becomes one call for
//! each of them.

use std::collections::BTreeMap;
use std::ops::Range;

use hugewalk::addr::VirtAddr;
use hugewalk::mm::{MapFlags, Placement};

use super::plan::{Act, Change, FileAct, Map, MoveTo, Op, Plan, Space};
use crate::gigabyte::GIB;
use crate::trace::Outcome;

/// Where moved mappings begin: programs have nothing of their own there.
const ROOM: u64 = 1 << 40;

/// What is different.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Elsewhere {
    /// Each shared mapping begins where the first byte of its file would lie on a 1 GiB boundary.
    pub(super) aligned: bool,
    /// Pages are of 1 GiB. That takes mappings that are aligned.
    pub(super) gigantic: bool,
}

/// A plan that does the same elsewhere.
pub(super) struct Moved {
    pub(super) plan: Plan,
    /// Calls that are not possible so, and were left out.
    pub(super) left_out: u64,
}

/// Moves what a plan maps.
///
/// # Errors
///
/// Why that cannot be done, in words that follow "not computed: ".
pub(super) fn moved(plan: &Plan, elsewhere: Elsewhere) -> Result<Moved, String> {
    let mut mover = Mover { elsewhere, families: families(plan), groups: BTreeMap::new(), left_out: 0 };
    mover.groups = mover.groups_of(plan);
    let mut peak = plan.ops.len();
    let mut ops = Vec::with_capacity(plan.ops.len());
    for (place, op) in plan.ops.iter().enumerate() {
        if place == plan.peak {
            peak = ops.len();
        }
        let mut recorded = mover.outcome(op);
        for act in mover.acts(op)? {
            let Op { time, line, pid, tid, call, .. } = *op;
            // What is done in several calls had one result.
            ops.push(Op { time, line, pid, tid, call, recorded: recorded.take(), act });
        }
    }
    if plan.peak == plan.ops.len() {
        peak = ops.len();
    }
    let mut mappings = plan.mappings.clone();
    let mut need = None;
    if elsewhere.gigantic {
        let private = |made: &super::plan::Made| {
            let pages = (made.range.end - made.range.start).div_ceil(GIB);
            if made.shared { 0 } else { pages.saturating_mul(made.processes) }
        };
        need = Some(plan.need.in_pages_of(30, mappings.iter().map(private).fold(0, u64::saturating_add)));
        mappings.iter_mut().for_each(|made| made.shift = 30);
    }
    let plan = Plan {
        ops,
        mappings,
        spaces: plan.spaces,
        peak,
        processes: plan.processes,
        need: need.unwrap_or_else(|| plan.need.clone()),
        ..Plan::default()
    };
    Ok(Moved { plan, left_out: mover.left_out })
}

/// For each address space the first one that it descends from.
fn families(plan: &Plan) -> Vec<u32> {
    let mut families: Vec<u32> = (0..plan.spaces).collect();
    for op in &plan.ops {
        if let Act::Fork { parent, child, .. } = &op.act {
            families[child.0 as usize] = families[parent.0 as usize];
        }
    }
    families
}

struct Mover {
    elsewhere: Elsewhere,
    families: Vec<u32>,
    /// What moves together in each family, by address.
    groups: BTreeMap<u32, Vec<Group>>,
    left_out: u64,
}

/// Mappings that touch or overlap.
struct Group {
    old: Range<u64>,
    /// Where it begins now.
    new: u64,
}

impl Group {
    fn holds(&self, address: u64) -> bool {
        self.old.contains(&address)
    }

    fn move_address(&self, address: u64) -> u64 {
        self.new + (address - self.old.start)
    }
}

/// A mapping as far as it matters to where it goes.
struct Piece {
    range: Range<u64>,
    /// Where the first byte of its file would lie; none if it shares with nobody.
    file_starts: Option<u64>,
}

impl Mover {
    fn groups_of(&self, plan: &Plan) -> BTreeMap<u32, Vec<Group>> {
        let mut pieces: BTreeMap<u32, Vec<Piece>> = BTreeMap::new();
        for op in &plan.ops {
            let (space, piece) = match &op.act {
                Act::Map(map) if map.mapping.is_some() => {
                    let Some(start) = start_of(map) else { continue };
                    let end = start.saturating_add(map.length.next_multiple_of(1 << map.shift));
                    let shares = map.flags.contains(MapFlags::SHARED) && map.shift == 21;
                    let file_starts = shares.then(|| start.wrapping_sub(map.offset));
                    (map.space, Piece { range: start..end, file_starts })
                }
                Act::Remap { space, address, new_length, to, .. } => {
                    let start = match to {
                        MoveTo::Here(start) => *start,
                        _ => *address,
                    };
                    let range = start..start.saturating_add(*new_length);
                    (*space, Piece { range, file_starts: None })
                }
                _ => continue,
            };
            if piece.range.start < piece.range.end {
                pieces.entry(self.family(space)).or_default().push(piece);
            }
        }
        pieces.into_iter().map(|(family, pieces)| (family, self.place(pieces))).collect()
    }

    fn place(&self, mut pieces: Vec<Piece>) -> Vec<Group> {
        pieces.sort_by_key(|piece| piece.range.start);
        let mut groups: Vec<(Range<u64>, Vec<Piece>)> = Vec::new();
        for piece in pieces {
            match groups.last_mut() {
                Some((range, members)) if piece.range.start <= range.end => {
                    range.end = range.end.max(piece.range.end);
                    members.push(piece);
                }
                _ => groups.push((piece.range.clone(), vec![piece])),
            }
        }
        let mut free = ROOM;
        let place = |(old, members): (Range<u64>, Vec<Piece>)| {
            let length = |piece: &&Piece| piece.range.end - piece.range.start;
            let sharing = members.iter().filter(|piece| piece.file_starts.is_some());
            let largest = sharing.max_by_key(length).and_then(|piece| piece.file_starts);
            let boundary = match (largest, self.elsewhere) {
                (Some(start), Elsewhere { aligned: true, .. }) => start,
                (_, Elsewhere { gigantic: true, .. }) => old.start,
                _ => 0,
            };
            // As far behind a boundary as the start is behind the place that comes to lie on one.
            let new = free + old.start.wrapping_sub(boundary) % GIB;
            free = (new + (old.end - old.start)).next_multiple_of(GIB) + GIB;
            Group { old, new }
        };
        groups.into_iter().map(place).collect()
    }

    fn family(&self, space: Space) -> u32 {
        self.families.get(space.0 as usize).copied().unwrap_or(space.0)
    }

    fn groups(&self, space: Space) -> &[Group] {
        self.groups.get(&self.family(space)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Where an address is now. What lies nowhere stays.
    fn address(&self, space: Space, address: u64) -> u64 {
        let group = self.groups(space).iter().find(|group| group.holds(address));
        group.map_or(address, |group| group.move_address(address))
    }

    /// Where the parts of a range are now. Parts that pages of 1 GiB do not allow are left out, and counted.
    fn parts(&mut self, space: Space, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut parts = Vec::new();
        let mut left_out = 0;
        for group in self.groups(space) {
            let (start, end) = (range.start.max(group.old.start), range.end.min(group.old.end));
            if start >= end {
                continue;
            }
            let mut part = group.move_address(start)..group.move_address(start) + (end - start);
            if self.elsewhere.gigantic {
                if end == group.old.end {
                    part.end = part.end.next_multiple_of(GIB);
                }
                if !part.start.is_multiple_of(GIB) || !part.end.is_multiple_of(GIB) {
                    left_out += 1;
                    continue;
                }
            }
            parts.push(part);
        }
        self.left_out += left_out;
        parts
    }

    fn all_parts(&mut self, space: Space, ranges: &[Range<u64>]) -> Vec<Range<u64>> {
        ranges.iter().flat_map(|range| self.parts(space, range)).collect()
    }

    /// A call that returned an address returns the new one.
    fn outcome(&self, op: &Op) -> Option<Outcome> {
        match (&op.act, &op.recorded) {
            (Act::Map(Map { space, .. }) | Act::Remap { space, .. }, Some(Outcome::Returned(start))) => {
                Some(Outcome::Returned(self.address(*space, *start)))
            }
            (_, recorded) => recorded.clone(),
        }
    }

    fn acts(&mut self, op: &Op) -> Result<Vec<Act>, String> {
        let of = |parts: Vec<Range<u64>>, act: &dyn Fn(Vec<Range<u64>>) -> Act| {
            if parts.is_empty() { Vec::new() } else { vec![act(parts)] }
        };
        Ok(match &op.act {
            Act::Map(map) => vec![Act::Map(self.map(map, op)?)],
            Act::Unmap { space, at } => {
                let space = *space;
                if self.groups(space).iter().all(|group| !overlap(&group.old, at)) {
                    return Ok(vec![Act::Unmap { space, at: at.clone() }]);
                }
                self.parts(space, at).into_iter().map(|at| Act::Unmap { space, at }).collect()
            }
            Act::Protect { space, parts, prot } => {
                let (space, prot) = (*space, *prot);
                of(self.all_parts(space, parts), &|parts| Act::Protect { space, parts, prot })
            }
            Act::Split { space, at } => {
                let space = *space;
                self.parts(space, at).into_iter().map(|at| Act::Split { space, at }).collect()
            }
            Act::Seal { space, parts } => {
                let space = *space;
                of(self.all_parts(space, parts), &|parts| Act::Seal { space, parts })
            }
            Act::Remap { .. } if self.elsewhere.gigantic => {
                return Err(format!("line {} moves or resizes a mapping (mremap)", op.line));
            }
            Act::Remap { space, address, old_length, new_length, to } => vec![Act::Remap {
                space: *space,
                address: self.address(*space, *address),
                old_length: *old_length,
                new_length: *new_length,
                to: match to {
                    MoveTo::Here(start) => MoveTo::Here(self.address(*space, *start)),
                    other => *other,
                },
            }],
            Act::Advise { space, parts, advice } => {
                let (space, advice) = (*space, *advice);
                of(self.all_parts(space, parts), &|parts| Act::Advise { space, parts, advice })
            }
            Act::Populate { space, parts } => {
                let space = *space;
                let mut moved = Vec::new();
                for (part, step, access) in parts {
                    let step = if self.elsewhere.gigantic { GIB } else { *step };
                    moved.extend(self.parts(space, part).into_iter().map(|part| (part, step, *access)));
                }
                vec![Act::Populate { space, parts: moved }]
            }
            Act::Transfer { space, write, parts } => {
                let (space, write) = (*space, *write);
                of(self.all_parts(space, parts), &|parts| Act::Transfer { space, write, parts })
            }
            Act::Fault { space, address, access } => {
                vec![Act::Fault { space: *space, address: self.address(*space, *address), access: *access }]
            }
            Act::Fork { parent, child, handlers } if handlers.is_empty() => {
                vec![Act::Fork { parent: *parent, child: *child, handlers: Vec::new() }]
            }
            Act::Fork { .. } | Act::Handler(_) => {
                return Err(format!("the program handles faults itself (userfaultfd, line {})", op.line));
            }
            Act::End { space } => vec![Act::End { space: *space }],
            Act::File(act) => self.file(act).into_iter().map(Act::File).collect(),
        })
    }

    fn map(&self, map: &Map, op: &Op) -> Result<Map, String> {
        let mut map = *map;
        let moved = |address: VirtAddr| VirtAddr::new(self.address(map.space, address.as_u64()));
        map.place = match map.place {
            Placement::Fixed(at) => Placement::Fixed(moved(at)),
            Placement::FixedNoReplace(at) => Placement::FixedNoReplace(moved(at)),
            other => other,
        };
        if self.elsewhere.gigantic {
            let start = start_of(&map).unwrap_or(0);
            if !map.offset.is_multiple_of(GIB) || !start.is_multiple_of(GIB) {
                return Err(format!("line {} maps a part of what would be a page of 1 GiB", op.line));
            }
            map.length = map.length.checked_next_multiple_of(GIB).unwrap_or(map.length);
            map.shift = 30;
        }
        Ok(map)
    }

    fn file(&mut self, act: &FileAct) -> Option<FileAct> {
        if !self.elsewhere.gigantic {
            return Some(*act);
        }
        let up = |bytes: u64| bytes.checked_next_multiple_of(GIB).unwrap_or(bytes);
        let change = match act.change {
            Change::Truncate { length } => Change::Truncate { length: up(length) },
            Change::Segment { length, reserved } => Change::Segment { length: up(length), reserved },
            Change::Allocate { offset, length, keep_size } => {
                let start = offset / GIB * GIB;
                Change::Allocate {
                    offset: start,
                    length: up(offset.saturating_add(length)) - start,
                    keep_size,
                }
            }
            Change::PunchHole { offset, length } => {
                let (start, end) = (up(offset), offset.saturating_add(length) / GIB * GIB);
                if start >= end {
                    self.left_out += 1;
                    return None;
                }
                Change::PunchHole { offset: start, length: end - start }
            }
            Change::Forget => Change::Forget,
        };
        Some(FileAct { file: act.file, shift: 30, change })
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// The address that a mapping was given.
fn start_of(map: &Map) -> Option<u64> {
    match map.place {
        Placement::Fixed(at) | Placement::FixedNoReplace(at) => Some(at.as_u64()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hugewalk::fault::Access;

    use super::super::plan::{FileId, MappingId};
    use super::*;
    use crate::trace::Time;
    use crate::trace::flags::Prot;

    const MIB: u64 = 1 << 20;

    fn op(act: Act) -> Op {
        let recorded = match &act {
            Act::Map(map) => start_of(map).map(Outcome::Returned),
            _ => None,
        };
        Op { time: Time::default(), line: 7, pid: 1, tid: 1, call: "mmap", recorded, act }
    }

    fn map(start: u64, megabytes: u64, offset: u64) -> Act {
        Act::Map(Map {
            space: Space(0),
            mapping: Some(MappingId(0)),
            place: Placement::FixedNoReplace(VirtAddr::new(start)),
            length: megabytes * MIB,
            prot: Prot::PROT_READ,
            flags: MapFlags::SHARED,
            file: FileId(0),
            anonymous: true,
            offset,
            shift: 21,
        })
    }

    fn fault(space: u32, address: u64) -> Act {
        Act::Fault { space: Space(space), address, access: Access::Read }
    }

    fn plan(acts: Vec<Act>) -> Plan {
        Plan { ops: acts.into_iter().map(op).collect(), spaces: 2, ..Plan::default() }
    }

    fn places(plan: &Plan) -> Vec<(u64, u64)> {
        let place = |op: &Op| match &op.act {
            Act::Map(map) => Some((start_of(map)?, map.length)),
            Act::Fault { address, .. } => Some((*address, 0)),
            Act::Unmap { at, .. } => Some((at.start, at.end - at.start)),
            _ => None,
        };
        plan.ops.iter().filter_map(place).collect()
    }

    #[test]
    fn what_is_aligned_moves_as_a_whole_and_children_with_their_parents() {
        let start = 0x7f00_1000_0000;
        let fork = Act::Fork { parent: Space(0), child: Space(1), handlers: Vec::new() };
        let acts = vec![map(start, 2048, 0), fork, fault(1, start + 4 * MIB), fault(1, 5)];
        let aligned = Elsewhere { aligned: true, gigantic: false };
        let moved = moved(&plan(acts), aligned).expect("moved").plan;
        assert_eq!(places(&moved), [(ROOM, 2048 * MIB), (ROOM + 4 * MIB, 0), (5, 0)]);
        assert_eq!(moved.ops[0].recorded, Some(Outcome::Returned(ROOM)));
    }

    #[test]
    fn a_file_mapped_from_its_middle_on_is_aligned_by_its_first_byte() {
        let acts = vec![map(0x7f00_1000_0000, 2048, 512 * MIB)];
        let moved = moved(&plan(acts), Elsewhere { aligned: true, gigantic: false }).expect("moved").plan;
        assert_eq!(places(&moved), [(ROOM + 512 * MIB, 2048 * MIB)]);
    }

    #[test]
    fn a_call_on_two_groups_becomes_two_and_the_pages_of_one_are_rounded() {
        let (one, other) = (0x7f00_0000_0000, 0x7f01_0000_0000);
        let unmap = Act::Unmap { space: Space(0), at: one..other + 1500 * MIB };
        let part = Act::Unmap { space: Space(0), at: one + 2 * MIB..one + 4 * MIB };
        let acts = vec![map(one, 1024, 0), map(other, 1500, 0), part, unmap];
        let moved = moved(&plan(acts), Elsewhere { aligned: true, gigantic: true }).expect("moved");
        assert_eq!(moved.left_out, 1, "a part of a page");
        let second = ROOM + 2 * GIB;
        let expected = [(ROOM, GIB), (second, 2 * GIB), (ROOM, GIB), (second, 2 * GIB)];
        assert_eq!(places(&moved.plan), expected);
        // Two mappings in what would be one page.
        let beside = vec![map(one, 512, 0), map(one + 512 * MIB, 512, 512 * MIB)];
        assert!(super::moved(&plan(beside), Elsewhere { aligned: true, gigantic: true }).is_err());
    }
}
