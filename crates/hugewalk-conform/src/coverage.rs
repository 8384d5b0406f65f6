//! What has been seen: by operation, flag and outcome.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::guard::Guard;
use crate::known::Known;
use crate::observe::Outcome;
use crate::program::{Call, FileKind, Handling, MapFlags, Step, To};

/// How often each outcome of each operation has been seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Coverage {
    /// Steps that were carried out.
    pub steps: u64,
    /// Operation and outcome, seen on both sides.
    pub both: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// The same by flag or variant of the operation.
    pub flags: BTreeMap<&'static str, BTreeMap<String, BTreeMap<&'static str, u64>>>,
    /// Tables that a process took up from another.
    pub shared: u64,
    /// Shared tables that a process gave up.
    pub unshared: u64,
    /// Differences that were met and are meant.
    pub known: BTreeMap<&'static str, u64>,
    /// Steps that a guard kept from being carried out.
    pub guarded: BTreeMap<&'static str, u64>,
}

impl Coverage {
    pub(crate) fn step(&mut self, step: &Step, kernel: &Outcome, engine: &Outcome) {
        self.steps += 1;
        let (operation, outcome) = (step.operation(), kernel.class());
        if outcome != engine.class() {
            return;
        }
        *self.both.entry(operation).or_default().entry(outcome).or_default() += 1;
        for flag in flags(step) {
            let seen = self.flags.entry(operation).or_default().entry(flag).or_default();
            *seen.entry(outcome).or_default() += 1;
        }
    }

    pub(crate) fn known(&mut self, known: Option<&'static Known>) {
        if let Some(known) = known {
            *self.known.entry(known.name).or_default() += 1;
        }
    }

    pub(crate) fn guarded(&mut self, guard: Guard) {
        *self.guarded.entry(guard.name()).or_default() += 1;
    }

    /// Pairs of operation and outcome that have been seen on both sides.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.both.values().map(BTreeMap::len).sum()
    }

    /// The same with each flag or variant of an operation for itself.
    #[must_use]
    pub fn pairs_by_flag(&self) -> usize {
        self.flags.values().flat_map(BTreeMap::values).map(BTreeMap::len).sum()
    }
}

/// The flags that a step has, and which of its variants it is.
fn flags(step: &Step) -> Vec<String> {
    let flag = |set: bool, name: &str| set.then(|| name.to_owned());
    match step {
        Step::In { call, .. } => flags_of_call(call),
        Step::Open { kind, .. } => vec![match kind {
            FileKind::Memory => "memory".to_owned(),
            FileKind::On { .. } => "on a mount".to_owned(),
            FileKind::Segment { reserve: true, .. } => "segment".to_owned(),
            FileKind::Segment { reserve: false, .. } => "segment noreserve".to_owned(),
        }],
        Step::Allocate { keep, .. } => flag(*keep, "keep").into_iter().collect(),
        Step::Mount { size, min, .. } => {
            [flag(size.is_some(), "size"), flag(min.is_some(), "min")].into_iter().flatten().collect()
        }
        _ => Vec::new(),
    }
}

fn flags_of_call(call: &Call) -> Vec<String> {
    let flag = |set: bool, name: &str| if set { vec![name.to_owned()] } else { Vec::new() };
    match call {
        Call::Map(map) => {
            let file = if map.file.is_some() { "file" } else { "fresh" };
            let shared = if map.flags.contains(MapFlags::SHARED) { "shared" } else { "private" };
            let others = map.flags - MapFlags::SHARED;
            let named = others.iter_names().map(|(name, _)| name.to_ascii_lowercase().replace('_', ""));
            [format!("{shared} {file}"), map.rights.to_string()].into_iter().chain(named).collect()
        }
        Call::Attach { replace, .. } => flag(*replace, "replace"),
        Call::Advise { advice, .. } => vec![advice.to_string()],
        Call::Protect { rights, .. } => vec![rights.to_string()],
        Call::Remap { to, .. } => vec![match to {
            To::InPlace => "in place".to_owned(),
            To::Anywhere => "anywhere".to_owned(),
            To::Fixed(_) => "fixed".to_owned(),
        }],
        Call::Lock { on_fault, .. } | Call::LockNew { on_fault } => flag(*on_fault, "onfault"),
        Call::Bind { policy, .. } => vec![policy.to_string()],
        Call::Nodes { moved, .. } => flag(*moved, "moved"),
        Call::Scan { written, protect, check, .. } => {
            [flag(*written, "written"), flag(*protect, "protect"), flag(*check, "check")].concat()
        }
        Call::Userfault { handler, handling } => {
            let mut flags = flag(*handler > 0, "second handler");
            match handling {
                Handling::Register { modes, .. } => flags.push(modes.to_string()),
                Handling::Copy { protected, .. } => flags.extend(flag(*protected, "wp")),
                Handling::Open { asynchronous } => flags.extend(flag(*asynchronous, "async")),
                _ => {}
            }
            flags
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Program;

    #[test]
    fn only_what_both_sides_agree_on_counts_and_each_flag_for_itself() {
        let mut coverage = Coverage::default();
        let step = |text: &str| text.parse::<Program>().unwrap().steps[0].clone();
        let (done, refused) = (Outcome::Done, Outcome::Error("EINVAL"));
        let locked = "p0 map fresh at=1g length=1p rights=rw shared fixed noreserve";
        coverage.step(&step(locked), &done, &done);
        coverage.step(&step(locked), &refused, &refused);
        coverage.step(&step(locked), &refused, &done);
        coverage.step(&step("p0 unmap 1g 1p"), &done, &done);
        assert_eq!((coverage.steps, coverage.pairs()), (4, 3));
        let flags: Vec<_> = coverage.flags["map"].keys().map(String::as_str).collect();
        assert_eq!(flags, ["fixed", "noreserve", "rw", "shared fresh"]);
        assert_eq!(coverage.flags["map"]["fixed"], BTreeMap::from([("EINVAL", 1), ("ok", 1)]));
        assert_eq!(coverage.pairs_by_flag(), 8);
    }
}
