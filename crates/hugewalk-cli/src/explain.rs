//! `hugewalk explain`: what a name of the lab stands for.

use std::io::{self, Write};

use anstyle::Style;
use clap::Args;
use hugewalk_lab::lab::Settings;
use hugewalk_lab::scenario::{self, Expected, Scenario};
use hugewalk_lab::text::paragraph;
use serde::Serialize;

use crate::args::Format;
use crate::check::error::did_you_mean;
use crate::check::glossary;
use crate::width::columns;

/// The name of the schema of [`Explained`].
const SCHEMA: &str = "hugewalk-explain/1";

const HEADING: Style = Style::new().bold();

/// `hugewalk explain`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// A scenario (S9, S9/gup-fast, S10:no-broadcast), a property (I3), a protocol (vma-lock) or a step (revalidate)
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,

    /// How to print it
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub format: Format,
}

/// Why there is nothing to explain.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// Nothing has the name.
    #[error(
        "nothing is called `{name}`{hint} (`hugewalk check --list` names scenarios, protocols and steps; properties are I1 to I{last})"
    )]
    Unknown {
        /// What was asked for.
        name: String,
        /// The nearest name, in words.
        hint: String,
        /// The last property.
        last: usize,
    },
    /// It cannot be written.
    #[error("the text cannot be written: {0}")]
    Output(#[from] io::Error),
}

/// What a name stands for.
#[derive(Debug, Serialize)]
struct Explained {
    /// [`SCHEMA`].
    schema: &'static str,
    /// The version of the command.
    version: &'static str,
    name: String,
    /// `scenario`, `property`, `protocol` or `step`.
    kind: &'static str,
    /// What it is.
    what: String,
    /// What else there is to say: a few words, and what they are about.
    facts: Vec<(String, String)>,
    /// Commands that show it.
    commands: Vec<String>,
}

/// Explains the names, in their order.
///
/// # Errors
///
/// [`ExplainError`], before anything is printed, if nothing has one of the names.
pub fn run(args: &ExplainArgs, out: &mut dyn Write) -> Result<(), ExplainError> {
    let all = args.names.iter().map(|name| explain(name)).collect::<Result<Vec<_>, _>>()?;
    for (number, explained) in all.iter().enumerate() {
        match args.format {
            Format::Json => {
                serde_json::to_writer(&mut *out, explained).map_err(io::Error::from)?;
                writeln!(out)?;
            }
            Format::Text => {
                if number > 0 {
                    writeln!(out)?;
                }
                print(explained, out)?;
            }
        }
    }
    Ok(())
}

fn print(explained: &Explained, out: &mut dyn Write) -> io::Result<()> {
    let name = &explained.name;
    let text = paragraph(&format!("{name}: {}", explained.what), columns());
    writeln!(out, "{HEADING}{name}{HEADING:#}{}", &text[name.len()..])?;
    for (about, what) in &explained.facts {
        writeln!(out)?;
        writeln!(out, "{}", paragraph(&format!("{about}: {what}"), columns()))?;
    }
    writeln!(out)?;
    for command in &explained.commands {
        writeln!(out, "  {command}")?;
    }
    Ok(())
}

fn explain(name: &str) -> Result<Explained, ExplainError> {
    let same = |other: &str| other.eq_ignore_ascii_case(name);
    if let Some(settings) = Settings::ALL.into_iter().find(|settings| same(settings.name)) {
        return Ok(protocol(&settings));
    }
    if let Some(step) = Settings::steps().find(|step| same(step)) {
        return Ok(step_of(step));
    }
    if let Some(&(property, says)) = glossary::PROPERTIES.iter().find(|(property, _)| same(property)) {
        return Ok(property_of(property, says));
    }
    let exact = scenario::all().find(|scenario| same(scenario.id));
    // A line may have scenarios with longer names only.
    let line = name.trim_end_matches("/*");
    match exact.or_else(|| scenario::all().find(|scenario| scenario.line().eq_ignore_ascii_case(line))) {
        Some(scenario) => Ok(scenario_of(scenario)),
        None => {
            let scenarios = scenario::all().map(|scenario| scenario.id);
            let others = Settings::steps().chain(Settings::ALL.iter().map(|settings| settings.name));
            let hint = did_you_mean(name, scenarios.chain(others));
            Err(ExplainError::Unknown { name: name.to_owned(), hint, last: glossary::PROPERTIES.len() })
        }
    }
}

fn new(name: &str, kind: &'static str, what: String) -> Explained {
    let version = env!("CARGO_PKG_VERSION");
    Explained {
        schema: SCHEMA,
        version,
        name: name.to_owned(),
        kind,
        what,
        facts: Vec::new(),
        commands: Vec::new(),
    }
}

fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// The protocols that must have this verdict.
fn under(scenario: &Scenario, verdict: Expected) -> String {
    let fits = |settings: &&Settings| scenario::expected(scenario.id, settings) == Some(verdict);
    listed(Settings::ALL.iter().filter(fits).map(|settings| settings.name))
}

fn scenario_of(scenario: &Scenario) -> Explained {
    let mut told = new(scenario.id, "scenario", format!("{}.", scenario.what));
    let mut fact = |about: &str, what: String| {
        if !what.is_empty() {
            told.facts.push((about.to_owned(), what));
        }
    };
    fact("It has a race under", under(scenario, Expected::Race));
    fact("It is safe under", under(scenario, Expected::Safe));
    let says =
        |of: &str| glossary::PROPERTIES.iter().find(|(name, _)| *name == of).map_or("", |(_, says)| says);
    for property in scenario.judged.iter().map(|property| format!("{property:?}")) {
        fact(&format!("It is judged by {property}"), format!("{}.", says(&property)));
    }
    fact("In Linux", scenario::history(scenario.id).unwrap_or_default());
    let of_line = |other: &&Scenario| other.line() == scenario.line() && other.id != scenario.id;
    for other in scenario::all().filter(of_line) {
        fact(other.id, format!("{}.", other.what));
    }
    let racing = Settings::ALL
        .iter()
        .find(|settings| scenario::expected(scenario.id, settings) == Some(Expected::Race));
    let safe = Settings::ALL
        .iter()
        .rev()
        .find(|settings| scenario::expected(scenario.id, settings) == Some(Expected::Safe));
    told.commands.extend(racing.map(|of| format!("hugewalk check {} --protocol {}", scenario.id, of.name)));
    told.commands
        .extend(safe.map(|of| format!("hugewalk check --show {} --protocol {}", scenario.id, of.name)));
    told
}

fn property_of(name: &'static str, says: &str) -> Explained {
    let mut told = new(name, "property", format!("{says}."));
    let judged = scenario::all()
        .filter(|scenario| scenario.judged.iter().any(|property| format!("{property:?}") == name));
    let judged: Vec<&Scenario> = judged.collect();
    let what = match judged.len() {
        0 => "whatever the scenario".to_owned(),
        _ => listed(judged.iter().map(|scenario| scenario.id)),
    };
    told.facts.push(("Judged in".to_owned(), what));
    told.commands.extend(judged.first().map(|scenario| format!("hugewalk explain {}", scenario.id)));
    told
}

fn protocol(settings: &Settings) -> Explained {
    let mut told = new(settings.name, "protocol", format!("{}.", glossary::protocol(settings)));
    let races = scenario::all().filter(|scenario| {
        scenario.mistake().is_none() && scenario::expected(scenario.id, settings) == Some(Expected::Race)
    });
    let races = listed(races.map(|scenario| scenario.id));
    let races =
        if races.is_empty() { "none, but for mistakes that are made on purpose".to_owned() } else { races };
    told.facts.push(("Races in".to_owned(), races));
    let lacks = listed(Settings::steps().filter(|step| settings.lacks(step)));
    if !lacks.is_empty() {
        told.facts.push(("Steps that it lacks".to_owned(), lacks));
    }
    told.commands.push(format!("hugewalk check --protocol {}", settings.name));
    told
}

fn step_of(step: &'static str) -> Explained {
    let mut told = new(step, "step", format!("{}.", glossary::step(step)));
    let having = Settings::ALL.iter().filter(|settings| settings.has(step));
    told.facts.push(("Protocols that have it".to_owned(), listed(having.map(|settings| settings.name))));
    if let Some((_, id, settings)) = scenario::PROOFS.iter().find(|(name, ..)| *name == step) {
        told.facts.push(("Without it".to_owned(), format!("{id} has a race under {}.", settings.name)));
        told.commands.push(format!("hugewalk check {id} --protocol {} --without {step}", settings.name));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str) -> String {
        let mut out = Vec::new();
        let args = ExplainArgs { names: vec![name.to_owned()], format: Format::Text };
        run(&args, &mut out).expect("a name");
        anstream::adapter::strip_str(&String::from_utf8(out).expect("text")).to_string()
    }

    #[test]
    fn each_sort_of_name_is_explained_with_a_command() {
        for (name, wanted) in [
            (
                "s9",
                [
                    "S9: A is in GUP-fast",
                    "It has a race under: legacy, rfc, rfc-ptl, vma-lock",
                    "CVE-2025-38085",
                ],
            ),
            ("S6", ["S6:sleeping-visitor: ", "It is judged by I10: ", "hugewalk check S6:sleeping-visitor"]),
            ("I3", ["I3: an entry that a walker is told of", "Judged in: ", "hugewalk explain S7"]),
            (
                "VMA-lock",
                [
                    "vma-lock: Linux 6.3: ",
                    "Races in: S9, S9/gup-fast, S10",
                    "Steps that it lacks: revalidate",
                ],
            ),
            (
                "revalidate",
                ["revalidate: after locking", "Protocols that have it: hugewalk", "--without revalidate"],
            ),
        ] {
            let text = said(name);
            for wanted in wanted {
                assert!(text.contains(wanted), "{name}: {wanted}: {text}");
            }
        }
        for scenario in scenario::all() {
            assert!(said(scenario.id).contains("hugewalk check "), "{}", scenario.id);
        }
    }

    #[test]
    fn properties_say_what_the_documentation_says() {
        let lab = include_str!("../../../docs/lab.md");
        let rows: Vec<(&str, &str)> = lab
            .lines()
            .filter_map(|line| line.strip_prefix("| I")?.strip_suffix(" |")?.split_once(" | "))
            .collect();
        let here: Vec<(&str, &str)> =
            glossary::PROPERTIES.iter().map(|(name, says)| (&name[1..], *says)).collect();
        assert_eq!(here, rows);
    }
}
