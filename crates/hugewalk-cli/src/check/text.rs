//! A report as text for people. Colour is only ever emphasis, and the caller's stream takes it out where it is not wanted.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{Table, presets};
use hugewalk_lab::lab::Settings;
use hugewalk_lab::scenario::{self, Scenario};
use hugewalk_lab::story::Story;
use hugewalk_lab::text::{Drawing, draw};

use super::outcome::{Coverage, Document, Effort, Kind, Verdict};
use super::plan::Shard;
use crate::report::text::counted;

/// Columns of a terminal that a report fits into.
pub(super) const WIDTH: usize = 100;

const HEADING: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();

/// Prints a report: a race as a drawing if that is all there is, else the matrix of verdicts.
pub(super) fn report(document: &Document, shard: Shard, out: &mut dyn Write) -> io::Result<()> {
    match &document.verdicts[..] {
        [only] => one(document, only, out)?,
        _ => matrix(document, out)?,
    }
    unexpected(document, out)?;
    footer(document, shard, out)
}

/// Names everything there is to name.
pub(super) fn list(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{HEADING}Scenarios{HEADING:#}")?;
    let mut table = plain();
    table.set_width(WIDTH as u16);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    for scenario in scenario::all() {
        table.add_row([scenario.id, scenario.what]);
    }
    if let Some(names) = table.column_mut(0) {
        names.set_constraint(comfy_table::ColumnConstraint::ContentWidth);
    }
    print(&table, out)?;
    let names = |names: Vec<&str>| names.join(", ");
    writeln!(out, "\n{HEADING}Protocols{HEADING:#}")?;
    writeln!(out, "{}", names(Settings::ALL.iter().map(|settings| settings.name).collect()))?;
    writeln!(out, "\n{HEADING}Steps that can be left out{HEADING:#}")?;
    writeln!(out, "{}", names(Settings::steps().collect()))
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

fn print(table: &Table, out: &mut dyn Write) -> io::Result<()> {
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn one(document: &Document, verdict: &Verdict, out: &mut dyn Write) -> io::Result<()> {
    let what = document.scenarios.iter().find(|scenario| scenario.id == verdict.scenario);
    let what = what.map_or("", |scenario| scenario.what);
    writeln!(out, "{HEADING}{} under {}{HEADING:#}: {what}\n", verdict.scenario, verdict.protocol)?;
    match (&verdict.race, &verdict.story, &verdict.explored) {
        (Some(_), Some(story), _) => {
            out.write_all(draw(story, &Drawing { width: WIDTH, all: false, colour: true }).as_bytes())?;
        }
        (Some(race), None, _) => writeln!(out, "{BAD}race{BAD:#}: {} [{}]", race.text, race.schedule)?,
        (None, _, Some(explored)) => {
            let executions = counted(explored.executions, "execution", "executions");
            writeln!(out, "{GOOD}safe{GOOD:#} {}: {executions}", bound(explored.coverage))?;
        }
        (None, _, None) => writeln!(out, "does not apply: {}", verdict.why.unwrap_or("nothing to find out"))?,
    }
    Ok(())
}

/// Prints a run under one schedule, with every step.
pub(super) fn schedule(
    scenario: &Scenario,
    protocol: &str,
    story: &Story,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out, "{HEADING}{} under {protocol}{HEADING:#}: {}\n", scenario.id, scenario.what)?;
    out.write_all(draw(story, &Drawing { width: WIDTH, all: true, colour: true }).as_bytes())?;
    if story.report.is_none() {
        writeln!(out, "\nnothing goes wrong under this schedule")?;
    }
    Ok(())
}

fn bound(coverage: Coverage) -> String {
    match coverage {
        Coverage::Everything => "in every interleaving".to_owned(),
        Coverage::Preemptions(1) => "with up to 1 preemption".to_owned(),
        Coverage::Preemptions(most) => format!("with up to {most} preemptions"),
        Coverage::Some | Coverage::UpToTheRace => "as far as was looked".to_owned(),
    }
}

fn matrix(document: &Document, out: &mut dyn Write) -> io::Result<()> {
    let mut table = plain();
    let without: String = document.options.without.iter().map(|step| format!(" -{step}")).collect();
    let protocols = &document.options.protocols;
    table.set_header(std::iter::once(without.trim_start()).chain(protocols.iter().map(String::as_str)));
    let rows = document.scenarios.iter().filter(|scenario| !scenario.id.contains(':'));
    for scenario in rows {
        let of = |protocol: &String| {
            document.verdicts.iter().find(|verdict| {
                verdict.scenario == scenario.id && verdict.protocol == *protocol && verdict.left_out.is_none()
            })
        };
        let cells = protocols.iter().map(|protocol| of(protocol).map_or_else(String::new, cell));
        table.add_row(std::iter::once(scenario.id.to_owned()).chain(cells));
    }
    print(&table, out)?;
    let preemptions = document.verdicts.iter().filter_map(|verdict| match verdict.explored?.coverage {
        Coverage::Preemptions(most) => Some(most),
        _ => None,
    });
    writeln!(
        out,
        "\nrace N: found, the shortest schedule has N switches. safe N: none in N executions; these are"
    )?;
    match document.options.effort {
        Effort::Exhaustive { .. } => {
            write!(out, "every interleaving")?;
            if preemptions.clone().next().is_some() {
                write!(out, ", or where it says p2, all with up to 2 preemptions")?;
            }
        }
        Effort::Random { seed, .. } => write!(out, "random ones from seed {seed}")?,
        Effort::Pct { seed, changes, .. } => {
            write!(out, "random ones from seed {seed}, by priorities with {changes} changes")?;
        }
    }
    writeln!(out, ". !: not as expected. -: does not apply.")?;
    mistakes(document, out)?;
    steps(document, out)
}

/// Scenarios with a mistake in them: each says something of a protocol or two.
fn mistakes(document: &Document, out: &mut dyn Write) -> io::Result<()> {
    let mut table = plain();
    for verdict in &document.verdicts {
        if verdict.scenario.contains(':') && verdict.verdict != Kind::DoesNotApply {
            table.add_row([
                verdict.scenario.to_owned(),
                format!("under {}", verdict.protocol),
                cell(verdict),
            ]);
        }
    }
    if table.row_count() > 0 {
        writeln!(out, "\n{HEADING}Mistakes{HEADING:#}")?;
        print(&table, out)?;
    }
    Ok(())
}

fn steps(document: &Document, out: &mut dyn Write) -> io::Result<()> {
    let mut table = plain();
    for verdict in &document.verdicts {
        let Some(step) = verdict.left_out else { continue };
        table.add_row([
            step.to_owned(),
            format!("{} under {}", verdict.scenario, verdict.protocol),
            cell(verdict),
        ]);
    }
    if table.row_count() > 0 {
        writeln!(out, "\n{HEADING}Each step left out in turn{HEADING:#}")?;
        print(&table, out)?;
    }
    Ok(())
}

fn cell(verdict: &Verdict) -> String {
    let mark = if verdict.as_expected == Some(false) { "!" } else { "" };
    match (&verdict.race, &verdict.explored) {
        (Some(race), _) => {
            let about = if race.shortest { "" } else { "~" };
            format!("{mark}race {about}{}", race.switches)
        }
        (None, Some(explored)) => {
            let bound = match explored.coverage {
                Coverage::Preemptions(most) => format!(" p{most}"),
                Coverage::Everything | Coverage::Some | Coverage::UpToTheRace => String::new(),
            };
            format!("{mark}safe {}{bound}", short(explored.executions))
        }
        (None, None) => "-".to_owned(),
    }
}

/// A number in at most four characters.
fn short(number: u64) -> String {
    match number {
        0..10_000 => number.to_string(),
        10_000..1_000_000 => format!("{}k", number / 1000),
        1_000_000..10_000_000 => format!("{}.{}M", number / 1_000_000, number / 100_000 % 10),
        _ => format!("{}M", number / 1_000_000),
    }
}

fn unexpected(document: &Document, out: &mut dyn Write) -> io::Result<()> {
    let kind = |kind: Option<Kind>| match kind {
        Some(Kind::Race) => "a race",
        Some(Kind::Safe) => "safe",
        Some(Kind::DoesNotApply) | None => "nothing to find out",
    };
    writeln!(out)?;
    for verdict in document.verdicts.iter().filter(|verdict| verdict.as_expected == Some(false)) {
        let Verdict { scenario, protocol, left_out, expected, verdict, .. } = verdict;
        let (found, expected) = (kind(Some(*verdict)), kind(*expected));
        let without = left_out.map(|step| format!(" without {step}")).unwrap_or_default();
        writeln!(
            out,
            "{BAD}{scenario} under {protocol}{without}: {found}, where {expected} is expected{BAD:#}"
        )?;
    }
    Ok(())
}

fn footer(document: &Document, shard: Shard, out: &mut dyn Write) -> io::Result<()> {
    let found: Vec<_> =
        document.verdicts.iter().filter(|verdict| verdict.verdict != Kind::DoesNotApply).collect();
    let judged = found.iter().filter(|verdict| verdict.as_expected.is_some()).count();
    let verdicts = counted(found.len() as u64, "verdict", "verdicts");
    let style = if document.unexpected == 0 { GOOD } else { BAD };
    let expected = match (judged, document.unexpected) {
        (0, _) => "nothing is known of what they should be".to_owned(),
        (_, 0) => "all as expected".to_owned(),
        (_, not) => format!("{not} not as expected"),
    };
    let part = if shard == Shard::WHOLE { String::new() } else { format!("shard {shard}: ") };
    writeln!(
        out,
        "{part}{verdicts}, {style}{expected}{style:#}; {} in {:.1} s, {}",
        counted(document.executions, "execution", "executions"),
        document.milliseconds as f64 / 1000.0,
        counted(u64::from(document.jobs), "thread", "threads"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_told_in_four_characters() {
        let told = [0, 9_999, 10_000, 999_999, 1_000_000, 9_999_999, 10_000_000, 999_999_999].map(short);
        assert_eq!(told, ["0", "9999", "10k", "999k", "1.0M", "9.9M", "10M", "999M"]);
    }
}
