//! The replay beside the kernel: a line for each counter and each mapping of each process.

use std::io::{self, Write};

use super::{BAD, GOOD, counted, grid, grouped, heading, paragraph, rows};
use crate::report::Comparison;
use crate::report::truth::Figure;

pub(super) fn comparison(comparison: &Comparison, out: &mut impl Write) -> io::Result<()> {
    heading(out, &format!("Beside the kernel, at {}", comparison.at))?;
    let (system, own): (Vec<&Figure>, Vec<&Figure>) =
        comparison.figures.iter().partition(|figure| figure.pid.is_none());
    let mut table = grid(&["counter", "", ""]);
    for figure in system {
        table.add_row([figure.what.clone(), text(figure), verdict(&[figure])]);
    }
    rows(out, &mut table, &[1])?;
    writeln!(out)?;

    let mut table = grid(&["process", "kB faulted in", "mapping", "kB shared", "kB private", ""]);
    let mut figures = own.into_iter().peekable();
    while let Some(figure) = figures.next() {
        let pid = figure.pid.map_or_else(String::new, |pid| pid.to_string());
        let mut row = [pid, text(figure), String::new(), String::new(), String::new()];
        let mut in_row = vec![figure];
        // Its mappings follow, two figures each; the first one goes into the same line.
        loop {
            let next = figures.next_if(|next| next.pid == figure.pid);
            let pair = next.zip(figures.next_if(|next| next.pid == figure.pid));
            let Some((shared, private)) = pair else { break };
            if !row[2].is_empty() {
                table.add_row(row.iter().cloned().chain([verdict(&in_row)]));
                row = Default::default();
                in_row.clear();
            }
            row[2] = shared.what.split(' ').next().unwrap_or_default().to_owned();
            (row[3], row[4]) = (text(shared), text(private));
            in_row.extend([shared, private]);
        }
        table.add_row(row.into_iter().chain([verdict(&in_row)]));
    }
    rows(out, &mut table, &[0, 1, 3, 4])?;

    let count = counted(comparison.figures.len() as u64, "figure", "figures");
    if comparison.equal {
        writeln!(out, "  {GOOD}all {count} equal{GOOD:#}")
    } else {
        writeln!(out, "  {BAD}{} of {count} differ{BAD:#} (the kernel's first)", comparison.differing)?;
        comparison.remark.iter().try_for_each(|remark| paragraph(out, "  ", remark))
    }
}

/// One number if both say the same, else both.
fn text(figure: &Figure) -> String {
    let known = |value: Option<u64>| value.map_or_else(|| "none".to_owned(), grouped);
    if figure.is_equal() {
        known(figure.kernel)
    } else {
        format!("{} / {}", known(figure.kernel), known(figure.replay))
    }
}

fn verdict(figures: &[&Figure]) -> String {
    let equal = figures.iter().all(|figure| figure.is_equal());
    if equal { "=" } else { "DIFFERS" }.to_owned()
}
