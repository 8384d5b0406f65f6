//! The command line of `hugewalk bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::args::{Format, seconds};

/// `hugewalk bench`
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure
    #[arg(value_enum, ignore_case = true)]
    pub what: BenchWhat,

    /// Samples of each figure
    #[arg(long, value_name = "N", default_value_t = 21, value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: u32,

    /// Seconds for each group of figures
    #[arg(long, value_name = "SECONDS", default_value_t = 4.0, value_parser = seconds)]
    pub seconds: f64,

    /// Do one case and print no figures: for tools that count instructions
    #[arg(long, value_name = "CASE", requires = "iterations")]
    pub only: Option<String>,

    /// How often to do it
    #[arg(long, value_name = "N", requires = "only")]
    pub iterations: Option<u64>,

    /// A report that was printed before, with --format json: what changed since is printed too
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["only", "format"])]
    pub baseline: Option<PathBuf>,

    /// How to print the figures
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub format: Format,
}

/// What `hugewalk bench` can measure.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum BenchWhat {
    /// Walks under RCU, under the VMA lock and bare; faults, fork and unshare
    Walk,
    /// Each walker of the engine, with 1 and 2 threads, alone and while another thread unshares the tables
    Walkers,
    /// What the design aims for, each figure beside its goal
    Goals,
    /// How costs grow: with the mappings of a file, the processes that share a table, the pages of a file, and threads
    Growth,
    /// The running kernel: a fault of a huge page, an interrupt of all processors, a grace period; for --costs of replay
    /// and estimate
    Kernel,
}
