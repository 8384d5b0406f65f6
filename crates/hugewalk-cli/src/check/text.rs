//! A report as text for people. Colour is only ever emphasis, and the caller's stream takes it out where it is not wanted.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{Table, presets};
use hugewalk_lab::explore::Schedule;
use hugewalk_lab::scenario::Scenario;
use hugewalk_lab::story::Story;
use hugewalk_lab::text::{Drawing, draw, paragraph};

use super::campaign::Missing;
use super::outcome::{Coverage, Document, Effort, Kind, Names, Verdict};
use super::plan::Shard;
use crate::report::text::counted;
use crate::width::{self, columns};

const HEADING: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const FAINT: Style = Style::new().dimmed();
const UNSURE: Style = AnsiColor::Yellow.on_default();

/// Prints a report: a race as a drawing if that is all there is, else the matrix of verdicts.
/// With `sentences`, the matrix says what happens in each scenario.
pub(super) fn report(
    document: &Document,
    shard: Shard,
    sentences: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let found: Vec<_> =
        document.verdicts.iter().filter(|verdict| verdict.verdict != Kind::DoesNotApply).collect();
    match (&found[..], &document.verdicts[..]) {
        ([only], _) => one(document, only, out)?,
        ([], [only]) => one(document, only, out)?,
        _ => matrix(document, sentences, out)?,
    }
    unexpected(document, out)?;
    for part in &document.missing {
        let Missing { shard, done, of } = part;
        let what = match done {
            0 => "nothing of it is".to_owned(),
            1 => format!("1 of {of} units is"),
            _ => format!("{done} of {of} units are"),
        };
        writeln!(out, "{UNSURE}shard {shard} is unfinished{UNSURE:#}: {what} in these files")?;
    }
    footer(document, shard, out)
}

/// There are more parts than units.
pub(super) fn nothing_to_do(
    shard: Shard,
    units: usize,
    by_chance: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let units = match by_chance {
        true => counted(units as u64, "block of random runs", "blocks of random runs"),
        false => counted(units as u64, "case", "cases"),
    };
    writeln!(out, "nothing to do in part {} of {} ({units})", shard.number, shard.of)
}

/// Names everything there is to name.
pub(super) fn list(names: &Names, out: &mut dyn Write) -> io::Result<()> {
    let sections = [("Scenarios", 0), ("Protocols", 1), ("Steps that can be left out", 2)];
    let width = columns();
    let mut gap = "";
    for (title, number) in sections {
        let lines: Vec<(&str, &str)> = match number {
            0 => names.scenarios.iter().map(|line| (line.id, line.what)).collect(),
            1 => names.protocols.iter().map(|line| (line.name, &*line.what)).collect(),
            _ => names.steps.iter().map(|line| (line.name, &*line.what)).collect(),
        };
        if lines.is_empty() {
            continue;
        }
        let gap = std::mem::replace(&mut gap, "\n");
        writeln!(out, "{gap}{HEADING}{title}{HEADING:#}")?;
        let indent = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
        for (name, what) in lines {
            let mut name = name;
            for line in paragraph(what, width - indent).lines() {
                writeln!(out, "{name:indent$}{line}")?;
                name = "";
            }
        }
    }
    Ok(())
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
    title(verdict.scenario, verdict.protocol, what, out)?;
    let history = document.scenarios.iter().find(|scenario| scenario.id == verdict.scenario);
    if let Some(history) = history.and_then(|scenario| scenario.history.as_deref()) {
        writeln!(out, "{}\n", paragraph(history, columns()))?;
    }
    match (&verdict.race, &verdict.story, &verdict.explored) {
        (Some(_), Some(story), _) => {
            out.write_all(
                draw(story, &Drawing { width: columns(), colour: true, ..Drawing::default() }).as_bytes(),
            )?;
        }
        (Some(race), None, _) => {
            writeln!(out, "{BAD}{}{BAD:#}: {} [{}]", race.kind, race.text, race.schedule)?;
        }
        (None, _, Some(explored)) if verdict.verdict == Kind::NotMet => {
            let schedules = counted(explored.executions, "random schedule", "random schedules");
            let known = if verdict.is_known_and_not_met() { "; a race is known here" } else { "" };
            writeln!(out, "{UNSURE}not met{UNSURE:#} in {schedules}, which cannot exclude a race{known}")?;
        }
        (None, _, Some(explored)) if verdict.verdict == Kind::Incomplete => {
            let executions = counted(explored.executions, "execution", "executions");
            let bound = bound(explored.coverage);
            writeln!(
                out,
                "{UNSURE}incomplete{UNSURE:#}: safe {bound}; the limit came first, after {executions}"
            )?;
        }
        (None, _, Some(explored)) => {
            let executions = counted(explored.executions, "execution", "executions");
            writeln!(out, "{GOOD}safe{GOOD:#} {}: {executions}", bound(explored.coverage))?;
        }
        (None, _, None) => writeln!(out, "does not apply: {}", verdict.why.unwrap_or("nothing to find out"))?,
    }
    Ok(())
}

/// Prints a run under one schedule, with every step; of one that was chosen to be `shown`, the steps that matter.
pub(super) fn schedule(
    scenario: &Scenario,
    protocol: &str,
    story: &Story,
    shown: Option<&Schedule>,
    out: &mut dyn Write,
) -> io::Result<()> {
    title(scenario.id, protocol, scenario.what, out)?;
    out.write_all(
        draw(story, &Drawing { width: columns(), all: shown.is_none(), colour: true, ..Drawing::default() })
            .as_bytes(),
    )?;
    match (shown, &story.report) {
        (_, Some(_)) => Ok(()),
        (None, None) => writeln!(out, "\nnothing goes wrong under this schedule"),
        (Some(schedule), None) => writeln!(out, "\nnothing goes wrong under this schedule: {schedule}"),
    }
}

fn title(scenario: &str, protocol: &str, what: &str, out: &mut dyn Write) -> io::Result<()> {
    let name = format!("{scenario} under {protocol}");
    let text = paragraph(&format!("{name}: {what}"), columns());
    writeln!(out, "{HEADING}{name}{HEADING:#}{}\n", &text[name.len()..])
}

fn bound(coverage: Coverage) -> String {
    match coverage {
        Coverage::Everything => "in every interleaving".to_owned(),
        Coverage::Preemptions(1) => "with up to 1 preemption".to_owned(),
        Coverage::Preemptions(most) => format!("with up to {most} preemptions"),
        Coverage::Some | Coverage::UpToTheRace => "as far as was looked".to_owned(),
    }
}

fn matrix(document: &Document, sentences: bool, out: &mut dyn Write) -> io::Result<()> {
    let less = document.options.without.iter().map(|step| format!(" -{step}"));
    let without: String = less.chain(document.options.with.iter().map(|step| format!(" +{step}"))).collect();
    let without = without.trim_start();
    let of = |scenario: &str, protocol: &str| {
        let fits = |verdict: &&Verdict| {
            verdict.scenario == scenario && verdict.protocol == protocol && verdict.left_out.is_none()
        };
        document
            .verdicts
            .iter()
            .find(fits)
            .map_or_else(Default::default, |verdict| (cell(verdict), style(verdict)))
    };
    // Columns with their heads on top; the first one names the scenarios.
    let ids = document.scenarios.iter().map(|scenario| scenario.id);
    let rows: Vec<&str> = ids.filter(|id| !id.contains(':')).collect();
    let first: Vec<String> =
        std::iter::once(without).chain(rows.iter().copied()).map(ToOwned::to_owned).collect();
    let columns: Vec<Vec<(String, Style)>> = document
        .options
        .names()
        .map(|protocol| {
            let cells = rows.iter().map(|id| of(id, protocol));
            std::iter::once((protocol.to_owned(), Style::new())).chain(cells).collect()
        })
        .collect();
    if !rows.is_empty() {
        let what =
            |id: &&str| document.scenarios.iter().find(|line| line.id == *id).map_or("", |line| line.what);
        let what: Vec<&str> = rows.iter().filter(|_| sentences).map(what).collect();
        tables(&first, &columns, &what, out)?;
        writeln!(out)?;
    }
    let is_bounded = |verdict: &Verdict| {
        verdict.explored.is_some_and(|explored| matches!(explored.coverage, Coverage::Preemptions(_)))
    };
    let what = match document.options.effort {
        Effort::Exhaustive { .. } if document.verdicts.iter().any(is_bounded) => {
            "every interleaving, or where it says pN, all with up to N preemptions".to_owned()
        }
        Effort::Exhaustive { .. } => "every interleaving".to_owned(),
        Effort::Random { seed, .. } => format!("random ones from seed {seed}"),
        Effort::Pct { seed, changes, .. } => {
            format!("random ones from seed {seed}, by priorities with {changes} changes")
        }
    };
    let not_met = if document.options.effort.is_by_chance() {
        " not met N: N random schedules met no race, and cannot exclude one."
    } else {
        ""
    };
    let incomplete = if document.incomplete > 0 {
        " incomplete N: none in N executions, which is as many as were allowed."
    } else {
        ""
    };
    let legend = format!(
        "A fault and N: found, the shortest schedule has N switches; ~N: perhaps there is a shorter one; without a number: \
         it takes no switch. safe N: none in N executions; these are {what}.{not_met}{incomplete} !: not as expected. -: does not apply."
    );
    writeln!(out, "{}", paragraph(&legend, width::columns()))?;
    mistakes(document, out)?;
    steps(document, out)
}

/// The columns side by side, each table as wide as there is room. The first of them says below each line what happens.
fn tables(
    first: &[String],
    columns: &[Vec<(String, Style)>],
    what: &[&str],
    out: &mut dyn Write,
) -> io::Result<()> {
    let width = |column: &[(String, Style)]| column.iter().map(|(cell, _)| cell.len()).max().unwrap_or(0) + 2;
    let names = first.iter().map(String::len).max().unwrap_or(0) + 2;
    let mut rest = columns;
    let mut what = what;
    while !rest.is_empty() {
        let mut room = width::columns().saturating_sub(names);
        let fits = rest.iter().take_while(|column| {
            let fits = width(column) <= room + 2;
            room = room.saturating_sub(width(column));
            fits
        });
        let (now, later) = rest.split_at(fits.count().max(1));
        for number in 0..first.len() {
            write!(out, "{}", first[number])?;
            // Blanks are written before the next cell: none at the end of a line.
            let mut gap = names - first[number].len();
            for column in now {
                let (cell, style) = &column[number];
                if !cell.is_empty() {
                    write!(out, "{:gap$}{style}{cell}{style:#}", "")?;
                    gap = 0;
                }
                gap += width(column) - cell.len();
            }
            writeln!(out)?;
            if let Some(what) = number.checked_sub(1).and_then(|row| what.get(row)) {
                for line in paragraph(what, width::columns() - 2).lines() {
                    writeln!(out, "  {FAINT}{line}{FAINT:#}")?;
                }
            }
        }
        what = &[];
        rest = later;
        if !rest.is_empty() {
            writeln!(out)?;
        }
    }
    Ok(())
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

/// A verdict in colour. It says the same without.
fn style(verdict: &Verdict) -> Style {
    match verdict.verdict {
        Kind::Race => BAD,
        Kind::Safe => GOOD,
        Kind::Incomplete | Kind::NotMet => UNSURE,
        Kind::DoesNotApply => FAINT,
    }
}

/// A verdict in a word or two, and a number.
pub(super) fn cell(verdict: &Verdict) -> String {
    let mark = if verdict.as_expected == Some(false) { "!" } else { "" };
    match (&verdict.race, &verdict.explored) {
        (Some(race), _) => {
            let about = if race.shortest { "" } else { "~" };
            // One processor alone: what the others do is not needed.
            let switches =
                if race.switches > 0 { format!(" {about}{}", race.switches) } else { String::new() };
            format!("{mark}{}{switches}", race.kind)
        }
        (None, Some(explored)) if verdict.verdict == Kind::NotMet => {
            format!("not met {}", short(explored.executions))
        }
        (None, Some(explored)) => {
            let bound = match explored.coverage {
                Coverage::Preemptions(most) => format!(" p{most}"),
                Coverage::Everything | Coverage::Some | Coverage::UpToTheRace => String::new(),
            };
            let word = if verdict.verdict == Kind::Incomplete { "incomplete" } else { "safe" };
            format!("{mark}{word} {}{bound}", short(explored.executions))
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
    let word = |kind: Option<Kind>| match kind {
        Some(Kind::Race) => "a race",
        Some(Kind::Safe) => "safe",
        Some(Kind::Incomplete) => "incomplete",
        Some(Kind::NotMet) => "not met",
        Some(Kind::DoesNotApply) | None => "nothing to find out",
    };
    writeln!(out)?;
    for verdict in document.verdicts.iter().filter(|verdict| verdict.as_expected == Some(false)) {
        let Verdict { scenario, protocol, left_out, expected, verdict, kind, .. } = verdict;
        let (found, expected) = (kind.map_or(word(Some(*verdict)), |kind| kind.name()), word(*expected));
        let without = left_out.map(|step| format!(" without {step}")).unwrap_or_default();
        writeln!(
            out,
            "{BAD}{scenario} under {protocol}{without}: {found}, where {expected} is expected{BAD:#}"
        )?;
    }
    if document.incomplete > 0 {
        let verdicts = counted(document.incomplete as u64, "verdict is", "verdicts are");
        let text = format!("{verdicts} incomplete; --executions N raises the limit");
        writeln!(out, "{UNSURE}{}{UNSURE:#}", paragraph(&text, columns()))?;
    }
    Ok(())
}

fn footer(document: &Document, shard: Shard, out: &mut dyn Write) -> io::Result<()> {
    let found: Vec<_> =
        document.verdicts.iter().filter(|verdict| verdict.verdict != Kind::DoesNotApply).collect();
    let judged = found.iter().filter(|verdict| verdict.as_expected.is_some()).count();
    let verdicts = counted(found.len() as u64, "verdict", "verdicts");
    let known = counted(document.not_met as u64, "known race", "known races");
    let (style, expected) = match (judged, document.unexpected, document.not_met) {
        (_, 1.., _) => (BAD, format!(", {} not as expected", document.unexpected)),
        (0, 0, 0) if document.incomplete > 0 => (UNSURE, ", no expected verdict is recorded".to_owned()),
        (0, 0, 0) => (GOOD, ", no expected verdict is recorded".to_owned()),
        (0, 0, _) => (UNSURE, format!(", {known} not met")),
        (_, 0, 1..) => (UNSURE, format!(", {judged} as expected, {known} not met")),
        (1, 0, 0) if found.len() == 1 => (GOOD, " as expected".to_owned()),
        (_, 0, 0) if judged < found.len() => {
            (GOOD, format!(", {judged} as expected, of the others none is recorded"))
        }
        (_, 0, 0) => (GOOD, ", all as expected".to_owned()),
    };
    let expected = match document.missing.len() {
        0 => expected,
        _ => format!("{expected} so far"),
    };
    let part = if shard == Shard::WHOLE { String::new() } else { format!("shard {shard}: ") };
    let executions = counted(document.executions, "execution", "executions");
    let seconds = document.milliseconds as f64 / 1000.0;
    let threads = counted(u64::from(document.jobs), "thread", "threads");
    let of_parts = match document.parts {
        1 => format!("in {seconds:.1} s, {threads}"),
        parts => format!("in {parts} parts, together {seconds:.1} s, {threads} each at most"),
    };
    let plain = format!("{part}{verdicts}{expected}; {executions} {of_parts}");
    if plain.len() > columns() {
        // The verdicts come last, as ever.
        writeln!(out, "{}", paragraph(&format!("{executions} {of_parts};"), columns()))?;
        return writeln!(out, "{part}{verdicts}{style}{expected}{style:#}");
    }
    writeln!(out, "{part}{verdicts}{style}{expected}{style:#}; {executions} {of_parts}")
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
