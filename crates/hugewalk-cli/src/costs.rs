//! What faults and broadcasts cost, for what there is to gain to be said in milliseconds.
//!
//! The figures are the kernel's, as `hugewalk bench kernel` measures them: of the machine in question if the user names a file
//! that it wrote, else those in `docs/performance.md`.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::bench::kernel::{FAULT, GRACE_PERIOD, INTERRUPT};
use crate::compare::{self, CompareError};

/// What one of each takes, in nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Costs {
    /// A fault of a huge page that is there already, with its share of a page table.
    pub fault_ns: f64,
    /// An interrupt of all other processors, until they have answered; none if it was not measured.
    pub interrupt_ns: Option<f64>,
    /// A grace period, likewise.
    pub grace_period_ns: Option<f64>,
    /// Where the figures come from.
    pub source: String,
}

/// Why a file of costs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CostsError {
    /// It cannot be read, or is no report.
    #[error(transparent)]
    Report(#[from] CompareError),
    /// It has no such figures.
    #[error(
        "{}: {found}; write it with hugewalk bench kernel --format json, where 16 huge pages of 2 MiB are free",
        path.display()
    )]
    Lacking {
        /// The file.
        path: PathBuf,
        /// What it has instead.
        found: String,
    },
}

impl Costs {
    /// The figures in `docs/performance.md`.
    #[must_use]
    pub fn documented() -> Self {
        Self {
            fault_ns: 760.0,
            interrupt_ns: Some(10_200.0),
            grace_period_ns: Some(11_100_000.0),
            source: "docs/performance.md".to_owned(),
        }
    }

    /// The figures of a file that `hugewalk bench kernel` wrote, or the documented ones.
    ///
    /// # Errors
    ///
    /// [`CostsError`].
    pub fn load(path: Option<&Path>) -> Result<Self, CostsError> {
        let Some(path) = path else { return Ok(Self::documented()) };
        let (schema, report) = compare::load(path)?;
        let lacking = |found: String| CostsError::Lacking { path: path.to_owned(), found };
        if !schema.starts_with("hugewalk-bench/") {
            return Err(lacking(format!("it is {schema}")));
        }
        let fault_ns = median(&report, FAULT).ok_or_else(|| lacking(format!("it has no `{FAULT}`")))?;
        Ok(Self {
            fault_ns,
            interrupt_ns: median(&report, INTERRUPT),
            grace_period_ns: median(&report, GRACE_PERIOD),
            source: path.display().to_string(),
        })
    }

    /// So many faults in words: `1.2 ms`.
    #[must_use]
    pub fn faults(&self, count: u64) -> String {
        duration(self.fault_ns * count as f64)
    }

    /// What the figures are, in a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let source = &self.source;
        format!(
            "A fault counts as {}, as measured by hugewalk bench kernel ({source}).",
            duration(self.fault_ns)
        )
    }
}

/// The median of the case of this name, whatever group it is in.
fn median(report: &Value, name: &str) -> Option<f64> {
    let groups = report["groups"].as_array()?.iter();
    let mut cases = groups.filter_map(|group| group["cases"].as_array()).flatten();
    cases.find(|case| case["name"] == name)?["median_ns"].as_f64().filter(|median| *median > 0.0)
}

/// Nanoseconds in the unit that leaves one to three digits before the point.
#[must_use]
pub fn duration(nanoseconds: f64) -> String {
    let units = [("s", 1e9), ("ms", 1e6), ("µs", 1e3)];
    let unit = units.into_iter().find(|(_, of)| nanoseconds >= 0.9995 * of);
    match unit {
        Some((name, of)) => {
            let number = nanoseconds / of;
            let digits = if number < 9.95 { 2 } else { usize::from(number < 99.5) };
            format!("{number:.digits$} {name}")
        }
        None => format!("{nanoseconds:.0} ns"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    #[test]
    fn durations_have_three_digits() {
        let written = [0.0, 586.0, 999.7, 1_234.0, 45_670.0, 1.0e6, 123.4e6, 2.5e9].map(duration);
        let expected = ["0 ns", "586 ns", "1.00 µs", "1.23 µs", "45.7 µs", "1.00 ms", "123 ms", "2.50 s"];
        assert_eq!(written, expected);
    }

    #[test]
    fn figures_are_taken_from_a_report_by_the_names_of_its_cases() {
        let directory = tempfile::TempDir::new().expect("a directory");
        let file = directory.path().join("costs.json");
        let case = |name: &str, median: f64| json!({"name": name, "median_ns": median});
        let mut report = json!({"schema": "hugewalk-bench/1", "groups": [
            {"cases": [case("a system call", 50.0), case(FAULT, 700.0)]}, {"cases": [case(INTERRUPT, 2000.0)]},
        ]});
        let load = |report: &Value| {
            fs::write(&file, report.to_string()).expect("written");
            Costs::load(Some(&file))
        };
        let costs = load(&report).expect("costs");
        assert_eq!((costs.fault_ns, costs.interrupt_ns, costs.grace_period_ns), (700.0, Some(2000.0), None));
        assert_eq!(costs.faults(1000), "700 µs");
        report["groups"][0]["cases"][1]["name"] = "another".into();
        assert!(load(&report).expect_err("no fault").to_string().contains("hugewalk bench kernel"));
        report["schema"] = "hugewalk-check/2".into();
        assert!(load(&report).expect_err("no bench").to_string().contains("it is hugewalk-check/2"));
    }
}
