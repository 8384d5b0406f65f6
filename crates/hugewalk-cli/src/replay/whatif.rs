//! What there would be if the program had mapped otherwise: the recording performed again, with its mappings elsewhere, in pages
//! of another size, or with more processes.
//!
//! Nothing of this is calculated: each is a run of the engine, and what it says of tables and faults is counted there.

use std::collections::BTreeMap;

use super::account;
use super::elsewhere::{Elsewhere, Moved, moved};
use super::machine::{Machine, PoolSize};
use super::observe::{Snapshot, snapshot};
use super::plan::{FileId, Plan};
use super::pools::Choice;
use super::schedule::{self, Record};
use crate::gigabyte::GIB;
use crate::report::{Tables, Unsharing, WhatIf};

/// Operations of all copies together above which nothing is performed again. A recording of a million lines is performed once, so
/// that it takes seconds; a hundred times the processes of a benchmark of PostgreSQL are below it.
const MOST: u64 = 900_000;

/// How many times over the processes run, beside as often as they were asked to.
const CLONES: [u32; 3] = [1, 10, 100];

/// What is performed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// What advice needs to know.
    ForAdvice,
    /// All that a page shows.
    All,
}

/// A run that everything is compared with.
pub(super) struct AsAsked<'a> {
    pub(super) choice: &'a Choice,
    pub(super) record: &'a Record,
    /// When most processes held huge mappings.
    pub(super) fullest: &'a Snapshot,
    pub(super) unsharing: &'a Unsharing,
    pub(super) clones: u32,
    pub(super) cpus: u32,
}

/// Performs the plan otherwise. The first of what there is to say is the run that was asked for.
pub(super) fn what_if(plan: &Plan, asked: &AsAsked<'_>, wanted: Wanted) -> Vec<WhatIf> {
    let concerns = plan.mappings.iter().any(|made| made.shift == 21 && made.processes > 0);
    if !concerns || plan.fullest.is_empty() {
        return Vec::new();
    }
    let mut first = described(Elsewhere::default(), plan, asked.clones);
    first.reserved_kb = reserved(plan, false, asked.clones);
    first.tables = Some(asked.fullest.tables.clone());
    first.take(asked.unsharing);
    let mut all = vec![first];
    let mut times = vec![asked.clones];
    if wanted == Wanted::All && asked.clones == 1 {
        times.extend(CLONES.into_iter().filter(|clones| *clones != asked.clones));
    }
    for clones in times {
        for (aligned, gigantic) in [(false, false), (true, false), (true, true)] {
            let elsewhere = Elsewhere { aligned, gigantic };
            if clones != asked.clones || elsewhere != Elsewhere::default() {
                all.push(otherwise(plan, asked, elsewhere, clones));
            }
        }
    }
    all
}

fn otherwise(plan: &Plan, asked: &AsAsked<'_>, elsewhere: Elsewhere, clones: u32) -> WhatIf {
    let mut result = described(elsewhere, plan, clones);
    match run(plan, asked, elsewhere, clones, &mut result) {
        Ok(()) => {}
        Err(why) => result.not_computed = Some(why),
    }
    result
}

fn run(
    plan: &Plan,
    asked: &AsAsked<'_>,
    elsewhere: Elsewhere,
    clones: u32,
    result: &mut WhatIf,
) -> Result<(), String> {
    if (plan.ops.len() as u64).saturating_mul(clones.into()) > MOST {
        return Err("that would take too long".to_owned());
    }
    result.reserved_kb = reserved(plan, elsewhere.gigantic, clones);
    let Moved { plan, left_out } = moved(plan, elsewhere)?;
    let pool = |asked: &PoolSize| {
        let needed = plan.need.pages(asked.size.shift(), clones);
        let as_asked = !elsewhere.gigantic && clones == result.clones && clones == 1;
        let pages = if as_asked { asked.pages } else { asked.pages.max(needed) };
        PoolSize { size: asked.size, pages, overcommit: asked.overcommit }
    };
    let pools: Vec<PoolSize> = asked.choice.sizes.iter().map(pool).collect();
    let mut machine = Machine::new(&plan, &pools, clones).map_err(|error| error.to_string())?;
    let mut record = schedule::perform(&plan, &mut machine, clones, &[]);
    let known: Vec<u32> = asked.record.differences.iter().map(|difference| difference.line).collect();
    if let Some(new) = record.differences.iter().find(|difference| !known.contains(&difference.line)) {
        return Err(format!("the call on line {} would end otherwise than it did", new.line));
    }
    let fullest = match record.peak.take() {
        Some(fullest) => fullest,
        None => snapshot(&mut machine, clones),
    };
    result.tables = Some(fullest.tables);
    result.take(&account::unsharing(std::mem::take(&mut record.unshares), asked.cpus));
    result.left_out = left_out;
    Ok(())
}

fn described(elsewhere: Elsewhere, plan: &Plan, clones: u32) -> WhatIf {
    let page_kb = match plan.mappings.iter().find(|made| made.shift == 21) {
        Some(_) if !elsewhere.gigantic => 2048,
        _ => 1 << 20,
    };
    WhatIf {
        aligned: elsewhere.aligned,
        page_kb,
        clones,
        tables: None::<Tables>,
        unshared: 0,
        broadcasts: Default::default(),
        reserved_kb: 0,
        left_out: 0,
        not_computed: None,
    }
}

/// What the pools need for all that was mapped at the fullest.
fn reserved(asked: &Plan, gigantic: bool, clones: u32) -> u64 {
    let mut files: BTreeMap<FileId, u64> = BTreeMap::new();
    let mut private = 0u64;
    for (mapping, holders) in &asked.fullest {
        let Some(made) = asked.mappings.get(mapping.0 as usize) else { continue };
        let page = if gigantic { GIB } else { 1 << made.shift };
        let length = (made.range.end - made.range.start).next_multiple_of(page);
        if made.shared {
            let end = files.entry(made.file).or_default();
            *end = made.offset.saturating_add(length).max(*end);
        } else {
            let copies = (holders.len() as u64).saturating_mul(clones.into());
            private = private.saturating_add(length.saturating_mul(copies));
        }
    }
    files.values().fold(private, |sum, end| sum.saturating_add(*end)) >> 10
}

impl WhatIf {
    fn take(&mut self, unsharing: &Unsharing) {
        self.unshared = unsharing.by_call.values().sum();
        let broadcasts = unsharing.protocols.iter();
        self.broadcasts =
            broadcasts.map(|protocol| (protocol.name.to_owned(), protocol.broadcasts)).collect();
    }
}
