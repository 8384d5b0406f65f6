//! What there is to gain, and by whom: at most three sentences, in the words of the program where it is known.
//!
//! A sentence is given only for what the recording shows to be worth the trouble. What another place or another page size would
//! give is not calculated: the recording was performed so ([`super::whatif`]).

use std::collections::{BTreeMap, BTreeSet};

use super::failed;
use super::plan::{ANOTHER_PLACE, FileId, Made, MappingId, Plan, Space, to_gain};
use crate::costs::{Costs, duration};
use crate::gigabyte::GIB;
use crate::programs::Program;
use crate::report::text::{counted, grouped, size};
use crate::report::{FailedCall, Tables, Unsharing, WhatIf};

/// Sentences at most.
const MOST: usize = 3;

/// Tables, or faults, from which on a change of a program is worth a word.
const WORTH_TABLES: u64 = 256;
const WORTH_FAULTS: u64 = 100;

/// Broadcasts from which on a change of kernel is.
const WORTH_BROADCASTS: u64 = 100;

/// What advice is drawn from.
pub(super) struct Seen<'a> {
    pub(super) plan: &'a Plan,
    pub(super) failed: &'a [FailedCall],
    pub(super) unsharing: &'a Unsharing,
    pub(super) what_if: &'a [WhatIf],
    pub(super) costs: &'a Costs,
}

/// Sentences for the user, most useful first; none if all is well.
#[must_use]
pub(super) fn advice(seen: &Seen<'_>) -> Vec<String> {
    let sentences = without_huge_pages(seen)
        .into_iter()
        .chain(gigantic(seen))
        .chain(aligned(seen))
        .chain(displaced(seen))
        .chain(broken(seen))
        .chain(broadcasts(seen));
    sentences.take(MOST).collect()
}

/// What a change spares at the peak.
struct Gain {
    tables: u64,
    /// Of all tables of huge-page entries.
    per_cent: u64,
    faults: u64,
}

impl Gain {
    /// If it is worth a word.
    fn of(now: &Tables, then: &Tables) -> Option<Self> {
        let tables = now.tables.saturating_sub(then.tables);
        let faults = now.pages_faulted.saturating_sub(then.pages_faulted);
        let per_cent = (tables * 100).checked_div(now.tables).unwrap_or(0);
        (tables >= WORTH_TABLES || faults >= WORTH_FAULTS).then_some(Self { tables, per_cent, faults })
    }

    fn words(&self, costs: &Costs) -> String {
        let mut spared = Vec::new();
        if self.tables > 0 {
            let tables = counted(self.tables, "table", "tables");
            spared.push(format!("{tables} ({}, {} % of them)", size(self.tables * 4096), self.per_cent));
        }
        if self.faults > 0 {
            let faults = counted(self.faults, "fault", "faults");
            spared.push(format!("up to {faults} (about {})", costs.faults(self.faults)));
        }
        spared.join(" and ")
    }
}

/// What was computed for one change, beside what there is.
fn computed<'a>(seen: &Seen<'a>, fits: impl Fn(&WhatIf) -> bool) -> Option<(&'a WhatIf, &'a Tables, Gain)> {
    let first = seen.what_if.first()?;
    let now = first.tables.as_ref()?;
    let other = seen.what_if.iter().find(|other| other.clones == first.clones && fits(other))?;
    let then = other.tables.as_ref().filter(|_| other.left_out == 0)?;
    Some((other, now, Gain::of(now, then)?))
}

/// The mappings of pages of 2 MiB that were there at the peak.
fn held(plan: &Plan) -> impl Iterator<Item = (MappingId, &Made)> + Clone {
    let number = |place: usize| MappingId(u32::try_from(place).unwrap_or(u32::MAX));
    let all = plan.mappings.iter().enumerate().map(move |(place, made)| (number(place), made));
    all.filter(|(mapping, made)| made.shift == 21 && plan.fullest.contains_key(mapping))
}

/// Calls that asked for huge pages, got none, and went on with normal ones.
fn without_huge_pages(seen: &Seen<'_>) -> Option<String> {
    let fell_back = seen.failed.iter().zip(&seen.plan.failed);
    let (call, planned) = fell_back
        .filter(|(call, _)| call.pages_lacking.is_some() && call.normal_pages_line.is_some())
        .max_by_key(|(call, _)| call.bytes)?;
    let [_, most] = call.pages_lacking?;
    let setting = failed::setting(planned.shift, 21);
    let asked = format!("the {} of {}", counted(call.pages, "page", "pages"), size(call.page_kb << 10));
    let smaller =
        planned.program.smaller().map_or_else(String::new, |option| format!(", or make {option} smaller"));
    let more = match planned.program {
        Program::PostgreSql => {
            " postgres -C shared_memory_size_in_huge_pages says how many there have to be in all; with huge_pages = on it does not start without them."
        }
        _ => "",
    };
    Some(format!(
        "For the operator: {} went on without {asked} (line {}). Raise {setting} by {}{smaller}. A process that touches all of that in \
         normal pages needs {} of page tables, and {} in huge pages.{more}",
        planned.program.name().unwrap_or("the program"),
        call.line,
        grouped(most),
        size(call.bytes.div_ceil(2 << 20) * 4096),
        size(call.bytes.div_ceil(GIB) * 4096),
    ))
}

/// Pages of 1 GiB, for a program that has an option for them.
fn gigantic(seen: &Seen<'_>) -> Option<String> {
    let (other, now, gain) = computed(seen, |other| other.page_kb == 1 << 20)?;
    // Of those that map the same memory, the one that has a say in it.
    let with_option =
        held(seen.plan).filter_map(|(_, made)| Some((made, made.program.gigantic(&made.backing)?)));
    let (made, option) = with_option.max_by_key(|(made, _)| made.range.end - made.range.start)?;
    // Their tables are those that every process has anyway.
    let gain = Gain { tables: now.tables, per_cent: 100, ..gain };
    let bytes = made.range.end - made.range.start;
    let (whole, rest) = (bytes / GIB, bytes % GIB);
    let now_kb = seen.what_if.first().map_or(0, |first| first.reserved_kb);
    let taken = other.reserved_kb.saturating_sub(now_kb);
    let smaller = made.program.smaller().filter(|_| whole > 0 && rest > 0 && rest < GIB / 4);
    if smaller.is_none() && taken > now_kb / 8 {
        // That much memory is worth more than the tables.
        return None;
    }
    let pages = other.reserved_kb >> 20;
    let mut text = format!(
        "For the operator: with {option}, and {} in the pool (hugepagesz=1G hugepages={pages} on the kernel's command line), {} \
         needs no table of entries of 2 MiB: that spares {}.",
        counted(pages, "page of 1 GiB", "pages of 1 GiB"),
        made.program.name().unwrap_or("the program"),
        gain.words(seen.costs)
    );
    if taken > 0 {
        text += &format!(" It takes {} more memory", size(taken << 10));
        match smaller {
            Some(smaller) => {
                text += &format!("; {} less in {smaller}, and {whole} of them are enough.", size(rest));
            }
            None => text.push('.'),
        }
    }
    Some(text)
}

/// Mappings that would share more if they began on a 1 GiB boundary.
fn aligned(seen: &Seen<'_>) -> Option<String> {
    let (_, _, gain) = computed(seen, |other| other.aligned && other.page_kb == 2048)?;
    let gaining: Vec<_> = held(seen.plan).filter_map(|(_, made)| Some((made, to_gain(made)?))).collect();
    let (made, ranges) = gaining.iter().max_by_key(|(made, _)| made.range.end - made.range.start)?;
    let spares = gain.words(seen.costs);
    Some(match made.program.aligned(&made.backing) {
        Some(option) => format!(
            "For the operator: give {} {option}, and have the processes that map the same memory begin on a 1 GiB boundary \
             too. At the peak that would have spared {spares}.",
            made.program.name().unwrap_or("the program")
        ),
        None => format!(
            "For the author of {}: {} At the peak that would have spared {spares}. An operator cannot choose the address.",
            made.program.name().unwrap_or("the program"),
            ranges.sentence(made)
        ),
    })
}

/// Files that lie at different places in the gigabyte.
fn displaced(seen: &Seen<'_>) -> Option<String> {
    let plan = seen.plan;
    let is_displaced = |(mapping, made): &(MappingId, &Made)| {
        made.unsharable.iter().any(|part| part.why.contains(ANOTHER_PLACE))
            && plan.fullest.get(mapping).is_some_and(|spaces| is_mapped_by_others(made, spaces, plan))
    };
    let mut first: BTreeMap<FileId, &Made> = BTreeMap::new();
    for (_, made) in held(plan).filter(is_displaced) {
        first.entry(made.file).or_insert(made);
    }
    let made = first.into_values().max_by_key(|made| made.range.end - made.range.start)?;
    Some(format!(
        "For the author of {}: map {} at addresses that agree modulo 1 GiB in all processes: the mapping of line {} does not \
         share with those before it.",
        made.program.name().unwrap_or("the program"),
        made.backing,
        made.line
    ))
}

/// Did others map the file when it was mapped the most?
fn is_mapped_by_others(made: &Made, spaces: &BTreeSet<Space>, plan: &Plan) -> bool {
    plan.fullest
        .iter()
        .filter(|(other, _)| plan.mappings.get(other.0 as usize).is_some_and(|other| other.file == made.file))
        .any(|(_, held)| spaces.len() > 1 || !held.is_subset(spaces))
}

/// Calls on a part of a gigabyte that took a shared table apart.
fn broken(seen: &Seen<'_>) -> Option<String> {
    let mut lines = BTreeMap::new();
    for event in
        seen.unsharing.events.iter().filter(|event| matches!(event.call, "munmap" | "mprotect" | "mremap"))
    {
        let said = format!("in process {} on line {}", event.pid, event.line);
        let is_its = |made: &&Made| made.unsharable.iter().any(|part| part.why.ends_with(&said));
        if let Some(made) = seen.plan.mappings.iter().find(is_its) {
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

/// A kernel that interrupts every processor for each table.
fn broadcasts(seen: &Seen<'_>) -> Option<String> {
    let unsharing = seen.unsharing;
    let times = |name: &str| {
        unsharing.protocols.iter().find(|protocol| protocol.name == name).map_or(0, |of| of.broadcasts)
    };
    let (each, last) = (times("ipi-each"), times("ipi-last"));
    if each < WORTH_BROADCASTS {
        return None;
    }
    let by_exit = unsharing.by_call.get("exit").copied().unwrap_or_default();
    let all: u64 = unsharing.by_call.values().sum();
    let keep =
        if by_exit * 2 > all { " Or let processes live longer, as a pool of connections does." } else { "" };
    let takes = seen
        .costs
        .interrupt_ns
        .map_or_else(String::new, |one| format!(" ({} of waiting)", duration(one * each as f64)));
    Some(format!(
        "For the operator: a kernel that broadcasts for each unshare (June 2025 to early 2026) interrupts every processor {} \
         times for this{takes}; one with the later fix does so {} times.{keep}",
        grouped(each),
        grouped(last)
    ))
}
