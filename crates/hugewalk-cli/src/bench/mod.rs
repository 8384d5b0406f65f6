//! `hugewalk bench`: what walks, faults, fork and unshare cost.
//!
//! The figures of one run are to be compared with each other: everything in a group is measured in turn, sample by
//! sample, so that a machine whose speed drifts slows all of them alike.

mod chase;
mod faults;
mod sample;
mod walks;

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

pub use self::sample::{Effort, Measured};

use crate::args::{BenchArgs, BenchWhat, Format};

/// What went wrong in a benchmark: the machine has not the memory for it, say.
pub type BenchError = Box<dyn std::error::Error>;

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
    let effort = Effort { samples: args.samples, seconds: args.seconds };
    let mut report = Report {
        schema: "hugewalk-bench/1",
        membarrier: walks::has_membarrier()?,
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        groups: Vec::new(),
    };
    match args.what {
        BenchWhat::Walk => {
            if let Some(only) = &args.only {
                // One case, a fixed number of times: for instruction counts.
                return Ok(walks::count(only, args.iterations, out)?);
            }
            report.groups.extend(walks::groups(&effort)?);
            report.groups.extend(faults::groups(&effort)?);
        }
    }
    match args.format {
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &report)?;
            writeln!(out)?;
        }
        Format::Text => print(&report, out)?,
    }
    Ok(())
}

fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let barrier = if report.membarrier { "membarrier(2)" } else { "full fences" };
    writeln!(out, "{} processors; read sections by {barrier}; medians of samples taken in turn", report.processors)?;
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
