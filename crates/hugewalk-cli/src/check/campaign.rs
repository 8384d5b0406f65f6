//! Checkpoints: what has been done of a part of a check, in a file that is whole at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::error::CheckError;
use super::outcome::{Options, Outcome};
use super::plan::{Shard, units};
use super::select::Selection;

/// The name of the schema of [`Campaign`].
const SCHEMA: &str = "hugewalk-check-campaign/1";

/// At most so often a checkpoint is written.
const INTERVAL: Duration = Duration::from_millis(500);

/// A part of a check, as far as it is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Campaign {
    schema: String,
    version: String,
    pub(super) options: Options,
    pub(super) shard: Shard,
    /// Units of this part.
    units: usize,
    /// What came of those that are done, by number.
    pub(super) done: BTreeMap<usize, Outcome>,
}

impl Campaign {
    pub(super) fn new(options: Options, shard: Shard, units: usize) -> Self {
        let (schema, version) = (SCHEMA.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        Self { schema, version, options, shard, units, done: BTreeMap::new() }
    }

    /// Reads a checkpoint.
    pub(super) fn read(file: &Path) -> Result<Self, CheckError> {
        let text = fs::read_to_string(file)
            .map_err(|error| CheckError::Unreadable { file: file.to_owned(), error })?;
        let damaged = |why: String| CheckError::NotACheckpoint { file: file.to_owned(), why };
        let read: Self = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
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

    /// Is all that it says it has done a part of it? Of the whole there are so many units.
    fn belongs_to(&self, all: usize, file: &Path) -> Result<(), CheckError> {
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

    fn write(&self, file: &Path) -> io::Result<()> {
        let mut name = file.as_os_str().to_owned();
        name.push(".new");
        let new = PathBuf::from(name);
        // Whoever is killed here leaves the old file or the new one.
        let written = self.write_all(&new).and_then(|()| fs::rename(&new, file));
        if written.is_err() {
            // Half a checkpoint is of no use to anybody; the error at hand is the one to tell.
            let _ = fs::remove_file(&new);
        }
        written
    }

    fn write_all(&self, file: &Path) -> io::Result<()> {
        let mut out = BufWriter::new(fs::File::create(file)?);
        serde_json::to_writer(&mut out, self)?;
        out.write_all(b"\n")?;
        out.into_inner()?.sync_all()
    }
}

/// The file that a campaign is kept in, if it is.
pub(super) struct Keeper {
    file: Option<PathBuf>,
    written: Instant,
}

impl Keeper {
    /// A keeper, and what has been done already.
    /// Of the whole check there are so many units.
    pub(super) fn open(
        file: Option<PathBuf>,
        campaign: &mut Campaign,
        all: usize,
    ) -> Result<Self, CheckError> {
        if let Some(file) = &file {
            if file.exists() {
                let before = Campaign::read(file)?;
                before.agrees_with(campaign, file)?;
                if before.shard != campaign.shard {
                    let (there, here) = (before.shard.to_string(), campaign.shard.to_string());
                    return Err(CheckError::OtherOptions {
                        file: file.clone(),
                        what: "--shard",
                        there,
                        here,
                    });
                }
                before.belongs_to(all, file)?;
                campaign.done = before.done;
            }
            // Now rather than after an hour: can it be written?
            campaign.write(file).map_err(|error| CheckError::Unwritable { file: file.clone(), error })?;
        }
        Ok(Self { file, written: Instant::now() })
    }

    /// A unit is done.
    pub(super) fn advance(&mut self, campaign: &Campaign) -> Result<(), CheckError> {
        let finished = campaign.done.len() == campaign.units;
        match &self.file {
            Some(file) if finished || self.written.elapsed() >= INTERVAL => {
                self.written = Instant::now();
                campaign.write(file).map_err(|error| CheckError::Unwritable { file: file.clone(), error })
            }
            _ => Ok(()),
        }
    }
}

/// Joins the parts of one check.
pub(super) fn merge(files: &[PathBuf]) -> Result<Campaign, CheckError> {
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
            Some(whole) => whole.done.extend(part.done),
        }
    }
    let mut whole = whole.expect("the command line asks for one file at least");
    if let Some(missing) = (1..=whole.shard.of).find(|number| !seen.contains(number)) {
        return Err(CheckError::MissingShard { missing, of: whole.shard.of });
    }
    whole.shard = Shard::WHOLE;
    Ok(whole)
}
