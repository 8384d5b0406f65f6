//! The heart of a report: what can share, what does, and what broke it.

use std::collections::BTreeSet;
use std::io::{self, Write};

use super::words::paragraph;
use super::{LISTED, counted, grid, grouped, heading, more, rows, seconds, size};
use crate::report::{Mapping, Report, Tables};
use crate::trace::Clock;

pub(super) fn mappings(mappings: &[Mapping], out: &mut impl Write) -> io::Result<()> {
    heading(out, "Huge mappings")?;
    for mapping in mappings.iter().take(LISTED) {
        let text = format!(
            "{}, {}, {}, pages of {}",
            size(mapping.bytes),
            mapping.backing,
            if mapping.shared { "shared" } else { "private" },
            size(mapping.page_kb << 10)
        );
        paragraph(out, &format!("  {}  ", mapping.range), &text)?;
        writeln!(
            out,
            "    {} on line {} by process {}; held by {}",
            mapping.call,
            mapping.line,
            mapping.pid,
            match mapping.processes {
                1 => "that process alone".to_owned(),
                processes => format!("{} processes at most", grouped(processes)),
            }
        )?;
        if mapping.sharable_ranges > 0 {
            let ranges = counted(mapping.sharable_ranges, "aligned range", "aligned ranges");
            writeln!(
                out,
                "    {:>9}  can share: {ranges} of 1 GiB, a table each",
                size(mapping.sharable_ranges << 30)
            )?;
        }
        for part in &mapping.unsharable {
            // Where it is the whole mapping its range has just been said.
            let range = if part.range == mapping.range { String::new() } else { format!("{} ", part.range) };
            let mark = format!("    {:>9}  ", size(part.bytes));
            // Some share with others than those.
            let but = part.why.starts_with("not with") || part.why.starts_with("only with");
            let label = if but { "but: " } else { "cannot: " };
            paragraph(out, &mark, &format!("{label}{range}{}", part.why))?;
        }
    }
    more(out, mappings.len())
}

pub(super) fn tables(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let end = &report.tables;
    let Some(peak) = &report.peak else {
        heading(out, "Page tables at the end")?;
        return figures(&[("", end)], out);
    };
    let moment = if report.recording.clock == Clock::None {
        format!("before line {}", peak.line)
    } else {
        format!("after {} s", seconds(peak.time - report.recording.from))
    };
    if end.processes == 0 {
        heading(out, "Page tables at their peak")?;
        writeln!(out, "  {moment}; at the end nothing is mapped")?;
        return figures(&[("", &peak.tables)], out);
    }
    heading(out, "Page tables")?;
    writeln!(out, "  at the peak, when most processes had huge mappings ({moment}), and at the end")?;
    figures(&[("peak", &peak.tables), ("end", end)], out)
}

fn figures(columns: &[(&str, &Tables)], out: &mut impl Write) -> io::Result<()> {
    let headings: Vec<&str> = [""].into_iter().chain(columns.iter().map(|(name, _)| *name)).collect();
    // A single column needs no heading.
    let mut table = grid(if columns.len() > 1 { &headings } else { &[] });
    let mut row = |name: String, of: &dyn Fn(&Tables) -> String| {
        table.add_row([name].into_iter().chain(columns.iter().map(|(_, tables)| of(tables))));
    };
    row("processes with huge mappings".to_owned(), &|tables| grouped(tables.processes));
    row("tables of huge-page entries".to_owned(), &|tables| grouped(tables.tables));
    let numbers: BTreeSet<u64> =
        columns.iter().flat_map(|(_, tables)| tables.by_users.keys().copied()).collect();
    for users in numbers.iter().take(LISTED) {
        let of = |tables: &Tables| tables.by_users.get(users).map_or_else(|| "-".to_owned(), |n| grouped(*n));
        let name = match users {
            1 => "  with one user".to_owned(),
            users => format!("  shared by {} users", grouped(*users)),
        };
        row(name, &of);
    }
    if numbers.len() > LISTED {
        row("  shared by other numbers of users".to_owned(), &|tables| {
            let listed: u64 =
                numbers.iter().take(LISTED).filter_map(|users| tables.by_users.get(users)).sum();
            grouped(tables.tables - listed)
        });
    }
    row("memory they take".to_owned(), &|tables| size(tables.bytes));
    row("  without sharing".to_owned(), &|tables| size(tables.bytes_unshared));
    row("pages faulted in, by each process for itself".to_owned(), &|tables| grouped(tables.pages_faulted));
    row("  reached without a fault, thanks to sharing".to_owned(), &|tables| grouped(tables.faults_saved));
    rows(out, &mut table, &(1..=columns.len()).collect::<Vec<_>>())
}

pub(super) fn unsharing(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let unsharing = &report.unsharing;
    heading(out, "Unsharing")?;
    if unsharing.events.is_empty() {
        return writeln!(out, "  none: no process gave up a table that others were using");
    }
    let calls: Vec<String> =
        unsharing.by_call.iter().map(|(call, tables)| format!("{} by {call}", grouped(*tables))).collect();
    let total: u64 = unsharing.by_call.values().sum();
    paragraph(out, "  ", &format!("{} given up: {}", counted(total, "table", "tables"), calls.join(", ")))?;
    let mut table = grid(&["after s", "line", "process", "call", "tables", "left to one user", "flushes"]);
    for event in unsharing.events.iter().take(LISTED) {
        table.add_row([
            seconds(event.time - report.recording.from),
            event.line.to_string(),
            event.pid.to_string(),
            event.call.to_owned(),
            grouped(event.tables),
            grouped(event.last_sharers),
            grouped(event.flushes),
        ]);
    }
    rows(out, &mut table, &[0, 1, 2, 4, 5, 6])?;
    more(out, unsharing.events.len())?;
    writeln!(out, "\n  What that costs with {}:", counted(unsharing.cpus.into(), "processor", "processors"))?;
    let headings = ["protocol", "flushes", "waits", "broadcasts", "disturbed", ""];
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
    rows(out, &mut table, &[1, 2, 3, 4])?;
    writeln!(out, "  (waits: grace periods waited for; disturbed: interruptions of processors in total)")
}
