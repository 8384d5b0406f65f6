//! `hugewalk check status`: how far the parts of a campaign are.

use std::io::{self, Write};

use serde::Serialize;

use super::campaign::Merged;
use crate::report::text::counted;

/// The name of the schema of [`Status`].
const SCHEMA: &str = "hugewalk-check-status/1";

/// How far the parts are.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    schema: &'static str,
    /// The command line that does all of it at once.
    command: String,
    parts: u32,
    files: Vec<Part>,
    /// Parts of which there is no file.
    missing: Vec<String>,
    done: usize,
    units: usize,
    /// Cases in which a race was found.
    races: usize,
    milliseconds: u64,
    /// How long the rest takes on as many machines as there are files with something left to do, as far as can be told.
    milliseconds_left: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Part {
    file: String,
    shard: String,
    done: usize,
    units: usize,
}

impl Status {
    pub(super) fn of(merged: &Merged) -> Self {
        let campaign = &merged.campaign;
        let (done, spent) = (campaign.done.len(), campaign.spent.milliseconds);
        let files: Vec<Part> = merged
            .files
            .iter()
            .map(|(file, part)| Part {
                file: file.display().to_string(),
                shard: part.shard.clone(),
                done: part.done,
                units: part.of,
            })
            .collect();
        let is_there = |shard: &str| files.iter().any(|part| part.shard == shard);
        let missing = merged.missing.iter().map(|part| &part.shard).filter(|shard| !is_there(shard));
        // The part that has most to do ends last; a unit takes as long there as those that are done.
        let most = merged.missing.iter().map(|part| part.of - part.done).max().unwrap_or(0);
        let left = (spent as u128 * most as u128).checked_div(done as u128);
        Self {
            schema: SCHEMA,
            command: campaign.options.command(),
            parts: merged.parts,
            missing: missing.cloned().collect(),
            files,
            done,
            units: merged.units,
            races: campaign.done.values().filter(|outcome| outcome.race.is_some()).count(),
            milliseconds: spent,
            milliseconds_left: left.and_then(|left| u64::try_from(left).ok()),
        }
    }

    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let percent = |done: usize, of: usize| (done * 100).checked_div(of).unwrap_or(100);
        let width = self.files.iter().map(|part| part.file.len()).max().unwrap_or(0);
        writeln!(out, "{}", self.command)?;
        for Part { file, shard, done, units } in &self.files {
            let percent = percent(*done, *units);
            writeln!(out, "{file:width$}  shard {shard}  {done} of {units} units, {percent} %")?;
        }
        if !self.missing.is_empty() {
            let shards = if self.missing.len() == 1 { "shard" } else { "shards" };
            writeln!(out, "no file of {shards} {}", self.missing.join(", "))?;
        }
        let races = counted(self.races as u64, "unit with a race", "units with a race");
        let left = match (self.done == self.units, self.milliseconds_left) {
            (true, _) => "finished".to_owned(),
            (false, Some(left)) => format!("about {} left if all parts run at once", duration(left)),
            (false, None) => "nothing is done".to_owned(),
        };
        let (done, units, percent) = (self.done, self.units, percent(self.done, self.units));
        let spent = duration(self.milliseconds);
        writeln!(out, "{done} of {units} units, {percent} %, in {spent}; {races}; {left}")
    }
}

/// `3 h 20 min`
fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds.div_ceil(1000);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_as_people_tell_them() {
        assert_eq!([1, 119_000, 120_000, 7_200_000].map(duration), ["1 s", "119 s", "2 min", "2 h 0 min"]);
    }
}
