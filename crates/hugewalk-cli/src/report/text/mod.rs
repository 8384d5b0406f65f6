//! A report as text for people. Colour is only ever emphasis, and the caller's stream takes it out where it is not wanted.

mod sharing;
mod truth;
mod words;

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, Table, presets};

use super::{FailedCall, Pool, Report};
use crate::costs::duration;
use crate::trace::{Clock, Time};
use words::paragraph;
pub(crate) use words::{counted, grouped, paragraph_within, size};

const HEADING: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();

/// Entries of a list that are printed; the rest are in the JSON form.
const LISTED: usize = 12;

/// Writes `report`.
///
/// # Errors
///
/// Those of `out`.
pub fn write(report: &Report, out: &mut impl Write) -> io::Result<()> {
    recording(report, out)?;
    notes(report, out)?;
    failed(report, out)?;
    killed(report, out)?;
    if report.mappings.is_empty() {
        // Tables, costs and pools would be so many zeros.
        heading(out, "Huge mappings")?;
        writeln!(out, "  none were made")?;
        if report.recording.calls > 0 || !report.differences.is_empty() || !report.may_matter.is_empty() {
            results(report, out)?;
        }
    } else {
        sharing::mappings(&report.mappings, out)?;
        sharing::tables(report, out)?;
        sharing::unsharing(report, out)?;
        pools(report, out)?;
        results(report, out)?;
    }
    if let Some(comparison) = &report.truth {
        truth::comparison(comparison, out)?;
    }
    if !report.advice.is_empty() {
        heading(out, "Advice")?;
        for sentence in &report.advice {
            paragraph(out, "  - ", sentence)?;
        }
        if report.advice.iter().any(|sentence| sentence.contains("fault")) {
            let fault = duration(report.costs.fault_ns);
            writeln!(out, "  (a fault counts as {fault}: {}, hugewalk bench kernel)", report.costs.source)?;
        }
    }
    let rate = &report.rate;
    writeln!(
        out,
        "\nreplayed in {} ms: {} processes/s, {} faults/s, {} of memory",
        grouped(rate.milliseconds),
        grouped(rate.processes_per_second),
        grouped(rate.faults_per_second),
        size(rate.peak_memory_kb << 10)
    )
}

pub(crate) fn heading(out: &mut impl Write, text: &str) -> io::Result<()> {
    writeln!(out, "\n{HEADING}{text}{HEADING:#}")
}

fn recording(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let recording = &report.recording;
    writeln!(out, "{HEADING}{}{HEADING:#}", recording.strace)?;
    let mut text = format!(
        "{}, {} on huge pages, {} in huge mappings",
        counted(recording.processes, "process", "processes"),
        counted(recording.calls, "call", "calls"),
        counted(recording.huge_faults, "fault", "faults"),
    );
    if recording.other_faults > 0 {
        text += &format!(" ({} elsewhere)", grouped(recording.other_faults));
    }
    if recording.clock == Clock::None {
        text += ", at times that are not recorded";
    } else {
        text += &format!(", in {} s", seconds(recording.until - recording.from));
    }
    if recording.clones > 1 {
        text += &format!(", {} times over", grouped(recording.clones.into()));
    }
    paragraph(out, "  ", &text)?;
    if recording.faults.is_none() {
        paragraph(out, "  ", "without --faults: only pages that calls populate are present")?;
    }
    if report.mappings.is_empty() && report.failed.is_empty() {
        // Of no use to anybody.
        return Ok(());
    }
    paragraph(out, "  ", &format!("pool at the start: {}", recording.pool))
}

fn failed(report: &Report, out: &mut impl Write) -> io::Result<()> {
    if report.failed.is_empty() {
        return Ok(());
    }
    heading(out, "Calls that asked for huge pages and got none")?;
    for call in report.failed.iter().take(LISTED) {
        paragraph(out, "  - ", &call.sentence())?;
    }
    more(out, report.failed.len())
}

fn killed(report: &Report, out: &mut impl Write) -> io::Result<()> {
    if report.killed.is_empty() {
        return Ok(());
    }
    heading(out, "Processes killed by a signal")?;
    for killed in report.killed.iter().take(LISTED) {
        writeln!(out, "  - process {}, {} (line {})", killed.pid, killed.signal, killed.line)?;
    }
    more(out, report.killed.len())
}

/// What is not known stands before all figures: they may be wrong for it.
fn notes(report: &Report, out: &mut impl Write) -> io::Result<()> {
    if report.notes.is_empty() {
        return Ok(());
    }
    heading(out, "What this cannot say")?;
    for sentence in report.notes.iter().take(LISTED) {
        paragraph(out, "  - ", sentence)?;
    }
    more(out, report.notes.len())
}

fn pools(report: &Report, out: &mut impl Write) -> io::Result<()> {
    heading(out, "Pool at the end")?;
    if report.pools.iter().any(|pool| pool.guessed && pool.total > 0) {
        let text = "total and free follow from a guess: the recording does not tell how large the pool was (give --pool)";
        paragraph(out, "  ", text)?;
    }
    let mut table = grid(&["pages of", "total", "free", "reserved", "surplus"]);
    let is_empty = |pool: &&Pool| pool.total == 0;
    let all_empty = report.pools.iter().all(|pool| is_empty(&pool));
    for pool in report.pools.iter().filter(|pool| all_empty || !is_empty(pool)) {
        table.add_row([
            size(pool.huge_page_kb << 10),
            grouped(pool.total),
            grouped(pool.free),
            grouped(pool.reserved),
            grouped(pool.surplus),
        ]);
    }
    rows(out, &mut table, &[1, 2, 3, 4])
}

fn results(report: &Report, out: &mut impl Write) -> io::Result<()> {
    heading(out, "Results")?;
    let calls = report.recording.calls;
    if report.differences.is_empty() {
        let calls = match calls {
            0 => "no call had a result to compare".to_owned(),
            1 => "the call on huge pages ended as recorded".to_owned(),
            calls => format!("all {} ended as recorded", counted(calls, "call", "calls")),
        };
        writeln!(out, "  {GOOD}{calls}{GOOD:#}")?;
        let agrees = |call: &&FailedCall| {
            let of_size = report.pools.iter().find(|pool| pool.huge_page_kb == call.page_kb);
            call.explained && of_size.is_some_and(|pool| pool.guessed)
        };
        if let fitted @ 1.. = report.failed.iter().filter(agrees).count() {
            let calls = counted(fitted as u64, "call", "calls");
            writeln!(out, "  ({calls} failed as recorded because the guessed pool was chosen so)")?;
        }
    } else {
        let lines = counted(report.differences.len() as u64, "line", "lines");
        writeln!(out, "  {BAD}{lines} of the recording ended otherwise{BAD:#}")?;
        for difference in report.differences.iter().take(LISTED) {
            let text = format!(
                "line {}, process {}, {}: recorded {}, replayed {}",
                difference.line, difference.pid, difference.call, difference.recorded, difference.replayed
            );
            paragraph(out, "  - ", &text)?;
        }
        more(out, report.differences.len())?;
    }
    if !report.may_matter.is_empty() {
        let skipped: Vec<String> =
            report.may_matter.iter().map(|(name, count)| format!("{name} {}", grouped(*count))).collect();
        paragraph(out, "  ", &format!("calls not performed that may matter: {}", skipped.join(", ")))?;
    }
    if report.unconcerned > 0 {
        let calls = counted(report.unconcerned, "call that does", "calls that do");
        paragraph(out, "  ", &format!("{calls} not concern huge pages left out"))?;
    }
    Ok(())
}

/// How many entries of a list were not printed.
fn more(out: &mut impl Write, length: usize) -> io::Result<()> {
    match length.checked_sub(LISTED) {
        Some(more @ 1..) => writeln!(out, "  and {} more (--format json has all)", grouped(more as u64)),
        _ => Ok(()),
    }
}

/// Seconds to the microsecond, as strace prints them.
fn seconds(span: Time) -> String {
    format!("{}.{:06}", grouped(span.0 / 1_000_000_000), span.0 % 1_000_000_000 / 1000)
}

pub(crate) fn grid(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !headings.is_empty() {
        table.set_header(headings.iter().copied());
    }
    table
}

/// Writes the table, with the columns of numbers flush right.
pub(crate) fn rows(out: &mut impl Write, table: &mut Table, numbers: &[usize]) -> io::Result<()> {
    for &column in numbers {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.trim_fmt().lines() {
        writeln!(out, " {}", line.trim_end())?;
    }
    Ok(())
}
