//! What has been done of a part of a check, as a checkpoint keeps it, and how parts are joined.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::CheckError;
use super::outcome::{Effort, Options, Outcome};
use super::plan::{Shard, units};
use super::select::Selection;

/// The name of the schema of [`Campaign`].
const SCHEMA: &str = "hugewalk-check-campaign/2";

/// How the name begins in every version of it.
const ANY_CAMPAIGN: &str = "hugewalk-check-campaign/";

/// What a check has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Spent {
    /// The time in which processes were at work on it.
    pub(super) milliseconds: u64,
    /// Threads, at most.
    pub(super) jobs: u32,
}

impl Spent {
    /// This, and something else one after the other.
    pub(super) fn and_then(self, other: Self) -> Self {
        Self {
            milliseconds: self.milliseconds.saturating_add(other.milliseconds),
            jobs: self.jobs.max(other.jobs),
        }
    }
}

/// A part of a check, as far as it is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Campaign {
    schema: String,
    version: String,
    pub(super) options: Options,
    pub(super) shard: Shard,
    /// Units of this part.
    pub(super) units: usize,
    pub(super) spent: Spent,
    /// What came of those that are done, by number.
    pub(super) done: BTreeMap<usize, Outcome>,
}

impl Campaign {
    pub(super) fn new(options: Options, shard: Shard, units: usize) -> Self {
        let (schema, version) = (SCHEMA.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        Self { schema, version, options, shard, units, spent: Spent::default(), done: BTreeMap::new() }
    }

    /// Is there nothing left to do?
    pub(super) fn is_finished(&self) -> bool {
        self.done.len() == self.units
    }

    /// Reads a checkpoint.
    fn read(file: &Path) -> Result<Self, CheckError> {
        let unreadable = |error| CheckError::Unreadable { file: file.to_owned(), error };
        if file.as_os_str() == "-" {
            return Self::read_from(io::stdin().lock(), file);
        }
        Self::read_from(BufReader::new(File::open(file).map_err(unreadable)?), file)
    }

    /// Reads a checkpoint from where it is open. Not as a whole at first: who names a device gets an error, not all its bytes.
    pub(super) fn read_from(open: impl Read, file: &Path) -> Result<Self, CheckError> {
        let damaged = |why: String| CheckError::NotACheckpoint { file: file.to_owned(), why };
        let read: Value = serde_json::from_reader(open).map_err(|error| match error.io_error_kind() {
            Some(_) => CheckError::Unreadable { file: file.to_owned(), error: io::Error::from(error) },
            None => damaged(error.to_string()),
        })?;
        // What it is comes first: of another document nobody wants to know which field it lacks.
        match read.get("schema").and_then(Value::as_str) {
            Some(SCHEMA) => {}
            Some(other) if other.starts_with("hugewalk-") && !other.starts_with(ANY_CAMPAIGN) => {
                return Err(CheckError::AnotherDocument { file: file.to_owned(), schema: other.to_owned() });
            }
            Some(other) => return Err(damaged(format!("its schema is `{other}`, not `{SCHEMA}`"))),
            None => return Err(damaged("it has no schema".to_owned())),
        }
        let read: Self = serde_json::from_value(read).map_err(|error| damaged(error.to_string()))?;
        if !(1..=read.shard.of).contains(&read.shard.number) {
            return Err(damaged(format!("it is of shard {}", read.shard)));
        }
        // Scenarios of another version are other scenarios, even under the same names.
        let here = env!("CARGO_PKG_VERSION");
        if read.version != here {
            return Err(CheckError::OtherVersion { file: file.to_owned(), there: read.version });
        }
        Ok(read)
    }

    /// Is it the same part?
    pub(super) fn is_same_part(&self, wanted: &Self, file: &Path) -> Result<(), CheckError> {
        if self.shard == wanted.shard {
            return Ok(());
        }
        let differs = format!("--shard {}, not {}", self.shard, wanted.shard);
        Err(CheckError::OtherOptions { file: file.to_owned(), differs })
    }

    /// Is all that it says it has done a part of it? Of the whole there are so many units.
    pub(super) fn belongs_to(&self, all: usize, file: &Path) -> Result<(), CheckError> {
        let damaged = |why: String| Err(CheckError::NotACheckpoint { file: file.to_owned(), why });
        let mine: BTreeSet<usize> = self.shard.of_units(all).collect();
        if self.units != mine.len() {
            return damaged(format!(
                "it counts {} units, and shard {} has {}",
                self.units,
                self.shard,
                mine.len()
            ));
        }
        match self.done.keys().find(|number| !mine.contains(number)) {
            Some(stray) => damaged(format!("it has unit {stray}, which is none of shard {}", self.shard)),
            None => Ok(()),
        }
    }

    /// Is the other one a part of the same check?
    pub(super) fn agrees_with(&self, wanted: &Self, file: &Path) -> Result<(), CheckError> {
        let (mine, other) = (words(&self.options), words(&wanted.options));
        let differs = mine.iter().find_map(|(what, there)| {
            let here = other.iter().find(|(name, _)| name == what).map_or("", |(_, here)| here);
            let or_none =
                |value: &str| if value.is_empty() { format!("no {what}") } else { format!("{what} {value}") };
            match (&**there, here) {
                (there, here) if there == here => None,
                (there, here) if there.is_empty() || here.is_empty() => {
                    Some(format!("{}, not {}", or_none(there), or_none(here)))
                }
                (there, here) => Some(format!("{what} {there}, not {here}")),
            }
        });
        match differs {
            Some(differs) => Err(CheckError::OtherOptions { file: file.to_owned(), differs }),
            None => Ok(()),
        }
    }
}

/// The options, each under its name on the command line; empty if it was not given. All lists have the same names.
fn words(options: &Options) -> Vec<(&'static str, String)> {
    let list = |names: &[String]| names.join(" ");
    let (mut preemptions, mut most) = (String::new(), String::new());
    let (mut random, mut pct, mut changes, mut seed) = Default::default();
    match options.effort {
        Effort::Exhaustive { preemptions: bound, unbounded, executions } => {
            if !unbounded {
                preemptions = bound.to_string();
            }
            most = executions.to_string();
        }
        Effort::Random { runs, seed: from } => (random, seed) = (runs.to_string(), from.to_string()),
        Effort::Pct { runs, changes: places, seed: from } => {
            (pct, changes, seed) = (runs.to_string(), places.to_string(), from.to_string());
        }
    }
    vec![
        ("the scenarios", list(&options.scenarios)),
        ("the protocols", list(&options.protocols)),
        ("--without", list(&options.without)),
        ("--with", list(&options.with)),
        ("--freed-at-once", if options.freed_at_once { "given" } else { "" }.to_owned()),
        ("--random", random),
        ("--pct", pct),
        ("--changes", changes),
        ("--seed", seed),
        ("--preemptions", preemptions),
        ("--executions", most),
    ]
}

/// A part of a campaign that is not done, or not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Which part: `3/16`.
    pub shard: String,
    /// Units that are done.
    pub done: usize,
    /// Units there are.
    pub of: usize,
}

/// How far the parts of one check are that these files hold: what is done of all of them, and for each of the others what is
/// missing. They have spent what they would have one after the other.
pub(super) struct Merged {
    pub(super) campaign: Campaign,
    pub(super) parts: u32,
    pub(super) missing: Vec<Missing>,
    /// Each file, with its part and how far it is.
    pub(super) files: Vec<(PathBuf, Missing)>,
    pub(super) units: usize,
}

/// Joins the parts of one check, as far as they are done.
pub(super) fn merge(files: &[PathBuf]) -> Result<Merged, CheckError> {
    let mut whole: Option<Campaign> = None;
    let mut parts: Vec<(PathBuf, u32, Missing)> = Vec::new();
    let mut all = 0;
    if files.iter().filter(|file| file.as_os_str() == "-").count() > 1 {
        return Err(CheckError::StandardInputTwice);
    }
    for file in files {
        let part = Campaign::read(file)?;
        let selection = Selection::of(&part.options)
            .map_err(|error| CheckError::NotACheckpoint { file: file.clone(), why: error.to_string() })?;
        all = units(&selection.cases, &part.options.effort).len();
        part.belongs_to(all, file)?;
        if let Some(whole) = &whole {
            part.agrees_with(whole, file)?;
            if part.shard.of != whole.shard.of {
                let differs = format!("--shard K/{}, not K/{}", part.shard.of, whole.shard.of);
                return Err(CheckError::OtherOptions { file: file.clone(), differs });
            }
        }
        if parts.iter().any(|(_, number, _)| *number == part.shard.number) {
            return Err(CheckError::ShardTwice { file: file.clone(), shard: part.shard.to_string() });
        }
        let told = Missing { shard: part.shard.to_string(), done: part.done.len(), of: part.units };
        parts.push((file.clone(), part.shard.number, told));
        match &mut whole {
            None => whole = Some(part),
            Some(whole) => {
                whole.done.extend(part.done);
                whole.spent = whole.spent.and_then(part.spent);
            }
        }
    }
    let mut campaign = whole.expect("the command line asks for one file at least");
    let of = std::mem::replace(&mut campaign.shard, Shard::WHOLE).of;
    campaign.units = all;
    let missing = (1..=of).filter_map(|number| {
        let Some((_, _, told)) = parts.iter().find(|part| part.1 == number) else {
            let shard = Shard { number, of };
            return Some(Missing { shard: shard.to_string(), done: 0, of: shard.of_units(all).count() });
        };
        (told.done < told.of).then(|| told.clone())
    });
    let missing = missing.filter(|part| part.of > 0).collect();
    let files = parts.into_iter().map(|(file, _, told)| (file, told)).collect();
    Ok(Merged { campaign, parts: of, missing, files, units: all })
}
