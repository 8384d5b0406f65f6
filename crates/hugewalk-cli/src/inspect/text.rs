//! A report as text for people.

use std::io::{self, Write};

use super::notes::printable;
use super::report::{File, Place, Report, Tables};
use crate::report::text::{counted, grid, grouped, heading, paragraph_within, rows, size};

/// Entries of a list that are printed; the rest are in the JSON form.
const LISTED: usize = 12;
/// Mappings of one file that are.
const PLACES: usize = 6;
/// Processes that are named where a list of them stands in a sentence.
const NAMED: usize = 6;

/// Writes `report` in so many columns.
pub(super) fn write(report: &Report, width: usize, out: &mut Vec<u8>) -> io::Result<()> {
    let mut page = Page { width, out };
    if report.processes.is_empty() {
        let who = match &report.asked {
            None => "No process that was looked at maps huge pages.".to_owned(),
            Some(pids) if pids.len() == 1 => format!("Process {} maps no huge pages.", pids[0]),
            Some(pids) => format!("None of the processes {} maps huge pages.", numbers(pids)),
        };
        page.paragraph("", &who)?;
    } else {
        page.processes(report)?;
        page.files(report)?;
        page.tables(report)?;
    }
    page.pools(report)?;
    page.sentences("What this cannot say", &report.notes, report.processes.is_empty())?;
    page.sentences("Advice", &report.advice, false)
}

struct Page<'a> {
    width: usize,
    out: &'a mut Vec<u8>,
}

impl Page<'_> {
    fn paragraph(&mut self, mark: &str, text: &str) -> io::Result<()> {
        paragraph_within(self.out, self.width, mark, text)
    }

    /// The first heading has nothing above it.
    fn heading(&mut self, text: &str) -> io::Result<()> {
        let start = self.out.len();
        heading(self.out, text)?;
        if start == 0 {
            self.out.remove(0);
        }
        Ok(())
    }

    fn more(&mut self, length: usize, listed: usize, indent: &str) -> io::Result<()> {
        match length.checked_sub(listed) {
            Some(more @ 1..) => {
                writeln!(self.out, "{indent}and {} more (--format json has all)", grouped(more as u64))
            }
            _ => Ok(()),
        }
    }

    fn processes(&mut self, report: &Report) -> io::Result<()> {
        self.heading("Processes with huge pages")?;
        let mut table =
            grid(&["pid", "command", "mapped", "resident", "tables: own", "sharable", "page tables in all"]);
        for process in report.processes.iter().take(LISTED) {
            table.add_row([
                process.pid.to_string(),
                printable(&process.command),
                size(process.mapped_kb << 10),
                size(process.resident_kb << 10),
                between(process.own_tables),
                between(process.sharable_tables),
                size(process.page_tables_kb << 10),
            ]);
        }
        rows(self.out, &mut table, &[0, 2, 3, 4, 5, 6])?;
        self.more(report.processes.len(), LISTED, "  ")
    }

    fn files(&mut self, report: &Report) -> io::Result<()> {
        self.heading("Huge mappings, by file")?;
        for file in report.files.iter().take(LISTED) {
            self.file(file)?;
        }
        self.more(report.files.len(), LISTED, "  ")
    }

    fn file(&mut self, file: &File) -> io::Result<()> {
        let text = format!(
            "{}, inode {} on {}, pages of {}, {}",
            printable(&file.name),
            file.inode,
            file.device,
            size(file.page_kb << 10),
            counted(file.processes.len() as u64, "process", "processes")
        );
        self.paragraph("  ", &text)?;
        for place in file.places.iter().take(PLACES) {
            self.place(place)?;
        }
        self.more(file.places.len(), PLACES, "    ")?;
        if !file.disagreement.is_empty() {
            let places: Vec<String> = file
                .disagreement
                .iter()
                .take(NAMED)
                .map(|residue| format!("{} in {}", residue.address, numbers(&residue.processes)))
                .collect();
            let text = format!(
                "addresses do not agree modulo 1 GiB: the file begins at {}{}",
                places.join(", "),
                if file.disagreement.len() > NAMED { ", ..." } else { "" }
            );
            self.paragraph("    ", &text)?;
        }
        if file.page_kb == 2048 {
            let mut text = format!("tables: {}", bounds(file.tables));
            if let Some(aligned) = file.aligned_tables.filter(|aligned| *aligned < file.tables.least) {
                text += &format!("; {} if all mapped it from a 1 GiB boundary on", grouped(aligned));
            }
            self.paragraph("    ", &text)?;
        }
        Ok(())
    }

    fn place(&mut self, place: &Place) -> io::Result<()> {
        let mapping = &place.mapping;
        let offset = match mapping.offset {
            0 => String::new(),
            offset => format!(" from {} on", size(offset)),
        };
        let text = format!(
            "{}{offset}, {}, {}, by {}",
            size(mapping.bytes),
            if mapping.shared { "shared" } else { "private" },
            mapping.rights,
            numbers(&place.processes)
        );
        self.paragraph("    ", &format!("{} {text}", mapping.range))?;
        if mapping.sharable_ranges > 0 {
            let ranges = counted(mapping.sharable_ranges, "aligned range", "aligned ranges");
            let with = match place.partners {
                0 => "but nobody else who was looked at maps them so".to_owned(),
                1 => "with 1 other mapping".to_owned(),
                many => format!("with up to {} other mappings", grouped(many)),
            };
            let mark = format!("    {:>9}  ", size(mapping.sharable_ranges << 30));
            let pages = match mapping.sharable_filled {
                0 if mapping.sharable_ranges == 1 => "; no page in it so far".to_owned(),
                0 => "; no page in them so far".to_owned(),
                filled if filled == mapping.sharable_ranges => String::new(),
                filled => format!("; pages in {} so far", grouped(filled)),
            };
            self.paragraph(&mark, &format!("can share: {ranges} of 1 GiB, {with}{pages}"))?;
        }
        for part in &mapping.unsharable {
            // Where it is the whole mapping its range has just been said.
            let range = if part.range == mapping.range { String::new() } else { format!("{} ", part.range) };
            let label = if part.why.starts_with("not with") { "but: " } else { "cannot: " };
            let mark = format!("    {:>9}  ", size(part.bytes));
            self.paragraph(&mark, &format!("{label}{range}{}", part.why))?;
        }
        Ok(())
    }

    fn tables(&mut self, report: &Report) -> io::Result<()> {
        self.heading("Page tables")?;
        let mut table = grid(&["tables of huge-page entries", "number", "bytes"]);
        let tables = report.tables;
        table.add_row([
            "at least: all that can be shared are".to_owned(),
            grouped(tables.least),
            size(tables.least_kb << 10),
        ]);
        table.add_row([
            "at most: none are shared".to_owned(),
            grouped(tables.most),
            size(tables.most_kb << 10),
        ]);
        rows(self.out, &mut table, &[1, 2])?;
        let text = format!(
            "/proc does not show which tables are shared. All page tables of the machine: {}.",
            size(report.machine_page_tables_kb << 10)
        );
        self.paragraph("  ", &text)
    }

    fn pools(&mut self, report: &Report) -> io::Result<()> {
        if report.pools.is_empty() {
            return Ok(());
        }
        self.heading("Pools")?;
        let headings =
            ["pages of", "total", "in use", "reserved", "free, not reserved", "surplus", "overcommit"];
        let mut table = grid(&headings);
        for pool in &report.pools {
            table.add_row([
                size(pool.huge_page_kb << 10),
                grouped(pool.total),
                grouped(pool.total.saturating_sub(pool.free)),
                grouped(pool.reserved),
                grouped(pool.unreserved),
                grouped(pool.surplus),
                pool.overcommit.map_or("?".to_owned(), grouped),
            ]);
        }
        rows(self.out, &mut table, &[1, 2, 3, 4, 5, 6])
    }

    /// Sentences under a heading; `bare` without one.
    fn sentences(&mut self, title: &str, sentences: &[String], bare: bool) -> io::Result<()> {
        if sentences.is_empty() {
            return Ok(());
        }
        if bare {
            writeln!(self.out)?;
        } else {
            self.heading(title)?;
        }
        let mark = if bare { "" } else { "  - " };
        sentences.iter().try_for_each(|sentence| self.paragraph(mark, sentence))
    }
}

/// `2`, or `2-4`.
pub(super) fn between(tables: Tables) -> String {
    if tables.least == tables.most {
        grouped(tables.least)
    } else {
        format!("{}-{}", grouped(tables.least), grouped(tables.most))
    }
}

fn bounds(tables: Tables) -> String {
    if tables.least == tables.most {
        format!("{} ({})", grouped(tables.most), size(tables.most_kb << 10))
    } else {
        format!(
            "at least {} ({}), at most {} ({})",
            grouped(tables.least),
            size(tables.least_kb << 10),
            grouped(tables.most),
            size(tables.most_kb << 10)
        )
    }
}

/// `process 7`, or `9 processes (7, 8, ...)`.
fn numbers(pids: &[u32]) -> String {
    if let [pid] = pids {
        return format!("process {pid}");
    }
    let named: Vec<String> = pids.iter().take(NAMED).map(u32::to_string).collect();
    let rest = if pids.len() > NAMED { ", ..." } else { "" };
    format!("{} processes ({}{rest})", grouped(pids.len() as u64), named.join(", "))
}
