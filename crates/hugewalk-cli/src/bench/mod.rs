//! `hugewalk bench`: what walks, faults, fork and unshare cost.
//!
//! The figures of one run are to be compared with each other: everything in a group is measured in turn, sample by
//! sample, so that a machine whose speed drifts slows all of them alike.

mod chase;
mod faults;
mod sample;
pub mod walks;

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use hugewalk::error::OutOfMemory;
use hugewalk::fault::FaultError;
use hugewalk::mm::MapError;
use hugewalk_host::HostError;
use indicatif::ProgressBar;
use serde::Serialize;

pub use self::sample::{Effort, Measured};

use crate::args::{BenchArgs, BenchWhat, Format};

/// Why a benchmark could not be run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The host has not the memory.
    #[error("the host cannot be set up: {0}; free some memory")]
    Host(#[from] HostError),
    /// The pool did not reach the size.
    #[error("the host has not the {0} huge pages that the benchmark maps; free some memory")]
    Pages(u64),
    /// The engine has not the memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// A mapping could not be made.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A page could not be touched.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// The figures could not be written.
    #[error("the figures cannot be written: {0}")]
    Output(#[from] io::Error),
}

/// Groups of `hugewalk bench walk`.
const GROUPS: u64 = 8;

/// The results of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The form of this document.
    pub schema: &'static str,
    /// Was `membarrier(2)` there? Without it read sections cost a full fence.
    pub membarrier: bool,
    /// Processors of the machine.
    pub processors: usize,
    /// The groups, in the order they were measured.
    pub groups: Vec<Group>,
}

/// Measurements that were taken in turn and can be compared.
#[derive(Debug, Serialize)]
pub struct Group {
    /// What they have in common.
    pub title: String,
    /// The case that the ratios refer to.
    pub baseline: String,
    /// Each case.
    pub cases: Vec<Measured>,
}

/// Runs the benchmarks and prints the report.
///
/// # Errors
///
/// Whatever keeps the benchmarks from running, or the report from being written.
pub fn run(args: &BenchArgs, out: &mut dyn Write) -> Result<(), BenchError> {
    // Shown on a terminal only.
    let bar = ProgressBar::new(u64::from(args.samples) * GROUPS);
    let effort = Effort { samples: args.samples, seconds: args.seconds, bar };
    let mut report = Report {
        schema: "hugewalk-bench/1",
        membarrier: walks::has_membarrier()?,
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        groups: Vec::new(),
    };
    match args.what {
        BenchWhat::Walk => {
            if let (Some(only), Some(iterations)) = (args.only, args.iterations) {
                return walks::count(only, iterations, out);
            }
            report.groups.extend(walks::groups(&effort)?);
            report.groups.extend(faults::groups(&effort)?);
            effort.bar.finish_and_clear();
        }
    }
    match args.format {
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
            writeln!(out)?;
        }
        Format::Text => print(&report, out)?,
    }
    Ok(())
}

fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let barrier = if report.membarrier { "membarrier(2)" } else { "full fences" };
    writeln!(
        out,
        "{} processors; read sections by {barrier}; medians of samples taken in turn",
        report.processors
    )?;
    for group in &report.groups {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["", "median", "least", &format!("of {}", group.baseline)]);
        for index in 1..4 {
            if let Some(column) = table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let base = group.cases.iter().find(|case| case.name == group.baseline).map(|case| case.median_ns);
        for case in &group.cases {
            let ratio = base.map_or(String::new(), |base| format!("{:.2}", case.median_ns / base));
            table.add_row([case.name.clone(), duration(case.median_ns), duration(case.least_ns), ratio]);
        }
        writeln!(out, "\n{}\n{table}", group.title)?;
    }
    Ok(())
}

/// Nanoseconds in a unit that reads well.
fn duration(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.2} ns"),
        ns if ns < 1e6 => format!("{:.2} µs", ns / 1e3),
        ns => format!("{:.2} ms", ns / 1e6),
    }
}
