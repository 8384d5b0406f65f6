//! Performing a recording: the plan, the engine at work on it, and the report.
//!
//! # What is assumed
//!
//! A recording does not say whether a fault was a load or a store. It is taken for a store where the mapping allows
//! stores, for a load or an instruction fetch otherwise. For a shared mapping that makes no difference to tables, pages
//! or counters; in a private one a load of a page that a fork left to both is taken for the store that copies it.
//!
//! Nor does it show the messages that a handler of faults (userfaultfd) reads, or the descriptors that it gets with them. It is
//! taken to read each as soon as there is one, and the first ioctl on a descriptor that nothing opened is taken to be on
//! the userfaultfd of the first forked child that has none yet.
//!
//! With `--clones N` every process of the recording runs N times over, on the same files: what the first copy maps of
//! anonymous shared memory is what the others map, and what is done to a file is done once. Private memory is each copy's
//! own.

mod account;
mod advice;
pub mod args;
mod attempt;
mod doubts;
mod elsewhere;
mod failed;
mod got;
mod handlers;
mod handling;
mod html;
mod machine;
mod observe;
mod picture;
pub mod plan;
mod pools;
mod schedule;
mod shape;
mod whatif;

use std::time::{Duration, Instant};

pub(crate) use account::unsharing;
use advice::Seen;
use args::ReplayArgs;
pub use html::page;
pub use machine::{Machine, MachineError, PoolSize};
pub(crate) use observe::Counting;
pub use picture::Picture;
use plan::{Known, Made, MappingId, Mount, Plan};
use pools::Choice;
use schedule::Record;
pub(crate) use shape::{Shape, shape};
use whatif::{AsAsked, Wanted};

use crate::costs::Costs;
use crate::report::{Mapping, Peak, Rate, Recording, Report, SCHEMA, Truth, range_text};
use crate::trace::{Clock, Time, Trace};

/// What came of a recording.
#[derive(Debug)]
pub struct Replayed {
    /// The report.
    pub report: Report,
    /// What a page shows besides, if one was asked for.
    pub picture: Option<Picture>,
}

/// Performs a recording as the command line says, and reports.
///
/// # Errors
///
/// [`MachineError`] if the engine cannot be set up.
pub fn replay(
    args: &ReplayArgs,
    mounts: &[Mount],
    trace: &Trace,
    truth: Option<&Truth>,
    costs: &Costs,
) -> Result<Replayed, MachineError> {
    let start = trace.start();
    let until = match (args.until, truth) {
        (Some(until), _) => until.moment(start),
        (None, Some(truth)) if trace.clock == Clock::RealTime => truth.at,
        (None, Some(_)) => Time::MAX,
        (None, None) => Time::MAX,
    };
    let default_shift = match (args.default_size, truth) {
        (Some(size), _) => size.0,
        (None, Some(truth)) if truth.huge_page_kb == 1 << 20 => 30,
        _ => 21,
    };
    let listed = truth.map(Truth::ranges).unwrap_or_default();
    let plan = plan::plan(trace, until, &Known { mounts, default_shift, listed });
    let mut choice = Choice::first(args, &plan, truth, default_shift);

    let looks = if args.html.is_some() { picture::moments(&plan, args.clones) } else { Vec::new() };

    let clock = Instant::now();
    let (mut machine, mut record) = perform(&plan, &choice, args.clones, &looks)?;
    if let Some(better) = choice.fitted(&record) {
        // The one it was tried on gives its memory back first.
        drop(machine);
        choice = better;
        (machine, record) = perform(&plan, &choice, args.clones, &looks)?;
    }
    let taken = clock.elapsed();

    let end = observe::snapshot(&mut machine, args.clones);
    let unsharing = unsharing(std::mem::take(&mut record.unshares), args.cpus);
    let processes = observe::processes(&mut machine, &plan);
    let pools = observe::pools(&machine, &choice);
    let mappings = mappings(&plan, &machine, args.clones);
    // What is performed otherwise is performed on machines of its own, and a thread works on one at a time.
    drop(machine);
    let failed = failed::calls(&plan, &choice, &record, default_shift);
    let wanted = if args.html.is_some() { Wanted::All } else { Wanted::ForAdvice };
    let asked = AsAsked {
        choice: &choice,
        record: &record,
        fullest: record.peak.as_ref().unwrap_or(&end),
        unsharing: &unsharing,
        clones: args.clones,
        cpus: args.cpus,
    };
    let what_if = whatif::what_if(&plan, &asked, wanted);
    let picture = args
        .html
        .is_some()
        .then(|| picture::picture(&plan, &record.looks, &unsharing.events, asked.fullest, args.clones));
    let seen = Seen { plan: &plan, failed: &failed, unsharing: &unsharing, what_if: &what_if, costs };
    let advice = advice::advice(&seen);
    let mut notes: Vec<String> = trace.notes.iter().chain(&plan.notes).cloned().collect();
    if truth.is_some() && trace.clock != Clock::RealTime {
        notes.push(
            "The recording has no times of the epoch, so the moment of --truth is not found in it: its end is compared."
                .to_owned(),
        );
    }
    let truth = truth.map(|truth| truth.compare(&pools, &processes));
    let peak = record.peak.take().and_then(|snapshot| {
        let before = plan.ops.get(plan.peak)?;
        let (time, line) = (before.time, before.line);
        Some(Peak { time, line, tables: snapshot.tables })
    });
    notes.extend(doubts::of_plan(&plan, trace.said_late(), !mounts.is_empty()));
    notes.extend(doubts::odd_counters(&processes));
    notes.extend(doubts::wrong_size(&plan, &record.differences, default_shift));
    let rate = rate(&plan, &record, args.clones, taken);
    let (may_matter, unconcerned) = doubts::that_matter(&plan.skipped);
    let report = Report {
        schema: SCHEMA,
        recording: recording(args, trace, (&plan, &record), until, choice.words(&record, default_shift)),
        mappings,
        tables: end.tables,
        peak,
        processes,
        unsharing,
        pools: pools.into_iter().filter(|pool| pool.total > 0 || pool.huge_page_kb == 2048).collect(),
        rate,
        differences: record.differences,
        notes,
        failed,
        killed: plan.killed,
        skipped: plan.skipped,
        may_matter,
        unconcerned,
        truth,
        advice,
        what_if,
        costs: costs.clone(),
    };
    Ok(Replayed { report, picture })
}

/// Performs the plan on a machine of its own.
fn perform(
    plan: &Plan,
    choice: &Choice,
    copies: u32,
    looks: &[usize],
) -> Result<(Machine, Record), MachineError> {
    let mut machine = Machine::new(plan, &choice.sizes, copies)?;
    let record = schedule::perform(plan, &mut machine, copies, looks);
    Ok((machine, record))
}

fn recording(
    args: &ReplayArgs,
    trace: &Trace,
    (plan, record): (&Plan, &Record),
    until: Time,
    pool: String,
) -> Recording {
    let copies = u64::from(args.clones);
    Recording {
        strace: args.strace.display().to_string(),
        faults: args.faults.as_ref().map(|file| file.display().to_string()),
        clock: trace.clock,
        from: trace.start(),
        until: if until == Time::MAX { plan.until } else { until },
        processes: plan.processes * copies,
        calls: record.calls,
        huge_faults: record.faults,
        other_faults: plan.other_faults,
        pool,
        clones: args.clones,
    }
}

fn mappings(plan: &Plan, machine: &Machine, copies: u32) -> Vec<Mapping> {
    let mapping = |(number, made): (u32, &Made)| Mapping {
        pid: made.pid,
        line: made.line,
        call: made.call,
        backing: made.backing.clone(),
        range: range_text(&made.range),
        bytes: made.range.end - made.range.start,
        page_kb: 1 << (made.shift - 10),
        shared: made.shared,
        processes: made.processes * u64::from(copies),
        whole_ranges: made.whole_ranges,
        sharable_ranges: machine.sharable(MappingId(number)),
        unsharable: made.unsharable.clone(),
    };
    (0..).zip(&plan.mappings).map(mapping).collect()
}

fn rate(plan: &Plan, record: &Record, copies: u32, taken: Duration) -> Rate {
    let per_second = |count: u64| {
        let nanoseconds = taken.as_nanos().max(1);
        u64::try_from(u128::from(count) * 1_000_000_000 / nanoseconds).unwrap_or(u64::MAX)
    };
    Rate {
        milliseconds: u64::try_from(taken.as_millis()).unwrap_or(u64::MAX),
        processes_per_second: per_second(plan.processes * u64::from(copies)),
        faults_per_second: per_second(record.faults),
        peak_memory_kb: peak_memory(),
    }
}

/// `VmHWM` of this process.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}
