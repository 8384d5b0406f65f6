//! The command line of `hugewalk estimate`.

use std::path::PathBuf;

use clap::Args;

use crate::args::{Format, PageShift, page_size};
use crate::gigabyte::GIB;

/// The most that can be mapped: half of the addresses that a process has.
const MOST: u64 = 64 << 40;

/// What stands behind the options in the help.
const ESTIMATING: &str = "\
Examples:
  hugewalk estimate --shared 512G --processes 500
  hugewalk estimate --shared 512G --processes 500 --size 1G
  hugewalk estimate --shared 512G --processes 500 --recording db.recording --cpus 64

Exit status:
  0  estimated
  2  something that was given cannot be used; one line on standard error says what";

/// `hugewalk estimate`
#[derive(Clone, Debug, Args)]
#[command(after_help = ESTIMATING, after_long_help = ESTIMATING)]
pub struct EstimateArgs {
    /// How much memory they share, as in 512G
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub shared: u64,

    /// How many processes share it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub processes: u64,

    /// A recording of such a program, smaller: a directory of hugewalk record, or what strace printed. Where its largest shared
    /// mapping begins, how much a process touches, and how often processes come and go is taken from there
    #[arg(long, value_name = "RECORDING")]
    pub recording: Option<PathBuf>,

    /// The page faults of the recording, if it is no directory
    #[arg(long, value_name = "FILE", requires = "recording")]
    pub faults: Option<PathBuf>,

    /// The size of the huge pages
    #[arg(long, value_name = "2M|1G", default_value = "2M", value_parser = page_size)]
    pub size: PageShift,

    /// What the mapping is aligned to: 1G for a 1 GiB boundary; 2M for wherever mmap puts it, which is taken to be in the middle
    /// between two of them [default: as recorded, else 2M]
    #[arg(long, value_name = "2M|1G", value_parser = page_size)]
    pub align: Option<PageShift>,

    /// What of the pages each process touches, in per cent; the same pages in all of them [default: as recorded, else 100]
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub touched: Option<f64>,

    /// Processors of the machine
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub cpus: u32,

    /// What faults and interrupts cost: a report of hugewalk bench kernel --format json [default: figures in
    /// docs/performance.md]
    #[arg(long, value_name = "FILE.json")]
    pub costs: Option<PathBuf>,

    /// How to print the report
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub format: Format,
}

/// A number of bytes with a unit, as in 512G.
fn bytes(text: &str) -> Result<u64, String> {
    let wanted = || "give a size with its unit, as in 512G, 3090M or 2T".to_owned();
    let upper = text.to_ascii_uppercase();
    let upper = upper.trim_end_matches("IB").trim_end_matches('B');
    let unit = upper.chars().last().ok_or_else(wanted)?;
    let shift = match unit {
        'M' => 20,
        'G' => 30,
        'T' => 40,
        _ => return Err(wanted()),
    };
    let number: f64 = upper[..upper.len() - 1].trim().parse().map_err(|_| wanted())?;
    if !(number > 0.0 && number.is_finite()) {
        return Err(wanted());
    }
    let bytes = number * (1u64 << shift) as f64;
    if bytes > MOST as f64 {
        return Err(format!("at most {}T can be estimated", MOST >> 40));
    }
    // In whole pages, as the kernel maps it.
    Ok((bytes as u64).max(1).next_multiple_of(2 << 20))
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent),
        _ => Err("a number of per cent above 0 and up to 100 is wanted".to_owned()),
    }
}

impl EstimateArgs {
    /// How far behind a 1 GiB boundary the mapping begins, if the command line says so.
    pub(super) fn begins(&self) -> Option<u64> {
        self.align.map(|align| if align.0 == 30 { 0 } else { GIB / 2 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_are_whole_pages() {
        let read = ["512G", "512g", "512GiB", "3090M", "1.5T", "1M"].map(|text| bytes(text).ok());
        let expected = [512 * GIB, 512 * GIB, 512 * GIB, 3090 << 20, 1536 * GIB, 2 << 20];
        assert_eq!(read, expected.map(Some));
        for wrong in ["512", "G", "-1G", "0G", "manyG", "65T", "infG", ""] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
