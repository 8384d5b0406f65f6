//! The text format of Prometheus: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::io::{self, Write};

use super::report::{File, Pool, Process, Report};
use crate::report::text::size;

/// Writes `report`.
pub(super) fn write(report: &Report, out: &mut impl Write) -> io::Result<()> {
    for (name, help, figure) in POOL {
        let samples = report.pools.iter().filter_map(|pool| Some((of_pool(pool), figure(pool)?)));
        family(out, name, help, samples)?;
    }
    for (name, help, figure) in PROCESS {
        family(
            out,
            name,
            help,
            report.processes.iter().map(|process| (of_process(process), figure(process))),
        )?;
    }
    for (name, help, figure) in FILE {
        let samples = report.files.iter().filter_map(|file| Some((of_file(file), figure(file)?)));
        family(out, name, help, samples)?;
    }
    for (name, help, figure) in ALL {
        family(out, name, help, [(String::new(), figure(report))].into_iter())?;
    }
    Ok(())
}

type Metric<T, R> = (&'static str, &'static str, fn(&T) -> R);

const POOL: [Metric<Pool, Option<u64>>; 6] = [
    ("pool_pages", "Huge pages in the pool.", |pool| Some(pool.total)),
    ("pool_free_pages", "Huge pages that hold nothing.", |pool| Some(pool.free)),
    ("pool_reserved_pages", "Free huge pages that a mapping or a file has reserved.", |pool| {
        Some(pool.reserved)
    }),
    ("pool_unreserved_pages", "Free huge pages that nobody has reserved.", |pool| Some(pool.unreserved)),
    ("pool_surplus_pages", "Huge pages that overcommit has added.", |pool| Some(pool.surplus)),
    ("pool_overcommit_pages", "Huge pages that overcommit may add.", |pool| pool.overcommit),
];

const PROCESS: [Metric<Process, u64>; 6] = [
    ("process_mapped_bytes", "Mappings of huge pages in the process.", |process| process.mapped_kb << 10),
    ("process_resident_bytes", "Huge pages that the tables of the process map.", |process| {
        process.resident_kb << 10
    }),
    (
        "process_own_tables",
        "Page tables with huge-page entries that no other process can use; the least.",
        |process| process.own_tables.least,
    ),
    (
        "process_sharable_tables",
        "Page tables with huge-page entries that others may share; the least.",
        |process| process.sharable_tables.least,
    ),
    (
        "process_tables_most",
        "Page tables with huge-page entries that the process uses; the most.",
        |process| process.own_tables.most + process.sharable_tables.most,
    ),
    ("process_page_table_bytes", "All page tables of the process, shared ones too (VmPTE).", |process| {
        process.page_tables_kb << 10
    }),
];

const FILE: [Metric<File, Option<u64>>; 5] = [
    ("file_processes", "Processes that map the file.", |file| Some(file.processes.len() as u64)),
    ("file_tables_least", "Page tables that map the file, if all that can be shared are.", |file| {
        Some(file.tables.least)
    }),
    ("file_tables_most", "Page tables that map the file, if none are shared.", |file| Some(file.tables.most)),
    (
        "file_tables_aligned",
        "Page tables there would be if all processes mapped the file from a 1 GiB boundary on and shared.",
        |file| file.aligned_tables,
    ),
    ("file_places", "Places modulo 1 GiB at which the file is mapped; more than 1 cannot share.", |file| {
        Some((file.disagreement.len() as u64).max(1))
    }),
];

const ALL: [Metric<Report, u64>; 6] = [
    ("processes", "Processes that map huge pages.", |report| report.processes.len() as u64),
    ("tables_least", "Page tables with huge-page entries, if all that can be shared are.", |report| {
        report.tables.least
    }),
    ("tables_most", "Page tables with huge-page entries, if none are shared.", |report| report.tables.most),
    ("machine_page_table_bytes", "All page tables of the machine.", |report| {
        report.machine_page_tables_kb << 10
    }),
    ("unseen_processes", "Processes of other users that were not looked at.", |report| {
        report.unseen.processes
    }),
    ("unseen_bytes", "Huge pages that processes of other users say they have.", |report| {
        report.unseen.hugetlb_kb << 10
    }),
];

/// A metric with its samples; nothing at all if it has none.
fn family(
    out: &mut impl Write,
    name: &str,
    help: &str,
    samples: impl Iterator<Item = (String, u64)>,
) -> io::Result<()> {
    let mut samples = samples.peekable();
    if samples.peek().is_none() {
        return Ok(());
    }
    writeln!(out, "# HELP hugewalk_{name} {help}\n# TYPE hugewalk_{name} gauge")?;
    samples.try_for_each(|(labels, value)| writeln!(out, "hugewalk_{name}{labels} {value}"))
}

fn of_pool(pool: &Pool) -> String {
    labels(&[("page_size", &page_size(pool.huge_page_kb))])
}

fn of_process(process: &Process) -> String {
    labels(&[("pid", &process.pid.to_string()), ("command", &process.command)])
}

fn of_file(file: &File) -> String {
    labels(&[
        ("file", &file.name),
        ("device", &file.device),
        ("inode", &file.inode.to_string()),
        ("page_size", &page_size(file.page_kb)),
    ])
}

fn page_size(kb: u64) -> String {
    size(kb << 10).replace(' ', "")
}

fn labels(labels: &[(&str, &str)]) -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let each = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", quoted(value)));
    format!("{{{}}}", each.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_label_cannot_hold_is_escaped() {
        assert_eq!(labels(&[("a", "x\"y"), ("b", "\\\n")]), r#"{a="x\"y",b="\\\n"}"#);
    }
}
