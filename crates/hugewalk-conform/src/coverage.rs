//! What has been seen: by operation, flag and outcome.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::guard::Guard;
use crate::known::Known;
use crate::observe::Outcome;
use crate::program::{Call, Handling, MapFlags, Step, To};

/// How often each outcome of each operation has been seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Coverage {
    /// Steps that were carried out.
    pub steps: u64,
    /// Operation and outcome, seen on both sides.
    pub both: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// Flags and variants of operations.
    pub flags: BTreeMap<String, u64>,
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
        if kernel.class() == engine.class() {
            *self.both.entry(step.operation()).or_default().entry(kernel.class()).or_default() += 1;
        }
        for flag in flags(step) {
            *self.flags.entry(flag).or_default() += 1;
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
}

fn flags(step: &Step) -> Vec<String> {
    let operation = step.operation();
    match step {
        Step::In { call: Call::Map(map), .. } => {
            let file = if map.file.is_some() { "file" } else { "fresh" };
            let shared = if map.flags.contains(MapFlags::SHARED) { "shared" } else { "private" };
            let others = map.flags - MapFlags::SHARED;
            let named = others.iter_names().map(|(name, _)| format!("map {}", name.to_ascii_lowercase()));
            [format!("map {shared} {file}")].into_iter().chain(named).collect()
        }
        Step::In { call: Call::Advise { advice, .. }, .. } => vec![format!("advise {advice}")],
        Step::In { call: Call::Protect { rights, .. }, .. } => vec![format!("protect {rights}")],
        Step::In { call: Call::Remap { to, .. }, .. } => vec![match to {
            To::InPlace => "remap in place".to_owned(),
            To::Anywhere => "remap anywhere".to_owned(),
            To::Fixed(_) => "remap fixed".to_owned(),
        }],
        Step::In { call: Call::Lock { on_fault: true, .. } | Call::LockNew { on_fault: true }, .. } => {
            vec![format!("{operation} onfault")]
        }
        Step::In { call: Call::Bind { policy, .. }, .. } => vec![format!("{operation} {policy}")],
        Step::In { call: Call::Nodes { moved: true, .. }, .. } => vec!["nodes moved".to_owned()],
        Step::In { call: Call::Userfault { handling: Handling::Register { modes, .. }, .. }, .. } => {
            vec![format!("uffd register {modes}")]
        }
        Step::In {
            call: Call::Userfault { handling: Handling::Copy { protected: true, .. }, .. }, ..
        } => {
            vec!["uffd copy wp".to_owned()]
        }
        Step::In { call: Call::Userfault { handler: 1, .. }, .. } => vec![format!("{operation} second")],
        Step::Allocate { keep: true, .. } => vec![format!("{operation} keep")],
        Step::Mount { size, min, .. } => {
            let size = size.map(|_| "mount size".to_owned());
            let min = min.map(|_| "mount min".to_owned());
            size.into_iter().chain(min).collect()
        }
        _ => Vec::new(),
    }
}
