//! What the kernel said at one moment of the recording, and whether the replay says the same.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Pool, Process};
use crate::trace::Time;

/// A truth file: `/proc/meminfo`, `/proc/PID/status` and `/proc/PID/smaps` with all processes stopped.
#[derive(Debug, Deserialize, Serialize)]
pub struct Truth {
    /// The moment, in seconds of the recording's clock.
    #[serde(deserialize_with = "moment", serialize_with = "in_seconds")]
    pub at: Time,
    /// The size of the pages that `meminfo` counts.
    pub huge_page_kb: u64,
    /// The pool.
    pub meminfo: Meminfo,
    /// The processes, by pid.
    pub processes: BTreeMap<u32, TrueProcess>,
}

/// The lines of `/proc/meminfo` about huge pages.
#[derive(Debug, Deserialize, Serialize)]
#[allow(missing_docs, reason = "the names are the kernel's")]
pub struct Meminfo {
    #[serde(rename = "HugePages_Total")]
    pub total: u64,
    #[serde(rename = "HugePages_Free")]
    pub free: u64,
    #[serde(rename = "HugePages_Rsvd")]
    pub reserved: u64,
    #[serde(rename = "HugePages_Surp")]
    pub surplus: u64,
}

/// What the kernel said of a process.
#[derive(Debug, Deserialize, Serialize)]
pub struct TrueProcess {
    /// `HugetlbPages` of its status.
    pub hugetlb_pages_kb: u64,
    /// Its huge mappings.
    pub mappings: Vec<TrueMapping>,
}

/// What the kernel said of a mapping.
#[derive(Debug, Deserialize, Serialize)]
pub struct TrueMapping {
    /// From and to.
    pub range: String,
    /// `Shared_Hugetlb`
    pub shared_hugetlb_kb: u64,
    /// `Private_Hugetlb`
    pub private_hugetlb_kb: u64,
}

/// A truth file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TruthError {
    /// It cannot be read.
    #[error("{file}: cannot be read: {error}; check the name and its permissions")]
    Unreadable {
        /// The file.
        file: String,
        /// Why not.
        error: std::io::Error,
    },
    /// It is not JSON, or not of the shape that is needed.
    #[error("{file}:{}: {}; write it as examples/traces/postgres.truth.json is written", error.line(), message(error))]
    Malformed {
        /// The file.
        file: String,
        /// What is wrong.
        error: serde_json::Error,
    },
}

/// The place is said already, in the way in which it is said of all files.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    // The names of structures here say nothing to whoever wrote the file.
    let structures = [
        ("Truth", "the whole"),
        ("Meminfo", "meminfo"),
        ("TrueProcess", "a process"),
        ("TrueMapping", "a mapping"),
    ];
    structures.iter().fold(what.to_owned(), |text, (name, of)| {
        text.replace(&format!("expected struct {name}"), &format!("expected an object (for {of})"))
    })
}

fn moment<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
    let text = String::deserialize(deserializer)?;
    Time::parse(&text)
        .ok_or_else(|| serde::de::Error::custom(format_args!("`at` is {text:?}, not a time in seconds")))
}

fn in_seconds<S: serde::Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

impl Truth {
    /// Reads a truth file.
    ///
    /// # Errors
    ///
    /// If it cannot be read or lacks something.
    pub fn load(file: &Path) -> Result<Self, TruthError> {
        let name = || file.display().to_string();
        let bytes = std::fs::read(file).map_err(|error| TruthError::Unreadable { file: name(), error })?;
        serde_json::from_slice(&bytes).map_err(|error| TruthError::Malformed { file: name(), error })
    }

    /// The ranges of huge pages that the kernel lists, by process.
    #[must_use]
    pub fn ranges(&self) -> HashMap<u32, Vec<Range<u64>>> {
        let range = |mapping: &TrueMapping| {
            let (start, end) = mapping.range.split_once('-')?;
            Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
        };
        let of = |(pid, process): (&u32, &TrueProcess)| {
            (*pid, process.mappings.iter().filter_map(range).collect())
        };
        self.processes.iter().map(of).collect()
    }

    /// Compares figure by figure. What only one side knows of is a difference too.
    #[must_use]
    pub fn compare(&self, pools: &[Pool], processes: &[Process]) -> Comparison {
        let mut figures = Vec::new();
        let pool = pools.iter().find(|pool| pool.huge_page_kb == self.huge_page_kb);
        let mut counter = |name: &str, kernel: u64, of: fn(&Pool) -> u64| {
            let replay = pool.map(of);
            figures.push(Figure { pid: None, what: name.to_owned(), kernel: Some(kernel), replay });
        };
        counter("HugePages_Total", self.meminfo.total, |pool| pool.total);
        counter("HugePages_Free", self.meminfo.free, |pool| pool.free);
        counter("HugePages_Rsvd", self.meminfo.reserved, |pool| pool.reserved);
        counter("HugePages_Surp", self.meminfo.surplus, |pool| pool.surplus);
        // Somebody has the pages that are not free: where no process is named, nobody looked.
        let looked_at = !self.processes.is_empty() || self.meminfo.free == self.meminfo.total;
        let ours = processes.iter().filter(|_| looked_at).map(|process| process.pid);
        let pids = self.processes.keys().copied().chain(ours);
        for pid in std::collections::BTreeSet::from_iter(pids) {
            let kernel = self.processes.get(&pid);
            let replay = processes.iter().find(|process| process.pid == pid);
            figures.extend(of_process(pid, kernel, replay));
        }
        let differing = figures.iter().filter(|figure| !figure.is_equal()).count();
        let remark = used_by_others(&figures);
        Comparison { at: self.at, equal: differing == 0, differing, remark, figures }
    }
}

/// Where all that is known of processes is equal, and the pool has fewer pages left than the replay left: others had them.
fn used_by_others(figures: &[Figure]) -> Option<String> {
    let differs = |figure: &&Figure| !figure.is_equal();
    let known_name = |figure: &Figure| matches!(&*figure.what, "HugePages_Free" | "HugePages_Rsvd");
    let is_own = |figure: &&Figure| figure.pid.is_none() && known_name(figure);
    if !figures.iter().any(|figure| figure.pid.is_some())
        || !figures.iter().filter(differs).all(|f| is_own(&f))
    {
        return None;
    }
    let gap = |name: &str| {
        let figure = figures.iter().find(|figure| figure.pid.is_none() && figure.what == name)?;
        Some(i128::from(figure.replay?) - i128::from(figure.kernel?))
    };
    let (used, reserved) = (gap("HugePages_Free")?, -gap("HugePages_Rsvd")?);
    if used < 0 || reserved < 0 || used + reserved == 0 {
        return None;
    }
    Some(format!(
        "Every figure of a process is equal. The kernel counts pages that the recorded program does not account for \
         ({used} in use, {reserved} reserved), so something outside of the recording had them. Record while nothing else \
         uses the pool: HugePages_Free equal to HugePages_Total and HugePages_Rsvd 0 before the program starts."
    ))
}

fn of_process(pid: u32, kernel: Option<&TrueProcess>, replay: Option<&Process>) -> Vec<Figure> {
    let mut figures = vec![Figure {
        pid: Some(pid),
        what: "hugetlb_pages_kb".to_owned(),
        kernel: kernel.map(|process| process.hugetlb_pages_kb),
        replay: replay.map(|process| process.hugetlb_pages_kb),
    }];
    let mut ranges: BTreeMap<&str, [Option<(u64, u64)>; 2]> = BTreeMap::new();
    for mapping in kernel.iter().flat_map(|process| &process.mappings) {
        let kilobytes = (mapping.shared_hugetlb_kb, mapping.private_hugetlb_kb);
        ranges.entry(&mapping.range).or_default()[0] = Some(kilobytes);
    }
    for mapping in replay.iter().flat_map(|process| &process.mappings) {
        let kilobytes = (mapping.shared_hugetlb_kb, mapping.private_hugetlb_kb);
        ranges.entry(&mapping.range).or_default()[1] = Some(kilobytes);
    }
    for (range, [kernel, replay]) in ranges {
        let figure = |name: &str, of: fn((u64, u64)) -> u64| Figure {
            pid: Some(pid),
            what: format!("{range} {name}"),
            kernel: kernel.map(of),
            replay: replay.map(of),
        };
        figures.push(figure("shared_hugetlb_kb", |kilobytes| kilobytes.0));
        figures.push(figure("private_hugetlb_kb", |kilobytes| kilobytes.1));
    }
    figures
}

/// The replay beside the kernel.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// The moment compared.
    pub at: Time,
    /// Whether all figures are equal.
    pub equal: bool,
    /// How many are not.
    pub differing: usize,
    /// What the differences suggest, if that is plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
    /// All of them.
    pub figures: Vec<Figure>,
}

/// One figure.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Figure {
    /// Whose; none for the system's.
    pub pid: Option<u32>,
    /// What.
    pub what: String,
    /// What the kernel said; none if it knew nothing of it.
    pub kernel: Option<u64>,
    /// What the replay says; none if it knows nothing of it.
    pub replay: Option<u64>,
}

impl Figure {
    /// Whether both say the same.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.kernel == self.replay
    }
}

#[cfg(test)]
mod tests {
    use super::super::Resident;
    use super::*;

    fn truth() -> Truth {
        serde_json::from_str(
            r#"{"at": "5.5", "huge_page_kb": 2048,
                "meminfo": {"HugePages_Total": 9, "HugePages_Free": 8, "HugePages_Rsvd": 7, "HugePages_Surp": 0},
                "processes": {"12": {"hugetlb_pages_kb": 2048, "mappings": [
                    {"range": "1000-2000", "shared_hugetlb_kb": 0, "private_hugetlb_kb": 2048}]}}}"#,
        )
        .expect("good")
    }

    fn process(pid: u32, private_hugetlb_kb: u64) -> Process {
        let mapping = Resident { range: "1000-2000".to_owned(), shared_hugetlb_kb: 0, private_hugetlb_kb };
        Process { pid, hugetlb_pages_kb: 2048, mappings: vec![mapping] }
    }

    const POOL: Pool =
        Pool { huge_page_kb: 2048, total: 9, free: 8, reserved: 7, surplus: 0, guessed: false };

    #[test]
    fn equal_figures_compare_equal() {
        let comparison = truth().compare(&[POOL], &[process(12, 2048)]);
        assert!(comparison.equal, "{comparison:?}");
        assert_eq!(comparison.figures.len(), 7);
    }

    #[test]
    fn a_figure_that_differs_or_is_missing_on_either_side_is_a_difference() {
        let differing = |pools: &[Pool], processes: &[Process]| truth().compare(pools, processes).differing;
        assert_eq!(differing(&[POOL], &[process(12, 4096)]), 1);
        assert_eq!(differing(&[POOL], &[process(12, 2048), process(13, 0)]), 3);
        assert_eq!(differing(&[POOL], &[]), 3);
        assert_eq!(differing(&[Pool { free: 1, ..POOL }], &[process(12, 2048)]), 1);
        assert_eq!(differing(&[], &[process(12, 2048)]), 4);
    }

    #[test]
    fn pages_that_only_the_kernel_misses_are_said_to_be_used_by_others() {
        let remark = |pool: Pool, process: Process| truth().compare(&[pool], &[process]).remark;
        let others = Pool { free: 9, reserved: 5, ..POOL };
        let said = remark(others, process(12, 2048)).expect("a remark");
        assert!(said.contains("(1 in use, 2 reserved)"), "{said}");
        assert_eq!(remark(POOL, process(12, 2048)), None);
        assert_eq!(remark(others, process(12, 4096)), None, "the process itself differs");
        assert_eq!(
            remark(Pool { free: 7, ..POOL }, process(12, 2048)),
            None,
            "the replay is the one that uses more"
        );
    }
}
