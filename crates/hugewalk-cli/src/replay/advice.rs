//! What there is to gain, and by whom.
//!
//! A sentence is given only for what is worth the trouble, and never for what a mapping cannot have: each table that sharing
//! would have spared is one of a process that held this mapping at the fullest moment, and of no other mapping.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::observe::Snapshot;
use super::plan::{ANOTHER_PLACE, FileId, Made, MappingId, Plan, Space, to_gain};
use crate::report::Unsharing;
use crate::report::text::{counted, grouped, size};

const GIB: u64 = 1 << 30;
const TABLE: u64 = 4096;

/// Tables, or faults, from which on a change of a program is worth a word.
const WORTH_TABLES: u64 = 256;
const WORTH_FAULTS: u64 = 100;

/// Broadcasts from which on a change of kernel is.
const WORTH_BROADCASTS: u64 = 100;

/// Sentences for the user, most useful first; none if all is well.
#[must_use]
pub(super) fn advice(plan: &Plan, fullest: &Snapshot, unsharing: &Unsharing) -> Vec<String> {
    let mut sentences = Vec::new();
    let place = |number: usize| MappingId(u32::try_from(number).unwrap_or(u32::MAX));
    let mut displaced: BTreeMap<FileId, &Made> = BTreeMap::new();
    for (number, made) in plan.mappings.iter().enumerate() {
        let Some(spaces) = plan.fullest.get(&place(number)) else {
            // Gone at the fullest, or not there yet.
            continue;
        };
        if let Some(gain) = to_gain(made) {
            let (tables, faults) = at_edges(made, spaces, plan, fullest);
            if tables >= WORTH_TABLES || faults >= WORTH_FAULTS {
                sentences.push(format!(
                    "For the author of the program: {} At the fullest that would have spared {} ({}) and up to {}. An \
                     operator cannot choose the address.",
                    gain.sentence(made),
                    counted(tables, "table", "tables"),
                    size(tables * TABLE),
                    counted(faults, "fault", "faults")
                ));
            }
        }
        if made.unsharable.iter().any(|part| part.why.contains(ANOTHER_PLACE))
            && is_mapped_by_others(made, spaces, plan)
        {
            displaced.entry(made.file).or_insert(made);
        }
    }
    for made in displaced.values() {
        sentences.push(format!(
            "For the author of the program: map {} at addresses that agree modulo 1 GiB in all processes: the mapping of \
             line {} does not share with those before it.",
            made.backing, made.line
        ));
    }
    sentences.extend(broken(plan, unsharing));
    let each = unsharing.protocols.iter().find(|protocol| protocol.name == "ipi-each");
    if let Some(each) = each.filter(|each| each.broadcasts >= WORTH_BROADCASTS) {
        let by_exit = unsharing.by_call.get("exit").copied().unwrap_or_default();
        let all: u64 = unsharing.by_call.values().sum();
        let keep = if by_exit * 2 > all {
            " Or let processes live longer, as a pool of connections does."
        } else {
            ""
        };
        sentences.push(format!(
            "For the operator: a kernel that broadcasts for each unshare (June 2025 to early 2026) interrupts every processor \
             {} times for this; one with the later fix does so {} times.{keep}",
            grouped(each.broadcasts),
            grouped(unsharing.protocols.iter().find(|other| other.name == "ipi-last").map_or(0, |last| last.broadcasts))
        ));
    }
    sentences
}

/// Calls on a part of a gigabyte that took a shared table apart.
fn broken(plan: &Plan, unsharing: &Unsharing) -> Option<String> {
    let mut lines = BTreeMap::new();
    for event in
        unsharing.events.iter().filter(|event| matches!(event.call, "munmap" | "mprotect" | "mremap"))
    {
        let said = format!("in process {} on line {}", event.pid, event.line);
        let found =
            plan.mappings.iter().find(|made| made.unsharable.iter().any(|part| part.why.ends_with(&said)));
        if let Some(made) = found {
            *lines.entry(made.line).or_insert(0) += event.tables;
        }
    }
    let tables: u64 = lines.values().sum();
    if tables < WORTH_TABLES {
        return None;
    }
    let named: Vec<String> = lines.keys().take(3).map(u32::to_string).collect();
    Some(format!(
        "For the author of the program: unmap, move and protect parts of the mapping of line {} in whole aligned gigabytes. \
         Calls on parts of one took {} apart.",
        named.join(", "),
        counted(tables, "shared table", "shared tables")
    ))
}

/// Did others map the file when it was mapped the most?
fn is_mapped_by_others(made: &Made, spaces: &BTreeSet<Space>, plan: &Plan) -> bool {
    plan.fullest
        .iter()
        .filter(|(other, _)| plan.mappings.get(other.0 as usize).is_some_and(|other| other.file == made.file))
        .any(|(_, held)| spaces.len() > 1 || !held.is_subset(spaces))
}

fn whole(range: &Range<u64>) -> Range<u64> {
    range.start.div_ceil(GIB).saturating_mul(GIB)..range.end / GIB * GIB
}

/// What sharing would have spared at the edges of a mapping: tables, and faults at most. A gigabyte in which another mapping
/// lies as well could not be shared whatever happens.
fn at_edges(made: &Made, spaces: &BTreeSet<Space>, plan: &Plan, fullest: &Snapshot) -> (u64, u64) {
    let edges = BTreeSet::from([made.range.start / GIB * GIB, (made.range.end - 1) / GIB * GIB]);
    let mut spared = (0, 0);
    for edge in edges.into_iter().filter(|edge| !whole(&made.range).contains(edge)) {
        let gigabyte = edge..edge + GIB;
        let beside = plan.fullest.iter().any(|(other, held)| {
            let range = &plan.mappings[other.0 as usize].range;
            let is_other = *range != made.range && range.start < gigabyte.end && gigabyte.start < range.end;
            is_other && !held.is_disjoint(spaces)
        });
        if beside {
            continue;
        }
        let own = spaces.iter().filter_map(|space| fullest.unshared_at.get(&(*space, edge)));
        let (mut tables, mut pages, mut most) = (0, 0, 0);
        for alone in own {
            tables += alone.tables;
            pages += alone.pages;
            most = most.max(alone.most);
        }
        spared.0 += u64::saturating_sub(tables, 1);
        spared.1 += pages - most;
    }
    spared
}
