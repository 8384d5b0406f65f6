//! From what `/proc` says of each process to what is reported of all of them.

use std::collections::{BTreeMap, BTreeSet};

use super::notes;
use super::report::{File, Mapping, Place, Process, Report, Residue, SCHEMA, Unseen};
use super::tables::{Census, FileId, Kind, forbidden, kind, may_share, residue};
use crate::costs::Costs;
use crate::gigabyte::{ANOTHER_PLACE, GIB, unsharable, whole_ranges};
use crate::proc::{self, Filled, Machine, slots};
use crate::report::{Unsharable, range_text};

/// Reasons listed for one mapping; more say nothing new.
const LISTED: usize = 12;

/// What was seen in one look at all processes.
pub(super) struct Seen {
    /// The processes that were asked for; none if all were.
    pub(super) asked: Option<Vec<u32>>,
    pub(super) processes: Vec<proc::Process>,
    pub(super) unseen: Unseen,
    pub(super) machine: Machine,
}

/// A mapping and the process it belongs to.
type Held<'a> = (&'a proc::Process, &'a proc::Mapping);

/// The first mapping of each kind that a file is mapped in, among those that may share.
type Kinds<'a> = BTreeMap<FileId<'a>, BTreeMap<Kind<'a>, Held<'a>>>;

pub(super) fn survey(seen: &Seen, costs: &Costs) -> Report {
    let census = Census::of(&seen.processes, |_| true);
    let held: Vec<Held> = seen
        .processes
        .iter()
        .flat_map(|process| process.mappings.iter().map(move |mapping| (process, mapping)))
        .collect();
    let mut kinds = Kinds::new();
    for &(process, mapping) in &held {
        if may_share(mapping) && !whole_ranges(&mapping.range).is_empty() {
            let of_file = kinds.entry(FileId::of(mapping)).or_default();
            of_file.entry(kind(mapping)).or_insert((process, mapping));
        }
    }
    let mut processes: Vec<Process> = seen
        .processes
        .iter()
        .filter(|process| !process.mappings.is_empty())
        .map(|process| of_process(process, &census, &kinds))
        .collect();
    processes.sort_by_key(|process| (std::cmp::Reverse(process.resident_kb), process.pid));
    let mut report = Report {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        asked: seen.asked.clone(),
        processes,
        files: files(&held, &census, &kinds),
        tables: census.bounds(),
        machine_page_tables_kb: seen.machine.page_tables_kb,
        default_huge_page_kb: seen.machine.default_page_kb,
        pools: seen.machine.pools.clone(),
        unseen: seen.unseen,
        notes: Vec::new(),
        advice: Vec::new(),
    };
    report.notes = notes::notes(&report);
    report.advice = notes::advice(&report, costs);
    if report.advice.iter().any(|sentence| sentence.contains("(about ")) {
        report.notes.push(costs.sentence());
    }
    report
}

fn of_process(process: &proc::Process, census: &Census, kinds: &Kinds) -> Process {
    let (own_tables, sharable_tables) = census.of_process(process);
    let mappings = &process.mappings;
    Process {
        pid: process.pid,
        command: process.command.clone(),
        mapped_kb: mappings.iter().map(|mapping| mapping.bytes() >> 10).sum(),
        resident_kb: mappings.iter().map(proc::Mapping::resident_kb).sum(),
        hugetlb_kb: process.hugetlb_kb,
        page_tables_kb: process.page_tables_kb,
        own_tables,
        sharable_tables,
        mappings: mappings.iter().map(|mapping| of_mapping(process, mapping, kinds)).collect(),
    }
}

fn of_mapping(process: &proc::Process, mapping: &proc::Mapping, kinds: &Kinds) -> Mapping {
    let mut tables = Census::default();
    tables.add(process.pid, mapping);
    let whole = whole_ranges(&mapping.range);
    Mapping {
        range: range_text(&mapping.range),
        bytes: mapping.bytes(),
        file: mapping.name.clone(),
        device: mapping.device.clone(),
        inode: mapping.inode,
        offset: mapping.offset,
        page_kb: mapping.page_kb,
        rights: mapping.rights.clone(),
        shared: mapping.shared,
        flags: mapping.flags.clone(),
        private_kb: mapping.private_kb,
        shared_kb: mapping.shared_kb,
        sharable_ranges: if may_share(mapping) { whole.end - whole.start } else { 0 },
        sharable_filled: sharable_filled(mapping),
        tables: tables.bounds(),
        unsharable: reasons(mapping, kinds),
    }
}

/// The ranges that may share their tables and have pages in them.
fn sharable_filled(mapping: &proc::Mapping) -> u64 {
    let whole = whole_ranges(&mapping.range);
    let filled = slots(&mapping.range).zip(&mapping.filled);
    let ranges = filled.filter(|(slot, filled)| whole.contains(slot) && **filled == Filled::Yes);
    if may_share(mapping) { ranges.count() as u64 } else { 0 }
}

/// What of a mapping cannot share, or not with some others, and why.
fn reasons(mapping: &proc::Mapping, kinds: &Kinds) -> Vec<Unsharable> {
    let all = |why: String| Unsharable { range: range_text(&mapping.range), bytes: mapping.bytes(), why };
    let mut reasons = unsharable(&mapping.range, mapping.shift(), mapping.shared);
    if whole_ranges(&mapping.range).is_empty() || mapping.shift() != 21 || !mapping.shared {
        return reasons;
    }
    if let Some(why) = forbidden(mapping) {
        return vec![all(why.to_owned())];
    }
    let own = kind(mapping);
    let others = kinds.get(&FileId::of(mapping)).into_iter().flatten();
    for (_, (process, other)) in others.filter(|(kind, _)| **kind != own).take(LISTED) {
        let whom = format!("not with {} of process {}", range_text(&other.range), process.pid);
        reasons.push(all(if residue(other) != residue(mapping) {
            format!("{whom}: {ANOTHER_PLACE}")
        } else if other.rights != mapping.rights {
            format!("{whom}: that one is {}, this one {}", other.rights, mapping.rights)
        } else {
            let extra = |a: &proc::Mapping, b: &proc::Mapping| {
                let flags = a.flags.split(' ').filter(|flag| !b.has(flag)).collect::<Vec<_>>().join(" ");
                if flags.is_empty() { "no more".to_owned() } else { flags }
            };
            let (theirs, ours) = (extra(other, mapping), extra(mapping, other));
            format!("{whom}: of the flags in smaps that one has {theirs}, this one {ours}")
        }));
    }
    reasons
}

fn files(held: &[Held], census: &Census, kinds: &Kinds) -> Vec<File> {
    let mut by_file: BTreeMap<FileId, Vec<Held>> = BTreeMap::new();
    for &(process, mapping) in held {
        by_file.entry(FileId::of(mapping)).or_default().push((process, mapping));
    }
    let mut files: Vec<File> = by_file.values().map(|held| of_file(held, census, kinds)).collect();
    files.sort_by_key(|file| {
        let mapped: u64 = file.places.iter().map(|place| place.mapping.bytes).sum();
        (std::cmp::Reverse(file.tables.most), std::cmp::Reverse(mapped), file.inode)
    });
    files
}

/// What is reported of a file that is mapped so, by whom.
fn of_file(held: &[Held], census: &Census, kinds: &Kinds) -> File {
    let mut tables = Census::default();
    for (process, mapping) in held {
        tables.add(process.pid, mapping);
    }
    let first = held[0].1;
    let pids: BTreeSet<u32> = held.iter().map(|(process, _)| process.pid).collect();
    let (faulted_pages, refaulted_pages) = faulted(held);
    File {
        name: first.name.clone(),
        device: first.device.clone(),
        inode: first.inode,
        page_kb: first.page_kb,
        processes: pids.into_iter().collect(),
        places: places(held, census, kinds),
        tables: tables.bounds(),
        aligned_tables: aligned(held, &tables),
        faulted_pages,
        refaulted_pages,
        disagreement: disagreement(held),
    }
}

/// The mappings of a file, equal ones together, those of most processes first.
fn places(held: &[Held], census: &Census, kinds: &Kinds) -> Vec<Place> {
    let mut alike: BTreeMap<_, Vec<Held>> = BTreeMap::new();
    for &(process, mapping) in held {
        let range = &mapping.range;
        let what = (range.start, range.end, mapping.offset, mapping.shared, &mapping.flags);
        alike.entry(what).or_default().push((process, mapping));
    }
    let place = |held: &Vec<Held>| {
        let mut tables = Census::default();
        for (process, mapping) in held {
            tables.add(process.pid, mapping);
        }
        let (process, mapping) = held[0];
        let mut place = Place {
            mapping: of_mapping(process, mapping, kinds),
            processes: held.iter().map(|(process, _)| process.pid).collect(),
            partners: census.partners(process.pid, mapping),
        };
        place.mapping.private_kb = held.iter().map(|(_, mapping)| mapping.private_kb).sum();
        place.mapping.shared_kb = held.iter().map(|(_, mapping)| mapping.shared_kb).sum();
        place.mapping.tables = tables.bounds();
        let filled = held.iter().map(|(_, mapping)| sharable_filled(mapping));
        place.mapping.sharable_filled = filled.max().unwrap_or(0);
        place
    };
    let mut places: Vec<Place> = alike.values().map(place).collect();
    places.sort_by_key(|place| std::cmp::Reverse(place.processes.len()));
    places
}

/// The pages of a file that its processes have faulted in for themselves, and how many of those at most were another's already. A
/// process cannot have faulted in more than it has, nor more than its counter says.
fn faulted(held: &[Held]) -> (u64, u64) {
    let mut by_process: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for (process, mapping) in held {
        let (resident_kb, counter_kb) = by_process.entry(process.pid).or_default();
        *resident_kb += mapping.resident_kb();
        *counter_kb = process.hugetlb_kb;
    }
    let page_kb = held[0].1.page_kb.max(1);
    let faulted = by_process.values().map(|(resident, counter)| resident.min(counter) / page_kb).sum();
    // Each page of the file was faulted in once, and one process has so many of them.
    let distinct = by_process.values().map(|(resident, _)| resident / page_kb).max().unwrap_or(0);
    (faulted, faulted.saturating_sub(distinct))
}

/// The tables there would be if each process that has some mapped the file from a 1 GiB boundary on.
fn aligned(held: &[Held], tables: &Census) -> Option<u64> {
    let may = |mapping: &proc::Mapping| mapping.shift() == 21 && mapping.shared;
    let length = held.iter().map(|(_, mapping)| mapping.bytes()).max()?;
    let users = tables.users().len() as u64;
    let bounds = tables.bounds();
    (length >= GIB && held.iter().all(|(_, mapping)| may(mapping))).then(|| {
        let rest = if length.is_multiple_of(GIB) { 0 } else { users };
        (length / GIB + rest).min(bounds.least)
    })
}

fn disagreement(held: &[Held]) -> Vec<Residue> {
    let mut residues: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
    for (process, mapping) in held {
        // Smaller ones share nothing wherever they lie.
        if mapping.shared && mapping.shift() == 21 && mapping.bytes() >= GIB {
            residues.entry(residue(mapping)).or_default().insert(process.pid);
        }
    }
    if residues.len() < 2 {
        return Vec::new();
    }
    let named = residues.into_iter().map(|(residue, pids)| Residue {
        address: format!("{residue:#x}"),
        processes: pids.into_iter().collect(),
    });
    named.collect()
}
