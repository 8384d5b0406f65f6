//! What there is to gain.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::observe::Snapshot;
use super::plan::{ANOTHER_PLACE, FileId, Made, Plan, to_gain};
use crate::report::Unsharing;
use crate::report::text::{counted, size};

const GIB: u64 = 1 << 30;
const TABLE: u64 = 4096;

/// Sentences for the user, most useful first; none if all is well.
#[must_use]
pub(super) fn advice(plan: &Plan, fullest: &Snapshot, unsharing: &Unsharing) -> Vec<String> {
    let mut sentences: Vec<String> = Vec::new();
    for made in &plan.mappings {
        if let Some(gain) = to_gain(made) {
            let mut sentence = gain.sentence(made);
            let (tables, faults) = at_edges(made, fullest);
            if tables > 0 {
                sentence += &format!(
                    " At the fullest that would have spared {} ({}) and up to {}.",
                    counted(tables, "table", "tables"),
                    size(tables * TABLE),
                    counted(faults, "fault", "faults")
                );
            }
            sentences.push(sentence);
        }
        if made.may_share() && made.processes > 1 && made.whole_ranges > 0 && untouched(made, fullest) {
            sentences.push(format!(
                "Of the {} of line {} that can share nothing was touched up to then: what the processes use lies at the \
                 ends of the mapping.",
                size(made.whole_ranges * GIB),
                made.line
            ));
        }
    }
    let mut displaced: BTreeMap<FileId, &Made> = BTreeMap::new();
    for made in &plan.mappings {
        if made.unsharable.iter().any(|part| part.why.contains(ANOTHER_PLACE)) {
            displaced.entry(made.file).or_insert(made);
        }
    }
    for made in displaced.values() {
        sentences.push(format!(
            "Map {} at addresses that agree modulo 1 GiB in all processes, best 1 GiB aligned: the mapping of line {} \
             does not share with those before it.",
            made.backing, made.line
        ));
    }
    let broken: BTreeSet<u32> = plan
        .mappings
        .iter()
        .filter(|made| made.unsharable.iter().any(|part| part.why.starts_with("a part of the gigabyte")))
        .map(|made| made.line)
        .collect();
    for line in broken {
        sentences.push(format!(
            "Unmap, move and protect parts of line {line} in whole aligned gigabytes: a gigabyte of which a part is \
             changed shares its table no more."
        ));
    }
    let each = unsharing.protocols.iter().find(|protocol| protocol.name == "ipi-each");
    if let Some(each) = each.filter(|each| each.broadcasts >= 100) {
        sentences.push(format!(
            "On a kernel that broadcasts for each unshare these processes interrupt every processor {} times; prefer one \
             with the fix of early 2026, or keep processes alive (a connection pool).",
            crate::report::text::grouped(each.broadcasts)
        ));
    }
    sentences
}

fn whole(made: &Made) -> Range<u64> {
    made.range.start.div_ceil(GIB).saturating_mul(GIB)..made.range.end / GIB * GIB
}

/// What sharing would have spared at the edges of a mapping: tables, and faults at most.
fn at_edges(made: &Made, fullest: &Snapshot) -> (u64, u64) {
    let edges = BTreeSet::from([made.range.start / GIB * GIB, made.range.end / GIB * GIB]);
    let alone = edges
        .iter()
        .filter(|edge| !whole(made).contains(edge))
        .filter_map(|edge| fullest.unshared_at.get(edge));
    alone.fold((0, 0), |(tables, faults), alone| {
        (tables + alone.tables.saturating_sub(1), faults + alone.pages - alone.most)
    })
}

/// Is there no table in the ranges that can share, though there are some beside them?
fn untouched(made: &Made, fullest: &Snapshot) -> bool {
    let whole = whole(made);
    let inside = |start: &u64| whole.contains(start);
    let beside = |start: &u64| made.range.contains(start) || made.range.contains(&(start + GIB - 1));
    !fullest.shared_at.iter().any(inside)
        && !fullest.unshared_at.keys().any(inside)
        && fullest.unshared_at.keys().any(beside)
}
