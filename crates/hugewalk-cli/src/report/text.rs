//! A report as text for people. Colour is only ever emphasis, and the caller's stream takes it out where it is not wanted.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, Table, presets};

use super::{Comparison, Mapping, Report, Tables, Unsharing};

const HEADING: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();

/// Occasions of unsharing that are listed one by one; the rest are in the JSON form.
const LISTED: usize = 10;

/// Writes `report`.
///
/// # Errors
///
/// Those of `out`.
pub fn write(report: &Report, out: &mut impl Write) -> io::Result<()> {
    recording(report, out)?;
    mappings(&report.mappings, out)?;
    tables(&report.tables, out)?;
    unsharing(&report.unsharing, out)?;
    pools(report, out)?;
    results(report, out)?;
    if let Some(comparison) = &report.truth {
        truth(comparison, out)?;
    }
    if !report.advice.is_empty() {
        heading(out, "Advice")?;
        for sentence in &report.advice {
            writeln!(out, "  {sentence}")?;
        }
    }
    let rate = &report.rate;
    writeln!(
        out,
        "\n{} ms: {} processes/s, {} faults/s",
        grouped(rate.milliseconds),
        grouped(rate.processes_per_second),
        grouped(rate.faults_per_second)
    )
}

fn heading(out: &mut impl Write, text: &str) -> io::Result<()> {
    writeln!(out, "\n{HEADING}{text}{HEADING:#}")
}

fn recording(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let recording = &report.recording;
    writeln!(out, "{HEADING}{}{HEADING:#}", recording.strace)?;
    writeln!(
        out,
        "  {}, {} on huge pages, {} in huge mappings ({} elsewhere), in {} s{}",
        counted(recording.processes, "process", "processes"),
        counted(recording.calls, "call", "calls"),
        counted(recording.huge_faults, "fault", "faults"),
        grouped(recording.other_faults),
        recording.until - recording.from,
        if recording.clones > 1 { format!(", {} times over", recording.clones) } else { String::new() }
    )?;
    if recording.faults.is_none() {
        writeln!(out, "  without --faults: only pages that calls populate are present")?;
    }
    Ok(())
}

fn mappings(mappings: &[Mapping], out: &mut impl Write) -> io::Result<()> {
    heading(out, "Huge mappings")?;
    if mappings.is_empty() {
        return writeln!(out, "  none");
    }
    let mut table =
        grid(&["line", "pid", "call", "range", "size", "pages", "of", "processes", "GiB that share"]);
    for mapping in mappings {
        table.add_row([
            mapping.line.to_string(),
            mapping.pid.to_string(),
            mapping.call.to_owned(),
            mapping.range.clone(),
            size(mapping.bytes),
            format!("{} {}", size(mapping.page_kb << 10), if mapping.shared { "shared" } else { "private" }),
            mapping.backing.clone(),
            grouped(mapping.processes),
            format!("{} of {}", mapping.sharable_ranges, mapping.whole_ranges),
        ]);
    }
    rows(out, &mut table, &[0, 1, 4, 7])?;
    for mapping in mappings {
        for part in &mapping.unsharable {
            writeln!(
                out,
                "  line {}: {} ({}) cannot share: {}",
                mapping.line,
                part.range,
                size(part.bytes),
                part.why
            )?;
        }
    }
    Ok(())
}

fn tables(tables: &Tables, out: &mut impl Write) -> io::Result<()> {
    heading(out, "Page tables at the end")?;
    let users: Vec<String> = tables
        .by_users
        .iter()
        .map(|(users, count)| format!("{count} with {}", counted(*users, "user", "users")))
        .collect();
    let users = if users.is_empty() { String::new() } else { format!(": {}", users.join(", ")) };
    writeln!(out, "  {}{users}", counted(tables.tables, "table", "tables"))?;
    writeln!(out, "  {}; without sharing {}", size(tables.bytes), size(tables.bytes_unshared))?;
    writeln!(
        out,
        "  {} faulted in; {} reached without a fault of one's own",
        counted(tables.pages_faulted, "page", "pages"),
        grouped(tables.faults_saved)
    )
}

fn unsharing(unsharing: &Unsharing, out: &mut impl Write) -> io::Result<()> {
    heading(out, "Unsharing")?;
    if unsharing.events.is_empty() {
        return writeln!(out, "  none: no table was taken from one of several users");
    }
    let calls: Vec<String> =
        unsharing.by_call.iter().map(|(call, tables)| format!("{} by {call}", grouped(*tables))).collect();
    let total: u64 = unsharing.by_call.values().sum();
    writeln!(out, "  {}: {}", counted(total, "table", "tables"), calls.join(", "))?;
    let mut table = grid(&["time", "line", "pid", "call", "tables", "left alone"]);
    for event in unsharing.events.iter().take(LISTED) {
        table.add_row([
            event.time.to_string(),
            event.line.to_string(),
            event.pid.to_string(),
            event.call.to_owned(),
            grouped(event.tables),
            grouped(event.last_sharers),
        ]);
    }
    rows(out, &mut table, &[1, 2, 4, 5])?;
    if let Some(more @ 1..) = unsharing.events.len().checked_sub(LISTED) {
        writeln!(out, "  and {more} more (all of them with --format json)")?;
    }
    writeln!(out, "\n  What it costs on {}:", counted(unsharing.cpus.into(), "processor", "processors"))?;
    let headings =
        ["protocol", "TLB flushes", "grace periods waited", "broadcasts", "processors disturbed", "rule"];
    let mut table = grid(&headings);
    for protocol in &unsharing.protocols {
        table.add_row([
            protocol.name.to_owned(),
            grouped(protocol.flushes),
            grouped(protocol.grace_periods),
            grouped(protocol.broadcasts),
            grouped(protocol.processors_disturbed),
            protocol.rule.to_owned(),
        ]);
    }
    rows(out, &mut table, &[1, 2, 3, 4])
}

fn pools(report: &Report, out: &mut impl Write) -> io::Result<()> {
    heading(out, "Pool at the end")?;
    let mut table = grid(&["pages of", "total", "free", "reserved", "surplus"]);
    for pool in &report.pools {
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
        writeln!(out, "  {GOOD}all {} returned what was recorded{GOOD:#}", counted(calls, "call", "calls"))?;
    } else {
        writeln!(
            out,
            "  {BAD}{} of what was recorded{BAD:#}",
            counted(report.differences.len() as u64, "difference", "differences")
        )?;
        let mut table = grid(&["line", "pid", "call", "recorded", "replayed"]);
        for difference in &report.differences {
            table.add_row([
                difference.line.to_string(),
                difference.pid.to_string(),
                difference.call.clone(),
                difference.recorded.clone(),
                difference.replayed.clone(),
            ]);
        }
        rows(out, &mut table, &[0, 1])?;
    }
    if !report.skipped.is_empty() {
        let skipped: Vec<String> =
            report.skipped.iter().map(|(name, count)| format!("{name} {}", grouped(*count))).collect();
        writeln!(out, "  not performed: {}", skipped.join(", "))?;
    }
    Ok(())
}

fn truth(comparison: &Comparison, out: &mut impl Write) -> io::Result<()> {
    heading(out, &format!("Beside the kernel, at {}", comparison.at))?;
    let mut table = grid(&["pid", "figure", "kernel", "replay", ""]);
    let known = |value: Option<u64>| value.map_or("-".to_owned(), grouped);
    for figure in &comparison.figures {
        table.add_row([
            figure.pid.map_or(String::new(), |pid| pid.to_string()),
            figure.what.clone(),
            known(figure.kernel),
            known(figure.replay),
            if figure.is_equal() { "=" } else { "DIFFERS" }.to_owned(),
        ]);
    }
    rows(out, &mut table, &[0, 2, 3])?;
    let count = counted(comparison.figures.len() as u64, "figure", "figures");
    if comparison.equal {
        writeln!(out, "  {GOOD}all {count} equal{GOOD:#}")
    } else {
        writeln!(out, "  {BAD}{} of {count} differ{BAD:#}", comparison.differing)
    }
}

fn grid(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headings.iter().copied());
    table
}

/// Writes the table, with the columns of numbers flush right.
fn rows(out: &mut impl Write, table: &mut Table, numbers: &[usize]) -> io::Result<()> {
    for &column in numbers {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.trim_fmt().lines() {
        writeln!(out, " {line}")?;
    }
    Ok(())
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(count), if count == 1 { one } else { many })
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest unit that leaves the number whole or over ten.
pub(crate) fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.iter().find(|(_, shift)| {
        let whole = bytes >> shift;
        whole >= 10 || whole > 0 && bytes.trailing_zeros() >= *shift
    });
    match unit {
        Some((name, shift)) if bytes.trailing_zeros() >= *shift => {
            format!("{} {name}", grouped(bytes >> shift))
        }
        Some((name, shift)) => {
            let tenths = (bytes >> (shift - 10)) % 1024 * 10 / 1024;
            format!("{}.{tenths} {name}", grouped(bytes >> shift))
        }
        None => format!("{} B", grouped(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::{grouped, size};

    #[test]
    fn numbers_and_sizes_are_written_to_be_read() {
        assert_eq!(
            ["0", "999", "1,000", "1,234,567"].map(str::to_owned),
            [0, 999, 1000, 1_234_567].map(grouped)
        );
        assert_eq!(size(2 << 20), "2 MiB");
        assert_eq!(size(1 << 40), "1 TiB");
        assert_eq!(size(2_812_280_832), "2,682 MiB");
        assert_eq!(size((10 << 30) + (512 << 20)), "10.5 GiB");
        assert_eq!(size(100), "100 B");
    }
}
