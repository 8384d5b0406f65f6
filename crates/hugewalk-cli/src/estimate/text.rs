//! The report as text for people.

use std::io::{self, Write};

use super::{Exit, Report};
use crate::costs::duration;
use crate::replay::Shape;
use crate::report::text::{counted, grid, grouped, heading, paragraph_within, rows, size};

const WIDTH: usize = 100;

pub(super) fn write(report: &Report, shape: Option<&Shape>, out: &mut Vec<u8>) -> io::Result<()> {
    let asked = &report.asked;
    let place = match asked.begins_kb {
        0 => "beginning on a 1 GiB boundary".to_owned(),
        kb => format!("beginning {} behind a 1 GiB boundary", size(kb << 10)),
    };
    let touched = match asked.touched_percent {
        100.0 => "touched by each of them".to_owned(),
        percent => format!("{percent:.0} % of it touched by each of them"),
    };
    let head = format!(
        "{} shared by {}, in pages of {}, {place}, {touched}",
        size(asked.shared_bytes),
        counted(asked.processes, "process", "processes"),
        size(asked.page_kb << 10)
    );
    paragraph_within(out, WIDTH, "", &head)?;
    if let Some(shape) = shape {
        let from = format!(
            "What is not said on the command line is as in {}: the mapping of line {}.",
            asked.recording.as_deref().unwrap_or_default(),
            shape.line
        );
        paragraph_within(out, WIDTH, "  ", &from)?;
    }
    tables(report, out)?;
    fork(report, out)?;
    for exit in &report.exits {
        exits(exit, report, out)?;
    }
    heading(out, "How this came about")?;
    paragraph_within(out, WIDTH, "  ", &report.method.text)?;
    paragraph_within(out, WIDTH, "  ", &report.costs.sentence())?;
    let assumed = "One process maps the memory and forks the others, which touch the same pages. Page tables of other memory are \
                   not counted.";
    paragraph_within(out, WIDTH, "  ", assumed)
}

fn time(milliseconds: f64) -> String {
    duration(milliseconds * 1e6)
}

fn tables(report: &Report, out: &mut Vec<u8>) -> io::Result<()> {
    heading(out, "Page tables and faults of all processes")?;
    let (shared, unshared) = (&report.shared, &report.unshared);
    let mut table = grid(&["", "tables shared", "none shared"]);
    let ranges = match report.asked.sharable_ranges {
        0 => "  (nothing can be shared)".to_owned(),
        ranges => format!("  ({} of 1 GiB shared)", counted(ranges, "range", "ranges")),
    };
    table.add_row([
        "tables of huge-page entries".to_owned(),
        grouped(shared.tables),
        grouped(unshared.tables),
    ]);
    table.add_row([ranges, size(shared.bytes), size(unshared.bytes)]);
    table.add_row(["faults".to_owned(), grouped(shared.faults), grouped(unshared.faults)]);
    table.add_row(["  time in them".to_owned(), time(shared.milliseconds), time(unshared.milliseconds)]);
    rows(out, &mut table, &[1, 2])
}

fn fork(report: &Report, out: &mut Vec<u8>) -> io::Result<()> {
    if report.asked.processes == 1 {
        return Ok(());
    }
    let fork = &report.fork;
    heading(out, "One process more")?;
    let call = if fork.unshared == 0 && fork.flushes == 0 {
        "fork unshares nothing and flushes nothing, under any protocol.".to_owned()
    } else {
        format!(
            "fork unshares {} and flushes the TLB {}.",
            counted(fork.unshared, "table", "tables"),
            counted(fork.flushes, "time", "times")
        )
    };
    let text = format!(
        "{call} Until the child has touched its pages it takes {} ({}); with tables of its own, {} ({}). Of its {} it has {} for \
         itself.",
        counted(fork.faults, "fault", "faults"),
        time(fork.milliseconds),
        grouped(fork.faults_unshared),
        time(fork.milliseconds_unshared),
        counted(fork.tables, "table", "tables"),
        grouped(fork.own_tables)
    );
    paragraph_within(out, WIDTH, "  ", &text)?;
    if let Some(rates) = &report.rates {
        let text =
            format!("The recording has {:.2} forks and {:.2} exits a second.", rates.forks, rates.exits);
        paragraph_within(out, WIDTH, "  ", &text)?;
    }
    Ok(())
}

fn exits(exit: &Exit, report: &Report, out: &mut Vec<u8>) -> io::Result<()> {
    heading(
        out,
        match exit.case {
            "leaves-one" => "The exit that leaves one process",
            _ => "One exit, while the others stay",
        },
    )?;
    let gives = exit.gives;
    if gives.tables == 0 {
        return writeln!(out, "  gives up no shared table, and costs nothing under any protocol");
    }
    let text = format!(
        "gives up {}, of which {} one user left, in {} of the TLB; with {}:",
        counted(gives.tables, "shared table", "shared tables"),
        match gives.last_sharers {
            0 => "none has".to_owned(),
            1 => "1 has".to_owned(),
            many => format!("{} have", grouped(many)),
        },
        counted(gives.flushes, "flush", "flushes"),
        counted(report.asked.cpus.into(), "processor", "processors")
    );
    paragraph_within(out, WIDTH, "  ", &text)?;
    let mut table = grid(&["protocol", "broadcasts", "disturbed", "waits", "time", ""]);
    for (protocol, milliseconds) in exit.protocols.iter().zip(&exit.milliseconds) {
        table.add_row([
            protocol.name.to_owned(),
            grouped(protocol.broadcasts),
            grouped(protocol.processors_disturbed),
            grouped(protocol.grace_periods),
            match milliseconds {
                Some(0.0) => "-".to_owned(),
                Some(milliseconds) => time(*milliseconds),
                None => "?".to_owned(),
            },
            protocol.rule.to_owned(),
        ]);
    }
    rows(out, &mut table, &[1, 2, 3, 4])
}
