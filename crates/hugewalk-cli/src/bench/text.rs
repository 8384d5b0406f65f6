//! A report as text.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};

use super::sample::{Goal, Measured};
use super::{Group, Report};

pub(super) fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let barrier = if report.membarrier { "membarrier(2)" } else { "full fences" };
    writeln!(
        out,
        "{} processors, {}; Linux {}; load {:.2} before",
        report.processors, report.processor, report.kernel, report.load
    )?;
    writeln!(
        out,
        "read sections by {barrier}; medians of samples taken in turn, and half of the samples lie within the spread"
    )?;
    for group in &report.groups {
        writeln!(out, "\n{}", group.title)?;
        if let Some(note) = &group.note {
            writeln!(out, "({note})")?;
        }
        writeln!(out, "{}", table(group))?;
    }
    report.lacking.iter().try_for_each(|sentence| writeln!(out, "\n{sentence}"))
}

/// A line for each case, and columns that some groups have.
fn table(group: &Group) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut header = vec![
        String::new(),
        "median".into(),
        "spread".into(),
        "least".into(),
        format!("of {}", group.baseline),
    ];
    let unshared = group.cases.iter().any(|case| case.unshares_per_second.is_some());
    header.extend(unshared.then(|| "unshared".to_owned()));
    let goals = group.cases.iter().any(|case| case.goal.is_some());
    header.extend(goals.then(|| "goal".to_owned()));
    table.set_header(header);
    for index in 1..7 {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let base = group.cases.iter().find(|case| case.name == group.baseline).map(|case| case.median_ns);
    for case in &group.cases {
        let ratio = base.map_or(String::new(), |base| format!("{:.2}", case.median_ns / base));
        let half = (case.upper_ns - case.lower_ns) / 2.0 / case.median_ns * 100.0;
        let spread = format!("±{half:.0} %");
        let mut row =
            vec![case.name.clone(), duration(case.median_ns), spread, duration(case.least_ns), ratio];
        row.extend(case.unshares_per_second.map(|rate| format!("{:.0}/ms", rate / 1e3)));
        row.extend(goals.then(|| goal(case, base.unwrap_or(f64::NAN))));
        table.add_row(row);
    }
    table
}

/// What was aimed for, and whether it is so.
fn goal(case: &Measured, base: f64) -> String {
    let Some(goal) = case.goal else { return String::new() };
    let most = match goal {
        Goal::Ratio(most) => format!("{most:.2}"),
        Goal::Nanoseconds(most) => duration(most),
    };
    format!("{most}: {}", if goal.is_met(case.median_ns, base) { "met" } else { "missed" })
}

/// Nanoseconds in a unit that reads well.
fn duration(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.2} ns"),
        ns if ns < 1e6 => format!("{:.2} µs", ns / 1e3),
        ns => format!("{:.2} ms", ns / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, median_ns: f64, goal: Option<Goal>) -> Measured {
        let (lower_ns, upper_ns) = (median_ns * 0.9, median_ns * 1.1);
        Measured {
            name: name.to_owned(),
            median_ns,
            lower_ns,
            upper_ns,
            least_ns: lower_ns,
            greatest_ns: upper_ns,
            unshares_per_second: None,
            goal,
        }
    }

    fn group(cases: Vec<Measured>) -> Group {
        Group { title: "walks".to_owned(), note: None, baseline: "bare".to_owned(), cases }
    }

    fn lines(group: &Group) -> Vec<String> {
        table(group).to_string().lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn a_case_is_told_with_its_spread_and_its_ratio() {
        let lines = lines(&group(vec![case("bare", 10.0, None), case("rcu", 15.0, None)]));
        assert!(lines[0].ends_with("of bare"), "{lines:?}");
        let words: Vec<_> = lines[2].split_whitespace().collect();
        assert_eq!(words, ["rcu", "15.00", "ns", "±10", "%", "13.50", "ns", "1.50"]);
    }

    #[test]
    fn goals_are_told_as_met_or_missed_where_there_are_any() {
        let cases = vec![
            case("bare", 10.0, None),
            case("rcu", 12.0, Some(Goal::Ratio(1.3))),
            case("lock", 14.0, Some(Goal::Ratio(1.3))),
            case("fault", 2e3, Some(Goal::Nanoseconds(1.5e3))),
        ];
        let lines = lines(&group(cases));
        assert!(lines[0].ends_with("goal"), "{lines:?}");
        assert!(lines[1].ends_with("1.00"), "{lines:?}");
        assert!(lines[2].ends_with("1.30: met"), "{lines:?}");
        assert!(lines[3].ends_with("1.30: missed"), "{lines:?}");
        assert!(lines[4].ends_with("1.50 µs: missed"), "{lines:?}");
    }
}
