//! What has been done of a part of a check, as a checkpoint keeps it, and how parts are joined.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::CheckError;
use super::outcome::{Options, Outcome};
use super::plan::{Shard, units};
use super::select::Selection;

/// The name of the schema of [`Campaign`].
const SCHEMA: &str = "hugewalk-check-campaign/1";

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
        Self::read_from(BufReader::new(File::open(file).map_err(unreadable)?), file)
    }

    /// Reads a checkpoint from where it is open. Not as a whole at first: who names a device gets an error, not all its bytes.
    pub(super) fn read_from(open: impl Read, file: &Path) -> Result<Self, CheckError> {
        let damaged = |why: String| CheckError::NotACheckpoint { file: file.to_owned(), why };
        let read: Self = serde_json::from_reader(open).map_err(|error| match error.io_error_kind() {
            Some(_) => CheckError::Unreadable { file: file.to_owned(), error: io::Error::from(error) },
            None => damaged(error.to_string()),
        })?;
        if read.schema != SCHEMA {
            return Err(damaged(format!("its schema is `{}`, not `{SCHEMA}`", read.schema)));
        }
        if !(1..=read.shard.of).contains(&read.shard.number) {
            return Err(damaged(format!("it is of shard {}", read.shard)));
        }
        // Scenarios of another version are other scenarios, even under the same names.
        let here = env!("CARGO_PKG_VERSION");
        if read.version != here {
            let (there, here) = (read.version, here.to_owned());
            return Err(CheckError::OtherOptions { file: file.to_owned(), what: "version", there, here });
        }
        Ok(read)
    }

    /// Is it the same part?
    pub(super) fn is_same_part(&self, wanted: &Self, file: &Path) -> Result<(), CheckError> {
        if self.shard == wanted.shard {
            return Ok(());
        }
        let (there, here) = (self.shard.to_string(), wanted.shard.to_string());
        Err(CheckError::OtherOptions { file: file.to_owned(), what: "--shard", there, here })
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
        let (mine, other) = (&self.options, &wanted.options);
        let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(" ") };
        let effort = |options: &Options| serde_json::to_string(&options.effort).unwrap_or_default();
        let pairs = [
            ("the scenarios", list(&mine.scenarios), list(&other.scenarios)),
            ("the protocols", list(&mine.protocols), list(&other.protocols)),
            ("--without", list(&mine.without), list(&other.without)),
            ("--freed-at-once", mine.freed_at_once.to_string(), other.freed_at_once.to_string()),
            ("the effort", effort(mine), effort(other)),
        ];
        match pairs.into_iter().find(|(_, there, here)| there != here) {
            Some((what, there, here)) => {
                Err(CheckError::OtherOptions { file: file.to_owned(), what, there, here })
            }
            None => Ok(()),
        }
    }
}

/// Joins the parts of one check. They have spent what they would have one after the other.
pub(super) fn merge(files: &[PathBuf]) -> Result<(Campaign, u32), CheckError> {
    let mut whole: Option<Campaign> = None;
    let mut seen = Vec::new();
    for file in files {
        let part = Campaign::read(file)?;
        let selection = Selection::of(&part.options)
            .map_err(|error| CheckError::NotACheckpoint { file: file.clone(), why: error.to_string() })?;
        part.belongs_to(units(&selection.cases, &part.options.effort).len(), file)?;
        if part.done.len() < part.units {
            let (done, of) = (part.done.len(), part.units);
            return Err(CheckError::Unfinished { file: file.clone(), done, of });
        }
        if let Some(whole) = &whole {
            part.agrees_with(whole, file)?;
            if part.shard.of != whole.shard.of {
                let (there, here) = (format!("N = {}", part.shard.of), whole.shard.of.to_string());
                return Err(CheckError::OtherOptions {
                    file: file.clone(),
                    what: "--shard K/N,",
                    there,
                    here,
                });
            }
        }
        if seen.contains(&part.shard.number) {
            return Err(CheckError::ShardTwice { file: file.clone(), shard: part.shard.to_string() });
        }
        seen.push(part.shard.number);
        match &mut whole {
            None => whole = Some(part),
            Some(whole) => {
                whole.done.extend(part.done);
                whole.spent = whole.spent.and_then(part.spent);
            }
        }
    }
    let mut whole = whole.expect("the command line asks for one file at least");
    if let Some(missing) = (1..=whole.shard.of).find(|number| !seen.contains(number)) {
        return Err(CheckError::MissingShard { missing, of: whole.shard.of });
    }
    let parts = std::mem::replace(&mut whole.shard, Shard::WHOLE).of;
    Ok((whole, parts))
}
