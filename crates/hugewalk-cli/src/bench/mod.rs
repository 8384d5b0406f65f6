//! `hugewalk bench`: what walks, walkers, faults, fork and unshare cost, which goals that reaches, and how it grows.
//!
//! The figures of one run are to be compared with each other: everything in a group is measured in turn, sample by
//! sample, so that a machine whose speed drifts slows all of them alike.

pub mod args;
mod chase;
mod crowd;
mod faults;
mod goals;
mod growth;
pub(crate) mod kernel;
mod machine;
mod sample;
mod text;
mod walkers;
pub mod walks;

use std::io::{self, Write};
use std::path::Path;

use clap::ValueEnum;
use hugewalk::error::OutOfMemory;
use hugewalk::fault::FaultError;
use hugewalk::file::FileError;
use hugewalk::mm::MapError;
use hugewalk::rmap::PageError;
use hugewalk::uffd::UserfaultError;
use hugewalk_host::{HostError, TaskError};
use serde::Serialize;

pub use self::sample::{Effort, Goal, Measured};

use self::text::print;

use self::args::{BenchArgs, BenchWhat};
use crate::args::Format;
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
    /// What could not be measured here: a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lacking: Vec<String>,
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
            BenchWhat::Goals | BenchWhat::Growth | BenchWhat::Kernel => {
                Err(BenchError::NoCase { name: only.clone(), known: "none".to_owned() })
            }
        };
    }
    // Read first: nothing is measured for the sake of a file that is not there.
    let before = args.baseline.as_deref().map(compare::load).transpose()?;
    let groups = match args.what {
        BenchWhat::Walk => WALK_GROUPS,
        BenchWhat::Walkers => walkers::GROUPS,
        BenchWhat::Goals => goals::GROUPS,
        BenchWhat::Growth => growth::GROUPS,
        BenchWhat::Kernel => kernel::GROUPS,
    };
    // Shown on a terminal only.
    let bar = crate::notes::bar(u64::from(args.samples) * groups);
    let effort = Effort { samples: args.samples, seconds: args.seconds, bar };
    let mut report = Report {
        schema: "hugewalk-bench/1",
        membarrier: walks::has_membarrier()?,
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        processor: machine::processor(),
        kernel: machine::kernel(),
        load: machine::load(),
        groups: Vec::new(),
        lacking: Vec::new(),
    };
    match args.what {
        BenchWhat::Walk => {
            report.groups.extend(walks::groups(&effort)?);
            report.groups.extend(faults::groups(&effort)?);
        }
        BenchWhat::Walkers => report.groups.extend(walkers::groups(&effort)?),
        BenchWhat::Goals => report.groups.extend(goals::groups(&effort)?),
        BenchWhat::Growth => report.groups.extend(growth::groups(&effort, &growth::Sizes::ALL)?),
        BenchWhat::Kernel => (report.groups, report.lacking) = kernel::groups(&effort),
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
