//! `hugewalk estimate`: what page tables, faults, forks and exits would cost with so much memory shared by so many processes.
//!
//! The engine runs such a program, and counts. Where that would take too long it runs four smaller ones, with fewer whole
//! gigabytes and fewer processes: each further table, and each further process, costs as much as the one before, so that
//! what they differ by is what one more costs. The report says which of the two was done.

pub mod args;
mod engine;
mod text;

use std::io::{self, Write};

use hugewalk::arch::X86_64;
use serde::Serialize;

use self::args::EstimateArgs;
use self::engine::{Counted, EngineError, Gives, Program};
use crate::args::Format;
use crate::costs::{Costs, CostsError};
use crate::gigabyte::GIB;
use crate::recording::{Recorded, RecordingError};
use crate::replay::args::ReplayArgs;
use crate::replay::{self, MachineError, Shape};
use crate::report::{Protocol, Unshare};
use crate::trace::{Trace, TraceError};

/// The version of the JSON.
const SCHEMA: &str = "hugewalk-estimate/1";

/// Touches of pages, and tables given up, that are done for an estimate.
const MOST: u64 = 3_000_000;
/// What the smaller programs have, if there would be more: whole gigabytes, and processes.
const FEW: [u64; 2] = [4, 8];

/// Why there is no estimate.
#[derive(Debug, thiserror::Error)]
pub enum EstimateError {
    /// The recording cannot be read.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// Its directory cannot be.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// It cannot be replayed.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// It shares nothing.
    #[error(
        "{0}: no shared mapping of pages of 2 MiB is in it; leave --recording out, and say --align and --touched"
    )]
    SharesNothing(String),
    /// The costs cannot be read.
    #[error(transparent)]
    Costs(#[from] CostsError),
    /// The engine cannot do it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The report cannot be written.
    #[error("the report cannot be written: {0}")]
    Output(#[from] io::Error),
}

/// The report.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    asked: Asked,
    /// As it is with shared tables, and as it would be if each process had its own.
    shared: Figures,
    unshared: Figures,
    /// One process more.
    fork: Fork,
    /// The exit of a process while all others are there, and the one that leaves a single process.
    exits: Vec<Exit>,
    /// How often processes come and go, if a recording says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    rates: Option<Rates>,
    costs: Costs,
    method: Method,
}

/// What was asked for, with what was not said filled in.
#[derive(Debug, Serialize)]
struct Asked {
    shared_bytes: u64,
    processes: u64,
    page_kb: u64,
    /// How far behind a 1 GiB boundary the mapping begins.
    begins_kb: u64,
    touched_percent: f64,
    /// Aligned 1 GiB ranges whose tables are shared.
    sharable_ranges: u64,
    cpus: u32,
    recording: Option<String>,
}

/// All processes together.
#[derive(Debug, Serialize)]
struct Figures {
    tables: u64,
    bytes: u64,
    faults: u64,
    milliseconds: f64,
}

/// What a process that comes costs until it has touched its pages.
#[derive(Debug, Serialize)]
struct Fork {
    /// Of the call itself.
    flushes: u64,
    unshared: u64,
    /// Tables that it uses alone, of how many.
    own_tables: u64,
    tables: u64,
    faults: u64,
    milliseconds: f64,
    /// If it had all tables for itself.
    faults_unshared: u64,
    milliseconds_unshared: f64,
}

/// What an exit gives up, and what that costs.
#[derive(Debug, Serialize)]
struct Exit {
    /// `others-stay` or `leaves-one`.
    case: &'static str,
    gives: Gives,
    protocols: Vec<Protocol>,
    /// What it waits for under each protocol; null if such a wait was not measured.
    milliseconds: Vec<Option<f64>>,
}

/// Per second of the recording.
#[derive(Debug, Serialize)]
struct Rates {
    forks: f64,
    exits: f64,
}

/// How the figures came about.
#[derive(Debug, Serialize)]
struct Method {
    /// Whether they were counted, all of them.
    computed: bool,
    /// The runs: whole gigabytes and processes of each.
    runs: Vec<[u64; 2]>,
    /// In words.
    text: String,
}

/// Estimates as the command line says.
///
/// # Errors
///
/// [`EstimateError`].
pub fn run(args: &EstimateArgs, out: &mut Vec<u8>) -> Result<(), EstimateError> {
    let costs = Costs::load(args.costs.as_deref())?;
    let shape = args.recording.as_ref().map(|_| recorded(args)).transpose()?;
    let report = estimate(args, shape.as_ref(), costs)?;
    match args.format {
        Format::Text => text::write(&report, shape.as_ref(), out)?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
            writeln!(out)?;
        }
    }
    Ok(())
}

/// What the recording is like.
fn recorded(args: &EstimateArgs) -> Result<Shape, EstimateError> {
    let path = args.recording.clone().unwrap_or_default();
    let name = path.display().to_string();
    let mut replay = ReplayArgs::of(path, args.faults.clone());
    if replay.strace.is_dir() {
        replay = replay.in_directory(&Recorded::load(&replay.strace)?);
    }
    let trace = Trace::load(&replay.strace, replay.faults.as_deref())?;
    replay::shape(&replay, &replay.hugetlbfs, &trace)?.ok_or(EstimateError::SharesNothing(name))
}

fn estimate(args: &EstimateArgs, shape: Option<&Shape>, costs: Costs) -> Result<Report, EstimateError> {
    let size = if args.size.0 == 30 { X86_64::SIZE_1G } else { X86_64::SIZE_2M };
    let begins = args.begins().or(shape.map(|shape| shape.begins)).unwrap_or(GIB / 2);
    let program = Program {
        bytes: args.shared,
        size,
        // Pages of 1 GiB lie on no other place.
        begins: if args.size.0 == 30 { 0 } else { begins },
        touched: args.touched.or(shape.and_then(|shape| shape.touched)).unwrap_or(100.0),
    };
    let (counted, method) = count(&program, args.processes)?;
    let milliseconds = |faults: u64| faults as f64 * costs.fault_ns / 1e6;
    let figures = |tables: u64, faults: u64| Figures {
        tables,
        bytes: tables * 4096,
        faults,
        milliseconds: milliseconds(faults),
    };
    let exit = |case, gives: Gives| exit(case, gives, args.cpus, &costs);
    let exits = match args.processes {
        1 => Vec::new(),
        2 => vec![exit("leaves-one", counted.last_exit)],
        _ => vec![exit("others-stay", counted.exit), exit("leaves-one", counted.last_exit)],
    };
    let rates = shape.and_then(|shape| {
        let seconds = shape.seconds?;
        Some(Rates { forks: shape.forks as f64 / seconds, exits: shape.exits as f64 / seconds })
    });
    Ok(Report {
        schema: SCHEMA,
        asked: Asked {
            shared_bytes: program.bytes,
            processes: args.processes,
            page_kb: size.bytes() >> 10,
            begins_kb: program.begins >> 10,
            touched_percent: program.touched,
            sharable_ranges: program.whole(),
            cpus: args.cpus,
            recording: args.recording.as_ref().map(|path| path.display().to_string()),
        },
        shared: figures(counted.tables, counted.faults),
        unshared: figures(counted.uses, counted.reached),
        fork: Fork {
            flushes: counted.flushes_of_fork,
            unshared: counted.unshared_by_fork,
            own_tables: counted.tables_of_one,
            tables: counted.uses_of_one,
            faults: counted.faults_of_one,
            milliseconds: milliseconds(counted.faults_of_one),
            faults_unshared: counted.reached_by_one,
            milliseconds_unshared: milliseconds(counted.reached_by_one),
        },
        exits,
        rates,
        costs,
        method,
    })
}

fn exit(case: &'static str, gives: Gives, cpus: u32, costs: &Costs) -> Exit {
    let Gives { tables, last_sharers, flushes, last_flushes } = gives;
    let event = Unshare { call: "exit", tables, last_sharers, flushes, last_flushes, ..Unshare::default() };
    let protocols = replay::unsharing(vec![event], cpus).protocols;
    let waits = |protocol: &Protocol| {
        let of = |count: u64, each: Option<f64>| {
            if count == 0 { Some(0.0) } else { each.map(|each| count as f64 * each) }
        };
        let interrupts = of(protocol.broadcasts, costs.interrupt_ns)?;
        Some((interrupts + of(protocol.grace_periods, costs.grace_period_ns)?) / 1e6)
    };
    let milliseconds = protocols.iter().map(waits).collect();
    Exit { case, gives, protocols, milliseconds }
}

/// Counts, or counts smaller programs and goes on from there.
fn count(program: &Program, processes: u64) -> Result<(Counted, Method), EngineError> {
    let whole = program.whole();
    if program.work(processes) <= MOST {
        let counted = program.run(processes)?;
        let text = "All figures were counted by the engine, which ran the whole program.".to_owned();
        return Ok((counted, Method { computed: true, runs: vec![[whole, processes]], text }));
    }
    let (wholes, numbers) = (fewer(whole), fewer(processes));
    let mut runs = Vec::new();
    let mut results = Vec::new();
    for &whole in &wholes {
        let mut of_whole = Vec::new();
        for &processes in &numbers {
            of_whole.push(program.with_whole(whole).run(processes)?);
            runs.push([whole, processes]);
        }
        results.push(of_whole);
    }
    // First along the processes, then along the gigabytes.
    let along = |of_whole: &Vec<Counted>| further(of_whole, &numbers, processes);
    let of_whole: Vec<Counted> = results.iter().map(along).collect();
    let counted = further(&of_whole, &wholes, whole);
    let list = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" and ");
    let text = format!(
        "The engine ran {} smaller programs: {} whole gigabytes, {} processes. The figures are extrapolated from what it counted \
         there, by the table and by the process.",
        runs.len(),
        list(&wholes),
        list(&numbers)
    );
    Ok((counted, Method { computed: false, runs, text }))
}

/// The number, or two smaller ones.
fn fewer(number: u64) -> Vec<u64> {
    if number <= FEW[1] { vec![number] } else { FEW.to_vec() }
}

/// Goes on along a line through two counts.
fn further(counts: &[Counted], at: &[u64], to: u64) -> Counted {
    let [one, two] = counts else { return counts.first().copied().unwrap_or_default() };
    let line = |one: u64, two: u64| {
        let (one, two) = (i128::from(one), i128::from(two));
        let steps = i128::from(to) - i128::from(at[0]);
        let value = one + (two - one) * steps / i128::from(at[1] - at[0]);
        u64::try_from(value).unwrap_or(0)
    };
    let gives = |one: Gives, two: Gives| Gives {
        tables: line(one.tables, two.tables),
        last_sharers: line(one.last_sharers, two.last_sharers),
        flushes: line(one.flushes, two.flushes),
        last_flushes: line(one.last_flushes, two.last_flushes),
    };
    Counted {
        tables: line(one.tables, two.tables),
        uses: line(one.uses, two.uses),
        faults: line(one.faults, two.faults),
        reached: line(one.reached, two.reached),
        faults_of_one: line(one.faults_of_one, two.faults_of_one),
        reached_by_one: line(one.reached_by_one, two.reached_by_one),
        tables_of_one: line(one.tables_of_one, two.tables_of_one),
        uses_of_one: line(one.uses_of_one, two.uses_of_one),
        flushes_of_fork: line(one.flushes_of_fork, two.flushes_of_fork),
        unshared_by_fork: line(one.unshared_by_fork, two.unshared_by_fork),
        exit: gives(one.exit, two.exit),
        last_exit: gives(one.last_exit, two.last_exit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 11 whole gigabytes between two edges of half a gigabyte.
    fn program(touched: f64) -> Program {
        Program { bytes: 12 * GIB, size: X86_64::SIZE_2M, begins: GIB / 2, touched }
    }

    #[test]
    fn what_is_extrapolated_is_what_is_counted() {
        for touched in [100.0, 25.0] {
            let program = program(touched);
            let counts: Vec<Vec<Counted>> = FEW
                .iter()
                .map(|whole| {
                    let of = |processes: &u64| program.with_whole(*whole).run(*processes).expect("ran");
                    FEW.iter().map(of).collect()
                })
                .collect();
            let of_whole: Vec<Counted> = counts.iter().map(|counts| further(counts, &FEW, 12)).collect();
            let extrapolated = further(&of_whole, &FEW, 11);
            assert_eq!(extrapolated, program.run(12).expect("ran"), "{touched}");
        }
    }

    #[test]
    fn shared_ranges_are_taken_up_by_one_fault_each_and_edges_are_every_processs_own() {
        let counted = program(100.0).run(3).expect("ran");
        // Two tables at the edges of each process.
        assert_eq!((counted.tables, counted.uses), (11 + 3 * 2, 3 * 13));
        assert_eq!(counted.faults, 12 * 512 + 2 * (512 + 11));
        assert_eq!(counted.reached, 3 * 12 * 512);
        assert_eq!((counted.faults_of_one, counted.tables_of_one), (512 + 11, 2));
        assert_eq!((counted.exit.tables, counted.exit.last_sharers), (11, 0));
        assert_eq!((counted.last_exit.tables, counted.last_exit.last_sharers), (11, 11));
        assert_eq!((counted.exit.flushes, counted.flushes_of_fork), (1, 0));
    }
}
