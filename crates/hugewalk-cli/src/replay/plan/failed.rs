//! Calls that asked for huge pages and got none: the commonest fault of a setup.

use super::planner::{Actor, Planner};
use super::ranges::Mapping;
use crate::programs::Program;
use crate::trace::Outcome;

/// A call that asked for huge pages and got none.
#[derive(Debug)]
pub struct Failed {
    /// The line of the call.
    pub line: u32,
    /// Who made it.
    pub pid: u32,
    /// The program that did.
    pub program: Program,
    /// The call.
    pub call: &'static str,
    /// What was to be mapped.
    pub backing: String,
    /// How much it asked for, in whole pages; 0 if it asked for none yet.
    pub bytes: u64,
    /// The size of the pages, as a power of two.
    pub shift: u32,
    /// The error.
    pub error: String,
    /// The line on which the process got as much memory of normal pages instead.
    pub went_on: Option<u32>,
}

impl Failed {
    /// The pages it asked for.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.bytes >> self.shift
    }
}

impl Planner {
    /// A huge mapping that failed when it was recorded.
    pub(super) fn mapping_failed(&mut self, mapping: &Mapping, actor: &Actor<'_>) {
        let backing = self.files.file(mapping.file).map(|file| file.name.clone()).unwrap_or_default();
        self.failed(mapping.length, mapping.shift, backing, actor);
    }

    /// A call for so many bytes of huge pages that failed when it was recorded.
    pub(super) fn failed(&mut self, length: u64, shift: u32, backing: String, actor: &Actor<'_>) {
        let Outcome::Failed(error) = actor.outcome else { return };
        let bytes = length.checked_next_multiple_of(1 << shift).unwrap_or(0);
        let call = actor.call();
        // Attaching a segment takes nothing from the pool: its pages were reserved when it was made.
        let may_be_empty_pool = match &**error {
            "ENOMEM" => call != "shmat",
            "ENOSPC" => call == "fallocate",
            _ => false,
        };
        if may_be_empty_pool {
            self.plan.need.failed(shift, bytes >> shift);
        }
        self.missed.insert(actor.thread.space, self.plan.failed.len());
        self.plan.failed.push(Failed {
            line: actor.event.line,
            pid: actor.thread.pid,
            program: self.program(actor.thread.space),
            call,
            backing,
            bytes,
            shift,
            error: error.to_string(),
            went_on: None,
        });
    }

    /// The process got memory of normal pages: is it what it asked huge pages for before?
    pub(super) fn got_normal_pages(&mut self, length: u64, actor: &Actor<'_>) {
        // Most programs never miss anything.
        if self.missed.is_empty() {
            return;
        }
        let Some(&place) = self.missed.get(&actor.thread.space) else { return };
        let Some(failed) = self.plan.failed.get_mut(place) else { return };
        // Programs round a size up to whole huge pages, and may leave room to align it by hand.
        let least = failed.bytes.saturating_sub((1 << failed.shift) - 1).max(1);
        if failed.bytes > 0 && (least..=failed.bytes.saturating_add(2 << failed.shift)).contains(&length) {
            failed.went_on = Some(actor.event.line);
            self.missed.remove(&actor.thread.space);
        }
    }
}
