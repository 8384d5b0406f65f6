//! `hugewalk compare`: what changed between two reports of one command, with an exit status for scripts.

pub mod args;
mod bench;
mod check;
mod replay;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::args::Format;
use args::CompareArgs;

/// The version of the JSON of [`Compared`].
const SCHEMA: &str = "hugewalk-compare/1";

/// By how many per cent a case of a bench may differ.
const TOLERANCE: f64 = 5.0;

/// Why two reports cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}; check the name and its permissions", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not JSON.
    #[error("{}:{}: this is not JSON; print the report with --format json", path.display(), source.line())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A file is something else.
    #[error("{}: {found}; check, replay and bench print what can be compared, with --format json", path.display())]
    NoReport {
        /// Which.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// The two are of different commands, or of different versions of one.
    #[error("one is {before}, the other {now}: print both with the same version of one command")]
    Unlike {
        /// The schema of the first.
        before: String,
        /// That of the second.
        now: String,
    },
    /// What changed cannot be written.
    #[error("the comparison cannot be written: {0}")]
    Output(#[source] io::Error),
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Compared {
    schema: &'static str,
    /// Of which command the reports are.
    of: &'static str,
    /// Whether nothing changed that counts.
    equal: bool,
    /// How many figures or verdicts both have, and alike.
    alike: usize,
    /// What changed.
    changes: Vec<Change>,
    /// What has to be known to read it right: a sentence each.
    notes: Vec<String>,
}

/// A verdict or a figure that is not what it was.
#[derive(Debug, PartialEq, Serialize)]
struct Change {
    what: String,
    /// Null if only the second report has it.
    before: Option<String>,
    /// Null if only the first report has it.
    now: Option<String>,
    /// By how much, if that is a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<f64>,
}

/// What a kind of report makes of two of its kind.
#[derive(Default)]
struct Found {
    alike: usize,
    changes: Vec<Change>,
    notes: Vec<String>,
}

impl Found {
    /// Two things of one name, of which one may be missing.
    fn pair<T: PartialEq>(
        &mut self,
        what: &str,
        before: Option<&T>,
        now: Option<&T>,
        text: impl Fn(&T) -> String,
        percent: impl Fn(&T, &T) -> Option<f64>,
    ) {
        if before == now {
            self.alike += 1;
            return;
        }
        let percent = before.zip(now).and_then(|(before, now)| percent(before, now));
        let (before, now) = (before.map(&text), now.map(&text));
        self.changes.push(Change { what: what.to_owned(), before, now, percent });
    }
}

/// How much larger a number became.
fn grown(before: f64, now: f64) -> Option<f64> {
    (before != 0.0).then(|| (now / before - 1.0) * 100.0)
}

/// Compares as the command line says. Is nothing changed that counts?
///
/// # Errors
///
/// [`CompareError`].
pub fn run(args: &CompareArgs, out: &mut Vec<u8>) -> Result<bool, CompareError> {
    let (before, now) = (load(&args.before)?, load(&args.now)?);
    let compared = compared(&before, &now, args.tolerance)?;
    let written = match args.format {
        Format::Text => text(&compared, out),
        Format::Json => serde_json::to_writer_pretty(&mut *out, &compared)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out)),
    };
    written.map_err(CompareError::Output)?;
    Ok(compared.equal)
}

/// Reads a report and its schema.
///
/// # Errors
///
/// If it is none.
pub fn load(path: &Path) -> Result<(String, Value), CompareError> {
    let path = path.to_owned();
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(source) => return Err(CompareError::Unreadable { path, source }),
    };
    let report: Value = match serde_json::from_slice(&bytes) {
        Ok(report) => report,
        Err(source) => return Err(CompareError::Malformed { path, source }),
    };
    match report["schema"].as_str() {
        Some(schema) => Ok((schema.to_owned(), report)),
        None => Err(CompareError::NoReport { path, found: "it has no field `schema`".to_owned() }),
    }
}

/// Says in text what changed since a report of `hugewalk bench`.
///
/// # Errors
///
/// If the report is of something else.
pub fn since(before: &(String, Value), now: Value, out: &mut dyn Write) -> Result<(), CompareError> {
    let schema = now["schema"].as_str().unwrap_or_default().to_owned();
    let compared = compared(before, &(schema, now), TOLERANCE)?;
    text(&compared, out).map_err(CompareError::Output)
}

fn compared(
    (schema, before): &(String, Value),
    (other, now): &(String, Value),
    tolerance: f64,
) -> Result<Compared, CompareError> {
    if schema != other {
        return Err(CompareError::Unlike { before: schema.clone(), now: other.clone() });
    }
    let (of, found) = match schema.split('/').next().unwrap_or_default() {
        "hugewalk-check" => ("check", check::compare(before, now)),
        "hugewalk-replay" => ("replay", replay::compare(before, now)),
        "hugewalk-bench" => ("bench", bench::compare(before, now, tolerance)),
        _ => {
            let found = format!("it is {schema}");
            return Err(CompareError::NoReport { path: PathBuf::from("the reports"), found });
        }
    };
    let Found { alike, changes, notes } = found;
    Ok(Compared { schema: SCHEMA, of, equal: changes.is_empty(), alike, changes, notes })
}

fn text(compared: &Compared, out: &mut dyn Write) -> io::Result<()> {
    let things = if compared.of == "check" { "verdicts" } else { "figures" };
    for change in &compared.changes {
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "not there".to_owned());
        write!(out, "{}: {} -> {}", change.what, side(&change.before), side(&change.now))?;
        match change.percent {
            Some(percent) => writeln!(out, " ({percent:+.1} %)")?,
            None => writeln!(out)?,
        }
    }
    for note in &compared.notes {
        writeln!(out, "Note: {note}")?;
    }
    writeln!(out, "{} {things} changed, {} are alike", compared.changes.len(), compared.alike)
}
