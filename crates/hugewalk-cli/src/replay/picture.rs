//! What a page shows that a report does not say: the course of time, and where in the address space tables are whose.

use std::collections::BTreeMap;

use serde::Serialize;

use super::observe::{Snapshot, Use};
use super::plan::{Act, Made, MappingId, Plan, Space};
use super::schedule::Look;
use crate::gigabyte::{GIB, whole_ranges};
use crate::report::{Unshare, range_text};

/// Moments that are looked at, at most and at least.
const MOMENTS: [u64; 2] = [8, 200];
/// Tables that are looked at for it, all told.
const MOST: u64 = 2_000_000;
/// Parts of the time in which faults are counted.
const PARTS: usize = 200;
/// Cells of one mapping; more are drawn no more.
const CELLS: usize = 600;
/// Unshares that are listed.
const LISTED: usize = 300;

/// What a page shows.
#[derive(Debug, Serialize)]
pub struct Picture {
    /// Whether times are seconds since the first event; else they are numbers of operations.
    timed: bool,
    /// When the last of it was.
    end: f64,
    looks: Vec<Moment>,
    /// Faults in huge mappings between one look and the next, of all copies.
    faults: Vec<u64>,
    /// The same in equal parts of the time.
    course: Vec<u64>,
    unshares: Vec<Occasion>,
    /// How many there are beside those that are listed.
    more_unshares: u64,
    /// When as many processes as ever held huge mappings.
    fullest: f64,
    /// The mappings that were there then.
    map: Vec<Mapped>,
    /// The processes of the first copy that were.
    processes: Vec<Holder>,
}

/// What there is at one moment.
#[derive(Debug, Serialize)]
struct Moment {
    at: f64,
    processes: u64,
    tables: u64,
    uses: u64,
    used_kb: u64,
    reserved_kb: u64,
}

#[derive(Debug, Serialize)]
struct Occasion {
    at: f64,
    call: &'static str,
    pid: u32,
    line: u32,
    tables: u64,
}

/// A mapping, gigabyte by gigabyte.
#[derive(Debug, Serialize)]
struct Mapped {
    /// Its place among the mappings of the report.
    mapping: usize,
    cells: Vec<Cell>,
    /// Gigabytes beside those that are listed.
    more: usize,
}

/// A part of a gigabyte that a mapping covers, or several whole ones alike.
#[derive(Debug, PartialEq, Serialize)]
struct Cell {
    range: String,
    /// Where it begins and ends in the gigabyte, in MiB.
    from: u64,
    to: u64,
    /// How many gigabytes it stands for.
    times: u64,
    whole: bool,
    /// Users of the table that most use, tables with one user, and pages in the fullest.
    users: u64,
    own: u64,
    pages: u64,
}

/// A process and its tables.
#[derive(Debug, Serialize)]
struct Holder {
    pid: u32,
    own: u64,
    shared: u64,
    own_pages: u64,
    shared_pages: u64,
}

/// The operations before which to look, in order, the end among them.
pub(super) fn moments(plan: &Plan, copies: u32) -> Vec<usize> {
    let operations = plan.ops.len();
    let cost =
        |made: &Made| made.processes * (((made.range.end - made.range.start) >> made.shift.max(29)) + 2);
    let cost: u64 = plan.mappings.iter().map(cost).sum::<u64>().saturating_mul(copies.into()).max(1);
    let count = (MOST / cost).clamp(MOMENTS[0], MOMENTS[1]);
    let mut places: Vec<usize> = if is_timed(plan) {
        let (first, last) = (start(plan), plan.until.0);
        let at = |number: u64| {
            let time = u128::from(first) + u128::from(last - first) * u128::from(number) / u128::from(count);
            plan.ops.partition_point(|op| u128::from(op.time.0) < time)
        };
        (0..count).map(at).collect()
    } else {
        (0..count).map(|number| operations * number as usize / count as usize).collect()
    };
    places.extend([plan.peak, operations]);
    places.sort_unstable();
    places.dedup();
    places
}

fn is_timed(plan: &Plan) -> bool {
    plan.until.0 > start(plan)
}

/// The moment of the first operation on huge pages.
fn start(plan: &Plan) -> u64 {
    plan.ops.first().map_or(0, |op| op.time.0)
}

/// Draws what was seen.
pub(super) fn picture(
    plan: &Plan,
    looks: &[Look],
    unshares: &[Unshare],
    fullest: &Snapshot,
    copies: u32,
) -> Picture {
    let timed = is_timed(plan);
    let begin = start(plan);
    let seconds = |nanoseconds: u64| nanoseconds.saturating_sub(begin) as f64 / 1e9;
    let end = if timed { seconds(plan.until.0) } else { plan.ops.len() as f64 };
    let at = |place: usize| match plan.ops.get(place) {
        Some(op) if timed => seconds(op.time.0),
        Some(_) => place as f64,
        None => end,
    };
    let look = |look: &Look| Moment {
        at: at(look.before),
        processes: look.tables.processes,
        tables: look.tables.tables,
        uses: look.tables.uses,
        used_kb: look.used_kb,
        reserved_kb: look.reserved_kb,
    };
    let is_fault = |op: &&super::plan::Op| matches!(op.act, Act::Fault { .. });
    let between = |pair: &[Look]| {
        let faults = plan.ops[pair[0].before..pair[1].before].iter().filter(is_fault).count() as u64;
        faults * u64::from(copies)
    };
    let mut order: Vec<_> = unshares.iter().collect();
    order.sort_by_key(|unshare| std::cmp::Reverse(unshare.tables));
    let more_unshares = order.len().saturating_sub(LISTED) as u64;
    order.truncate(LISTED);
    order.sort_by_key(|unshare| unshare.line);
    let occasion = |unshare: &&Unshare| Occasion {
        at: if timed {
            seconds(unshare.time.0)
        } else {
            plan.ops.partition_point(|op| op.line < unshare.line) as f64
        },
        call: unshare.call,
        pid: unshare.pid,
        line: unshare.line,
        tables: unshare.tables,
    };
    Picture {
        timed,
        end,
        looks: looks.iter().map(look).collect(),
        faults: looks.windows(2).map(between).collect(),
        course: course(plan, timed, copies),
        unshares: order.iter().map(occasion).collect(),
        more_unshares,
        fullest: at(plan.peak),
        map: map(plan, fullest),
        processes: holders(plan, fullest),
    }
}

/// Faults in equal parts of the time, of all copies.
fn course(plan: &Plan, timed: bool, copies: u32) -> Vec<u64> {
    let mut parts = vec![0; PARTS];
    let (begin, span) =
        if timed { (start(plan), plan.until.0 - start(plan)) } else { (0, plan.ops.len() as u64) };
    for (place, op) in plan.ops.iter().enumerate() {
        if matches!(op.act, Act::Fault { .. }) {
            let at = if timed { op.time.0.saturating_sub(begin) } else { place as u64 };
            let part = u128::from(at) * PARTS as u128 / u128::from(span.max(1));
            parts[usize::try_from(part).unwrap_or(PARTS).min(PARTS - 1)] += u64::from(copies);
        }
    }
    parts
}

fn map(plan: &Plan, fullest: &Snapshot) -> Vec<Mapped> {
    let mut by_place: BTreeMap<u64, Vec<&Use>> = BTreeMap::new();
    for table in &fullest.uses {
        by_place.entry(table.start).or_default().push(table);
    }
    let mapped = |(number, made): (usize, &Made)| {
        let id = MappingId(u32::try_from(number).ok()?);
        let holders = plan.fullest.get(&id)?;
        let whole = whole_ranges(&made.range);
        let (first, last) = (made.range.start / GIB, made.range.end.div_ceil(GIB));
        let cell = |gigabyte: u64| {
            let start = gigabyte * GIB;
            let uses = by_place.get(&start).into_iter().flatten();
            let uses: Vec<_> = uses.filter(|table| holders.contains(&table.space)).collect();
            let covered = made.range.start.max(start)..made.range.end.min(start + GIB);
            Cell {
                range: range_text(&covered),
                from: (covered.start - start) >> 20,
                to: (covered.end - start) >> 20,
                times: 1,
                whole: whole.contains(&gigabyte) && made.may_share(),
                users: uses.iter().map(|table| table.users).max().unwrap_or(0),
                own: uses.iter().filter(|table| table.users == 1).count() as u64,
                pages: uses.iter().map(|table| table.leaves).max().unwrap_or(0),
            }
        };
        let mut cells: Vec<Cell> = Vec::new();
        for cell in (first..last).map(cell) {
            match cells.last_mut() {
                Some(last) if last.is_like(&cell) => last.take_in(&cell),
                _ => cells.push(cell),
            }
        }
        let more = cells.len().saturating_sub(CELLS);
        cells.truncate(CELLS);
        Some(Mapped { mapping: number, cells, more })
    };
    plan.mappings.iter().enumerate().filter_map(mapped).collect()
}

impl Cell {
    fn is_like(&self, next: &Self) -> bool {
        let what = |cell: &Self| (cell.from, cell.to, cell.whole, cell.users, cell.own, cell.pages);
        what(self) == what(next) && self.from == 0
    }

    fn take_in(&mut self, next: &Self) {
        self.times += next.times;
        let start = self.range.split('-').next().unwrap_or_default().to_owned();
        let end = next.range.split('-').nth(1).unwrap_or_default();
        self.range = format!("{start}-{end}");
    }
}

fn holders(plan: &Plan, fullest: &Snapshot) -> Vec<Holder> {
    // A fork is its parent's doing; whatever else is done to a space is its own.
    let mut pids: BTreeMap<Space, u32> = BTreeMap::new();
    for op in &plan.ops {
        let space = match &op.act {
            Act::Map(map) => map.space,
            Act::Fault { space, .. } | Act::End { space } | Act::Unmap { space, .. } => *space,
            _ => continue,
        };
        pids.entry(space).or_insert(op.pid);
    }
    for (pid, space) in &plan.living {
        pids.insert(*space, *pid);
    }
    let mut holders: BTreeMap<Space, Holder> = BTreeMap::new();
    for table in &fullest.uses {
        let pid = pids.get(&table.space).copied().unwrap_or(0);
        let holder = holders.entry(table.space).or_insert(Holder {
            pid,
            own: 0,
            shared: 0,
            own_pages: 0,
            shared_pages: 0,
        });
        if table.users > 1 {
            holder.shared += 1;
            holder.shared_pages += table.leaves;
        } else {
            holder.own += 1;
            holder.own_pages += table.leaves;
        }
    }
    let mut holders: Vec<Holder> = holders.into_values().collect();
    holders
        .sort_by_key(|holder| (std::cmp::Reverse(holder.own), std::cmp::Reverse(holder.shared), holder.pid));
    holders
}
