//! `hugewalk bench`: what walks, walkers, faults, fork and unshare cost.
//!
//! The figures of one run are to be compared with each other: everything in a group is measured in turn, sample by
//! sample, so that a machine whose speed drifts slows all of them alike.

mod chase;
mod crowd;
mod faults;
mod machine;
mod sample;
mod walkers;
pub mod walks;

use std::io::{self, Write};
use std::path::Path;

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use hugewalk::error::OutOfMemory;
use hugewalk::fault::FaultError;
use hugewalk::file::FileError;
use hugewalk::mm::MapError;
use hugewalk::rmap::PageError;
use hugewalk::uffd::UserfaultError;
use hugewalk_host::{HostError, TaskError};
use indicatif::ProgressBar;
use serde::Serialize;

pub use self::sample::{Effort, Measured};

use crate::args::{BenchArgs, BenchWhat, Format};
use crate::compare::{self, CompareError};

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
    /// The thread got no task.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A file could not be made.
    #[error(transparent)]
    File(#[from] FileError),
    /// A mapping could not be made.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A handler could not be set up.
    #[error(transparent)]
    Userfault(#[from] UserfaultError),
    /// A page could not be made to fail.
    #[error(transparent)]
    Page(#[from] PageError),
    /// Nothing of this name can be done by itself.
    #[error("there is no case {name} to be done by itself; there are {known}")]
    NoCase {
        /// What was asked for.
        name: String,
        /// What could have been.
        known: String,
    },
    /// A page could not be touched.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// The baseline is none.
    #[error(transparent)]
    Baseline(#[from] CompareError),
    /// The figures could not be written.
    #[error("the figures cannot be written: {0}")]
    Output(#[from] io::Error),
}

/// Groups of `hugewalk bench walk`.
const WALK_GROUPS: u64 = 8;

/// The results of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The form of this document.
    pub schema: &'static str,
    /// Was `membarrier(2)` there? Without it read sections cost a full fence.
    pub membarrier: bool,
    /// Processors of the machine.
    pub processors: usize,
    /// What they are, as `/proc/cpuinfo` says.
    pub processor: String,
    /// `uname -r`.
    pub kernel: String,
    /// Programs that ran or wanted to, on average over the minute before: `/proc/loadavg`. Other work makes figures larger.
    pub load: f64,
    /// The groups, in the order they were measured.
    pub groups: Vec<Group>,
}

/// Measurements that were taken in turn and can be compared.
#[derive(Debug, Serialize)]
pub struct Group {
    /// What they have in common.
    pub title: String,
    /// What has to be known to read them right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
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
    if let (Some(only), Some(iterations)) = (&args.only, args.iterations) {
        return match args.what {
            BenchWhat::Walk => walks::count(named(only)?, iterations, out),
            BenchWhat::Walkers => walkers::count(named(only)?, iterations, out),
        };
    }
    // Read first: nothing is measured for the sake of a file that is not there.
    let before = args.baseline.as_deref().map(compare::load).transpose()?;
    let groups = match args.what {
        BenchWhat::Walk => WALK_GROUPS,
        BenchWhat::Walkers => walkers::GROUPS,
    };
    // Shown on a terminal only.
    let bar = ProgressBar::new(u64::from(args.samples) * groups);
    let effort = Effort { samples: args.samples, seconds: args.seconds, bar };
    let mut report = Report {
        schema: "hugewalk-bench/1",
        membarrier: walks::has_membarrier()?,
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        processor: machine::processor(),
        kernel: machine::kernel(),
        load: machine::load(),
        groups: Vec::new(),
    };
    match args.what {
        BenchWhat::Walk => {
            report.groups.extend(walks::groups(&effort)?);
            report.groups.extend(faults::groups(&effort)?);
        }
        BenchWhat::Walkers => report.groups.extend(walkers::groups(&effort)?),
    }
    effort.bar.finish_and_clear();
    if let Some(baseline) = &before {
        print(&report, out)?;
        let now = serde_json::to_value(&report).map_err(io::Error::from)?;
        writeln!(out, "\nBeside {}", args.baseline.as_deref().unwrap_or(Path::new("")).display())?;
        compare::since(baseline, now, out)?;
        return Ok(());
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

/// The case of this name.
fn named<W: ValueEnum>(name: &str) -> Result<W, BenchError> {
    W::from_str(name, false).map_err(|_| {
        let known = W::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        let known: Vec<_> = known.map(|value| value.get_name().to_owned()).collect();
        BenchError::NoCase { name: name.to_owned(), known: known.join(", ") }
    })
}

fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let barrier = if report.membarrier { "membarrier(2)" } else { "full fences" };
    writeln!(
        out,
        "{} processors, {}; Linux {}; load {:.2} before",
        report.processors, report.processor, report.kernel, report.load
    )?;
    writeln!(
        out,
        "read sections by {barrier}; medians of samples taken in turn, and half of the samples lie within the spread"
    )?;
    for group in &report.groups {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let mut header = vec![
            String::new(),
            "median".into(),
            "spread".into(),
            "least".into(),
            format!("of {}", group.baseline),
        ];
        let unshared = group.cases.iter().any(|case| case.unshares_per_second.is_some());
        header.extend(unshared.then(|| "unshared".to_owned()));
        table.set_header(header);
        for index in 1..6 {
            if let Some(column) = table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let base = group.cases.iter().find(|case| case.name == group.baseline).map(|case| case.median_ns);
        for case in &group.cases {
            let ratio = base.map_or(String::new(), |base| format!("{:.2}", case.median_ns / base));
            let half = (case.upper_ns - case.lower_ns) / 2.0 / case.median_ns * 100.0;
            let spread = format!("±{half:.0} %");
            let mut row =
                vec![case.name.clone(), duration(case.median_ns), spread, duration(case.least_ns), ratio];
            row.extend(case.unshares_per_second.map(|rate| format!("{:.0}/ms", rate / 1e3)));
            table.add_row(row);
        }
        writeln!(out, "\n{}", group.title)?;
        if let Some(note) = &group.note {
            writeln!(out, "({note})")?;
        }
        writeln!(out, "{table}")?;
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
