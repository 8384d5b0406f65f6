//! A report as Markdown, for an issue or a page: a table of verdicts, or one run in a block of code.

use std::io::{self, Write};

use hugewalk_lab::story::Story;
use hugewalk_lab::text::{Drawing, draw};

use super::outcome::{Document, Kind, Verdict};
use super::text::cell;

/// Prints a report.
pub(super) fn report(document: &Document, out: &mut dyn Write) -> io::Result<()> {
    match document.only_story() {
        Some((verdict, story)) => {
            run(verdict.scenario, verdict.protocol, what(document, verdict), story, out)?;
        }
        None => table(document, out)?,
    }
    writeln!(out, "\n`{}`", document.command)
}

fn what<'d>(document: &'d Document, verdict: &Verdict) -> &'d str {
    document
        .scenarios
        .iter()
        .find(|scenario| scenario.id == verdict.scenario)
        .map_or("", |scenario| scenario.what)
}

/// Prints one run.
pub(super) fn run(
    scenario: &str,
    protocol: &str,
    what: &str,
    story: &Story,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out, "**{scenario} under {protocol}**: {}\n", escaped(what))?;
    let drawing = Drawing { width: 100, ..Drawing::DIAGRAM };
    write!(out, "```text\n{}```\n", draw(story, &drawing))
}

fn table(document: &Document, out: &mut dyn Write) -> io::Result<()> {
    let protocols: Vec<&str> = document.options.names().collect();
    writeln!(out, "| | what happens | {} |", protocols.join(" | "))?;
    writeln!(out, "|---|---|{}", "---|".repeat(protocols.len()))?;
    for scenario in &document.scenarios {
        let of = |protocol: &&str| {
            let fits = |verdict: &&Verdict| {
                verdict.scenario == scenario.id && verdict.protocol == *protocol && verdict.left_out.is_none()
            };
            document.verdicts.iter().find(fits).map_or_else(String::new, shown)
        };
        let cells: Vec<String> = protocols.iter().map(of).collect();
        writeln!(out, "| {} | {} | {} |", scenario.id, escaped(scenario.what), cells.join(" | "))?;
    }
    let steps: Vec<&Verdict> =
        document.verdicts.iter().filter(|verdict| verdict.left_out.is_some()).collect();
    if !steps.is_empty() {
        writeln!(out, "\n| without | | |\n|---|---|---|")?;
        for verdict in steps {
            let step = verdict.left_out.unwrap_or("");
            writeln!(
                out,
                "| {step} | {} under {} | {} |",
                verdict.scenario,
                verdict.protocol,
                shown(verdict)
            )?;
        }
    }
    Ok(())
}

fn shown(verdict: &Verdict) -> String {
    let text = cell(verdict);
    if verdict.verdict == Kind::Race { format!("**{text}**") } else { text }
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('*', "\\*").replace('_', "\\_")
}
